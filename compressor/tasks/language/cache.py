"""The graph of a language model with its cache of keys and values, which goes round from call to call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed, Graph, Model, Port
from compressor.contracts.model import CONFIG
from compressor.errors import SourceError

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
    """The graph of a model, or of one that lies in a folder."""
    layers = layers_of(files)
    state = tuple((f"present.{name}", f"past_key_values.{name}") for name in _names(len(layers)))
    past, present = (
        tuple(
            Port(name, "float32", ("batch", layers[at // 2].heads, axis, layers[at // 2].size)) for at, name in enumerate(names)
        )
        for names, axis in zip(([into for _, into in state], [out for out, _ in state]), ("past", "total"), strict=True)
    )
    return Graph(inputs=(*INPUTS, *past), outputs=(*OUTPUTS, *present), state=state)


def layers_of(files: Model | Path) -> tuple[Layer, ...]:
    """What each layer keeps, by the configuration.

    Raises:
        SourceError: the configuration does not say it.
    """
    config = (
        json.loads((files / CONFIG).read_text(encoding="utf-8")) if isinstance(files, Path) else files.module.config.to_dict()
    )
    layers, heads, queries, width = (_field(config, names) for names in FIELDS.values())
    size = config.get("head_dim") or width // queries
    return (Layer(heads, size),) * layers


def _field(config: Mapping[str, Any], names: tuple[str, ...]) -> int:
    found = next((config[name] for name in names if isinstance(config.get(name), int)), None)
    if found is None:
        raise SourceError(f"the configuration has none of {', '.join(names)}, which a cache of keys and values is made by")
    return int(found)


def _names(layers: int) -> list[str]:
    return [f"{layer}.{what}" for layer in range(layers) for what in ("key", "value")]


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
    from transformers import DynamicCache

    ids, mask = inputs[IDS], inputs[MASK]
    past = [inputs[into] for _, into in graph.state]
    cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    found = module(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=inputs[KEPT],
    )
    return (found.logits, *(each for layer in found.past_key_values.layers for each in (layer.keys, layer.values)))
