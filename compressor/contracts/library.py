"""Libraries: where the classes of a model's modules come from, and how their modules are built, described and read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from compressor.contracts.model import WEIGHTS, Edit


@dataclass(frozen=True)
class Loaded:
    """What a library read from a folder in its own layout."""

    modules: Mapping[str, Any]
    """By name of the component, in float32 and eval mode; the only module of a folder is called `model`."""
    files: tuple[str, ...] = ()
    """What lies beside them (tokenizer, scheduler), relative to the folder."""
    main: str = "model"
    """Name of the component that the others serve: the denoiser of a pipeline."""


class Library(ABC):
    """A library whose modules are models.

    Classes come from what is installed and never from a model's folder: nothing there is executed. A library keeps no state, and
    imports what it stands for inside its methods.
    """

    weights: ClassVar[str] = WEIGHTS
    """Name of the file of weights that the library's own loader looks for."""
    attentions: ClassVar[tuple[str, ...]] = ()
    """Attention implementations that every machine has; a model that uses another one is rebuilt with the library's choice."""

    @abstractmethod
    def name_of(self, module: Any) -> str | None:
        """What a blueprint calls the class of a module; None where it is none of this library's own."""

    @abstractmethod
    def find(self, class_name: str, config: Mapping[str, Any]) -> type:
        """The class of that name.

        Raises:
            SourceError: the library itself defines no such model class.
        """

    @abstractmethod
    def build(self, cls: Any, config: Mapping[str, Any], *, attention: str | None = None) -> Any:
        """A module with its parameters on meta and its buffers in memory; the random state of the caller stays as it was.

        Args:
            cls: what `find` gave.
            config: what `config_of` gave.
            attention: what `attention_of` gave.

        Raises:
            SourceError: the class does not take the configuration.
        """

    @abstractmethod
    def config_of(self, module: Any) -> dict[str, Any]:
        """The configuration of a module as JSON values, without the folder that it came from.

        One with a `dtype` has the module built in it; of a library whose configurations have none the blueprint keeps it.
        """

    def attention_of(self, module: Any) -> str | None:
        """Which of `attentions` runs; None where it is none of them."""
        return None

    def tied(self, module: Any) -> dict[str, str]:
        """Parameters that are the same object as another one, with the name of that one, which is the one that is saved."""
        first: dict[int, str] = {}
        found: dict[str, str] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if (source := first.setdefault(id(parameter), name)) != name:
                found[name] = source
        return found

    def plain_config(self, module: Any, edits: Sequence[Edit]) -> dict[str, Any] | None:
        """The configuration by which the library itself builds this very architecture; None where no configuration says it."""
        return None if edits else self.config_of(module)

    def per_layer_config(self, module: Any, edits: Sequence[Edit]) -> dict[str, dict[str, Any]]:
        """How layers differ from the configuration, by their numbers, as the library spells that; empty where it cannot say it all."""
        return {}

    @abstractmethod
    def reads(self, folder: Path) -> bool:
        """Whether a folder is in this library's own layout."""

    @abstractmethod
    def load(self, folder: Path) -> Loaded:
        """Read a folder in the library's own layout: safetensors only, from the disk only.

        Raises:
            SourceError: the folder cannot be read, or lacks weights.
        """

    @abstractmethod
    def tiny(self) -> Any:
        """A small module with random weights, which `compressor.testing` tries the library with; None where it has none."""
