"""The format `openvino`: an intermediate representation made from ONNX."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.contracts import Artifact, Dialect, Format, Task
from compressor.deploy.masks import once_for_all_queries

if TYPE_CHECKING:
    from compressor.contracts.target import Rewrite


class OpenVinoIr(Format):
    """OpenVINO's intermediate representation, converted from ONNX, weights as they are."""

    name: ClassVar[str] = "openvino"
    above: ClassVar[str] = "onnx"
    version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("openvino", "onnx-ir")
    reads: ClassVar[tuple[str, ...]] = ("leaves",)

    def lower(self, artifact: Artifact, out: Path, *, task: Task, dialect: Dialect) -> None:  # noqa: ARG002 - one form for all tasks
        """Convert; weights stay in float32."""
        from compressor.deploy.telemetry import silence

        silence()
        import openvino

        for path in sorted(artifact.path.glob("*.onnx")):
            with _narrowed(path, leaves=dialect.leaves) as graph:
                save_representation(openvino.convert_model(str(graph)), out / f"{path.stem}.xml")


@contextmanager
def _narrowed(path: Path, *, leaves: Collection[Rewrite]) -> Iterator[Path]:
    """The graph with masks of padding that say once for all queries what they say; the file itself where there are none."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model = ir.load(path)
    if "keys of padding" in leaves or not once_for_all_queries(model):
        yield path
        return
    RemoveUnusedNodesPass()(model)
    with tempfile.TemporaryDirectory(prefix="compressor-narrowed-") as folder:
        ir.save(model, Path(folder) / path.name, external_data=f"{path.name}.data")
        yield Path(folder) / path.name


def save_representation(model: Any, path: Path) -> None:
    """Write an OpenVINO model, weights as they are.

    Nodes that OpenVINO named itself by counting up through the process are counted anew, so that equal models give equal bytes.
    """
    import openvino

    named = model.clone()
    for number, node in enumerate(named.get_ordered_ops()):
        if counted := re.fullmatch(r"([A-Z][A-Za-z0-9]*)_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{counted[1]}_{number}")
    openvino.save_model(named, str(path), compress_to_fp16=False)
