"""Rows of folders of files: a picture, a sound or a text each, their labels from names of folders or from a table beside them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from compressor.contracts import Columns
from compressor.contracts.model import CONFIG
from compressor.errors import MissingColumn, SourceError
from compressor.files import read_bytes
from compressor.plan.paths import Place, near_path
from compressor.plan.specs import DataSpec
from compressor.tasks.encodings import decoded, is_wide, mark_of, names_of
from compressor.tasks.media import place_of
from compressor.tasks.places import PLACE, with_places
from compressor.tasks.reading import column_of, values_of
from compressor.tasks.tables import FORMATS, read_table

if TYPE_CHECKING:
    from datasets import Dataset

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "eval": "validation", "test": "test", "testing": "test",
}  # fmt: skip
"""Splits by the words that names of files and folders have for them, in small letters."""
LEFTOVERS = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "picasa.ini", "icon\r", "__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin",
    "system volume information", "lost+found",
}  # fmt: skip
"""Names, in small letters, of what systems and programs leave in folders: a NAS keeps a small copy of each picture in `@eaDir`."""
STREAM = ":zone.identifier"
"""How names end, in small letters, of notes that Windows keeps beside what was downloaded, once copied elsewhere."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf", ".onnx")
MOST_TEXT_BYTES = 64 * 2**20
KINDS = {"imagefolder": IMAGES, "audiofolder": SOUNDS}
SINGLE = {"imagefolder": "picture", "audiofolder": "sound"}
FILE_NAME = "file_name"
SAVED, SAVED_SPLITS = "dataset_info.json", "dataset_dict.json"
"""What `save_to_disk` leaves beside its rows."""
DOCUMENT = ".txt"
AS_SPLITS = "name them as splits, `files: {train: ..., test: ...}`"
OR_TABLE = f"or a table that names the files in a column `{FILE_NAME}`: {' or '.join(METADATA)}"


def holds_documents(folder: Path, columns: Columns, root: Path | None) -> bool:
    """Whether a task that reads a text and nothing else finds texts in a folder, and neither tables nor pictures nor sounds.

    Raises:
        SourceError: something leads out of the folder.
    """
    suffixes = {each.suffix.lower() for each in visible(folder, root, Counter())}
    others = {*IMAGES, *SOUNDS, *(each for each in suffixes if FORMATS.get(each, "text") != "text")}
    return len(columns.all) == 1 and DOCUMENT in suffixes and not suffixes & others and not no_rows(folder)


def read_documents(folders: Sequence[Path], columns: Columns, spec: DataSpec, root: Path | None) -> tuple[Dataset, list[str]]:
    """A row for each file of texts, which is one document whatever lines it has, in the order of their names; and how many there are.

    Raises:
        SourceError: one is no text, or leads out of its folder; or folders inside are splits.
    """
    paths, findings = list[Path](), list[str]()
    for folder in folders:
        passed = Counter[str]()
        there = list(visible(folder, root, passed))
        own = [path for path in there if path.suffix.lower() == DOCUMENT]
        inside = {path.relative_to(folder).parts[0] for path in own if path.parent != folder}
        if len(inside) > 1 and {name.lower() for name in inside} <= SPLITS.keys():
            raise SourceError(f"{folder} holds the folders {sorted(inside)}: {AS_SPLITS}")
        passed["of another name"] = len(there) - len(own)
        findings += [f"{folder}: {len(own)} documents, each file one row whatever its lines", *passed_over(folder, passed)]
        paths += own
    rows = _dataset(columns.content[0], _contents(paths, "", spec), "", {})
    return with_places(rows, list(map(str, paths))), findings


def kind_of(folder: Path, root: Path | None) -> str:
    """`imagefolder` or `audiofolder`, by what lies in it.

    Raises:
        SourceError: there is neither, or something leads out of the folder.
    """
    suffixes = {each.suffix.lower() for each in visible(folder, root, Counter())}
    kind = next((kind for kind, known in KINDS.items() if suffixes & set(known)), None)
    if kind is None:
        raise SourceError(f"{folder}: neither images nor sounds in this folder; {no_rows(folder) or _instead(suffixes)}")
    return kind


def no_rows(folder: Path) -> str | None:
    """What is to be done with a folder that is easily taken for one of rows; None where it may be one."""
    names = {path.name for path in folder.iterdir()}
    if {SAVED, SAVED_SPLITS} & names:
        return "`save_to_disk` of datasets wrote it: write its rows as parquet, by `to_parquet`, and name that file"
    if CONFIG in names and any(name.endswith(WEIGHT_SUFFIXES) for name in names):
        return "a model lies there: name the folder of the rows"
    return None


def _instead(suffixes: Iterable[str]) -> str:
    """What to say of a folder of something else."""
    tables = sorted({FORMATS[each] for each in suffixes if each in FORMATS} - {"text"})
    if tables:
        return f"for its tables say `format: {tables[0]}`" + (f" (or {', '.join(tables[1:])})" if tables[1:] else "")
    return "for a folder of texts say `layout: folder-per-label`"


