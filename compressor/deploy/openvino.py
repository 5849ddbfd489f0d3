"""The format `openvino`: an intermediate representation made from ONNX."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from compressor.contracts import Artifact, Dialect, Format, Task
from compressor.deploy.masks import once_for_all_queries

if TYPE_CHECKING:
    from compressor.contracts.target import Rewrite

Found = TypeVar("Found")


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


@cache
def core() -> Any:
    """OpenVINO's core, one in a process and never let go."""
    from compressor.deploy.telemetry import silence

    silence()
    import openvino

    def made() -> Any:
        found = openvino.Core()
        found.get_property("CPU", "FULL_DEVICE_NAME")  # it loads its plugin when it is first asked about a device
        return found

    return in_thread(made)


def in_thread(work: Callable[[], Found]) -> Found:
    """Call `work()` in a new thread, wherever it or what it calls may make a core of OpenVINO's.

    A core's plugin gives the thread that loads it a stack for signals. When it goes it unmaps that stack and gives back the one before:
    where another thread lets it go, or an earlier core went first, that thread is left a stack that is no memory, and the next signal
    that Python handles ends the process. Libraries such as NNCF make cores and let them go as they please. A thread that has ended
    handles no signals.
    """
    found: list[Found] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            found.append(work())
        except BaseException as error:  # raised again where it is waited for
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)  # an interruption does not wait for it
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return found[0]


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
