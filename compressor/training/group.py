"""A group of processes that train one model, and the module and rows that each of them computes with."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from compressor.contracts import Batch, derived_seed
from compressor.errors import MissingDependency

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")


class Group:
    """The processes of this training, as `accelerate` has set them up; one alone is a group too."""

    def __init__(self) -> None:
        from accelerate import PartialState

        state = PartialState()
        self.rank: int = state.process_index
        self.size: int = state.num_processes

    def seed(self, seed: int, stage: int = 0) -> None:
        """Seed all generators that training draws from: each process draws its own dropout, and each training of a step."""
        import numpy as np
        import torch

        own = derived_seed(seed, "process", self.rank, *((stage,) if stage else ()))
        random.seed(own)
        np.random.seed(own)
        torch.manual_seed(own)

    def same(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Give every process the tensors of the first one, in place; of tensors that are spread each holds its own share."""
        import torch
        from accelerate.utils import broadcast

        from compressor.model.sharding import is_sharded

        with torch.no_grad():
            for tensor in tensors.values():
                if not is_sharded(tensor):
                    broadcast(tensor)
        return tensors

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""
        from accelerate.utils import reduce

        found: torch.Tensor = reduce(tensor, "sum")
        return found

    def gathered(self, value: Value) -> list[Value]:
        """The value of each process, in their order: a JSON value. It travels as text, since what arrives is not to be unpickled."""
        return [value] if self.size == 1 else [json.loads(text) for text in self._texts(json.dumps(value).encode())]

    def _texts(self, text: bytes) -> list[bytes]:
        """The text of each process: as many bytes from all of them as the longest has, and how many each has."""
        import torch
        from accelerate import PartialState
        from torch.distributed import all_gather

        device = PartialState().device
        lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(self.size)]
        all_gather(lengths, torch.tensor([len(text)], device=device))
        padded = text.ljust(max(map(int, lengths)), b"\0")
        found = [torch.zeros(len(padded), dtype=torch.uint8, device=device) for _ in range(self.size)]
        all_gather(found, torch.frombuffer(bytearray(padded), dtype=torch.uint8).to(device))
        return [bytes(each.cpu().numpy())[: int(length)] for each, length in zip(found, lengths, strict=True)]

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Put the sum over all processes in place of each gradient, in one message; those that are spread are summed already."""
        import torch

        from compressor.model.sharding import is_sharded

        parameters = [parameter for parameter in parameters if not is_sharded(parameter)]
        if self.size == 1 or not parameters:
            return
        for parameter in parameters:  # what had no part in one process's share (a dropped layer) may have had one in another's
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.summed(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for gradient, part in zip(gradients, torch.split(flat, [each.numel() for each in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def norm(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """Length of all gradients together, which are summed already; of spread ones each process holds a share."""
        import torch

        from compressor.model.sharding import is_sharded, own

        whole = torch.nn.utils.get_total_norm([each for each in gradients if not is_sharded(each)])
        if not (shares := [own(each) for each in gradients if is_sharded(each)]):
            return whole
        squares = self.summed(torch.nn.utils.get_total_norm(shares).square().reshape(1))
        return (whole.to(squares.device).square() + squares).sqrt().reshape(())


def rows_of(batch: Batch) -> int:
    """How many rows a batch has."""
    return len(next(iter(batch.values())))


def parts(
    batch: Batch, rank: int, size: int, accumulate: int, weight: Callable[[Batch], float] = rows_of, *, alike: bool = False
) -> Iterator[tuple[Batch, float]]:
    """What process `rank` of `size` computes of a batch: parts of its rows, each with its share of the batch's weight.

    A process without a row takes the first one with a share of 0, so that it has gradients to sum; with `alike` all processes have as many
    parts, filled up in that way.
    """
    rows, count = rows_of(batch), size * accumulate
    starts = [start for start in range(rank * accumulate, (rank + 1) * accumulate) if start < rows]
    if count == 1:
        yield batch, 1.0
        return
    whole = weight(batch)
    for start in starts:
        part = {name: tensor[start::count] for name, tensor in batch.items()}
        yield part, weight(part) / whole if whole else 0.0
    for _ in range((accumulate if alike else 1) - len(starts)):
        yield {name: tensor[:1] for name, tensor in batch.items()}, 0.0


def check_compiler(device: str) -> None:
    """Refuse to compile where there is nothing to do it with.

    Raises:
        MissingDependency: code for this CPU cannot be compiled here.
    """
    compiler = os.environ.get("CXX", "g++")
    if device == "cpu" and not (shutil.which(compiler) or shutil.which("clang++")):
        raise MissingDependency(
            f"compile: true needs a C++ compiler, and there is no {compiler}: install one or leave compile out"
        )


@contextmanager
def compiled(trained: torch.nn.Module, device: str) -> Iterator[None]:
    """Have the forward passes of a module, or of each one in a list, compiled while they train; shapes may vary.

    Raises:
        MissingDependency: code for this CPU cannot be compiled here.
    """
    import torch

    check_compiler(device)
    modules = list(trained) if isinstance(trained, torch.nn.ModuleList) else [trained]
    for module in modules:
        module.forward = torch.compile(module.forward, dynamic=True)
    try:
        yield
    finally:
        for module in modules:
            del module.forward
