"""A target that is built for workloads and keeps its builds, and a format that reads more of a dialect than the opset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import ClassVar

from compressor.contracts import Dialect, Format, Missing, Target
from targets.onnxruntime import OnnxRuntime

SIGNS = "activations.json"


class SignedOnnx(Format):
    """The graph, with the signedness of activations noted beside it."""

    name = "signed-onnx"
    above = "onnx"
    reads = ("activations",)

    def lower(self, artifact, out, *, task, dialect):
        shutil.copyfile(artifact.path / "model.onnx", out / "model.onnx")
        (out / SIGNS).write_text(json.dumps(dialect.activations))


class GreedyOnnx(SignedOnnx):
    """Reads what it does not say that it reads."""

    name = "greedy-onnx"
    reads = ("opset",)


class Signed(OnnxRuntime):
    """Takes signed activations."""

    dialect: ClassVar[Dialect] = Dialect("signed-onnx", activations="signed")


class Unsigned(OnnxRuntime):
    """Takes unsigned ones."""

    dialect: ClassVar[Dialect] = Dialect("signed-onnx", activations="unsigned")


class Shaped(Target):
    """Writes for which shapes it was built, counts its builds in a file named by its parameters, and runs as ONNX Runtime does."""

    dialect: ClassVar[Dialect] = Dialect("onnxruntime")
    file: ClassVar[str] = "model.onnx"
    keeps_builds: ClassVar[bool] = True

    builds: str
    """File that each build adds a line to."""
    effort: int = 1

    def missing(self):
        return Missing()

    def build(self, source, out, *, graphs, workloads):
        shapes = [[each.kind, each.batch, each.length] for each in workloads]
        (out / "shapes.json").write_text(json.dumps({"graphs": [graph.name for graph in graphs], "shapes": shapes}))
        shutil.copyfile(source.path / "model.onnx", out / self.file)
        with Path(self.builds).open("a") as file:
            file.write(f"{shapes}\n")

    def open(self, built):
        return OnnxRuntime().open(built)


class ShapedHere(Shaped):
    """Its builds are for the machine that made them."""

    builds_for_machine: ClassVar[bool] = True