def read_folders(
    folders: Sequence[Path], kind: str, columns: Columns, spec: DataSpec, root: Path | None
) -> tuple[Dataset, list[str]]:
    """A row for each file of the folders, and findings.

    Args:
        folders: with a table that names the files, all of them, or with one folder for each label.
        kind: `imagefolder`, `audiofolder`, or "" for whatever lies there, texts too, in one folder for each label.
        columns: what a task reads; the first one is the file.
        spec: how tables and texts are written.
        root: a further folder that links may lead to.

    Raises:
        SourceError: something is no such file, leads out of its folder, or has no label.
        MissingColumn: a table lacks a column, or a task reads one that folders do not give.
    """
    for folder in folders:
        if not folder.is_dir():
            raise SourceError(f"{folder} is a file; {_needs(kind)}")
    if kind and any((folder / name).is_file() for folder in folders for name in METADATA):
        return _described(folders, kind, columns, spec, root)
    return _per_label(folders, kind, columns, spec, root)


def _needs(kind: str) -> str:
    return (
        f"`format: {kind}` needs a folder, {OR_TABLE}"
        if kind
        else "`layout: folder-per-label` needs a folder with one folder for each label"
    )


def visible(folder: Path, root: Path | None, passed: Counter[str]) -> Iterator[Path]:
    """Files below a folder, but hidden ones, those in hidden folders, and leftovers, which are counted."""
    seen = {folder}
    for path in place_of(folder, root).files(once=True):
        seen.add(path.parent)
        left = next((part for part in path.relative_to(folder).parts if _is_left(part)), None)
        if left or path.name.startswith("."):
            passed[f"'{left if left.lower() in LEFTOVERS else STREAM}'" if left else "hidden"] += 1
        else:
            yield path
    passed["hidden folders"] += sum(path.name.startswith(".") and path.is_dir() for each in seen for path in each.iterdir())


def passed_over(folder: Path, passed: Counter[str]) -> list[str]:
    """A finding, where `visible` passed over something."""
    told = ", ".join(f"{count} {name}" for name, count in sorted((+passed).items()))
    return [f"{folder}: passed over {told}"] if told else []


# ------------------------------------------------------------------ a folder for each label


def _per_label(
    folders: Sequence[Path], kind: str, columns: Columns, spec: DataSpec, root: Path | None
) -> tuple[Dataset, list[str]]:
    paths, labels, findings = list[Path](), list[str](), list[str]()
    for folder in folders:
        passed = Counter[str]()
        there = list(visible(folder, root, passed))
        inside = [path for path in there if path.parent != folder]
        passed += Counter({"beside the folders of labels": len(there) - len(inside)})
        paths += inside
        labels += (own := [path.relative_to(folder).parts[0] for path in inside])
        deeper = sum(len(path.relative_to(folder).parts) > 2 for path in inside)
        findings += [f"{folder}: {deeper} files lie in folders inside of those of labels, and have the outer one's label"] * bool(
            deeper
        )
        empty = sorted({path.name for path in folder.iterdir() if path.is_dir() and not aside(path)} - set(own))
        findings += [*passed_over(folder, passed), *(f"{folder / name}: no file in it" for name in empty)]
    if not paths:
        needs = f"; it needs them, {OR_TABLE}{_other_table(folders[0])}" if kind else ""
        raise SourceError(f"{folders[0]}: no folders with files below it{needs}")
    if (found := {label.lower() for label in labels}) <= SPLITS.keys() or len(
        {SPLITS[each] for each in found & SPLITS.keys()}
    ) > 1:
        raise SourceError(f"{folders[0]} holds the folders {sorted(set(labels))}: {AS_SPLITS}")
    kind = kind or _found_kind(paths)
    _check_columns(folders[0], kind, columns)
    cells: dict[str, list[Any]] = {columns.label: labels} if columns.label else {}
    rows = _dataset(columns.content[0], _contents(paths, kind, spec), kind, cells)
    return with_places(rows, list(map(str, paths))), findings


def _other_table(folder: Path) -> str:
    """A table of another name beside pictures or sounds."""
    kinds = {Path(name).suffix for name in METADATA}
    found = next((path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in kinds), None)
    return f" (is it {found}? call it {METADATA[0].partition('.')[0]}{Path(found).suffix.lower()})" if found else ""


def _check_columns(folder: Path, kind: str, columns: Columns) -> None:
    """A folder for each label gives a file and one label, and nothing else."""
    given = (columns.content[0], columns.label)
    if beyond := next((name for name in columns.all if name not in given), None):
        other = OR_TABLE.removeprefix("or ") if kind else "a table with all columns"
        raise MissingColumn(beyond, f"{folder}: a folder for each label gives no column '{beyond}'; {other} does")


def aside(path: Path) -> bool:
    """Whether a file or folder is hidden, or left there by a system or program."""
    return path.name.startswith(".") or _is_left(path.name)


def _is_left(name: str) -> bool:
    return name.lower() in LEFTOVERS or name.lower().endswith(STREAM)


