"""What tasks share that give one label to each row: the loss, and scores with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from compressor.contracts import Batch, Evaluation, Feed, Measure, Outputs, Port, Prediction, Task, Want
from compressor.contracts.failing import of_split
from compressor.contracts.records import ClassScore, Difference, Disagreement, Interval, Scores
from compressor.contracts.statistics import NORMAL_95
from compressor.contracts.statistics import RESAMPLES as PAIRED_RESAMPLES
from compressor.model.capture import captured
from compressor.tasks.metrics import by_class, wilson
from compressor.tasks.reading import column_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray

NOT_INPUTS = ("labels", "row")
SCORED_BATCH = 8
RESAMPLES = 1000
TEXT_CHARACTERS = 400
"""Of a row's text, so much is shown with a disagreement."""
F1_METHOD = "bootstrap over rows, paired and adjusted, normal"
ACCURACY, MACRO_F1 = Measure("accuracy"), Measure("macro-F1")


class OneOutput(Task):
    """Models of transformers whose one output is called `logits`."""

    def outputs(self) -> tuple[Port, ...]:
        """Logits `[batch, classes]`, or one number for each row."""
        return (Port("logits", "float32", ("batch", "classes")),)

    def forward(self, module: torch.nn.Module, batch: Batch, want: Want = Want()) -> Outputs:
        """Run the model and capture features of its blocks."""
        inputs: dict[str, Any] = {name: tensor for name, tensor in batch.items() if name not in NOT_INPUTS}
        with captured(module, want) as features:
            logits = module(**inputs).logits
        return Outputs(logits, dict(features), batch.get("attention_mask"))


