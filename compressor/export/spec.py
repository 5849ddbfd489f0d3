"""What a deployed model takes and gives: read from the files beside it, written as `spec.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from compressor.contracts import Port
from compressor.contracts.records import Candidate
from compressor.deploy.graphs import TASK_FILE, graphs_of
from compressor.errors import StoreError, UnsupportedModel

Runtime = Literal["onnxruntime", "openvino", "torch"]
RUNTIMES: dict[str, Runtime] = {"model.onnx": "onnxruntime", "model.xml": "openvino", "model.safetensors": "torch"}
TEXT_INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""Inputs of text models, and where the tokenizer's encoding has them."""
DTYPES = ("int64", "int32", "float32", "float16")
OPENVINO_PRECISIONS = {"fp32": "f32", "f32": "f32", "bf16": "bf16", "fp16": "f16", "f16": "f16"}
"""The hint that makes OpenVINO compute in a precision, by the name that facts give it."""


@dataclass(frozen=True)
class Deployed:
    """A built candidate with what is needed to feed it and to read its outputs."""

    candidate: Candidate
    folder: Path
    runtime: Runtime
    task: str
    labels: list[str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    preprocessing: dict[str, Any]
    needs_this_project: bool = False
    """True for an eager model whose structure no stock configuration expresses."""

    @property
    def classes(self) -> bool:
        """Whether it tells classes apart; else it gives features."""
        return self.task != "speech"

    @property
    def file(self) -> str:
        return next(name for name, runtime in RUNTIMES.items() if runtime == self.runtime)


def read_deployed(built: Path, candidate: Candidate) -> Deployed:
    """Read `task.json` and the tokenizer's or processor's files.

    Raises:
        StoreError: one of them is missing or malformed.
        UnsupportedModel: the inputs are not those of a text, image or audio classifier.
    """
    try:
        task = json.loads((built / TASK_FILE).read_text(encoding="utf-8"))
        name, parameters, labels = task["task"], task["parameters"], [str(label) for label in task["labels"]]
        graph, *others = graphs_of(built)
        inputs, outputs = tuple(map(_known, graph.inputs)), tuple(map(_known, graph.outputs))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{built / TASK_FILE} cannot be read: {error}") from error
    runtime = next((runtime for file, runtime in RUNTIMES.items() if (built / file).is_file()), None)
    if runtime is None:
        raise StoreError(f"{built} holds none of {', '.join(RUNTIMES)}")
    if others or graph.state:
        raise UnsupportedModel(f"no example can be written for a model of several graphs or with a state, as {built} holds")
    if name not in PREPROCESSING:
        raise UnsupportedModel(f"no example can be written for the task '{name}' (known: {', '.join(PREPROCESSING)})")
    preprocessing = PREPROCESSING[name](built, parameters, inputs)
    beyond_stock = runtime == "torch" and not _opens_without_us(built)
    return Deployed(candidate, built, runtime, name, labels, inputs, outputs, preprocessing, needs_this_project=beyond_stock)


def _known(port: Port) -> Port:
    if port.dtype not in DTYPES:
        raise ValueError(f"dtype '{port.dtype}' is none of {', '.join(DTYPES)}")
    return port


def _opens_without_us(built: Path) -> bool:
    from compressor.model.model import Model, plain

    return plain(Model.load(built))


def _text(built: Path, parameters: dict[str, Any], inputs: tuple[Port, ...]) -> dict[str, Any]:
    unknown = [port.name for port in inputs if port.name not in TEXT_INPUTS]
    if unknown:
        raise UnsupportedModel(f"no tokenizer makes the input '{unknown[0]}' (known: {', '.join(TEXT_INPUTS)})")
    tokenizer = _read(built / "tokenizer.json", "save the model's tokenizer as tokenizer.json (a fast tokenizer)")
    fixed = next((axis for port in inputs for axis in port.axes[1:] if isinstance(axis, int)), None)
    return {
        "tokenizer": "tokenizer.json",
        "max_length": int(parameters["max_length"]),
        "truncation": True,
        "padded_to": fixed,
        "pad_token": _pad_token(built, tokenizer) if fixed is not None else None,
    }


def _pad_token(built: Path, tokenizer: dict[str, Any]) -> str:
    config = built / "tokenizer_config.json"
    token = json.loads(config.read_text(encoding="utf-8")).get("pad_token") if config.is_file() else None
    token = token or (tokenizer.get("padding") or {}).get("pad_token")
    if not token:
        raise UnsupportedModel(f"{built} names no padding token, but the model takes inputs of one fixed length")
    return token["content"] if isinstance(token, dict) else str(token)


def _image(built: Path, parameters: dict[str, Any], inputs: tuple[Port, ...]) -> dict[str, Any]:  # noqa: ARG001
    if [port.name for port in inputs] != ["pixel_values"]:
        raise UnsupportedModel(f"an image model takes 'pixel_values', this one takes {[port.name for port in inputs]}")
    path = built / "preprocessor_config.json"
    config = _read(path, "save the model's image processor beside it")
    try:
        return _image_steps(config)
    except (KeyError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"{path} asks for something that no example can do: {type(error).__name__}: {error}") from error


def _image_steps(config: dict[str, Any]) -> dict[str, Any]:
    """Numbers only: they end up in a script, and the file they come from is not ours."""
    normalize, size = config.get("do_normalize", True), config.get("size")
    crop = config.get("crop_size", size)
    return {
        "processor": "preprocessor_config.json",
        "color": "RGB",
        "resize": _extent(size) if config.get("do_resize", True) else None,
        "resample": int(config.get("resample", 2)),
        "center_crop": _extent(crop) if config.get("do_center_crop") else None,
        "rescale_factor": float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
        "mean": [float(value) for value in config.get("image_mean", [0.5] * 3)] if normalize else [0.0] * 3,
        "std": [float(value) for value in config.get("image_std", [0.5] * 3)] if normalize else [1.0] * 3,
        "layout": "NCHW",
    }


def _audio(built: Path, parameters: dict[str, Any], inputs: tuple[Port, ...]) -> dict[str, Any]:
    path = built / "preprocessor_config.json"
    config = _read(path, "save the model's feature extractor beside it")
    names = [port.name for port in inputs]
    try:
        rate = int(config["sampling_rate"])
        common = {"extractor": path.name, "sampling_rate": rate, "samples": round(float(parameters["seconds"]) * rate)}
        if names == ["input_features"]:
            sizes = {
                name: int(config.get(name, usual)) for name, usual in (("feature_size", 80), ("n_fft", 400), ("hop_length", 160))
            }
            return {**common, "makes": "log-mel spectra", **sizes}
        if names in (["input_values"], ["input_values", "attention_mask"]):
            normalize, padding = bool(config.get("do_normalize", True)), float(config.get("padding_value", 0.0))
            return {**common, "makes": "samples", "normalize": normalize, "padding_value": padding, "mask": len(names) == 2}
    except (KeyError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"{path} asks for something that no example can do: {type(error).__name__}: {error}") from error
    raise UnsupportedModel(f"an audio model takes samples or spectra, this one takes {names}")


def _extent(size: Any) -> dict[str, int]:
    """`{height, width}` or `{shortest_edge}`."""
    if isinstance(size, int):
        return {"height": size, "width": size}
    if set(size) == {"shortest_edge"}:
        return {"shortest_edge": int(size["shortest_edge"])}
    return {"height": int(size["height"]), "width": int(size["width"])}


def _read(path: Path, advice: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}): {advice}") from error
    return found if isinstance(found, dict) else {}


PREPROCESSING = {"text-classification": _text, "image-classification": _image, "audio-classification": _audio, "speech": _audio}


def spec_of(deployed: Deployed) -> dict[str, Any]:
    """The content of `spec.json`: JSON values only."""
    return {
        "task": deployed.task,
        "model": deployed.file,
        "runtime": deployed.runtime,
        "settings": settings_of(deployed),
        "inputs": [asdict(port) for port in deployed.inputs],
        "outputs": [asdict(port) for port in deployed.outputs],
        "preprocessing": deployed.preprocessing,
        **({"labels": "labels.json"} if deployed.classes else {}),
        "measured": deployed.candidate.facts,
    }


def settings_of(deployed: Deployed) -> dict[str, str]:
    """Settings that change outputs: the precision in which OpenVINO computed what is not quantised (`int8 + fp32`)."""
    precision = deployed.candidate.facts.get("precision", "").rpartition("+")[2].strip()
    if deployed.runtime == "openvino" and precision in OPENVINO_PRECISIONS:
        return {"INFERENCE_PRECISION_HINT": OPENVINO_PRECISIONS[precision]}
    return {}
