"""What programs that generate text read beside a model: ONNX Runtime GenAI, OpenVINO GenAI."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from compressor.contracts import Graph
from compressor.contracts.model import CONFIG

GENAI, GENAI_GRAPH = "genai_config.json", "genai.onnx"
GENAI_FOLDER = "genai"
BESIDE = (".json", ".jinja", ".txt", ".model")
"""Endings of what describes a model and its tokenizer."""
CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx")
LAYERS, HEADS = ("num_hidden_layers", "n_layer"), ("num_attention_heads", "n_head")
WIDTH = ("hidden_size", "n_embd")


def write_genai(folder: Path, file: str, graph: Graph, generates: Mapping[str, Any]) -> None:
    """Write `genai_config.json`, and a graph of the same weights that asks for nothing that ONNX Runtime GenAI does not know.

    The graph gives logits of the newest token alone; it reads the weights of the file that was measured.
    """
    data = folder / f"{file}.data"
    if not data.is_file():  # built by an earlier version, or for another provider
        return
    _fix_defaults(folder, file, graph)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    context = _field(config, CONTEXT) or 2048
    ends = list(generates["ends"])
    model = {
        "type": "llama" if config.get("model_type") == "llama" else "decoder",
        "bos_token_id": _number(config.get("bos_token_id"), ends),
        "eos_token_id": ends,
        "pad_token_id": _number(config.get("pad_token_id"), ends),
        "vocab_size": config["vocab_size"],
        "context_length": context,
        "decoder": _decoder(GENAI_GRAPH, graph, config),
    }
    search = {"max_length": context, "do_sample": False, "past_present_share_buffer": True, "num_beams": 1}
    (folder / GENAI).write_text(json.dumps({"model": model, "search": search}, indent=2) + "\n", encoding="utf-8")


def _fix_defaults(folder: Path, file: str, graph: Graph) -> None:
    """Inputs that a caller may leave out become constants."""
    import numpy as np
    import onnx

    model = onnx.load(folder / file, load_external_data=False)
    for port in (port for port in graph.fed if port.default):
        model.graph.input.remove(next(value for value in model.graph.input if value.name == port.name))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(port.default, port.dtype), port.name))
    (folder / GENAI_GRAPH).write_bytes(model.SerializeToString(deterministic=True))


def _decoder(file: str, graph: Graph, config: Mapping[str, Any]) -> dict[str, Any]:
    kept = [port for port in graph.inputs if port.name in {becomes for _, becomes in graph.state}]
    (past_keys, past_values), (keys, values) = (_patterns([pair[place] for pair in graph.state]) for place in (1, 0))
    asked = [port.name for port in graph.fed if not port.default]
    return {
        "session_options": {"provider_options": []},
        "filename": file,
        "head_size": kept[0].axes[3],
        "hidden_size": _field(config, WIDTH),
        "num_attention_heads": _field(config, HEADS),
        "num_hidden_layers": _field(config, LAYERS),
        "num_key_value_heads": kept[0].axes[1],
        "inputs": {**{name: name for name in asked}, "past_key_names": past_keys, "past_value_names": past_values},
        "outputs": {graph.given[0].name: graph.given[0].name, "present_key_names": keys, "present_value_names": values},
    }


def _patterns(names: list[str]) -> list[str]:
    """Names of the first layer's key and value, with a place for the number of the layer."""
    return [re.sub(r"\d+", "%d", name, count=1) for name in names[:2]]


def _field(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def _number(value: Any, ends: list[int]) -> int:
    """One token; what ends a text, where none is named."""
    return value if isinstance(value, int) else (ends or [0])[0]


def write_openvino_genai(folder: Path, file: str, graph: Graph) -> None:
    """Write a folder `genai`: the model with the inputs that OpenVINO GenAI knows, its tokenizer and detokenizer as models.

    The weights are those of the file that was measured: a hard link where the system has them. Nothing is written where
    `openvino_tokenizers`, which makes models of tokenizers, is not installed.
    """
    from importlib.util import find_spec

    if find_spec("openvino_tokenizers") is None:
        return
    to = folder / GENAI_FOLDER
    to.mkdir()
    for path in [path for path in folder.iterdir() if path.suffix in BESIDE]:
        shutil.copyfile(path, to / path.name)
    _write_fixed(folder / file, to / file, graph)
    weights = Path(file).with_suffix(".bin").name
    try:
        os.link(folder / weights, to / weights)
    except OSError:  # a file system without links
        shutil.copyfile(folder / weights, to / weights)
    _write_tokenizers(to)


def _write_fixed(source: Path, to: Path, graph: Graph) -> None:
    """A stateful model whose inputs of a default are the constants that stand in its file for them."""
    from compressor.deploy.stateful import DEFAULT

    tree = ElementTree.parse(source)
    layers = {layer.get("name"): layer for layer in tree.getroot().findall("layers/layer")}
    for port in (port for port in graph.fed if port.default):
        input_, constant = layers[port.name], layers[DEFAULT.format(port.name)]
        given, held = input_.find("data"), constant.find("data")
        assert given is not None
        assert held is not None
        input_.set("type", "Const")
        given.attrib.clear()
        given.attrib.update(held.attrib)
        for size in input_.findall("output/port/dim"):
            size.text = str(len(port.default))
    tree.write(to, encoding="utf-8", xml_declaration=True)


def _write_tokenizers(folder: Path) -> None:
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    from compressor.deploy.openvino import save_representation
    from compressor.model.pretrained import quiet

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        for model, name in zip(convert_tokenizer(tokenizer, with_detokenizer=True), ("tokenizer", "detokenizer"), strict=True):
            save_representation(model, folder / f"openvino_{name}.xml")
