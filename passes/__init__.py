"""What a plan does to a model, one module a pass."""
