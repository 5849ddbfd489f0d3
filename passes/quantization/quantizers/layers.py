"""What the quantisers of all runtimes hand back: an int8 graph whose layers can be put back into float one by one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from compressor.contracts import Feed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Written(Protocol):
    """An int8 model, and the float one it was made from."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Quantised layers by the path of their module, in the graph's order."""
        ...

    def write(self, folder: Path, left_in_float: Collection[str] = ()) -> None:
        """Write it under the format's file names, in int8 but for some layers."""
        ...


class Quantized(Written, Protocol):
    """One graph."""

    def write(self, folder: Path, left_in_float: Collection[str] = (), *, name: str = "model") -> None:
        """Write the graph under another name too."""
        ...

    def ranges(self, feeds: Sequence[Feed]) -> Mapping[str, NDArray[np.float64]]:
        """By layer the least and greatest value that its products read in float, of each feed: `[feeds, 2]`."""
        ...

    def outputs(self, feeds: Sequence[Feed], *, exact: bool = False) -> NDArray[np.float32]:
        """The first output for each feed of one row, `[feeds, ...]`; of the float graph where it is to be `exact`."""
        ...


@dataclass(frozen=True)
class Several:
    """The graphs of one model: a layer that several of them have is put back in all. Their weights are of equal bytes, as each is rounded by
    itself alone, so they can lie in one file; ranges of activations are each graph's own."""

    graphs: Mapping[str, Quantized]

    @property
    def layers(self) -> tuple[str, ...]:
        """Of all graphs, those of the first one first."""
        return tuple(dict.fromkeys(layer for graph in self.graphs.values() for layer in graph.layers))

    def write(self, folder: Path, left_in_float: Collection[str] = ()) -> None:
        """Write each graph under its name."""
        for name, graph in self.graphs.items():
            graph.write(folder, [layer for layer in left_in_float if layer in graph.layers], name=name)


def by_layer(names: Iterable[str], exclude: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Node names `MODULE/NODE` by module, without the modules whose path contains something of `exclude`."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layer = name.rpartition("/")[0] or name
        if not any(part in layer for part in exclude):
            layers.setdefault(layer, []).append(name)
    return {layer: tuple(found) for layer, found in layers.items()}
