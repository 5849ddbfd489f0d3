"""What is timed: files made here and those of other tools, each a target of its own, opened by the same measuring process."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, get_args

from pydantic import Field

from compressor.contracts import Artifact, Dialect, Feed, Missing, Target, registry
from compressor.contracts.target import Rewrite
from compressor.errors import SourceError

OnnxRuntime: Any = registry.load("target", "onnxruntime")
OpenVino: Any = registry.load("target", "openvino")
FREEZING = "TORCHINDUCTOR_FREEZING"
NUMBERS_ALONE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Has torch read by `weights_only` where a caller within it asks for more."""
PLAIN = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+|models/\w+\.json|data/sample_inputs/\w+\.pt"
    r"|data/(weights|constants)/(\w+_config\.json|(weight|tensor)_\d+))"
)
"""Members of an archive that are numbers, tensors or a graph in JSON."""
ALL: tuple[Rewrite, ...] = get_args(Rewrite)


class OnnxAsIs(OnnxRuntime):  # type: ignore[misc] # found by its entry point
    """A graph of another tool, in ONNX Runtime with all its optimisations."""

    dialect: ClassVar[Dialect] = replace(OnnxRuntime.dialect, leaves=ALL)


class OpenVinoAsIs(OpenVino):  # type: ignore[misc] # found by its entry point
    """A representation of another tool, in OpenVINO compiled as those made here are."""

    dialect: ClassVar[Dialect] = replace(OpenVino.dialect, leaves=ALL)


class Torch(Target):
    """A model folder that transformers opens, run by torch."""

    dialect: ClassVar[Dialect] = Dialect(format="torch")
    file: ClassVar[str] = "model.safetensors"

    packages: tuple[str, ...] = Field(default=(), description="Folders of packages that are searched after those installed.")

    def missing(self) -> Missing:
        """Nothing: what makes the files has told."""
        return Missing()

    def environment(self) -> dict[str, str]:
        """Weights are constants of compiled code, which its guide for processors advises."""
        return {FREEZING: "1"}

    def build(self, source: Artifact, out: Path, **_: object) -> None:
        """Copy what its makers wrote."""
        shutil.copytree(source.path, out, dirs_exist_ok=True)

    def open(self, built: Path) -> _TorchSession:
        """Load."""
        import torch

        sys.path.extend(each for each in self.packages if each not in sys.path)
        torch.set_num_threads(self.threads)
        module = self.module(built)
        return _TorchSession(module, self.threads)

    def module(self, built: Path) -> Callable[..., Any]:
        """What is called with the inputs by name."""
        from benchmarks.studies.peers.makers import loaded, logits_of

        found: Callable[..., Any] = logits_of(loaded(built))
        return found


class TorchCompiled(Torch):
    """By `torch.compile`."""

    compiles: bool = Field(default=True, description="False to run the same functions uncompiled.")

    def open(self, built: Path) -> _TorchSession:
        """Code is made at the first call of each shape."""
        import torch

        opened = super().open(built)
        return _TorchSession(torch.compile(opened.function), self.threads) if self.compiles else opened


class TorchAo(TorchCompiled):
    """Quantised by torchao, and compiled."""

    file: ClassVar[str] = "model.pt"

    def module(self, built: Path) -> Callable[..., Any]:
        """With the weights of the file."""
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification

        from benchmarks.studies.peers.makers import by_torchao, logits_of

        with torch.random.fork_rng():
            fresh = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(built))  # type: ignore[no-untyped-call]
            module = by_torchao(fresh.eval())
        module.load_state_dict(torch.load(built / self.file, weights_only=True), assign=True)
        found: Callable[..., Any] = logits_of(module)
        return found


class TorchProgram(TorchCompiled):
    """A quantised program of `torch.export`, compiled."""

    file: ClassVar[str] = "model.pt2"

    def module(self, built: Path) -> Callable[..., Any]:
        """Of the file."""
        import torchao.quantization.pt2e  # noqa: F401 - its operators are in the file

        program: Callable[..., Any] = program_in(built / self.file).module()
        return program


def program_in(path: Path) -> Any:
    """An exported program of which numbers and a graph are read alone: torch reads what else an archive holds by pickle, or as machine code.

    Raises:
        SourceError: there is something else.
        pickle.UnpicklingError: what should be numbers is not.
    """
    import torch

    with zipfile.ZipFile(path) as archive:
        if other := next((name for name in archive.namelist() if not PLAIN.fullmatch(name)), None):
            raise SourceError(f"{path} holds {other}, which is neither numbers nor a graph: it could run code when it is read")
    before = os.environ.get(NUMBERS_ALONE)
    os.environ[NUMBERS_ALONE] = "1"
    try:
        return torch.export.load(path)
    finally:
        os.environ.pop(NUMBERS_ALONE)
        os.environ |= {} if before is None else {NUMBERS_ALONE: before}


