"""Joint distillation and pruning by gates that are learned."""
