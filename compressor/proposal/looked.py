"""What a plan is written by: a model and rows, looked at, and the task that fits them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from compressor.contracts import InputSizes, Recipe, Seen, Task, registry
from compressor.contracts.data import Data
from compressor.errors import PluginError, SourceError, near_name
from compressor.model.sources import inside_package, located, read_json
from compressor.plan.paths import near_path
from compressor.plan.specs import DataSpec, ModelSource
from compressor.proposal.checked import checked, offered
from compressor.proposal.rows import Rows, look
from compressor.tasks.data import load_data
from compressor.tasks.folders import SPLITS
from compressor.tasks.headers import columns_in
from compressor.tasks.tables import FORMATS

INSTALLED, HUB = "installed:", "hub:"
MOST_ROWS = {"validation": 2000, "test": 5000}
"""Of larger splits so many rows are scored: a point of accuracy is told by them."""

SHARED = {"deduplicate": (True, "rows that stand in two splits are kept in one")}
MENDS: tuple[Mapping[str, tuple[Any, str]], ...] = ({}, SHARED)
"""What is said of rows that would be refused, tried in turn, and why."""


@dataclass(frozen=True)
class Asked:
    """What a user says of a plan to be written."""

    model: str
    """A folder, `installed:PACKAGE/PATH` or `hub:ORG/NAME`."""
    data: str
    """A file or folder, or `installed:PACKAGE/PATH`."""
    folder: Path = Path()
    """Of the plan: paths in it start here."""
    task: str | None = None
    text: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    max_drop: float = 1.0
    target: str | None = None
    shrinks: bool = True
    """Whether parts of the model may go, too."""
    command: str = "compressor init"


@dataclass(frozen=True)
class Looked:
    """All that a plan is written by."""

    model: Mapping[str, Any]
    config: Mapping[str, Any]
    rows: Rows
    data_spec: Mapping[str, Any]
    data: Data
    task_name: str
    parameters: Mapping[str, Any]
    why: str
    others: tuple[str, ...]
    """Further tasks that fit."""
    task: Task
    sizes: InputSizes | None
    examined: tuple[str, ...]
    trained: bool
    notes: tuple[str, ...]


def looked(asked: Asked) -> Looked:
    model = _model(asked.model)
    source = checked(ModelSource, model, f"model {asked.model!r}")
    if source.folder and not (asked.folder / source.folder).is_dir():
        near = near_path(asked.folder / source.folder)
        raise SourceError(f"{source.folder}: no such folder{near}; a model of the hub is named {HUB}ORG/NAME")
    folder = located(source, asked.folder)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    rows = _found(asked)
    name, recipe, others = _chosen(asked, config, rows)
    parameters = dict(recipe.parameters)
    task = checked(registry.load("task", name), parameters, f"task {name}")
    data, spec, notes = _read(rows, asked.folder, task)
    sizes = task.sizes(data, folder)
    if sizes and sizes.fits is not None and sizes.parameter in type(task).model_fields:
        kind = type(type(task).model_fields[sizes.parameter].default)
        parameters[sizes.parameter] = kind(sizes.fits)
        task = checked(type(task), parameters, f"task {name}")
        sizes = task.sizes(data, folder)
    return Looked(
        model,
        config,
        rows,
        spec,
        data,
        name,
        parameters,
        recipe.why,
        others,
        task,
        sizes,
        examined=task.examine(folder, data.labels),
        trained=task.trained(folder, data.labels),
        notes=notes,
    )


def _model(spelled: str) -> dict[str, Any]:
    """What a plan says under `model:`."""
    if spelled.startswith(HUB):
        return {"hub": spelled.removeprefix(HUB)}
    if spelled.startswith(INSTALLED):
        package, _, path = spelled.removeprefix(INSTALLED).partition("/")
        return {"installed": package, **({"path": path} if path else {})}
    return {"folder": spelled}


def _found(asked: Asked) -> Rows:
    if not asked.data:
        raise SourceError("data '': name a file or folder")
    if asked.data.startswith(HUB):
        raise SourceError(
            f"{asked.data}: rows of the hub are looked at as files: fetch them, as parquet say, and name the folder"
        )
    if not asked.data.startswith(INSTALLED):
        return look(asked.folder / asked.data, asked.data)
    package, _, path = asked.data.removeprefix(INSTALLED).partition("/")
    found = look(inside_package(package, path), path or ".")
    files = found.data["files"]
    named = files if isinstance(files, dict) else {"path": files}
    return replace(found, data={**found.data, "files": {"installed": package, **named}})


def _read(rows: Rows, folder: Path, task: Task) -> tuple[Data, dict[str, Any], tuple[str, ...]]:
    """The rows as the plan will have them, what it says of them, and why; rows that are refused are tried with what mends them.

    Raises:
        SourceError: nothing does.
    """
    refused: SourceError | None = None
    for mends in MENDS:
        added = {key: value for key, (value, _) in mends.items() if key not in rows.data}
        if refused and not added:
            continue
        try:
            data, spec, notes = _loaded({**rows.data, **added}, folder, task)
        except SourceError as error:
            refused = refused or error
            continue
        return data, spec, (*rows.notes, *_unread(rows), *(mends[key][1] for key in added), *notes)
    assert refused
    raise refused


def _unread(rows: Rows) -> Iterator[str]:
    """Columns that say to which split a row belongs."""
    for each in (
        each for each in rows.columns if each.values and SPLITS.keys() >= {value.strip().casefold() for value in each.values}
    ):
        yield f"column '{each.name}' says {', '.join(each.values)} and is not read: to keep these splits write a file for each of them"


def _loaded(spec: dict[str, Any], folder: Path, task: Task) -> tuple[Data, dict[str, Any], tuple[str, ...]]:
    spec, unlabelled = _labelled(spec, folder, task.columns().label)

    def load(spec: Mapping[str, Any]) -> Data:
        read = load_data(checked(DataSpec, spec, "data"), columns=task.columns(), seed=0, folder=folder)
        return task.encoded(read)

    data = load(spec)
    limit = {name: most for name, most in MOST_ROWS.items() if len(data.split(name)) > most}
    if not limit:
        return data, spec, unlabelled
    limited = {**spec, "limit": limit}
    return (
        load(limited),
        limited,
        (
            *unlabelled,
            f"of {' and '.join(limit)} as many rows are scored as tell a point",
        ),
    )


def _labelled(spec: dict[str, Any], folder: Path, label: str | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Without splits of tables that lack the column of the label, as files to be predicted do; and what is said of them."""
    files = spec["files"]
    if label is None or not isinstance(files, dict) or "train" not in files or "installed" in files:
        return spec, ()
    table = checked(DataSpec, spec, "data")
    lacking = [
        (split, path)
        for split, paths in table.files.parts().items()  # type: ignore[union-attr]
        for path in map(Path, paths)
        if split != "train" and (kind := FORMATS.get(path.suffix.lower())) and label not in columns_in(folder / path, kind, table)
    ]
    if not lacking:
        return spec, ()
    kept = {split: paths for split, paths in files.items() if split not in {split for split, _ in lacking}}
    told = ", ".join(f"'{path.name}'" for _, path in lacking)
    return {**spec, "files": kept}, (
        f"of these not read, since it has no column '{label}', as rows have that are to be predicted: {told}",
    )


