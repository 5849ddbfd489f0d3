"""The JSON Schema of a plan over everything that is installed, for editors to complete and check from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from compressor.contracts import Step, registry
from compressor.errors import PluginError
from compressor.plan.entries import KEYS, KINDS, MAX_ENTRIES
from compressor.plan.examples import example_of, whole
from compressor.plan.specs import NAME, Accept, DataSpec, EntryKeys, Files, Gate, Head, Limit, ModelSource, Split, StepKeys

Schema = dict[str, Any]
Plugins = dict[str, dict[str, type[Step]]]
WITHIN = ("objective",)
"""Kinds of plug-ins that parameters of others name; such a parameter says so by `json_schema_extra={"plugins": KIND}`."""
NAMES = "plugins"
"""What such a parameter says it by."""

PARTS = (Head, ModelSource, DataSpec, Files, Split, Limit, Gate, Accept, EntryKeys, StepKeys)
"""Parts of a plan that are no plug-ins: each of their keys has an example."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def plan_schema() -> Schema:
    """JSON Schema (draft 2020-12) that a plan file meets; what plug-ins take is described by their own fields, but of those that are broken."""
    kinds = (*KINDS.values(), "task", *WITHIN)
    plugins: Plugins = {kind: dict(_usable(kind)) for kind in kinds}
    types = Types(
        [Head, ModelSource, DataSpec, Accept, *KEYS.values(), *(each for kind in plugins.values() for each in kind.values())],
        {kind: plugins[kind] for kind in WITHIN},
    )
    sections = {section: _list_of(types.chosen(plugins[KINDS[section]], types.properties(KEYS[section]))) for section in KINDS}
    models = {"type": "object", "propertyNames": {"pattern": NAME}, "additionalProperties": types.of(ModelSource)}
    sections |= {
        "model": types.of(ModelSource),
        "models": _or_null(models),
        "task": types.chosen(plugins["task"], {}),
        "data": types.of(DataSpec),
        "probes": _or_null(sections["probes"]),
        "accept": _or_null(_list_of(types.of(Accept))),
    }
    return {
        "$schema": DIALECT,
        "title": "compressor plan",
        "description": "From a trained model to a smaller, faster one that is proved on its targets.",
        "type": "object",
        "properties": {
            "include": {**_INCLUDE, **_snippet(whole()["include"])},
            **types.properties(Head),
            **{section: _section(section, about, sections[section]) for section, about in ABOUT.items()},
        },
        "additionalProperties": False,
        "$defs": types.definitions,
    }


def _usable(kind: str) -> Iterator[tuple[str, type[Step]]]:
    """Plug-ins by name, old names too; broken ones are told by `list`."""
    for name in registry.known(kind):
        with suppress(PluginError):
            yield name, registry.load(kind, name)


