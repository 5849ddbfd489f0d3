"""Graphs without weights, kept while the process lives: models of one structure are traced once, and each then brings its own weights.

A run lowers several models of one structure (a source and its fine-tuned copy, a student before and after distillation), and tracing is
nine tenths of an export. Torch traces with tensors that have shapes and no values, so a graph depends on weights by their names, shapes
and types alone.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import onnx_ir
    import torch
    from torch.onnx import ONNXProgram

MOST_KEPT = 8
"""Graphs: those of a few structures, a language model's prefill and decode each."""
PLACES = ("_name_or_path", "name_or_path", "_commit_hash")
"""What a configuration notes of where it came from."""
HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")
PLAIN = (type(None), bool, int, float, complex, str, bytes, PurePath, Enum, type, types.FunctionType, types.BuiltinFunctionType)


class Unknown(Exception):
    """A module holds something of which nobody can say whether two are alike."""


class Traced:
    """What was traced, by structure; those asked for last are kept."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._kept: OrderedDict[Hashable, onnx_ir.Model] = OrderedDict()
        self._most = most

    def graph(
        self, wired: torch.nn.Module, inner: torch.nn.Module, how: Hashable, trace: Callable[[], ONNXProgram]
    ) -> onnx.ModelProto:
        """The optimised graph of a module with its weights.

        Args:
            wired: what is traced, in eval mode.
            inner: what it holds; the rest of it is told by `how`.
            how: what else the graph depends on.
            trace: exports it, not optimised.
        """
        from torch.onnx import ONNXProgram

        key = (structure(inner), how)
        bare = self._kept.pop(key, None) or _bare(trace().model, wired)
        if key[0] is not None:
            self._kept[key] = bare
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        program = ONNXProgram(bare.clone(), None)
        program.apply_weights(_weights(wired, bare))
        program.optimize()
        return program.model_proto


def _weights(wired: torch.nn.Module, graph: onnx_ir.Model) -> dict[str, torch.Tensor]:
    """Those that a graph has a place for."""
    return {name: tensor for name, tensor in wired.state_dict().items() if name in graph.graph.initializers}


def _bare(graph: onnx_ir.Model, wired: torch.nn.Module) -> onnx_ir.Model:
    """Let go of the weights: a graph that is kept holds none of the model it was traced from."""
    for name in _weights(wired, graph):
        graph.graph.initializers[name].const_value = None
    return graph


# ------------------------------------------------------------------ structure


def structure(module: torch.nn.Module) -> Hashable:
    """All that decides how a module computes except its weights' values; equal for modules that are traced to one graph.

    Nothing where a module holds something that cannot be told: it equals no other then. Classes and functions count by identity.
    """
    try:
        return _structure(module)
    except Unknown:
        return None


def _structure(module: torch.nn.Module) -> Hashable:
    places = {id(part): name for name, part in module.named_modules()}
    lasting = set(module.state_dict(keep_vars=True))
    first: dict[int, str] = {}
    tensors = tuple(
        (
            name,
            first.setdefault(id(tensor), name),
            str(tensor.dtype),
            tuple(tensor.shape),
            None if name in lasting else _digest(tensor),
        )
        for named in (module.named_parameters, module.named_buffers)
        for name, tensor in named(remove_duplicate=False)
    )
    parts = tuple(
        (name, places[id(part)], type(part), type(part).forward, _attributes(part, places))
        for name, part in module.named_modules(remove_duplicate=False)
    )
    return (parts, tensors)


def _attributes(part: torch.nn.Module, places: Mapping[int, str]) -> Hashable:
    import torch

    own = set(vars(torch.nn.Module()))
    if any(held for name, held in vars(part).items() if name.endswith(HOOKS)):
        raise Unknown
    return (*_items({name: value for name, value in vars(part).items() if name not in own}, places, ()), part.training)


def _items(values: Mapping[Any, Any], places: Mapping[int, str], within: tuple[int, ...]) -> tuple[Hashable, ...]:
    return tuple(
        (_spelled(name, places, within), _spelled(value, places, within)) for name, value in values.items() if name not in PLACES
    )


def _spelled(value: Any, places: Mapping[int, str], within: tuple[int, ...]) -> Hashable:
    import torch

    if isinstance(value, PLAIN):
        return (type(value), value)
    if id(value) in within:
        return ("within", within.index(id(value)))
    within = (*within, id(value))
    if isinstance(value, torch.nn.Module):
        if id(value) in places:
            return ("module", places[id(value)])
        raise Unknown
    if isinstance(value, torch.Tensor):
        return ("tensor", _digest(value))
    if isinstance(value, (torch.dtype, torch.device)):
        return (type(value), str(value))
    if isinstance(value, Mapping):
        return (type(value), _items(value, places, within))
    if isinstance(value, (list, tuple)):
        return (type(value), tuple(_spelled(each, places, within) for each in value))
    if isinstance(value, (set, frozenset)):
        return (type(value), frozenset(_spelled(each, places, within) for each in value))
    if isinstance(value, functools.partial):
        return ("partial", _spelled((value.func, value.args, value.keywords), places, within))
    if isinstance(value, types.MethodType):
        return ("method", value.__func__, _spelled(value.__self__, places, within))
    if is_dataclass(value):
        return (type(value), tuple(_spelled(getattr(value, each.name), places, within) for each in fields(value)))
    if hasattr(value, "to_diff_dict"):  # a configuration of transformers
        return (type(value), _items(vars(value), places, within))
    raise Unknown


def _digest(tensor: torch.Tensor) -> str:
    if tensor.is_meta:
        raise Unknown
    kept = tensor.detach().cpu().contiguous()
    import torch

    head = f"{kept.dtype} {tuple(kept.shape)} ".encode()
    return hashlib.sha256(head + kept.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
