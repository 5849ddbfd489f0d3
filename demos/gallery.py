"""A folder of runs: which there are, what each found, its models to be tried, and two of them compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from compressor.contracts.records import Comparison, Report
from compressor.errors import CompressorError, StoreError
from compressor.report import read_report, wording
from compressor.report.findings import Findings, speed_up
from compressor.report.html import MARKS, TONES
from compressor.run.comparison import compare_runs
from demos.side.page import heading
from demos.side.panel import html

MOST_OPEN = 2
"""Runs whose models are loaded at a time: the one that was opened first is closed for the next."""


@dataclass(frozen=True)
class Found:
    """A run below the folder, with its report, or why it has none that can be read."""

    name: str
    folder: Path
    report: Report | None
    why: str = ""


def found_below(folder: Path) -> list[Found]:
    """All runs that lie in a folder or one level deeper.

    Raises:
        StoreError: there is none.
    """
    paths = sorted({path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/report.json")})
    if not paths:
        raise StoreError(f"{folder} is no run, no export, and holds no run: name the folder of one, where its report.json lies")
    return [_read(path, path.relative_to(folder).as_posix()) for path in paths]


def _read(path: Path, name: str) -> Found:
    try:
        return Found(name, path, read_report(path).shown())
    except StoreError as error:
        return Found(name, path, None, str(error))


@dataclass
class Opened:
    """Pages of runs that were opened, a few at a time."""

    page: Callable[[Path, ExitStack], Callable[[], None]]
    """From a run's folder to what draws its page; its models are ended by the stack."""
    _drawn: dict[Path, tuple[Callable[[], None], ExitStack]] = field(default_factory=dict)

    def draw(self, folder: Path) -> None:
        """Draw the page of a run.

        Raises:
            CompressorError: it cannot be shown here.
        """
        if folder not in self._drawn:
            while len(self._drawn) >= MOST_OPEN:
                self._drawn.pop(next(iter(self._drawn)))[1].close()
            stack = ExitStack()
            self._drawn[folder] = (self.page(folder, stack), stack)
        self._drawn[folder][0]()

    def close(self) -> None:
        """End all models."""
        for _, stack in self._drawn.values():
            stack.close()


def gallery(folder: Path, found: list[Found], opened: Opened) -> None:
    """Draw the page of a folder of runs into the page that is open."""
    heading(f"Runs in {folder}", f"{len(found)} runs. Choose one to see what it found and to try its models, or two to compare.")
    by_name = {each.name: each for each in found}
    readable = [each.name for each in found if each.report]
    with gr.Tabs():
        with gr.Tab("Runs"):
            words = gr.Textbox(label="Filter", placeholder="a name, an outcome, a target, a step", lines=1, elem_id="filter")
            table = html(_table(found), elem_id="runs", elem_classes="live wide")
            words.change(lambda text: _table(_kept(found, text)), words, table, queue=False, api_visibility="private")
            chosen = gr.Dropdown(readable, value=None, label="Open a run", elem_id="open")

            @gr.render(inputs=chosen, concurrency_limit=1)  # type: ignore[untyped-decorator] # gradio's
            def show(name: str | None) -> None:
                if name is None:
                    return
                try:
                    opened.draw(by_name[name].folder)
                except CompressorError as error:
                    html(f"<p class='trouble'>{escape(str(error))}</p>")

        with gr.Tab("Compare two"):
            with gr.Row():
                sides = [gr.Dropdown(readable, value=None, label=label) for label in ("One run", "Another run")]
            shown = html(elem_id="comparison", elem_classes="live")
            for side in sides:
                side.change(
                    lambda one, other: _compared(by_name, one, other), sides, shown, api_visibility="private", queue=False
                )


def _kept(found: list[Found], text: str) -> list[Found]:
    """Runs of which every word of a filter is said somewhere."""
    words = (text or "").casefold().split()
    return [each for each in found if all(word in _said(each) for word in words)]


def _said(each: Found) -> str:
    report = each.report
    if report is None:
        return f"{each.name} damaged".casefold()
    steps = " ".join(stage.name for stage in report.stages)
    targets = " ".join(candidate.target for candidate in report.candidates)
    return f"{each.name} {report.name} {report.outcome} {report.task} {steps} {targets} {report.summary}".casefold()


def _table(found: list[Found]) -> str:
    names = ("Run", "Outcome", "Task", "Quality", "Speed-up", "Size", "Started")
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    rows = (
        "".join(f"<tr>{''.join(_cells(each))}</tr>" for each in found) or f"<tr><td colspan='{len(names)}'>No such run.</td></tr>"
    )
    return f"<table class='facts'><tr>{head}</tr>{rows}</table>"


def _cells(each: Found) -> Iterator[str]:
    yield f"<th scope='row'>{escape(each.name)}</th>"
    report = each.report
    if report is None:
        yield f"<td class='bad' colspan='6'>damaged: {escape(each.why)}</td>"
        return
    best, mark = Findings(report).headline, MARKS[report.outcome]
    ratio = speed_up(best) if best else None
    yield f"<td class='{TONES[mark]}'>{mark} {escape(report.outcome)}</td><td>{escape(report.task)}</td>"
    yield f"<td>{escape(wording.metric(best.quality) if best and best.quality else wording.NOTHING)}</td>"
    yield f"<td>{wording.factor(ratio.value) if ratio else wording.NOTHING}</td>"
    yield f"<td>{wording.percent(best.share) if best and best.share else wording.NOTHING}</td>"
    yield f"<td>{escape(wording.moment(report.started))}</td>"


def _compared(found: dict[str, Found], one: str | None, other: str | None) -> str:
    if not one or not other:
        return "<p class='waiting'>Choose two runs.</p>"
    try:
        return comparison(compare_runs(found[one].folder, found[other].folder), one, other)
    except CompressorError as error:
        return f"<p class='trouble'>{escape(str(error))}</p>"


def comparison(of: Comparison, one: str, other: str) -> str:
    """Qualities and times of two runs, and all that differs between them."""
    warned = "".join(f"<li>{escape(each)}</li>" for each in of.warnings)
    qualities = [
        (
            each.candidate,
            wording.metric(each.first),
            wording.metric(each.second),
            wording.moved(each.difference) if each.difference else each.unpaired,
        )
        for each in of.qualities
    ]
    times = [
        (
            f"{each.candidate}, {each.workload}",
            wording.milliseconds(each.first.median_ms),
            wording.milliseconds(each.second.median_ms),
        )
        for each in of.times
    ]
    changed = [
        (f"{each.what}: {each.where}", each.first or wording.NOTHING, each.second or wording.NOTHING) for each in of.changes
    ]
    return "".join(
        (
            f"<ul>{warned}</ul>" if warned else "",
            _rows("Quality on test", ("Model", one, other, "Change"), qualities),
            _rows("Median latency", ("Model", one, other), times),
            _rows("What differs between the runs", ("What", one, other), changed),
        )
    )


def _rows(title: str, names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h3>{title}</h3><div class='wide'><table class='facts'><tr>{head}</tr>{body}</table></div>"
