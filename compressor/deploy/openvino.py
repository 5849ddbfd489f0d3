"""The format `openvino`: an intermediate representation made from ONNX."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

from compressor.contracts import Artifact, Dialect, Format, Task


class OpenVinoIr(Format):
    """OpenVINO's intermediate representation, converted from ONNX, weights as they are."""

    name: ClassVar[str] = "openvino"
    above: ClassVar[str] = "onnx"
    requires: ClassVar[tuple[str, ...]] = ("openvino",)

    def lower(self, artifact: Artifact, out: Path, *, task: Task, dialect: Dialect) -> None:  # noqa: ARG002 - one form for all formats
        """Convert; weights stay in float32."""
        from compressor.deploy.telemetry import silence

        silence()
        import openvino

        for path in sorted(artifact.path.glob("*.onnx")):
            save_representation(openvino.convert_model(str(path)), out / f"{path.stem}.xml")


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
