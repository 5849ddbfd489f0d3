"""What holds for everything that a plan names: parameters, keys, messages, and lightness while a plan is checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

from compressor.contracts import Pass, Step
from compressor.contracts.described import descriptions
from compressor.contracts.step import step_parts
from compressor.plan.validation import validated
from compressor.plan.yaml_source import read_yaml, write_yaml
from compressor.store.store import key_of
from compressor.testing.plans import faults_of, parameters, plan_around, written
from compressor.testing.subject import Subject
from compressor.testing.tiny import short_lived

LIBRARIES = "torch transformers onnx onnxruntime openvino nncf datasets"
HEAVY = tuple(LIBRARIES.split())
"""Libraries that nothing imports while a plan is checked."""
CHILD_SECONDS = 120
CHECK = """
import json, pathlib, sys
from compressor.plan import load_plan
load_plan(pathlib.Path(sys.argv[1]))
print(json.dumps([name for name in sys.argv[2:] if name in sys.modules]))
"""
AnyStep = TypeVar("AnyStep", bound=Step)
NONSENSE = {"no": ["such", {"value": None}]}


def is_explained(subject: Subject) -> None:
    """`compressor explain` has something to say: a docstring, a description of each parameter, the source of a method."""
    step: Step = subject.plugin
    subject.require(bool((type(step).__doc__ or "").strip()), "has no docstring; `compressor explain` shows it")
    for name, text in descriptions(type(step)).items():
        subject.require(
            bool(text),
            f"parameter '{name}' has no description; write a docstring below it or Field(description=...)",
        )
    if subject.kind in ("pass", "objective"):
        subject.require(bool(step.paper.strip()), "names no source of its method; set `paper`")


def round_trips(subject: Subject) -> None:
    """Parameters come back equal from JSON and from YAML, and a plan with them has no fault."""
    step: Step = subject.plugin
    with subject.during("its way through JSON"):
        again = type(step).model_validate_json(step.model_dump_json(), strict=True)
    subject.require(again == step, f"comes back from JSON as {again!r}, was {step!r}")
    located, _ = read_yaml(write_yaml(parameters(step)), "parameters.yaml")
    read, faults = validated(type(step), located, subject.name, what="parameter")
    subject.require(read == step, f"comes back from YAML as {read!r}, was {step!r} ({'; '.join(map(str, faults))})")
    found = faults_of(plan_around(subject, parameters(step)))
    subject.require(not found, f"a plan with its own parameters is refused: {'; '.join(found)}")


def refuses_unknown_parameters(subject: Subject) -> None:
    """A misspelt parameter is a fault of the plan that names the nearest one."""
    step: Step = subject.plugin
    known = list(type(step).model_fields)
    field = known[0] if known else "anything"
    typo = next(name for name in (f"{field}s", f"{field}_", f"{field}__") if name not in known)
    found = faults_of(plan_around(subject, {**parameters(step), typo: 1}))
    told = [fault for fault in found if typo in fault and "no such parameter" in fault]
    subject.require(
        bool(told),
        f"a plan with the unknown parameter '{typo}' is {'refused otherwise: ' + '; '.join(found) if found else 'taken'}; "
        'keep `extra="forbid"` of Step',
    )
    subject.require(not known or "did you mean" in told[0], f"'{typo}' is refused without a near name: {told[0]}")


def refuses_wrong_values(subject: Subject) -> None:
    """A value of the wrong type is a fault that names the parameter, and no check of the plug-in's own breaks on it."""
    step: Step = subject.plugin
    for name in type(step).model_fields:
        with subject.during(f"a plan with {name}: {NONSENSE}"):
            found = faults_of(plan_around(subject, {**parameters(step), name: NONSENSE}))
        for fault in found:
            subject.require("broke: " not in fault, f"its own check breaks on a wrong value of '{name}': {fault}")
        subject.require(
            not found or any(name in fault for fault in found), f"a wrong value of '{name}' is refused without its name: {found}"
        )


def has_a_key_of_all_it_depends_on(subject: Subject) -> None:
    """The key of a result changes with each parameter and with the version, and with nothing else."""
    step: Step = subject.plugin
    kind = type(step)
    with subject.during("its key"):
        key = _key(subject.name, step)
    again = kind.model_validate_json(step.model_dump_json())
    subject.require(_key(subject.name, again) == key, "equal parameters give another key: keep what varies out of the parameters")
    raised: Any = type(
        kind.__name__, (kind,), {"version": step.version + 1, "__module__": kind.__module__, "__doc__": kind.__doc__}
    )
    subject.require(
        _key(subject.name, raised.model_validate_json(step.model_dump_json())) != key, "another version gives the same key"
    )
    for name, other in variants(step):
        subject.require(
            _key(subject.name, other) != key,
            f"another '{name}' gives the same key ({getattr(step, name)!r} or {getattr(other, name)!r}): a stored result would be "
            "taken for another; do not exclude parameters from what is written",
        )


def is_light(subject: Subject) -> None:
    """Checking a plan imports no heavy library."""
    with short_lived() as folder:
        plan = written(folder, plan_around(subject, parameters(subject.plugin)))
        done = subprocess.run(
            [sys.executable, "-c", CHECK, str(plan), *HEAVY],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(each for each in sys.path if each)},
            capture_output=True,
            text=True,
            timeout=CHILD_SECONDS,
            check=False,
        )
    subject.require(done.returncode == 0, f"a plan with it cannot be checked in a fresh process: {done.stderr.strip()[-2000:]}")
    heavy = json.loads(done.stdout.splitlines()[-1])
    subject.require(not heavy, f"checking a plan imports {', '.join(heavy)}; import inside the functions that need it")


STEP = (is_explained, round_trips, refuses_unknown_parameters, refuses_wrong_values, has_a_key_of_all_it_depends_on, is_light)


def variants(step: AnyStep) -> Iterator[tuple[str, AnyStep]]:
    """For each parameter, where one can be found, the same step with another value of it."""
    values = {name: getattr(step, name) for name in type(step).model_fields} | parameters(step)
    schema = type(step).model_json_schema()
    for name, field in schema.get("properties", {}).items():
        for other in _others(values[name], field, schema.get("$defs", {})):
            try:
                varied = type(step).model_validate({**values, name: other})
            except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError):  # it is not to be so
                continue
            if varied != step:
                yield name, varied
                break


def _key(name: str, step: Step) -> str:
    named = step.needs().plugins if isinstance(step, Pass) else {}
    return key_of({**step_parts(name, step), "plugins": {kind: sorted(names) for kind, names in named.items()}})


def _others(value: Any, field: dict[str, Any], definitions: dict[str, Any]) -> Iterator[Any]:
    """Values that may do as well as `value`, plain ones first."""
    if "$ref" in field:
        field = definitions.get(str(field["$ref"]).rpartition("/")[2], {})
    yield from (each for each in field.get("enum", ()) if each != value)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, 2 * value, value // 2)
    elif isinstance(value, float):
        yield from (value / 2, value * 2, value + 1, value + 0.01)
    elif isinstance(value, str):
        yield from (f"{value}x", "x")
    elif isinstance(value, list | tuple):
        yield from ([*value, *value], list(value[:-1]), [1], [0.5], ["x"])
    elif isinstance(value, dict):
        yield from ({}, {**value, "x": 1}, {"x": 1.0})
    yield from (None, 1, 0.5, True, "x", [1], ["x"])
    for option in field.get("anyOf", ()):
        yield from _others(None, option, definitions) if "enum" in option or "$ref" in option else ()
