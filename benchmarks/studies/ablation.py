"""What each pass of a plan contributes: the plan as it is, and once without each of its passes.

    python -m benchmarks.studies.ablation plans/quickstart.yaml --out runs/ablation

A pass is left out, not its results: where a later step still needs what it made (a teacher, the reference), it runs on the side,
and the model goes on from before it. Runs share one store, so that only what changed is computed again.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compressor.contracts.records import Difference, Report
from compressor.deploy.machine import machine, versions
from compressor.plan.bound import Bound, load_plan
from compressor.report import read_report
from compressor.report.findings import Findings

WHOLE = "all passes"


@dataclass(frozen=True)
class Variant:
    """One row: the plan without one of its passes, or whole."""

    name: str
    plan: Mapping[str, Any]


def variants(bound: Bound) -> Iterator[Variant]:
    """The plan whole, then without each pass in turn; stages between are scored, not timed."""
    plan: dict[str, Any] = yaml.safe_load(bound.text)
    plan["stages"] = "quality"
    yield Variant(WHOLE, plan)
    for number, step in enumerate(bound.passes):
        yield Variant(f"without {step.name}", without(plan, bound, number))


def without(plan: Mapping[str, Any], bound: Bound, number: int) -> dict[str, Any]:
    """The plan without its step of that number."""
    left, made = bound.passes[number], copy.deepcopy(dict(plan))
    later = bound.passes[number + 1 :]
    needed = left.name == bound.reference or any(left.name in step.step.needs().teachers for step in later)
    following = next((place for place, step in enumerate(bound.passes) if place > number and step.trunk), None)
    if needed and left.trunk and following is not None:
        before = left.start or next((step.name for step in reversed(bound.passes[:number]) if step.trunk), "source")
        made["passes"][following].setdefault("from", before)
    else:
        del made["passes"][number]
    return made


def run(plan: Mapping[str, Any], folder: Path, settings: Sequence[str] = (), *, store: Path | None = None) -> Report:
    """Run a plan in a process of its own, or read the report of an earlier run of the same plan; its verdict may be any.

    Raises:
        subprocess.CalledProcessError: a step failed, or the plan is at fault.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, out = folder / "plan.yaml", folder / "run"
    path.write_text(yaml.safe_dump(dict(plan), sort_keys=False), encoding="utf-8")
    if (out / "report.json").is_file():
        earlier = read_report(out)
        if earlier.plan != load_plan(path, settings=settings).text:
            raise SystemExit(f"{out} holds a run of another plan: remove it, or name another folder")
        if (earlier.machine.fingerprint, earlier.versions) != (machine().fingerprint, versions()):
            raise SystemExit(f"{out} holds a run of another machine or of other versions: remove it, or name another folder")
        return earlier
    command = [sys.executable, "-m", "compressor.cli", "run", str(path), "--out", str(out)]
    command += ["--store", str(store)] if store else []
    done = subprocess.run([*command, *(word for each in settings for word in ("--set", each))], check=False)
    if not (out / "report.json").is_file():
        raise subprocess.CalledProcessError(done.returncode, command)
    return read_report(out)


def table(reports: Mapping[str, Report]) -> str:
    """Markdown: quality, size and speed of the final model of each run, by target."""
    lines: list[str] = []
    targets = list(dict.fromkeys(name for report in reports.values() for name in Findings(report).targets))
    for target in targets:
        lines += [
            f"| {target} | quality on test | points against reference | size | median ms | speed-up |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *(row(name, report, target) for name, report in reports.items()),
            "",
        ]
    return "\n".join(lines)


def row(name: str, report: Report, target: str) -> str:
    """The final model on a target, against the first target's source; what was not measured is a dash."""
    findings = Findings(report)
    candidate = findings.candidates.get(f"final@{target}")
    if candidate is None or candidate.not_measured is not None:
        return f"| {name} | - | - | - | - | {candidate.not_measured if candidate else '-'} |"
    found = findings.row(candidate)
    quality = f"{found.quality.value:.4f}" if found.quality else "-"
    time = f"{found.latency.median_ms:.2f}" if found.latency else "-"
    ratio = found.against_baseline
    speed = f"{ratio.value:.2f}x [{ratio.interval.low:.2f}, {ratio.interval.high:.2f}]" if ratio else "-"
    speed = f"{speed} ({ratio.outcome})" if ratio and ratio.outcome == "undecided" else speed
    return f"| {name} | {quality} | {points(candidate.difference)} | {candidate.bytes / 1e6:.2f} MB | {time} | {speed} |"


def points(difference: Difference | None) -> str:
    """Points against the reference, with their interval."""
    if difference is None:
        return "-"
    around = f" [{difference.interval.low:+.2f}, {difference.interval.high:+.2f}]" if difference.interval else ""
    return f"{difference.change:+.2f}{around}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all variants and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--set", action="append", default=[], dest="settings", help="a value laid over the plan")
    given = parser.parse_args(arguments)
    bound = load_plan(given.plan, settings=given.settings)
    reports = {each.name: run(each.plan, given.out / each.name.replace(" ", "-")) for each in variants(bound)}
    sys.stdout.write(table(reports))


if __name__ == "__main__":
    main()
