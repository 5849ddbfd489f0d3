"""What `check` needs to know of rows and models: read once, then known for as long as their files look the same.

A run asks nothing here: it reads and hashes anew.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import BaseModel

from compressor.contracts import InputSizes
from compressor.contracts.records import DataRecord
from compressor.contracts.step import code_parts, step_parts
from compressor.deploy.machine import versions
from compressor.model.sources import WEIGHT_SUFFIX, check_weights, located, unread_weights
from compressor.run.keys import source_digest
from compressor.run.preflight import check_lengths
from compressor.run.rows import rows_in
from compressor.store.known import Fact, known
from compressor.tasks.data import named_files, split_rows
from compressor.tasks.reading import values_of
from compressor.tasks.sources import Source, files_of, read_rows

if TYPE_CHECKING:
    from pathlib import Path

    from compressor.contracts import Data
    from compressor.plan.bound import Bound
    from compressor.plan.specs import DataSpec, ModelSource
    from compressor.store.store import Store

FACTS = 6
"""Raised whenever equal files give other facts."""
SHOWN = 5
"""Files that a line names."""
READERS = (
    "compressor-toolchain",
    "datasets",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "scikit-learn",
    "soundfile",
    "soxr",
    "tokenizers",
    "transformers",
)


class Rows(BaseModel):
    """What the rows of a plan are, without the rows."""

    record: DataRecord
    labels: tuple[str, ...]
    digest: str
    """Of the rows as they are used."""
    lengths: tuple[int, int, int] | None
    """Least, median and most characters of a text; None where rows are no texts."""


@dataclass(frozen=True)
class Reading:
    """The rows of a plan, read when somebody first asks for them."""

    bound: Bound

    @cached_property
    def source(self) -> Source:
        """As their source has them."""
        assert self.bound.data is not None, "there are no rows to read"
        with self.bound.naming_columns():
            return read_rows(self.bound.data, self.bound.folder, self.bound.task.columns())

    @cached_property
    def data(self) -> Data:
        """As they are used."""
        if self.bound.data is None:
            return rows_in(self.bound)
        task = self.bound.task
        return task.encoded(split_rows(self.source, self.bound.data, columns=task.columns(), seed=self.bound.seed))


def rows_of(bound: Bound, store: Store, reading: Reading | None = None) -> Rows:
    """What the rows of a plan are; those of the hub are read each time, as no files of them are known.

    Raises:
        SourceError: they cannot be read, or do not fit the plan.
    """
    read = reading or Reading(bound)

    def find() -> Fact:
        data, content = read.data, bound.task.columns().content[0]
        rows = Rows(record=data.record, labels=data.labels, digest=data.digest, lengths=_lengths(data, content))
        return Fact(rows.model_dump(mode="json"), named_files(read.source.parts))

    if bound.data is None:
        return Rows(record=read.data.record, labels=read.data.labels, digest=read.data.digest, lengths=None)
    asked = {"fact": "rows", **_of_rows(bound, bound.data)}
    return Rows.model_validate(find().value if bound.data.hub else known(store, asked, files_of(bound.data, bound.folder), find))


def sizes_of_rows(bound: Bound, store: Store, reading: Reading | None = None) -> InputSizes | None:
    """How large rows are, as the source model takes them; None where the task does not say.

    Raises:
        SourceError: they cannot be read.
    """
    if bound.data is None:
        return None
    read, path = reading or Reading(bound), located(bound.model, bound.folder)

    def find() -> Fact:
        sizes = bound.task.sizes(read.data, path)
        return Fact(sizes.model_dump(mode="json") if sizes else None, named_files(read.source.parts))

    asked = {"fact": "sizes", **_of_rows(bound, bound.data), "model": str(path.resolve())}
    beside = [each for each in path.iterdir() if each.is_file() and each.suffix != WEIGHT_SUFFIX]
    found = find().value if bound.data.hub else known(store, asked, [*files_of(bound.data, bound.folder), *beside], find)
    return InputSizes.model_validate(found) if found else None


def _of_rows(bound: Bound, spec: DataSpec) -> dict[str, object]:
    """What rows depend on, beside their files."""
    return {
        **_code(),
        "task": _task(bound),
        "data": spec.model_dump(mode="json"),
        "columns": asdict(bound.task.columns()),
        "seed": bound.seed,
        "folder": str(bound.folder.resolve()),
    }


def files_digest(source: ModelSource, folder: Path, store: Store) -> str:
    """`source_digest` of a model.

    Raises:
        SourceError: it is not there, or its weights are not those that the plan names.
    """
    path = located(source, folder)

    def find() -> Fact:
        check_weights(path, source.sha256)
        return Fact(source_digest(path))

    asked = {"fact": "model", **_code(), "sha256": source.sha256, "folder": str(path.resolve())}
    return str(known(store, asked, [path], find))


def examined(source: ModelSource, bound: Bound, labels: tuple[str, ...], store: Store) -> list[str]:
    """What the task tells of a model before it is loaded, a line each.

    Raises:
        SourceError: the model or its head is none that the task takes.
        UnsupportedModel: rows are to be timed at a length that it or a target does not take, or files cannot have sizes that are asked for.
    """
    path = located(source, bound.folder)

    def find() -> Fact:
        if source is bound.model:
            check_lengths(bound, path)
        left = unread_weights(path)
        beside = [f"of the files of weights these are not read: {', '.join(left[:SHOWN])}"] if left else []
        return Fact([*bound.task.examine(path, labels), *beside])

    probes = [step_parts(each.plugin, each.probe) for each in bound.probes]
    steps = [step_parts(each.plugin, each.step) for each in bound.passes]
    targets = [step_parts(each.plugin, each.target) for each in bound.targets]
    asked = {
        "fact": "examined",
        **_code(),
        "task": _task(bound),
        "labels": list(labels),
        "timed": [*probes, *steps, *targets] if source is bound.model else [],
        "folder": str(path.resolve()),
    }
    return [str(line) for line in known(store, asked, [path], find)]


def _task(bound: Bound) -> dict[str, object]:
    """What the task makes of rows and models depends on: the task, its parameters and its code."""
    return {bound.task_name: bound.task.model_dump(mode="json"), **code_parts(bound.task)}


def _code() -> dict[str, object]:
    return {"facts": FACTS, "versions": {**versions(READERS), "python": platform.python_version()}}


def _lengths(data: Data, column: str) -> tuple[int, int, int] | None:
    splits = [data.split(name) for name in ("train", "validation", "test")]
    if any(getattr(rows.features[column], "dtype", None) != "string" for rows in splits):
        return None
    lengths = sorted(len(text) for rows in splits for text in values_of(rows, column))
    return lengths[0], lengths[len(lengths) // 2], lengths[-1]
