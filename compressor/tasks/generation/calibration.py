"""Inputs of a denoising network as its sampler asks it: what quantisation calibrates by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed
from compressor.tasks.batches import Feeds, grouped
from compressor.tasks.generation.description import Description
from compressor.tasks.generation.pictures import pictures_of

if TYPE_CHECKING:
    from datasets import Dataset


def asked_at_levels(
    images: Dataset, labels: Sequence[int], column: str, how: Description, *, count: int | None = None
) -> Sequence[Feed]:
    """At most `count` rows, each noisy at the next of the sampler's levels; where it guides by two evaluations, every other one without its label.

    Args:
        images: rows whose `column` is a picture.
        labels: of these rows.
        column: name of the pictures' column.
        how: how the model draws.
        count: all of them, unless given.
    """
    import numpy as np

    from compressor.tasks.inputs.sampling import noise_of

    levels, steps = how.process.grid(how.sampling.steps), how.sampling.steps
    scale, spans = how.process.scale(levels), levels.time[:-1] - levels.time[1:]
    guidance = np.array([how.sampling.guidance])

    def called(chosen: Sequence[int]) -> Feed:
        (row,) = chosen
        at = row // 2 % steps if how.in_pairs else row % steps
        noise = noise_of(chosen, how.shape)
        noisy = levels.alpha[at] * pictures_of(images, chosen, column, how.shape) + levels.sigma[at] * noise
        label = how.empty if how.in_pairs and row % 2 else labels[row]
        given: dict[str, Any] = {
            "sample": scale[at] * noisy,
            "time": levels.time[at : at + 1],
            **({"span": spans[at : at + 1]} if how.spans else {}),
            **({"scale": guidance} if how.scales else {}),
        }
        floats = {name: array.astype(np.float32) for name, array in given.items()}
        return {**floats, "label": np.array([label], dtype=np.int64)}

    return Feeds(called, grouped(range(min(count or len(labels), len(labels))), 1))
