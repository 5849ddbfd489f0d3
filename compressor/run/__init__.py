"""One run of a plan, and what is reported of it before and after."""
