"""Plug-ins for compressor, found by the entry points in pyproject.toml."""
