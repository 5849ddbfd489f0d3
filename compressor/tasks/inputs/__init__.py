"""What a user has becomes inputs of a model: one module for each kind, run by training and scoring, shipped word for word by exports.

The modules here import numpy and what reads their kind of file, and nothing of this project.
"""
