"""How what a user has becomes the inputs of a deployed model, as data: read from the files beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressor.contracts import Port
from compressor.errors import StoreError, UnsupportedModel

TEXT_INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""Inputs of text models, and where the tokenizer's encoding has them."""


def of_text(built: Path, inputs: Sequence[Port], *, max_length: int) -> dict[str, Any]:
    """How a tokenizer makes the inputs of a text.

    Raises:
        StoreError: there is no `tokenizer.json`.
        UnsupportedModel: an input is none that a tokenizer makes.
    """
    unknown = [port.name for port in inputs if port.name not in TEXT_INPUTS]
    if unknown:
        raise UnsupportedModel(f"no tokenizer makes the input '{unknown[0]}' (known: {', '.join(TEXT_INPUTS)})")
    tokenizer = _read(built / "tokenizer.json", "save the model's tokenizer as tokenizer.json (a fast tokenizer)")
    fixed = next((axis for port in inputs for axis in port.axes[1:] if isinstance(axis, int)), None)
    return {
        "tokenizer": "tokenizer.json",
        "max_length": max_length,
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


def of_image(built: Path, inputs: Sequence[Port]) -> dict[str, Any]:
    """How an image processor makes the pixels of an image.

    Raises:
        StoreError: its configuration cannot be read.
        UnsupportedModel: it asks for something else.
    """
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


def of_audio(built: Path, inputs: Sequence[Port], *, seconds: float) -> dict[str, Any]:
    """How a feature extractor makes samples or spectra of a recording.

    Raises:
        StoreError: its configuration cannot be read.
        UnsupportedModel: it asks for something else.
    """
    path = built / "preprocessor_config.json"
    config = _read(path, "save the model's feature extractor beside it")
    names = [port.name for port in inputs]
    try:
        rate = int(config["sampling_rate"])
        common = {"extractor": path.name, "sampling_rate": rate, "samples": round(seconds * rate)}
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
