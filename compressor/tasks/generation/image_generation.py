"""Drawing pictures of a class from noise: a denoising network, a loop around it in numpy, and scores of all pictures together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import (
    Batch,
    Columns,
    Data,
    Deployment,
    Evaluation,
    Feed,
    Graph,
    Measure,
    Outputs,
    Port,
    Prediction,
    Recipe,
    Seen,
    Task,
    Want,
    Workload,
)
from compressor.contracts.failing import of_split
from compressor.contracts.model import BLUEPRINT
from compressor.contracts.notes import Note
from compressor.errors import SourceError, UnsupportedModel
from compressor.tasks.batches import Feeds, full_groups, grouped, order_of
from compressor.tasks.classification import scores as class_scores
from compressor.tasks.generation.description import FILE, GRAPH, Description, described, output_of, settled
from compressor.tasks.generation.graphs import LABEL, SAMPLE, SCALE, SPAN, TIME, answer, example, graphs, pictures
from compressor.tasks.generation.levels import DENOISING, by_level, errors_of, mean_of
from compressor.tasks.generation.pictures import in_letters, pictures_of
from compressor.tasks.generation.process import Process
from compressor.tasks.generation.proposed import TRAINING, proposed
from compressor.tasks.generation.samplers import Sampler, Sampling
from compressor.tasks.generation.side_by_side import strips
from compressor.tasks.generation.training import Batches
from compressor.tasks.image_classification import undecoded
from compressor.tasks.media import check_column

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Model, Session

SCORED_BATCH = 64
ACCURACY = Measure("class-accuracy")
"""Of pictures that were drawn, the share that the judge tells to be of the class that was asked for."""
PICTURES, JUDGED, ERRORS = "pictures", "judged", "errors"
POLICY = (Port("policy", "float32", (4,)), Port("teacher_table", "float32", ("teacher_evaluations", "columns")))
"""What a feed says of a teacher that mends rows."""


class ImageGeneration(Task):
    """A picture for each row, drawn from noise by its number for its label, and held against the rows' own pictures."""

    version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "pillow", "numpy")
    made_with: ClassVar[tuple[str, ...]] = ("compressor.tasks.generated.classifier",)
    repeats_rows: ClassVar[bool] = True
    imagines: ClassVar[bool] = True

    image: str = Field(default="image", description="Column of the picture.")
    label: str = Field(default="label", description="Column of the label.")
    process: Process | None = Field(
        default=None,
        description="How pictures become noise and what the network tells: `kind` (flow, cosine, betas, edm) and `prediction` (flow, v, x0, epsilon, "
        "edm). What lies beside a trained model holds; a network without it learns `flow`.",
    )
    sampler: Sampler | None = Field(
        default=None,
        description="How the source is sampled; dpm++2m unless it says something else. What a pass makes says it itself.",
    )
    steps: int | None = Field(
        default=None, ge=1, le=10_000, description="Steps that the source is sampled in; 50 unless it says something else."
    )
    guidance: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="How far outputs are moved away from those without a label; 1 for outputs as they are, where others take two evaluations.",
    )
    weighting: Literal["none", "min-snr", "flow", "edm"] = Field(
        default="none",
        description="How errors at different times count in training, by what the network tells: see the page of diffusion.",
    )
    times: Literal["uniform", "logit-normal"] = Field(
        default="uniform", description="How times are drawn in training; of `edm` they are normal in ln(sigma) either way."
    )
    drop_labels: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of the training rows whose label is left out, so that the model can be guided.",
    )
    drawing: Description | None = Field(
        default=None, description="How a built model draws. A run writes it beside the model; leave it out."
    )

    @model_validator(mode="after")
    def _reads_two_columns(self) -> Self:
        if self.image == self.label:
            raise ValueError(f"image and label are both column '{self.label}'")
        return self

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

    def columns(self) -> Columns:
        """Picture and label."""
        return Columns((self.image,), self.label)

    def encoded(self, data: Data) -> Data:
        """Rows as they are: their pictures are pictures."""
        check_column(data, self.image, "Image")
        return data

    @override
    def imagined(self, source: Path) -> Data:
        """Labels in turn, and no pictures."""
        from compressor.tasks.generation.imagined import rows_of

        return rows_of(described(source), self.columns())

    def load(self, source: Path, data: Data, *, seed: int) -> Model:  # noqa: ARG002 - nothing is drawn
        """The network with its description and the judge of these rows beside it.

        Raises:
            SourceError: it knows other classes, or its process is not that of the plan.
            UnsupportedModel: what it draws is not known, or has to be decoded by another component.
        """
        from compressor import model as models
        from compressor.tasks.generation.judging import judge_of

        model = models.Model.read(source)
        if len(model.components) > 1:
            raise UnsupportedModel(
                f"{source} has several components ({', '.join(model.components)}): only networks that draw pictures themselves are read"
            )
        description = settled(model, source, self.process, self._sampling(), labels=len(data.labels))
        if description.classes and description.classes != len(data.labels):
            raise SourceError(
                f"{source} knows {description.classes} classes, and the data has {len(data.labels)}: {', '.join(data.labels[:5])}"
            )
        model.files[FILE] = description.written()
        if data.real:
            model.files.update(judge_of(model, data, description.shape, self.columns()))
        return model

    @classmethod
    @override
    def recipe(cls, seen: Seen) -> Recipe | None:
        """Pictures with a class, of a model that draws."""
        return proposed(seen)

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
    def passes_to_score(self) -> float:
        """As the plan samples, or would by itself; and one of a noisy row."""
        return 1.0 + Sampling.model_validate(self._sampling()).evaluations()

    @override
    def effort(self, files: Path) -> Mapping[str, float]:
        """Steps, and evaluations of the network."""
        how = described(files)
        return {"steps": how.sampling.steps, "evaluations": how.evaluations}

    def _sampling(self) -> dict[str, Any]:
        """What the plan says of it."""
        return {name: getattr(self, name) for name in Sampling.model_fields if getattr(self, name) is not None}

    def workloads(self) -> tuple[Workload, ...]:
        """One picture at a time, in the steps that each model is meant for."""
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
        )

    def outputs(self) -> tuple[Port, ...]:
        """Pictures in [-1, 1], as far as the model keeps to that."""
        return (Port(PICTURES, "float32", ("batch", "channels", "height", "width")),)

    def graphs(self, files: Model | Path) -> tuple[Graph, ...]:
        """The network, which is called in every step; where it runs fewer blocks at some times, a graph for each number of them."""
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
        return {PICTURES: pictures(session, feed, table)[0]}

    # -------------------------------------------------------------- rows

    def batches(self, rows: Dataset, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:
        """Noisy pictures, what is to be told of them, and the pictures themselves; noise, times and left-out labels by the seed."""
        groups = grouped(order_of(len(rows), shuffle_seed), batch_size)
        images, how = undecoded(rows, self.image), described(files)
        labels = how.known(rows[self.label])
        feeds = Feeds(lambda chosen: {PICTURES: pictures_of(images, chosen, self.image, how.shape)}, groups)
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
        """What the network tells of the noisy pictures, and features of its blocks."""
        from compressor.model.capture import captured

        with captured(module, want) as features:
            told = output_of(module, batch[SAMPLE], batch[TIME], batch[LABEL], span=batch.get(SPAN), scale=batch.get(SCALE))
        return Outputs(told, dict(features))

    def loss(self, outputs: Outputs, batch: Batch) -> Any:
        """Squared errors, weighted by time."""
        apart = (outputs.main.float() - batch["target"]).square().flatten(1).mean(1)
        return (batch["weight"] * apart).mean()

    def feed(self, content: Any, files: Path) -> Feed:
        """A picture of a class by a seed: `{"label": 3, "seed": 7}`, or the label alone, as a number.

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
        labels, table = how.known(rows[self.label]), how.table(workload.steps)
        groups = full_groups(max(len(labels), workload.batch), workload.batch, count)
        return [how.feed(group, [labels[each % len(labels)] for each in group], table) for group in groups]

    @override
    def calls(self, rows: Dataset, files: Path, *, count: int | None = None, graph: str = GRAPH) -> Sequence[Feed]:
        """Noisy rows at the levels that the sampler asks the graph at, in turn; where it guides, every other one without its label."""
        from compressor.tasks.generation.calibration import asked_at_levels

        how = described(files)
        labels = how.known(rows[self.label])
        return asked_at_levels(undecoded(rows, self.image), labels, self.image, how, count=count, graph=graph)

    @override
    def level(self, call: Feed) -> float | None:
        """The time that the network is told."""
        return float(call[TIME][0])

    def scored_feeds(self, rows: Dataset, files: Path) -> tuple[Sequence[Feed], Sequence[int]]:
        """All rows in order; equal rows start from equal noise, whatever model draws them."""
        how = described(files)
        labels, table = how.known(rows[self.label]), how.table()
        groups = grouped(range(len(labels)), SCORED_BATCH)
        return Feeds(lambda chosen: how.feed(chosen, [labels[each] for each in chosen], table), groups), range(len(labels))

    # -------------------------------------------------------------- scores

    @override
    def predicted(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path) -> Feed:
        """The pictures, and what the judge makes of them, if there is one."""
        import numpy as np

        from compressor.tasks.generation.judging import FEATURES, has_judge, judge_in

        pictures = super().predicted(predict, rows, files)[PICTURES]
        if not has_judge(files):
            return {PICTURES: pictures}
        features, logits = judge_in(files).seen(np.nan_to_num(pictures))  # what is not finite is told by a verdict
        return {PICTURES: pictures, FEATURES: features.rows, JUDGED: logits.argmax(-1)}

    def truth(self, rows: Dataset) -> Feed:
        """Labels, and names of the classes; what the judge makes of the rows' own pictures comes from `evaluate`."""
        import numpy as np

        names = np.asarray(getattr(rows.features[self.label], "names", ()), dtype=np.str_)
        return {"labels": np.asarray(rows[self.label], dtype=np.int64), "names": names}

    @override
    def evaluate(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path, *, split: str) -> Evaluation:
        """Pictures for the labels of the rows against the rows' own, by the judge beside the model."""
        import numpy as np

        from compressor.tasks.generation.judging import FEATURES, judge_in

        with of_split(split):
            outputs = self.predicted(predict, rows, files)
            real = pictures_of(undecoded(rows, self.image), range(len(rows)), self.image, described(files).shape)
        features, how = judge_in(files).seen(real)[0], described(files)
        labels = how.known(rows[self.label])
        outputs = {**outputs, ERRORS: errors_of(predict, real, labels, how, gives=PICTURES, batch=SCORED_BATCH)}
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
        gains = {ACCURACY.name: (told == labels) * 1.0, DENOISING.name: -outputs[ERRORS]}
        accurate = ACCURACY.metric(accuracy.value, count, accuracy.interval)
        metrics = (*figures(outputs, truth), accurate, mean_of(outputs[ERRORS]))
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
        """Pictures from the same noise, and errors by noise level."""
        return (*strips(evaluations, PICTURES, split), *by_level(evaluations, split))

    # -------------------------------------------------------------- people

    def deployment(self, files: Path, inputs: Sequence[Port]) -> Deployment:
        """How pictures are drawn elsewhere: the table, and what the rest of a feed is."""
        shipped = described(files).shipped()
        return Deployment("arrays", draws={"gives": PICTURES, "inputs": [port.name for port in inputs], **shipped})

    def tell(self, outputs: Feed, labels: Sequence[str]) -> tuple[Prediction, ...]:  # noqa: ARG002 - a picture is no label
        """Each picture in letters, dark to light."""
        return tuple(Prediction(text) for text in in_letters(outputs[PICTURES]))

    def tiny(self, folder: Path) -> Mapping[str, Any]:
        """A tiny network and rows of pictures."""
        from compressor.model import Model
        from compressor.tasks.tiny import denoiser, images

        Model.wrap(denoiser()).save(folder / "pretrained")
        return images(folder)
