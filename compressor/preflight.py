"""What is refused once the models of a plan are there and before its first step runs."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

from compressor.data import resolve
from compressor.errors import UnsupportedModel
from compressor.plan import Bound, BoundStep

UNTRAINED = "has a head that was only just drawn at random, as the model came without one: train it first, by finetune for one"


def check_steps(bound: Bound, folders: Mapping[str, Path]) -> None:
    """Refuse steps that cannot work, and qualities that would be held against a model that knows nothing.

    Args:
        bound: the plan.
        folders: of `source` and of every entry of `models:`, as they were loaded.

    Raises:
        CompressorError: what a step itself finds.
        UnsupportedModel: a head was only just drawn, and a step learns from its logits or a limit is held against it.
    """
    origins = dict(folders)
    untrained = _untrained(bound)
    current = "source"
    for step in (step for step in bound.passes if step.trunk):
        start = step.start or current
        step.step.check(origins[start], origins)
        _check_teachers(step, untrained)
        origins[step.name], current = origins[start], step.name
        if start in untrained and not step.step.trains:
            untrained.add(step.name)
    limits = (*(step.gate for step in bound.passes if step.gate), *bound.accept)
    if bound.reference in untrained and any(each.max_drop is not None for each in limits):
        raise UnsupportedModel(f"max_drop is held against {bound.reference}, which {UNTRAINED}, and name that as `reference`")


def _untrained(bound: Bound) -> set[str]:
    """Sources whose task draws them a head."""
    sources = {"source": bound.model, **bound.models}
    return {name for name, source in sources.items() if bound.task.headless(resolve(source, bound.folder))}


def _check_teachers(step: BoundStep, untrained: Set[str]) -> None:
    for name in step.step.imitated():
        if name in untrained:
            raise UnsupportedModel(f"{step.name} learns what {name} answers, which {UNTRAINED}")
