"""How far the forecast of `compressor rehearse` is from what a run really takes.

    python -m benchmarks.studies.forecasts plans/quickstart.yaml other.yaml --out docs/results/forecasts.md

Each plan is rehearsed, then run in an empty store, on a machine that should do nothing else; the real run is as long as it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.contracts.records import Forecast, Spent
from compressor.deploy.machine import machine, versions
from compressor.report import read_report
from compressor.run.forecast import REST, label_of

COMMAND = (sys.executable, "-m", "compressor.cli")


@dataclass(frozen=True)
class Taken:
    """What a real run took."""

    spent: tuple[Spent, ...]
    seconds: float
    """Of the whole process."""
    memory_bytes: int
    disk_bytes: int

    def by_step(self) -> dict[str, float]:
        """Seconds by the rows that a forecast has."""
        rows: dict[str, float] = {}
        for spent in self.spent:
            rows[label_of(spent)] = rows.get(label_of(spent), 0.0) + spent.seconds
        return {**rows, REST: self.seconds - sum(rows.values())}


def rehearsed(plan: Path, settings: Sequence[str]) -> Forecast:
    """The forecast of a plan.

    Raises:
        subprocess.CalledProcessError: the rehearsal failed.
    """
    command = [*COMMAND, "rehearse", str(plan), "--json", *_laid(settings)]
    return Forecast.model_validate_json(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def taken(plan: Path, settings: Sequence[str], folder: Path) -> Taken:
    """Run a plan in a store of its own; its verdict may be any.

    Raises:
        subprocess.CalledProcessError: a step failed.
    """
    command = [*COMMAND, "run", str(plan), "--store", str(folder / "store"), "--out", str(folder / "run"), *_laid(settings)]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if not (folder / "run" / "report.json").is_file():
        raise subprocess.CalledProcessError(process.returncode, command)
    disk_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Taken(read_report(folder / "run").spent, seconds, usage.ru_maxrss * 1024, disk_bytes)


def table(forecast: Forecast, real: Taken) -> Iterator[str]:
    """Markdown: a row for each step, then totals, memory and disk."""
    yield f"## {forecast.name}"
    yield ""
    yield f"Rehearsed in {forecast.rehearsal_seconds:.0f} s: {'; then '.join(forecast.trials)}."
    yield ""
    yield "| step | rehearsed | forecast | real | forecast / real |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    steps = real.by_step()
    for row in forecast.rows:
        yield _row(row.step, f"{row.rehearsed_seconds:.1f} s", row.seconds, steps.get(row.step), "s")
    yield _row("**in all**", "", forecast.seconds, real.seconds, "s")
    yield _row("peak memory", "", forecast.memory_bytes / 2**20, real.memory_bytes / 2**20, "MiB")
    yield _row("disk", "", forecast.disk_bytes / 2**20, real.disk_bytes / 2**20, "MiB")
    yield ""


def _row(name: str, rehearsed: str, forecast: float, real: float | None, unit: str) -> str:
    digits = 1 if unit == "s" else 0
    if real is None:
        return f"| {name} | {rehearsed} | {forecast:.{digits}f} {unit} | - | - |"
    ratio = f"{forecast / real:.2f}" if real >= 0.05 else "-"
    return f"| {name} | {rehearsed} | {forecast:.{digits}f} {unit} | {real:.{digits}f} {unit} | {ratio} |"


def document(found: Mapping[str, tuple[Forecast, Taken]]) -> str:
    """All tables, with what they were measured on."""
    here, installed = machine(), versions(("compressor-toolchain", "torch", "onnxruntime", "openvino"))
    errors = [abs(forecast.seconds / real.seconds - 1) for forecast, real in found.values()]
    return "\n".join(
        [
            "# Forecasts against real runs",
            "",
            f"`python -m benchmarks.studies.forecasts {' '.join(found)}` remakes this page.",
            "",
            f"- Machine: {here.named}, {here.memory_bytes / 2**30:.0f} GiB.",
            f"- Versions: {', '.join(f'{name} {number}' for name, number in installed.items())}; Python {here.python}.",
            f"- Total time: off by {', '.join(f'{error:.0%}' for error in errors)}.",
            "",
            *(line for forecast, real in found.values() for line in table(forecast, real)),
        ]
    )


def _laid(settings: Sequence[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Rehearse and run each plan, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("plans", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("docs/results/forecasts.md"))
    parser.add_argument("--set", action="append", default=[], dest="settings", help="a value laid over every plan")
    given = parser.parse_args(arguments)
    found = {}
    for plan in given.plans:
        forecast = rehearsed(plan, given.settings)
        with tempfile.TemporaryDirectory(prefix="compressor-forecasts-") as folder:
            found[str(plan)] = (forecast, taken(plan, given.settings, Path(folder)))
        sys.stdout.write("\n".join(table(*found[str(plan)])) + "\n")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(document(found), encoding="utf-8")


if __name__ == "__main__":
    main()
