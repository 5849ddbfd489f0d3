"""A plan put together from its file, the fragments it includes and the `--set` values of the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compressor.errors import Fault, PlanError, did_you_mean
from compressor.files import read_bytes
from compressor.plan.entries import KEYS, as_mapping, keys_of, name_of
from compressor.plan.yaml_source import MAX_BYTES, MAX_DEPTH, Located, UnreadableError, read_yaml

MAX_FILES = 64
"""That one plan is put together from, counted as often as they are read."""

SETTINGS = "--set"
"""What stands in place of the file in faults of the command line's settings; the line is the setting's number."""

_CHOICES = frozenset({"folder", "installed", "hub", "files"})


def compose(path: Path, settings: Sequence[str] = ()) -> tuple[Located, tuple[Fault, ...]]:
    """Read a plan file, put its includes beneath it and the settings on top.

    Relative paths in an included file start in its own folder; here they start where those of the plan do.

    Returns:
        The whole plan, without `include`, and the faults that leave the rest of it readable.

    Raises:
        PlanError: a file is missing or not YAML, a fragment includes itself, or there are too many of them.
    """
    return _composed(lambda files: files.read(path, (), Fault(str(path), 1, "", "")), settings)


def compose_text(text: str, name: str, folder: Path, settings: Sequence[str] = ()) -> tuple[Located, tuple[Fault, ...]]:
    """The same of a plan that is no file: faults call it `name`, and what it includes is looked for in `folder`."""
    return _composed(lambda files: files.plan_of(text, name, folder, ()), settings)


def _composed(read: Callable[[_Files], Located], settings: Sequence[str]) -> tuple[Located, tuple[Fault, ...]]:
    files = _Files()
    try:
        plan = read(files)
    except UnreadableError as error:
        raise PlanError([*files.faults, error.fault]) from error
    given = (settings,) if isinstance(settings, str) else settings
    for number, setting in enumerate(given, start=1):
        plan = _set(plan, setting, number, files.faults)
    return plan, tuple(files.faults)


# ------------------------------------------------------------------ include


@dataclass
class _Files:
    """The files of one plan, as far as they are read."""

    faults: list[Fault] = field(default_factory=list)
    count: int = 0

    def read(self, path: Path, above: tuple[Path, ...], asked: Fault) -> Located:
        """One file with its includes beneath it; `asked` is where it was asked for, `above` the files that include it."""
        self.count += 1
        if self.count > MAX_FILES:
            raise UnreadableError(replace(asked, what=f"more than {MAX_FILES} files are included, one of them again and again?"))
        try:
            file = path.resolve()
            text = read_bytes(path, MAX_BYTES)
        except (OSError, ValueError, RuntimeError) as error:  # a path with a NUL in it; links in a circle
            raise UnreadableError(replace(asked, what=_unreadable(path, error))) from error
        if file in above:
            chain = " includes ".join(each.name for each in (*above[above.index(file) :], file))
            raise UnreadableError(replace(asked, what=f"an include in a circle: {chain}"))
        return self.plan_of(text, str(path), path.parent, (*above, file))

    def plan_of(self, text: str | bytes, name: str, folder: Path, above: tuple[Path, ...]) -> Located:
        """What a text says, with its includes, which start in `folder`, beneath it."""
        plan, found = read_yaml(text, name)
        self.faults.extend(found)
        if not isinstance(plan.data, dict):
            said = "is empty" if plan.data is None else f"holds {plan}"
            raise UnreadableError(
                plan.fault("", f"the file {said}; a plan is a mapping with model, task, data, passes and targets")
            )
        return self._with_includes(plan, folder, above)

    def _with_includes(self, plan: Located, folder: Path, above: tuple[Path, ...]) -> Located:
        own = dict(plan.items())
        include = own.pop("include", None)
        plan = replace(plan, data=own)
        if include is None:
            return plan
        beneath: Located | None = None
        for each in include.values() if isinstance(include.data, list) else [include]:
            if not isinstance(each.data, str) or not each.data:
                self.faults.append(each.fault("include", f"found {each}, expected the path of a file, or a list of paths"))
                continue
            fragment = self.read(folder / each.data, above, each.fault("include", ""))
            fragment = _seen_from(os.path.dirname(each.data), fragment)  # noqa: PTH120 - "" for a file beside it
            beneath = fragment if beneath is None else merged(beneath, fragment)
        return plan if beneath is None else merged(beneath, plan)


def _unreadable(path: Path, error: Exception) -> str:
    if not isinstance(error, FileNotFoundError):
        return f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
    beside = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = did_you_mean(path.name, beside)
    return f"no such file: {path}{near if 'did you mean' in near else ''}"


def _seen_from(folder: str, fragment: Located) -> Located:
    """An included file whose relative paths start a folder higher, where the file that includes it lies."""
    for keys in _paths(fragment) if folder else ():
        fragment = _moved(fragment, keys, folder)
    return fragment


def _paths(plan: Located) -> Iterator[tuple[str, ...]]:
    """Keys that lead to paths: one, or a list of them."""
    sections = plan.items()
    yield from (("model", "folder"), ("data", "root"))
    yield from (("models", name, "folder") for name in (sections["models"].items() if "models" in sections else ()))
    files = sections["data"].items().get("files") if "data" in sections else None
    if files is not None and isinstance(files.data, dict) and "installed" not in files.data:
        yield from (("data", "files", key) for key in ("path", "train", "validation", "test"))
    elif files is not None:
        yield ("data", "files")


def _moved(at: Located, keys: tuple[str, ...], folder: str) -> Located:
    if keys:
        inner = at.items().get(keys[0])
        return at if inner is None else replace(at, data={**at.items(), keys[0]: _moved(inner, keys[1:], folder)})
    if isinstance(at.data, list):
        return replace(at, data=[_moved(each, (), folder) for each in at.data])
    return replace(at, data=os.path.normpath(os.path.join(folder, at.data))) if isinstance(at.data, str) and at.data else at  # noqa: PTH118


def merged(under: Located, over: Located, path: tuple[str, ...] = ()) -> Located:
    """`over` laid on `under`: mappings key by key, all else replaced.

    Where `over` chooses another source of a model or of data, or another task, what `under` says about its own choice goes too.
    """
    if not (isinstance(under.data, dict) and isinstance(over.data, dict)) or _chooses_anew(under.data, over.data, path):
        return over
    whole = dict(under.data)
    for key, value in over.data.items():
        whole[key] = merged(whole[key], value, (*path, key)) if key in whole else value
    return replace(over, data=whole)


def _chooses_anew(under: dict[str, Located], over: dict[str, Located], path: tuple[str, ...]) -> bool:
    if path == ("task",):
        return set(over) != set(under)
    if path[:1] in (("model",), ("models",), ("data",)):
        chosen = _CHOICES & set(over)
        return bool(chosen) and chosen != _CHOICES & set(under)
    return False


# ------------------------------------------------------------------ --set


def _set(plan: Located, setting: str, number: int, faults: list[Fault]) -> Located:
    path, equals, text = setting.partition("=")
    keys = path.strip().split(".")
    asked = Fault(SETTINGS, number, path.strip(), "")
    try:
        if not equals or not all(keys) or len(keys) > MAX_DEPTH:
            what = f"found {setting[:60]!r}, expected PATH=VALUE as in passes.distill.epochs=1"
            raise UnreadableError(Fault(SETTINGS, number, "", what))
        value, found = read_yaml(text, SETTINGS, line=number)
        faults.extend(replace(fault, line=number, where=path) for fault in found)
        return _in_plan(plan, keys, value, asked)
    except UnreadableError as error:
        faults.append(replace(error.fault, line=number))
        return plan


def _in_plan(plan: Located, keys: list[str], value: Located, asked: Fault) -> Located:
    section, rest = keys[0], keys[1:]
    entries = plan.items().get(section)
    if section not in KEYS or entries is None or not rest or not isinstance(entries.data, list):
        return _assigned(plan, keys, value, asked)
    names = [name_of(section, item) for item in entries.data]
    if rest[0] not in names:
        what = f"no entry of {section} is named '{rest[0]}'{did_you_mean(rest[0], names)}"
        raise UnreadableError(replace(asked, what=what))
    items = list(entries.data)
    index = names.index(rest[0])
    items[index] = _in_entry(section, items[index], rest[1:], value, asked)
    return replace(plan, data={**plan.items(), section: replace(entries, data=items)})


def _in_entry(section: str, item: Located, keys: list[str], value: Located, asked: Fault) -> Located:
    """Parameters are addressed without naming the plug-in again: `passes.distill.epochs`."""
    item = as_mapping(section, item)
    if keys and keys[0] in keys_of(section):
        return _assigned(item, keys, value, asked)
    plugin = next((key for key in item.items() if key not in keys_of(section)), "")
    return _assigned(item, [plugin, *keys], value, asked)


def _assigned(node: Located, keys: list[str], value: Located, asked: Fault) -> Located:
    """`node` with `value` at the end of the path `keys`; mappings on the way are made where there are none."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(node.data, list):
        if not (key.isdecimal() and len(key) < 6 and int(key) < len(node.data)):
            what = f"no item '{key}' in a list of {len(node.data)}; items count from 0"
            raise UnreadableError(replace(asked, what=what))
        items = list(node.data)
        items[int(key)] = _assigned(items[int(key)], rest, value, asked)
        return replace(node, data=items)
    if node.data is not None and not isinstance(node.data, dict):
        raise UnreadableError(replace(asked, what=f"'{key}' has no place in {node}, which is no mapping"))
    inner = node.items().get(key, Located(None, asked.file, asked.line))
    return replace(node, data={**node.items(), key: _assigned(inner, rest, value, asked)})
