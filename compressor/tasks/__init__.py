"""Tasks: each loads, feeds, trains and scores one kind of model."""
