"""Tasks: what loads, feeds, trains and scores one kind of model, and the rows it is given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

from compressor.contracts.data import Columns, Data
from compressor.contracts.evaluation import Evaluation, Measure
from compressor.contracts.failing import of_split, told_by_row
from compressor.contracts.features import Outputs, Want
from compressor.contracts.graph import Feed, Graph, Port, Session
from compressor.contracts.model import Model
from compressor.contracts.notes import Note
from compressor.contracts.recipe import InputSizes, Recipe, Seen
from compressor.contracts.records import Difference, Disagreement, Workload
from compressor.contracts.step import Event, Step
from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray


Answer: TypeAlias = "torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor]"
Batch: TypeAlias = "dict[str, torch.Tensor]"
"""Named tensors of one training or evaluation step; supervised tasks carry `labels`."""


@dataclass(frozen=True)
class Deployment:
    """How a deployed model is fed and read without this project: what `spec.json` states and the exported example does."""

    kind: Literal["text", "image", "audio", "arrays"]
    """What the example is given: a text, a picture or sound file, or the inputs themselves as an `.npz` archive."""
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    """JSON values."""
    classes: bool = False
    """Whether outputs are logits of the classes in `labels.json`."""
    threshold: float | None = None
    """Where a row has any number of classes: the probability from which on each is told."""
    number: bool = False
    """Whether the output is one number for each row."""
    pair: bool = False
    """Whether a row is two texts."""
    generates: Mapping[str, Any] | None = None
    """Where the model goes on with a text, one token after the other: how many `steps` at most, and the tokens that are its `ends`."""
    draws: Mapping[str, Any] | None = None
    """Where rows are drawn from noise in a loop: the `table` of a sampler, the `shape` of what the network draws, the `empty` label, the name of
    what it `gives`; where that is made by a decoder its `decoded` shape, and of spectra the settings of the `sound` that they are of."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Texts of files that the description names, by name; each takes the place of one beside the model."""


@dataclass(frozen=True)
class Witnessed:
    """What a built model did with one row alone, as the example of an export is to do it again."""

    inputs: Feed
    """For a batch of one."""
    outputs: Feed
    told: str
    """What is printed of them."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one row, for a person to read."""

    text: str
    confidence: float | None = None
    """Probability of what is told, in [0, 1]; None where there is none."""
    ranking: tuple[tuple[str, float], ...] = ()
    """Labels with their probabilities, the likeliest first."""


