"""Networks that no library defines: torch modules of an installed distribution, each named by an entry point."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.contracts import Library, Loaded, registry
from compressor.errors import PluginError, SourceError, did_you_mean
from compressor.foreign import told
from compressor.model.meta import BUILDING_ERRORS, on_meta


class Networks(Library):
    """Torch modules with an entry point of `compressor.network`.

    Such a class takes its configuration as keywords and keeps it in `config`, values of JSON. It has a `version`, raised when equal
    configurations give another network, and `examples`, configurations of small ones. A folder of such a network is one that
    `Model.save` wrote.
    """

    def name_of(self, module: Any) -> str | None:
        """The name of its entry point."""
        for name in registry.names("network"):
            try:
                if registry.load("network", name) is type(module):
                    return name
            except PluginError:  # somebody else's
                continue
        return None

    def find(self, class_name: str, config: Mapping[str, Any]) -> type:
        """By entry point; of the version that the configuration was written by."""
        from torch import nn

        known = registry.names("network")
        if class_name not in known:
            raise SourceError(f"no network named '{class_name}' is installed{did_you_mean(class_name, known)}")
        found = registry.load("network", class_name)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise PluginError(f"network '{class_name}' is {found!r}, expected a class of torch modules")
        if config.get("version", _version(found)) != _version(found):
            raise SourceError(
                f"network '{class_name}' is of version {config['version']}, this installation reads version {_version(found)}"
            )
        return found

    def build(self, cls: Any, config: Mapping[str, Any], *, attention: str | None = None) -> Any:  # noqa: ARG002
        """By its keywords."""
        try:
            with on_meta():
                return cls(**{name: value for name, value in config.items() if name != "version"})
        except BUILDING_ERRORS as error:
            raise SourceError(f"{cls.__name__} cannot be built from its configuration: {told(error)}") from error

    def config_of(self, module: Any) -> dict[str, Any]:
        """Its keywords, and the version of its class."""
        return {**json.loads(json.dumps(dict(module.config))), "version": _version(type(module))}

    def reads(self, folder: Path) -> bool:  # noqa: ARG002
        """None: a network is stored with its blueprint."""
        return False

    def load(self, folder: Path) -> Loaded:
        """Refused: a network is stored with its blueprint."""
        raise SourceError(f"{folder} holds no blueprint: a network is read from what `Model.save` wrote")

    def tiny(self) -> Any:
        """The first installed one, by its first example."""
        for name in registry.names("network"):
            cls: Any = self.find(name, {})
            return cls(**next(iter(getattr(cls, "examples", ({},)))))
        return None


def _version(cls: Any) -> int:
    return int(getattr(cls, "version", 1))
