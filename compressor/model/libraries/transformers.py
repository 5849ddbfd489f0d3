"""Models of transformers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.contracts import Edit, Library, Loaded
from compressor.contracts.anatomy import Anatomy, Block
from compressor.contracts.model import CONFIG
from compressor.errors import SourceError
from compressor.foreign import told
from compressor.model.anatomy import anatomy_of, trunk_config
from compressor.model.configurations import config_in, harmless, nothing_fetched
from compressor.model.edits import KeepBlocks, KeepHeads, KeepNeurons
from compressor.model.meta import BUILDING_ERRORS
from compressor.model.sources import beside, read_json

if TYPE_CHECKING:
    import torch

NOTED = ("training", "name_or_path", "gradient_checkpointing")
"""Attributes of a part that say where it came from and what is done with it, not what it computes."""


class Transformers(Library):
    """Model classes that transformers itself defines."""

    attentions: ClassVar[tuple[str, ...]] = ("eager", "sdpa")

    def name_of(self, module: Any) -> str | None:
        """The name of its class."""
        cls = type(module)
        if not cls.__module__.startswith("transformers."):
            return None
        try:
            found = self.find(cls.__name__, {"model_type": getattr(getattr(module, "config", None), "model_type", "")})
        except SourceError:
            return None
        return cls.__name__ if found is cls else None

    def find(self, class_name: str, config: Mapping[str, Any]) -> type:
        """Looked up in the package of the model type, then among what transformers offers."""
        import transformers

        model_type = str(config.get("model_type", ""))
        package = model_type.replace("-", "_")
        found = None
        if class_name.isidentifier() and package.isidentifier():
            # a few model types live in a package of another name
            with suppress(ModuleNotFoundError):
                found = getattr(importlib.import_module(f"transformers.models.{package}.modeling_{package}"), class_name, None)
            found = found or getattr(transformers, class_name, None)
        if (
            isinstance(found, type)
            and issubclass(found, transformers.PreTrainedModel)
            and found.__module__.startswith("transformers.")
        ):
            return found
        raise SourceError(
            f"'{class_name}' (model type '{model_type}') is not a model class of transformers {transformers.__version__}; "
            "only those are built"
        )

    def build(self, cls: Any, config: Mapping[str, Any], *, attention: str | None = None) -> Any:
        """By its configuration class, which checks what it takes."""
        import torch
        from accelerate import init_empty_weights
        from huggingface_hub.errors import StrictDataclassError

        chosen = {} if attention is None else {"attn_implementation": attention}
        try:
            with nothing_fetched(), torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
                module = cls._from_config(cls.config_class.from_dict(harmless(config, cls.__name__)), **chosen)
            # on their way to meta, parameters that are one object become several
            module.tie_weights()
            return module
        except (*BUILDING_ERRORS, StrictDataclassError) as error:
            raise SourceError(f"{cls.__name__} cannot be built from its configuration: {told(error)}") from error

    def config_of(self, module: Any) -> dict[str, Any]:
        """All its fields, with the dtype of the weights."""
        values: dict[str, Any] = json.loads(module.config.to_json_string(use_diff=False))
        values.pop("_name_or_path", None)
        values["dtype"] = str(module.dtype).removeprefix("torch.")
        values["architectures"] = [type(module).__name__]
        return values

    def attention_of(self, module: Any) -> str | None:
        """`eager` or `sdpa`: they differ in the last bits."""
        found = module.config._attn_implementation
        return found if found in self.attentions else None

    def tied(self, module: Any) -> dict[str, str]:
        """Those that the library ties, as long as they are really the same object."""
        parameters = dict(module.named_parameters(remove_duplicate=False))
        return {
            target: source
            for target, source in module.all_tied_weights_keys.items()
            if parameters.get(target) is not None and parameters[target] is parameters.get(source)
        }

    def plain_config(self, module: Any, edits: Sequence[Edit]) -> dict[str, Any] | None:
        """Also of a model whose blocks were all cut alike, where the configuration has fields for it."""
        values = self.config_of(module)
        if not edits:
            return values
        if not all(isinstance(edit, KeepHeads | KeepNeurons | KeepBlocks) for edit in edits):
            return None
        anatomy = anatomy_of(module)
        for candidate in (values, _laid_over(values, _sizes(anatomy, anatomy.blocks[0]))):
            if self._same(candidate, module, anatomy):
                return candidate
        return None

    def per_layer_config(self, module: Any, edits: Sequence[Edit]) -> dict[str, dict[str, Any]]:
        """As release 5.23 takes it: sizes of each layer. It has no word for a part that is gone, nor for heads where the family fixes their size.

        All configurations take it; of the families here no model class builds by it yet.
        """
        if not all(isinstance(edit, KeepHeads | KeepNeurons | KeepBlocks) for edit in edits):
            return {}
        anatomy, config = anatomy_of(module), trunk_config(module)
        found: dict[str, dict[str, Any]] = {}
        for number, block in enumerate(anatomy.blocks):
            sizes = _sizes(anatomy, block)
            heads = block.attention.heads if block.attention else 0
            if anatomy.row.config_width not in sizes or sizes.get("num_attention_heads", config.num_attention_heads) != heads:
                return {}
            if not hasattr(config, "num_key_value_heads"):
                sizes.pop("num_key_value_heads", None)
            found[str(number)] = {name: size for name, size in sizes.items() if getattr(config, name, None) != size}
        return {number: sizes for number, sizes in found.items() if sizes}

    def _same(self, values: Mapping[str, Any], module: torch.nn.Module, anatomy: Anatomy) -> bool:
        try:
            stock = self.build(type(module), values)
        except SourceError:
            return False
        return _shapes(stock) == _shapes(module) and anatomy_of(stock) == anatomy and _ways(stock) == _ways(module)

    def reads(self, folder: Path) -> bool:
        """Its configuration names a model type."""
        return (folder / CONFIG).is_file() and "model_type" in read_json(folder / CONFIG)

    def load(self, folder: Path) -> Loaded:
        """The class that the configuration names, by the library's own loader."""
        from compressor.model.pretrained import from_folder

        config = config_in(folder)
        cls = self.find((config.architectures or ("",))[0], {"model_type": config.model_type})
        module, found = from_folder(cls, folder, config)
        if lacking := sorted(found["missing_keys"]):
            raise SourceError(f"{folder} lacks {len(lacking)} weights of {cls.__name__}: {', '.join(lacking[:3])}")
        return Loaded({"model": module.train(False)}, beside(folder))

    def tiny(self) -> Any:
        """A BERT of one block whose output is tied to its embeddings."""
        from transformers import BertConfig, BertForMaskedLM

        shape: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        return BertForMaskedLM(BertConfig(**shape, vocab_size=16, max_position_embeddings=8))