class Task(Step, ABC):
    """Loads, feeds, trains and scores one kind of model."""

    counts: ClassVar[Literal["rows", "tokens"]] = "rows"
    """What `weight` counts: trainings of tokens may have a budget of them."""
    trainable: ClassVar[bool] = True
    """False where it has no loss of its own, so that its models learn from teachers only."""
    repeats_rows: ClassVar[bool] = False
    """Whether `feeds` takes rows again where a batch has more than there are."""
    imagines: ClassVar[bool] = False
    """Whether plans without data are possible: `imagined` makes rows up."""

    @abstractmethod
    def measures(self) -> tuple[Measure, ...]:
        """How its models are judged; a plan's `metric:` chooses, the first one is the default."""

    @property
    def metric(self) -> str:
        """Name of the default measure."""
        return self.measures()[0].name

    def spelled(self, metric: str) -> str:
        """The name of a measure as this task spells it, of a name in any case; as it is where the task has none."""
        return next((each.name for each in self.measures() if each.name.casefold() == metric.casefold()), metric)

    @abstractmethod
    def columns(self) -> Columns:
        """Columns of the data this task reads."""

    def encoded(self, data: Data) -> Data:
        """The rows as this task trains and scores on them: what it reads beside one label is put into the form that its loss takes.

        Raises:
            SourceError: a row holds something else, with its number.
        """
        return data

    def imagined(self, source: Path) -> Data:
        """Rows for a plan without data, by what lies beside its source model; all splits are there.

        Raises:
            SourceError: the model does not say what it can be asked for.
        """
        raise NotImplementedError(f"{type(self).__name__} imagines no rows")

    def gives_logits(self) -> bool:
        """Whether its main output is logits of classes that exclude each other; not so features, or noise."""
        return True

    def imitated(self) -> Literal["classes", "labels", "numbers"] | None:
        """What soft targets are made of: logits of classes that exclude each other, logits of labels each by itself, or numbers. None
        where a student imitates nothing of the main output."""
        return "classes" if self.gives_logits() else None

    def scores_classes(self) -> bool:
        """Whether its scores hold the recall of each class, which `max_class_drop` limits."""
        return self.gives_logits()

    def decided(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path) -> Self:
        """This task with what a built model is told by, chosen on validation rows: a threshold, say. It is scored and shipped so."""
        return self

    @abstractmethod
    def load(self, source: Path, data: Data, *, seed: int) -> Model:
        """The source model from a folder; a fresh, seeded head where it has none that fits the data's labels."""

    def examine(self, source: Path, labels: Sequence[str]) -> tuple[str, ...]:
        """What `check` tells of a source model, a line each: read without its weights, before anything costs.

        Raises:
            SourceError: as far as that shows it, what `load` would raise.
        """
        return ()

    def trained(self, source: Path, labels: Sequence[str]) -> bool:
        """Whether a source model answers what the task asks without being trained: False where `load` would draw a head.

        Raises:
            SourceError: as far as the folder shows it without its weights, what `load` would raise.
        """
        return True

    def training(self) -> Mapping[str, Any]:
        """What `compressor init` writes of a training that teaches a source from nothing, where that is not what suits a pretrained model."""
        return {}

    def sizes(self, data: Data, files: Path) -> InputSizes | None:
        """How large rows are before anything is cut, and what the model beside `files` takes of them; None where nothing is known."""
        return None

    @classmethod
    def recipe(cls, seen: Seen) -> Recipe | None:
        """What `compressor init` writes of it into a plan: the columns that it reads, say. None where it does not fit the rows.

        Raises:
            SourceError: it fits, and several columns could be meant.
        """
        return None

    def check_rows(self, model: Model, data: Data, files: Path) -> None:
        """Refuse rows that a model cannot take; asked when both are first read. `files` lie beside the model.

        Raises:
            SourceError: a row does not fit the model.
            RowFailed: a library raises something on one.
        """

    def passes_to_score(self) -> float:
        """How many passes of a model scoring a row takes, about: of one that draws, the evaluations of its sampler."""
        return 1.0

    def refuses(self, length: int, files: Path | None = None) -> str | None:
        """What a length is, where no input of a model can be of this one; None where it can. `files` lie beside the model, if it is known."""
        return None

    def workloads(self) -> tuple[Workload, ...]:
        """What is timed where a plan's probe does not say it."""
        return (Workload(),)

    @abstractmethod
    def inputs(self, model: Model | Path) -> tuple[Port, ...]:
        """Inputs of one call of the model, without those of its state."""

    @abstractmethod
    def outputs(self) -> tuple[Port, ...]:
        """Outputs of one call of the model, without those of its state."""

    def graphs(self, files: Model | Path) -> tuple[Graph, ...]:
        """What the model is exported as: one graph, `model`, unless the task has several, or a state that goes round."""
        return (Graph(inputs=self.inputs(files), outputs=self.outputs()),)

    @abstractmethod
    def example(self, files: Path, graph: Graph, *, batch: int, length: int) -> Feed:
        """A well-formed input to trace the export of a graph with, its state included."""

    @abstractmethod
    def batches(self, rows: Dataset, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:
        """Tensors of a split, shuffled by `shuffle_seed` or in the order of the rows; the iterable has a length."""

    def ready(self, rows: Dataset, files: Path, tell: Callable[[Event], None]) -> None:
        """Make once what `batches` of a split read, as latents of its rows, and tell how far it has come; asked before a training."""

    def beyond_rows(self, files: Path) -> str:
        """What the model in a folder was taught that batches of rows do not say, so that a training on them loses it; empty for nothing."""
        return ""

    @abstractmethod
    def forward(self, module: torch.nn.Module, batch: Batch, want: Want = Want()) -> Outputs:
        """Run the model and capture what is wanted."""

    def repeats(self) -> bool:
        """Whether a row makes the same training inputs in every epoch; not so where they are cropped at random."""
        return True

    def answer(self, module: torch.nn.Module, graph: Graph, inputs: Mapping[str, torch.Tensor]) -> Answer:
        """What a graph of the model answers to its inputs by name: the logits. Exports and eager runs are made of it.

        Args:
            module: the graph's component.
            graph: which graph of the model.
            inputs: its inputs by name, those of the state included.

        Returns:
            Its only output, several in their order, or a mapping by name.
        """
        found: torch.Tensor = module(**inputs).logits
        return found

    def prepare(self, session: Session, feed: Feed, workload: Workload) -> object:
        """What a call of a workload starts from, made once per feed and not timed: a filled cache, say. None needs nothing."""
        return None

    def call(self, session: Session, feed: Feed, workload: Workload = Workload(), prepared: object = None) -> Feed:
        """One call, as it is timed and scored: the loop around a model's graphs, in numpy alone. It runs in measuring processes too.

        Args:
            session: the built model.
            feed: what `feeds` gave for the workload.
            workload: what to do with it; `Workload()` where rows are scored.
            prepared: what `prepare` gave for this feed; it is used again, so it stays as it is.
        """
        return session.run(feed)[0]

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """The supervised loss, a mean over the batch."""

    def weight(self, batch: Batch) -> float:
        """What parts of a batch are weighed by: the count that the loss is a mean over, its rows unless a task counts valid tokens."""
        return len(next(iter(batch.values())))

    @abstractmethod
    def feeds(self, rows: Dataset, files: Path, workload: Workload = Workload(), *, count: int | None = None) -> Sequence[Feed]:
        """Real inputs as the exported model takes them, at most `count` of them, each a batch of the workload's length."""

    @abstractmethod
    def scored_feeds(self, rows: Dataset, files: Path) -> tuple[Sequence[Feed], Sequence[int]]:
        """All rows as feeds, and the row that each one in turn is."""

    def predicted(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path) -> Feed:
        """Outputs of all rows, in their order, by anything that maps a feed to named outputs."""
        return self.collected(predict, *self.scored_feeds(rows, files))

    def collected(self, predict: Callable[[Feed], Feed], feeds: Sequence[Feed], order: Sequence[int]) -> Feed:
        """What scores are made of, an entry for each row in their order: outputs of all feeds, or what a score needs of large ones."""
        return self.answers(predict, feeds, order)

    def answers(self, predict: Callable[[Feed], Feed], feeds: Sequence[Feed], order: Sequence[int]) -> Feed:
        """The outputs of all feeds as they are, one entry per row, put back into the order of the rows: of a few rows at a time."""
        import numpy as np

        found, at = list[Feed](), 0
        for feed in feeds:
            count = len(next(iter(feed.values())))
            found.append(told_by_row(predict, feed, order[at : at + count]))
            at += count
        names = [port.name for port in self.outputs()]
        return {name: _in_order(np.concatenate([each[name] for each in found]).astype(np.float32), order) for name in names}

    @abstractmethod
    def truth(self, rows: Dataset) -> Feed:
        """What the outputs of rows are held against, as arrays: labels, say, and names of classes."""

    @abstractmethod
    def score(self, outputs: Feed, truth: Feed, *, split: str) -> Evaluation:
        """A value with n and interval for every measure, from the arrays that `collected` and `truth` make."""

    def evaluate(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path, *, split: str) -> Evaluation:
        """Scores over anything that maps a feed to named outputs."""
        with of_split(split):
            outputs = self.predicted(predict, rows, files)
        return self.score(outputs, self.truth(rows), split=split)

    def deployment(self, files: Path, inputs: Sequence[Port]) -> Deployment:
        """How the deployed model in `files` is fed; where a task says nothing else, by arrays."""
        return Deployment("arrays")

    def calls(self, rows: Dataset, files: Path, *, count: int | None = None, graph: str = Graph.name) -> Sequence[Feed]:
        """Real inputs of a graph, one row each, to calibrate by: what `feeds` gives, unless a call is a loop with inputs of its own."""
        return self.feeds(rows, files, count=count)

    def level(self, call: Feed) -> float | None:
        """The level of noise of one of `calls`, higher where there is more: ranges inside a network may move with it. None where there is none."""
        return None

    def feed(self, content: Any, files: Path) -> Feed:
        """Inputs of one row from what a user has: a text, the path or bytes of a picture or sound.

        Raises:
            UnsupportedModel: the task takes nothing from users.
        """
        raise UnsupportedModel(f"{type(self).__name__} makes no inputs of what a user has: it implements no `feed`")

    def tell(self, outputs: Feed, labels: Sequence[str]) -> tuple[Prediction, ...]:
        """What a person reads in the outputs of a call, row by row.

        Raises:
            UnsupportedModel: the task tells nothing.
        """
        raise UnsupportedModel(f"{type(self).__name__} says nothing of its outputs: it implements no `tell`")

    def witnessed(self, session: Session, content: Any, files: Path) -> Witnessed | None:
        """What a built model does with one row alone, where its example does more than one call: it `generates`. None elsewhere."""
        return None

    def effort(self, files: Path) -> Mapping[str, float]:
        """What a row takes where a call is a loop, by name: `steps` and `evaluations` of the network of the model beside `files`."""
        return {}

    def notes(self, evaluations: Mapping[str, Evaluation], *, split: str) -> tuple[Note, ...]:
        """What a report shows of several models, scored on the same rows, side by side: pictures, say. The first is what others are held against."""
        return ()

    def tiny(self, folder: Path) -> Mapping[str, Any]:
        """Write the smallest model and rows that it works on into a folder: what the conformance suite tries plug-ins with.

        The model goes into `pretrained/`. Returned is what a plan says under `data:`.

        Raises:
            UnsupportedModel: the task brings none.
        """
        raise UnsupportedModel(f"{type(self).__name__} brings no tiny model: it implements no `tiny`")

    def predictions(self, outputs: Feed) -> NDArray[Any] | None:
        """What each row is told to be, by its outputs; None where rows have no prediction."""
        return None

    def compare(self, candidate: Evaluation, reference: Evaluation, *, metric: str, name: str, seed: int) -> Difference:
        """Candidate against the reference called `name` on the same rows, by one metric.

        Rows are paired where each adds to the measure. A task overrides it for a property of the whole set, or a function of a mean.

        Raises:
            ValueError: the two were not evaluated on the same number of rows.
        """
        from compressor.contracts.statistics import difference

        mine, theirs = self.predictions(candidate.outputs), self.predictions(reference.outputs)
        changed = None if mine is None or theirs is None else int((mine != theirs).sum())
        return difference(candidate, reference, metric=metric, name=name, seed=seed, changed=changed)

    def disagreements(
        self, candidate: Evaluation, reference: Evaluation, rows: Dataset, labels: Sequence[str], *, name: str
    ) -> tuple[Disagreement, ...]:
        """Rows on which the candidate called `name` and the reference differ; none where rows have no prediction."""
        return ()


def _in_order(found: NDArray[Any], order: Sequence[int]) -> NDArray[Any]:
    import numpy as np

    ordered = np.empty_like(found)
    ordered[np.asarray(order)] = found
    return ordered
