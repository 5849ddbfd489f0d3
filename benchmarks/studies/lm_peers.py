"""What existing tools make of a language model, as targets that are scored and timed beside ours.

ONNX Runtime GenAI's own model builder writes a graph in float32, or with `MatMulNBits` of 4 bits, and its own engine runs it; NNCF brings
the weights of OpenVINO's representation to 8 bits, and OpenVINO runs it as it does by itself.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from compressor.contracts import Artifact, Dialect, Feed, Missing, Session, Target, registry
from compressor.deploy.bench import QUIET
from compressor.deploy.build import beside
from compressor.deploy.graphs import describe
from compressor.deploy.openvino import core
from compressor.tasks.language.cache import IDS, KEPT, LOGITS, MASK
from compressor.tasks.language.causal_lm import CausalLM

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROOM = 1024
"""Tokens that a text may have."""
FOUR_BITS = ("accuracy_level=4", "block_size=32")
"""Activations in 8 bits, which is the fast way on a processor."""


class GenAi(Target):
    """A folder of ONNX Runtime GenAI's model builder, run by its engine."""

    dialect: ClassVar[Dialect] = Dialect(format="onnx", precisions=("fp32", "int4"))
    file: ClassVar[str] = "model.onnx"
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime_genai",)

    threads: int = Field(default=1, ge=1, le=256)

    def missing(self) -> Missing:
        """Nothing: the study needs its package."""
        return Missing()

    def build(self, source: Artifact, out: Path, **_: object) -> None:
        """Copy the folder."""
        shutil.copytree(source.path, out, dirs_exist_ok=True)

    def layer_bytes(self, built: Path) -> dict[str, int]:
        """Of the constants of the graph: those that are only looked up row by row, and all others."""
        import onnx

        graph = onnx.load(built / self.file, load_external_data=False).graph
        looked = {node.input[0] for node in graph.node if node.op_type.startswith("Gather")}
        looked -= {
            name for node in graph.node for at, name in enumerate(node.input) if at or not node.op_type.startswith("Gather")
        }
        found = dict.fromkeys(("embeddings", "head and layers"), 0)
        for each in graph.initializer:
            size = math.prod(each.dims) * onnx.helper.tensor_dtype_to_np_dtype(each.data_type).itemsize
            found["embeddings" if each.name in looked else "head and layers"] += size
        return found

    def open(self, built: Path) -> Session:
        """Load it with so many threads."""
        import onnxruntime_genai

        config = onnxruntime_genai.Config(str(built))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": self.threads}}}}))
        return _GenAiSession(onnxruntime_genai.Model(config), self.threads)


class _GenAiSession:
    """A state is a generator for each row, with the number of tokens that it had read."""

    def __init__(self, model: Any, threads: int) -> None:
        self._model, self._threads = model, threads

    def run(self, feed: Feed, *, graph: str = "model", state: Any = None) -> tuple[Feed, object | None]:  # noqa: ARG002 - there is one
        """Row by row; padding, which may lie behind a text alone, is not read."""
        import numpy as np

        ids, places = feed[IDS], feed[KEPT]
        mask = feed[MASK][:, -ids.shape[1] :] != 0
        rows = state or tuple((self._generator(), 0) for _ in ids)
        found, after = [], []
        for (generator, length), tokens, text in zip(rows, ids, mask, strict=True):
            if generator.token_count() > length:
                generator.rewind_to(length)
            found.append(self._logits(generator, tokens[text], places % len(tokens)))
            after.append((generator, length + int(text.sum())))
        width = max(each.shape[-1] for each in found)
        return {LOGITS: np.stack([each if each.shape[-1] else np.zeros((len(places), width), "f4") for each in found])}, tuple(
            after
        )

    def cut(self, state: Any, length: int, *, graph: str = "model") -> object:  # noqa: ARG002 - there is one
        """The same generators, which are turned back when they are next used."""
        return tuple((generator, length) for generator, _ in state)

    def facts(self) -> dict[str, str]:
        """Threads; the precision is the builder's."""
        return {"device": "CPU", "threads": str(self._threads)}

    def _generator(self) -> Any:
        import onnxruntime_genai

        parameters = onnxruntime_genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=ROOM, do_sample=False)
        return onnxruntime_genai.Generator(self._model, parameters)

    @staticmethod
    def _logits(generator: Any, tokens: NDArray[Any], places: NDArray[Any]) -> NDArray[np.float32]:
        """`[places, V]`, 0 behind the text; none where nothing is to be read."""
        import numpy as np

        if not len(tokens):
            return np.zeros((len(places), 0), "f4")
        generator.append_tokens(tokens.astype(np.int32))
        every = np.asarray(generator.get_output("logits"))[0]
        made = np.zeros((len(places), every.shape[-1]), "f4")
        held = places < len(tokens)
        made[held] = every[places[held]]
        return made


def built_by_genai(model: Path, out: Path, task: CausalLM, *, precision: str, options: Sequence[str] = FOUR_BITS) -> Path:
    """What the model builder makes of a folder that transformers opens, with the files beside the model; unless it is there."""
    if not (out / "task.json").is_file():
        shutil.rmtree(out, ignore_errors=True)
        command = [
            sys.executable,
            "-m",
            "onnxruntime_genai.models.builder",
            "-i",
            str(model),
            "-o",
            str(out),
            "-p",
            precision,
            "-e",
            "cpu",
        ]
        more = ["--extra_options", *options] if precision == "int4" else []
        subprocess.run([*command, "-c", str(out / "cache"), *more], check=True, stdout=sys.stderr, env={**os.environ, **QUIET})
        finished(model, out, task)
    return out


def compressed_by_nncf(built: Path, out: Path, task: CausalLM, mode: str = "INT8_ASYM", **given: Any) -> Path:
    """OpenVINO's representation with weights of 8 bits, or as NNCF's `mode` and its other options say, unless it is there."""
    if not (out / "task.json").is_file():
        import nncf
        import openvino

        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        file = registry.load("target", "openvino").file
        made = nncf.compress_weights(core().read_model(built / file), mode=nncf.CompressWeightsMode[mode], **given)
        openvino.save_model(made, out / file, compress_to_fp16=False)
        finished(built, out, task)
    return out


def finished(source: Path, out: Path, task: CausalLM) -> None:
    """Put what opens a built model beside it."""
    beside(source, out)
    describe(out, task, "causal-lm", ())


def peers(model: Path, openvino: Path, out: Path, task: CausalLM, threads: int) -> Mapping[str, tuple[Target, Path]]:
    """By name, what they are run by and where they lie."""
    return {
        "genai-fp32": (GenAi(threads=threads), built_by_genai(model, out / "genai-fp32", task, precision="fp32")),
        "genai-int4": (GenAi(threads=threads), built_by_genai(model, out / "genai-int4", task, precision="int4")),
        "openvino-nncf": (
            registry.load("target", "openvino")(threads=threads, precision="default"),
            compressed_by_nncf(openvino, out / "openvino-nncf", task),
        ),
    }


NAMES: Mapping[str, tuple[str, str]] = {
    "genai-fp32": ("ONNX Runtime GenAI", "fp32"),
    "genai-int4": ("ONNX Runtime GenAI", "4 bits, `MatMulNBits`"),
    "openvino-nncf": ("OpenVINO, NNCF", "int8 weights"),
}
"""Who made and runs it, and in which precision."""
