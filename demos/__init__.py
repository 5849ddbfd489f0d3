"""Demos: a compressed model beside its source, in a browser, on one's own input."""
