"""A module that imports more than a plan's check may."""

import onnx

from compressor.contracts import Pass


class IsHeavy(Pass):
    """Imports onnx with its module."""

    paper = "none"

    def apply(self, model, ctx):
        assert onnx
        return model