def _found_kind(paths: Sequence[Path]) -> str:
    suffixes = {path.suffix.lower() for path in paths}
    return next((kind for kind, known in KINDS.items() if suffixes & set(known)), "")


def _contents(paths: Sequence[Path], kind: str, spec: DataSpec) -> list[Any]:
    """What rows hold: the path of a picture or sound, which is read when it is needed, or the text itself."""
    if kind:
        for path in paths:
            _check_suffix(path, kind)
        return [{"bytes": None, "path": str(path)} for path in paths]
    return [_text(path, spec.encoding) for path in paths]


def _check_suffix(path: Path, kind: str) -> None:
    if path.suffix.lower() not in KINDS[kind]:
        what = f"its name ends in '{path.suffix}'" if path.suffix else "its name has no ending"
        raise SourceError(
            f"{path} is no {SINGLE[kind]} that is read ({', '.join(KINDS[kind])}): {what}; convert it, or move it out of the folder"
        )


def _text(path: Path, encoding: str | Sequence[str] | None) -> str:
    try:
        content = read_bytes(path, MOST_TEXT_BYTES)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    if b"\0" in content and not mark_of(content) and not any(map(is_wide, names_of(encoding))):
        raise SourceError(f"{path} is no text: it holds zero bytes; convert it, or move it out of the folder")
    return decoded(path, content, encoding)


# ------------------------------------------------------------------ a table that names files


def _described(
    folders: Sequence[Path], kind: str, columns: Columns, spec: DataSpec, root: Path | None
) -> tuple[Dataset, list[str]]:
    """Files that a table beside them names in its column `file_name`, with its other columns."""
    from datasets import concatenate_datasets

    parts, findings = [], list[str]()
    for folder in folders:
        place = place_of(folder, root)
        path = next((folder / name for name in METADATA if (folder / name).is_file()), None)
        if path is None:
            raise SourceError(f"{folder} has none of {', '.join(METADATA)}")
        place.check(path)
        others = Columns((FILE_NAME, *columns.content[1:]), columns.label, columns.kept)
        table, found = read_table(path, FORMATS[path.suffix], others, spec)
        spelled = column_of(table, FILE_NAME)
        names = [_named(name, path, place) for name in spelled]
        for each in names:
            _check_suffix(each, kind)
        findings += _unnamed(folder, root, {path, *names}, path.name)
        cells = [{"bytes": None, "path": str(each)} for each in names]
        own = {name: column_of(table, name) for name in columns.all[1:]}
        places = [f"{where} ({name})" for where, name in zip(values_of(table, PLACE), spelled, strict=True)]
        parts.append(with_places(_dataset(columns.content[0], cells, kind, own, table.features), places))
        findings += found
    return concatenate_datasets(parts), findings


def _named(name: Any, table: Path, place: Place) -> Path:
    """The file of that name in the folder, else below the plan's root: links are followed to where they may lead."""
    starts = (place.folder, *((place.root,) if place.root else ()))
    path: Path | None = next((start / name for start in starts if isinstance(name, str) and (start / name).is_file()), None)
    if path is None:
        raise SourceError(
            f"{table} names {name!r:.80}, which is no file in {' or '.join(map(str, starts))}{_spelled(place.folder, name)}"
        )
    try:
        place.check(path)
    except SourceError as error:
        raise SourceError(f"{table} names {name!r:.80}: {error}") from error
    return path


def _spelled(folder: Path, name: Any) -> str:
    """How a file is spelled that may be meant: with other slashes, letter case or code points."""
    if not isinstance(name, str):
        return ""
    if "\\" in name and (folder / name.replace("\\", "/")).is_file():
        return "; with `/` it is there"
    forms = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    if other := next((form for form in forms if form != name and (folder / form).is_file()), None):
        return f"; {other!a} is there, which looks the same in other code points ({name!a})"
    return near_path(folder / name)


def _unnamed(folder: Path, root: Path | None, named: Iterable[Path], table: str) -> list[str]:
    """What lies in a folder and is no row of its table."""
    passed, rows = Counter[str](), set(map(os.path.normpath, named))
    others = sum(os.path.normpath(path) not in rows for path in visible(folder, root, passed))
    return passed_over(folder, passed + Counter({f"that {table} does not name": others}))


# ------------------------------------------------------------------ rows


def _dataset(
    content: str,
    cells: Sequence[Any],
    kind: str,
    others: Mapping[str, Sequence[Any]],
    types: Mapping[str, Any] = MappingProxyType({}),
) -> Dataset:
    """Rows of files or texts, with other columns beside them: of text, where no type is given."""
    from datasets import Audio, Dataset, Features, Image, Value

    # a file as the library keeps it: its own way to make one of a path decodes sounds by a package that is not needed here
    stored: Any = {"bytes": Value("binary"), "path": Value("string")} if kind else Value("string")
    features: Any = {content: stored, **{name: types.get(name, Value("string")) for name in others}}
    rows = Dataset.from_dict({content: list(cells), **others}, features=Features(features))
    if not kind:
        return rows
    return rows.cast_column(content, Image() if kind == "imagefolder" else Audio(decode=False))
