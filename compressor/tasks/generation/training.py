"""Training rows of what denoises: noisy pictures with what is to be told of them, drawn by a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compressor.contracts import Batch
from compressor.tasks.batches import Feeds
from compressor.tasks.generation.description import Description

CLEAN = "clean"
"""Rows of a batch as the network is to draw them, latents where it draws those."""
APART = 1
"""Third of the numbers that seed a batch: noise that rows are scored from is seeded by one or two."""


@dataclass(frozen=True)
class Batches:
    """The rows of `feeds`, each made noisy at a time of its own."""

    feeds: Feeds
    labels: Sequence[int]
    how: Description
    seed: int
    times: Literal["uniform", "logit-normal"]
    weighting: Literal["none", "min-snr", "flow", "edm"]
    drop: float
    """Share of the rows whose label is left out."""

    def __len__(self) -> int:
        return len(self.feeds)

    def __iter__(self) -> Iterator[Batch]:
        import torch

        for at, (feed, chosen) in enumerate(zip(self.feeds, self.feeds.groups, strict=True)):
            made = self._noisy(feed[CLEAN], chosen, at)
            yield {name: torch.from_numpy(array) for name, array in made.items()}

    def _noisy(self, rows: Any, chosen: Sequence[int], at: int) -> dict[str, Any]:
        import numpy as np

        process, draw = (
            self.how.process,
            np.random.default_rng([self.seed, at, APART]),
        )  # of a batch alone: training may go on at any
        levels = process.at(process.times(draw, len(chosen), spread=self.times))
        noise = draw.standard_normal(rows.shape, dtype=np.float32)
        labels = np.array([self.labels[number] for number in chosen], dtype=np.int64)
        left = draw.random(len(chosen)) < self.drop
        alpha, sigma = (each[:, None, None, None] for each in (levels.alpha, levels.sigma))
        scale = process.scale(levels)[:, None, None, None]
        made = {
            "sample": scale * (alpha * rows + sigma * noise),
            "time": levels.time,
            "target": process.target(rows, noise, levels),
            "weight": process.weight(levels, self.weighting),
            CLEAN: rows,
        }
        if self.how.spans:
            made["span"] = np.zeros_like(levels.time)
        if self.how.scales:
            made["scale"] = np.ones_like(levels.time)
        named = {name: array.astype(np.float32) for name, array in made.items()}
        told = labels if self.how.empty is None else np.where(left, self.how.empty, labels)
        return {**named, "label": told.astype(np.int64), "labels": labels, "row": np.array(chosen, dtype=np.int64)}
