"""A small plan around one plug-in, read by the same loader that users' plans go through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compressor.contracts import Needs, Pass, Step, Target, registry
from compressor.contracts.registry import TORCH, format_for
from compressor.errors import PlanError, PluginError
from compressor.plan.bound import load_plan
from compressor.plan.yaml_source import write_yaml
from compressor.tasks.text_classification import TextClassification
from compressor.testing.subject import Subject, Unchecked
from compressor.testing.tiny import short_lived

PLAN = "plan.yaml"


def parameters(step: Step) -> dict[str, Any]:
    """The parameters of a step as a plan spells them."""
    return step.model_dump(mode="json")


def plan_around(subject: Subject, given: Mapping[str, Any]) -> str:
    """A plan as YAML in which a plug-in has the parameters `given`, and is asked to do nothing else than to be checked."""
    entry = {subject.name: dict(given)}
    plan: dict[str, Any] = {
        "model": {"folder": "."},
        "task": {registry.name_of("task", TextClassification): {}},
        "data": {"files": PLAN},
        "passes": [_harmless(lambda needs: not needs.teachers)],
        "targets": [{target_on(TORCH): {}}],
    }
    if subject.kind == "objective":
        plan["passes"] = [{_distilling(): {"teacher": "source", "objectives": entry}}]
    elif subject.kind == "task":
        plan["task"] = entry
        trainable = subject.plugin.trainable
        plan["passes"] = [
            _harmless(lambda needs: not needs.teachers and (trainable or not (needs.loss or needs.logits or needs.imitates)))
        ]
    elif subject.kind in ("target", "probe"):
        plan[f"{subject.kind}s"] = [entry]
        if getattr(subject.plugin, "of_tokens", False):
            plan["task"] = {_of_tokens(): {}}
    else:
        plan |= _surroundings(subject.plugin)
        plan["passes"] = [entry]
    return write_yaml(plan)


def _harmless(fits: Callable[[Needs], bool]) -> dict[str, Any]:
    """An entry of a pass on the torch model that is installed, with one of its examples, whose needs fit."""
    for name in registry.names("pass"):
        try:
            kind: type[Pass] = registry.load("pass", name)
            for given in kind.examples if TORCH in kind.accepts else ():
                needs = kind.model_validate(dict(given)).needs()
                if fits(needs) and not needs.targets:
                    return {name: dict(given)}
        except (PluginError, ValueError):  # broken, which its own checks tell
            continue
    raise Unchecked("no pass on the torch model is installed that this could be tried beside")


def _of_tokens() -> str:
    """Name of an installed task that counts tokens."""
    kinds = {name: _loaded("task", name) for name in registry.names("task")}
    if (found := next((name for name, kind in kinds.items() if kind and kind.counts == "tokens"), None)) is None:
        raise Unchecked("no task is installed that counts tokens")
    return found


def _distilling() -> str:
    """Name of an installed pass that takes a teacher and objectives, the one of the fewest parameters."""
    kinds = {name: kind for name in registry.names("pass") if (kind := _loaded("pass", name)) and TORCH in kind.accepts}
    fitting = [name for name, kind in kinds.items() if {"teacher", "objectives"} <= kind.model_fields.keys()]
    if not fitting:
        raise Unchecked("no pass is installed that takes objectives")
    return min(fitting, key=lambda name: len(kinds[name].model_fields))


def _loaded(kind: str, name: str) -> Any:
    """A plug-in; None for one that is broken."""
    try:
        found: Any = registry.load(kind, name)
    except PluginError:  # broken, which its own checks tell
        return None
    return found


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
    eager = target_on(TORCH)
    teachers = [name for name in step.needs().teachers if name != "source"]
    targets = [{eager: {}, "name": name} for name in step.needs().targets]
    if TORCH not in step.accepts:
        targets = [{target_for(step): {}}]
    return {"models": {name: {"folder": "."} for name in teachers}, "targets": targets or [{eager: {}}]}


def target_on(form: str) -> str:
    """Name of an installed target that takes models in a format.

    Raises:
        Unchecked: there is none.
    """
    for name in registry.names("target"):
        try:
            if registry.load("target", name).dialect.format == form:
                return name
        except PluginError:  # broken, which its own checks tell
            continue
    raise Unchecked(f"no target is installed that takes models in the format '{form}'")


def target_for(step: Pass) -> str:
    """Name of an installed target in whose branch a pass works; one that runs torch models where there is none."""
    for name in registry.names("target"):
        kind: type[Target] = registry.load("target", name)
        if format_for(step.accepts, kind.dialect) is not None:
            return name
    return target_on(TORCH)


def written(folder: Path, text: str) -> Path:
    """A plan put into a folder."""
    path = folder / PLAN
    path.write_text(text, encoding="utf-8")
    return path
