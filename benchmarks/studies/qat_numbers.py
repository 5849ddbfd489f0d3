"""Differences between files that several seeds made, in points, with intervals over test rows and over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.studies.pages import apart
from benchmarks.studies.qat_cells import TARGETS, Found
from compressor.contracts.statistics import paired

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Change:
    """A mean difference in points, with 95 % intervals over test rows (of these trainings) and over seeds (of these rows)."""

    value: float
    rows: tuple[float, float]
    seeds: tuple[float, float] | None
    drawn: bool
    """Whether a seed has a part in it: then one of them shows nothing."""

    @property
    def clear(self) -> bool:
        """Whether intervals leave out 0, that over rows and, where seeds have a part, that over seeds."""
        asked = (self.rows, self.seeds) if self.drawn else (self.rows,)
        return all(each is not None and (each[0] > 0 or each[1] < 0) for each in asked)

    def __abs__(self) -> Change:
        """Of the better one against the other."""
        if self.value >= 0:
            return self
        rows, seeds = ((-each[1], -each[0]) if each else None for each in (self.rows, self.seeds))
        assert rows is not None
        return replace(self, value=-self.value, rows=rows, seeds=seeds)

    def __str__(self) -> str:
        seeds = f"; seeds {self.seeds[0]:+.2f}, {self.seeds[1]:+.2f}" if self.seeds else ""
        text = f"{self.value:+.2f} [{self.rows[0]:+.2f}, {self.rows[1]:+.2f}{seeds}]"
        return f"**{text}**" if self.clear else text


def change(mine: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]], *, drawn: bool = True) -> Change:
    """Points by which one is better: `mine` and `theirs` are right or wrong on the same rows, `[rows]` for each seed, seed by seed."""
    gained = np.mean([one - other for one, other in zip(mine, theirs, strict=True)], axis=0)
    value, low, high, _ = paired(gained, None, 0, binary=len(mine) == 1)
    means = [[100 * float(each.mean()) for each in side] for side in (mine, theirs)]
    return Change(100 * value, (100 * low, 100 * high), apart(*means) if len(mine) > 1 else None, drawn)


def against_reference(found: Sequence[Found], *, drawn: bool = True) -> Change:
    """Of the file in ONNX Runtime, against the fine-tuned model's."""
    return change([each.right[TARGETS[0]] for each in found], [each.reference for each in found], drawn=drawn)


def against(found: Mapping[int, Found], other: Mapping[int, Found], *, drawn: tuple[bool, bool] = (True, True)) -> Change | None:
    """Of one method's files against another's, over the seeds that both have; an `other` that is not `drawn` stands for all of them."""
    theirs = other if drawn[1] else dict.fromkeys(found, next(iter(other.values())))
    seeds = [seed for seed in found if seed in theirs]
    if not seeds:
        return None
    return change(*([side[seed].right[TARGETS[0]] for seed in seeds] for side in (found, theirs)), drawn=any(drawn))


def recovered(found: Sequence[Found], rounded: Sequence[Found]) -> str:
    """Per cent of what PTQ loses that was won back, where it is sure that there is something."""
    lost = against_reference(rounded)
    if lost.rows[1] >= 0:
        return "nothing to recover"
    return f"{100 * (1 - against_reference(found).value / lost.value):.0f} %"
