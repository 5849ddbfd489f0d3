"""Parameters spread over the processes of a group by torch's `fully_shard` (FSDP2): each process holds its rows of every tensor.

While a block is computed its parameters are gathered in all processes, and let go afterwards; what lies outside the blocks (embeddings,
norms, the head) is gathered for the whole of a call. So all processes have to make the same calls, in the same order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compressor.errors import SourceError, UnsupportedModel

if TYPE_CHECKING:
    import torch

Found = TypeVar("Found")

ROOT = "_gathered_by"
"""Attribute of a spread module: what gathers the parameters outside its blocks."""
ALIGNED = 8
"""Bytes that a header of safetensors is filled up to a multiple of."""


def shard(module: torch.nn.Module, device: str) -> None:
    """Spread the parameters of a module, on meta or in memory, over all processes: each block by itself, the rest together.

    Gradients are added up over the processes, not averaged. torch: `torch.distributed.fsdp.fully_shard`; Zhao et al., PyTorch FSDP, 2023,
    arXiv:2304.11277.

    Raises:
        UnsupportedModel: a layer is quantised, or a parameter is a single number, which has no rows.
    """
    import torch
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if quantized := next((name for name, each in module.named_modules() if hasattr(each, "weight_quantizer")), None):
        raise UnsupportedModel(f"{quantized} is quantised, and steps are of whole rows and matrices: train it without --sharded")
    if single := next((name for name, each in module.named_parameters() if each.ndim == 0), None):
        raise UnsupportedModel(f"{single} is a single number: parameters are spread by their rows")
    mesh = init_device_mesh(torch.device(device).type, (distributed.get_world_size(),))
    root = _rest()(module)
    for part in (*_blocks(module), root):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)  # gloo has sums only
    object.__setattr__(module, ROOT, root)  # torch's own would make it a part of the module
    object.__setattr__(module, "_apply", partial(_stays, module, device))


def gathered(modules: Iterable[torch.nn.Module], compute: Callable[[], Found]) -> Found:
    """What `compute` gives, with all that lies outside the blocks of these modules, or of modules inside of them, gathered meanwhile.

    Where one of them learns, tensors in a result that can be learned from have to be its items. Modules that are not spread are left alone.
    """
    import torch

    for root in [root for module in modules for root in roots(module)]:
        learns = torch.is_grad_enabled() and any(each.requires_grad for each in root.parameters())
        compute = _through(root, compute, learns=learns)
    return compute()


def roots(module: torch.nn.Module) -> list[Any]:
    """What gathers the rest of each spread module inside, or of this one."""
    return [vars(each)[ROOT] for each in module.modules() if ROOT in vars(each)]


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether this process holds only some rows of a tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def own(tensor: torch.Tensor) -> torch.Tensor:
    """The rows that this process holds, in the same memory and without gradients; of a tensor that is not spread all of them."""
    found: Any = tensor.detach()
    return found.to_local() if is_sharded(tensor) else found  # type: ignore[no-any-return]


def like(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """These rows as this process's share of a tensor that is spread as `tensor` is; what is not spread as it is."""
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return rows
    mesh, placements = tensor.device_mesh, tensor.placements
    return DTensor.from_local(rows, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride())


def held_bytes(module: torch.nn.Module) -> tuple[int, int]:
    """Bytes of memory that the parameters of a module take in this process, and bytes of all its parameters."""
    held = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in map(own, module.parameters())}
    return sum(held.values()), sum(each.numel() * each.element_size() for each in module.parameters())


# ------------------------------------------------------------------ files


