"""Rows are drawn from noise: a loop over the rows of a sampler's table, around any call of a network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

COLUMNS = ("time", "span", "scale", "skip", "gain", "guidance", "told", "keep", "clean", "before", "earlier", "noise", "blocks")
"""Of a table, a row for each evaluation. The network is told `time`, and the `span` of its step, and sees `scale * x`; of its output follows
`found = skip * x + gain * output`, with `guidance` other than 1 of two outputs, or of a network that is told a scale of it, `told`; then
`x = keep * x + clean * found + before * (the found before) + earlier * (the x before) + noise * (fresh noise)`. Where the network has several
graphs, the one that runs so many `blocks` is asked, and where that is 0 the one that runs most."""


def noise_of(seeds: Any, shape: tuple[int, ...], at: int = 0) -> Any:
    """Normal noise `[B, *shape]` in float32, of each row by its seed alone: where it starts from, and what is added after evaluation `at`."""
    drawn = [
        np.random.default_rng([int(seed), at] if at else int(seed)).standard_normal(shape, dtype=np.float32) for seed in seeds
    ]
    return np.stack(drawn)


def drawn(network: Callable[[dict[str, Any]], Any], feed: dict[str, Any], table: Any) -> Any:
    """Rows `[B, C, H, W]` that a network makes of noise.

    Args:
        network: gives its output for `sample` [B, C, H, W], `time` [B], `span` [B], `scale` [B] and `label` [B]; of its graphs by `blocks`, a number.
        feed: `noise` to start from, the `seed` of each row for fresh noise, its `label`, and the label that says nothing, `empty`.
        table: what each evaluation is told and how it is gone on from it, `[evaluations, COLUMNS]`.
    """
    x, found, earlier = feed["noise"], np.float32(0), feed["noise"]
    for at, row in enumerate(np.asarray(table, dtype=np.float32), start=1):
        time, span, scale, skip, gain, guidance, told, keep, clean, before, back, noise, blocks = row
        asked = partial(_asked, network, int(blocks))
        last, found = found, skip * x + gain * guided(asked, scale * x, (time, span, told), feed, guidance)
        made = keep * x + clean * found
        if before:
            made += before * last
        if back:
            made += back * earlier
        if noise:
            made += noise * noise_of(feed["seed"], x.shape[1:], at)
        x, earlier = made, x
    return x


def _asked(network: Callable[[dict[str, Any]], Any], blocks: int, given: dict[str, Any]) -> Any:
    return network({**given, "blocks": blocks})


def guided(network: Callable[[dict[str, Any]], Any], sample: Any, told: Any, feed: dict[str, Any], guidance: Any) -> Any:
    """An output, moved away from what would be told without a label where `guidance` is above 1 (Ho and Salimans, arXiv:2207.12598)."""
    label, count, times = feed["label"], len(sample), 1 if guidance == 1 else 2
    when = {name: np.full(times * count, value, np.float32) for name, value in zip(("time", "span", "scale"), told, strict=True)}
    if times == 1:
        return network({"sample": sample, **when, "label": label})
    out = network({"sample": np.concatenate([sample, sample]), **when, "label": np.concatenate([label, feed["empty"]])})
    return out[count:] + guidance * (out[:count] - out[count:])


# ------------------------------------------------------------------ a teacher that is asked where an oracle does not like a student's rows

REFINING, DECIDING = 2, 3
"""Streams of a row's draws that nothing else uses: a training's first batch would be stream 1."""


def adapted(student: Any, teacher: Any, oracle: Any, feed: dict[str, Any]) -> Any:
    """Rows `[B, C, H, W]` by a student, those that an oracle likes too little mended by its teacher; and which these are, `[B]`.

    Args:
        student: a network, as of `drawn`.
        teacher: another one.
        oracle: gives logits of classes `[B, classes]` for pictures `[B, C, H, W]`: a row is liked by the probability of its label.
        feed: as of `drawn`; `teacher_table`, and `policy`: the limit, of rows that are liked exactly so much the share that is mended, and alpha
            and sigma of the level that they are noised to first, or sigma 0 where the teacher draws them anew.
    """
    rows = drawn(student, feed, feed["table"])
    limit, tied, alpha, sigma = feed["policy"]
    liked = likes(oracle(as_seen(rows)), feed["label"]).astype(limit.dtype)  # as the limit was found
    sent = sends(liked, feed["seed"], limit, tied)
    if sent.any():
        some = {name: feed[name][sent] for name in ("noise", "seed", "label", "empty")}
        if sigma:
            some["noise"] = noised(rows[sent], some["seed"], alpha, sigma)
        rows = rows.copy()
        rows[sent] = drawn(teacher, some, feed["teacher_table"])
    return rows, sent


def likes(logits: Any, label: Any) -> Any:
    """Logarithm of a label's probability, `[B]`."""
    found = np.asarray(logits, dtype=np.float64)
    highest = found.max(axis=1)
    return found[np.arange(len(found)), label] - highest - np.log(np.exp(found - highest[:, None]).sum(axis=1))


def sends(liked: Any, seeds: Any, limit: Any, tied: Any) -> Any:
    """Which rows are mended, `[B]`: each by itself, in whatever batch it is."""
    found = np.asarray(liked) < limit
    for row in np.flatnonzero(np.asarray(liked) == limit):
        found[row] = stream(seeds[row], DECIDING).random() < tied
    return found


def noised(rows: Any, seeds: Any, alpha: Any, sigma: Any) -> Any:
    """`alpha * row + sigma * fresh noise`, the noise of each row by its seed."""
    fresh = np.stack([stream(seed, REFINING).standard_normal(rows.shape[1:]) for seed in seeds])
    return (alpha * rows + sigma * fresh).astype(np.float32)


def as_seen(rows: Any) -> Any:
    """Pictures as files hold them, a byte for each number, from -1 to 1 in float32."""
    return ((np.clip(rows, -1, 1) + 1) * 127.5).round().astype(np.float32) / np.float32(127.5) - 1


def shown(rows: Any, gives: str) -> Any:
    """Rows `[..., height, width]` of what a model `gives`, as people look at them: a byte for each number, -1 is 0 and 1 is 255, what lies beyond
    is cut off, and what is no number is grey. Spectra begin with their lowest frequencies, which are looked at below the others."""
    light = ((np.nan_to_num(rows, nan=0.0, posinf=1.0, neginf=-1.0).clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
    return light[..., ::-1, :] if gives == "spectra" else light


def stream(seed: Any, of: int) -> Any:
    """A generator for one use of one row's draws."""
    return np.random.default_rng([int(seed), 0, of])
