"""What tasks share that give any number of labels to each row: targets of 0 and 1, binary cross-entropy, a threshold, and F1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from compressor.contracts import Batch, Data, Evaluation, Feed, Measure, Outputs, Prediction
from compressor.contracts.failing import of_split
from compressor.contracts.records import ClassScore, Difference, Disagreement, Interval, Scores
from compressor.contracts.statistics import NORMAL_95, draws_of
from compressor.errors import SourceError
from compressor.tasks.classification import F1_METHOD, RESAMPLES, Classification, configured_names, shown
from compressor.tasks.labels import in_order, listed
from compressor.tasks.reading import column_of, each_row

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray

MICRO, MACRO = Measure("micro-F1"), Measure("macro-F1")
TARGETS = "labels of 0 and 1"
"""Column of the targets, `[classes]` for each row; no file names a column so."""
BITS = {0: 0, 1: 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
"""Whether a label is there, as numbers and truth values are written, in small letters."""
EVEN = 0.5


class MultiLabel(Classification):
    """One label for each row, or with `multi_label` any number of them."""

    label: str | tuple[str, ...] = Field(
        default="label",
        description="Column of the label; with multi_label of lists of labels, or the names of several columns of 0 and 1.",
    )
    multi_label: bool = Field(default=False, description="Whether a row has any number of labels.")
    threshold: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="With multi_label: probability from which on a label is told; chosen on validation rows unless given.",
    )

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if isinstance(self.label, tuple) and (not self.multi_label or len(self.label) < 2):
            raise ValueError("several columns of labels go with `multi_label: true`, and are two or more")
        if self.threshold is not None and not self.multi_label:
            raise ValueError("'threshold' goes with `multi_label: true`")
        return self

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Columns of the labels."""
        return (self.label,) if isinstance(self.label, str) else self.label

    def encoded(self, data: Data) -> Data:
        """With multi_label, targets of 0 and 1 in a column of their own, and labels named by their columns or by the rows of train."""
        if not self.multi_label:
            return super().encoded(data)
        several = isinstance(self.label, tuple)
        read = {
            name: [
                (_bits if several else _names)(row, self.label_columns, data.place(name, at))
                for at, row in enumerate(_with_names(rows, self.label_columns))
            ]
            for name, rows in data.splits.items()
        }
        if not several:
            _check_no_vectors(read["train"], self.label_columns[0], data)
        labels = self.label_columns if several else in_order(name for row in read["train"] for name in row)
        if len(labels) < 2:
            raise SourceError(f"{data.record.source}: the rows of train have the labels {list(labels)}; at least 2 are needed")
        for name, found in read.items():
            if strangers := sorted({each for row in found for each in row} - set(labels)):
                raise SourceError(f"{data.record.source}: {name} has the label '{strangers[0]}', which no row of train has")
        targets = {name: [[int(label in row) for label in labels] for row in found] for name, found in read.items()}
        splits = {
            name: rows.remove_columns(list(self.label_columns)).add_column(TARGETS, targets[name])
            for name, rows in data.splits.items()
        }
        counts = {
            name: {label: sum(row[at] for row in found) for at, label in enumerate(labels)} for name, found in targets.items()
        }
        record = data.record.model_copy(
            update={"splits": tuple(each.model_copy(update={"classes": counts[each.name]}) for each in data.record.splits)}
        )
        digest = hashlib.sha256(json.dumps([data.digest, labels]).encode()).hexdigest()
        return replace(data, splits=splits, labels=labels, record=record, digest=digest)

    def gives_logits(self) -> bool:
        """Not of classes that exclude each other."""
        return not self.multi_label

    def imitated(self) -> Literal["classes", "labels", "numbers"] | None:
        """With multi_label logits of each label by itself."""
        return "labels" if self.multi_label else super().imitated()

    def scores_classes(self) -> bool:
        """Of each label, whether they exclude each other or not."""
        return True

    def measures(self) -> tuple[Measure, ...]:
        """Accuracy and macro-F1; with multi_label micro-F1 and macro-F1."""
        return (MICRO, MACRO) if self.multi_label else super().measures()

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """Cross-entropy, with multi_label of each label by itself; a mean over the batch."""
        import torch

        if not self.multi_label:
            return super().loss(outputs, batch)
        return torch.nn.functional.binary_cross_entropy_with_logits(outputs.main.float(), batch["labels"].float())

    def truth(self, rows: Dataset) -> Feed:
        """The labels of the rows, with multi_label `[n, classes]` of 0 and 1, and the names of the classes where rows have them."""
        import numpy as np

        if not self.multi_label:
            return super().truth(rows)
        return {"labels": np.asarray(column_of(rows, TARGETS), dtype=np.int64), "names": np.asarray((), dtype=np.str_)}

    def evaluate(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path, *, split: str) -> Evaluation:
        """Scores by class; a threshold that is not given is the best one on these rows."""
        if not self.multi_label:
            return super().evaluate(predict, rows, files, split=split)
        with of_split(split):
            outputs = self.predicted(predict, rows, files)
        return self.score(outputs, {**self.truth(rows), "names": configured_names(files)}, split=split)

    def decided(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path) -> Self:
        """With the threshold that gives the best micro-F1 on validation rows."""
        if not self.multi_label or self.threshold is not None:
            return self
        with of_split("validation"):
            outputs = self.predicted(predict, rows, files)
        return self.model_copy(
            update={"threshold": best_threshold(chances(outputs[self.outputs()[0].name]), self.truth(rows)["labels"])}
        )

    def predictions(self, outputs: Feed) -> NDArray[Any]:
        """The class with the largest logit; with multi_label the numbers of all that reach the threshold, as a text."""
        if not self.multi_label:
            return super().predictions(outputs)
        return _as_texts(chances(outputs[self.outputs()[0].name]) >= (self.threshold or EVEN))

    def score(self, outputs: Feed, truth: Feed, *, split: str) -> Evaluation:
        """With multi_label micro-F1 and macro-F1 with bootstrap intervals, and precision, recall, F1 by label."""
        import numpy as np

        if not self.multi_label:
            return super().score(outputs, truth, split=split)
        likely, labels = chances(outputs[self.outputs()[0].name]), truth["labels"]
        threshold = self.threshold if self.threshold is not None else best_threshold(likely, labels)
        told = likely >= threshold
        micro, macro = _f1(told, labels, np.ones((1, len(labels))))[:, 0]
        low, high = np.quantile(
            _drawn(lambda draws: _f1(told, labels, draws), len(labels), None, seed=0), (0.025, 0.975), axis=-1
        )
        metrics = tuple(
            measure.metric(
                float(value), len(labels), Interval(low=float(low[at]), high=float(high[at]), method="bootstrap over rows")
            )
            for at, (measure, value) in enumerate(zip((MICRO, MACRO), (micro, macro), strict=True))
        )
        names = [str(name) for name in truth["names"]] or [str(at) for at in range(labels.shape[1])]
        scores = Scores(split=split, metric=MICRO.name, metrics=metrics, per_class=_by_label(told, labels, names))
        return Evaluation(scores, outputs, truth={**truth, "threshold": np.asarray(threshold)})

    def compare(self, candidate: Evaluation, reference: Evaluation, *, metric: str, name: str, seed: int) -> Difference:
        """Candidate against reference, each at its own threshold; with multi_label by a bootstrap over rows, paired.

        So that there is a width where no row changes, half a label that the candidate mends and half of one that it breaks are added,
        spread half as the labels are and half evenly.
        """
        import numpy as np

        found = (
            super(Classification, self).compare(candidate, reference, metric=metric, name=name, seed=seed)
            if self.multi_label
            else None
        )
        if found is None:
            return super().compare(candidate, reference, metric=metric, name=name, seed=seed)
        at, labels = [MICRO.name, MACRO.name].index(metric), reference.truth["labels"]
        mine, theirs = self._told(candidate), self._told(reference)
        each, none = np.eye(labels.shape[1], dtype=bool), np.zeros((labels.shape[1],) * 2, dtype=bool)
        true, one, other = (np.concatenate(rows) for rows in ((labels, each, each), (mine, each, none), (theirs, none, each)))
        shares = labels.sum(0) / max(int(labels.sum()), 1) / 2 + 1 / len(each) / 2
        counts = np.concatenate([np.ones(len(labels)), np.tile(shares / 2, 2)])

        def gained(draws: NDArray[Any]) -> NDArray[np.float64]:
            found: NDArray[np.float64] = _f1(one, true, draws)[at] - _f1(other, true, draws)[at]
            return found

        centre, spread = float(gained(counts[None])[0]), NORMAL_95 * float(_drawn(gained, len(labels), counts, seed=seed).std())
        interval = Interval(low=100 * max(-1.0, centre - spread), high=100 * min(1.0, centre + spread), method=F1_METHOD)
        return found.model_copy(update={"interval": interval, "changed": int((mine != theirs).any(-1).sum())})

    def _told(self, evaluation: Evaluation) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = chances(evaluation.outputs[self.outputs()[0].name]) >= float(evaluation.truth["threshold"])
        return found

    def tell(self, outputs: Feed, labels: Sequence[str]) -> tuple[Prediction, ...]:
        """The likeliest class; with multi_label all that reach the threshold, and all others after them."""
        import numpy as np

        if not self.multi_label:
            return super().tell(outputs, labels)
        likely, threshold = chances(outputs[self.outputs()[0].name]), self.threshold or EVEN
        return tuple(
            Prediction(
                _listed(row >= threshold, labels),
                None,
                tuple((labels[at], float(row[at])) for at in np.argsort(-row, kind="stable")),
            )
            for row in likely
        )

    def disagreements(
        self, candidate: Evaluation, reference: Evaluation, rows: Dataset, labels: Sequence[str], *, name: str
    ) -> tuple[Disagreement, ...]:
        """Rows that the two tell other labels of."""
        if not self.multi_label:
            return super().disagreements(candidate, reference, rows, labels, name=name)
        before, after, true = self._told(reference), self._told(candidate), reference.truth["labels"].astype(bool)
        return tuple(
            Disagreement(
                candidate=name,
                row=row,
                text=shown(rows[row], self.columns().content),
                label=_listed(true[row], labels),
                reference=_listed(before[row], labels),
                final=_listed(after[row], labels),
                kind=_kind(before[row], after[row], true[row]),
            )
            for row in (int(each) for each in (before != after).any(-1).nonzero()[0])
        )


