"""Drawing rows of a class from noise: a denoising network, a loop around it in numpy, and scores of all rows together.

A row is a picture of one channel or three as the network and the judge see it; tasks say how one is read from data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from typing_extensions import override

from compressor.contracts import (
    Batch,
    Data,
    Deployment,
    Evaluation,
    Event,
    Feed,
    Graph,
    Measure,
    Outputs,
    Port,
    Prediction,
    Want,
    Workload,
)
from compressor.contracts.failing import of_split
from compressor.contracts.model import BLUEPRINT
from compressor.contracts.notes import Note
from compressor.contracts.step import code_parts
from compressor.errors import SourceError, UnsupportedModel
from compressor.tasks.batches import Feeds, full_groups, grouped, order_of
from compressor.tasks.classification import scores as class_scores
from compressor.tasks.generation.description import FILE, GRAPH, Description, described, output_of, settled
from compressor.tasks.generation.graphs import LABEL, SAMPLE, SCALE, SPAN, TIME, answer, example, graphs, rows_drawn
from compressor.tasks.generation.latents import AT_ONCE, encoded_once
from compressor.tasks.generation.levels import DENOISING, by_level, errors_of, mean_of
from compressor.tasks.generation.pictures import in_letters
from compressor.tasks.generation.proposed import TRAINING
from compressor.tasks.generation.settings import DrawingSettings
from compressor.tasks.generation.side_by_side import strips
from compressor.tasks.generation.training import CLEAN, Batches
from compressor.tasks.reading import column_of

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Model, Session

SCORED_BATCH = 64
ACCURACY = Measure("class-accuracy")
"""Of rows that were drawn, the share that the judge tells to be of the class that was asked for."""
JUDGED, ERRORS = "judged", "errors"
POLICY = (Port("policy", "float32", (4,)), Port("teacher_table", "float32", ("teacher_evaluations", "columns")))
"""What a feed says of a teacher that mends rows."""


class Drawing(DrawingSettings, ABC):
    """A row drawn for each row of data, from noise by its number for its label, and all of them held against the data's."""

    version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    made_with: ClassVar[tuple[str, ...]] = ("compressor.tasks.generated.classifier",)
    repeats_rows: ClassVar[bool] = True
    imagines: ClassVar[bool] = True

    gives: ClassVar[str]
    """Name of what is drawn."""
    channels: ClassVar[tuple[int, ...]]
    """How many a row may have."""

    @abstractmethod
    def read(self, rows: Dataset, chosen: Sequence[int], how: Description) -> NDArray[np.float32]:
        """Rows of a split by their numbers as a judge sees them and a network or its encoder takes them: `[n, C, H, W]` in [-1, 1].

        Raises:
            SourceError: one cannot be read.
        """

    def settings_of_sound(self) -> dict[str, Any]:
        """Of a task on sounds, what `settled` is told of them."""
        return {}

    # -------------------------------------------------------------- what it is

    def measures(self) -> tuple[Measure, ...]:
        """Distances of the whole set by features of the judge, and how often it sees the class that was asked for."""
        from compressor.tasks.generation.judging import MEASURES, WORTH

        return (*MEASURES, WORTH, ACCURACY, DENOISING)

    def gives_logits(self) -> bool:
        """It gives pictures."""
        return False

    def repeats(self) -> bool:
        """Noise is drawn anew in every epoch."""
        return False

    @override
    def imagined(self, source: Path) -> Data:
        """Labels in turn, and no pictures."""
        from compressor.tasks.generation.imagined import rows_of

        return rows_of(described(source), self.columns())

    def load(self, source: Path, data: Data, *, seed: int) -> Model:  # noqa: ARG002 - nothing is drawn
        """The network with its description and the judge of these rows beside it.

        Raises:
            SourceError: it knows other classes, or its process is not that of the plan.
            UnsupportedModel: what it draws is not known, or another component is beside it than what decodes that.
        """
        from compressor import model as models
        from compressor.tasks.generation.judging import judge_of

        model = models.Model.read(source)
        sounds = self.settings_of_sound()
        how = settled(model, source, self.process, self.sampling(), labels=len(data.labels), **sounds)
        if how.row_shape[0] not in self.channels:
            can = " or ".join(map(str, self.channels))
            raise UnsupportedModel(f"{source} draws {how.row_shape[0]} channels, and {self.gives} have {can}")
        if how.classes and how.classes != len(data.labels):
            raise SourceError(
                f"{source} knows {how.classes} classes, and the data has {len(data.labels)}: {', '.join(data.labels[:5])}"
            )
        model.files[FILE] = how.written()
        if data.real:
            versions = code_parts(type(self))["made_with"].values()
            model.files.update(judge_of(model, data, partial(self._read_by, how), self.columns(), versions))
        return model

    def _read_by(self, how: Description, rows: Dataset, chosen: Sequence[int]) -> NDArray[np.float32]:
        return self.read(rows, chosen, how)

    def classifier(self, data: Data, how: Description, *, seed: int) -> Any:
        """The network of a classifier of these rows, trained from another seed than the judge.

        Raises:
            SourceError: nothing can be learned from the rows.
        """
        from compressor.tasks.generation.judging import classifier_of_rows

        return classifier_of_rows(data, partial(self._read_by, how), self.columns(), seed=seed)

    @override
    def trained(self, source: Path, labels: Sequence[str]) -> bool:
        """Whether something beside it says how it draws: a network of ours that was only made has nothing."""
        return (source / FILE).is_file() or not (source / BLUEPRINT).is_file()

    @override
    def training(self) -> Mapping[str, Any]:
        """As `plans/diffusion-teacher.yaml` trains."""
        return TRAINING

    def decided(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path) -> Self:  # noqa: ARG002 - nothing is chosen
        """With how this built model draws: the loop around it has no files."""
        return self.model_copy(update={"drawing": described(files)})

    @override
    def effort(self, files: Path) -> Mapping[str, float]:
        """Steps, and evaluations of the network."""
        how = described(files)
        return {"steps": how.sampling.steps, "evaluations": how.evaluations}

    def workloads(self) -> tuple[Workload, ...]:
        """One row at a time, in the steps that each model is meant for."""
        return (Workload(kind="sample"),)

    # -------------------------------------------------------------- graphs

    def inputs(self, model: Model | Path) -> tuple[Port, ...]:
        """Noise, seeds of more noise, labels, and the table of a sampler."""
        from compressor.tasks.inputs.sampling import COLUMNS

        return (
            Port("noise", "float32", ("batch", *described(model).shape)),
            Port("seed", "int64", ("batch",)),
            Port(LABEL, "int64", ("batch",)),
            Port("empty", "int64", ("batch",)),
            Port("table", "float32", ("evaluations", len(COLUMNS))),
            *(() if described(model).policy is None else POLICY),
            *(() if described(model).decoded is None else (Port("decoded", "int64", (3,)),)),
        )

    def outputs(self) -> tuple[Port, ...]:
        """Rows in [-1, 1], as far as the model keeps to that."""
        return (Port(self.gives, "float32", ("batch", "channels", "height", "width")),)

    def graphs(self, files: Model | Path) -> tuple[Graph, ...]:
        """The network, which is called in every step; where it runs fewer blocks at some times, a graph for each number of them; and its decoder."""
        return graphs(described(files))

    def example(self, files: Path, graph: Graph, *, batch: int, length: int) -> Feed:  # noqa: ARG002 - the model fixes the size
        """Made-up noise at made-up times."""
        return example(described(files), graph, batch)

    def answer(self, module: Any, graph: Graph, inputs: Mapping[str, Any]) -> Any:
        """What a network tells, by as many blocks as the graph runs."""
        return answer(module, graph, inputs)

    def call(self, session: Session, feed: Feed, workload: Workload = Workload(), prepared: object = None) -> Feed:  # noqa: ARG002
        """Draw the rows of a feed by its table; where it is timed, a built model by its own, in the steps of the workload where that says them."""
        timed = self.drawing if workload.kind == "sample" else None  # a feed that is scored has the model's own table
        table = feed["table"] if timed is None else timed.table(workload.steps)
        return {self.gives: rows_drawn(session, feed, table)[0]}

    # -------------------------------------------------------------- rows

    @override
    def ready(self, rows: Dataset, files: Path, tell: Callable[[Event], None]) -> None:
        """Latents of all rows, where the model draws such."""
        how = described(files)
        if how.decoded is not None:
            self._latents(rows, files, how, tell)

    def _latents(
        self, rows: Dataset, files: Path, how: Description, tell: Callable[[Event], None] = lambda _: None
    ) -> Callable[[Sequence[int]], NDArray[np.float32]]:
        content = rows.select_columns(list(self.columns().content))
        return encoded_once(files, content, partial(self.read, rows, how=how), tell)

    def batches(self, rows: Dataset, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:
        """Noisy rows, what is to be told of them, and the rows themselves; noise, times and left-out labels by the seed."""
        groups = grouped(order_of(len(rows), shuffle_seed), batch_size)
        how = described(files)
        labels = how.known(column_of(rows, self.label))
        read: Callable[[Sequence[int]], NDArray[np.float32]] = partial(self.read, rows, how=how)
        if how.decoded is not None:
            read = self._latents(rows, files, how)
        feeds = Feeds(lambda chosen: {CLEAN: read(chosen)}, groups)
        drop = self.drop_labels if how.empty is not None else 0.0
        return Batches(feeds, labels, how, shuffle_seed or 0, times=self.times, weighting=self.weighting, drop=drop)

    @override
    def beyond_rows(self, files: Path) -> str:
        """Steps of a length, and scales of guidance: batches ask for none."""
        if not (files / FILE).is_file():
            return ""
        how = described(files)
        named = {"long steps": how.stepped or how.spans, "scales of guidance": how.scales}
        return " and ".join(name for name, is_taught in named.items() if is_taught)

    def forward(self, module: Any, batch: Batch, want: Want = Want()) -> Outputs:
        """What the network tells of the noisy rows, and features of its blocks."""
        from compressor.model.capture import captured

        with captured(module, want) as features:
            told = output_of(module, batch[SAMPLE], batch[TIME], batch[LABEL], span=batch.get(SPAN), scale=batch.get(SCALE))
        return Outputs(told, dict(features))

    def loss(self, outputs: Outputs, batch: Batch) -> Any:
        """Squared errors, weighted by time."""
        apart = (outputs.main.float() - batch["target"]).square().flatten(1).mean(1)
        return (batch["weight"] * apart).mean()

    def feed(self, content: Any, files: Path) -> Feed:
        """A row of a class by a seed: `{"label": 3, "seed": 7}`, or the label alone, as a number.

        Raises:
            SourceError: it is something else.
        """
        from compressor.tasks.generation.imagined import asked_for

        how = described(files)
        label, seed = asked_for(content, how)
        return how.feed([seed], [label], how.table())

    def feeds(self, rows: Dataset, files: Path, workload: Workload = Workload(), *, count: int | None = None) -> Sequence[Feed]:
        """Labels of rows, each with its number as seed; rows come again where a batch has more than there are."""
        how = described(files)
        labels, table = how.known(column_of(rows, self.label)), how.table(workload.steps)
        groups = full_groups(max(len(labels), workload.batch), workload.batch, count)
        return [how.feed(group, [labels[each % len(labels)] for each in group], table) for group in groups]

    @override
    def calls(self, rows: Dataset, files: Path, *, count: int | None = None, graph: str = GRAPH) -> Sequence[Feed]:
        """Noisy rows at the levels that the sampler asks the graph at, in turn; where it guides, every other one without its label.

        Raises:
            UnsupportedModel: it draws latents.
        """
        from compressor.tasks.generation.calibration import asked_at_levels

        how = described(files)
        if how.decoded is not None:
            raise UnsupportedModel(
                "the model draws latents, and what encodes rows does not lie beside a built model: nothing to calibrate by"
            )
        return asked_at_levels(
            partial(self.read, rows, how=how), how.known(column_of(rows, self.label)), how, count=count, graph=graph
        )

    @override
    def level(self, call: Feed) -> float | None:
        """The time that the network is told."""
        return float(call[TIME][0])

    def scored_feeds(self, rows: Dataset, files: Path) -> tuple[Sequence[Feed], Sequence[int]]:
        """All rows in order; equal rows start from equal noise, whatever model draws them."""
        how = described(files)
        labels, table = how.known(column_of(rows, self.label)), how.table()
        groups = grouped(range(len(labels)), SCORED_BATCH if how.decoded is None else AT_ONCE)
        return Feeds(lambda chosen: how.feed(chosen, [labels[each] for each in chosen], table), groups), range(len(labels))

    # -------------------------------------------------------------- scores

    @override
    def predicted(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path) -> Feed:
        """The rows drawn, and what the judge makes of them, if there is one."""
        import numpy as np

        from compressor.tasks.generation.judging import FEATURES, has_judge, judge_in

        drawn = super().predicted(predict, rows, files)[self.gives]
        if not has_judge(files):
            return {self.gives: drawn}
        features, logits = judge_in(files).seen(np.nan_to_num(drawn))  # what is not finite is told by a verdict
        return {self.gives: drawn, FEATURES: features.rows, JUDGED: logits.argmax(-1)}

    def truth(self, rows: Dataset) -> Feed:
        """Labels, and names of the classes; what the judge makes of the rows themselves comes from `evaluate`."""
        import numpy as np

        names = np.asarray(getattr(rows.features[self.label], "names", ()), dtype=np.str_)
        return {"labels": np.asarray(column_of(rows, self.label), dtype=np.int64), "names": names}

    @override
    def evaluate(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path, *, split: str) -> Evaluation:
        """What is drawn for the labels of the rows against the rows, by the judge beside the model."""
        import numpy as np

        from compressor.tasks.generation.judging import FEATURES, judge_in

        with of_split(split):
            outputs = self.predicted(predict, rows, files)
            real = self.read(rows, range(len(rows)), described(files))
        features, how = judge_in(files).seen(real)[0], described(files)
        labels = how.known(column_of(rows, self.label))
        if how.decoded is None:  # else rows would have to be encoded
            outputs = {**outputs, ERRORS: errors_of(predict, real, labels, how, gives=self.gives, batch=SCORED_BATCH)}
        truth = {**self.truth(rows), FEATURES: features.rows, "judge": np.asarray(features.space.model_dump_json())}
        return self.score(outputs, truth, split=split)

    def score(self, outputs: Feed, truth: Feed, *, split: str) -> Evaluation:
        """Distances of the sets, and accuracy with Wilson's interval, by class too."""
        import numpy as np

        from compressor.tasks.generation.judging import figures

        labels, told, count = truth["labels"], outputs[JUDGED], len(truth["labels"])
        classes = max(len(truth["names"]), int(max(labels.max(), told.max())) + 1)
        by_class = class_scores(np.eye(classes, dtype=np.float32)[told], labels, [str(each) for each in truth["names"]], split)
        accuracy = by_class.metrics[0]
        gains, errors = {ACCURACY.name: (told == labels) * 1.0}, outputs.get(ERRORS)
        metrics = (*figures(outputs, truth), ACCURACY.metric(accuracy.value, count, accuracy.interval))
        if errors is not None:
            gains, metrics = {**gains, DENOISING.name: -errors}, (*metrics, mean_of(errors))
        scores = by_class.model_copy(update={"metric": self.metric, "metrics": metrics})
        return Evaluation(scores, outputs, gains, truth=truth)

    def predictions(self, outputs: Feed) -> NDArray[Any] | None:
        """The class that the judge sees, where it was asked."""
        return outputs.get(JUDGED)

    def compare(self, candidate: Evaluation, reference: Evaluation, *, metric: str, name: str, seed: int) -> Any:
        """Candidate against reference; distances of rows that are drawn from equal noise are paired by them.

        Raises:
            NotComparable: they were judged by different networks.
        """
        from compressor.tasks.generation.judging import paired

        return paired(candidate, reference, super().compare(candidate, reference, metric=metric, name=name, seed=seed), seed=seed)

    @override
    def notes(self, evaluations: Mapping[str, Evaluation], *, split: str) -> tuple[Note, ...]:
        """Rows from the same noise, and errors by noise level."""
        return (*strips(evaluations, self.gives, split), *by_level(evaluations, split))

    # -------------------------------------------------------------- people

    def deployment(self, files: Path, inputs: Sequence[Port]) -> Deployment:
        """How rows are drawn elsewhere: the table, and what the rest of a feed is."""
        shipped = described(files).shipped()
        return Deployment("arrays", draws={"gives": self.gives, "inputs": [port.name for port in inputs], **shipped})

    def tell(self, outputs: Feed, labels: Sequence[str]) -> tuple[Prediction, ...]:  # noqa: ARG002 - a row is no label
        """Each row in letters, dark to light."""
        return tuple(Prediction(text) for text in in_letters(outputs[self.gives], self.gives))
