"""Scripts that remake the pages under docs/results."""
