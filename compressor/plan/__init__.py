"""A plan: read, checked whole, bound to the plug-ins that it names."""
