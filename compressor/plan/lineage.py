"""Which step of the trunk has left its mark on what a later one starts from: it has quantised it, or made several graphs of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Link(NamedTuple):
    """A step on the torch model, in the plan's order."""

    name: str
    start: str | None
    """What it starts from; None or empty for the step before it."""
    marks: bool


def inherited(links: Iterable[Link]) -> Mapping[str, str]:
    """By step, the one that marked its input last; those of a model without a mark are not in it."""
    made: dict[str, str] = {}
    found: dict[str, str] = {}
    before = ""
    for link in links:
        start = link.start or before
        origin = made.get(start) or made.get(start.partition(".")[0])  # a product of a step is called STEP.NAME
        if origin:
            found[link.name] = origin
        if link.marks or origin:
            made[link.name] = link.name if link.marks else str(origin)
        before = link.name
    return found
