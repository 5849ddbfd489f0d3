"""Which page a folder has, and what is on it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from compressor.run.comparison import Run
from compressor.run.run_folder import REPORT
from demos import of_export
from demos.differences import Listed, where_they_differ
from demos.findings import what_happened
from demos.gallery import Opened, found_below, gallery
from demos.of_run import Chosen, choose, labels, subject
from demos.rows import Rows
from demos.side.page import heading
from demos.side.panel import side_by_side
from demos.side.subject import Subject


@dataclass(frozen=True)
class Page:
    """What is served."""

    title: str
    draw: Callable[[], None]


def page_of(what: Path, target: str | None, media: Path, stack: ExitStack) -> Page:
    """The page of a folder; its models are ended by `stack`."""
    if of_export.is_export(what):
        return export_page(what, media, stack)
    if _is_run(what):
        return run_page(choose(Run.read(what), target), media, stack)
    found = found_below(what)
    opened = Opened(lambda folder, own: one_of_several(folder, target, media, own))
    stack.callback(opened.close)
    return Page(f"Runs in {what}", lambda: gallery(what, found, opened))


def _is_run(what: Path) -> bool:
    return (what / REPORT).is_file()


def runs_in(what: Path) -> dict[str, Path]:
    """The runs of a folder of runs by their names; none of a run and of an export."""
    if of_export.is_export(what) or _is_run(what):
        return {}
    return {each.name: each.folder for each in found_below(what)}


def one_of_several(run: Path, target: str | None, media: Path, stack: ExitStack) -> Callable[[], None]:
    """What draws the page of a run beside others, whose rows and exports have the same names: its files lie in a folder of its own."""
    own = stack.enter_context(TemporaryDirectory(dir=media))
    return run_page(choose(Run.read(run), target), Path(own), stack).draw


def panel_of(task: str) -> Callable[[Subject], tuple[list[Any], Callable[[Any], list[Any]]]]:
    """What draws the first tab for a task: its own, where a distribution names one in the group `compressor.demo`, else what all share."""
    own = next(iter(entry_points(group="compressor.demo", name=task)), None)
    return own.load() if own else side_by_side


def export_page(folder: Path, media: Path, stack: ExitStack) -> Page:
    """The page of an exported folder."""
    shown = of_export.subject(folder, media)
    stack.callback(shown.close)

    def draw() -> None:
        heading(shown.title, "An exported model.")
        with gr.Tabs():
            with gr.Tab("Try it"):
                side_by_side(shown)
            with gr.Tab("What it is"):
                of_export.what_it_is(folder)

    return Page(shown.title, draw)


def run_page(chosen: Chosen, media: Path, stack: ExitStack) -> Page:
    """The page of a run."""
    before = chosen.before.id if chosen.before else ""
    rows = Rows.read(chosen.run, before, chosen.after.id, labels(chosen.built(chosen.after)), media)
    shown = subject(chosen, rows)
    stack.callback(shown.close)
    listed = Listed(rows, media, media=shown.kind in ("image", "audio", "seed"))

    def draw() -> None:
        heading(shown.title, chosen.run.report.summary)
        with gr.Tabs(selected="try") as tabs:
            with gr.Tab("Try it", id="try"):
                inputs, setting = panel_of(chosen.run.report.task)(shown)
            with gr.Tab("Where they differ", id="differ"):
                where_they_differ(listed, inputs, setting, tabs)
            with gr.Tab("What happened", id="happened"):
                what_happened(chosen, media)

    return Page(shown.title, draw)