def read_shares(path: Path, expected: Mapping[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    """Tensors of a file by name; of those that are spread only this process's rows are read. What is not expected has no contents.

    Raises:
        SourceError: it cannot be read.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            shapes = {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
            fitting = {name for name, each in shapes.items() if name in expected and each.shape == expected[name].shape}
            return shapes | {name: _share(file, name, expected[name], device) for name in sorted(fitting)}
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{path} cannot be read as safetensors: {error}") from error


def _share(file: Any, name: str, expected: torch.Tensor, device: str) -> torch.Tensor:
    if not is_sharded(expected):
        return file.get_tensor(name).to(device, copy=True)  # type: ignore[no-any-return]
    mesh: Any = expected.device_mesh  # type: ignore[attr-defined]
    size = math.ceil(expected.shape[0] / mesh.size())
    first = min(mesh.get_local_rank() * size, expected.shape[0])
    rows = file.get_slice(name)[first : min(first + size, expected.shape[0])]
    return like(expected, rows.to(device, copy=True))


def write_gathered(tensors: Mapping[str, torch.Tensor], path: Path, *, first: bool) -> None:
    """Write tensors as safetensors does, to the byte, gathered one after the other: no process holds more than one whole.

    Args:
        tensors: equal names in all processes, which all have to come here.
        path: of the file.
        first: whether this process is the one that writes.

    Raises:
        OSError: the first process cannot write; it has given its shares to the others all the same.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    parts = (_whole(tensors[name]) for name in order)
    try:
        if first:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(_header({name: tensors[name] for name in order}))
                for part in parts:
                    file.write(part)
    finally:
        for _ in parts:  # the others wait for what this process holds of each
            pass


def _whole(tensor: torch.Tensor) -> memoryview:
    import torch

    given: Any = tensor.detach()
    found = given.full_tensor() if is_sharded(tensor) else given
    return found.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data  # type: ignore[no-any-return]


def _header(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Names, types, shapes and places of tensors that lie one after the other."""
    from safetensors.torch import _TYPES

    names = {dtype: name for name, dtype in _TYPES.items()}
    described, start = dict[str, Any](__metadata__={"format": "pt"}), 0
    for name, each in tensors.items():
        end = start + each.numel() * each.element_size()
        described[name] = {"dtype": names[each.dtype], "shape": list(each.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // ALIGNED) * ALIGNED)
    return len(text).to_bytes(8, "little") + text


# ------------------------------------------------------------------ what gathers


def _stays(module: torch.nn.Module, device: str, convert: Callable[[torch.Tensor], torch.Tensor], _recurse: bool = True) -> Any:
    """What `to` comes to: nothing where all is as asked for. Torch's own would put new memory in place of what is gathered and learned.

    Raises:
        UnsupportedModel: the module would move, or have numbers of another type.
    """
    import torch

    for dtype in {each.dtype for each in module.parameters()}:
        found = convert(torch.empty(0, dtype=dtype, device=device))
        if found.dtype != dtype or found.device.type != torch.device(device).type:
            raise UnsupportedModel(f"a model that is spread over processes stays on {device} in {dtype}")
    return module


def _blocks(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The modules in the outermost lists inside that have parameters."""
    from torch import nn

    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from (each for each in child if not isinstance(each, nn.ModuleList) and any(True for _ in each.parameters()))
        else:
            yield from _blocks(child)


def _through(root: Any, compute: Callable[[], Any], *, learns: bool) -> Callable[[], Any]:
    """`compute` as a call of a root; what is only looked at leaves no trace for a backward pass.

    Torch notes the blocks of every call, and gathers by these notes ahead of a backward pass: notes of a call that none follows had it gather
    blocks that nobody let go of, and the next step saw their parameters of before.
    """
    if learns:
        return lambda: root(compute)

    def aside() -> Any:
        found: list[Any] = []
        root(lambda: found.append(compute()))
        root.reset_iter_state()
        return found[0]

    return aside


@cache
def _rest() -> Any:
    """A class made once: torch is imported where it is needed."""
    import torch

    class Rest(torch.nn.Module):
        """Holds a module and calls what it is given: around that call, torch gathers what lies outside the module's blocks."""

        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, compute: Callable[[], Any]) -> Any:
            return compute()

    return Rest
