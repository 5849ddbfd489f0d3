"""Which step of the trunk has quantised what a later one starts from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Link(NamedTuple):
    """A step on the torch model, in the plan's order."""

    name: str
    start: str | None
    """What it starts from; None or empty for the step before it."""
    quantizes: bool


def quantized_inputs(links: Iterable[Link]) -> Mapping[str, str]:
    """By step, the one that quantised its input; those of a model in float are not in it."""
    made: dict[str, str] = {}
    found: dict[str, str] = {}
    before = ""
    for link in links:
        start = link.start or before
        origin = made.get(start) or made.get(start.partition(".")[0])  # a product of a step is called STEP.NAME
        if origin:
            found[link.name] = origin
        if link.quantizes or origin:
            made[link.name] = link.name if link.quantizes else str(origin)
        before = link.name
    return found
