"""What the command line draws: progress bars with an ETA while a plan runs, and the table at its end."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, get_args

from rich.cells import cell_len
from rich.console import Console, OverflowMethod
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from compressor.contracts import Event, Message
from compressor.contracts import Progress as Told
from compressor.contracts.notes import Images
from compressor.contracts.records import LatencyRecord, LatencyRow, Report
from compressor.foreign import printable
from compressor.report import wording
from compressor.report.findings import deciding, doubts, writer

if TYPE_CHECKING:
    from compressor.contracts.records import Comparison, Forecast

WRAPPED: OverflowMethod = get_args(OverflowMethod)[0]
"""Long cells go on in the next line."""
ROWS = "rows"
"""What a call makes unless its workload counts something else."""
BORDERS = 3
"""Characters beside what a column holds."""


class Bars:
    """Listens to a run: a bar for each piece of work, a line for each message."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout)  # of this moment: a step may keep what its library draws off the later one
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(printable(text), markup=False, highlight=False)

    def hear(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Message):
            self.line(event.text)
        else:
            self._move(event)

    def _move(self, told: Told) -> None:
        values = " ".join(f"{name} {value:.3g}" for name, value in told.values.items())
        if told.work not in self._tasks:
            self._tasks[told.work] = self._bars.add_task(told.work, total=told.total, values=values)
        self._bars.update(self._tasks[told.work], completed=told.done, total=told.total, values=values)
        if told.done >= told.total:
            self._bars.remove_task(self._tasks.pop(told.work))


def table(report: Report) -> None:
    """Print the verdict, the answer and a row for each candidate."""
    report, console = report.shown(), Console()
    console.print(f"{report.outcome}: {report.summary}", markup=False, highlight=False)
    for doubt in doubts(report):
        console.print(f"warning: {doubt}", markup=False, highlight=False)
    _print_table(console, _candidates(report))
    for note in report.notes:
        if isinstance(note, Images):
            console.print(f"{note.title}: pictures of {', '.join(note.strips)} are in report.html", markup=False, highlight=False)
    for verdict in report.verdicts:
        write, by = writer(verdict), deciding(verdict)
        bound = f", {write(by)} by its interval" if by != verdict.value else ""
        why = f" ({verdict.why})" if verdict.why else ""
        value = f"{write(verdict.value)}{bound}{why}" if verdict.value is not None else verdict.why
        console.print(
            f"{verdict.gate} {verdict.candidate}: {verdict.quantity} {write(verdict.limit)}: {value}: {verdict.outcome}",
            markup=False,
            highlight=False,
        )


def _candidates(report: Report) -> Table:
    """A row for each candidate at each workload; throughput where a workload counts more than rows."""
    metric = next((each.scores.metric for each in report.candidates if each.scores), "quality")
    latency = next((record for record in report.probes if isinstance(record, LatencyRecord)), None)
    counted = latency is not None and any(row.unit != ROWS for row in latency.rows)
    columns = ("model", escape(f"{metric} on test"), "bytes", "workload", "median ms", *(["throughput"] if counted else ()))
    shown = Table(*columns, "speed-up", "precision")
    for candidate in report.candidates:
        quality = wording.metric(candidate.scores.main) if candidate.scores else "-"
        size = f"{candidate.bytes / 1e6:.1f} MB" if candidate.bytes else "-"
        rows = [row for row in latency.rows if row.candidate == candidate.id] if latency else []
        precision = candidate.facts.get("precision", "")
        if not rows:
            times = ["", candidate.not_measured or "not timed", *([""] if counted else ())]
            shown.add_row(candidate.id, quality, size, *times, "", precision)
        for row in rows:
            assert latency is not None
            times = [str(row.workload), f"{row.median_ms:.2f}", *([wording.throughput(row)] if counted else ())]
            shown.add_row(candidate.id, quality, size, *times, _speed(latency, row, candidate.target), precision)
    return shown


def _speed(latency: LatencyRecord, row: LatencyRow, target: str) -> str:
    """Against the source model on the same target."""
    of = (row.candidate, f"source@{target}", row.workload)
    ratio = next((each for each in latency.ratios if (each.of, each.to, each.workload) == of), None)
    if ratio is None:
        return ""
    speed = f"{ratio.value:.2f}x [{ratio.interval.low:.2f}, {ratio.interval.high:.2f}]"
    return speed if wording.told(ratio) == "faster" else f"{speed} {wording.told(ratio)}"


