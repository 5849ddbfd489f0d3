"""One-shot structured pruning."""
