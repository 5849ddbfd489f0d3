"""A model: named components, each a module with its blueprint, and the files beside them; saved without pickle."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from compressor.contracts import Edit
from compressor.contracts import Model as AnyModel
from compressor.contracts.model import BLUEPRINT, CONFIG
from compressor.contracts.records import stays_inside
from compressor.errors import SourceError, UnsupportedModel, did_you_mean
from compressor.model.anatomy import anatomy_of
from compressor.model.blueprint import Blueprint, blueprint_of
from compressor.model.libraries import library, reader_of
from compressor.model.storage import FORMAT, load_module, read_index, save_module, write_json

ONLY = "model"
"""Name of the component of a model that has one."""
RANKS = {"embeddings": 0, "other": 2, "head": 3}
"""Order of the parts of a model; the layers lie between."""


@dataclass(frozen=True)
class Component:
    """A module and how to build it again."""

    module: Any
    blueprint: Blueprint


@dataclass
class Model:
    """Named components (one, called `model`, unless it is a pipeline) and the files beside them (tokenizer, scheduler)."""

    components: dict[str, Component]
    files: dict[str, bytes] = field(default_factory=dict)
    """By path relative to the model's folder, with forward slashes."""
    newly_initialised: tuple[str, ...] = ()
    """Parameters that its source lacked and that were drawn at random when it was loaded: a fresh head. Which they are is not saved."""
    main: str = ""
    """Name of the component that the others serve; left empty, the only one, or the one called `model`."""

    def __post_init__(self) -> None:
        if not self.main:
            self.main = _main_of(self.components)

    @classmethod
    def wrap(
        cls,
        modules: Any,
        files: Mapping[str, bytes] | None = None,
        *,
        newly_initialised: Sequence[str] = (),
        main: str = "",
    ) -> Model:
        """A model from a module, or from several by name, that a library made; weights and configuration are written by `save`.

        Raises:
            UnsupportedModel: a module's class is none that a library defines and no installed network.
        """
        named: Mapping[str, Any] = modules if isinstance(modules, Mapping) else {ONLY: modules}
        components = {name: Component(module, blueprint_of(module)) for name, module in named.items()}
        own = _own_files(components)
        return cls(
            components,
            {name: content for name, content in (files or {}).items() if name not in own},
            tuple(newly_initialised),
            main,
        )

    @classmethod
    def read(cls, source: Path, *, main: str = "") -> Model:
        """A model from a folder in its library's own layout, in float32, or from one that `save` wrote; in eval mode.

        Args:
            source: the folder; nothing in it is executed.
            main: name of the main component, where the library does not know it.

        Raises:
            SourceError: the folder is in no layout that is known, cannot be read, or lacks weights.
            PluginError: an edit is of a kind that is not installed.
        """
        if (source / BLUEPRINT).is_file():
            model = cls.load(source)
            return replace(model, main=main or model.main)
        loaded = reader_of(source).load(source)
        files = {name: (source / _side_file(name)).read_bytes() for name in loaded.files}
        return cls.wrap(loaded.modules, files, main=main or loaded.main)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu", *, sharded: bool = False) -> Model:
        """Read what `save` wrote: nothing in the folder is executed. Modules are in eval mode.

        Args:
            folder: what `save` wrote.
            device: where it is to lie.
            sharded: spread parameters of the main component over the processes of torch's default group, which all come here; none ever holds
                all of them. What others hold is not trained, and rows may be read by it: each process has it whole.

        Raises:
            SourceError: a file is missing, malformed or a link, or the weights do not fit the blueprint.
            PluginError: a library or an edit is of a kind that is not installed.
        """
        if link := next((path for path in folder.rglob("*") if path.is_symlink()), None):
            raise SourceError(f"{link} is a symbolic link: a model's folder holds plain files only")
        index = read_index(folder)
        if "components" in index:
            places = {name: folder / _component_name(name) for name in _names(index, "components", folder)}
            indices = {name: read_index(place) for name, place in places.items()}
        else:
            places, indices = {ONLY: folder}, {ONLY: index}
        main = str(index.get("main", "")) or _main_of(places)
        components = {
            name: Component(*load_module(indices[name], place, device, sharded=sharded and name == main))
            for name, place in places.items()
        }
        files = {name: _read(folder / _side_file(name)) for name in _names(index, "files", folder)}
        return cls(components, files, main=main)

    def save(self, folder: Path) -> None:
        """Write the model; equal models give equal bytes. A folder of plain components opens with their library's own loader too.

        Raises:
            UnsupportedModel: a component's parameters are on meta.
            SourceError: a file beside the model would lie in place of one of its own.
        """
        folder.mkdir(parents=True, exist_ok=True)
        index: dict[str, Any] = {"format": FORMAT, "files": sorted(str(_side_file(name)) for name in self.files)}
        if taken := sorted(_own_files(self.components) & self.files.keys()):
            raise SourceError(f"'{taken[0]}' cannot name a file beside the model: it is one of its own")
        if list(self.components) == [ONLY]:
            save_module(*self._parts(ONLY), folder, index)
        else:
            for name in self.components:
                self.save_component(name, folder)
            chosen = {"main": self.main} if self.main in self.components and len(self.components) > 1 else {}
            write_json(folder / BLUEPRINT, {**index, **chosen, "components": list(self.components)})
        self._save_files(folder)

    def save_component(self, name: str, folder: Path) -> None:
        """Write one component into its place in the folder of a model of several."""
        save_module(*self._parts(name), folder / _component_name(name), {})

    def save_files(self, folder: Path) -> None:
        """Write all but the weights: what lies beside them, and the configurations."""
        self._save_files(folder)
        for name, component in self.components.items():
            place = folder if list(self.components) == [ONLY] else folder / _component_name(name)
            place.mkdir(parents=True, exist_ok=True)
            write_json(place / CONFIG, library(component.blueprint.library).config_of(component.module))

    def save_beside(self, folder: Path) -> None:
        """Write all but the weights of the main component: rows may be encoded by another one."""
        self.save_files(folder)
        for name in self.components:
            if name != self.main:
                self.save_component(name, folder)

    def _save_files(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            path = folder / _side_file(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def _parts(self, name: str) -> tuple[Any, Blueprint]:
        component = self.components[name]
        return component.module, component.blueprint

    def component(self, name: str | None = None) -> Component:
        """The component of that name; without one the main one.

        Raises:
            UnsupportedModel: there is none of that name, or several and none of them is the main one.
        """
        name = self.main if name is None else name
        if name not in self.components:
            raise UnsupportedModel(f"this model has no component '{name}'{did_you_mean(name, self.components)}")
        return self.components[name]

    @property
    def module(self) -> Any:
        """The module of the main component."""
        return self.component().module

    @property
    def blueprint(self) -> Blueprint:
        """The blueprint of the main component."""
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
        """Change a component, the main one where none is named, and record how.

        Raises:
            UnsupportedModel: the edit does not fit; the component is as it was.
        """
        name = self.main if component is None else component
        changed = self.component(name)
        edit.apply(changed.module)
        self.components[name] = replace(changed, blueprint=changed.blueprint.extended(edit))

    def copy(self) -> Model:
        """A model that shares no tensor with this one."""
        copies = {name: copy.deepcopy(component) for name, component in self.components.items()}
        return replace(self, components=copies, files=dict(self.files))

    def stored_bytes(self) -> int:
        """Bytes of the parameters and saved buffers; a module with a `stored_bytes()` of its own says itself how few it needs."""
        return sum(self.layer_bytes().values())

    def layer_bytes(self) -> dict[str, int]:
        """The same by part of the model, inputs first; by top-level module where no anatomy fits."""
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
    """True where a stock configuration expresses every component: its library's own loader opens what is saved."""
    return all(component.blueprint.plain_config(component.module) is not None for component in model.components.values())


def per_layer_config(model: AnyModel) -> dict[str, dict[str, Any]]:
    """How layers of the main component differ from its configuration, in its library's words; empty where it has none for it."""
    component = model.component()
    found: dict[str, dict[str, Any]] = component.blueprint.per_layer_config(component.module)
    return found


def _part_bytes(module: Any) -> list[tuple[str, int]]:
    try:
        part_of = anatomy_of(module).part_of
    except UnsupportedModel:
        part_of = _top_level
    sizes = [(part_of(name), size) for name, size in _sizes(module, "", set())]
    return sorted(sizes, key=lambda part: RANKS.get(part[0], 1))


def _sizes(module: torch.nn.Module, path: str, seen: set[int]) -> Iterator[tuple[str, int]]:
    """Bytes of each tensor that is saved, each one once; of a packed module as it says."""
    said = getattr(module, "stored_bytes", None)
    if callable(said):
        yield path.removesuffix(".") or ONLY, said()
        return
    buffers = {name: each for name, each in module._buffers.items() if name not in module._non_persistent_buffers_set}
    tensors = {**module._parameters, **buffers}
    for name, tensor in tensors.items():
        if tensor is not None and id(tensor) not in seen:
            seen.add(id(tensor))
            yield path + name, tensor.numel() * tensor.element_size()
    for name, child in module._modules.items():
        if child is not None and id(child) not in seen:
            seen.add(id(child))
            yield from _sizes(child, f"{path}{name}.", seen)


def _top_level(parameter: str) -> str:
    return parameter.split(".")[0]


def _main_of(names: Collection[str]) -> str:
    """The component that the others serve, where nobody says which."""
    return next(iter(names)) if len(names) == 1 else ONLY


def _own_files(components: Mapping[str, Component]) -> set[str]:
    """Files that `save` writes, by their path in the folder."""
    only = list(components) == [ONLY]
    weights = {name: library(component.blueprint.library).weights for name, component in components.items()}
    places = {"" if only else f"{name}/": {BLUEPRINT, CONFIG, weights[name]} for name in components}
    return {BLUEPRINT, *(place + file for place, files in places.items() for file in files)}


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
    if not stays_inside(name) or str(path) in (BLUEPRINT, CONFIG):
        raise SourceError(
            f"'{name}' cannot name a file beside the model: it must lie in the model's folder and not be one of its own"
        )
    return path
