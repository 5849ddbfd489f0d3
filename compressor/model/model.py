"""A model: named components, each a module with its blueprint, and the files beside them; saved without pickle."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from compressor.contracts import Edit
from compressor.contracts import Model as AnyModel
from compressor.contracts.records import stays_inside
from compressor.errors import SourceError, UnsupportedModel, did_you_mean
from compressor.model.anatomy import anatomy_of
from compressor.model.blueprint import Blueprint, blueprint_of, config_values, plain_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLUEPRINT, CONFIG, WEIGHTS = "blueprint.json", "config.json", "model.safetensors"
FORMAT = 1
"""Of `blueprint.json`; raised when older code could not read what newer code writes."""
RANKS = {"embeddings": 0, "other": 2, "head": 3}
"""Order of the parts of a model; the layers lie between."""


@dataclass(frozen=True)
class Component:
    """A module and how to build it again."""

    module: PreTrainedModel
    blueprint: Blueprint


@dataclass
class Model:
    """Named components (one, called `model`, unless it is a pipeline) and the files beside them (tokenizer, scheduler)."""

    components: dict[str, Component]
    files: dict[str, bytes] = field(default_factory=dict)
    """By path relative to the model's folder, with forward slashes."""
    drawn: tuple[str, ...] = ()
    """Parameters that its source lacked and that were drawn at random when it was loaded: a fresh head. Which they are is not saved."""

    @classmethod
    def wrap(cls, module: PreTrainedModel, files: Mapping[str, bytes] | None = None, *, drawn: Sequence[str] = ()) -> Model:
        """A model of one component from a module that transformers made; weights and configuration are written by `save`.

        Raises:
            UnsupportedModel: the module's class is not one of transformers.
        """
        kept = {name: content for name, content in (files or {}).items() if name not in (BLUEPRINT, CONFIG, WEIGHTS)}
        return cls({"model": Component(module, blueprint_of(module))}, kept, tuple(drawn))

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Model:
        """Read what `save` wrote: nothing in the folder is executed. Modules are in eval mode.

        Raises:
            SourceError: a file is missing, malformed or a link, or the weights do not fit the blueprint.
            PluginError: an edit is of a kind that is not installed.
        """
        if link := next((path for path in folder.rglob("*") if path.is_symlink()), None):
            raise SourceError(f"{link} is a symbolic link: a model's folder holds plain files only")
        index = _read_index(folder)
        if "components" in index:
            places = {name: folder / _component_name(name) for name in _names(index, "components", folder)}
            components = {name: _load_component(place, _read_index(place), device) for name, place in places.items()}
        else:
            components = {"model": _load_component(folder, index, device)}
        return cls(components, {name: _read(folder / _side_file(name)) for name in _names(index, "files", folder)})

    def save(self, folder: Path) -> None:
        """Write the model; equal models give equal bytes. A folder of one plain component opens with `from_pretrained` too.

        Raises:
            UnsupportedModel: a component's parameters are on meta.
        """
        folder.mkdir(parents=True, exist_ok=True)
        index: dict[str, Any] = {"format": FORMAT, "files": sorted(str(_side_file(name)) for name in self.files)}
        if list(self.components) == ["model"]:
            _save_component(self.components["model"], folder, index)
        else:
            for name, component in self.components.items():
                _save_component(component, folder / _component_name(name), {"format": FORMAT})
            _write_json(folder / BLUEPRINT, {**index, "components": list(self.components)})
        self.save_files(folder)

    def save_files(self, folder: Path) -> None:
        """Write only what lies beside the weights."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            path = folder / _side_file(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def component(self, name: str | None = None) -> Component:
        """The component of that name; without one the only component, or the one called `model`.

        Raises:
            UnsupportedModel: there is none of that name, or several and no name to choose by.
        """
        if name is None:
            name = next(iter(self.components)) if len(self.components) == 1 else "model"
        if name not in self.components:
            raise UnsupportedModel(f"this model has no component '{name}'{did_you_mean(name, self.components)}")
        return self.components[name]

    @property
    def module(self) -> PreTrainedModel:
        return self.component().module

    @property
    def blueprint(self) -> Blueprint:
        return self.component().blueprint

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits so far, component after component."""
        return tuple(edit for component in self.components.values() for edit in component.blueprint.edits)

    @property
    def weights(self) -> int:
        """Number of parameters; those that are shared count once."""
        return sum(parameter.numel() for component in self.components.values() for parameter in component.module.parameters())

    def apply(self, edit: Edit, component: str | None = None) -> None:
        """Change a component and record how.

        Raises:
            UnsupportedModel: the edit does not fit; the component is as it was.
        """
        changed = self.component(component)
        edit.apply(changed.module)
        name = next(name for name, other in self.components.items() if other is changed)
        self.components[name] = replace(changed, blueprint=changed.blueprint.extended(edit))

    def copy(self) -> Model:
        """A model that shares no tensor with this one."""
        return Model({name: copy.deepcopy(component) for name, component in self.components.items()}, dict(self.files))

    def layer_bytes(self) -> dict[str, int]:
        """Bytes of the parameters by part of the model, inputs first; by top-level module where no anatomy fits."""
        sizes: dict[str, int] = {}
        for name, component in self.components.items():
            prefix = f"{name}: " if len(self.components) > 1 else ""
            for part, size in _part_bytes(component.module):
                sizes[prefix + part] = sizes.get(prefix + part, 0) + size
        return sizes


