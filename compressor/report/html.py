"""The page: one file without scripts, fonts or addresses of others, that opens with the answer."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts.notes import Bars, Note, Series
from compressor.contracts.records import Report, Workload
from compressor.report import changes, notes, profiles, timings, wording
from compressor.report.drawing import Chart
from compressor.report.efforts import efforts
from compressor.report.findings import QUANTITIES, Findings, Row, answer, doubts, margin, speed_up, writer
from compressor.report.trade_off import trade_off
from compressor.report.waterfall import waterfall

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_ROWS = 50
"""Rows listed, by candidate, on which reference and final model differ."""

MARKS = {
    "accepted": "✓",
    "met": "✓",
    "mended": "✓",
    "not accepted": "✗",
    "not met": "✗",
    "stopped": "✗",
    "broken": "✗",
    "undecided": "?",
    "measured": "•",
    "both wrong": "≠",
}
HERE = Path(__file__).parent
TONES = {"✓": "good", "✗": "bad", "?": "open", "•": "muted", "≠": "open"}


def page(report: Report) -> str:
    """Render `report.html`; every text of the report is escaped, since rows and plans are not ours."""
    report = report.shown()
    css = (HERE / "report.css").read_text(encoding="utf-8")
    return _environment().get_template("report.html.jinja").render(css=css, **_content(Findings(report)))


@cache
def _environment() -> Environment:
    """Templates are compiled once in a process."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {
        "p": profiles,
        "w": wording,
        "margin": margin,
        "quantities": QUANTITIES,
        "writer": writer,
        "marks": MARKS,
    }
    environment.globals |= {"tones": {name: TONES[mark] for name, mark in MARKS.items()}, "most_rows": MOST_ROWS}
    return environment


def _content(findings: Findings) -> dict[str, Any]:
    report, headline = findings.report, findings.headline
    return {
        "r": report,
        "f": findings,
        "answer": report.summary or answer(report),
        "doubts": doubts(report),
        "headline": headline,
        "speed": speed_up(headline) if headline else None,
        "metric": next((row.quality.name for row in findings.finals if row.quality), "quality"),
        "answer_rows": list(_answer_rows(findings)),
        "workload_text": f" at {findings.workloads[0]}" if findings.workloads else "",
        "all_rows": [findings.row(candidate) for candidate in findings.report.candidates],
        "efforts": efforts(findings),
        "rows_at": lambda workload: _rows_at(findings, workload),
        "not_measured": _not_measured(report),
        "diagnosed": [candidate for candidate in report.candidates if candidate.diagnosis],
        "parities": [candidate for candidate in report.candidates if candidate.parity],
        "disagreements": list(findings.disagreements()),
        "rows_of": lambda name: [row for row in report.disagreements if row.candidate == name],
        "machine": list(_machine(report)),
        "model": list(_model(report)),
        "data": list(_data(report)),
        **_charts(findings),
        "sections": list(_sections(findings)),
    }


def _charts(findings: Findings) -> dict[str, Any]:
    pairs = [pair for target in findings.targets if (pair := findings.before_and_after(target))]
    return {
        "waterfalls": [waterfall(findings, target) for target in findings.targets if findings.chain(target)],
        "trade_off": trade_off(findings),
        "distributions": [timings.distribution(findings, workload) for workload in findings.workloads],
        "throughput": timings.throughput(findings) if findings.workloads else None,
        "layers": [drawn for target in findings.targets if (drawn := changes.layers(findings, target))],
        "classes": [drawn for before, after in pairs if (drawn := changes.classes(before, after))],
        "note_charts": dict(_note_charts(findings)),
    }


def _note_charts(findings: Findings) -> Iterator[tuple[tuple[str, int], Chart | None]]:
    sources: list[tuple[str, tuple[Note, ...]]] = [
        (f"stage-{place}", stage.notes) for place, stage in enumerate(findings.report.stages)
    ]
    sources += [("task", findings.report.notes)]
    sources += [(f"probe-{place}", record.notes) for place, record in enumerate(findings.other_probes)]
    for prefix, found in sources:
        for place, note in enumerate(found):
            if isinstance(note, Series):
                yield (prefix, place), notes.curves(note, name=f"{prefix}-note-{place}")
            elif isinstance(note, Bars):
                yield (prefix, place), notes.bars(note, name=f"{prefix}-note-{place}")


def _answer_rows(findings: Findings) -> Iterator[Row]:
    for row in findings.finals:
        yield row
        source = findings.candidates.get(f"source@{row.candidate.target}")
        if source is not None:
            yield findings.row(source)


def _rows_at(findings: Findings, workload: Workload) -> list[Row]:
    rows = [findings.row(candidate, workload) for candidate in findings.report.candidates]
    return [row for row in rows if row.latency is not None]


def _not_measured(report: Report) -> list[tuple[str, str]]:
    found = [(candidate.id, candidate.not_measured) for candidate in report.candidates if candidate.not_measured is not None]
    return [*report.missing.items(), *found]


def _sections(findings: Findings) -> Iterator[tuple[str, str]]:
    if findings.gates:
        yield "gates", "Gates"
    if _not_measured(findings.report):
        yield "missing", "Not measured"
    yield "steps", "Step by step"
    if findings.rows:
        yield "speed", "Speed"
    yield "quality", "Quality"
    report = findings.report
    if any(each.layer_bytes for each in report.stages) or any(each.layer_bytes for each in report.candidates):
        yield "layers", "Layers"
    yield "passes", "Passes"
    yield "origin", "Where this comes from"


def _machine(report: Report) -> Iterator[tuple[str, str]]:
    machine = report.machine
    yield "Processor", f"{machine.named}"
    yield "Memory", wording.size(machine.memory_bytes)
    yield "Instruction sets", ", ".join(machine.features) or wording.NOTHING
    yield "Accelerators", ", ".join(machine.accelerators) or "none"
    yield "System", f"{machine.system}, Python {machine.python}"
    yield "Fingerprint", machine.fingerprint
    if machine.load is not None:
        yield "Load", wording.percent(machine.load)


def _model(report: Report) -> Iterator[tuple[str, str]]:
    model = report.model
    yield "Source", model.source
    yield "Family", model.family
    yield "Parameters", wording.count(model.weights)
    yield "Size", wording.size(model.bytes)
    yield "Licence", wording.first_line(model.licence) or "not stated by the source"
    if model.sha256:
        yield "sha256", model.sha256


def _data(report: Report) -> Iterator[tuple[str, str]]:
    yield "Source", report.data.source
    yield "Digest", report.data.digest
    removed = ", ".join(f"{number} {reason}" for reason, number in report.data.removed.items() if number)
    yield "Removed", removed or "no rows"
    yield from (("Found", finding) for finding in report.data.findings)
    yield "Seed", str(report.seed)
    yield "Task", report.task
