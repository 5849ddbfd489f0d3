"""How what a user has becomes the inputs of a model, as data: one description that training, scoring and exports are made from.

A description is JSON. The modules of `inputs` do what it says, and nothing else does: runs call them, exports ship them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.contracts import Port
from compressor.errors import SourceError, UnsupportedModel
from compressor.files import json_in
from compressor.foreign import told
from compressor.tasks.image_processors import steps_of

PREPROCESSOR, NESTED, CONFIG = "preprocessor_config.json", "processor_config.json", "config.json"
"""Where settings of processors lie: in a file of their own, or, as of release 5, in that of all processors of a model."""
RAW, MEL = "Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor"
SAMPLES, SPECTRA = "samples", "log-mel spectra"
SOUNDS: Mapping[str, Mapping[str, Any]] = {
    RAW: {"sampling_rate": 16000, "feature_size": 1, "padding_value": 0.0, "do_normalize": True, "return_attention_mask": False},
    MEL: {"sampling_rate": 16000, "feature_size": 80, "padding_value": 0.0, "hop_length": 160, "n_fft": 400},
}
"""Feature extractors whose way is known, with what they do where a configuration is silent."""
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
UNHEEDED = {
    "feature_extractor_type", "processor_class", "_processor_class", "auto_map", "return_tensors",
    "chunk_length", "n_samples", "nb_max_frames", "mel_filters", "return_attention_mask",
}  # fmt: skip
"""Settings that make no difference to what is fed: lengths are the task's."""
ONLY = {"padding_side": "right", "dither": 0.0}
"""Settings that are known by one value."""


def settings_at(path: Path, *parts: str) -> dict[str, Any] | None:
    """A processor's settings as its library finds them: a part of `processor_config.json` beside `path`, else the file itself.

    None where there is neither.

    Raises:
        SourceError: a file cannot be read.
    """
    nested = read(path.with_name(NESTED)) if path.with_name(NESTED).is_file() else {}
    for part in parts:
        if isinstance(found := nested.get(part), dict):
            return found
    return read(path) if path.is_file() else None


def read(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SourceError: it cannot be read, or is none.
    """
    try:
        found = json_in(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read ({told(error)})") from error
    if not isinstance(found, dict):
        raise SourceError(f"{path} cannot be read: it is no object")
    return found


# ------------------------------------------------------------------ texts


def of_text(inputs: Sequence[Port], settings: Mapping[str, Any], *, max_length: int) -> dict[str, Any]:
    """How a tokenizer with these settings makes the inputs of a text.

    Raises:
        UnsupportedModel: inputs have one fixed length and nothing pads, or an input is none that a tokenizer makes.
    """
    unknown = [port.name for port in inputs if port.name not in TEXT_INPUTS]
    if unknown:
        raise UnsupportedModel(f"no tokenizer makes the input '{unknown[0]}' (known: {', '.join(TEXT_INPUTS)})")
    fixed = next((axis for port in inputs for axis in port.axes[1:] if isinstance(axis, int)), None)
    if fixed is not None and not settings["pad_token"]:
        raise UnsupportedModel("the tokenizer names no padding token, but the model takes inputs of one fixed length")
    return {
        "tokenizer": "tokenizer.json",
        "truncation": True,
        "max_length": min(max_length, fixed or max_length),
        "padded_to": fixed,
        **settings,
    }


# ------------------------------------------------------------------ pictures


def of_image(settings: Mapping[str, Any], where: object) -> dict[str, Any]:
    """How pixels are made of a picture, by settings in full.

    Raises:
        SourceError: a setting is malformed, or pictures would not have one size.
    """
    try:
        return {"processor": PREPROCESSOR, "layout": "NCHW", "steps": steps_of(settings)}
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise SourceError(f"{where}: the image processor cannot be read: {told(error)}") from error


# ------------------------------------------------------------------ sounds


LEAST_RATE, MOST_RATE = 100, 1_000_000
"""Samples a second."""


def sound_settings(folder: Path, kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The settings in full of a model's feature extractor, one of `kinds`; its kind is that of the model where it has no name.

    Raises:
        SourceError: there are none, or they are of another kind or ask for what is not known.
    """
    given = settings_at(folder / PREPROCESSOR, "feature_extractor", "audio_processor")
    if given is None:
        raise SourceError(
            f"{folder / PREPROCESSOR} cannot be read: it says how sounds become inputs (no such file, nor {NESTED})"
        )
    kind: Any = given.get("feature_extractor_type") or _kind_of(settings_at(folder / CONFIG) or {})
    if kind not in kinds:
        *others, last = kinds
        raise SourceError(f"{folder / PREPROCESSOR}: feature_extractor_type is {kind!r}, expected {', '.join(others)} or {last}")
    values = {**kinds[kind], **{name: value for name, value in given.items() if value is not None}}
    if not (isinstance(rate := values["sampling_rate"], int) and LEAST_RATE <= rate <= MOST_RATE):
        raise SourceError(
            f"{folder / PREPROCESSOR}: sampling_rate is {rate!r:.40}, expected {LEAST_RATE} to {MOST_RATE} samples a second"
        )
    if kind in SOUNDS:
        _check_sound(kind, values, folder)
    return {**values, "feature_extractor_type": kind}


def _kind_of(config: Mapping[str, Any]) -> str | None:
    from transformers.models.auto import feature_extraction_auto as library

    known: Mapping[str, str] = vars(library)["FEATURE_EXTRACTOR_MAPPING_NAMES"]
    return known.get(str(config.get("model_type")))


def _check_sound(kind: str, values: Mapping[str, Any], folder: Path) -> None:
    for name, value in values.items():
        known = name in SOUNDS[kind] or name in UNHEEDED or (name, value) in ONLY.items()
        if not known and (name in ONLY or value is not False):
            raise SourceError(f"{folder}: the feature extractor's setting '{name}' ({value!r:.60}) is none that is known here")
    if kind == RAW and values["feature_size"] != 1:
        raise SourceError(f"{folder}: the feature extractor's feature_size is {values['feature_size']!r}, samples have 1")


def of_audio(settings: Mapping[str, Any], *, samples: int) -> dict[str, Any]:
    """How samples or spectra are made of a recording, by settings in full, cut or padded to so many samples.

    Raises:
        SourceError: a setting is malformed.
    """
    kind = settings["feature_extractor_type"]
    try:
        common = {
            "extractor": PREPROCESSOR,
            "sampling_rate": int(settings["sampling_rate"]),
            "channels": "mean",
            "samples": samples,
            "padding_value": float(settings["padding_value"]),
        }
        if kind == MEL:
            sizes = {name: int(settings[name]) for name in ("feature_size", "n_fft", "hop_length")}
            return {**common, "makes": SPECTRA, "mask": False, **sizes}
        mask, normalize = bool(settings["return_attention_mask"]), bool(settings["do_normalize"])
        return {**common, "makes": SAMPLES, "normalize": normalize, "mask": mask}
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise SourceError(f"{PREPROCESSOR} is malformed: {told(error)}") from error
