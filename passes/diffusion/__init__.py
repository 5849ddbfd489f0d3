"""Passes on models that draw from noise."""