class _TorchSession:
    """A function of tensors as a session of one graph without state."""

    def __init__(self, function: Callable[..., Any], threads: int) -> None:
        self.function, self._threads = function, threads

    def run(self, feed: Feed, *, graph: str = "model", state: object | None = None) -> tuple[Feed, object | None]:  # noqa: ARG002 - there is one
        """Logits, in float32."""
        import torch

        from benchmarks.studies.peers.makers import INPUTS

        with torch.no_grad():
            logits = self.function(*(torch.from_numpy(feed[name]) for name in INPUTS))
        return {"logits": logits.float().numpy()}, None

    def cut(self, state: Any, length: int, *, graph: str = "model") -> object:  # noqa: ARG002 - as sessions have it
        """There is no state.

        Raises:
            ValueError: always.
        """
        raise ValueError("a classifier keeps nothing between calls")

    def facts(self) -> dict[str, str]:
        """Threads."""
        return {"device": "cpu", "threads": str(self._threads)}


# ------------------------------------------------------------------ who is compared


@dataclass(frozen=True)
class Form:
    """One file, or one model, with what runs it."""

    name: str
    made_by: str
    runs_in: str
    numbers: str
    kind: type[Target]
    maker: str = ""
    """In `makers.py`; empty for what is made here."""
    environment: str = ""
    settings: tuple[tuple[str, str], ...] = ()
    """Of the target."""

    @property
    def ours(self) -> bool:
        """Whether it is made here."""
        return not self.maker


ORT, OV, TORCH = "ONNX Runtime", "OpenVINO", "torch"
HERE, BF16 = "here", "int8, else bf16"
OURS = Form("ours-openvino", HERE, OV, "int8", OpenVino)
OURS_ORT = Form("ours-onnxruntime", HERE, ORT, "int8", OnnxRuntime)
NNCF = Form("nncf", "NNCF", OV, "int8", OpenVinoAsIs, "nncf-static")
REFERENCE = Form("torch", "transformers", TORCH, "fp32", Torch, "folder")
DEFAULT = (("precision", "default"),)
OURS_BF16 = Form("ours-openvino-bf16", HERE, OV, BF16, OpenVino, settings=DEFAULT)
NNCF_BF16 = Form("nncf-bf16", "NNCF", OV, BF16, OpenVinoAsIs, "nncf-static", settings=DEFAULT)
FORMS: tuple[Form, ...] = (
    OURS,
    OURS_ORT,
    OURS_BF16,
    Form("ours-openvino-fp32", HERE, OV, "fp32", OpenVino),
    Form("ours-onnxruntime-fp32", HERE, ORT, "fp32", OnnxRuntime),
    NNCF,
    NNCF_BF16,
    Form("openvino-fp32", "OpenVINO", OV, "fp32", OpenVinoAsIs, "openvino-conversion"),
    Form("onnxruntime-static", "ONNX Runtime, static", ORT, "int8", OnnxAsIs, "onnxruntime-static"),
    Form("onnxruntime-dynamic", "ONNX Runtime, dynamic", ORT, "int8", OnnxAsIs, "onnxruntime-dynamic"),
    Form("onnxruntime-fp32", "torch's exporter", ORT, "fp32", OnnxAsIs, "onnx-export"),
    Form("optimum-static", "optimum-onnx, static", ORT, "int8", OnnxAsIs, "optimum-static", "optimum"),
    Form("optimum-dynamic", "optimum-onnx, dynamic", ORT, "int8", OnnxAsIs, "optimum-dynamic", "optimum"),
    Form(
        "neural-compressor", "Neural Compressor, ONNX", ORT, "int8", OnnxAsIs, "neural-compressor-onnx", "neural-compressor-onnx"
    ),
    Form(
        "neural-compressor-torch",
        "Neural Compressor, torch",
        "torch.compile",
        "int8",
        TorchProgram,
        "neural-compressor-torch",
        "torch",
    ),
    Form("torchao", "torchao", "torch.compile", "int8", TorchAo, "torchao-dynamic", "torch"),
    Form("torch-compile", "transformers", "torch.compile", "fp32", TorchCompiled, "folder"),
    REFERENCE,
)
QUICK = tuple(each for each in FORMS if each.name in ("ours-openvino", "ours-onnxruntime", "nncf", "torch"))
"""No environments, nothing that compiles."""


def rival_of(form: Form) -> Form:
    """What is made here in int8 for the same runtime; for torch, which runs none of our int8 files, the one in OpenVINO."""
    return OURS_ORT if form.runs_in == ORT else OURS
