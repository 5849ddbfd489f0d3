"""Where rows lie and what they are: a table, tables, or folders of texts, pictures or sounds, their splits told by names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.contracts import Column
from compressor.contracts.recipe import spread
from compressor.errors import SourceError
from compressor.plan.specs import DataSpec
from compressor.proposal.columns import LOOKED_AT, column_of
from compressor.tasks.encodings import fits
from compressor.tasks.folders import FILE_NAME, KINDS, LEFTOVERS, METADATA
from compressor.tasks.headers import columns_in, csv_options
from compressor.tasks.tables import FORMATS, read_table

SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "validation": "validation", "valid": "validation",
    "val": "validation", "dev": "validation", "eval": "validation",
}  # fmt: skip
"""Splits by the names that files and folders of them have."""
CONTENT = {"imagefolder": ("image", "picture"), "audiofolder": ("audio", "sound"), "": ("text", "text")}
"""What a folder of files gives: a column, and its kind."""


@dataclass(frozen=True)
class Rows:
    """Rows as they were found."""

    data: Mapping[str, Any]
    """What a plan says under `data:`."""
    columns: tuple[Column, ...]
    told: str
    """What was found, in words."""


def look(root: Path, spelled: str) -> Rows:
    """What lies at a path, which a plan calls `spelled`.

    Raises:
        SourceError: there is nothing, or nothing that is read as rows.
    """
    if root.is_file():
        return _tables({"train": [root]}, lambda _: spelled)
    if not root.is_dir():
        raise SourceError(f"{root}: no such file or folder")

    def name(path: Path) -> str:
        return os.path.join(spelled, os.path.relpath(path, root)) if path != root else spelled  # noqa: PTH118

    entries = [each for each in sorted(root.iterdir()) if not each.name.startswith(".") and each.name.lower() not in LEFTOVERS]
    folders = {split: path for path in entries if path.is_dir() and (split := SPLITS.get(path.name.lower()))}
    if "train" in folders and len(folders) == sum(path.is_dir() for path in entries):
        return _split_folders(folders, name)
    return _media(root, name) or _tables_in(entries, name) or _texts(root, entries, spelled)


# ------------------------------------------------------------------ tables


def _tables_in(entries: Sequence[Path], name: Any) -> Rows | None:
    tables = [path for path in entries if path.is_file() and path.suffix.lower() in FORMATS and path.suffix.lower() != ".txt"]
    if not tables:
        return None
    parts: dict[str, list[Path]] = {}
    for path in tables:
        split = SPLITS.get(re.split("[-_.]", path.stem.lower())[0])
        parts.setdefault(split or "", []).append(path)
    if "train" in parts:
        return _tables({split: paths for split, paths in parts.items() if split}, name)
    return _tables({"train": tables}, name)


def _tables(parts: Mapping[str, Sequence[Path]], name: Any) -> Rows:
    first = parts["train"][0]
    kind = FORMATS.get(first.suffix.lower())
    if kind is None:
        raise SourceError(f"{first}: unknown format '{first.suffix}' (known: {', '.join(sorted(FORMATS))})")
    refused: SourceError | None = None
    for options in csv_options(first) if kind == "csv" else ({},):
        try:
            columns = tuple(_columns(first, kind, options))
        except SourceError as error:
            refused = refused or error
            continue
        spelled = {split: [name(path) for path in paths] for split, paths in parts.items()}
        files: Any = {split: each[0] if len(each) == 1 else each for split, each in spelled.items()}
        files = files["train"] if len(files) == 1 else files
        count = sum(map(len, spelled.values()))
        return Rows({"files": files, **options}, columns, f"{count} {kind} file{'s' if count > 1 else ''}{_said(options)}")
    raise refused or SourceError(f"{first} is not UTF-8 text")


def _columns(path: Path, kind: str, options: Mapping[str, Any], without: Sequence[str] = ()) -> Iterator[Column]:
    spec = DataSpec.model_validate({"files": path.name, **options})
    names = [name for name in columns_in(path, kind, spec) if name and name not in without]
    read, _ = read_table(path, kind, names, spec)
    rows = read.select(spread(len(read), LOOKED_AT))
    for name in names:
        media = type(rows.features[name]).__name__ in ("Image", "Audio")
        yield column_of(name, () if media else list(rows[name]), rows.features[name])


def _said(options: Mapping[str, Any]) -> str:
    return "".join(f", {name} {value!r}" for name, value in options.items())


# ------------------------------------------------------------------ folders of files


def _split_folders(folders: Mapping[str, Path], name: Any) -> Rows:
    inner = look(folders["train"], name(folders["train"]))
    if inner.data["files"] != name(folders["train"]) and not isinstance(inner.data["files"], dict):
        tables = {split: _own_tables(path) for split, path in folders.items()}
        return _tables({split: paths for split, paths in tables.items() if paths}, name)
    others = {key: value for key, value in inner.data.items() if key != "files"}
    layout = inner.data["files"].get("layout") if isinstance(inner.data["files"], dict) else None
    files = {split: name(path) for split, path in folders.items()} | ({"layout": layout} if layout else {})
    return Rows({"files": files, **others}, inner.columns, f"{inner.told}; splits {', '.join(folders)}")


def _own_tables(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in FORMATS and not path.name.startswith(".")]


def _media(root: Path, name: Any) -> Rows | None:
    """A folder of pictures or sounds, which a table names or folders of labels hold."""
    suffixes = {path.suffix.lower() for path in _some(root)}
    kind = next((kind for kind, known in KINDS.items() if suffixes & set(known)), None)
    if kind is None:
        return None
    content, held = CONTENT[kind]
    column = Column(content, held)  # type: ignore[arg-type]
    data = {"files": name(root), "format": kind}
    table = next((root / each for each in METADATA if (root / each).is_file()), None)
    if table is None:
        return Rows(data, (column, _folders(root)), f"a folder of {held}s for each label")
    others = tuple(_columns(table, FORMATS[table.suffix], {}, (FILE_NAME,)))
    return Rows(data, (column, *others), f"{held}s that {table.name} names")


def _texts(root: Path, entries: Sequence[Path], spelled: str) -> Rows:
    if not any(path.is_dir() and any(path.rglob("*")) for path in entries):
        raise SourceError(
            f"{root} holds neither a table ({', '.join(sorted(FORMATS))}), nor pictures, nor sounds, nor a folder of texts for each label"
        )
    data = {"files": {"path": spelled, "layout": "folder-per-label"}, **(options := _encodings(root))}
    return Rows(data, (Column("text", "text", "files"), _folders(root)), f"a folder of texts for each label{_said(options)}")


def _encodings(root: Path) -> dict[str, Any]:
    """What texts are in, where some are not UTF-8: that is refused unless a plan says so, and here a person reads what it says."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    others = [path for path in files if not fits(path, "utf-8")]
    single = next(name for name in ("cp1252", "latin-1") if all(fits(path, name) for path in others))  # the latter fits any
    return {"encoding": ["utf-8", single]} if others else {}


def _folders(root: Path) -> Column:
    labels = [
        each for each in root.iterdir() if each.is_dir() and not each.name.startswith(".") and each.name.lower() not in LEFTOVERS
    ]
    return Column("label", "class", f"{len(labels)} classes, a folder each")


def _some(root: Path, most: int = 2000) -> Iterator[Path]:
    """The first files of a folder and of those in it."""
    for number, path in enumerate(root.rglob("*")):
        if number >= most:
            return
        yield path
