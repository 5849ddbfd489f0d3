"""What a page needs to set two models side by side: this room knows nothing of the project, so that hosted demos are made of it."""
