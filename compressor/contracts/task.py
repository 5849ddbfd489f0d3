"""Tasks: what loads, feeds, trains and scores one kind of model, and the rows it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from compressor.contracts.model import Model
from compressor.contracts.records import DataRecord, Scores
from compressor.contracts.step import Step
from compressor.errors import SourceError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray


Feed: TypeAlias = "dict[str, NDArray[Any]]"
"""Named input or output arrays of one call."""


Batch: TypeAlias = "dict[str, torch.Tensor]"
"""Named tensors of one training or evaluation step; supervised tasks carry `labels`."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one split, with what paired comparison needs: `outputs[i]` belongs to row i of the split."""

    scores: Scores
    outputs: NDArray[np.float32]
    """Raw outputs by row, `[n, classes]` for classification."""
    correct: NDArray[np.float64]
    """The main metric's contribution of each row, in [0, 1]."""


@dataclass(frozen=True)
class Port:
    """An input or output of an exported model; named axes are dynamic."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]


@dataclass(frozen=True)
class Want:
    """Which inner features a forward pass should hand out, by block id of the anatomy; its stack stands for what enters the first."""

    hidden_states: tuple[str, ...] = ()
    attention_maps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outputs:
    """What a forward pass gave: logits `[B, classes]`, hidden states `[B, T, D]`, attention maps `[B, H, T, T]`, token mask `[B, T]` or None."""

    logits: torch.Tensor
    hidden_states: Mapping[str, torch.Tensor] = field(default_factory=dict)
    attention_maps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    mask: torch.Tensor | None = None


class Task(Step, ABC):
    """Loads, feeds, trains and scores one kind of model."""

    classes: ClassVar[bool] = True
    """False where models tell no classes apart: there is no loss on labels, and the main output is a feature vector."""
    metric: ClassVar[str]
    """Name of the main metric, a fraction in [0, 1]; gates speak of it in points (hundredths)."""
    modality: ClassVar[Literal["text", "image", "audio"]]

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns of the data this task reads, content first and label last."""

    @abstractmethod
    def load(self, source: Path, data: Data, *, seed: int) -> Model:
        """The source model from a folder; a fresh, seeded head where it has none that fits the data's labels."""

    def refuses(self, length: int, files: Path | None = None) -> str | None:
        """What a length is, where no input of a model can be of this one; None where it can. `files` lie beside the model, if it is known."""
        return None

    @abstractmethod
    def inputs(self, model: Model | Path) -> tuple[Port, ...]:
        """Inputs of the exported model."""

    @abstractmethod
    def outputs(self) -> tuple[Port, ...]:
        """Outputs of the exported model."""

    @abstractmethod
    def example(self, files: Path, *, batch: int, length: int) -> Feed:
        """A well-formed input to trace an export with."""

    @abstractmethod
    def batches(self, rows: Dataset, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:
        """Tensors of a split, shuffled by `shuffle_seed` or in the order of the rows; the iterable has a length."""

    @abstractmethod
    def forward(self, module: torch.nn.Module, batch: Batch, want: Want = Want()) -> Outputs:
        """Run the model and capture what is wanted."""

    def repeats(self) -> bool:
        """Whether a row makes the same training inputs in every epoch; not so where they are cropped at random."""
        return True

    def answer(self, module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The main output of a model for inputs by name, as the exported model gives it: its logits."""
        found: torch.Tensor = module(**inputs).logits
        return found

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """The supervised loss, a mean over the batch."""

    def weight(self, batch: Batch) -> float:
        """What parts of a batch are weighed by: the count that the loss is a mean over, its rows unless a task counts valid tokens."""
        return len(next(iter(batch.values())))

    @abstractmethod
    def feeds(
        self, rows: Dataset, files: Path, *, batch: int = 1, length: int | None = None, count: int | None = None
    ) -> Sequence[Feed]:
        """Real inputs as the exported model takes them; `length` fixes the length in tokens, pixels or samples."""

    @abstractmethod
    def scored_feeds(self, rows: Dataset, files: Path) -> tuple[Sequence[Feed], Sequence[int]]:
        """All rows as feeds, and the row that each one in turn is."""

    def predicted(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path) -> NDArray[np.float32]:
        """The main output of all rows, in their order, by anything that maps a feed to named outputs."""
        import numpy as np

        feeds, order = self.scored_feeds(rows, files)
        found = np.concatenate([predict(feed)[self.outputs()[0].name] for feed in feeds]).astype(np.float32)
        ordered = np.empty_like(found)
        ordered[np.asarray(order)] = found
        return ordered

    @abstractmethod
    def score(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path, *, split: str) -> Evaluation:
        """Metrics with n and interval, over anything that maps a feed to named outputs."""


@dataclass(frozen=True)
class Data:
    """Rows by split (train, validation, test, calibration); the label column indexes `labels`."""

    splits: Mapping[str, Dataset]
    labels: tuple[str, ...]
    record: DataRecord
    digest: str
    """sha256 over the rows of every split as they are used, whatever folder they came from."""

    def split(self, name: str) -> Dataset:
        """Rows of a split.

        Raises:
            SourceError: there is no such split.
        """
        if name not in self.splits:
            raise SourceError(f"no split '{name}' (there are {', '.join(self.splits)})")
        return self.splits[name]
