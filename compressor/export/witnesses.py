"""Rows of the test split that an export proves itself on, kept by the run: what was given, and what the run made of each one alone."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Columns, Deployment, Feed, Session, Task, Witnessed, Workload
from compressor.contracts.model import BLUEPRINT
from compressor.deploy.graphs import graphs_of
from compressor.errors import CompressorError, StoreError
from compressor.files import json_in
from compressor.tasks.reading import column_of

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

MOST = 32
MOST_GENERATED = 8
"""Rows that a model which generates is asked, about."""
ODDEST = 10
"""So many of the longest, shortest and oddest rows come before one of each class."""
LOOKED_AT = 5000
"""Rows among which the longest, shortest and oddest are looked for."""
ROWS, ANSWERS, ARRAYS = "rows.json", "answers.json", "arrays.npz"


@dataclass(frozen=True)
class Given:
    """What a user would have of a row: a text or several, or a file."""

    row: int
    text: str | list[str] | None = None
    file: str = ""


@dataclass(frozen=True)
class Answer:
    """What a built model was fed for one row alone, and what was told of its outputs."""

    row: int
    told: str
    """The label, or what else a person reads; empty where outputs have no classes."""
    inputs: Mapping[str, str]
    """sha256 of each input, its type and shape included."""


def digest(array: NDArray[Any]) -> str:
    """sha256 of an array with its type and shape."""
    head = f"{array.dtype.str} {array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()


# ------------------------------------------------------------------ choosing


def chosen(rows: Dataset, columns: Columns) -> list[int]:
    """At most 32 rows: the longest, the shortest and some of the rarest kinds, one of each class, and others spread evenly."""
    looked = range(min(LOOKED_AT, len(rows)))
    kinds = [_kind(content) for content in _contents(rows.select(looked), columns)]
    by_length = sorted(looked, key=lambda number: kinds[number][0])
    labels = column_of(rows, columns.label) if columns.label else []
    counts = Counter(kind for _, kind in kinds)
    rare = sorted({kind: number for number, (_, kind) in enumerate(kinds)}.items(), key=lambda each: (counts[each[0]], each[1]))
    odd = [*by_length[-1:], *by_length[:1], *(number for _, number in rare)]
    first_of_class = {label: number for number, label in reversed(list(enumerate(labels)))}
    for number in odd[:ODDEST]:
        if labels:
            first_of_class.pop(labels[number], None)  # this row stands for its class, too
    spread = [at * len(rows) // MOST for at in range(MOST)]
    wanted = [*odd[:ODDEST], *sorted(first_of_class.values()), *odd[ODDEST:], *spread]
    return sorted(list(dict.fromkeys(wanted))[:MOST])


def _kind(content: Any) -> tuple[float, str]:
    """How long a content is, and of which kind: rows of rare kinds are the odd ones."""
    if isinstance(content, str):
        signs = (content.isascii(), content.isprintable(), content == content.lower(), content.strip() == content)
        return len(content), f"text {signs}"
    if isinstance(content, dict):
        return _kind_of_file(content)
    return 0.0, type(content).__name__


def _kind_of_file(content: Mapping[str, Any]) -> tuple[float, str]:
    from PIL import Image, UnidentifiedImageError

    source = io.BytesIO(content["bytes"]) if content["bytes"] is not None else content["path"]
    try:
        with Image.open(source) as image:
            turned = image.getexif().get(0x0112, 1)
            return image.width * image.height, f"{image.format} {image.mode} {turned} {image.width // image.height}"
    except UnidentifiedImageError:
        import soundfile

        source = io.BytesIO(content["bytes"]) if content["bytes"] is not None else content["path"]
        head = soundfile.info(source)
        return head.frames / head.samplerate, f"{head.format} {head.subtype} {head.samplerate} {head.channels}"


def _contents(rows: Dataset, columns: Columns) -> Iterator[Any]:
    """Contents of the rows: texts, several texts as one, files as `{bytes, path}`, or what else a column holds."""
    from datasets import Audio, Image

    kept = rows.select_columns(list(columns.content))
    for name in columns.content:
        if isinstance(kept.features[name], Image | Audio):
            kept = kept.cast_column(name, type(kept.features[name])(decode=False))
    for row in kept:
        values = [row[name] for name in columns.content]
        texts = len(values) > 1 and all(isinstance(value, str) for value in values)
        yield " ".join(values) if texts else values[0] if len(values) == 1 else None


# ------------------------------------------------------------------ keeping


def keep_rows(rows: Dataset, columns: Columns, folder: Path) -> tuple[Given, ...]:
    """Choose rows, and write what a user would have of each into `folder`; none where contents are neither texts nor files."""
    numbers = chosen(rows, columns)
    folder.mkdir(parents=True, exist_ok=True)
    found = [
        _kept(number, content, folder) for number, content in zip(numbers, _contents(rows.select(numbers), columns), strict=True)
    ]
    if len(columns.content) > 1:
        found = [replace(each, text=[rows[each.row][name] for name in columns.content]) if each.text else each for each in found]
    (folder / ROWS).write_text(json.dumps([asdict(each) for each in found]), encoding="utf-8")
    return tuple(found)


def _kept(number: int, content: Any, folder: Path) -> Given:
    if isinstance(content, str):
        return Given(number, content)
    if not (isinstance(content, dict) and {"bytes", "path"} <= set(content)):
        return Given(number)
    name = f"{number}{Path(content['path'] or '').suffix.lower()}"
    (folder / name).write_bytes(content["bytes"] if content["bytes"] is not None else Path(content["path"]).read_bytes())
    return Given(number, file=name)


def keep_answers(
    task: Task,
    session: Session,
    rows: Dataset,
    given: Callable[[], Sequence[Given]],
    labels: Sequence[str],
    *,
    built: Path,
    out: Path,
) -> None:
    """Feed each row alone to a built model and write what came of it; nothing where no example of an export could do the same."""
    import numpy as np

    how = _deployment(task, built)
    if how is None:
        return
    answers: list[Answer] = []
    arrays: Feed = {}
    looped = how.generates is not None or how.draws is not None
    for each in few(given()) if looped else given():
        if how.generates is None:
            found = _answered(task, session, rows.select([each.row]), labels if how.classes else None, how, built)
        elif (told := task.witnessed(session, asked(each), built)) is not None:
            found = told
        else:
            continue
        answers.append(Answer(each.row, found.told, {name: digest(array) for name, array in found.inputs.items()}))
        arrays |= {f"{each.row}/outputs/{name}": array for name, array in found.outputs.items()}
        if how.kind == "arrays":
            arrays |= {f"{each.row}/inputs/{name}": array for name, array in found.inputs.items()}
    out.mkdir(parents=True, exist_ok=True)
    (out / ANSWERS).write_text(json.dumps([asdict(each) for each in answers]), encoding="utf-8")
    np.savez_compressed(out / ARRAYS, **arrays)  # type: ignore[arg-type]


def few(given: Sequence[Given]) -> Sequence[Given]:
    """Some of the rows, spread over them: each of a model that generates or draws takes as many calls as it makes tokens or steps."""
    return given[:: max(1, len(given) // MOST_GENERATED)]


def asked(given: Given) -> str | None:
    """What a model that generates is asked for a row: its text, of several the first one."""
    return given.text[0] if isinstance(given.text, list) else given.text


def _answered(
    task: Task, session: Session, row: Dataset, labels: Sequence[str] | None, how: Deployment, built: Path
) -> Witnessed:
    taken = {port.name for port in (graphs_of(built)[0].fed if how.draws is None else task.inputs(built))}
    feed = {name: array for name, array in task.feeds(row, built, count=1)[0].items() if name in taken}
    outputs = task.call(session, feed, Workload())
    return Witnessed(feed, outputs, "" if labels is None else task.tell(outputs, labels)[0].text)


def _deployment(task: Task, built: Path) -> Deployment | None:
    """How a built model is fed by its example; None where it can have none."""
    first, *others = graphs_of(built)
    if (built / BLUEPRINT).is_file() and not (built / "config.json").is_file():
        return None
    try:
        how = task.deployment(built, first.fed)
    except CompressorError:  # told when it is exported
        return None
    if others and how.draws is None:
        return None
    called_once = type(task).call is Task.call and not first.state
    return how if called_once or how.generates is not None or how.draws is not None else None


# ------------------------------------------------------------------ reading


def read_rows(folder: Path) -> list[Given]:
    """The rows that a run kept; none of a run of before.

    Raises:
        StoreError: they cannot be read.
    """
    return [Given(**values) for values in _json(folder / ROWS)]


def read_answers(folder: Path) -> list[Answer]:
    """What a run kept of a built model; nothing where it kept none.

    Raises:
        StoreError: it cannot be read.
    """
    return [Answer(**values) for values in _json(folder / ANSWERS)]


def _json(path: Path) -> list[Any]:
    try:
        return list(json_in(path)) if path.is_file() else []
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
