"""Plug-ins by kind and name, from the entry points of what is installed; a module is imported only when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any

from compressor import contracts
from compressor.contracts.anatomy import Row
from compressor.contracts.renamed import notice
from compressor.contracts.target import Dialect
from compressor.errors import CompressorError, PluginError, did_you_mean
from compressor.foreign import told

FORMER = {"format": "compressor.rung"}
"""Groups of entry points that were called otherwise, by kind: what they hold is found all the same."""
TORCH = "torch"
OURS = "compressor-toolchain"
"""The distribution of this project."""
"""The format of stored models; every other one is made from it."""

KINDS: dict[str, type | None] = {
    "pass": contracts.Pass,
    "target": contracts.Target,
    "probe": contracts.Probe,
    "task": contracts.Task,
    "objective": contracts.Objective,
    "edit": contracts.Edit,
    "anatomy": None,
    "format": contracts.Format,
    "library": contracts.Library,
    "network": None,
}
"""Kinds of plug-ins, the entry point group of each being `compressor.KIND`, and the class that those of a kind derive from."""

ROWS = ("anatomy",)
"""Kinds that are rows of a table and no classes."""


def names(kind: str) -> tuple[str, ...]:
    """Names of the installed plug-ins of a kind, sorted; imports none of them."""
    return tuple(sorted(_installed(kind)))


def load(kind: str, name: str) -> Any:
    """Import a plug-in: a class (for `network` a torch module), or for `anatomy` a table row.

    Raises:
        PluginError: there is none of that name, two distributions offer it, it cannot be imported, or it is of the wrong kind.
    """
    point = _entry(kind, name)
    try:
        with redirect_stdout(sys.stderr):  # what a command prints is its own, JSON first of all
            found = point.load()
    except (Exception, SystemExit) as error:  # importing what a third party wrote can raise anything
        raise PluginError(
            f"{_described(kind, point)} cannot be imported ({point.value}): {type(error).__name__}: {error}; "
            f"repair or uninstall {_owner(point)}"
        ) from error
    _check(kind, point, found)
    return found


def loaded(kind: str) -> Iterator[tuple[str, Any]]:
    """Each installed plug-in of a kind by its name, or the `PluginError` in its place: one that is broken hides no other."""
    for name in names(kind):
        try:
            yield name, load(kind, name)
        except PluginError as error:
            yield name, error


def distribution(kind: str, name: str) -> str:
    """Name and version of the distribution that brings a plug-in: `acme-passes 1.2`.

    Raises:
        PluginError: there is no plug-in of that name, or two distributions offer it.
    """
    return _owner(_entry(kind, name))


@contextmanager
def told_of_others(kind: str, name: str) -> Iterator[None]:
    """Tell what a plug-in of somebody else raises; a fault of this project's own is raised as it is.

    Raises:
        PluginError: it raised something that is none of this program's errors.
    """
    try:
        yield
    except CompressorError:
        raise
    except Exception as error:
        owner = distribution(kind, name)
        if owner.rpartition(" ")[0] == OURS:
            raise
        raise PluginError(f"{kind} '{name}' fails: {told(error, kind=True)}; repair or uninstall {owner}") from error


def known(kind: str) -> tuple[str, ...]:
    """Names that a plan may use: those of the installed plug-ins, and what these were called before."""
    return tuple(sorted({*_installed(kind), *(point.name for point in _renamed(tuple(sys.path), kind))}))


def current(kind: str, name: str) -> str:
    """The present name of a plug-in: a distribution names what it called otherwise in the group `compressor.renamed.KIND`."""
    if name in _installed(kind):
        return name
    return next((point.value for point in _renamed(tuple(sys.path), kind) if point.name == name), name)


def name_of(kind: str, plugin: type) -> str:
    """The name under which a class is installed.

    Raises:
        PluginError: it is not.
    """
    value = f"{plugin.__module__}:{plugin.__qualname__}"
    found = next((name for name, points in _installed(kind).items() if any(point.value == value for point in points)), None)
    if found is None:
        raise PluginError(f"no {kind} is {value}: repair the installation")
    return found


def _entry(kind: str, name: str) -> EntryPoint:
    installed, name = _installed(kind), current(kind, name)
    if name not in installed:
        raise PluginError(f"no {kind} named '{name}' is installed{did_you_mean(name, installed)}")
    points = installed[name]
    if len(points) > 1:
        owners = " and ".join(sorted(_owner(point) for point in points))
        raise PluginError(f"{kind} '{name}' is offered by {owners}; uninstall one of them")
    return points[0]


def _installed(kind: str) -> dict[str, tuple[EntryPoint, ...]]:
    if kind not in KINDS:
        raise PluginError(f"no kind of plug-in named '{kind}'{did_you_mean(kind, KINDS)}")
    return _scan(tuple(sys.path)).get(kind, {})


@cache
def _scan(_path: tuple[str, ...]) -> dict[str, dict[str, tuple[EntryPoint, ...]]]:
    """All plug-ins by kind and name. Reading every installed distribution takes a while, hence once a search path."""
    points = entry_points()
    found: dict[str, dict[str, tuple[EntryPoint, ...]]] = {}
    for kind, group in (*((kind, f"compressor.{kind}") for kind in KINDS), *FORMER.items()):
        for point in points.select(group=group):
            if group in FORMER.values():
                notice(f"the entry point group '{group}' of {_owner(point)}", f"'compressor.{kind}'")
            by_name = found.setdefault(kind, {})
            by_name[point.name] = (*by_name.get(point.name, ()), point)
    return found


@cache
def _renamed(_path: tuple[str, ...], kind: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"compressor.renamed.{kind}"))


def _check(kind: str, point: EntryPoint, found: Any) -> None:
    expected = KINDS[kind]
    if kind in ROWS and not isinstance(found, Row):
        raise PluginError(
            f"{_described(kind, point)} is {type(found).__name__}, expected a row, compressor.contracts.anatomy.Row; repair or uninstall "
            f"{_owner(point)}"
        )
    if expected is None:
        return
    if not (isinstance(found, type) and issubclass(found, expected)):
        raise PluginError(
            f"{_described(kind, point)} is {found!r}, expected a class derived from compressor.contracts.{expected.__name__}; "
            f"repair or uninstall {_owner(point)}"
        )
    if lacking := _lacking(found):  # type: ignore[arg-type] # a class is hashable
        raise PluginError(f"{_described(kind, point)} lacks {', '.join(lacking)}; repair or uninstall {_owner(point)}")


@cache
def _lacking(plugin: type) -> tuple[str, ...]:
    """What a class leaves abstract. A training step looks plug-ins up some forty times, and each look reads all attributes."""
    return tuple(name for name in dir(plugin) if getattr(getattr(plugin, name, None), "__isabstractmethod__", False))


def _described(kind: str, point: EntryPoint) -> str:
    return f"{kind} '{point.name}' of {_owner(point)}"


def _owner(point: EntryPoint) -> str:
    return _named(point.dist) if point.dist else "an unknown distribution"


@cache
def _named(distribution: Distribution) -> str:
    """Each of the two is read anew from the installed metadata, and a report asks for some hundred."""
    return f"{distribution.name} {distribution.version}"


def latency_probes() -> tuple[str, ...]:
    """Names of the installed probes that measure latency; one that cannot be imported is left out."""
    return tuple(name for name in names("probe") if _measures_latency(name))


def _measures_latency(name: str) -> bool:
    try:
        return bool(load("probe", name).measures_latency)
    except PluginError:  # told where a plan names it
        return False


def lowering(form: str, *, start: str = TORCH) -> tuple[str, ...]:
    """Formats from just below `start` to `format`: `("onnx", "openvino")` for `openvino`, none for `torch`.

    Raises:
        PluginError: no such format is installed, `start` is not above it, or the formats lead in a circle.
    """
    way: list[str] = []
    while form != start:
        if form == TORCH:
            raise PluginError(f"there is no way down from '{start}' to '{way[-1] if way else form}'")
        if form in way:
            raise PluginError(f"the formats {', '.join(way)} lead in a circle")
        way.insert(0, form)
        form = load("format", form).above
    return tuple(way)


def format_for(accepts: Iterable[str], dialect: Dialect) -> str | None:
    """The format a pass works on in a target's branch: its own, else the first in `accepts` on the way down, else None."""
    way = lowering(dialect.format)
    if dialect.format in accepts:
        return dialect.format
    return next((form for form in accepts if form in way), None)
