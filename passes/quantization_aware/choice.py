"""Which layers of a model are quantised, and which stay in float with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

EXCLUDED = "excluded"
OF_THE_HEAD = "of the head (`head: true` quantises it)"


def linear_layers(module: nn.Module, *, head: bool, exclude: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Paths of the linear layers to quantise, and of those that stay in float, with the reason."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from compressor.model.quantization.layers import quantized_layers

    done, chosen, left = quantized_layers(module), [], dict[str, str]()
    trunk = trunk_of(module)
    for path, part in module.named_modules():
        if path in done:
            continue
        if not isinstance(part, (torch.nn.Linear, Conv1D)):
            continue
        if any(each in path for each in exclude):
            left[path] = EXCLUDED
        elif type(part) not in (torch.nn.Linear, Conv1D):
            left[path] = f"of class {type(part).__name__}, which has no quantised form"
        elif trunk and not head and not path.startswith(f"{trunk}."):
            left[path] = OF_THE_HEAD
        else:
            chosen.append(path)
    return tuple(chosen), left


def convolutions(module: nn.Module, *, head: bool, exclude: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Paths of the convolutions that become products, which runtimes have integer kernels for; and of those that stay in float, with the reason."""
    import torch

    from compressor.model.quantization.layers import quantized_layers

    done, chosen, left = quantized_layers(module), [], dict[str, str]()
    trunk = trunk_of(module)
    for path, part in module.named_modules():
        if path in done or not isinstance(part, torch.nn.modules.conv._ConvNd):
            continue
        if any(each in path for each in exclude):
            left[path] = EXCLUDED
        elif trunk and not head and not path.startswith(f"{trunk}."):
            left[path] = OF_THE_HEAD
        elif reason := _unfit(part):
            left[path] = reason
        else:
            chosen.append(path)
    return tuple(chosen), left


def _unfit(part: Any) -> str | None:
    """Why a convolution does not become a product of windows."""
    import torch

    from compressor.deploy.windows import FEWEST, is_product

    if type(part) not in (torch.nn.Conv1d, torch.nn.Conv2d):
        return f"of class {type(part).__name__}, which has no quantised form"
    if part.groups > 1 or any(each != 1 for each in part.dilation):
        return "convolutions in groups or with gaps"
    if part.padding_mode != "zeros":
        return f"convolutions with edges by `{part.padding_mode}`"
    if part.weight[0].numel() < FEWEST:
        return f"convolutions that read fewer than {FEWEST} numbers at a time, such as samples of a sound"
    padded = part.padding == "same" or (part.padding != "valid" and any(part.padding))
    if is_product(part.in_channels, part.kernel_size, part.stride, padded=padded):
        return None
    if all(size == 1 for size in part.kernel_size):
        return "convolutions of single pixels"
    return "convolutions over patches of pixels that overlap, leave some out or are padded"


def trunk_of(module: Any) -> str:
    """The name under which a model with a head holds its trunk; empty where the model is a trunk itself.

    Classifiers of sounds by Whisper hold half of the trunk, and not by the name that their family has for all of it: it is the one part that
    is a model of its own.
    """
    from transformers import PreTrainedModel

    prefix = getattr(module, "base_model_prefix", "")
    if prefix and hasattr(module, prefix):
        return prefix
    models = [name for name, part in module.named_children() if isinstance(part, PreTrainedModel)]
    return models[0] if len(models) == 1 else ""


def table_of(module: Any, exclude: Sequence[str] = ()) -> tuple[str | None, dict[str, str]]:
    """Path of the table of words, None where none is to be quantised; and a table that stays in float, with the reason."""
    import torch

    try:
        table = module.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # of models that read no words
        return None, {}
    if not isinstance(table, torch.nn.Embedding) or (path := next(_places(module, table), None)) is None:
        return None, {}
    if any(each in path for each in exclude):
        return None, {path: EXCLUDED}
    if type(table) is not torch.nn.Embedding:
        return None, {path: f"of class {type(table).__name__}, which has no quantised form"}
    if table.max_norm is not None:
        return None, {path: "whose rows are brought to a norm when they are read"}
    return path, {}


def tied_to(module: nn.Module, table: str) -> tuple[str, ...]:
    """Paths of the layers whose weight is that of a table."""
    weight = module.get_submodule(table).weight
    return tuple(path for path, part in module.named_modules() if path != table and getattr(part, "weight", None) is weight)


def _places(module: nn.Module, part: nn.Module) -> Iterator[str]:
    return (path for path, each in module.named_modules() if each is part)