def check_finite(model: AnyModel, source: Path) -> None:
    """Refuse a model that can compute nothing.

    Raises:
        SourceError: a weight is NaN or infinite.
    """
    for component in model.components.values():
        for name, parameter in component.module.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise SourceError(f"{source}: {name} holds weights that are NaN or infinite")


def plain(model: AnyModel) -> bool:
    """True where a stock Hugging Face configuration expresses every component: `from_pretrained` opens what is saved."""
    return all(plain_config(component.module, component.blueprint) is not None for component in model.components.values())


def _part_bytes(module: PreTrainedModel) -> list[tuple[str, int]]:
    try:
        part_of = anatomy_of(module).part_of
    except UnsupportedModel:
        part_of = _top_level
    sizes = [(part_of(name), tensor.numel() * tensor.element_size()) for name, tensor in module.named_parameters()]
    return sorted(sizes, key=lambda part: RANKS.get(part[0], 1))


def _top_level(parameter: str) -> str:
    return parameter.split(".")[0]


# ------------------------------------------------------------------ writing


def _save_component(component: Component, folder: Path, index: Mapping[str, Any]) -> None:
    module, blueprint = component.module, component.blueprint
    if any(parameter.is_meta for parameter in module.parameters()):
        raise UnsupportedModel(f"{blueprint.class_name} is on meta: it has no weights to save")
    folder.mkdir(parents=True, exist_ok=True)
    config = plain_config(module, blueprint) or config_values(module)
    blueprint = replace(blueprint, config={**blueprint.config, "dtype": config["dtype"]})
    _write_json(folder / BLUEPRINT, {**index, "blueprint": blueprint.as_json()})
    _write_json(folder / CONFIG, config)
    # a new file put in place, since tensors elsewhere may be mapped from the old one
    unfinished = folder / f"{WEIGHTS}.unfinished"
    save_file(_unshared(module), unfinished, metadata={"format": "pt"})
    unfinished.replace(folder / WEIGHTS)


def _unshared(module: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state of a module without the targets of tied weights; whatever else shares memory is written in full."""
    tied, seen, tensors = _tied(module), set[int](), dict[str, torch.Tensor]()
    for name, tensor in module.state_dict().items():
        if name in tied:
            continue
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return tensors


def _tied(module: PreTrainedModel) -> dict[str, str]:
    """Parameters that are really the same object as the one the library ties them to, by name."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    pairs = module.all_tied_weights_keys.items()
    return {
        target: source
        for target, source in pairs
        if parameters.get(target) is not None and parameters[target] is parameters.get(source)
    }


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


# ------------------------------------------------------------------ reading


def _load_component(folder: Path, index: Mapping[str, Any], device: str) -> Component:
    try:
        blueprint = Blueprint.from_json(index["blueprint"])
    except KeyError as error:
        raise SourceError(f"{folder / BLUEPRINT} holds no blueprint") from error
    module: Any = blueprint.build()
    _load_weights(module, folder / WEIGHTS, device)
    return Component(module.to(device), blueprint)


def _load_weights(module: PreTrainedModel, path: Path, device: str) -> None:
    tensors, expected, tied = _read_tensors(path, device), module.state_dict(), _tied(module)
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


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / BLUEPRINT
    try:
        index = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON: {error}") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise SourceError(f"{path} is not of format {FORMAT}, the only one this version reads")
    return index


def _names(index: Mapping[str, Any], key: str, folder: Path) -> list[str]:
    names = index.get(key, [])
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise SourceError(f"{folder / BLUEPRINT}: '{key}' is {names!r:.60}, expected a list of names")
    return names


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def _component_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise SourceError(f"'{name}' cannot name a component: letters, digits, '-' and '_' only")
    return name


def _side_file(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not stays_inside(name) or str(path) in (BLUEPRINT, CONFIG, WEIGHTS):
        raise SourceError(
            f"'{name}' cannot name a file beside the model: it must lie in the model's folder and not be one of its own"
        )
    return path
