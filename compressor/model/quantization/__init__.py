"""Simulated quantisation: grids as data, the rounding on them with its gradients, layers that compute by them, and the edit that puts them in."""