def _print_table(console: Console, shown: Table, *, names: int = 1) -> None:
    """Print a table of which nothing is cut: names, in the first columns, stay in one line, anything else goes on in the next one.

    Where a screen is too narrow for the names and the longest word of each other column, the table is wider than the screen.
    """
    cells = [[str(cell) for cell in (column.header, *column.cells, column.footer)] for column in shown.columns]
    whole = [max(map(cell_len, texts)) for texts in cells]
    words = [max((cell_len(word) for text in texts for word in text.split()), default=0) for texts in cells]
    widths = [*whole[:names], *words[names:]]
    spare = console.width - sum(widths) - BORDERS * len(widths) - 1
    for number, column in enumerate(shown.columns):
        more = max(0, min(spare, whole[number] - widths[number]))
        column.width, column.no_wrap, column.overflow, spare = widths[number] + more, number < names, WRAPPED, spare - more
    Console(width=max(console.width, console.width - spare)).print(shown)


def forecast_table(forecast: Forecast) -> None:
    """Print what a run is expected to take, step by step, and against what this machine has."""
    import shutil

    import psutil

    console = Console()
    shown = Table("step", "rehearsed", "forecast", show_footer=True, title=f"Forecast of {forecast.name}: expected, not measured")
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in forecast.rows:
        shown.add_row(row.step, f"{row.rehearsed_seconds:.1f} s", _time(row.seconds))
    shown.columns[0].footer, shown.columns[2].footer = "in all", _time(forecast.seconds)
    shown.columns[1].footer = f"{sum(row.rehearsed_seconds for row in forecast.rows):.1f} s"
    _print_table(console, shown)
    here, free = psutil.virtual_memory().total, shutil.disk_usage(".").free
    for name, needed, there in (("peak memory", forecast.memory_bytes, here), ("disk", forecast.disk_bytes, free)):
        short = ": NOT ENOUGH" if needed > there else ""
        console.print(f"{name}: {_size(needed)} of {_size(there)}{short}", markup=False, highlight=False)
    lines = [
        f"Rehearsed in {forecast.rehearsal_seconds:.0f} s: {'; then '.join(forecast.trials)}. Everything ran; its verdicts mean nothing."
    ]
    for line in (*lines, "The forecast assumes:", *(f"- {each}" for each in forecast.assumptions)):
        console.print(line, markup=False, highlight=False)


def comparison_tables(comparison: Comparison) -> None:
    """Print what changed, the qualities and the times of two runs."""
    comparison, console = comparison.shown(), Console()
    console.print(f"first: {comparison.first}\nsecond: {comparison.second}", markup=False, highlight=False)
    if comparison.changes:
        changed = Table("", "what changed", "first", "second")
        for change in comparison.changes:
            changed.add_row(*map(escape, (change.what, change.where, _shown(change.first), _shown(change.second))))
        _print_table(console, changed, names=2)
    else:
        console.print("nothing changed: plan, data, model, versions, machine and all digests are equal")
    _print_table(console, _qualities(comparison))
    if comparison.times:
        _print_table(console, _times(comparison))
    for each in comparison.measured:
        of, control = each.ratio.interval, each.control
        console.print(
            f"{each.target}, timed side by side: the second is {each.ratio.value:.3f} times as fast [{of.low:.3f}, {of.high:.3f}]: "
            f"{wording.told(each.ratio)}; A/A control {control.ratio:.3f} {'passed' if control.passed else 'DISTURBED'}",
            markup=False,
            highlight=False,
        )
    for warning in comparison.warnings:
        console.print(f"note: {warning}", markup=False, highlight=False)


def _qualities(comparison: Comparison) -> Table:
    shown = Table("model", "quality on test", "first", "second", "difference, same rows", "rows changed")
    for each in comparison.qualities:
        metric = each.first or each.second
        values = [wording.metric(found) if found else "-" for found in (each.first, each.second)]
        difference, changed = each.unpaired, ""
        if each.difference is not None:
            found = each.difference
            around = f" [{found.interval.low:+.2f}, {found.interval.high:+.2f}]" if found.interval else ""
            difference = f"{found.change:+.2f}{around} {'points' if found.unit == 'points' else '%'}"
            changed = "" if found.changed is None else f"{found.changed} of {found.n}"
        shown.add_row(each.candidate, metric.name if metric else "", *values, escape(difference), changed)
    return shown


def _times(comparison: Comparison) -> Table:
    shown = Table("model", "workload", "first, as measured", "second, as measured")
    for each in comparison.times:
        medians = [
            f"{row.median_ms:.3f} ms [{row.interval.low:.3f}, {row.interval.high:.3f}]" for row in (each.first, each.second)
        ]
        shown.add_row(each.candidate, str(each.workload), *map(escape, medians))
    return shown


def _shown(value: str | None) -> str:
    return "-" if value is None else value


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
    )


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