def _laid_over(values: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """A configuration with other sizes of its trunk, which a model of two towers describes apart."""
    if "vision_config" in values:
        return {**values, "vision_config": {**values["vision_config"], **fields}}
    return values | {name: size for name, size in fields.items() if name != "num_key_value_heads" or name in values}


def _sizes(anatomy: Anatomy, block: Block) -> dict[str, Any]:
    """Fields of the configuration that state a block's sizes, as far as it can express them."""
    row, fields = anatomy.row, dict[str, Any]()
    if block.feed_forward is not None and not row.width_in_hidden_sizes:
        fields[row.config_width] = block.feed_forward.width
    # a gated width is rounded from its ratio and cannot be turned back into one
    elif block.feed_forward is not None and block.feed_forward.gate is None:
        ratio, rest = divmod(block.feed_forward.width, anatomy.hidden_size)
        fields |= {} if rest else {row.config_width: ratio}
    if block.attention is not None and row.config_head_size is not None:
        fields |= {"num_attention_heads": block.attention.heads, row.config_head_size: block.attention.head_size}
        fields["num_key_value_heads"] = block.attention.units  # where the family has the field
    return fields


def _shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def _ways(module: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """What parts go by beside their weights and sizes: a scale by the number of the layer, a window, a kind of attention."""

    def told(key: str, value: object) -> bool:
        return isinstance(value, float | str | bool) and key not in NOTED and not key.startswith("_")

    return {name: {key: value for key, value in vars(part).items() if told(key, value)} for name, part in module.named_modules()}
