"""Sounds become samples or log-mel spectra, as a description says."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import soundfile
import soxr

from compressor.tasks.inputs.mel import mel_filters


def wave_of(given: str | bytes, sampling_rate: int) -> Any:
    """Samples in float32 of a sound, given by its path or its bytes: channels averaged, resampled where it has another rate.

    Raises:
        OSError: it cannot be read.
        RuntimeError: it is no sound.
    """
    read, rate = soundfile.read(io.BytesIO(given) if isinstance(given, bytes) else given, dtype="float32", always_2d=True)
    wave = read.mean(axis=1)
    return wave if rate == sampling_rate else soxr.resample(wave, rate, sampling_rate)


def features_of(wave: Any, how: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of one sound by name, without the axis of the batch: cut or padded to `how["samples"]`."""
    wave = wave[: how["samples"]]
    if how["makes"] == "log-mel spectra":
        return {"input_features": spectrum_of(wave, how)}
    padded = np.full(how["samples"], how["padding_value"], dtype=np.float32)
    padded[: len(wave)] = wave
    heard = padded[: len(wave)] if how["mask"] else padded
    if how["normalize"]:
        padded = (padded - heard.mean()) / np.sqrt(heard.var() + 1e-7)
    if not how["mask"]:
        return {"input_values": padded}
    padded[len(wave) :] = how["padding_value"]
    return {"input_values": padded, "attention_mask": (np.arange(how["samples"]) < len(wave)).astype(np.int64)}


def spectrum_of(wave: Any, how: Mapping[str, Any]) -> Any:
    """Log-mel spectra `[mels, frames]` as Whisper has them, in float32."""
    size, hop = how["n_fft"], how["hop_length"]
    padded = np.full(how["samples"], how["padding_value"], dtype=np.float32)
    padded[: len(wave)] = wave
    padded = np.pad(padded, size // 2, mode="reflect").astype(np.float64)
    starts = np.arange(0, 1 + (len(padded) - size) // hop) * hop
    frames = padded[starts[:, np.newaxis] + np.arange(size)] * np.hanning(size + 1)[:-1]
    power = np.abs(np.fft.rfft(frames).astype(np.complex64), dtype=np.float64) ** 2.0
    filters = mel_filters(how["feature_size"], size, how["sampling_rate"])
    logs = np.log10(np.maximum(1e-10, np.dot(filters.T, power.T))).astype(np.float32)[:, :-1]
    return (np.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0
