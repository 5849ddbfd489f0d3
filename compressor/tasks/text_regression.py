"""Text regression: a number for each text or pair of texts, as how much two sentences say the same."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compressor.contracts import Batch, Columns, Data, Deployment, Evaluation, Feed, Measure, Outputs, Prediction, Recipe, Seen
from compressor.contracts.model import CONFIG
from compressor.contracts.records import Difference, Interval, Scores
from compressor.contracts.statistics import draws_of
from compressor.errors import SourceError
from compressor.model.sources import read_json
from compressor.tasks import guesses
from compressor.tasks.reading import column_of, values_of
from compressor.tasks.texts import Texts

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Port

SPEARMAN, PEARSON = (Measure(name, written="number", unknowing=0.0) for name in ("Spearman", "Pearson"))
MSE = Measure("MSE", better="lower", drop="percent")
LARGEST = 1e15
"""A number whose square, summed over any number of rows, is one in float32."""


class TextRegression(Texts):
    """A number for each text, or each pair of texts, by a transformers model with one output."""

    version: ClassVar[int] = 4
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"max_length": 16, "label": "score"},)
    problem: ClassVar[Any] = "regression"

    label: str = Field(default="label", description="Column of the number.")

    def columns(self) -> Columns:
        """Texts, and the number."""
        return Columns(self.texts, kept=(self.label,))

    def head(self, data_labels: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002 - there are none
        """One output without a name."""
        return ("",)

    def examine(self, source: Path, labels: Sequence[str]) -> tuple[str, ...]:
        """Whose head it is, and what programs make of its answers that are not made here."""
        named = _activation(read_json(source / CONFIG)) if (source / CONFIG).is_file() else None
        after = (f"sentence-transformers puts {named} on its answers: numbers here are those before it",) if named else ()
        return (*super().examine(source, labels), *after)

    def encoded(self, data: Data) -> Data:
        """Numbers, whatever they were written as."""
        splits = {}
        for name, rows in super().encoded(data).splits.items():
            names = getattr(rows.features[self.label], "names", None)  # of classes, which numbers of the file stand for
            told = [
                (names[value] if value >= 0 else None) if names else value for value in values_of(rows, self.label)
            ]  # -1 is none
            values = [_number(value, f"{data.place(name, at)}: column '{self.label}'") for at, value in enumerate(told)]
            splits[name] = rows.remove_columns(self.label).add_column(self.label, values)
        if len(set(column_of(splits["train"], self.label))) < 2:
            raise SourceError(f"{data.record.source}: all rows of train have the number {splits['train'][self.label][0]:g}")
        return replace(data, splits=splits)

    def gives_logits(self) -> bool:
        """A number is none."""
        return False

    def imitated(self) -> Literal["classes", "labels", "numbers"] | None:
        """Numbers."""
        return "numbers"

    def targets(self, rows: Dataset) -> list[Any]:
        """The numbers."""
        return column_of(rows, self.label)

    @classmethod
    def recipe(cls, seen: Seen) -> Recipe | None:
        """Texts with a number."""
        if (content := guesses.texts(seen)) is None:
            return None
        named, told = content
        number = guesses.numbers(seen, tuple([named["text"]] if isinstance(named["text"], str) else named["text"]))
        return Recipe({**named, "label": number[0]}, f"{told}; {number[1]}", rank=1) if number else None

    def tiny(self, folder: Path) -> dict[str, Any]:
        """A tiny random model, and texts with a number each."""
        from compressor.tasks.tiny import scored_texts, text_model

        text_model(folder / "pretrained")
        return scored_texts(folder, self.texts, self.label)

    def deployment(self, files: Path, inputs: Sequence[Port]) -> Deployment:
        """By the tokenizer."""
        return replace(super().deployment(files, inputs), number=True)

    def measures(self) -> tuple[Measure, ...]:
        """Rank correlation (Spearman), linear correlation (Pearson), mean square error."""
        return (SPEARMAN, PEARSON, MSE)

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Mean square error."""
        import torch

        return torch.nn.functional.mse_loss(outputs.main.float()[:, 0], batch["labels"].float())

    def truth(self, rows: Dataset) -> Feed:
        """The `numbers` of the rows, `[n]`."""
        import numpy as np

        return {"numbers": np.asarray(column_of(rows, self.label), dtype=np.float64)}

    def score(self, outputs: Feed, truth: Feed, *, split: str) -> Evaluation:
        """Correlations and error, each with a bootstrap interval over rows; a correlation of what does not vary is 0."""
        import numpy as np

        told, true = outputs[self.outputs()[0].name][:, 0].astype(np.float64), truth["numbers"]
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by a verdict, not warned of
            values, gains = _figures(told, true, np.ones((1, len(true)), np.int64))[:, 0], {MSE.name: -np.square(told - true)}
            drawn = [_figures(told, true, draws) for draws in draws_of(len(true), 0)]
            low, high = np.quantile(np.concatenate(drawn, axis=1), (0.025, 0.975), axis=1)
        metrics = tuple(
            measure.metric(
                float(values[at]), len(true), Interval(low=float(low[at]), high=float(high[at]), method="bootstrap over rows")
            )
            for at, measure in enumerate(self.measures())
        )
        return Evaluation(Scores(split=split, metric=SPEARMAN.name, metrics=metrics), outputs, gains=gains, truth=truth)

    def compare(self, candidate: Evaluation, reference: Evaluation, *, metric: str, name: str, seed: int) -> Difference:
        """Candidate against reference; correlations, which no row adds to, by leaving out rows and by drawing them, paired."""
        import numpy as np

        from compressor.tasks.correlations import DIFFERENCE_METHOD, gained_interval, pearson, spearman

        found = super().compare(candidate, reference, metric=metric, name=name, seed=seed)
        if metric == MSE.name:
            return found
        figure = {SPEARMAN.name: spearman, PEARSON.name: pearson}[metric]
        mine, theirs = (each.outputs[self.outputs()[0].name][:, 0].astype(np.float64) for each in (candidate, reference))
        with np.errstate(invalid="ignore", over="ignore"):
            low, high = gained_interval(figure, mine, theirs, reference.truth["numbers"], seed=seed)
        interval = Interval(low=100 * low, high=100 * high, method=DIFFERENCE_METHOD)
        return found.model_copy(update={"interval": interval})

    def tell(self, outputs: Feed, labels: Sequence[str]) -> tuple[Prediction, ...]:  # noqa: ARG002 - numbers have no names
        """The number of each row."""
        return tuple(Prediction(f"{float(row[0]):.6g}") for row in outputs[self.outputs()[0].name])


def _activation(config: Mapping[str, Any]) -> str | None:
    """What sentence-transformers puts on the answers of a cross-encoder, by its configuration; None where that changes nothing."""
    own = config.get("sentence_transformers")
    named = (own.get("activation_fn") if isinstance(own, Mapping) else None) or config.get("sbert_ce_default_activation_function")
    short = str(named or "").rpartition(".")[2]
    return short if short not in ("", "Identity") else None


def _number(value: Any, where: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found) or isinstance(value, bool) or "_" in str(value):
        point = " written with a point" if re.fullmatch(r"[-+]?\d+,\d+", str(value).strip()) else ""
        raise SourceError(f"{where} holds {value!r:.40}, expected a number{point}")
    if abs(found) > LARGEST:
        raise SourceError(f"{where} holds {value!r:.40}: models compute with numbers up to {LARGEST:.0e} and their squares")
    return found


def _figures(told: NDArray[np.float64], true: NDArray[np.float64], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each draw, as `measures` has them: `[3, draws]`."""
    import numpy as np

    from compressor.tasks.correlations import pearson, spearman

    return np.stack([spearman(told, true, draws), pearson(told, true, draws), draws @ np.square(told - true) / draws.sum(axis=1)])
