"""README and licence notes of an exported folder, with the figures of the run it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compressor.contracts.records import Candidate, Report
from compressor.export.examples import arguments, requirements
from compressor.export.loaders import opening
from compressor.export.spec import Deployed
from compressor.foreign import markdown as escaped
from compressor.report import wording
from compressor.report.findings import Findings, Row, doubts
from compressor.report.markdown import spread, table

LICENCE_FILES = ("LICENSE", "LICENCE", "NOTICE", "COPYING")


def readme(report: Report, deployed: Deployed, *, proved: int = 0) -> str:
    """The text of `README.md`: how to use the model, what it is, what was measured where, and on how many rows it was proved."""
    report = report.shown()
    lines = (*_use(report, deployed), *_proof(deployed, proved), *_figures(report, deployed), *_origin(report))
    return "\n".join(lines) + "\n"


def _proof(deployed: Deployed, rows: int) -> Iterator[str]:
    if rows:
        yield f"`example.py` did with {rows} rows of test, each alone, what the run did that made these files: equal inputs to the bit,"
        labels = " and equal labels" if deployed.classes else ""
        yield f"outputs within {deployed.tolerance:g} of the largest{labels}."
        yield ""
    elif not deployed.no_example:
        yield from ("Not proved: the run kept no rows to hold `example.py` against.", "")


def _use(report: Report, deployed: Deployed) -> Iterator[str]:
    commands = (
        *((f"pip install {needed}",) if (needed := requirements(deployed)) else ()),
        "sha256sum -c SHA256SUMS",
        *(() if deployed.no_example else (f"python example.py {arguments(deployed)}",)),
    )
    yield from (f"# {escaped(report.name)}, {deployed.task} for {escaped(deployed.candidate.target)}", "")
    yield from ("```", *commands, "```", "")
    if deployed.no_example:
        yield from (f"There is no `example.py`: {deployed.no_example}.", "")
    yield f"`{deployed.file}` is the model, `spec.json` says what it takes and gives{_given(deployed)}."
    yield ""
    yield from opening(deployed)
    for remark in deployed.runtime.remarks:
        yield from (remark, "")


def _given(deployed: Deployed) -> str:
    if deployed.classes:
        return ", `labels.json` names its classes in order"
    if deployed.how.number:
        return "; it gives one number"
    if deployed.how.generates is not None:
        return "; it gives logits of the next token, with keys and values of all before it"
    if deployed.how.draws is not None:
        return "; the sampler's table and its columns are under `draws`"
    return "" if deployed.how.kind == "arrays" else "; it gives features, not classes"


def _figures(report: Report, deployed: Deployed) -> Iterator[str]:
    findings = Findings(report)
    yield from ("## Figures", "")
    yield from (
        f"Measured by the run that made these files (outcome: {report.outcome}), on {_machine(report, deployed.runtime.packages)}.",
        "",
    )
    yield from (text for doubt in doubts(report) for text in (f"**Warning:** {escaped(doubt)}", ""))
    rows = [*_quality(findings.row(deployed.candidate)), *_speed(findings, deployed.candidate)]
    yield from table(("what", "value"), rows, numbers=(1,))
    if deployed.candidate.not_measured:
        yield from (f"Not measured: {escaped(deployed.candidate.not_measured)}.", "")


def _quality(row: Row) -> Iterator[tuple[str, str]]:
    share = f"{wording.percent(row.share)} of the source" if row.share else ""
    yield "size", spread(wording.size(row.candidate.bytes), share)
    if row.quality:
        yield f"{row.quality.name} on test", spread(wording.metric(row.quality), wording.sample(row.quality))
    if difference := row.candidate.difference:
        yield f"against {difference.reference}", spread(wording.moved(difference), wording.moved_between(difference))


def _speed(findings: Findings, candidate: Candidate) -> Iterator[tuple[str, str]]:
    for at in findings.workloads:
        row = findings.row(candidate, at)
        if timed := row.latency:
            around = wording.interval(timed.interval, wording.milliseconds)
            yield f"median latency at {at}", spread(wording.milliseconds(timed.median_ms), around)
        if ratio := row.against_source:
            told = spread(wording.factor(ratio.value), wording.around(ratio))
            yield f"speed-up over the source on {candidate.target} at {at}", told
    yield from ((name, candidate.facts[name]) for name in ("precision", "device", "threads") if name in candidate.facts)


def _machine(report: Report, packages: Sequence[str]) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {report.versions[name]}" for name in packages if name in report.versions)
    return escaped(f"{machine.named}, {wording.size(machine.memory_bytes)}, {machine.system}; {versions}")


def _origin(report: Report) -> Iterator[str]:
    yield from ("## Origin", "")
    yield f"Made from {escaped(report.model.source)} on {escaped(report.data.source)}."
    yield f"Run of {escaped(wording.moment(report.started))}, seed {report.seed}: {escaped(report.command)}."
    yield "Licence notes: `LICENSES.md`."


def licences(report: Report, names: Sequence[str]) -> str:
    """The text of `LICENSES.md`: what the source says of its licence, and which licence files came with it."""
    report = report.shown()
    model, shipped = report.model, [name for name in names if name.upper().startswith(LICENCE_FILES)]
    stated = model.licence or "The source states no licence: ask its authors before you ship what was made from it."
    lines = ["# Licences", "", "These files were made by changing the weights of:", "", f"- source: {escaped(model.source)}"]
    lines += [f"- sha256 of its weights: {model.sha256}"] if model.sha256 else []
    lines += ["", "What the source says of its licence:", "", *(f"    {line}" for line in stated.splitlines()), ""]
    lines += ["Licence files of the source in this folder: " + ", ".join(shipped), ""] if shipped else []
    lines += ["The data it was trained and tested on has a licence of its own:", "", f"- {escaped(report.data.source)}", ""]
    return "\n".join(lines)
