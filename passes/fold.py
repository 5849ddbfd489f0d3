"""Constant folding and graph clean-up of an ONNX graph."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, ClassVar

from compressor.contracts import Artifact, Context, Pass
from passes.side_files import carry_side_files

if TYPE_CHECKING:
    import onnx


class Fold(Pass):
    """Fold constants and remove what the outputs do not need, by onnxscript's optimiser."""

    accepts: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript")
    paper: ClassVar[str] = "ONNX Script, onnxscript.optimizer: constant folding and removal of unused nodes"

    def apply(self, model: Artifact, ctx: Context) -> Artifact:
        """Optimise, and note the operators before and after."""
        import onnx
        from onnxscript import optimizer

        from compressor.contracts.notes import Table
        from compressor.deploy.onnx import strip

        before = onnx.load(model.path / "model.onnx")
        after = optimizer.optimize(before)
        strip(after)
        out = ctx.folder / "folded"
        out.mkdir(parents=True, exist_ok=True)
        onnx.save(after, out / "model.onnx")
        counts = _operators(before), _operators(after)
        rows = tuple((name, counts[0][name], counts[1][name]) for name in sorted(counts[0] | counts[1]))
        ctx.note(
            Table(
                title="Operators",
                columns=("operator", "before", "after"),
                rows=(("all", counts[0].total(), counts[1].total()), *rows),
            )
        )
        return Artifact(model.format, carry_side_files(model.path, out))


def _operators(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)