# ------------------------------------------------------------------ the task


def _chosen(asked: Asked, config: Mapping[str, Any], rows: Rows) -> tuple[str, Recipe, tuple[str, ...]]:
    """The task that fits, what is written of it, and further ones that fit.

    Raises:
        SourceError: none fits, or it is not clear which column is meant.
    """
    _check_named((*asked.text, *asked.label), rows)
    seen = Seen(config, rows.columns, asked.text, asked.label, asked=asked.task is not None)
    offers: list[tuple[int, str, Recipe | SourceError]] = []
    for name in [asked.task] if asked.task else registry.names("task"):
        try:
            task = registry.load("task", name)
        except PluginError:
            if asked.task:
                raise
            continue  # broken, which `list tasks` tells
        offers += [(rank, name, offer) for rank, offer in _offered(registry.current("task", name), task, seen)]
    if not offers:
        raise SourceError(_none(asked, rows))
    (_, name, found), *others = sorted(offers, key=lambda each: each[:2])
    fitting = tuple(other for _, other, offer in others if isinstance(offer, Recipe))
    if isinstance(found, SourceError):
        raise SourceError(f"{found}{f', or --task {fitting[0]}, which fits too' if fitting else ''}") from found
    return registry.current("task", name), found, fitting


def _offered(name: str, task: type[Task], seen: Seen) -> Iterator[tuple[int, Recipe | SourceError]]:
    """What a task offers, or why it is not clear what it would, with its rank; nothing where it does not fit."""
    try:
        recipe = offered("task", name, partial(task.recipe, seen))
    except SourceError as error:
        yield _rank(task, seen), error
        return
    if recipe:
        yield recipe.rank, recipe


def _rank(task: type[Task], seen: Seen) -> int:
    """Where a task would stand, were it clear which columns are meant."""
    try:
        recipe = task.recipe(replace(seen, sure=False))
    except SourceError:
        return 0
    return recipe.rank if recipe else 0


def _check_named(names: Sequence[str], rows: Rows) -> None:
    there = [each.name for each in rows.columns]
    for name in names:
        if name not in there:
            raise SourceError(f"there is no column '{name}'{near_name(name, there)} (columns: {', '.join(there)})")


def _none(asked: Asked, rows: Rows) -> str:
    listed = ", ".join(f"'{each.name}' ({each.told or each.kind})" for each in rows.columns)
    tasks = ", ".join(registry.names("task"))
    kind: type[Task] | None = registry.load("task", asked.task) if asked.task else None
    if kind is not None and kind.recipe.__func__ is Task.recipe.__func__:  # type: ignore[attr-defined]
        return (
            f"{asked.task} offers no recipe, so `init` cannot write a plan of it: write one by hand (`compressor explain plan`)"
        )
    what = f"{asked.task} does not fit" if asked.task else "no task fits"
    return f"{asked.data}: {what} the columns {listed}: say --text and --label, or another --task (installed: {tasks})"
