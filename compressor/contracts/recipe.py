"""What `compressor init` asks plug-ins: whether they belong into a plan for a model and rows that it saw, and with which parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from compressor.contracts.notes import Record
from compressor.errors import SourceError

ColumnKind: TypeAlias = Literal["text", "class", "number", "labels", "bits", "picture", "sound", "other"]
"""Texts; few values that recur; amounts; lists of labels; 0 and 1; pictures; sounds; anything else, as names and numbers of rows."""
Role: TypeAlias = Literal["train", "shrink", "recover", "shorten", "quantize"]
"""What a pass does in a plan, in the order in which passes stand there: teach the task, take parts away, win back what that lost, make a loop
of calls shorter, and write small numbers. The first is proposed where a model is not trained yet; the third goes with the second."""
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True)
class Column:
    """A column of the rows, and what it seems to hold."""

    name: str
    kind: ColumnKind
    told: str = ""
    """That in words: `3 classes`."""
    values: tuple[str, ...] = ()
    """The words of a column that holds some which recur, sorted; of any other column none."""


@dataclass(frozen=True)
class Seen:
    """What a task is proposed by."""

    config: Mapping[str, Any]
    """The model's configuration."""
    columns: tuple[Column, ...]
    content: tuple[str, ...] = ()
    """Columns that the user says hold what a model is fed from."""
    label: tuple[str, ...] = ()
    """Columns that the user says hold what is to be told."""
    asked: bool = False
    """Whether the user names the task."""
    sure: bool = True
    """Whether columns are to be clear; else the first one that could be meant is taken, to see what would be proposed."""

    def of(self, *kinds: ColumnKind) -> tuple[str, ...]:
        """Names of the columns of some kinds."""
        return tuple(each.name for each in self.columns if each.kind in kinds)

    def told(self, name: str) -> str:
        """What a column seems to hold, in words."""
        return next((each.told for each in self.columns if each.name == name), "")

    def one(self, candidates: Sequence[str], usual: Sequence[str], *, what: str, option: str) -> tuple[str, str]:
        """The one column among candidates that is meant, and why it is taken.

        It is the one of the most usual name, else the only one there is, else the only one with a usual name.

        Args:
            candidates: names of columns, at least one.
            usual: names that such columns often have, the most usual first.
            what: what the column holds, for messages.
            option: by which the user can say it.

        Raises:
            SourceError: several could be meant; it lists them.
        """
        named = [name for name in candidates if name.casefold() in usual]
        first = next((name for name in candidates if name.casefold() == usual[0]), None)
        if first is None and len(candidates) > 1 and len(named) != 1 and self.sure:
            listed = ", ".join(f"'{name}' ({self.told(name)})" for name in candidates)
            raise SourceError(f"which column is the {what}? It could be {listed}: say {option} NAME")
        found = first or (named[0] if len(named) == 1 else candidates[0])
        return found, "the only such column" if len(candidates) == 1 else "by its name"


@dataclass(frozen=True)
class Recipe:
    """A plug-in's entry in a plan."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    """As a plan spells them."""
    why: str = ""
    """For the comment beside it, in a sentence."""
    role: Role | None = None
    """Of a pass."""
    rank: int = 0
    """Of several that fit for one place, that of the lowest rank is taken."""


TOLD_UNKNOWN = 0.05
"""Share of unknown tokens from which on `check` tells it: a tokenizer that was made for other texts, or for other letters."""


class Epoch(Record):
    """What a training sees in one epoch, where that is not the rows of the data: several documents in one row, parts of a long one."""

    rows: int
    """That batches are made of."""
    counted: int
    """What the loss is a mean over, in all of them: tokens."""
    estimated: bool = False
    """From a part of the data."""

    def times(self, share: float) -> Epoch:
        """Of a share of the data."""
        return Epoch(rows=math.ceil(self.rows * share), counted=math.ceil(self.counted * share), estimated=True)


class InputSizes(Record):
    """How large rows are before anything is cut, and what a model takes of them."""

    unit: str
    """What sizes count: `tokens`, `seconds`, `pixels`."""
    of: str
    """What was measured: `texts`, `sounds`, `shorter edges of pictures`."""
    rows: int
    """So many rows were measured, spread evenly over all."""
    least: float
    median: float
    p90: float
    p99: float
    most: float
    limit: float
    """What the task takes of a row: longer ones are cut, pictures made this large."""
    cut: float = 0.0
    """Share of the rows that is cut."""
    unknown: float = 0.0
    """Of texts, the share of their tokens that stand for what the tokenizer does not know."""
    takes: str = ""
    """One input of the model in words: `3 x 224 x 224 pixels`."""
    parameter: str = ""
    """Name of the task's parameter that sets the limit; empty where none does."""
    fits: float | None = None
    """The least sensible value of it that cuts at most one row in a hundred, as far as the model takes it; None where there is none."""
    computed: float = 1.0
    """What a model computes on for the row in the middle, as its time grows with it: tokens, seconds, pixels in all."""
    timed: int | None = None
    """Length that rows are timed at; None where each has its own."""
    epoch: Epoch | None = None
    """What an epoch of training is made of; None where it is the rows."""

    def __str__(self) -> str:
        """One line for `check`."""
        spread = f"{self.least:g} to {self.most:g} {self.unit}, median {self.median:g}, 99 % have at most {self.p99:g}"
        share = f"{self.cut:.1%} of them" if self.cut else "none"
        cut = f"; {self.parameter} {self.limit:g} cuts {share}" if self.parameter and not self.takes else ""
        takes = f"; the model takes {self.takes}" if self.takes else ""
        unknown = f"; {self.unknown:.0%} of the tokens are unknown to the tokenizer" if self.unknown >= TOLD_UNKNOWN else ""
        return f"{self.of} {spread}{cut}{unknown}{takes}"


def sizes_of(values: Sequence[float], *, limit: float, **others: Any) -> InputSizes:
    """`InputSizes` of measured rows, which are not none; `others` are its further fields."""
    import numpy as np

    found = np.asarray(values, dtype=np.float64)
    least, median, p90, p99, most = (
        round(float(each), 2) for each in np.quantile(found, (0, 0.5, 0.9, 0.99, 1), method="inverted_cdf")
    )
    told = {"least": least, "median": median, "p90": p90, "p99": p99, "most": most}
    cut = {"cut": float((found > limit).mean())} if "cut" not in others else {}
    return InputSizes(rows=len(found), limit=limit, **told, **cut, **others)


def spread(count: int, most: int) -> list[int]:
    """At most `most` numbers of rows, spread evenly over `count`."""
    return list(range(count)) if count <= most else [number * count // most for number in range(most)]
