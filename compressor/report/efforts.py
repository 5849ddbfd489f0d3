"""Quality against what a row takes, where models of a run differ in it: fewer steps, fewer evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.report.findings import Findings, Step


@dataclass(frozen=True)
class Efforts:
    """Steps of each target by what a row takes of them."""

    names: tuple[str, ...]
    """What is counted: steps, evaluations."""
    by_target: tuple[tuple[str, tuple[Step, ...]], ...]
    """Those that take most come first. Empty where all steps take the same."""


def efforts(findings: Findings) -> Efforts:
    """Of a run's report; quality of steps is that on validation."""
    stages = findings.report.stages
    names = tuple(dict.fromkeys(name for stage in stages for name in stage.effort))
    if all(len({stage.effort.get(name) for stage in stages}) == 1 for name in names):
        return Efforts((), ())

    def least_last(step: Step) -> list[float]:
        return [-step.effort.get(name, 0.0) for name in names]

    return Efforts(names, tuple((target, tuple(sorted(findings.chain(target), key=least_last))) for target in findings.targets))
