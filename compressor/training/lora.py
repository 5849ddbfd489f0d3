"""Training by small matrices beside the large ones (LoRA), which are added to these when it is over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from compressor.errors import MissingDependency, UnsupportedModel

if TYPE_CHECKING:
    import torch


class Lora(BaseModel):
    """A pair of matrices `[rank, in]` and `[out, rank]` beside each linear layer of the blocks, whose product times `alpha / rank` is added."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=16, ge=1, le=4096, description="Inner size of the matrices.")
    alpha: float = Field(default=32.0, gt=0, description="Their product is added times `alpha / rank`.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Of what enters them.")


def in_float(lora: Lora | None) -> Mapping[str, str]:
    """What a step that adapts says of its `lora` in `Needs.floats`."""
    return {} if lora is None else {"lora": "small matrices are added to layers in float"}


@contextmanager
def adapted(module: torch.nn.Module, lora: Lora | None, *, seed: int) -> Iterator[None]:
    """Meanwhile only the small matrices learn; afterwards the module is what it was, with their products added to its weights.

    Nothing is done without `lora`. The output head has none.

    Raises:
        MissingDependency: peft is not installed.
        UnsupportedModel: there is no linear layer to put one beside, or one is quantised.
    """
    if lora is None:
        yield
        return
    import torch

    from compressor.model.quantization.layers import quantized_layers

    if quantized := next(iter(quantized_layers(module)), None):
        raise UnsupportedModel(
            f"lora: '{quantized}' is quantised, and its sum with small matrices would be rounded only afterwards: leave lora out"
        )

    peft = _peft()
    learned = {name for name, each in module.named_parameters() if each.requires_grad}
    torch.manual_seed(seed)
    given = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "target_modules": _targets(module)}
    peft.inject_adapter_in_model(peft.LoraConfig(**given), module)
    try:
        yield
        _put_back(module, merged=True)
    finally:
        _put_back(module, merged=False)
        for name, each in module.named_parameters():
            each.requires_grad_(name in learned)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingDependency("lora needs peft, which is not installed: pip install 'compressor-toolchain[llm]'") from error
    return peft


def _targets(module: Any) -> list[str]:
    """Linear layers inside, without those before and behind the blocks."""
    import torch
    from transformers.pytorch_utils import Conv1D

    lists = [name for name, each in module.named_modules() if isinstance(each, torch.nn.ModuleList)]
    found = [
        name
        for name, each in module.named_modules()
        if isinstance(each, torch.nn.Linear | Conv1D) and any(name.startswith(f"{stack}.") for stack in lists)
    ]
    if not found:
        raise UnsupportedModel("lora: the model has no linear layer in a list of blocks to put small matrices beside")
    return found


def _put_back(module: torch.nn.Module, *, merged: bool) -> None:
    """Put the layers back where they were, with the products added to their weights or without."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in [(name, each) for name, each in module.named_modules() if isinstance(each, BaseTunerLayer)]:
        if merged:
            layer.merge(safe_merge=True)
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        del module.peft_config
