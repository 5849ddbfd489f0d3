"""The graph of a language model with its cache of keys and values, which goes round from call to call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed, Graph, Model, Port
from compressor.contracts.graph import GRAPHS, graph_from
from compressor.contracts.model import BLUEPRINT, CONFIG
from compressor.errors import SourceError, UnsupportedModel
from compressor.model.anatomy import anatomy_of

if TYPE_CHECKING:
    import torch

IDS, MASK, KEPT = "input_ids", "attention_mask", "logits_at"
LOGITS = "logits"
INPUTS = (
    Port(IDS, "int64", ("batch", "length")),
    Port(MASK, "int64", ("batch", "total")),
    Port(KEPT, "int64", ("kept",), default=(-1,)),
)
"""Tokens of this call; which tokens are text and which padding, those in the cache first; places in this call whose logits are wanted, the
last one where none is named."""
OUTPUTS = (Port(LOGITS, "float32", ("batch", "kept", "vocabulary")),)
FIELDS: Mapping[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer"),
    "heads": ("num_key_value_heads", "num_attention_heads", "n_head"),
    "queries": ("num_attention_heads", "n_head"),
    "width": ("hidden_size", "n_embd"),
}
"""Fields of configurations by what they say; families of before spell them in their own way."""


@dataclass(frozen=True)
class Layer:
    """What one layer keeps of each token: a key and a value for each head."""

    heads: int
    size: int


def graph_of(files: Model | Path) -> Graph:
    """The graph of a model, or of one that lies in a folder; of exported ones it lies beside them."""
    if isinstance(files, Path) and (files / GRAPHS).is_file():
        return graph_from(json.loads((files / GRAPHS).read_text(encoding="utf-8"))[0])
    layers = [(number, layer) for number, layer in enumerate(layers_of(files)) if layer is not None]
    past, present = (
        tuple(
            Port(f"{when}.{number}.{what}", "float32", ("batch", layer.heads, axis, layer.size))
            for number, layer in layers
            for what in ("key", "value")
        )
        for when, axis in (("past_key_values", "past"), ("present", "total"))
    )
    state = tuple((out.name, into.name) for out, into in zip(present, past, strict=True))
    return Graph(inputs=(*INPUTS, *past), outputs=(*OUTPUTS, *present), state=state)


def layers_of(files: Model | Path) -> tuple[Layer | None, ...]:
    """What each layer keeps; None where its attention is gone.

    Raises:
        SourceError: the configuration does not say it.
    """
    if not isinstance(files, Path):
        return _layers_in(files.module, files.module.config.to_dict())
    from compressor.model.blueprint import Blueprint
    from compressor.model.storage import read_index

    index = read_index(files) if (files / BLUEPRINT).is_file() else {}
    if index.get("blueprint", {}).get("edits"):
        module = Blueprint.from_json(index["blueprint"]).build()
        return _layers_in(module, module.config.to_dict())
    return _layers_by(json.loads((files / CONFIG).read_text(encoding="utf-8")))


def _layers_in(module: Any, config: Mapping[str, Any]) -> tuple[Layer | None, ...]:
    """Read off the module itself, whose layers may have been cut to different sizes."""
    try:
        attentions = [block.attention for block in anatomy_of(module).blocks]
    except UnsupportedModel:
        return _layers_by(config)
    return tuple(None if each is None else Layer(each.units, each.head_size) for each in attentions)


def _layers_by(config: Mapping[str, Any]) -> tuple[Layer | None, ...]:
    layers, heads, queries, width = (_field(config, names) for names in FIELDS.values())
    size = config.get("head_dim") or width // queries
    return (Layer(heads, size),) * layers


def _field(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    found = next((config[name] for name in names if isinstance(config.get(name), int)), None)
    if found is None:
        raise SourceError(f"the configuration has none of {', '.join(names)}, which a cache of keys and values is made by")
    return int(found)


def example_of(graph: Graph, *, batch: int, length: int) -> Feed:
    """Made-up tokens after a cache that is filled with made-up numbers."""
    import numpy as np

    sizes = {"batch": batch, "length": length, "past": length + 1, "total": 2 * length + 1, "kept": 3}
    made: Feed = {}
    for port in graph.inputs:
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in port.axes]
        numbers = np.arange(np.prod(shape)).reshape(shape)
        made[port.name] = (numbers % 97 + 1 if port.dtype == "int64" else np.sin(numbers)).astype(port.dtype)
    made[MASK] = np.ones_like(made[MASK])
    made[KEPT] = np.arange(3, dtype=np.int64)
    return made


def answered(module: Any, graph: Graph, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Logits at the wanted places, and keys and values of all tokens so far, in the order of the graph's outputs.

    Positions count the tokens that are no padding, so that a text has the same ones wherever padding stands.
    """
    ids, mask = inputs[IDS], inputs[MASK]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    found = module(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=_cache(module, graph, inputs),
        use_cache=True,
        logits_to_keep=inputs[KEPT],
    )
    layers = [found.past_key_values.layers[number] for number in _numbers(graph)]
    return (found.logits, *(each for layer in layers for each in (layer.keys, layer.values)))


def _numbers(graph: Graph) -> list[int]:
    """Numbers of the layers that keep something."""
    return [int(into.split(".")[1]) for _, into in graph.state[::2]]


def _cache(module: Any, graph: Graph, inputs: Mapping[str, torch.Tensor]) -> Any:
    """What was kept, by layer; one without attention keeps of each token a number that nobody reads, so that tokens are counted there too."""
    from transformers import DynamicCache

    past = [inputs[into] for _, into in graph.state]
    pairs = dict(zip(_numbers(graph), zip(past[::2], past[1::2], strict=True), strict=True))
    none = (past[0][:, :1, :, :1],) * 2
    return DynamicCache([pairs.get(number, none) for number in range(module.config.num_hidden_layers)])
