"""Where rows lie and what they are: a table, tables, or folders of texts, pictures or sounds, their splits told by names."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from compressor.contracts import Column
from compressor.errors import SourceError
from compressor.files import plain_file
from compressor.plan.paths import near_path
from compressor.proposal.reading import TWICE, columns_of
from compressor.tasks.csv_tables import usual_separator
from compressor.tasks.encodings import encodings_in
from compressor.tasks.folders import DOCUMENT, FILE_NAME, KINDS, METADATA, MOST_TEXT_BYTES, SPLITS, aside, no_rows, visible
from compressor.tasks.headers import csv_options, separator_in
from compressor.tasks.tables import FORMATS, check_file

CONTENT = {"imagefolder": ("image", "picture"), "audiofolder": ("audio", "sound"), "": ("text", "text")}
"""What a folder of files gives: a column, and its kind."""
SPLIT_WORD = re.compile(rf"({'|'.join(SPLITS)})(set|data|split)?[0-9]*")
"""A word of a file's name that says its split."""
MOST_SEEN = 2000
"""Files by whose names a folder is told."""


@dataclass(frozen=True)
class Rows:
    """Rows as they were found."""

    data: Mapping[str, Any]
    """What a plan says under `data:`."""
    columns: tuple[Column, ...]
    told: str
    """What was found, in words."""
    notes: tuple[str, ...] = ()
    """What of it is not read."""


def look(root: Path, spelled: str) -> Rows:
    """What lies at a path, which a plan calls `spelled`.

    Raises:
        SourceError: there is nothing, or nothing that is read as rows, or it is not clear which rows are trained on.
    """
    if not root.exists():
        raise SourceError(f"{spelled}: no such file or folder{near_path(root)}")
    if not root.is_dir():
        return _tables({"train": [root]}, lambda _: spelled)
    if what := no_rows(root):
        raise SourceError(f"{spelled} holds no rows; {what}")

    def name(path: Path) -> str:
        return os.path.join(spelled, os.path.relpath(path, root)) if path != root else spelled  # noqa: PTH118

    folders = [path for path in _entries(root) if path.is_dir()]
    splits = _by_split({path: SPLITS.get(path.name.lower()) for path in folders})
    if splits.get("train") and (len(splits) > 1 + (None in splits) or len(folders) == len(splits["train"])):
        return _split_folders(splits, name, beside=_tables_of(root))
    if (tables := _tables_of(root)) and not _is_of_media(root):
        return _tables_in(root, tables, name)
    return _tables_below(root, folders, name) or _files(root, name)


def _tables_below(root: Path, folders: Sequence[Path], name: Any) -> Rows | None:
    """Tables in the only folder of a folder, as repositories of data have them.

    Raises:
        SourceError: several folders hold nothing but files of parquet: it is not clear which is meant.
    """
    tables = {folder: found for folder in folders if (found := _tables_of(folder))}
    if not tables or len(tables) < len(folders) or _is_of_media(root):
        return None
    if len(folders) == 1:
        return _tables_in(folders[0], tables[folders[0]], name)
    if all(path.suffix.lower() == ".parquet" for each in tables.values() for path in each):
        listed = ", ".join(f"'{each.name}'" for each in folders)
        raise SourceError(f"{root} holds several folders of tables, {listed}: name the one that is meant")
    return None


def _entries(folder: Path) -> list[Path]:
    return [each for each in sorted(folder.iterdir()) if not aside(each)]


def _is_of_media(root: Path) -> bool:
    """Whether a folder with tables is one of pictures or sounds: a table describes them, or folders of labels hold them."""
    media = {path.relative_to(root).parts[0] for path in _some(root) if _kind_of(path)}
    described = any((root / each).is_file() for each in METADATA)
    return bool(media) and (described or sum((root / each).is_dir() for each in media) > 1)


def _files(root: Path, name: Any) -> Rows:
    return _media(root, name) or _texts(root, name)


def _by_split(named: Mapping[Path, str | None]) -> dict[str | None, list[Path]]:
    parts: dict[str | None, list[Path]] = {}
    for path, split in named.items():
        parts.setdefault(split, []).append(path)
    return parts


