"""Kills a plan at random moments, lets it go on, and holds what it ends with against a run that nothing befell.

    python -m benchmarks.studies.kills plans/quickstart.yaml --kills 200 --out docs/results/kills.md

A plan's phases and how long each takes are read from what an undisturbed run says. Then one campaign follows another: on an empty
store, the same command is started again and again and ended by SIGKILL, each time at a random moment of a random phase, the
phases in the order of the plan; the last run of a campaign is left to end. What it stored, built and exported must equal, byte by byte, what the
undisturbed run did. Campaigns go on until enough kills were made and every phase was hit often enough.
"""

from __future__ import annotations

import argparse
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compressor.deploy.machine import machine, versions
from compressor.report import read_report
from compressor.store.store import FILES, digest_of, sha256_of

KILLS_A_CAMPAIGN = 20
FEWEST_A_PHASE = 5
STARTS = (
    (re.compile(r"data: read and split"), "data"),
    (re.compile(r"source: load the model"), "source"),
    (re.compile(r"(\S+)( for \S+)?: start"), r"\1\2"),
    (re.compile(r"(\S+): lower, build, score on test"), r"build for \1"),
    (re.compile(r"(\S+): measure \d+ candidates"), r"measuring: \1"),
    (re.compile(r"report: write"), "report"),
    (re.compile(r"report: \S+report\.html"), "export"),
)
"""Lines that open a phase, and its name."""


WRITTEN = ("run/artifacts", "run/evaluations", "export")
TIMED = ("export/README.md", "export/SHA256SUMS")
"""They tell the times of their run, or its sum."""


@dataclass(frozen=True)
class Phase:
    """A part of a run, as the undisturbed run went through it."""

    name: str
    seconds: float


@dataclass
class Tally:
    """What has happened so far."""

    hits: Counter[str] = field(default_factory=Counter)
    campaigns: int = 0
    unequal: list[str] = field(default_factory=list)
    """What differed from the undisturbed run, by campaign."""


@dataclass(frozen=True)
class Subject:
    """The command under test."""

    plan: Path
    settings: tuple[str, ...]

    def start(self, folder: Path) -> subprocess.Popen[str]:
        """Start it on the store and run folder below `folder`."""
        sets = [word for each in self.settings for word in ("--set", each)]
        places = ["--store", str(folder / "store"), "--out", str(folder / "run"), "--export", str(folder / "export")]
        command = [sys.executable, "-u", "-m", "compressor.cli", "run", str(self.plan), *places, *sets]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def phase_of(line: str) -> str | None:
    """The phase that a line opens."""
    return next((found.expand(name) for opens, name in STARTS if (found := opens.fullmatch(line.strip()))), None)


def undisturbed(subject: Subject, folder: Path) -> tuple[Phase, ...]:
    """Run once from an empty store to the end; the phases in order, each name once with its time in all.

    Raises:
        SystemExit: the plan fails even so.
    """
    run = subject.start(folder)
    seconds: dict[str, float] = {}
    current, since = None, time.monotonic()
    assert run.stdout is not None
    with run.stdout:
        for line in run.stdout:
            sys.stdout.write(line)
            if name := phase_of(line):
                now = time.monotonic()
                seconds[current or name] = seconds.get(current or name, 0.0) + now - since
                current, since = name, now
    if current:
        seconds[current] = seconds.get(current, 0.0) + time.monotonic() - since
    if run.wait() not in (0, 3) or not (folder / "run" / "report.json").is_file():
        raise SystemExit(f"the plan ends with exit code {run.returncode} even undisturbed")
    return tuple(Phase(name, spent) for name, spent in seconds.items())


def killed(subject: Subject, folder: Path, phases: Sequence[Phase], *, rng: random.Random) -> str | None:
    """Start, wait for a random moment of the first of some phases, kill; the phase that was hit, or None where the run ended before.

    What is stored already opens no phase again: then it is the first that does open.
    """
    seconds = {phase.name: phase.seconds for phase in phases}
    run = subject.start(folder)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(run, lines), daemon=True)
    reader.start()
    current = _until(seconds, lines)
    if current in seconds:
        deadline = time.monotonic() + rng.uniform(0, seconds[current])
        for line in _lines_until(deadline, lines):
            current = phase_of(line) or current
    run.send_signal(signal.SIGKILL)
    code = run.wait()
    reader.join()
    return current if code == -signal.SIGKILL else None


