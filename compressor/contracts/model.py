"""What passes are written against: edits, structural changes as data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch


BLUEPRINT, CONFIG, WEIGHTS = "blueprint.json", "config.json", "model.safetensors"
"""Files of a stored model: how it is built, its configuration as its library spells it, its weights as most libraries name them."""


class Edit(BaseModel, ABC):
    """A structural change of one component, as data: replayed on a fresh module (also on meta) when the model is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    """The name of its entry point, by which it is found again when a saved model is read."""
    version: ClassVar[int] = 1
    cuts: ClassVar[bool] = False
    """Whether it takes rows or columns out of matrices: those that are quantised already keep theirs."""
    in_weights: ClassVar[bool] = False
    """Whether a class of the library that fits the weights is this model, as only sizes differ, or as a task does it again when it loads."""
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Values that fit the tiny model of `compressor.testing`; the BERT has blocks `bert.encoder.layer.0` and `.1` of 4 heads and 64
    neurons."""
    tried_on: ClassVar[Literal["bert", "hubert", "whisper", "dit"]] = "bert"
    """The tiny model that `examples` fit."""

    @abstractmethod
    def apply(self, module: torch.nn.Module) -> None:
        """Change `module` in place, on any device including meta.

        Raises:
            UnsupportedModel: the edit does not fit this module.
        """

    @abstractmethod
    def describe(self) -> str:
        """One line for the report."""


class Component(Protocol):
    """One module of a model."""

    @property
    def module(self) -> Any:
        """The torch module, as its library made it."""
        ...

    @property
    def blueprint(self) -> Any:
        """How the module is built again without its weights."""
        ...


class Model(Protocol):
    """A model as passes and tasks see it: named components, each a module that edits have changed, and the files beside them."""

    files: dict[str, bytes]
    """What lies beside the weights (tokenizer, feature extractor), by path relative to the model's folder."""

    newly_initialised: tuple[str, ...]
    """Parameters that its source lacked and that were newly initialised when it was loaded: a fresh head."""

    @property
    def components(self) -> Mapping[str, Component]:
        """By name; a model of one component calls it `model`."""
        ...

    main: str
    """Name of the main component: the denoiser of a pipeline; the only component where there is one."""

    @property
    def module(self) -> Any:
        """The module of the main component."""
        ...

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits so far, component after component."""
        ...

    @property
    def weights(self) -> int:
        """Number of parameters; those that are shared count once."""
        ...

    def stored_bytes(self) -> int:
        """Bytes of the weights as they are meant to be stored: a packed module says itself how few they are."""
        ...

    def layer_bytes(self) -> dict[str, int]:
        """The same by part of the model, inputs first."""
        ...

    def component(self, name: str | None = None) -> Component:
        """The component of that name; without one the main one."""
        ...

    def apply(self, edit: Edit, component: str | None = None) -> None:
        """Change a component and record how, so that it can be built again."""
        ...

    def copy(self) -> Self:
        """A model that shares no tensor with this one."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model; equal models give equal bytes."""
        ...

    def save_files(self, folder: Path) -> None:
        """Write only what lies beside the weights."""
        ...

    def save_beside(self, folder: Path) -> None:
        """Write all but the weights of the main component: rows may be encoded by another one."""
        ...