def _passed_over(paths: Sequence[Path]) -> tuple[str, ...]:
    listed = ", ".join(f"'{path.name}'" for path in paths)
    return (f"not read, since names of others say which split they are: {listed}",) if paths else ()


# ------------------------------------------------------------------ tables


def _tables_of(folder: Path) -> list[Path]:
    return [path for path in _entries(folder) if path.is_file() and FORMATS.get(path.suffix.lower(), "text") != "text"]


def _split_of(path: Path) -> str | None:
    """The split that words of a file's name say; None where they say none, or two."""
    words = re.split(r"[-_. ]+", path.stem.lower())
    found = {SPLITS[word[1]] for word in map(SPLIT_WORD.fullmatch, words) if word}
    return found.pop() if len(found) == 1 else None


def _tables_in(root: Path, tables: Sequence[Path], name: Any) -> Rows:
    parts = _by_split({path: _split_of(path) for path in tables})
    others = parts.pop(None, [])
    if not parts:
        return _tables({"train": tables}, name)
    if "train" not in parts:
        if len(others) != 1:
            found = "It could be" if others else "All are named as other splits:"
            listed = ", ".join(f"'{path.name}'" for path in others or tables)
            raise SourceError(
                f"{root}: which table is trained on? {found} {listed}; call it train, as train.csv, or name one table"
            )
        notes = (f"'{others[0].name}' is trained on, since the names of all others say another split",)
        return _tables({"train": others, **_named(parts)}, name, notes)
    return _tables(_named(parts), name, _passed_over(others))


def _named(parts: Mapping[str | None, Sequence[Path]]) -> dict[str, Sequence[Path]]:
    """Of splits, in their order."""
    return {split: parts[split] for split in dict.fromkeys(SPLITS.values()) if parts.get(split)}


def _tables(parts: Mapping[str, Sequence[Path]], name: Any, notes: tuple[str, ...] = ()) -> Rows:
    first = parts["train"][0]
    kind = FORMATS.get(first.suffix.lower())
    check_file(first, kind or "")
    if kind is None:
        raise SourceError(f"{first}: unknown format '{first.suffix}' (known: {', '.join(sorted(FORMATS))})")
    refused: SourceError | None = None
    for options in _options(parts):
        try:
            columns = columns_of(first, kind, options)
        except SourceError as error:
            refused = refused or error
            continue
        spelled = {split: [name(path) for path in paths] for split, paths in parts.items()}
        files: Any = {split: each[0] if len(each) == 1 else each for split, each in spelled.items()}
        files = files["train"] if len(files) == 1 else files
        count = sum(map(len, spelled.values()))
        twice = tuple(f"column '{each.name}' {TWICE}: it is not read" for each in columns if each.told == TWICE)
        told = f"{count} {kind} file{'s' if count > 1 else ''}{_said(options)}"
        return Rows({"files": files, **options}, columns, told, (*notes, *twice))
    assert refused
    raise refused


def _options(parts: Mapping[str, Sequence[Path]]) -> Iterator[Mapping[str, Any]]:
    """What `data:` may have to say for all these tables to be read, the likeliest first.

    Raises:
        SourceError: it cannot say it of all of them.
    """
    paths = [path for each in parts.values() for path in each]
    first, texts = paths[0], [path for path in paths if FORMATS.get(path.suffix.lower()) != "parquet"]
    encoding = encodings_in(texts)
    said = {"encoding": encoding} if encoding else {}
    own = {path: separator_in(path, encoding) for path in texts if FORMATS.get(path.suffix.lower()) == "csv"}
    signs = {sign: path for path, sign in reversed(own.items()) if sign != usual_separator(path)}
    if len(signs) > 1:
        listed = " and ".join(f"{sign!r} in {path}" for sign, path in sorted(signs.items(), key=lambda each: each[1]))
        raise SourceError(f"fields are separated by {listed}, and a plan says one `separator:`: write these tables alike")
    separated = {"separator": next(iter(signs))} if signs else {}
    for options in csv_options(first, encoding) if first in own else ({},):
        yield {**separated, **said, **options}


