"""The report as Markdown: the answer, the tables and the verdicts, for terminals, issues and commit messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compressor.contracts.notes import Images, Remark, Table
from compressor.contracts.records import Ratio, Report
from compressor.foreign import markdown as escaped
from compressor.report import profiles, wording
from compressor.report.efforts import efforts
from compressor.report.findings import QUANTITIES, Findings, Row, Step, answer, doubts, margin, writer

RATIOS = ("speed-up over own source", "speed-up over baseline")


def document(report: Report) -> str:
    """Render `report.md`."""
    report = report.shown()
    return (
        "\n".join(
            (
                *_opening(report),
                *_gates(report),
                *_steps(report),
                *_speed(report),
                *_side_by_side(report),
                *_slowness(report),
                *_origin(report),
            )
        )
        + "\n"
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: Sequence[int] = ()) -> list[str]:
    """A Markdown table; columns in `numbers` are aligned right."""
    rule = ["---:" if place in numbers else "---" for place in range(len(columns))]
    lines = [columns, rule, *([escaped(cell) for cell in row] for row in rows)]
    return ["| " + " | ".join(cells) + " |" for cells in lines] + [""]


def spread(value: str, around: str) -> str:
    return f"{value} ({around})" if around else value


def _opening(report: Report) -> Iterator[str]:
    findings = Findings(report)
    yield from (f"# {escaped(report.name)}: {report.outcome}", "", escaped(report.summary or answer(report)), "")
    yield from (text for doubt in doubts(report) for text in (f"**Warning:** {escaped(doubt)}", ""))
    if report.error:
        yield from (f"Error: {escaped(report.error)}", "")
    if findings.finals:
        at = f" at {findings.workloads[0]}" if findings.workloads else ""
        yield from (f"Final models{at}, with 95 % intervals; the baseline is {escaped(findings.baseline or 'not measured')}.", "")
        columns = (
            "target",
            "quality on test",
            f"against {escaped(report.reference)}",
            "size",
            "median latency",
            *RATIOS,
            "precision",
            "sha256",
        )
        yield from table(columns, [_final(row) for row in findings.finals], numbers=range(1, 7))
    missing = {
        **report.missing,
        **{found.id: found.not_measured for found in report.candidates if found.not_measured is not None},
    }
    if missing:
        yield from ("## Not measured", "", *(f"- {escaped(name)}: {escaped(why)}" for name, why in missing.items()), "")


def _final(row: Row) -> tuple[str, ...]:
    if row.candidate.not_measured is not None:
        return (row.candidate.target, "not measured", *([wording.NOTHING] * 7))
    difference, latency = row.candidate.difference, row.latency
    ratios = map(_ratio, (row.against_source, row.against_baseline))
    return (
        row.candidate.target,
        spread(wording.metric(row.quality), wording.sample(row.quality)) if row.quality else wording.NOTHING,
        spread(wording.moved(difference), wording.moved_between(difference)) if difference else wording.NOTHING,
        spread(wording.size(row.candidate.bytes), f"{wording.percent(row.share)} of source" if row.share else ""),
        spread(wording.milliseconds(latency.median_ms), wording.interval(latency.interval, wording.milliseconds))
        if latency
        else wording.NOTHING,
        *ratios,
        row.candidate.facts.get("precision", wording.NOTHING),
        row.sha256[:12],
    )


def _ratio(found: Ratio | None) -> str:
    return spread(wording.factor(found.value), wording.around(found)) if found else wording.NOTHING


def _gates(report: Report) -> Iterator[str]:
    gates = Findings(report).gates
    if not gates:
        return
    yield from ("## Gates", "")
    rows = []
    for _, verdict in gates:
        words, write = QUANTITIES[verdict.quantity][0], writer(verdict)
        found = (
            wording.NOTHING if verdict.value is None else spread(write(verdict.value), wording.interval(verdict.interval, write))
        )
        rows.append(
            (verdict.outcome, verdict.gate, verdict.candidate, words, write(verdict.limit), found, margin(verdict), verdict.why)
        )
    yield from table(("outcome", "gate", "of", "what", "limit", "found", "by how much", "why"), rows, numbers=(4, 5, 6))


def _steps(report: Report) -> Iterator[str]:
    findings = Findings(report)
    yield from ("## Step by step", "")
    for target in findings.targets:
        yield from (f"To {escaped(target)}; quality on validation.", "")
        rows = [
            (
                wording.step(step.name, rolled_back=step.rolled_back),
                spread(wording.metric(step.quality), wording.interval(step.quality.interval, wording.on_scale(step.quality)))
                if step.quality
                else wording.NOTHING,
                wording.milliseconds(step.latency.median_ms if step.latency else None),
                wording.size(step.bytes),
            )
            for step in findings.chain(target)
        ]
        yield from table(("step", "quality", "median latency", "size"), rows, numbers=(1, 2, 3))


def _speed(report: Report) -> Iterator[str]:
    findings = Findings(report)
    if not findings.rows:
        return
    yield from ("## Latency", "")
    rows = []
    for (name, workload), row in findings.rows.items():
        against = _ratio(findings.ratios.get((name, findings.baseline or "", workload)))
        median = spread(wording.milliseconds(row.median_ms), wording.interval(row.interval, wording.milliseconds))
        rows.append(
            (
                name,
                str(workload),
                row.n,
                median,
                wording.milliseconds(row.p90_ms),
                wording.throughput(row),
                against,
            )
        )
    columns = ("candidate", "workload", "calls", "median", "90th percentile", "throughput", RATIOS[1])
    yield from table(columns, rows, numbers=range(2, 7))
    for control in findings.controls:
        outcome = "passed" if control.passed else "disturbed"
        spreading = wording.interval(control.interval, wording.near_one)
        told = f"{outcome}, {wording.near_one(control.ratio)} ({spreading}); intervals allow for {wording.percent(control.noise)}"
        yield f"A/A control at {control.workload}: {told}."
        yield ""


def _side_by_side(report: Report) -> Iterator[str]:
    """What a task shows of models on the same rows: tables, and where pictures are."""
    found = efforts(Findings(report))
    if not (report.notes or found.by_target):
        return
    yield from ("## Side by side", "")
    for target, steps in found.by_target:
        yield from (f"On {escaped(target)}; quality on validation.", "")
        rows = [
            (
                wording.step(each.name, rolled_back=each.rolled_back),
                *(_number(each.effort.get(name)) for name in found.names),
                *_worth(each),
            )
            for each in steps
        ]
        named = ("model", *found.names, "quality", "median latency", "throughput")
        yield from table(named, rows, numbers=range(1, len(named)))
    for note in report.notes:
        if isinstance(note, Table):
            yield from (f"{escaped(note.title)}.", "", *table(note.columns, [[_cell(cell) for cell in row] for row in note.rows]))
        elif isinstance(note, Images):
            names = ", ".join(note.strips)
            yield from (f"{escaped(note.title)}: pictures of {escaped(names)} are in [report.html](report.html#quality).", "")
        elif isinstance(note, Remark):
            yield from (escaped(note.text), "")


def _number(value: float | None) -> str:
    return wording.NOTHING if value is None else wording.trimmed(value)


def _cell(value: str | float | None) -> str:
    return value if isinstance(value, str) else _number(value)


def _worth(step: Step) -> tuple[str, str, str]:
    """Quality, latency and throughput of a step."""
    quality = wording.metric(step.quality) if step.quality else wording.NOTHING
    if step.latency is None:
        return quality, wording.NOTHING, wording.NOTHING
    return quality, wording.milliseconds(step.latency.median_ms), wording.throughput(step.latency)


def _slowness(report: Report) -> Iterator[str]:
    findings = Findings(report)
    if not (findings.profiles or findings.not_profiled):
        return
    yield from ("## Why not faster", "")
    for row in findings.profiles:
        yield from (f"{escaped(row.candidate)} at {row.workload}: {escaped(profiles.bound_words(row))}", "")
        yield from (*(f"{place}. {escaped(line)}" for place, line in enumerate(profiles.why_not_faster(row), start=1)), "")
        costs = [
            (
                each.name,
                each.numbers or wording.NOTHING,
                each.count,
                wording.milliseconds(each.ms),
                wording.percent(each.share),
                _reached(each),
            )
            for each in profiles.by_kind(row)
        ]
        yield from table(("operator", "in", "how many", "time", "share", "of the peak"), costs, numbers=range(2, 6))
        blocks = [(each.name, wording.milliseconds(each.ms), wording.percent(each.share)) for each in profiles.by_block(row)]
        yield from table(("block", "time", "share"), blocks, numbers=(1, 2))
        yield from (f"By {escaped(row.by)} over {row.calls} calls with one input. {profiles.peaks_words(row)}", "")
    yield from (
        text for name, why in findings.not_profiled.items() for text in (f"{escaped(name)} has no profile: {escaped(why)}.", "")
    )


def _reached(cost: profiles.Cost) -> str:
    return wording.percent(cost.efficiency)


def _origin(report: Report) -> Iterator[str]:
    machine, model = report.machine, report.model
    splits = ", ".join(f"{split.rows} {split.name}" for split in report.data.splits)
    removed = ", ".join(f"{number} {reason}" for reason, number in report.data.removed.items() if number) or "none"
    features, accelerators = ", ".join(machine.features) or "not known", ", ".join(machine.accelerators) or "none"
    yield from ("## Where this comes from", "")
    licence = wording.first_line(model.licence) or "not stated"
    said = {
        "machine": f"{machine.named}, {wording.size(machine.memory_bytes)}, {machine.system}",
        "instruction sets": f"{features}; accelerators: {accelerators}",
        "model": f"{model.source}, {wording.count(model.weights)} parameters, licence {licence}",
        "data": f"{report.data.source}; {splits}; rows removed: {removed}" if report.data.real else "none",
        "versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "run": f"{wording.moment(report.started)}, {wording.seconds(report.seconds)}, seed {report.seed}, {report.command}",
    }
    yield from (f"- {name}: {escaped(text)}" for name, text in said.items())
    yield from (f"- found in the data: {escaped(finding)}" for finding in report.data.findings)
