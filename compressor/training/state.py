"""What a training changes, by name, and memory that runs out while it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compressor.contracts.failing import OUT_OF_MEMORY
from compressor.errors import OutOfMemory, UnsupportedModel
from compressor.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch


@contextmanager
def out_of_memory_told(settings: TrainingSettings, where: str) -> Iterator[None]:
    """Tell memory that ran out as what it is, with what to do about it.

    Raises:
        OutOfMemory: what was done needs more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
            raise
        raise OutOfMemory(
            f"out of memory at {where}: try accumulate: {2 * settings.accumulate} (now {settings.accumulate}; the same step in more "
            f"parts) or a smaller batch_size (now {settings.batch_size})"
        ) from error


def learned(trained: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What training changes: parameters that are not frozen, shared ones once, and buffers."""
    parameters = {name: parameter for name, parameter in trained.named_parameters() if parameter.requires_grad}
    return {**parameters, **dict(trained.named_buffers())}


def put(trained: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into what is learned, by name; of what is spread over processes, this one's rows."""
    import torch

    from compressor.model.sharding import own

    here = learned(trained)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own(here[name]).copy_(own(tensor))


def spread(trained: torch.nn.Module) -> bool:
    """Whether parameters are spread over processes.

    Raises:
        UnsupportedModel: they are, and layers are left out at random: processes would wait for each other.
    """
    from compressor.model.sharding import roots

    if not roots(trained):
        return False
    if any(each.training and _layer_drop(each) for each in trained.modules()):
        raise UnsupportedModel("the model leaves out layers at random, each process others: with --sharded set dropout: false")
    return True


def _layer_drop(part: Any) -> float:
    """How often a part leaves out a layer, as it says itself or by its configuration."""
    own = getattr(part, "layerdrop", None)
    found: float = getattr(getattr(part, "config", None), "layerdrop", 0) if own is None else own
    return found or 0


def held(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What this process holds of each tensor."""
    from compressor.model.sharding import own

    return {name: own(tensor) for name, tensor in tensors.items()}


def alike(here: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `held` gave, spread as the tensors of equal names `here` are."""
    from compressor.model.sharding import like

    return {name: like(here[name], tensor) for name, tensor in tensors.items()}


def apart(losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The losses, none a view of another tensor: what gathers parameters again for a backward pass hangs on them."""
    return {name: loss.clone() for name, loss in losses.items()}


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with a prefix before each name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def stripped(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those that have the prefix, without it."""
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}
