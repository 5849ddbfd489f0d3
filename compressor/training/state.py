"""What a training changes, by name, and memory that runs out while it does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from compressor.errors import OutOfMemory
from compressor.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch

OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|alloc_cpu")
"""In what torch says where a processor or GPU has no memory left."""


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
    """Copy tensors into what is learned, by name."""
    import torch

    here = learned(trained)
    with torch.no_grad():
        for name, tensor in tensors.items():
            here[name].copy_(tensor)


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with a prefix before each name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def stripped(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those that have the prefix, without it."""
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}
