"""One component on disk: its blueprint and configuration as JSON, its weights as safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from compressor.contracts.model import BLUEPRINT, CONFIG
from compressor.errors import SourceError, UnsupportedModel
from compressor.model.blueprint import Blueprint
from compressor.model.libraries import library
from compressor.model.sharding import read_shares, roots, shard, write_gathered
from compressor.model.sources import read_json

FORMAT = 1
"""Of `blueprint.json`; raised when older code could not read what newer code writes."""


def save_module(module: Any, blueprint: Blueprint, folder: Path, index: Mapping[str, Any]) -> None:
    """Write a module, `index` beside its blueprint; of one that is spread over a group only the first process writes the weights.

    Raises:
        UnsupportedModel: its parameters are on meta.
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        raise UnsupportedModel(f"{blueprint.class_name} is on meta: it has no weights to save")
    folder.mkdir(parents=True, exist_ok=True)
    of = library(blueprint.library)
    write_json(folder / BLUEPRINT, {**index, "format": FORMAT, "blueprint": blueprint.settled(module).as_json()})
    write_json(folder / CONFIG, blueprint.plain_config(module) or of.config_of(module))
    # a new file put in place, since tensors elsewhere may be mapped from the old one
    unfinished = folder / f"{of.weights}.unfinished"
    if roots(module):
        _save_gathered(module, of.tied(module), unfinished)
    else:
        save_file(_unshared(module, of.tied(module)), unfinished, metadata={"format": "pt"})
    if unfinished.exists():
        unfinished.replace(folder / of.weights)


def load_module(index: Mapping[str, Any], folder: Path, device: str, *, sharded: bool = False) -> tuple[Any, Blueprint]:
    """Build a module again and give it its weights; `sharded` over the processes of the group, each of which reads its share only.

    Raises:
        SourceError: something is missing or malformed, or the weights do not fit the blueprint.
        PluginError: its library or an edit is of a kind that is not installed.
    """
    try:
        blueprint = Blueprint.from_json(index["blueprint"])
    except KeyError as error:
        raise SourceError(f"{folder / BLUEPRINT} holds no blueprint") from error
    module, of = blueprint.build(), library(blueprint.library)
    if sharded:
        shard(module, device)
        tensors = read_shares(folder / of.weights, module.state_dict(), device)
    else:
        tensors = _read_tensors(folder / of.weights, device)
    _give_weights(module, tensors, folder / of.weights, of.tied(module))
    return module.to(device), blueprint


def read_index(folder: Path) -> dict[str, Any]:
    """What `blueprint.json` of a folder holds.

    Raises:
        SourceError: it is missing, malformed or of another format.
    """
    index = read_json(folder / BLUEPRINT)
    if index.get("format") != FORMAT:
        raise SourceError(f"{folder / BLUEPRINT} is not of format {FORMAT}, the only one this version reads")
    return index


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Equal values give equal bytes."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _save_gathered(module: Any, tied: Mapping[str, str], path: Path) -> None:
    """By the first process of the group; all of them come here."""
    tensors = {name: tensor for name, tensor in module.state_dict().items() if name not in tied}
    write_gathered(tensors, path, first=torch.distributed.get_rank() == 0)


def _unshared(module: Any, tied: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The state of a module without the targets of tied weights; whatever else shares memory is written in full."""
    seen, tensors = set[int](), dict[str, torch.Tensor]()
    for name, tensor in module.state_dict().items():
        if name in tied:
            continue
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return tensors


def _give_weights(module: Any, tensors: Mapping[str, torch.Tensor], path: Path, tied: Mapping[str, str]) -> None:
    expected = module.state_dict()
    missing = expected.keys() - tensors.keys() - {target for target, source in tied.items() if source in tensors}
    unexpected = tensors.keys() - expected.keys()
    misshapen = [name for name in expected.keys() & tensors.keys() if tensors[name].shape != expected[name].shape]
    for names, what in ((missing, "lacks"), (unexpected, "has beyond the blueprint"), (misshapen, "has in another shape")):
        if names:
            raise SourceError(
                f"{path} {what} {len(names)} tensors: {', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''}"
            )
    module.load_state_dict(tensors, strict=False, assign=True)
    for target, source in tied.items():
        if target not in tensors:
            owner, _, name = target.rpartition(".")
            setattr(module.get_submodule(owner), name, module.get_parameter(source))


def _read_tensors(path: Path, device: str) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # copies: mapped memory follows the file, and its alignment can change the last bits of a product
            return {name: file.get_tensor(name).to(device, copy=True) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SourceError(f"{path} cannot be read as safetensors: {error}") from error
