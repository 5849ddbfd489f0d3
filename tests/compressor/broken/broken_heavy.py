"""A module that imports more than a plan's check may."""

import torch

from compressor.contracts import Pass


class IsHeavy(Pass):
    """Imports torch with its module."""

    paper = "none"

    def apply(self, model, ctx):
        assert torch
        return model
