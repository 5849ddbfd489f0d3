"""Stored results: put in place whole or not at all, found by everything that can change them."""

from compressor.store.store import Store

__all__ = ["Store"]
