"""Filters that gather frequencies as ears do."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


@functools.lru_cache(maxsize=4)
def mel_filters(mels: int, n_fft: int, sampling_rate: int, highest: float = 8000.0) -> Any:
    """Triangles `[frequencies, mels]` up to `highest` Hz that lie evenly on Slaney's scale: linear below 1000 Hz, logarithmic above."""
    top = highest * 3.0 / 200.0 if highest < 1000.0 else 15.0 + np.log(highest / 1000.0) * (27.0 / np.log(6.4))
    steps = np.linspace(0.0, top, mels + 2)
    edges = 200.0 * steps / 3.0
    above = steps >= 15.0
    edges[above] = 1000.0 * np.exp((np.log(6.4) / 27.0) * (steps[above] - 15.0))
    slopes = edges[np.newaxis, :] - np.linspace(0, sampling_rate // 2, n_fft // 2 + 1)[:, np.newaxis]
    widths = np.diff(edges)
    falling, rising = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return np.maximum(np.zeros(1), np.minimum(falling, rising)) * (2.0 / (edges[2:] - edges[:mels]))
