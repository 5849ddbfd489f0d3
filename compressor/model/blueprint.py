"""How a component is built without its weights: class, configuration and edits, as data that JSON can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from compressor.contracts import Edit, registry
from compressor.errors import SourceError
from compressor.foreign import told
from compressor.model.libraries import library, library_of

DTYPES = ("float16", "bfloat16", "float64")
"""What a blueprint may name as the type of a module's numbers beside `float32`, which it need not."""


@dataclass(frozen=True)
class Blueprint:
    """A component without its weights: the class is built from `config`, then the edits are replayed in order."""

    class_name: str
    config: Mapping[str, Any]
    """The configuration before any edit, as JSON values."""
    edits: tuple[Edit, ...] = ()
    attention: str | None = None
    """Which of the library's attention implementations runs: they differ in the last bits."""
    library: str = "transformers"
    """Name of the entry point of `compressor.library` that finds and builds the class."""
    dtype: str | None = None
    """Type of all floating numbers where it is not float32 and the library's configurations have no field for it."""

    def extended(self, edit: Edit) -> Blueprint:
        """The same with one more edit at its end."""
        return replace(self, edits=(*self.edits, edit))

    def build(self) -> Any:
        """The module with its parameters on meta and its buffers in memory, in eval mode.

        Raises:
            SourceError: the class is none of the library's models, or it does not take the configuration.
            UnsupportedModel: an edit does not fit.
        """
        import torch

        of = library(self.library)
        module = of.build(of.find(self.class_name, self.config), self.config, attention=self.attention)
        for edit in self.edits:
            edit.apply(module)
        if self.dtype is not None:
            module.to(getattr(torch, self.dtype))
        module.train(False)
        return module

    def settled(self, module: Any) -> Blueprint:
        """The same for the type that the module's numbers have by now."""
        config = library(self.library).config_of(module)
        if "dtype" in config:
            return replace(self, config={**self.config, "dtype": config["dtype"]})
        types = {str(each.dtype).removeprefix("torch.") for each in module.parameters() if each.is_floating_point()}
        only = next(iter(types)) if len(types) == 1 else None
        return replace(self, dtype=only if only in DTYPES else None)

    def plain_config(self, module: Any) -> dict[str, Any] | None:
        """The configuration by which the library itself builds this very architecture, or None where no configuration says it."""
        return library(self.library).plain_config(module, self.edits)

    def per_layer_config(self, module: Any) -> dict[str, dict[str, Any]]:
        """How layers differ from the configuration, in the library's own words; empty where it has none that say it all."""
        return library(self.library).per_layer_config(module, self.edits)

    def as_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads back."""
        edits = [{"kind": edit.kind, "version": edit.version, **edit.model_dump(mode="json")} for edit in self.edits]
        return {
            "library": self.library,
            "class_name": self.class_name,
            "config": dict(self.config),
            "attention": self.attention,
            "edits": edits,
            **({"dtype": self.dtype} if self.dtype else {}),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Blueprint:
        """Read what `as_json` wrote.

        Raises:
            SourceError: something is missing, malformed or of another version.
            PluginError: an edit's kind is not installed.
        """
        try:
            attentions = library(str(values["library"])).attentions
            if values["attention"] not in (None, *attentions):
                raise SourceError(f"attention '{values['attention']}' is none of {', '.join(attentions) or 'none'}")
            if values.get("dtype") not in (None, *DTYPES):
                raise SourceError(f"dtype '{values['dtype']}' is none of {', '.join(DTYPES)}")
            return Blueprint(
                library=str(values["library"]),
                class_name=str(values["class_name"]),
                config=dict(values["config"]),
                attention=values["attention"],
                edits=tuple(_read_edit(dict(edit)) for edit in values["edits"]),
                dtype=values.get("dtype"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"the blueprint is malformed: {told(error)}") from error


def blueprint_of(module: Any) -> Blueprint:
    """The blueprint of a module as its library made it.

    Raises:
        UnsupportedModel: its class is none of a library's models.
    """
    name, of = library_of(module)
    class_name = of.name_of(module)
    assert class_name is not None, "the library knows its own"
    return Blueprint(class_name, of.config_of(module), attention=of.attention_of(module), library=name)


def _read_edit(values: dict[str, Any]) -> Edit:
    kind, version = values.pop("kind"), values.pop("version")
    edit_type: type[Edit] = registry.load("edit", kind)
    if version != edit_type.version:
        raise SourceError(f"edit '{kind}' is of version {version}, this installation reads version {edit_type.version}")
    try:
        return edit_type.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise SourceError(f"edit '{kind}' is malformed: {error}") from error
