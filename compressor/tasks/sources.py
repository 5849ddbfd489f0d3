"""Where models and rows come from: folders, files, installed packages or the hub; found, checked and read, never executed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Columns
from compressor.contracts.records import stays_inside
from compressor.errors import SourceError, near_name
from compressor.model.sources import inside_package
from compressor.plan.specs import DataSpec, Files

if TYPE_CHECKING:
    from datasets import Dataset, Features

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet", ".txt": "text"}
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SOUNDS = (".wav", ".flac", ".mp3", ".ogg")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SPLIT_FOLDERS = {"train", "test", "validation", "valid", "val", "dev"}


# ------------------------------------------------------------------ models


# ------------------------------------------------------------------ rows


def read_rows(spec: DataSpec, folder: Path, columns: Columns) -> tuple[dict[str, Dataset], str]:
    """Rows by split as the source has them, of the named columns only, and the source in words. Labels are strings or None.

    Raises:
        SourceError: a file or column is not there, or a file cannot be read.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is told once, by the error
    if spec.hub:
        parts, source = _hub_rows(spec.hub, spec), f"hub {spec.hub}"
    else:
        assert spec.files is not None
        root = _root(spec.files, folder)
        parts = {name: _file_rows(spec, spec.files, root, paths, columns) for name, paths in spec.files.parts().items()}
        where = f"package {spec.files.installed}: " if spec.files.installed else ""
        source = where + ", ".join(path for paths in spec.files.parts().values() for path in paths)
    for name, rows in parts.items():
        _check_columns(columns.all, rows.column_names, f"{source}: {name}")
    chosen = {name: rows.select_columns(list(columns.all)) for name, rows in parts.items()}
    return {name: _spelled(rows, columns.label) if columns.label else rows for name, rows in chosen.items()}, source


def files_of(spec: DataSpec, folder: Path) -> list[Path]:
    """Files and folders that rows are read from, as far as the plan names them; none of the hub's.

    Raises:
        SourceError: one is not there.
    """
    files = spec.files
    return (
        [path for paths in files.parts().values() for each in paths for path in _matches(_root(files, folder), each)]
        if files
        else []
    )


def _root(files: Files, folder: Path) -> Path:
    return inside_package(files.installed, "") if files.installed else folder


def _check_columns(wanted: Sequence[str], there: Sequence[str], where: str) -> None:
    for column in wanted:
        if column not in there:
            raise SourceError(f"{where} has no column '{column}'{near_name(column, there)} (columns: {', '.join(there)})")


def _hub_rows(name: str, spec: DataSpec) -> dict[str, Dataset]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, spec.config, revision=spec.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise SourceError(f"hub data set '{name}' cannot be fetched: {' '.join(str(error).split())}") from error
    if "train" not in loaded:
        raise SourceError(f"hub data set '{name}' has no split 'train' (splits: {', '.join(loaded)})")
    return {split: loaded[split] for split in ("train", "validation", "test") if split in loaded}


def _file_rows(spec: DataSpec, files: Files, root: Path, paths: Sequence[str], columns: Columns) -> Dataset:
    found = [path for pattern in paths for path in _matches(root, pattern)]
    kind = spec.format or ("" if files.layout == "folder-per-label" else _format(found[0]))
    described = any((path / name).is_file() for path in found for name in METADATA)
    if described and kind == "audiofolder":
        return _described(found, columns)
    if files.layout == "folder-per-label" or (kind in ("imagefolder", "audiofolder") and not described):
        return _folder_per_label(found, columns, described_by=METADATA if kind == "audiofolder" else ())
    return _through_datasets(kind, found)


def _matches(root: Path, pattern: str) -> list[Path]:
    path = root / pattern
    wild = any(sign in pattern for sign in "*?[")
    start = Path(path.anchor) if Path(pattern).is_absolute() else root
    found = sorted(start.glob(str(path.relative_to(start)))) if wild else [path]
    if not found or not all(each.exists() for each in found):
        raise SourceError(f"{path}: no such file or folder")
    return found


def _format(path: Path) -> str:
    if path.is_dir():
        suffixes = {each.suffix.lower() for each in path.rglob("*") if each.is_file()}
        if suffixes & set(IMAGES):
            return "imagefolder"
        if suffixes & set(SOUNDS):
            return "audiofolder"
        raise SourceError(
            f"{path}: neither images nor sounds in this folder; for a folder of texts say `layout: folder-per-label`"
        )
    if path.suffix.lower() not in FORMATS:
        known = ", ".join(sorted(set(FORMATS.values())))
        raise SourceError(f"{path}: unknown format '{path.suffix}'; say `format:` (known: {known})")
    return FORMATS[path.suffix.lower()]


