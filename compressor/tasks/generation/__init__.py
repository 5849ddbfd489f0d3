"""What tasks share that draw rows from noise: processes, samplers as tables, and scores of what was drawn."""
