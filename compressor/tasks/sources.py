"""Where rows come from: files and folders, in installed packages too, or the hub; found, checked and read, never executed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.contracts import Columns
from compressor.errors import MissingColumn, SourceError, near_name
from compressor.model.sources import inside_package
from compressor.plan.paths import matches, near_path
from compressor.plan.specs import DataSpec, Files
from compressor.tasks.folders import KINDS, holds_documents, kind_of, passed_over, read_documents, read_folders, visible
from compressor.tasks.labels import spelled
from compressor.tasks.media import owned, place_of
from compressor.tasks.places import PLACE, with_places
from compressor.tasks.strangers import stranger
from compressor.tasks.tables import FORMATS, read_table

if TYPE_CHECKING:
    from datasets import Dataset


TEXT_TYPES = ("large_string", "string_view")
"""What polars and others write texts as in parquet."""


@dataclass(frozen=True)
class Source:
    """Rows as their source has them."""

    parts: dict[str, Dataset]
    """By split, of the columns that a task reads and the place of each row; labels are strings or None."""
    name: str
    """The source in words."""
    findings: tuple[str, ...] = ()
    """What was met on the way and should be known: files that were passed over, say."""


def read_rows(spec: DataSpec, folder: Path, columns: Columns) -> Source:
    """Rows by split as the source has them.

    Raises:
        SourceError: a file is not there, cannot be read, or leads out of its folder.
        MissingColumn: rows lack a column.
    """
    import datasets

    if PLACE in columns.all:
        raise SourceError(f"a column cannot be called '{PLACE}', as rows have one of that name here: call it otherwise")
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is told once, by the error
    if spec.hub:
        return Source(_spelled(_hub_rows(spec.hub, spec, columns), columns), f"hub {spec.hub}")
    assert spec.files is not None
    root, further = _root(spec.files, folder), folder / spec.root if spec.root else None
    findings: list[str] = []
    parts = {name: _file_rows(spec, root, paths, columns, further, findings) for name, paths in spec.files.parts().items()}
    where = f"package {spec.files.installed}: " if spec.files.installed else ""
    named = ", ".join(path for paths in spec.files.parts().values() for path in paths)
    return Source(_spelled(parts, columns), where + named, tuple(findings))


def files_of(spec: DataSpec, folder: Path) -> list[Path]:
    """Files and folders that rows are read from, as far as the plan names them; none of the hub's.

    Raises:
        SourceError: one is not there.
    """
    if not spec.files:
        return []
    root = _root(spec.files, folder)
    return [path for paths in spec.files.parts().values() for each in paths for path in _found(root, each)]


def _spelled(parts: dict[str, Dataset], columns: Columns) -> dict[str, Dataset]:
    chosen = {name: rows.select_columns([*columns.all, PLACE]) for name, rows in parts.items()}
    return {name: spelled(rows, columns.label) for name, rows in chosen.items()} if columns.label else chosen


def _root(files: Files, folder: Path) -> Path:
    return inside_package(files.installed, "") if files.installed else folder


def _found(root: Path, path: str) -> list[Path]:
    found = matches(root, path)
    if not found:
        raise SourceError(f"{root / path}: no such file or folder{near_path(root / path)}")
    return found


# ------------------------------------------------------------------ files


def _file_rows(
    spec: DataSpec, root: Path, paths: Sequence[str], columns: Columns, further: Path | None, findings: list[str]
) -> Dataset:
    found = [path for each in paths for path in _found(root, each)]
    by_label = spec.files is not None and spec.files.layout == "folder-per-label"
    if not by_label and not spec.format and all(path.is_dir() and holds_documents(path, columns, further) for path in found):
        rows, told = read_documents(found, columns, spec, further)
        findings += told
        return rows
    kind = spec.format or ("" if by_label else _kind(found[0], further))
    if by_label or kind in KINDS:
        rows, told = read_folders(found, kind if kind in KINDS else "", columns, spec, further)
        findings += told
        return rows
    return _table_rows(_tables(found, spec, further, findings), columns, spec, further, findings)


def _kind(path: Path, further: Path | None) -> str:
    if path.is_dir():
        return kind_of(path, further)
    if path.suffix.lower() not in FORMATS:
        if what := stranger(path):
            raise SourceError(f"{path} is {what}")
        known = ", ".join(sorted(set(FORMATS.values())))
        raise SourceError(f"{path}: unknown format '{path.suffix}'; say `format:` (known: {known})")
    return FORMATS[path.suffix.lower()]


def _tables(found: Sequence[Path], spec: DataSpec, further: Path | None, findings: list[str]) -> list[tuple[Path, str]]:
    """Files of tables with their formats; of a folder those that its format, which the plan names, goes with."""
    tables = []
    for path in found:
        passed = Counter[str]()
        inside = visible(path, further, passed) if path.is_dir() else ()
        own = [each for each in inside if FORMATS.get(each.suffix.lower()) == spec.format]
        if path.is_dir() and not own:
            raise SourceError(f"{path}: no {spec.format} files in this folder")
        findings += passed_over(path, passed)
        tables += [(each, spec.format or _kind(each, further)) for each in own or [path]]
    return tables


def _table_rows(
    tables: Sequence[tuple[Path, str]], columns: Columns, spec: DataSpec, further: Path | None, findings: list[str]
) -> Dataset:
    from datasets import concatenate_datasets

    parts = []
    for path, kind in tables:
        place = place_of(path.parent, further)
        place.check(path)
        rows, told = read_table(path, kind, columns, spec)
        found = owned(rows, place, further or path.parent)
        parts.append(_plain(found, columns.label) if len(tables) > 1 else found)
        findings += told
    try:
        return parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    except (ValueError, TypeError) as error:
        raise SourceError(f"{tables[0][0]} and {tables[-1][0]} have columns of different types: {error}") from error


def _plain(rows: Dataset, label: str | None) -> Dataset:
    """Rows as any other file has them: labels spelled, and each text of the one type of texts, whatever the program that wrote it."""
    from datasets import Value

    rows = spelled(rows, label) if label else rows
    for name, feature in rows.features.items():
        if isinstance(feature, Value) and feature.dtype in TEXT_TYPES:
            rows = rows.cast_column(name, Value("string"))
    return rows


# ------------------------------------------------------------------ the hub


def _hub_rows(name: str, spec: DataSpec, columns: Columns) -> dict[str, Dataset]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, spec.config, revision=spec.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise SourceError(f"hub data set '{name}' cannot be fetched: {' '.join(str(error).split())}") from error
    if "train" not in loaded:
        raise SourceError(f"hub data set '{name}' has no split 'train' (splits: {', '.join(loaded)})")
    fetched = Path(datasets.config.HF_DATASETS_CACHE)
    cache = place_of(fetched, Path(datasets.config.HF_HUB_CACHE))
    parts = {split: loaded[split] for split in ("train", "validation", "test") if split in loaded}
    for split, rows in parts.items():
        for column in columns.all:
            if column not in rows.column_names:
                there = ", ".join(rows.column_names)
                near = near_name(column, rows.column_names)
                raise MissingColumn(column, f"hub {name}: {split} has no column '{column}'{near} (columns: {there})")
    placed = {
        split: with_places(rows, [f"hub {name}, row {number} of {split}" for number in range(1, len(rows) + 1)])
        for split, rows in parts.items()
    }
    return {split: owned(rows, cache, fetched) for split, rows in placed.items()}