def _kind(before: NDArray[np.bool_], after: NDArray[np.bool_], true: NDArray[np.bool_]) -> Any:
    return "broken" if (before == true).all() else "mended" if (after == true).all() else "both wrong"


def _listed(told: NDArray[np.bool_], labels: Sequence[str]) -> str:
    return ", ".join(label for label, is_told in zip(labels, told, strict=True) if is_told)


def _as_texts(told: NDArray[np.bool_]) -> NDArray[np.str_]:
    import numpy as np

    return np.asarray([",".join(str(at) for at in row.nonzero()[0]) for row in told], dtype=np.str_)


# ------------------------------------------------------------------ rows


def _bits(row: Mapping[str, Any], columns: Sequence[str], where: str) -> list[str]:
    """Names of the columns that hold 1."""
    return [column for column in columns if _bit(row[column], f"{where}: column '{column}'")]


def _bit(value: Any, where: str) -> int:
    plain = value.strip().casefold() if isinstance(value, str) else value
    if not isinstance(plain, str | int | float) or plain not in BITS:
        raise SourceError(f"{where} holds {value!r:.40}, expected 0 or 1")
    return BITS[plain]


def _with_names(rows: Dataset, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Rows in which numbers of named classes, in lists, are their names."""
    names = {column: getattr(getattr(rows.features[column], "feature", None), "names", None) for column in columns}
    for row in each_row(rows.select_columns(list(columns))):
        yield {
            column: [known[each] for each in row[column]] if (known := names[column]) and row[column] else row[column]
            for column in columns
        }


def _check_no_vectors(read: Sequence[Sequence[str]], column: str, data: Data) -> None:
    """Refuse lists of 0 and 1, one for each label: as names they would be two labels."""
    if {each for row in read for each in row} != {"0", "1"} or len(set(map(len, read))) != 1:
        return
    at = next((at for at, row in enumerate(read) if len(set(row)) < len(row)), None)
    if at is not None:
        raise SourceError(
            f"{data.place('train', at)}: column '{column}' holds {read[at]!r:.40}, which seems to be 0 or 1 for each label: give each "
            "label a column of its own, `label: [first, second]`, or lists of the names that apply"
        )


def _names(row: Mapping[str, Any], columns: Sequence[str], where: str) -> list[str]:
    """The names in a list; a text may hold it as JSON."""
    (column,), value = columns, row[columns[0]]
    try:
        value = listed(value)
    except ValueError as error:
        raise SourceError(f"{where}: column '{column}' holds {value!r:.40}, which is no list of JSON ({error})") from error
    if not isinstance(value, list) or not all(map(_is_name, value)):
        raise SourceError(f'{where}: column \'{column}\' holds {value!r:.40}, expected a list of labels, as ["a", "b"]')
    return [str(each).strip() for each in value]


def _is_name(value: Any) -> bool:
    """Yes and no name no label: they say of each label whether it applies."""
    return isinstance(value, str | int) and not isinstance(value, bool) and bool(str(value).strip())


# ------------------------------------------------------------------ scores


def chances(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probability of each label by itself."""
    import numpy as np

    found: NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
    return found


def best_threshold(likely: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The probability from which on labels are told with the best micro-F1; of equally good ones the nearest to 0.5.

    Where none tells any label (every probability is 0 or NaN) it is 0.5: what is not finite is told by a verdict.

    Args:
        likely: probabilities `[n, classes]`.
        labels: 0 and 1 `[n, classes]`.
    """
    import numpy as np

    order = np.argsort(-likely, axis=None, kind="stable")
    ranked, right = likely.ravel()[order], labels.ravel()[order]
    f1 = 2 * np.cumsum(right) / (np.arange(1, len(right) + 1) + max(int(right.sum()), 1))
    below = np.append(ranked[1:], 0.0)
    cuts, ends = (ranked + below) / 2, ranked > below  # a cut lies between two that differ
    if not ends.any():
        return EVEN
    best = f1[ends].max()
    good = cuts[ends & (f1 >= best - 1e-12)]
    return float(np.clip(good[np.abs(good - EVEN).argmin()], 1e-6, 1 - 1e-6))


def _f1(told: NDArray[np.bool_], labels: NDArray[np.int64], draws: NDArray[Any]) -> NDArray[np.float64]:
    """Micro-F1 and macro-F1, `[2, draws]`, of draws that hold each row so many times, `[draws, n]`; 0 where nothing is told or true."""
    import numpy as np

    true = labels.astype(np.float64)
    right, sums = draws @ (told * true), draws @ (told + true)
    micro = 2 * right.sum(-1) / np.maximum(sums.sum(-1), 1)
    return np.stack([micro, (2 * right / np.maximum(sums, 1)).mean(-1)])


def _drawn(
    value: Callable[[NDArray[Any]], NDArray[np.float64]], n: int, counts: NDArray[np.float64] | None, *, seed: int
) -> NDArray[np.float64]:
    """A value of each of `RESAMPLES` draws of n rows, each as likely as its count, on its last axis."""
    import numpy as np

    return np.concatenate([value(draws) for draws in draws_of(n, seed, RESAMPLES, counts=counts)], axis=-1)


def _by_label(told: NDArray[np.bool_], labels: NDArray[np.int64], names: Sequence[str]) -> tuple[ClassScore, ...]:
    import numpy as np

    right, said, true = (told * labels).sum(0), told.sum(0), labels.sum(0)
    figures = (right / np.maximum(said, 1), right / np.maximum(true, 1), 2 * right / np.maximum(said + true, 1))
    return tuple(
        ClassScore(
            label=name,
            n=int(true[at]),
            **{what: float(each[at]) for what, each in zip(("precision", "recall", "f1"), figures, strict=True)},
        )
        for at, name in enumerate(names)
    )
