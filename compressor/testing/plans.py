"""A small plan around one plug-in, read by the same loader that users' plans go through."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.contracts import Pass, Step, Target, registry
from compressor.contracts.registry import format_for
from compressor.errors import PlanError
from compressor.plan.bound import load_plan
from compressor.plan.yaml_source import write_yaml
from compressor.testing.subject import Subject
from compressor.testing.tiny import short_lived

PLAN = "plan.yaml"


def parameters(step: Step) -> dict[str, Any]:
    """The parameters of a step as a plan spells them."""
    return step.model_dump(mode="json")


def plan_around(subject: Subject, given: Mapping[str, Any]) -> str:
    """A plan as YAML in which a plug-in has the parameters `given`, and is asked to do nothing else than to be checked."""
    plan: dict[str, Any] = {
        "model": {"folder": "."},
        "task": {"text-classification": {}},
        "data": {"files": PLAN},
        "passes": [{"finetune": {}}],
        "targets": [{"torch": {}}],
    }
    entry = {subject.name: dict(given)}
    if subject.kind == "objective":
        plan["passes"] = [{"distill": {"teacher": "source", "objectives": entry}}]
    elif subject.kind == "task":
        plan["task"] = entry
        plan["passes"] = (
            [{"finetune": {}}] if subject.plugin.trainable else [{"prune-structure": {"keep": 0.5, "importance": "magnitude"}}]
        )
    elif subject.kind in ("target", "probe"):
        plan[f"{subject.kind}s"] = [entry]
    else:
        plan |= _surroundings(subject.plugin)
        plan["passes"] = [entry]
    return write_yaml(plan)


def faults_of(text: str) -> tuple[str, ...]:
    """What the plan loader has to say of a plan: each fault as `place: what`."""
    with short_lived() as folder:
        (folder / PLAN).write_text(text, encoding="utf-8")
        try:
            load_plan(folder / PLAN)
        except PlanError as error:
            return tuple(f"{fault.where}: {fault.what}" for fault in error.faults)
    return ()


def _surroundings(step: Pass) -> dict[str, Any]:
    """The models and targets that a pass speaks of, and a target in whose branch it has a place."""
    teachers = [name for name in step.needs().teachers if name != "source"]
    targets = [{"torch": {}, "name": name} for name in step.needs().targets]
    if "torch" not in step.accepts:
        targets = [{target_for(step): {}}]
    return {"models": {name: {"folder": "."} for name in teachers}, "targets": targets or [{"torch": {}}]}


def target_for(step: Pass) -> str:
    """Name of an installed target in whose branch a pass works; `torch` where there is none."""
    for name in registry.names("target"):
        kind: type[Target] = registry.load("target", name)
        if format_for(step.accepts, kind.dialect) is not None:
            return name
    return "torch"


def written(folder: Path, text: str) -> Path:
    """A plan put into a folder."""
    path = folder / PLAN
    path.write_text(text, encoding="utf-8")
    return path
