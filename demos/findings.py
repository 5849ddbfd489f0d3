"""What happened to the model: the verdict and its reasons, charts of the report, files with their digests, downloads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from compressor.contracts.records import Candidate, Report, Verdict
from compressor.errors import CompressorError
from compressor.report import changes, wording
from compressor.report.drawing import Chart
from compressor.report.findings import QUANTITIES, Findings, doubts, margin, writer
from compressor.report.html import MARKS, TONES
from compressor.report.trade_off import trade_off
from compressor.report.waterfall import waterfall
from demos.of_run import Chosen
from demos.side.panel import html

EXPORT = "export"


def what_happened(chosen: Chosen, folder: Path) -> None:
    """Draw it into the page that is open; `folder` takes what is downloaded."""
    report = chosen.run.report.shown()
    findings = Findings(report)
    html(verdicts(report))
    for chart in charts(findings, chosen.target):
        html(figure(chart), elem_classes="wide")
    html(files([each for each in (chosen.before, chosen.after) if each]))
    html(origin(report))
    with gr.Row():
        for name in ("report.html", "report.json"):
            if (chosen.run.folder / name).is_file():
                path = shutil.copyfile(chosen.run.folder / name, folder / f"{chosen.run.report.started[:10]}-{name}")
                gr.DownloadButton(f"Download {name}", value=str(path), size="sm")
        make = gr.Button("Make the export", size="sm")
        save = gr.DownloadButton("Download the export", visible=False, size="sm")
    said = html("", elem_classes="live")
    export = _exporter(chosen, folder)
    make.click(export, None, [save, said], concurrency_id=EXPORT, api_visibility="private")


def _exporter(chosen: Chosen, folder: Path) -> Callable[[], tuple[Any, str]]:
    """Makes the export once, and hands it to whoever asks again."""

    def export() -> tuple[Any, str]:
        from compressor.export import export as write

        out = folder / f"{chosen.run.report.name}-{chosen.target}"
        try:
            if not out.with_suffix(".zip").is_file():
                write(chosen.run.folder, chosen.target, out)
                shutil.make_archive(str(out), "zip", out)
        except CompressorError as error:
            return gr.DownloadButton(visible=False), f'<p class="trouble">{escape(str(error))}</p>'
        ready = (
            "<p>It holds the model, its specification, licences, checksums and an example, and was proved on rows of the run.</p>"
        )
        return gr.DownloadButton(value=f"{out}.zip", visible=True), ready

    return export


def charts(findings: Findings, target: str) -> Iterator[Chart]:
    """The report's charts that say what happened on the way to a target."""
    if findings.chain(target):
        yield waterfall(findings, target)
    if drawn := trade_off(findings):
        yield drawn
    pair = findings.before_and_after(target)
    if pair and (by_class := changes.classes(*pair)):
        yield by_class


def figure(chart: Chart) -> str:
    """A chart with its title and caption."""
    return f"<figure class='chart'><h3>{escape(chart.title)}</h3>{chart.svg}<figcaption>{escape(chart.caption)}</figcaption></figure>"


def verdicts(report: Report) -> str:
    """The outcome, what it does not say, and each limit."""
    mark, doubted = MARKS[report.outcome], "".join(f"<li>{escape(doubt)}</li>" for doubt in doubts(report))
    tone = TONES[mark]
    head = f"<p><span class='outcome {tone}'>{mark} {escape(report.outcome)}</span></p>"
    rows = "".join(map(_verdict, report.verdicts))
    columns = "".join(f"<th scope='col'>{name}</th>" for name in ("Of", "What", "Limit", "Measured", ""))
    table = f"<div class='wide'><table class='facts'><tr>{columns}</tr>{rows}</table></div>" if rows else ""
    return f"{head}{f'<ul>{doubted}</ul>' if doubted else ''}{table}"


def _verdict(verdict: Verdict) -> str:
    write, mark = writer(verdict), MARKS[verdict.outcome]
    ends = f" ({wording.interval(verdict.interval, write)})" if verdict.interval else ""
    why = f" {verdict.why}" if verdict.why else ""
    cells = (
        verdict.candidate,
        QUANTITIES[verdict.quantity][0] + (f", {verdict.metric}" if verdict.metric else ""),
        write(verdict.limit),
        f"{write(verdict.value)}{ends}",
    )
    told = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr>{told}<td class='{TONES[mark]}'>{mark} {escape(verdict.outcome)}, {escape(margin(verdict) + why)}</td></tr>"


def files(candidates: list[Candidate]) -> str:
    """Files with their bytes and digests."""
    rows = "".join(
        f"<tr><td>{escape(each.id)}</td><td>{escape(file.name)}</td><td>{wording.size(file.bytes)}</td>"
        f"<td class='mono'>{escape(file.sha256)}</td></tr>"
        for each in candidates
        for file in each.files
    )
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("Model", "File", "Size", "sha256"))
    return f"<h3>Files</h3><div class='wide'><table class='facts'><tr>{head}</tr>{rows}</table></div>"


def origin(report: Report) -> str:
    """Where this comes from."""
    machine = report.machine
    facts = {
        "Source": report.model.source,
        "Quality is held against": report.reference,
        "Rows": f"{report.data.source}: {', '.join(f'{each.rows} {each.name}' for each in report.data.splits)}",
        "Machine": f"{machine.named}, {wording.size(machine.memory_bytes)}, {machine.system}",
        "Versions": ", ".join(f"{name} {version}" for name, version in report.versions.items()),
        "Run": f"{wording.moment(report.started)}, {wording.seconds(report.seconds)}",
    }
    rows = "".join(f"<tr><th scope='row'>{name}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f"<h3>Where this comes from</h3><table class='facts'>{rows}</table>"
