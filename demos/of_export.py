"""An exported folder as a page's subject: its own example, run only where this program would write the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, Literal, get_args

from compressor.contracts import Deployment, Graph, Runtime, Target, registry
from compressor.contracts.graph import graph_from
from compressor.contracts.records import Candidate
from compressor.contracts.registry import TORCH
from compressor.errors import StoreError, UnsupportedModel
from compressor.export.examples import example
from compressor.export.spec import DTYPES, OURS, Deployed
from compressor.files import json_in, text_in
from compressor.report import wording
from compressor.store.checksums import SUMS, check_file, names_in
from demos.of_run import AFTER, checks, drawn_classes
from demos.side.panel import html
from demos.side.process import Command, Side
from demos.side.subject import Subject

SPEC, EXAMPLE = "spec.json", "example.py"
Kind = Literal["text", "image", "audio", "arrays"]


def is_export(folder: Path) -> bool:
    """Whether a folder is one that was exported."""
    return (folder / SPEC).is_file() and (folder / SUMS).is_file()


def subject(folder: Path, scratch: Path) -> Subject:
    """The model of an export, in a process of its own; `scratch` takes the example where it is not the folder's own.

    Raises:
        StoreError: a file is not the one that was written, or the specification is malformed.
        UnsupportedModel: it has no example.
    """
    for name in names_in(folder):
        if name != SUMS:
            check_file(folder, name)
    if not (folder / EXAMPLE).is_file():
        raise UnsupportedModel(f"{folder} has no {EXAMPLE}, by which a page could feed it: its README says why")
    deployed = deployed_of(folder)
    ours = example(deployed)
    note = "The export holds the compressed model alone: there is no source to set beside it."
    place = folder
    if text_in(folder / EXAMPLE) != ours:  # a stranger's code, or an earlier version's
        place = _with_example(folder, scratch / "with-our-example", ours)
        note += f" Its {EXAMPLE} is not what this program writes for its {SPEC}; it is not run, and ours is."
    facts, draws = dict(deployed.candidate.facts), deployed.how.draws
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Subject(
        title=folder.resolve().name,
        kind="seed" if draws else deployed.how.kind,
        classes=drawn_classes(draws, deployed.labels) if draws else (),
        sides=[Side(AFTER, Command.of_export(place, int(facts.get("threads", "1"))))],
        about=[f"{deployed.runtime.name}, {facts.get('precision', '')}, {wording.size(size)}"],
        texts=("first text", "second text") if deployed.how.pair else ("prompt",) if deployed.how.generates else ("text",),
        generates=deployed.how.generates is not None,
        note=note,
        check=checks(deployed.how.kind),
    )


def _with_example(folder: Path, place: Path, text: str) -> Path:
    """The files of a folder with another example: linked where the file system can, else copied."""
    for name in names_in(folder):
        if name != EXAMPLE:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(folder / name, place / name)
            except OSError:
                shutil.copyfile(folder / name, place / name)
    (place / EXAMPLE).write_text(text, encoding="utf-8")
    return place


# ------------------------------------------------------------------ from spec.json to what an example is written of


def deployed_of(folder: Path) -> Deployed:
    """What `spec.json` says, as an example is written of it; whatever would end up in its code is held against what it may be.

    Raises:
        StoreError: it is malformed.
    """
    try:
        spec: Any = json_in(folder / SPEC)
        return _deployed(folder, spec, _labels(folder, spec))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StoreError(f"{folder / SPEC} cannot be read: {error}") from error


def _labels(folder: Path, spec: Mapping[str, Any]) -> list[str]:
    return [str(each) for each in json_in(folder / "labels.json")] if "labels" in spec else []


def _deployed(folder: Path, spec: Mapping[str, Any], labels: list[str]) -> Deployed:
    graphs = tuple(map(_graph, spec["graphs"]))
    loader = str(spec.get("loader", ""))
    settings = {_identifier(name): _identifier(value) for name, value in spec.get("settings", {}).items()}
    measured = {str(name): str(value) for name, value in spec.get("measured", {}).items()}
    target, runtime = _target(spec["runtime"], measured)
    generates, threshold, kind = spec.get("generates"), spec.get("threshold"), _kind(spec)
    how = Deployment(
        kind,
        dict(spec["preprocessing"]),
        classes=bool(labels),
        threshold=None if threshold is None else float(threshold),
        number=kind == "text" and not labels and generates is None,
        pair=bool(spec.get("pair")),
        generates=generates,
        draws=None if spec.get("draws") is None else dict(spec["draws"]),
    )
    eager = target.dialect.format == TORCH
    if eager and loader and loader != OURS:
        _identifier(loader.rpartition(".")[2])
    return Deployed(
        Candidate(id="final@export", stage="final", target="export", facts=measured),
        folder,
        replace(runtime, settings=settings),
        str(spec["task"]),
        labels,
        graphs,
        {graph.name: _file(folder, each["file"]) for graph, each in zip(graphs, spec["graphs"], strict=True)},
        how,
        eager,
        needs_this_project=loader == OURS,
    )


def _target(name: str, facts: Mapping[str, str]) -> tuple[type[Target], Runtime]:
    """The installed target whose files run on a runtime."""
    for _, kind in registry.loaded("target"):
        if isinstance(kind, type) and issubclass(kind, Target):
            runtime = kind.runtime(facts)
            if runtime and runtime.name == name:
                return kind, runtime
    raise ValueError(f"no target that is installed runs on {name!r:.40}")


def _kind(spec: Mapping[str, Any]) -> Kind:
    """What a user gives; by the preprocessing where an earlier version did not say it."""
    how = spec["preprocessing"]
    keys = {"tokenizer": "text", "steps": "image", "sampling_rate": "audio"}
    found = spec.get("takes") or next((kind for key, kind in keys.items() if key in how), "arrays")
    kind: Kind = _one_of(found, get_args(Kind))
    return kind


def _graph(values: Mapping[str, Any]) -> Graph:
    found = graph_from(values)
    for port in (*found.inputs, *found.outputs):
        _one_of(port.dtype, DTYPES)
        for axis in port.axes:
            if not isinstance(axis, int):
                _identifier(axis)
    return found


def _file(folder: Path, value: Any) -> str:
    """The name of a file of the export, which its example opens."""
    name = str(value)
    if name not in names_in(folder):
        raise ValueError(f"{name[:40]!r} is no file of the export")
    return name


def _one_of(value: Any, known: Sequence[str]) -> Any:
    if value not in known:
        raise ValueError(f"'{str(value)[:40]}' is none of {', '.join(known)}")
    return value


def _identifier(value: Any) -> str:
    """A name that may stand in code."""
    text = str(value)
    if not text.replace(".", "_").isidentifier() or not text.isascii():
        raise ValueError(f"{text[:40]!r} is no name")
    return text


# ------------------------------------------------------------------ what is told of it


def what_it_is(folder: Path) -> None:
    """Draw what the export says of itself: what was measured, and its files with their digests."""
    spec: Any = json_in(folder / SPEC)
    facts = {
        "Task": spec["task"],
        "Runtime": spec["runtime"],
        **{f"Measured {name}": value for name, value in spec["measured"].items()},
    }
    rows = "".join(
        f"<tr><th scope='row'>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items()
    )
    sums = [line.split("  ", 1) for line in text_in(folder / SUMS).splitlines()]
    files = "".join(f"<tr><td>{escape(name)}</td><td class='mono'>{escape(digest)}</td></tr>" for digest, name in sums)
    html(f"<table class='facts'>{rows}</table>")
    html(f"<h3>Files</h3><div class='wide'><table class='facts'><tr><th>File</th><th>sha256</th></tr>{files}</table></div>")