def _through_datasets(kind: str, found: Sequence[Path]) -> Dataset:
    """Rows of files in memory: the library's cache lies in a folder that is gone afterwards."""
    import tempfile

    import datasets

    options: dict[str, Any] = {"data_files": [f"{path}/**" if path.is_dir() else str(path) for path in found]}
    if kind == "csv" and found[0].suffix.lower() == ".tsv":
        options["sep"] = "\t"
    with tempfile.TemporaryDirectory(prefix="compressor-data-") as cache:
        try:
            return datasets.load_dataset(kind, split="train", cache_dir=cache, keep_in_memory=True, **options)
        except Exception as error:  # the readers raise anything: StopIteration is what an empty file gives
            cause = error.__cause__ or error
            if isinstance(cause, StopIteration) or "corresponds to no data" in str(cause):
                raise SourceError(f"{found[0]} holds no rows") from error
            raise SourceError(f"{found[0]} cannot be read as {kind}: {' '.join(str(cause).split())}") from error


def _folder_per_label(roots: Sequence[Path], columns: Columns, *, described_by: Sequence[str] = ()) -> Dataset:
    """A row for each file; its label is the name of the folder directly below the root.

    `described_by`: names of tables that could have named the files instead, and are not there.
    """
    from datasets import Dataset, Value

    described = f"or a table that names the files in a column `file_name`: {' or '.join(described_by)}"
    paths, labels = [], []
    for root in roots:
        if not root.is_dir():
            if described_by:
                raise SourceError(f"{root} is a file; `format: audiofolder` needs a folder, {described}")
            raise SourceError(f"{root} is a file; `layout: folder-per-label` needs a folder with one folder for each label")
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))):
            inside = sorted(each for each in folder.rglob("*") if each.is_file() and not each.name.startswith("."))
            paths += inside
            labels += [folder.name] * len(inside)
    if not paths:
        raise SourceError(
            f"{roots[0]}: no folders with files below it" + (f"; it needs them, {described}" if described_by else "")
        )
    if set(labels) <= SPLIT_FOLDERS:
        raise SourceError(
            f"{roots[0]} holds the folders {sorted(set(labels))}: name them as splits, `files: {{train: ..., test: ...}}`"
        )
    cells, feature = _cells(paths)
    # a file as the library keeps it: its own way to make one of a path decodes sounds by a package that is not needed here
    stored = feature if isinstance(feature, Value) else {"bytes": Value("binary"), "path": Value("string")}
    (content, *_), label = columns.content, columns.label
    labelled = {label: labels} if label else {}
    features: Features = _features({content: stored, **{name: Value("string") for name in labelled}})
    rows = Dataset.from_dict({content: cells, **labelled}, features=features)
    return rows if isinstance(feature, Value) else rows.cast_column(content, feature)


def _described(roots: Sequence[Path], columns: Columns) -> Dataset:
    """Sounds that a table beside them names in its column `file_name`, with its other columns."""
    from datasets import Audio, Dataset, Value, concatenate_datasets

    parts = []
    for root in roots:
        path = next((root / name for name in METADATA if (root / name).is_file()), None)
        if path is None:
            raise SourceError(f"{root} has none of {', '.join(METADATA)}")
        table = _through_datasets(FORMATS[path.suffix], [path])
        if "file_name" not in table.column_names:
            raise SourceError(f"{path} has no column 'file_name' (columns: {', '.join(table.column_names)})")
        names = [str(name) for name in table["file_name"]]
        for name in names:
            if not stays_inside(name) or not (root / name).is_file():
                raise SourceError(f"{path} names '{name}', which is no file in {root}")
        cells = [{"bytes": None, "path": str(root / name)} for name in names]
        content, *others = columns.all
        _check_columns(others, [name for name in table.column_names if name != "file_name"], str(path))
        kept = {column: list(table[column]) for column in others}
        stored = {"bytes": Value("binary"), "path": Value("string")}
        features: Any = _features({content: stored, **{name: table.features[name] for name in kept}})
        parts.append(Dataset.from_dict({content: cells, **kept}, features=features).cast_column(content, Audio(decode=False)))
    return concatenate_datasets(parts)


def _cells(paths: Sequence[Path]) -> tuple[list[Any], Any]:
    """What a row holds: the path of an image or sound, which is read when it is needed, or the text itself."""
    from datasets import Audio, Image, Value

    for suffixes, feature in ((IMAGES, Image()), (SOUNDS, Audio(decode=False))):
        strangers = [path for path in paths if path.suffix.lower() not in suffixes]
        if not strangers:
            return [{"bytes": None, "path": str(path)} for path in paths], feature
        if len(strangers) < len(paths):
            raise SourceError(f"{strangers[0]} stands among {len(paths) - len(strangers)} {type(feature).__name__.lower()} files")
    return [_text(path) for path in paths], Value("string")


def _features(columns: dict[str, Any]) -> Features:
    from datasets import Features

    return Features(columns)


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _spelled(rows: Dataset, label: str) -> Dataset:
    from datasets import Value

    names = getattr(rows.features[label], "names", None)
    spelled = [_spelling(value, names) for value in rows[label]]
    return rows.remove_columns(label).add_column(label, spelled, feature=Value("string"))


def _spelling(value: Any, names: Sequence[str] | None) -> str | None:
    """A label as a string. Whole numbers that a gap in the column made floats are whole again; -1 of named classes is no label."""
    if value is None or value != value or (names and value < 0):
        return None
    if names:
        return str(names[value])
    if isinstance(value, list | dict):
        raise SourceError(f"a label is {value!r:.40}, expected a text or a number: one label for each row")
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value).strip()
