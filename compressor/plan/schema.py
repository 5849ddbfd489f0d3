"""The JSON Schema of a plan over everything that is installed, for editors to complete and check from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from compressor.contracts import registry
from compressor.plan.entries import KEYS, KINDS, MAX_ENTRIES
from compressor.plan.specs import NAME, Accept, DataSpec, Head, ModelSource

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def plan_schema() -> Schema:
    """JSON Schema (draft 2020-12) that a plan file meets; what plug-ins take is described by their own fields.

    Raises:
        PluginError: an installed plug-in cannot be imported, or two share one name.
    """
    plugins = {kind: {name: registry.load(kind, name) for name in registry.known(kind)} for kind in (*KINDS.values(), "task")}
    types = _Types(
        [Head, ModelSource, DataSpec, Accept, *KEYS.values(), *(each for kind in plugins.values() for each in kind.values())]
    )
    sections = {
        section: _list_of(types.chosen(plugins[KINDS[section]], types.properties(KEYS[section]))) for section in _SECTIONS
    }
    sections["probes"] = _or_null(sections["probes"])
    models = _or_null({"type": "object", "propertyNames": {"pattern": NAME}, "additionalProperties": types.of(ModelSource)})
    accept = _or_null(_list_of(types.of(Accept)))
    return {
        "$schema": DIALECT,
        "title": "compressor plan",
        "description": "From a trained model to a smaller, faster one that is proved on its targets.",
        "type": "object",
        "properties": {
            "include": _INCLUDE,
            **types.properties(Head),
            "model": types.of(ModelSource),
            "models": _described("Further models by name, as teachers.", models),
            "task": _described("What the model is for: one task's name with its parameters.", types.chosen(plugins["task"], {})),
            "data": types.of(DataSpec),
            **{section: _described(about, sections[section]) for section, about in _SECTIONS.items()},
            "accept": _described("What the final model has to keep on a target, on test data.", accept),
        },
        "additionalProperties": False,
        "$defs": types.definitions,
    }


_INCLUDE: Schema = {
    "description": "Files whose content this plan is laid on; paths are relative to this file.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}

_SECTIONS = {
    "passes": "Steps, in order; each begins with the name of its pass.",
    "targets": "Runtimes that the model is built for, scored and measured on.",
    "probes": "What is measured on the built models.",
}


class _Types:
    """The schemas of all models under one set of definitions."""

    def __init__(self, models: Iterable[type[BaseModel]]) -> None:
        mode: JsonSchemaMode = "validation"
        references, defined = models_json_schema([(model, mode) for model in dict.fromkeys(models)])
        self._references = {model: schema for (model, _), schema in references.items()}
        self.definitions: Schema = defined["$defs"]

    def of(self, model: type[BaseModel]) -> Schema:
        return self._references[model]

    def properties(self, model: type[BaseModel]) -> Schema:
        found: Schema = self.definitions[str(self.of(model)["$ref"]).rpartition("/")[2]]["properties"]
        return found

    def chosen(self, plugins: Mapping[str, type[BaseModel]], beside: Schema) -> Schema:
        """A plug-in's name alone, or one plug-in with its parameters and the keys beside it."""
        plain = [name for name, model in plugins.items() if not any(each.is_required() for each in model.model_fields.values())]
        entry = {
            "type": "object",
            "properties": {
                **{name: _or_null(self.of(model)) if name in plain else self.of(model) for name, model in plugins.items()},
                **beside,
            },
            "oneOf": [{"required": [name]} for name in plugins],
            "additionalProperties": False,
        }
        return {"anyOf": [{"enum": plain}, entry]}


def _described(description: str, schema: Schema) -> Schema:
    return {"description": description, **schema}


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items, "maxItems": MAX_ENTRIES}


def _or_null(schema: Schema) -> Schema:
    """What may be left out, and so may stand as a key without a value."""
    return {"anyOf": [schema, {"type": "null"}]}
