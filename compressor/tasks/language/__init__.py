"""Language models that tell each token from those before it."""
