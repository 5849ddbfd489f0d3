"""Graphs without weights, kept while the process lives: models of one structure are traced once, and each then brings its own weights.

A run lowers several models of one structure (a source and its fine-tuned copy, a student before and after distillation), and tracing is
nine tenths of an export. Torch traces with tensors that have shapes and no values, so a graph depends on weights by their names, shapes
and types alone. Whoever patches classes or modules that a model computes by between two exports has to empty `Traced` by `clear`.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
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
PLAIN = (type(None), bool, int, str, bytes, PurePath, Enum, type)
SPEC = "pkg.torch.export.graph_signature.InputSpec."
"""Where the exporter notes what an initializer was."""


class Unknown(Exception):
    """A module holds something of which nobody can say whether two are alike."""


class Traced:
    """What was traced, by structure; those asked for last are kept."""

    def __init__(self, most: int = MOST_KEPT) -> None:
        self._kept: OrderedDict[Hashable, onnx_ir.Model] = OrderedDict()
        self._most = most

    def clear(self) -> None:
        """Keep nothing of what was traced so far."""
        self._kept.clear()

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
        told = structure(inner)
        program = trace() if told is None else self._filled((told, how), wired, trace)
        program.optimize()
        return program.model_proto

    def _filled(self, key: Hashable, wired: torch.nn.Module, trace: Callable[[], ONNXProgram]) -> ONNXProgram:
        from torch.onnx import ONNXProgram

        bare, weights = self._kept.pop(key, None), _tensors(wired)
        if bare is None:
            program = trace()
            if not _learned(program.model) <= set(weights):  # under another name it would stay what it was in the first model
                return program
            bare = _bare(program.model, weights)
        self._kept[key] = bare
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        program = ONNXProgram(bare.clone(), None)
        program.apply_weights({name: tensor for name, tensor in weights.items() if name in bare.graph.initializers})
        return program


def _tensors(wired: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by each of their names, as the exporter gives them."""
    return {
        name: tensor.detach()
        for named in (wired.named_parameters, wired.named_buffers)
        for name, tensor in named(remove_duplicate=False)
    }


def _learned(graph: onnx_ir.Model) -> set[str]:
    """Initializers that were parameters or buffers of the module that was traced."""
    named = graph.graph.initializers.items()
    return {name for name, value in named if value.metadata_props.get(f"{SPEC}kind") in ("PARAMETER", "BUFFER")}


def _bare(graph: onnx_ir.Model, weights: Mapping[str, torch.Tensor]) -> onnx_ir.Model:
    """Let go of the weights, and of what the exporter traced by; constants are copied. A graph that is kept holds nothing of the model."""
    import onnx_ir

    for name in weights:
        if name in graph.graph.initializers:
            graph.graph.initializers[name].const_value = None
    for value in graph.graph.initializers.values():
        if value.const_value is not None:
            value.const_value = onnx_ir.Tensor(value.const_value.numpy().copy(), dtype=value.const_value.dtype, name=value.name)
    parts: list[Any] = [graph.graph, *graph.functions.values()]
    for part in parts:
        for node in onnx_ir.traversal.RecursiveGraphIterator(part):
            for held in (node, *node.inputs, *node.outputs):
                if held is not None:
                    held.meta.clear()
        for value in (*part.inputs, *getattr(part, "initializers", {}).values()):
            value.meta.clear()
    return graph


# ------------------------------------------------------------------ structure


def structure(module: torch.nn.Module) -> Hashable:
    """All that decides how a module computes except its parameters' values and those of buffers that are saved with them.

    Equal for modules that are traced to one graph; classes and functions count by identity. None where a module holds something that
    cannot be told, which equals no other.
    """
    try:
        found = _Spelling(module).whole()
        hash(found)
        return found
    except Exception:  # what a stranger's object does when it is looked at can be anything; it is traced each time then
        return None


class _Spelling:
    """Puts what a module holds into tuples; what was met before is told by its number."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._places = {id(part): name for name, part in module.named_modules()}
        self._met: dict[int, int] = {}
        self._alive: list[Any] = []

    def whole(self) -> Hashable:
        from torch.nn.modules import module as torch_module

        if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
            raise Unknown
        parts = tuple(
            (name, self._places[id(part)], _kind(part), type(part).forward, self._attributes(part))
            for name, part in self._module.named_modules(remove_duplicate=False)
        )
        return (parts, self._tensors())

    def _tensors(self) -> Hashable:
        import torch

        lasting, first = set(self._module.state_dict(keep_vars=True)), dict[int, str]()
        found = []
        for named in (self._module.named_parameters, self._module.named_buffers):
            for name, tensor in named(remove_duplicate=False):
                if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.is_complex():
                    raise Unknown
                value = None if name in lasting else _digest(tensor)
                found.append((name, first.setdefault(id(tensor), name), str(tensor.dtype), tuple(tensor.shape), value))
        return tuple(found)

    def _attributes(self, part: torch.nn.Module) -> Hashable:
        import torch

        own = set(vars(torch.nn.Module()))
        if part._forward_hooks or part._forward_pre_hooks:
            raise Unknown
        return (part.training, *self._items({name: value for name, value in vars(part).items() if name not in own}))

    def _items(self, values: Mapping[Any, Any]) -> tuple[Hashable, ...]:
        return tuple((self._spelled(name), self._spelled(value)) for name, value in values.items() if name not in PLACES)

    def _spelled(self, value: Any) -> Hashable:
        import torch

        if isinstance(value, PLAIN):
            return (type(value), value)
        if isinstance(value, (float, complex, torch.dtype, torch.device)):
            return (type(value), repr(value))  # 0.0 equals -0.0
        if isinstance(value, torch.nn.Module):
            if id(value) not in self._places:
                raise Unknown
            return ("module", self._places[id(value)])
        if id(value) in self._met:
            return ("met", self._met[id(value)])
        self._met[id(value)] = len(self._met)
        self._alive.append(value)  # else another object could have its number
        return (type(value), *self._content(value))

    def _content(self, value: Any) -> tuple[Hashable, ...]:
        import torch

        if isinstance(value, types.FunctionType) and not value.__closure__:
            return (value,)
        if isinstance(value, types.BuiltinFunctionType) and isinstance(value.__self__, types.ModuleType | type | None):
            return (value,)
        if type(value) in (torch.Tensor, torch.nn.Parameter):
            return (_digest(value),)
        if type(value) in (dict, OrderedDict):
            return self._items(value)
        if type(value) in (list, tuple, torch.Size):
            return tuple(self._spelled(each) for each in value)
        if type(value) in (set, frozenset):
            if not all(isinstance(each, PLAIN) for each in value):
                raise Unknown
            return (frozenset((type(each), each) for each in value),)
        if isinstance(value, functools.partial):
            return (self._spelled(value.func), *(self._spelled(each) for each in value.args), *self._items(value.keywords))
        if isinstance(value, types.MethodType):
            return (self._spelled(value.__func__), self._spelled(value.__self__))
        if hasattr(value, "to_diff_dict"):  # a configuration of transformers: undeclared keys count, too
            return self._items(vars(value))
        raise Unknown


def _kind(part: torch.nn.Module) -> Any:
    """Its class; a parametrized module has one of its own, which says nothing that the parametrizations do not."""
    from torch.nn.utils.parametrize import is_parametrized

    return ("parametrized", type(part).__base__) if is_parametrized(part) else type(part)


def _digest(tensor: torch.Tensor) -> str:
    import torch

    kept = tensor.detach().cpu().contiguous()
    head = f"{kept.dtype} {tuple(kept.shape)} ".encode()
    return hashlib.sha256(head + kept.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
