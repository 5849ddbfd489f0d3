"""How a component is built without its weights: class, configuration and edits, as data that JSON can hold."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from compressor.contracts import Edit, registry
from compressor.contracts.anatomy import Anatomy
from compressor.errors import SourceError, UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepBlocks, KeepHeads, KeepNeurons

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ATTENTION_IMPLEMENTATIONS = ("eager", "sdpa")
"""Implementations that every machine has; a model that uses another one is rebuilt with the library's choice."""


@dataclass(frozen=True)
class Blueprint:
    """A component without its weights: the class is built from `config`, then the edits are replayed in order."""

    class_name: str
    config: Mapping[str, Any]
    """The configuration before any edit, as JSON values."""
    edits: tuple[Edit, ...] = ()
    attention: str | None = None
    """Which of the library's attention implementations runs: they differ in the last bits."""
    library: str = field(default="transformers")

    def extended(self, edit: Edit) -> Blueprint:
        """The same with one more edit at its end."""
        return replace(self, edits=(*self.edits, edit))

    def build(self) -> PreTrainedModel:
        """The module with its parameters on meta and its buffers in memory, in eval mode.

        Raises:
            SourceError: the class is none of the library's models, or it does not take the configuration.
            UnsupportedModel: an edit does not fit.
        """
        module = build(find_class(self), self.config, attention=self.attention)
        for edit in self.edits:
            edit.apply(module)
        module.train(False)
        return module

    def as_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads back."""
        edits = [{"kind": edit.kind, "version": edit.version, **edit.model_dump(mode="json")} for edit in self.edits]
        return {
            "library": self.library,
            "class_name": self.class_name,
            "config": dict(self.config),
            "attention": self.attention,
            "edits": edits,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Blueprint:
        """Read what `as_json` wrote.

        Raises:
            SourceError: something is missing, malformed or of another version.
            PluginError: an edit's kind is not installed.
        """
        try:
            if values["attention"] not in (None, *ATTENTION_IMPLEMENTATIONS):
                raise SourceError(f"attention '{values['attention']}' is none of {', '.join(ATTENTION_IMPLEMENTATIONS)}")
            return Blueprint(
                library=values["library"],
                class_name=str(values["class_name"]),
                config=dict(values["config"]),
                attention=values["attention"],
                edits=tuple(_read_edit(dict(edit)) for edit in values["edits"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"the blueprint is malformed: {type(error).__name__}: {error}") from error


def blueprint_of(module: PreTrainedModel) -> Blueprint:
    """The blueprint of a module as the library made it.

    Raises:
        UnsupportedModel: its class is none of the library's models.
    """
    attention = module.config._attn_implementation
    blueprint = Blueprint(
        class_name=type(module).__name__,
        config=config_values(module),
        attention=attention if attention in ATTENTION_IMPLEMENTATIONS else None,
    )
    try:
        found: type | None = find_class(blueprint)
    except SourceError:
        found = None
    if found is not type(module):
        raise UnsupportedModel(
            f"{type(module).__module__}.{type(module).__qualname__} is not a model class of transformers: "
            "it could be saved but not loaded again"
        )
    return blueprint


def find_class(blueprint: Blueprint) -> type[PreTrainedModel]:
    """The model class of a blueprint, looked up among those that transformers itself defines and nowhere else.

    Raises:
        SourceError: there is no such class.
    """
    import transformers

    name, model_type = blueprint.class_name, str(blueprint.config.get("model_type", ""))
    package = model_type.replace("-", "_")
    found = None
    if blueprint.library == "transformers" and name.isidentifier() and package.isidentifier():
        # a few model types live in a package of another name
        with suppress(ModuleNotFoundError):
            found = getattr(importlib.import_module(f"transformers.models.{package}.modeling_{package}"), name, None)
        found = found or getattr(transformers, name, None)
    if (
        isinstance(found, type)
        and issubclass(found, transformers.PreTrainedModel)
        and found.__module__.startswith("transformers.")
    ):
        return found
    raise SourceError(
        f"'{name}' of '{blueprint.library}' (model type '{model_type}') is not a model class of "
        f"transformers {transformers.__version__}; only those are built"
    )


def build(cls: type[PreTrainedModel], config: Mapping[str, Any], *, attention: str | None = None) -> PreTrainedModel:
    """A module of the class with its parameters on meta; the random state of the caller stays as it was.

    Raises:
        SourceError: the class does not take the configuration.
    """
    import torch
    from accelerate import init_empty_weights
    from huggingface_hub.errors import StrictDataclassError

    chosen = {} if attention is None else {"attn_implementation": attention}
    try:
        settings = cls.config_class.from_dict(_without_kernels(config))  # type: ignore[union-attr]
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            module: PreTrainedModel = cls._from_config(settings, **chosen)  # type: ignore[no-untyped-call]
        # on their way to meta, parameters that are one object become several
        module.tie_weights()
        return module
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RuntimeError, StrictDataclassError) as error:
        raise SourceError(f"{cls.__name__} cannot be built from its configuration: {type(error).__name__}: {error}") from error


def config_values(module: PreTrainedModel) -> dict[str, Any]:
    """The configuration of a module as JSON values, with the dtype of its weights and without the folder it came from."""
    values: dict[str, Any] = json.loads(module.config.to_json_string(use_diff=False))
    values.pop("_name_or_path", None)
    values["dtype"] = str(module.dtype).removeprefix("torch.")
    values["architectures"] = [type(module).__name__]
    return values


def plain_config(module: PreTrainedModel, blueprint: Blueprint) -> dict[str, Any] | None:
    """The stock configuration that builds this very architecture without any edit, or None where there is none."""
    values = config_values(module)
    if not blueprint.edits:
        return values
    if not all(isinstance(edit, KeepHeads | KeepNeurons | KeepBlocks) for edit in blueprint.edits):
        return None
    anatomy = anatomy_of(module)
    for candidate in (values, _laid_over(values, _uniform(anatomy))):
        if _same(candidate, module, anatomy):
            return candidate
    return None


def _laid_over(values: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """A configuration with other sizes of its trunk, which a model of two towers describes apart."""
    if "vision_config" in values:
        return {**values, "vision_config": {**values["vision_config"], **fields}}
    if "num_key_value_heads" in values and "num_attention_heads" in fields:
        fields = {**fields, "num_key_value_heads": fields["num_attention_heads"]}
    return values | fields


def _uniform(anatomy: Anatomy) -> dict[str, Any]:
    """Fields of the configuration that state the first block's sizes for all blocks, as far as it can express them."""
    row, first, fields = anatomy.row, anatomy.blocks[0], dict[str, Any]()
    if first.feed_forward is not None and not row.width_in_hidden_sizes:
        fields[row.config_width] = first.feed_forward.width
    # a gated width is rounded from its ratio and cannot be turned back into one
    elif first.feed_forward is not None and first.feed_forward.gate is None:
        ratio, rest = divmod(first.feed_forward.width, anatomy.hidden_size)
        fields |= {} if rest else {row.config_width: ratio}
    if first.attention is not None and row.config_head_size is not None:
        fields |= {"num_attention_heads": first.attention.heads, row.config_head_size: first.attention.head_size}
    return fields


def _same(values: Mapping[str, Any], module: PreTrainedModel, anatomy: Anatomy) -> bool:
    try:
        stock = build(type(module), values)
    except SourceError:
        return False
    return _shapes(stock) == _shapes(module) and anatomy_of(stock) == anatomy


def _without_kernels(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the fields that can name code on a hub."""
    kept = {name: value for name, value in config.items() if not name.endswith(("attn_implementation", "experts_implementation"))}
    return {name: _without_kernels(value) if isinstance(value, Mapping) else value for name, value in kept.items()}


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _read_edit(values: dict[str, Any]) -> Edit:
    kind, version = values.pop("kind"), values.pop("version")
    edit_type: type[Edit] = registry.load("edit", kind)
    if version != edit_type.version:
        raise SourceError(f"edit '{kind}' is of version {version}, this installation reads version {edit_type.version}")
    try:
        return edit_type.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise SourceError(f"edit '{kind}' is malformed: {error}") from error
