"""Speech without a task of its own: an encoder's features, judged by linear probes on what was left frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compressor.contracts import Batch, Columns, Evaluation, Feed, Graph, Measure, Outputs, Port, Prediction, Recipe, Seen, Want
from compressor.contracts.records import Interval, Scores
from compressor.contracts.statistics import resampled
from compressor.errors import CompressorError, SourceError
from compressor.model.capture import captured
from compressor.tasks import guesses
from compressor.tasks.audio import SHORTEST, Sounds, frame_mask, frames_of, side_files
from compressor.tasks.batches import Batches
from compressor.tasks.classification import NOT_INPUTS, RESAMPLES
from compressor.tasks.metrics import wilson
from compressor.tasks.reading import column_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts.data import Data
    from compressor.model.model import Model

PROBES = Measure("probes")
FOLDS = 5
GROUP_FOLDS = 3


class Probe(BaseModel):
    """A linear classifier on pooled features, cross-validated within the rows that are scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str = Field(description="Column of what the probe tells apart.")
    groups: str | None = Field(default=None, description="Rows of one group (a speaker, say) are never on both sides.")
    shots: int | None = Field(default=None, ge=1, description="Rows of each class that the probe learns from; all unless given.")


class AudioFeatures(Sounds):
    """An encoder of speech; its quality is the mean accuracy of linear probes on mean-pooled features.

    Probes are fitted in folds of the very rows that are scored: each row is told by a probe that has not seen it, nor its group.
    Rows, folds and shots are the same for every model, so differences are paired.
    """

    renamed: ClassVar[Mapping[str, str]] = {"probes": "linear_probes"}

    trainable: ClassVar[bool] = False
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"seconds": 0.5, "linear_probes": {"label": {"label": "label"}}},)

    linear_probes: dict[str, Probe] = Field(
        default={"label": Probe(label="label")},
        min_length=1,
        description="By name; the first one's label is what rows are split by.",
    )

    crop: bool = Field(
        default=False,
        description="Sounds of a training batch are of like lengths and cropped to the shortest, at random: none is padded, but those "
        "under a quarter of a second.",
    )

    @model_validator(mode="after")
    def _croppable(self) -> Self:
        if self.crop and self.seconds < SHORTEST:
            raise ValueError(f"crop needs seconds of {SHORTEST} or more, found {self.seconds:g}")
        return self

    def gives_logits(self) -> bool:
        """Features are none."""
        return False

    def repeats(self) -> bool:
        """Not where sounds are cropped at random."""
        return not self.crop

    def batches(self, rows: Dataset, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:
        """Sounds of one length; with `crop` and a seed, those of each batch are as long as the shortest of them."""
        if not self.crop or shuffle_seed is None:
            return super().batches(rows, files, batch_size=batch_size, shuffle_seed=shuffle_seed)
        return Batches(self.cropped_feeds(rows, files, batch_size, shuffle_seed), column_of(rows, self.columns().label))

    def measures(self) -> tuple[Measure, ...]:
        """The mean accuracy of all probes, and that of each."""
        return (PROBES, *(Measure(f"{name} probe") for name in self.linear_probes))

    def columns(self) -> Columns:
        """Sound, columns of groups and of other labels, and the label of the first probe."""
        first, *others = self.linear_probes.values()
        named = [name for each in (first, *others) for name in (each.label, each.groups) if name]
        return Columns((self.audio,), first.label, tuple(dict.fromkeys(name for name in named if name != first.label)))

    @classmethod
    def recipe(cls, seen: Seen) -> Recipe | None:
        """Sounds whose features are to tell a label; where a head can be trained for it, that is the likelier wish."""
        if (content := guesses.content(seen, "sound", "sound")) is None:
            return None
        label = guesses.classes(seen, (content[0],))
        told = {"audio": content[0], "linear_probes": {label[0]: {"label": label[0]}}} if label else {}
        return Recipe(told, f"{content[1]}; a probe of {label[1]}", rank=1) if label else None

    def examine(self, source: Path, labels: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002 - there is no head
        """Nothing of a head; settings of the feature extractor are read as `load` does."""
        side_files(source)
        return ()

    def load(self, source: Path, data: Data, *, seed: int) -> Model:  # noqa: ARG002 - nothing is drawn
        """The encoder of the source, without a head; that of Whisper is made to take inputs of any length.

        Raises:
            SourceError: the folder is not usable, or lacks weights.
        """
        from compressor.model.edits import LiftLength
        from compressor.model.model import Model
        from compressor.model.pretrained import load_encoder

        files = side_files(source)
        model = Model.wrap(load_encoder(source), files)
        if model.module.config.model_type == "whisper":
            model.apply(LiftLength())
        return model

    def outputs(self) -> tuple[Port, ...]:
        """Features of each row, a mean over its frames: `[batch, features]`."""
        return (Port("features", "float32", ("batch", "features")),)

    def answer(self, module: torch.nn.Module, graph: Graph, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:  # noqa: ARG002
        """Mean over valid frames of what leaves the encoder."""
        return self._pooled(module, inputs)

    def _pooled(self, module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        found: torch.Tensor = module(**inputs).last_hidden_state
        mask = inputs.get("attention_mask")
        if mask is None:
            return found.mean(dim=1)
        valid = frame_mask(module, mask, found.shape[1]).unsqueeze(-1).to(found.dtype)
        return (found * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)

    def forward(self, module: torch.nn.Module, batch: Batch, want: Want = Want()) -> Outputs:
        """Pooled features in the place of logits; the mask is that of frames."""
        inputs = {name: tensor for name, tensor in batch.items() if name not in NOT_INPUTS}
        with captured(module, want) as found:
            features = self._pooled(module, inputs)
        frames, mask = frames_of(found), batch.get("attention_mask")
        valid = frame_mask(module, mask, frames) if mask is not None and frames is not None else None
        return Outputs(features, dict(found), valid)

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:  # noqa: ARG002 - there is none
        """Refused: there is nothing to supervise."""
        raise CompressorError("the task audio-features has no loss of its own: distil it, or name the task audio-classification")

    def truth(self, rows: Dataset) -> Feed:
        """Every column that a probe reads, by its name: `[n]`."""
        import numpy as np

        columns = self.columns()
        return {name: np.asarray(column_of(rows, name)) for name in columns.all if name not in columns.content}

    def tell(self, outputs: Feed, labels: Sequence[str]) -> tuple[Prediction, ...]:  # noqa: ARG002 - features have no names
        """How many features each row has, and how long the vector is."""
        import numpy as np

        features = outputs[self.outputs()[0].name]
        return tuple(Prediction(f"{len(row)} features of length {float(np.linalg.norm(row)):.4g}") for row in features)

    def score(self, outputs: Feed, truth: Feed, *, split: str) -> Evaluation:
        """Accuracy of each probe with Wilson's interval, and their mean with a bootstrap interval over rows."""
        import numpy as np

        features = outputs[self.outputs()[0].name]
        found = {f"{name} probe": right(features, truth, probe, name) for name, probe in self.linear_probes.items()}
        mean: NDArray[np.float64] = np.stack(list(found.values())).mean(axis=0)
        drawn = np.concatenate([mean[rows].mean(axis=1) for rows in resampled(len(mean), 0, RESAMPLES)])
        low, high = np.quantile(drawn, [0.025, 0.975])
        interval = Interval(low=float(low), high=float(high), method="bootstrap over rows")
        metrics = [PROBES.metric(float(mean.mean()), len(mean), interval)]
        for name, each in found.items():
            metrics.append(Measure(name).metric(float(each.mean()), len(each), wilson(int(each.sum()), len(each))))
        scores = Scores(split=split, metric=PROBES.name, metrics=tuple(metrics))
        return Evaluation(scores, outputs, gains={PROBES.name: mean, **found}, truth=truth)


def right(features: NDArray[np.float32], rows: Mapping[str, Any], probe: Probe, name: str) -> NDArray[np.float64]:
    """Whether each row is told right by a probe that has seen neither it nor its group; `rows` are labels and groups by column."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.asarray(rows[probe.label])
    groups = np.asarray(rows[probe.groups]) if probe.groups else None
    least = min(np.unique(labels, return_counts=True)[1]) if groups is None else len(np.unique(groups))
    count = min(FOLDS if groups is None else GROUP_FOLDS, int(least))
    if count < 2:
        raise SourceError(f"{len(labels)} rows are too few for the probe '{name}': a class or group has one row only")
    folds = StratifiedKFold(count, shuffle=True, random_state=0) if groups is None else GroupKFold(count)
    hits = np.zeros(len(labels))
    for number, (learned, told) in enumerate(folds.split(features, labels, groups)):
        chosen = learned if probe.shots is None else _few(labels, learned, probe.shots, seed=number)
        if len(np.unique(labels[chosen])) == 1:  # all that such a probe can say
            hits[told] = labels[told] == labels[chosen[0]]
            continue
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(features[chosen], labels[chosen])
        hits[told] = fitted.predict(features[told]) == labels[told]
    return hits


def _few(labels: NDArray[Any], learned: NDArray[np.int64], shots: int, *, seed: int) -> NDArray[np.int64]:
    """So many rows of each class, or all it has."""
    import numpy as np

    draw = np.random.default_rng(seed)
    chosen = [draw.permutation(learned[labels[learned] == label])[:shots] for label in np.unique(labels[learned])]
    return np.sort(np.concatenate(chosen))
