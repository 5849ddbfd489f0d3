"""Distillation of a student that computes with quantised weights and activations while it learns."""
