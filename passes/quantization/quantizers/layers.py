"""What the quantisers of all runtimes hand back: an int8 graph whose layers can be put back into float one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol


class Quantized(Protocol):
    """An int8 graph, and the float graph it was made from."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Quantised layers by the path of their module, in the graph's order."""
        ...

    def write(self, folder: Path, left_in_float: Collection[str] = ()) -> None:
        """Write the graph under the format's file name, in int8 but for some layers."""
        ...


def by_layer(names: Iterable[str], exclude: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Node names `MODULE/NODE` by module, without the modules whose path contains something of `exclude`."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layer = name.rpartition("/")[0] or name
        if not any(part in layer for part in exclude):
            layers.setdefault(layer, []).append(name)
    return {layer: tuple(found) for layer, found in layers.items()}