def _said(options: Mapping[str, Any]) -> str:
    return "".join(f", {name} {value!r}" for name, value in options.items())


# ------------------------------------------------------------------ folders of files


def _split_folders(splits: Mapping[str | None, Sequence[Path]], name: Any, *, beside: Sequence[Path]) -> Rows:
    """Folders of splits, each of tables or of files; what lies beside them is none."""
    notes = _passed_over([*splits.get(None, []), *beside])
    folders = _named(splits)
    first = folders["train"][0]
    tables: dict[str | None, list[Path]] = {
        split: [each for path in paths for each in _tables_of(path)] for split, paths in folders.items()
    }
    if tables["train"] and not _is_of_media(first):
        return _tables(_named(tables), name, notes)
    inner = _files(first, name)
    others = {key: value for key, value in inner.data.items() if key != "files"}
    layout = inner.data["files"].get("layout") if isinstance(inner.data["files"], dict) else None
    spelled = {split: [name(path) for path in paths] for split, paths in folders.items()}
    files = {split: each[0] if len(each) == 1 else each for split, each in spelled.items()} | (
        {"layout": layout} if layout else {}
    )
    return Rows({"files": files, **others}, inner.columns, f"{inner.told}; splits {', '.join(folders)}", (*notes, *inner.notes))


def _media(root: Path, name: Any) -> Rows | None:
    """A folder of pictures or sounds, which a table names or folders of labels hold."""
    found = set(map(_kind_of, _some(root)))
    kind = next((kind for kind in KINDS if kind in found), None)
    if kind is None:
        return None
    content, held = CONTENT[kind]
    column = Column(content, held)  # type: ignore[arg-type]
    data = {"files": name(root), "format": kind}
    table = next((root / each for each in METADATA if (root / each).is_file()), None)
    if table is None:
        return Rows(data, (column, _folders(root)), f"a folder of {held}s for each label")
    others = columns_of(table, FORMATS[table.suffix], {}, (FILE_NAME,))
    return Rows(data, (column, *others), f"{held}s that {table.name} names")


def _kind_of(path: Path) -> str | None:
    return next((kind for kind, known in KINDS.items() if path.suffix.lower() in known), None)


def _texts(root: Path, name: Any) -> Rows:
    if not any(path.parent != root for path in _some(root)):
        texts = [path for path in _entries(root) if path.suffix.lower() == DOCUMENT]
        if "train" in map(_split_of, texts):
            return _tables_in(root, texts, name)
        if texts:
            data = {"files": name(root), **(options := _encodings(root, None))}
            return Rows(data, (Column("text", "text", "files"),), f"a folder of texts, each file one document{_said(options)}")
        raise SourceError(
            f"{root} holds neither a table ({', '.join(sorted(FORMATS))}), nor pictures, nor sounds, nor a folder of texts for each label"
        )
    data = {"files": {"path": name(root), "layout": "folder-per-label"}, **(options := _encodings(root, root))}
    return Rows(data, (Column("text", "text", "files"), _folders(root)), f"a folder of texts for each label{_said(options)}")


def _encodings(root: Path, without: Path | None) -> dict[str, Any]:
    """What texts are in, where some are not UTF-8: that is refused unless a plan says so, and here a person reads what it says."""
    found = encodings_in([path for path in visible(root, None, Counter()) if path.parent != without and _is_small(path)])
    return {"encoding": found} if found else {}


def _is_small(path: Path) -> bool:
    """Whether a file is read as a row; one that is larger is told when rows are read."""
    try:
        plain_file(path, MOST_TEXT_BYTES)
    except OSError:
        return False
    return True


def _folders(root: Path) -> Column:
    labels = [each for each in root.iterdir() if each.is_dir() and not aside(each)]
    return Column("label", "class", f"{len(labels)} classes, a folder each")


def _some(root: Path) -> Iterator[Path]:
    """The first files of a folder and of those in it that are read as rows."""
    return islice(visible(root, None, Counter()), MOST_SEEN)
