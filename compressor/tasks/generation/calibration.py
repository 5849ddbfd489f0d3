"""Inputs of a denoising network as its sampler asks it: what quantisation calibrates by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed
from compressor.tasks.batches import Feeds, grouped
from compressor.tasks.generation.description import GRAPH, Description, graph_of
from compressor.tasks.generation.process import Levels
from compressor.tasks.generation.samplers import blocks_at

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def asked_at_levels(
    read: Callable[[Sequence[int]], NDArray[np.float32]],
    labels: Sequence[int],
    how: Description,
    *,
    count: int | None = None,
    graph: str = GRAPH,
) -> Sequence[Feed]:
    """At most `count` rows, each noisy at the next of the sampler's levels; where it guides by two evaluations, every other one without its label.

    Args:
        read: gives rows `[n, C, H, W]` by their numbers.
        labels: of these rows.
        how: how the model draws.
        count: all of them, unless given.
        graph: of those of the network, the one that runs so many blocks: it is asked at some of the levels.
    """
    import numpy as np

    from compressor.tasks.inputs.sampling import noise_of

    levels, spans = levels_of(graph, how)
    scale, steps = how.process.scale(levels), len(spans)
    guidance = np.array([how.sampling.guidance])

    def called(chosen: Sequence[int]) -> Feed:
        (row,) = chosen
        at = row // 2 % steps if how.in_pairs else row % steps
        noise = noise_of(chosen, how.shape)
        noisy = levels.alpha[at] * read(chosen) + levels.sigma[at] * noise
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


def levels_of(graph: str, how: Description) -> tuple[Levels, NDArray[np.float64]]:
    """Levels at which the sampler asks a graph of the network, and how far it goes from each.

    One that it asks at none, as it makes few steps, has the middles of the bins of time that it would be asked in.
    """
    import numpy as np

    grid = how.process.grid(how.sampling.steps)
    own = np.flatnonzero(_is_asked(graph, grid.time[:-1], how))
    if len(own):
        return grid[own], how.sampling.spans(grid, own)
    levels = how.process.at((np.arange(len(how.depths)) + 0.5) / len(how.depths))
    levels = levels[np.flatnonzero(_is_asked(graph, levels.time, how))]
    return levels, np.full(len(levels.time), grid.time[0] / how.sampling.steps)


def _is_asked(graph: str, time: NDArray[np.float64], how: Description) -> list[bool]:
    return [graph_of(int(each)) == graph for each in blocks_at(time, how.depths)]