def _read(run: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert run.stdout is not None
    with run.stdout:
        for line in run.stdout:
            lines.put(line)
    lines.put(None)


def _until(names: Container[str], lines: queue.SimpleQueue[str | None]) -> str | None:
    current = None
    while (line := lines.get()) is not None:
        current = phase_of(line) or current
        if current in names:
            return current
    return current


def _lines_until(deadline: float, lines: queue.SimpleQueue[str | None]) -> Iterator[str]:
    while (left := deadline - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            return
        if line is None:
            return
        yield line


def campaign(subject: Subject, folder: Path, phases: Sequence[Phase], count: int, tally: Tally, *, rng: random.Random) -> None:
    """Kill so many times, in drawn phases and their order, and let the last run end."""
    for phase in drawn(phases, tally.hits, count, rng=rng):
        hit = killed(subject, folder, phases[phases.index(phase) :], rng=rng)
        if hit is None:
            break
        tally.hits[hit] += 1
    run = subject.start(folder)
    said = run.communicate()[0]
    ended = (folder / "run" / "report.json").is_file()
    tally.campaigns += 1
    differs = difference(folder, folder.with_name("undisturbed")) if ended else f"the last run failed:\n{said[-2000:]}"
    if differs:
        tally.unequal.append(f"campaign {tally.campaigns}: {differs}")


def difference(folder: Path, undisturbed_folder: Path) -> str:
    """What differs between the ends of two runs in stages, stored results, built, scored and exported files; empty where nothing does.

    Files are read anew: what a report or a list of sums says of them proves nothing.
    """
    ours, theirs = (dict(_digests(each)) for each in (folder, undisturbed_folder))
    return ", ".join(sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)))


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    report = read_report(folder / "run")
    for stage in report.stages:
        yield f"stage {stage.name}", f"{stage.key} {stage.digest}"
    for files in sorted(folder.glob(f"store/results/*/*/{FILES}")):
        yield f"stored {files.parent.name[:12]}", digest_of(files)
    for place in WRITTEN:
        for path in sorted((folder / place).rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and name not in TIMED:
                yield name, sha256_of(path)


def document(subject: Subject, phases: Sequence[Phase], tally: Tally, *, seed: int) -> str:
    """The result as Markdown."""
    here = machine()
    equal = tally.campaigns - len(tally.unequal)
    return "\n".join(
        [
            "# Killed at random moments",
            "",
            f"`python -m benchmarks.studies.kills {subject.plan}` remakes this page{_with(subject.settings)}.",
            "",
            f"{sum(tally.hits.values())} kills by SIGKILL in {tally.campaigns} campaigns, each from an empty store to its end. "
            f"In {equal} of {tally.campaigns}, the sha256 of every stored, built, scored and exported file equals that of a run "
            "that was never killed.",
            "",
            "| phase | seconds undisturbed | kills |",
            "| --- | ---: | ---: |",
            *(f"| {phase.name} | {phase.seconds:.1f} | {tally.hits[phase.name]} |" for phase in phases),
            "",
            *(f"- {line}" for line in tally.unequal),
            f"- Machine: {here.named}.",
            f"- Versions: {', '.join(f'{name} {version}' for name, version in versions().items())}; Python {here.python}; seed {seed}.",
            "",
        ]
    )


def _with(settings: Sequence[str]) -> str:
    return f" (with {', '.join(f'`--set {each}`' for each in settings)})" if settings else ""


def drawn(phases: Sequence[Phase], hits: Mapping[str, int], count: int, *, rng: random.Random) -> list[Phase]:
    """Phases to kill in, in the order of the plan: those that were hit least come first into the draw."""
    least = sorted(phases, key=lambda phase: (hits.get(phase.name, 0), rng.random()))[:count]
    more = [rng.choice(phases) for _ in range(count - len(least))]
    return sorted([*least, *more], key=phases.index)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run campaigns until there are enough kills; 1 when one of them ended with other digests."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("plan", type=Path, nargs="?", default=Path("plans/quickstart.yaml"))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--fewest", type=int, default=FEWEST_A_PHASE, help="kills that each phase must get")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="a value laid over the plan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/kills"), help="folder for stores and runs; removed first")
    parser.add_argument("--out", type=Path, default=Path("docs/results/kills.md"))
    given = parser.parse_args(arguments)
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    subject, rng, tally = Subject(given.plan, tuple(given.settings)), random.Random(given.seed), Tally()
    phases = undisturbed(subject, given.work / "undisturbed")
    while sum(tally.hits.values()) < given.kills or min(tally.hits[phase.name] for phase in phases) < given.fewest:
        count = min(KILLS_A_CAMPAIGN, max(given.kills - sum(tally.hits.values()), len(phases)))
        folder = given.work / "campaign"
        shutil.rmtree(folder, ignore_errors=True)
        campaign(subject, folder, phases, count, tally, rng=rng)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(document(subject, phases, tally, seed=given.seed), encoding="utf-8")
        sys.stdout.write(f"{sum(tally.hits.values())} kills, {tally.campaigns} campaigns, {len(tally.unequal)} unequal\n")
    return int(bool(tally.unequal))


if __name__ == "__main__":
    raise SystemExit(main())