class Classification(OneOutput):
    """One label for each row."""

    @model_validator(mode="after")
    def _reads_two_columns(self) -> Self:
        columns = self.columns()
        if columns.label in columns.content:
            raise ValueError(f"content and label are both column '{columns.label}'")
        return self

    def measures(self) -> tuple[Measure, ...]:
        """Accuracy, and the mean F1 of the classes."""
        return (ACCURACY, MACRO_F1)

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Cross-entropy, a mean over the batch."""
        import torch

        return torch.nn.functional.cross_entropy(outputs.main.float(), batch["labels"])

    def truth(self, rows: Dataset) -> Feed:
        """The `labels` of the rows, `[n]`, and the `names` of the classes in order."""
        import numpy as np

        label = self.columns().label
        names = np.asarray(getattr(rows.features[label], "names", ()), dtype=np.str_)
        return {"labels": np.asarray(column_of(rows, label), dtype=np.int64), "names": names}

    def evaluate(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path, *, split: str) -> Evaluation:
        """Scores by class; where rows do not name their classes, the model's configuration does."""
        truth = self.truth(rows)
        if not len(truth["names"]):
            truth["names"] = configured_names(files)
        with of_split(split):
            outputs = self.predicted(predict, rows, files)
        return self.score(outputs, truth, split=split)

    def predictions(self, outputs: Feed) -> NDArray[np.int64]:
        """The class with the largest logit."""
        found: NDArray[np.int64] = outputs[self.outputs()[0].name].argmax(-1)
        return found

    def score(self, outputs: Feed, truth: Feed, *, split: str) -> Evaluation:
        """Accuracy with Wilson's interval, macro-F1 with a bootstrap interval, and precision, recall, F1 by class."""
        logits, labels = outputs[self.outputs()[0].name], truth["labels"]
        return Evaluation(
            scores=scores(logits, labels, [str(name) for name in truth["names"]], split),
            outputs=outputs,
            gains={ACCURACY.name: (logits.argmax(-1) == labels) * 1.0},
            truth=truth,
        )

    def compare(self, candidate: Evaluation, reference: Evaluation, *, metric: str, name: str, seed: int) -> Difference:
        """Candidate against reference; macro-F1, which no row adds to, gets the interval of a bootstrap over rows, paired."""
        found = super().compare(candidate, reference, metric=metric, name=name, seed=seed)
        if metric != MACRO_F1.name:
            return found
        low, high = _f1_difference(
            candidate, reference, [self.predictions(each.outputs) for each in (candidate, reference)], seed
        )
        return found.model_copy(update={"interval": Interval(low=100 * low, high=100 * high, method=F1_METHOD)})

    def tell(self, outputs: Feed, labels: Sequence[str]) -> tuple[Prediction, ...]:
        """The likeliest class of each row with its probability, and all others after it."""
        import numpy as np

        logits = outputs[self.outputs()[0].name].astype(np.float64)
        with np.errstate(invalid="ignore"):  # what is not finite is told by a verdict, not warned of
            shares = np.exp(logits - logits.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
        ranked = [[(labels[at], float(row[at])) for at in np.argsort(-row, kind="stable")] for row in shares]
        return tuple(Prediction(first[0], first[1], (first, *others)) for first, *others in ranked)

    def disagreements(
        self, candidate: Evaluation, reference: Evaluation, rows: Dataset, labels: Sequence[str], *, name: str
    ) -> tuple[Disagreement, ...]:
        """Rows that the two put into different classes, each with its content where that is text."""
        content = self.columns().content
        before, after = self.predictions(reference.outputs), self.predictions(candidate.outputs)
        true = reference.truth["labels"]
        return tuple(
            Disagreement(
                candidate=name,
                row=row,
                text=shown(rows[row], content),
                label=labels[int(true[row])],
                reference=labels[int(before[row])],
                final=labels[int(after[row])],
                kind="broken" if before[row] == true[row] else "mended" if after[row] == true[row] else "both wrong",
            )
            for row in (int(each) for each in (before != after).nonzero()[0])
        )


def configured_names(files: Path) -> NDArray[np.str_]:
    """Names of the classes, in order, as the model's configuration has them."""
    import json

    import numpy as np

    config = json.loads((files / "config.json").read_text(encoding="utf-8")) if (files / "config.json").is_file() else {}
    names = config.get("id2label", {})
    return np.asarray([names[key] for key in sorted(names, key=int)], dtype=np.str_)


def shown(row: Mapping[str, Any], content: Sequence[str]) -> str:
    """A row as a person reads it: its texts. Where it has none its place among the user's files is told instead."""
    return " / ".join(row[name] for name in content if isinstance(row[name], str))[:TEXT_CHARACTERS]


def scores(outputs: NDArray[np.float32], labels: NDArray[np.int64], names: Sequence[str], split: str) -> Scores:
    """Metrics of logits `[n, classes]` against labels `[n]`."""
    import numpy as np

    predicted, n, classes = outputs.argmax(-1), len(labels), list(range(outputs.shape[-1]))
    right = int((predicted == labels).sum())
    figures = by_class(predicted, labels, len(classes))
    low, high = _macro_f1_interval(predicted, labels, len(classes))
    return Scores(
        split=split,
        metric=ACCURACY.name,
        metrics=(
            ACCURACY.metric(right / n, n, wilson(right, n)),
            MACRO_F1.metric(float(np.mean(figures.f1)), n, Interval(low=low, high=high, method="bootstrap over rows")),
        ),
        per_class=tuple(
            ClassScore(
                label=names[number] if number < len(names) else str(number),
                n=int(figures.n[number]),
                precision=float(figures.precision[number]),
                recall=float(figures.recall[number]),
                f1=float(figures.f1[number]),
            )
            for number in classes
        ),
    )


def _macro_f1_interval(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> tuple[float, float]:
    """Percentile bootstrap: drawing rows anew is drawing the counts of the confusion matrix's cells from a multinomial."""
    import numpy as np

    cells, counts = np.unique(labels * classes + predicted, return_counts=True)
    draws = np.random.default_rng(0).multinomial(len(labels), counts / len(labels), size=RESAMPLES)
    low, high = np.quantile(_macro_f1(draws, *np.divmod(cells, classes), classes), (0.025, 0.975))
    return float(low), float(high)


def _macro_f1(
    draws: NDArray[np.int64] | NDArray[np.float64], true: NDArray[np.int64], found: NDArray[np.int64], classes: int
) -> NDArray[np.float64]:
    """Macro-F1 of each draw, `[draws]`: so many rows, `[draws, cells]`, of each cell's true class and the class it was told."""
    import numpy as np

    every = np.arange(classes)
    of_class, as_class = (true[:, None] == every) * 1.0, (found[:, None] == every) * 1.0
    told = draws @ (of_class + as_class)
    f1 = np.divide(2 * (draws @ (of_class * as_class)), told, out=np.zeros(told.shape), where=told > 0)
    mean: NDArray[np.float64] = f1.mean(-1)
    return mean


def _f1_difference(
    candidate: Evaluation, reference: Evaluation, predicted: Sequence[NDArray[np.int64]], seed: int
) -> tuple[float, float]:
    """Ends of the 95 % interval of candidate minus reference: both are drawn on the same rows.

    As Bonett and Price add to rows that are right or wrong, one row that the candidate mends and one that it breaks are added,
    spread over the classes, so that there is a width where no row changes; then the normal interval of a bootstrap's spread.
    """
    import numpy as np

    labels, (mine, theirs) = reference.truth["labels"], predicted
    classes = int(max(labels.max(), mine.max(), theirs.max())) + 1
    classes = max(classes, len(candidate.scores.per_class), len(reference.scores.per_class))
    cells, counts = np.unique((labels * classes + mine) * classes + theirs, return_counts=True)
    added, shares = _changed_rows(labels, classes)
    cells, counts = np.concatenate([cells, added]), np.concatenate([counts, shares])
    true, mine_told, theirs_told = cells // classes**2, cells // classes % classes, cells % classes

    def gained(rows: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.float64]:
        return _macro_f1(rows, true, mine_told, classes) - _macro_f1(rows, true, theirs_told, classes)

    draws = np.random.default_rng(seed).multinomial(len(labels), counts / counts.sum(), size=PAIRED_RESAMPLES)
    centre, spread = float(gained(counts[None])[0]), NORMAL_95 * float(gained(draws).std())
    return max(-1.0, centre - spread), min(1.0, centre + spread)


def _changed_rows(labels: NDArray[np.int64], classes: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Cells of (true class, the candidate's, the reference's) in which one is right and the other is not, with one row each way in all."""
    import numpy as np

    shares = np.bincount(labels, minlength=classes) / len(labels)
    true, other = (each.ravel() for each in np.indices((classes, classes)))
    differ = (true != other) & (shares[true] > 0)
    true, other = true[differ], other[differ]
    mended, broken = (true * classes + true) * classes + other, (true * classes + other) * classes + true
    each = shares[true] / max(classes - 1, 1)
    return np.concatenate([mended, broken]), np.concatenate([each, each])
