"""What `explain` says of plug-ins and of the parts of a plan: one text with the JSON Schema, with defaults, ranges and examples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from compressor.contracts import registry
from compressor.errors import did_you_mean
from compressor.plan.examples import example_of, whole
from compressor.plan.schema import ABOUT, plan_schema
from compressor.plan.schema import PARTS as SPECS
from compressor.plan.specs import Accept, DataSpec, Gate, Head, StepKeys
from compressor.plan.yaml_source import write_yaml

PARTS: Mapping[str, type[BaseModel]] = {"data": DataSpec, "accept": Accept, "gate": Gate}
"""Parts of a plan that can be explained, beside the whole."""
PLAN = "plan"
NEEDED = ("model", "task", "data", "passes", "targets")
"""Sections that every plan has."""
LISTED = ("passes", "targets", "probes")
"""Keys of a plan whose entries are plug-ins, and that `list` knows by the same name."""
LEAST_LETTERS = 3
"""Of a word that descriptions are looked through for."""
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than"}


def explained(name: str) -> Iterator[str]:
    """Lines on a part of a plan, or on each plug-in of that name.

    Raises:
        LookupError: there is neither; the message may name what is near.
    """
    if name == PLAN:
        yield from _plan()
    elif name in PARTS:
        yield from _part(name)
    else:
        yield from _plugins(name)


def first_line(step: Any) -> str:
    """What a plug-in is, in a line."""
    return next(iter(_described(step).splitlines()), "")


def _plan() -> Iterator[str]:
    schema = plan_schema()
    yield f"plan: {schema['description']}\n"
    yield from _parameters(Head.model_json_schema(), Head)
    for key, about in {"include": schema["properties"]["include"]["description"], **ABOUT}.items():
        default = "(required)" if key in NEEDED else None
        yield f"  {key} = {default}  {'; '.join([about.rstrip('.'), *_example(whole()[key])])}"
    yield f"\nexample:\n\n{_indented(write_yaml({key: value for key, value in whole().items() if key != 'include'}))}"
    yield f"\nMore of {', '.join(PARTS)}, and of each pass, target, probe and task, by `compressor explain NAME`."


def _part(name: str) -> Iterator[str]:
    part = PARTS[name]
    yield f"{name}: part of a plan\n\n{(part.__doc__ or '').strip()}\n"
    yield from _parameters(part.model_json_schema(), part)
    shown = whole()[name] if name in whole() else example_of(StepKeys, name)
    yield f"\nexample:\n\n{_indented(write_yaml({name: shown}))}"


def _plugins(name: str) -> Iterator[str]:
    found = [(kind, registry.load(kind, name)) for kind in registry.KINDS if registry.current(kind, name) in registry.names(kind)]
    if not found:
        if speaking := list(_speaking_of(name)):
            yield f"nothing is named '{name}'; these speak of it:\n"
            yield from speaking
            return
        known = [each for kind in registry.KINDS for each in registry.names(kind)]
        if name in ABOUT or name in Head.model_fields:
            several = f"; `compressor list {name}` names what may stand there" if name in LISTED else ""
            raise LookupError(f"'{name}' is a key of a plan: `compressor explain {PLAN}` tells it{several}")
        part, _, key = name.partition(".")
        if key and (part in (PLAN, *PARTS) or part in known):
            raise LookupError(f"'{key}' would be a key of {part}: see `compressor explain {part}`")
        raise LookupError(f"nothing installed is named '{name}'{did_you_mean(name, [*known, PLAN, *PARTS])}")
    for kind, step in found:
        if (present := registry.current(kind, name)) != name:
            yield f"{name} is called {present} now"
        yield f"{present}: {kind}, from {registry.distribution(kind, name)}\n\n{_described(step)}\n"
        if hasattr(step, "model_json_schema"):
            yield from _parameters(step.model_json_schema(), step)
            yield from _use(kind, present, step)
        if paper := getattr(step, "paper", ""):
            yield f"\nsource: {paper}"


def _speaking_of(word: str) -> Iterator[str]:
    """Passes and objectives whose description has a word of the field, for who knows a method by another name."""
    sought = re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", re.IGNORECASE)
    for kind in ("pass", "objective") if len(word) >= LEAST_LETTERS else ():
        for name, step in registry.loaded(kind):
            if isinstance(step, type) and sought.search(_described(step)):
                yield f"  {name} ({kind})  {first_line(step)}"


def _use(kind: str, name: str, step: Any) -> Iterator[str]:
    """How a plan names it."""
    where = {"pass": "passes", "target": "targets", "probe": "probes", "task": "task"}.get(kind)
    if where:
        given = dict(step.examples[0])
        entry: Any = {name: given} if given else name
        yield f"\nexample:\n\n{_indented(write_yaml({where: entry if kind == 'task' else [entry]}))}"


def _described(step: Any) -> str:
    """What its author says of it; of an anatomy, which is a row of a table, what it reads."""
    if not isinstance(step, type):
        return f"Reads models of type {', '.join(step.model_types)}."
    return (step.__doc__ or "").strip()


def _parameters(schema: dict[str, Any], part: type[BaseModel]) -> Iterator[str]:
    """A line a parameter, those of a parameter that has its own below it, and the values where they are few."""
    return _fields(schema.get("properties", {}), schema, part, indent="  ")


def _fields(
    fields: dict[str, Any], schema: dict[str, Any], part: type[BaseModel] | None, *, indent: str, above: tuple[str, ...] = ()
) -> Iterator[str]:
    for name, field in fields.items():
        values = list(dict.fromkeys(value for each in _within(field) for value in each.get("enum", ())))
        told = [
            " ".join(str(field.get("description", "")).split()).rstrip("."),
            f"one of {', '.join(map(str, values))}" if values else "",
        ]
        told += [*_range(field), *(_example(example_of(part, name)) if part in SPECS else ())]
        yield f"{indent}{name} = {field.get('default', '(required)')}  {'; '.join(filter(None, told))}".rstrip()
        for path in dict.fromkeys(each["$ref"] for each in _within(field) if "$ref" in each and each["$ref"] not in above):
            below, title = schema["$defs"][path.rpartition("/")[2]], path.rpartition("/")[2]
            known = next((each for each in SPECS if each.__name__ == title), None)
            yield from _fields(below.get("properties", {}), schema, known, indent=indent + "  ", above=(*above, path))


def _within(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A field of a JSON Schema with all that it is made of."""
    yield field
    inner = [*field.get("anyOf", ()), field.get("items"), field.get("additionalProperties")]
    for part in inner:
        if isinstance(part, dict):
            yield from _within(part)


def _range(field: dict[str, Any]) -> Iterator[str]:
    """What a number may be, in words."""
    for each in _within(field):
        if found := [f"{words} {each[key]}" for key, words in BOUNDS.items() if key in each]:
            yield " and ".join(found)


def _example(example: Any) -> list[str]:
    return [] if example is None else [f"as {json.dumps(example, ensure_ascii=False)}"]


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines()).rstrip()
