"""From a stored model to a built file that a fresh process opens and times."""