_INCLUDE: Schema = {
    "description": "Files whose content this plan is laid on; paths are relative to this file.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}

ABOUT = {
    "model": "The model that is made smaller and faster.",
    "models": "Further models by name, as teachers.",
    "task": "What the model is for: one task's name with its parameters.",
    "data": "Where the rows come from and how they are split.",
    "passes": "Steps, in order; each begins with the name of its pass.",
    "targets": "Runtimes that the model is built for, scored and measured on.",
    "probes": "What is measured on the built models.",
    "accept": "What the final model has to keep on a target, on test data.",
}
"""What each section of a plan says."""


class Types:
    """The schemas of all models under one set of definitions, as editors take them in."""

    def __init__(self, models: Iterable[type[BaseModel]], within: Plugins) -> None:
        mode: JsonSchemaMode = "validation"
        references, defined = models_json_schema([(model, mode) for model in dict.fromkeys(models)])
        self._references = {model: schema for (model, _), schema in references.items()}
        self.definitions: Schema = {name: _for_editors(each) for name, each in defined["$defs"].items()}
        for definition in self.definitions.values():
            for name, field in definition.get("properties", {}).items():
                if kind := field.get(NAMES):
                    definition["properties"][name] = self._naming(field, within[kind])
        for part in PARTS:
            _give_examples(part, self.definitions.get(part.__name__, {}).get("properties", {}))

    def of(self, model: type[BaseModel]) -> Schema:
        return self._references[model]

    def definition(self, model: type[BaseModel]) -> Schema:
        found: Schema = self.definitions[str(self.of(model)["$ref"]).rpartition("/")[2]]
        return found

    def properties(self, model: type[BaseModel]) -> Schema:
        found: Schema = self.definition(model)["properties"]
        return found

    def chosen(self, plugins: Mapping[str, type[Step]], beside: Schema) -> Schema:
        """A plug-in's name alone, or one plug-in with its parameters and the keys beside it."""
        alone = [name for name, model in plugins.items() if not any(each.is_required() for each in model.model_fields.values())]
        entry = {
            "type": "object",
            "properties": {**{name: self._parameters(model, alone=name in alone) for name, model in plugins.items()}, **beside},
            "oneOf": [{"required": [name]} for name in plugins],
            "additionalProperties": False,
        }
        named = [{"const": name, "description": self.definition(plugins[name]).get("description", name)} for name in alone]
        return {"anyOf": [entry, {"type": "string", "oneOf": named}]}

    def _naming(self, field: Schema, plugins: Mapping[str, type[Step]]) -> Schema:
        """A parameter whose keys are plug-ins, each with a weight or its parameters."""
        named = {
            name: {
                "description": self.definition(model).get("description", name),
                "anyOf": [{"type": "number", "minimum": 0}, self.of(model)],
                **_snippet(dict(model.examples[0]) or 1.0),
            }
            for name, model in plugins.items()
        }
        kept = {key: value for key, value in field.items() if key not in (NAMES, "anyOf")}
        return {**kept, "type": "object", "properties": named, "additionalProperties": False}

    def _parameters(self, model: type[Step], *, alone: bool) -> Schema:
        """What a plug-in takes, which is nothing where it can stand alone; an editor begins with what has to be said."""
        if alone:
            return {**self.definition(model), "type": ["object", "null"]}
        needed = {name: value for name, value in model.examples[0].items() if model.model_fields[name].is_required()}
        return {"description": self.definition(model).get("description", ""), "anyOf": [self.of(model)], **_snippet(needed)}


def _snippet(body: Any) -> Schema:
    """What an editor writes down when a key is chosen. It stands beside `anyOf`, since editors look at the values of a key first."""
    return {"defaultSnippets": [{"label": "example", "body": body}]}


def _give_examples(part: type[BaseModel], fields: Schema) -> None:
    for key, field in fields.items():
        example = example_of(part, key)
        if example is not None and "default" not in field:
            fields[key] = {**field, **_snippet(example)}


def _for_editors(definition: Schema) -> Schema:
    """A definition whose keys an editor can begin with something that is valid."""
    fields = {name: _begun(field) for name, field in definition.get("properties", {}).items()}
    return {**definition, **({"properties": fields} if fields else {})}


def _begun(field: Schema) -> Schema:
    """A field that nothing stands for has no default to write down (`files: null` is no choice), and one of many values begins with its default."""
    kept = {key: value for key, value in field.items() if not (key == "default" and value in (None, "", []))}
    if "const" in kept:
        kept.pop("default", None)
    if "default" in kept and "enum" in kept:
        return {**{key: value for key, value in kept.items() if key not in ("enum", "type")}, "anyOf": [{"enum": kept["enum"]}]}
    return kept


def _section(name: str, description: str, schema: Schema) -> Schema:
    return {"description": description, "anyOf": [schema], **_snippet(whole()[name])}


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items, "maxItems": MAX_ENTRIES}


def _or_null(schema: Schema) -> Schema:
    """What may be left out, and so may stand as a key without a value."""
    return {"anyOf": [schema, {"type": "null"}]}
