"""The student of few steps in int8: what its pictures are like, drawn by the files of two runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.studies.diffusion_cells import Book, Found, rows_of
from benchmarks.studies.diffusion_plans import CALIBRATION, ROUNDED, STEPS_AND_LAYERS, TIMED, timed_student
from benchmarks.studies.diffusion_scores import Study, ranged, signed
from compressor.contracts import Target, registry
from compressor.tasks.generation.description import described

if TYPE_CHECKING:
    from numpy.typing import NDArray

RUN = f"{ROUNDED}-0"
NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
RUNTIMES: Mapping[str, Target] = {name: registry.load("target", name)(threads=1) for name in NAMES}


def found(book: Book, target: str) -> Found:
    """Pictures of the rounded file of a runtime, from the same noise as all others.

    Raises:
        Absent: they are not there, and nothing is to be run.
    """
    return book.kept(f"{RUN}-{target}-{STEPS_AND_LAYERS}", lambda: book.seen(_drawn(book, target)))


def _drawn(book: Book, target: str) -> NDArray[Any]:
    book.report(RUN)
    folder = book.model(RUN, target=target)
    how = described(folder)
    return rows_of(how, RUNTIMES[target].open(folder), how.known(book.known), range(book.size.drawn))


def section(study: Study) -> Iterator[str]:
    """What rounding costs."""
    book, cell = study.book, timed_student()
    kept = {target: found(book, target) for target in NAMES}
    yield f"`quantize-static` on the student of `{TIMED}` in {STEPS_AND_LAYERS} steps, ranges by {CALIBRATION} rows over its levels. Files draw."
    yield ""
    yield "| | Frechet distance | kernel distance | farther than in float | class accuracy |"
    yield f"| --- |{' ---: |' * 4}"
    plain = book.found(cell).features.rows
    yield f"| float | {ranged(study.frechet(plain))} | {ranged(study.kernel(plain))} | | {study.accuracy(cell).value:.1%} |"
    for target, each in kept.items():
        rows = each.features.rows
        yield (
            f"| int8, {NAMES[target]} | {ranged(study.frechet(rows))} | {ranged(study.kernel(rows))} | {signed(study.apart(rows, plain))} | "
            f"{study.right(each.told).value:.1%} |"
        )
