"""Who judges drawn rows, and by which figures: the classifier of the data beside the model, and `compressor.tasks.generated`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from compressor.contracts import Columns, Data, Evaluation, Feed, Measure, Model
from compressor.contracts.quality import Difference, Metric
from compressor.errors import SourceError
from compressor.tasks.generated.classifier import Classifier, Rows, Training, learned
from compressor.tasks.generated.features import SHOWN, Features, Space, as_bytes, same_space
from compressor.tasks.generated.quality import DISTANCES, KERNEL, differences, quality, told
from compressor.tasks.generated.quality import MEASURES as ALL
from compressor.tasks.reading import column_of

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

Reader: TypeAlias = "Callable[[Dataset, Sequence[int]], NDArray[np.float32]]"
"""Gives rows of a split as pictures `[n, C, H, W]`, by their numbers."""
JUDGE, ROWS = "judge.tensors", "judge.rows"
"""The classifier beside a model; the digest of the rows that it was trained on, and the versions of what trained it."""
FEATURES = "features"
AT_ONCE = 1000
WORTH = Measure("judge-accuracy")
"""Of the judge, on real held-out pictures: what class accuracy can be held against."""
MEASURES = (KERNEL, *(each for each in ALL if each is not KERNEL))
"""Of sets of pictures; the first, which has no bias however few rows there are, is what quality is held by unless a plan says otherwise."""


def judge_of(model: Model, data: Data, read: Reader, columns: Columns, versions: Iterable[int]) -> dict[str, bytes]:
    """The files of a judge of these rows: those beside the model where it was trained on them as it would be now, else of a new one.

    Args:
        model: what draws.
        data: rows of all splits.
        read: reads them.
        columns: of these rows.
        versions: of what reads and what trains.

    Raises:
        SourceError: nothing can be learned from the rows.
    """
    learned_from = " ".join((data.digest, *map(str, versions))).encode()
    if model.files.get(ROWS) == learned_from and JUDGE in model.files:
        return {JUDGE: model.files[JUDGE], ROWS: learned_from}
    return {JUDGE: _learned(data, read, columns, Training()).written(), ROWS: learned_from}


def classifier_of_rows(data: Data, read: Reader, columns: Columns, *, seed: int) -> Any:
    """The network of a classifier of these rows, trained from another seed than the judge.

    Raises:
        SourceError: nothing can be learned from the rows.
    """
    return _learned(data, read, columns, Training(seed=seed)).module


def _learned(data: Data, read: Reader, columns: Columns, training: Training) -> Classifier:
    train, held_out = (_rows(data, split, read, columns) for split in ("train", "validation"))
    try:
        return learned(train, held_out, classes=len(data.labels), training=training)
    except ValueError as error:
        raise SourceError(f"no classifier can be made of the rows, by which pictures are judged: {error}") from error


def has_judge(files: Path) -> bool:
    """Whether one lies beside a model: not where its plan has no data."""
    return (files / JUDGE).is_file()


def judge_in(files: Path) -> Classifier:
    """The judge beside a model."""
    return _read((files / JUDGE).read_bytes())


@lru_cache(maxsize=2)
def _read(content: bytes) -> Classifier:
    return Classifier.read(content)


def _rows(data: Data, split: str, read: Reader, columns: Columns) -> Rows:
    import numpy as np

    rows, numbers = data.split(split), range(len(data.split(split)))
    parts = [as_bytes(read(rows, _part(numbers, at))) for at in range(0, len(rows), AT_ONCE)]
    return Rows(np.concatenate(parts), np.asarray(column_of(rows, columns.label), dtype=np.int64))


def _part(numbers: Sequence[int], at: int) -> Sequence[int]:
    return numbers[at : at + AT_ONCE]


def figures(outputs: Feed, truth: Feed) -> tuple[Metric, ...]:
    """All figures of drawn pictures against real ones, by their features, and what the judge is worth."""
    real = _features(truth, truth)
    found = quality(_features(outputs, truth), real)
    return (*(found.of(measure) for measure in MEASURES), *_worth(real.space))


def _worth(space: Space) -> tuple[Metric, ...]:
    """The accuracy of the network that looked, with its digest."""
    known = space.accuracy
    if known is None or known.interval is None:
        return ()
    interval = known.interval.model_copy(update={"method": f"{known.interval.method}; judge {space.digest[:SHOWN]}"})
    return (WORTH.metric(known.value, known.n, interval),)


def paired(candidate: Evaluation, reference: Evaluation, found: Difference, *, seed: int) -> Difference:
    """A difference, of a distance by rows that were drawn from equal noise.

    Raises:
        NotComparable: the two were judged by different networks.
    """
    mine, theirs = (_features(each.outputs, each.truth) for each in (candidate, reference))
    same_space(mine, theirs)
    measure = next((each for each in DISTANCES if each.name == found.metric), None)
    if measure is None:
        return found
    real = _features(reference.truth, reference.truth)
    estimate = differences(mine, theirs, real, seed=seed)[measure]
    made = told(estimate, reference.scores.of(measure.name), name=found.reference)
    return made.model_copy(update={"changed": found.changed})


def _features(arrays: Feed, truth: Feed) -> Features:
    rows: NDArray[np.float32] = arrays[FEATURES]
    space: Any = Space.model_validate_json(str(truth["judge"]))
    return Features(rows, space)
