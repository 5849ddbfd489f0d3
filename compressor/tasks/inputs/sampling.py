"""Rows are drawn from noise: a loop over the rows of a sampler's table, around any call of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

COLUMNS = ("time", "span", "scale", "skip", "gain", "guidance", "told", "keep", "clean", "before", "earlier", "noise")
"""Of a table, a row for each evaluation. The network is told `time`, and the `span` of its step, and sees `scale * x`; of its output follows
`found = skip * x + gain * output`, with `guidance` other than 1 of two outputs, or of a network that is told a scale of it, `told`; then
`x = keep * x + clean * found + before * (the found before) + earlier * (the x before) + noise * (fresh noise)`."""


def noise_of(seeds: Any, shape: tuple[int, ...], at: int = 0) -> Any:
    """Normal noise `[B, *shape]` in float32, of each row by its seed alone: where it starts from, and what is added after evaluation `at`."""
    drawn = [
        np.random.default_rng([int(seed), at] if at else int(seed)).standard_normal(shape, dtype=np.float32) for seed in seeds
    ]
    return np.stack(drawn)


def drawn(network: Callable[[dict[str, Any]], Any], feed: dict[str, Any], table: Any) -> Any:
    """Rows `[B, C, H, W]` that a network makes of noise.

    Args:
        network: gives its output for `sample` [B, C, H, W], `time` [B], `span` [B], `scale` [B] and `label` [B].
        feed: `noise` to start from, the `seed` of each row for fresh noise, its `label`, and the label that says nothing, `empty`.
        table: what each evaluation is told and how it is gone on from it, `[evaluations, COLUMNS]`.
    """
    x, found, earlier = feed["noise"], np.float32(0), feed["noise"]
    for at, row in enumerate(np.asarray(table, dtype=np.float32), start=1):
        time, span, scale, skip, gain, guidance, told, keep, clean, before, back, noise = row
        last, found = found, skip * x + gain * guided(network, scale * x, (time, span, told), feed, guidance)
        made = keep * x + clean * found
        if before:
            made += before * last
        if back:
            made += back * earlier
        if noise:
            made += noise * noise_of(feed["seed"], x.shape[1:], at)
        x, earlier = made, x
    return x


def guided(network: Callable[[dict[str, Any]], Any], sample: Any, told: Any, feed: dict[str, Any], guidance: Any) -> Any:
    """An output, moved away from what would be told without a label where `guidance` is above 1 (Ho and Salimans, arXiv:2207.12598)."""
    label, count, times = feed["label"], len(sample), 1 if guidance == 1 else 2
    when = {name: np.full(times * count, value, np.float32) for name, value in zip(("time", "span", "scale"), told, strict=True)}
    if times == 1:
        return network({"sample": sample, **when, "label": label})
    out = network({"sample": np.concatenate([sample, sample]), **when, "label": np.concatenate([label, feed["empty"]])})
    return out[count:] + guidance * (out[:count] - out[count:])
