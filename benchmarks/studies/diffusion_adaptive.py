"""Students whose pictures a teacher mends where an oracle does not like them: what each share that is mended comes to.

Rows are mended one by one, so the student's pictures and all mended ones are drawn once, and every share chooses among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from benchmarks.studies.diffusion_cells import Absent, Book, Found, opened
from benchmarks.studies.diffusion_plans import CLASSES, GUIDANCE, Cell, data, students
from benchmarks.studies.lm_lab import kept
from compressor.contracts import registry
from compressor.plan.specs import DataSpec
from compressor.store import Store
from compressor.tasks.data import load_data
from compressor.tasks.generated.adaptive import Threshold
from compressor.tasks.generated.classifier import Classifier, Rows, Training, classifier_of
from compressor.tasks.generated.features import as_bytes
from compressor.tasks.generation.description import Description, Policy
from compressor.tasks.generation.graphs import rows_drawn
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.pictures import pictures_of
from compressor.tasks.generation.samplers import Sampling
from compressor.tasks.image_classification import undecoded
from compressor.tasks.inputs.sampling import likes as liked_of
from compressor.tasks.inputs.sampling import noised, sends

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressor.contracts import Data

Mend = Literal["refine", "regenerate"]
MENDS: tuple[Mend, ...] = ("refine", "regenerate")
SHARES = (0.1, 0.25, 0.5, 0.75)
STUDENTS = tuple(cell for cell in students("shortcut", 0) if cell.sampling.steps in (4, 2))
TEACHER = Cell("teacher-0", "final", Sampling(sampler="dpm++2m", steps=8, guidance=GUIDANCE))
"""In the fewest steps in which it is as good as in 50."""
AFTER = round((1 - registry.load("pass", "adaptive").model_fields["level"].default) * TEACHER.sampling.steps)
"""Steps of the teacher that lie behind a picture that is refined, as the pass has it."""
LEVEL_REACHED = 1 - AFTER / TEACHER.sampling.steps
BEYOND, SEED_OF_ORACLE = 2**62, 1
"""The first of the numbers of pictures that no row of the data has; of the oracle's training, which is not the judge's."""
CALIBRATED, AT_ONCE = 1000, 64
"""Pictures of the student, of no row of the data, by which limits are chosen."""


@dataclass(frozen=True)
class Mixed:
    """Pictures of a student of which a teacher mended some, as the judge sees them."""

    features: NDArray[np.float32]
    told: NDArray[np.int64]
    sent: float
    """Share of the rows that were mended."""
    evaluations: float
    """Mean over these rows."""


def mixed(book: Book, student: Cell, mend: Mend, share: float, *, by_chance: bool = False) -> Mixed:
    """A student's pictures, those mended that its oracle likes least, or as many by chance.

    Raises:
        Absent: they are not there, and nothing is to be run.
    """
    sent = _sent(book, student, share)
    if by_chance:
        sent = np.random.default_rng(0).permutation(sent)
    alone, better = book.found(student), mended(book, student, mend)
    return Mixed(
        np.where(sent[:, None], better.features.rows, alone.features.rows),
        np.where(sent, better.told, alone.told),
        float(sent.mean()),
        student.evaluations + float(sent.mean()) * asked(book, mend),
    )


def asked(book: Book, mend: Mend) -> int:
    """Evaluations of the teacher for a picture that it mends."""
    return TEACHER.evaluations if mend == "regenerate" else policy(book.how(TEACHER)).evaluations


def policy(teacher: Description) -> Policy:
    """All pictures are refined, from the level of the pass."""
    return Policy(share=1, limit=0, tied=0, after=AFTER, teacher=teacher)


def mended(book: Book, student: Cell, mend: Mend) -> Found:
    """All of a student's pictures, mended: drawn anew, those are the teacher's own of the same noise.

    Raises:
        Absent: they are not there, and nothing is to be run.
    """
    if mend == "regenerate":
        return book.found(TEACHER)
    return book.kept(f"refined-{student.name}", lambda: book.seen(refined(book, book.shown(student))))


def refined(book: Book, shown: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pictures of the first rows, noised and finished by the teacher."""
    teacher = book.how(TEACHER)
    session, chosen = opened(book.model(TEACHER.run), teacher), policy(teacher)
    alpha, sigma = chosen.arrays()["policy"][2:]
    found = []
    for rows in _parts(range(len(shown))):
        feed = teacher.feed(rows, book.labels[rows], chosen.table())
        found.append(rows_drawn(session, {**feed, "noise": noised(shown[rows], rows, alpha, sigma)}, feed["table"])[0])
    return np.concatenate(found)


# ------------------------------------------------------------------ the oracle


def _sent(book: Book, student: Cell, share: float) -> NDArray[np.bool_]:
    """Which of a student's pictures are mended by the limit of a share."""
    liked, others = (np.asarray(each, dtype=np.float32) for each in likes(book, student))
    chosen = Threshold.calibrated(others, share)
    found: NDArray[np.bool_] = sends(liked, np.arange(len(liked)), chosen.limit, chosen.tied)
    return found


def likes(book: Book, student: Cell) -> tuple[list[float], list[float]]:
    """How much the oracle likes a student's pictures, and others of it.

    Raises:
        Absent: it is not there, and nothing is to be run.
    """
    path = book.folder / "oracle" / f"{student.name}-{book.size.drawn}.json"
    if not (book.run or path.is_file()):
        raise Absent(student.name)
    told = kept(path, lambda: _asked(book, student))
    return told["liked"], told["others"]


def _asked(book: Book, student: Cell) -> dict[str, list[float]]:
    asked_of, how = oracle(book), book.how(student)
    session, others = opened(book.model(student.run, student.model), how), []
    for rows in _parts(range(BEYOND, BEYOND + CALIBRATED)):
        feed = how.feed(rows, rows % CLASSES, how.table())
        others.append(liked_of(asked_of.seen(rows_drawn(session, feed, feed["table"])[0])[1], feed["label"]))
    of_rows = liked_of(asked_of.seen(book.shown(student))[1], book.labels[: book.size.drawn])
    return {"liked": of_rows.tolist(), "others": np.concatenate(others).tolist()}


def oracle(book: Book) -> Classifier:
    """A classifier of the training rows from another seed than the judge, as the pass `adaptive` has it."""
    given = {**data(book.pictures), "limit": {"test": 32}}
    found = load_data(DataSpec.model_validate(given), columns=ImageGeneration().columns(), seed=0, folder=Path())
    train, held_out = (_rows(book, found, split) for split in ("train", "validation"))
    store = Store(book.folder / "oracle")
    return classifier_of(store, train, held_out, classes=CLASSES, training=Training(seed=SEED_OF_ORACLE))


def _rows(book: Book, found: Data, split: str) -> Rows:
    rows, shape = found.split(split), book.how(TEACHER).shape
    images = undecoded(rows, "image")
    shown = [as_bytes(pictures_of(images, part.tolist(), "image", shape)) for part in _parts(range(len(rows)))]
    return Rows(np.concatenate(shown), np.asarray(rows["label"], dtype=np.int64))


def _parts(numbers: range) -> Iterator[NDArray[Any]]:
    every = np.arange(numbers.start, numbers.stop)
    yield from (every[at : at + AT_ONCE] for at in range(0, len(every), AT_ONCE))
