"""Distillation losses, found by name."""
