"""What is refused once the models of a plan are there and before its first step runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path

from compressor.errors import UnsupportedModel
from compressor.plan.bound import Bound, BoundStep

DRAWN = "whose head was drawn at random, as the model came without one; train it first, with finetune for one"


def check_steps(bound: Bound, folders: Mapping[str, Path], drawn: Iterable[str]) -> None:
    """Refuse steps that cannot work, and qualities that would be held against a model that knows nothing.

    Args:
        bound: the plan.
        folders: of `source` and of every entry of `models:`, as they were loaded.
        drawn: those of them whose head was drawn at random.

    Raises:
        CompressorError: what a step itself finds.
        UnsupportedModel: a step learns from the logits of a head that knows nothing, a limit is held against it, or rows
            are to be timed at a length that the model does not take.
    """
    origins, untrained = dict(folders), set(drawn)
    current = "source"
    for step in (step for step in bound.passes if step.trunk):
        start = step.start or current
        step.step.check(origins[start], origins)
        _check_teachers(step, untrained)
        origins[step.name], current = origins[start], step.name
        learns = step.step.trains and step.step.needs_classes()
        if start in untrained and not learns:
            untrained.add(step.name)
    limits = (*(step.gate for step in bound.passes if step.gate), *bound.accept)
    if bound.reference in untrained and any(each.max_drop is not None for each in limits):
        raise UnsupportedModel(f"max_drop is held against {bound.reference}, {DRAWN}, and name that step as `reference`")
    for name, length in _lengths(bound):
        if why := bound.task.refuses(length, folders["source"]):
            raise UnsupportedModel(f"{name}: length {why}")


def _check_teachers(step: BoundStep, untrained: Set[str]) -> None:
    for name in step.step.imitated():
        if name in untrained:
            raise UnsupportedModel(f"{step.name} learns from the answers of {name}, {DRAWN}")


def _lengths(bound: Bound) -> Iterator[tuple[str, int]]:
    """Who times rows of which length."""
    timed = {
        **{step.name: step.step.workloads() for step in bound.passes},
        **{each.name: each.probe.workloads() for each in bound.probes},
    }
    yield from ((name, each.length) for name, found in timed.items() for each in found if each.length is not None)
