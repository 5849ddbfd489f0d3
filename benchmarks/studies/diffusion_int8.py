"""Students of few steps in int8: what their pictures are like, drawn by the files of two runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks.studies.diffusion_cells import Absent, Book, Found, rows_of
from benchmarks.studies.diffusion_plans import CALIBRATION, ROUNDED, TIMED, timed_student
from benchmarks.studies.diffusion_scores import Study, ranged, signed
from compressor.contracts import Target, registry
from compressor.tasks.generation.description import described

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
RUNTIMES: Mapping[str, Target] = {name: registry.load("target", name)(threads=1) for name in NAMES}


def run_of(name: str) -> str:
    """The run that rounds, of the first seed."""
    return f"{name}-0"


def found(book: Book, name: str, target: str) -> Found:
    """Many pictures of the rounded file of a runtime, from the same noise as all others.

    Raises:
        Absent: they are not there, and nothing is to be run.
    """
    return book.kept(place(name, target), lambda: book.seen(_drawn(book, name, target)), book.size.many)


def place(name: str, target: str) -> str:
    """Under which they are kept."""
    return f"{run_of(name)}-{target}-{ROUNDED[name]}"


def _drawn(book: Book, name: str, target: str) -> NDArray[Any]:
    book.report(run_of(name))
    folder = book.model(run_of(name), target=target)
    how = described(folder)
    return rows_of(how, RUNTIMES[target].open(folder), how.known(book.known), range(book.size.many))


def there(book: Book) -> dict[tuple[str, str], Found]:
    """All that there are, by run and runtime."""
    files = [(name, target) for name in ROUNDED for target in NAMES]
    return {(name, target): found(book, name, target) for name, target in files if _is_there(book, name, target)}


def missing(book: Book) -> list[str]:
    """Steps and runtimes of which nothing is there."""
    files = ((name, target) for name in ROUNDED for target in NAMES)
    return [f"{ROUNDED[name]} steps by {NAMES[target]}" for name, target in files if not _is_there(book, name, target)]


def _is_there(book: Book, name: str, target: str) -> bool:
    return book.place(place(name, target), book.size.many).is_file()


def section(study: Study) -> Iterator[str]:
    """What rounding costs; `study` is of many pictures.

    Raises:
        Absent: nothing was rounded.
    """
    kept = there(study.book)
    if not kept:
        raise Absent("int8")
    yield f"`quantize-static` on the first student of `{TIMED}`, ranges by {CALIBRATION} rows over the levels of its steps. Files draw,"
    yield f"{study.book.size.many:,} pictures each."
    yield ""
    yield "| steps | | Frechet distance | kernel distance | farther than in float | class accuracy |"
    yield f"| ---: | --- |{' ---: |' * 4}"
    for name in dict.fromkeys(name for name, _ in kept):
        steps, cell = ROUNDED[name], timed_student(ROUNDED[name])
        plain = study.of(cell).features.rows
        yield f"| {steps} | float | {ranged(study.frechet(plain))} | {ranged(study.kernel(plain))} | | {study.accuracy(cell).value:.1%} |"
        for target in NAMES:
            if (name, target) in kept:
                each = kept[name, target]
                rows, both = each.features.rows, min(len(plain), len(each.told))
                yield (
                    f"| {steps} | int8, {NAMES[target]} | {ranged(study.frechet(rows))} | {ranged(study.kernel(rows))} | "
                    f"{signed(study.apart(rows[:both], plain[:both]))} | {study.right(each.told).value:.1%} |"
                )
