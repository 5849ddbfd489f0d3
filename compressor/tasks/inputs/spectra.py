"""Sounds become log-mel spectra of a fixed size, and spectra sounds: a spectrum says no phases, so those are made up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from compressor.tasks.inputs.mel import mel_filters

VERSION = 1
"""Raised when equal sounds give other spectra."""
ROUNDS = 60
"""Steps in which frequencies, and then phases, are found."""
SILENT = 1e-10


def spectrum(wave: Any, shape: tuple[int, int], how: Mapping[str, Any]) -> Any:
    """The log-mel spectrum `[mels, frames]` of samples in float32: -1 is `low` decibels and less, 1 is `high`.

    Args:
        wave: samples; what is missing at their end is silence, what is too long is cut off.
        shape: mels and frames.
        how: the `rate` of the samples, `window` and `hop` of the frames in samples, `low` and `high`.
    """
    mels, frames = shape
    kept = np.zeros(frames * how["hop"])
    kept[: len(wave)] = wave[: len(kept)]
    power = np.abs(_transformed(kept, how)) ** 2
    found = 10 * np.log10(np.maximum(power @ _shares(mels, how), SILENT))
    light = 2 * (found - how["low"]) / (how["high"] - how["low"]) - 1
    return light.T.clip(-1, 1).astype(np.float32)


def sounded(given: Any, how: Mapping[str, Any]) -> Any:
    """Samples in float32 whose spectrum is about this one `[mels, frames]`, phases by Griffin and Lim, 1984, 10.1109/TASSP.1984.1164317, from a
    fixed seed."""
    decibels = (np.clip(given, -1, 1).T + 1) / 2 * (how["high"] - how["low"]) + how["low"]
    power = np.where(decibels > how["low"], 10 ** (decibels / 10), 0.0)
    heights = np.sqrt(_gathered(power, _shares(len(given), how)))
    phases = np.exp(2j * np.pi * np.random.default_rng(0).random(heights.shape))
    for _ in range(ROUNDS):
        found = _transformed(_joined(heights * phases, how), how)
        phases = found / np.maximum(SILENT, np.abs(found))
    return _joined(heights * phases, how).astype(np.float32)


def silent_mels(mels: int, how: Mapping[str, Any]) -> int:
    """Mels that no frequency of a frame falls into: their rows of a spectrum would say nothing."""
    return int((_shares(mels, how).sum(axis=0) == 0).sum())


def _shares(mels: int, how: Mapping[str, Any]) -> Any:
    """What of each frequency counts for a mel, `[frequencies, mels]`, 1 in all: a mel has the mean power of its frequencies."""
    filters = mel_filters(mels, how["window"], how["rate"], min(8000.0, how["rate"] / 2))
    return filters / np.maximum(SILENT, filters.sum(axis=0))


def _gathered(power: Any, shares: Any) -> Any:
    """Powers of frequencies, none below 0, that mels of these powers are about the shares of: least squares by Lee and Seung's steps."""
    found, twice = power @ shares.T, shares @ shares.T
    wanted = found
    for _ in range(ROUNDS):
        found = found * wanted / np.maximum(SILENT, found @ twice)
    return found


def _faded(how: Mapping[str, Any]) -> Any:
    """The window of a frame, by which a tone of height 1 has power 1 at its frequency."""
    window = np.hanning(how["window"] + 1)[:-1]
    return window * 2 / window.sum()


def _transformed(wave: Any, how: Mapping[str, Any]) -> Any:
    """Frequencies `[frames, window / 2 + 1]` of frames that lie around each `hop` samples."""
    size, hop = how["window"], how["hop"]
    padded = np.pad(wave, (size // 2, size))
    starts = np.arange(len(wave) // hop) * hop
    return np.fft.rfft(padded[starts[:, np.newaxis] + np.arange(size)] * _faded(how))


def _joined(found: Any, how: Mapping[str, Any]) -> Any:
    """Samples whose frames have about these frequencies, by least squares."""
    size, hop, window = how["window"], how["hop"], _faded(how)
    frames = np.fft.irfft(found, n=size) * window
    wave, weight = (np.zeros(len(frames) * hop + size) for _ in range(2))
    for at, frame in enumerate(frames):
        wave[at * hop : at * hop + size] += frame
        weight[at * hop : at * hop + size] += window**2
    wave /= np.maximum(weight, 1e-3 * weight.max())
    return wave[size // 2 :][: len(frames) * hop]
