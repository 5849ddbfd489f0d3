"""A runtime that starts at once, for probes to be tried on: what they measure does not matter there, how they do it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.contracts import Artifact, Dialect, Feed, Missing, Session, Target

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOKENS, CLASSES = 128, 3


class BagOfTokens(Target):
    """Logits as the mean of a row of a table for each token: a real model, in numpy alone."""

    dialect: ClassVar[Dialect] = Dialect(format="torch")
    file: ClassVar[str] = "table.npy"

    def missing(self) -> Missing:
        """Nothing."""
        return Missing()

    def build(self, source: Artifact, out: Path, **_: object) -> None:  # noqa: ARG002 - the same table whatever the model
        """Write the table."""
        import numpy as np

        np.save(out / self.file, np.random.default_rng(0).normal(size=(TOKENS, CLASSES)))

    def open(self, built: Path) -> Session:
        """Read the table."""
        import numpy as np

        return _Session(np.load(built / self.file), self.threads)


class _Session:
    def __init__(self, table: NDArray[Any], threads: int) -> None:
        self._table = table
        self._threads = threads

    def run(self, feed: Feed, *, graph: str = "model", state: object | None = None) -> tuple[Feed, object | None]:  # noqa: ARG002
        return {"logits": self._table[feed["input_ids"]].mean(axis=1)}, state

    def cut(self, state: object, length: int, *, graph: str = "model") -> object:
        raise ValueError(f"graph '{graph}' has no state that could be cut to {length}: {state}")

    def facts(self) -> dict[str, str]:
        return {"precision": "fp64", "device": "CPU", "threads": str(self._threads)}
