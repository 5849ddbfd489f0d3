"""Do tests notice? Modules with one fault each, drawn by a seed, run against their own tests.

`python -m benchmarks.studies.mutants` remakes docs/results/mutants.md; with `--modules keys store` it runs these alone, and with
`--seed 1` others are drawn. What has run already is kept in runs/mutants and not run again, but for mutants that survived
tests which have changed since. Subjects, their tests, faults made by hand and equivalent mutants are in mutants.yaml.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.studies.forked_tests import Tests, prepare
from benchmarks.studies.mutation import Mutant, by_hand, drawn, mutants_of

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("mutants.yaml")
DRAWN = 60
SEEDS = (0, 1)
"""Tests were mended by the survivors of the first; of the others none was looked at before it was counted."""


@dataclass(frozen=True)
class Subject:
    """Modules that are mutated together, and the tests that should notice."""

    name: str
    modules: Sequence[str]
    tests: Sequence[str]
    faults: Sequence[Mapping[str, str]]
    """Made by hand."""
    without: Sequence[str] = ()
    """Parts of names of tests that take long and are left out."""

    @property
    def selection(self) -> list[str]:
        """Arguments of pytest."""
        return [*self.tests, *(["-k", " and ".join(f"not {each}" for each in self.without)] if self.without else [])]

    def mutants(self) -> list[Mutant]:
        """All of its modules."""
        return [mutant for module in self.modules for mutant in mutants_of(module, (ROOT / module).read_text(encoding="utf-8"))]

    def by_hand(self) -> dict[str, Mutant]:
        """Faults made by hand, by what they are."""
        return {
            fault["what"]: by_hand(
                fault["module"], (ROOT / fault["module"]).read_text(encoding="utf-8"), fault["before"], fault["after"]
            )
            for fault in self.faults
        }

    def digest(self) -> str:
        """Of its tests' files."""
        total = hashlib.sha256()
        for path in sorted({found for test in self.tests for found in _files(ROOT / test.partition("::")[0])}):
            total.update(path.read_bytes())
        return total.hexdigest()[:16]


@dataclass(frozen=True)
class Count:
    """How many mutants of a subject ended how."""

    subject: Subject
    seed: int
    of: int
    """All that its modules have."""
    ran: Mapping[str, Mapping[str, Any]]
    """What is known of those drawn, by name."""
    drawn: Sequence[Mutant]
    equivalent: Mapping[str, str]
    """Reasons by name, of those drawn that no test killed."""

    @property
    def survivors(self) -> list[Mutant]:
        return [each for each in self.drawn if self._outcome(each) == "survived" and each.name not in self.equivalent]

    @property
    def killed(self) -> int:
        return sum(self._outcome(each) in ("killed", "timed out") for each in self.drawn)

    @property
    def timed_out(self) -> int:
        return sum(self._outcome(each) == "timed out" for each in self.drawn)

    def _outcome(self, mutant: Mutant) -> str:
        return str(self.ran.get(mutant.name, {}).get("outcome", "not run"))

    def row(self) -> str:
        """A line of the table."""
        share = f"{self.killed / (self.killed + len(self.survivors)):.0%}" if self.killed else "not run"
        missing = len(self.drawn) - self.killed - len(self.survivors) - len(self.equivalent)
        drawn = f"{len(self.drawn)}{f' ({missing} not run)' if missing else ''}"
        return (
            f"| {self.subject.name} | {self.seed} | {self.of} | {drawn} | {self.killed} | {self.timed_out} | {len(self.survivors)} "
            f"| {len(self.equivalent)} | {share} |"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what has not run, and write the page; 1 where a seed's share is below what is asked of it."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument(
        "--modules", nargs="+", choices=sorted(table["subjects"]), default=list(table["subjects"]), metavar="NAME"
    )
    parser.add_argument("--count", type=int, default=DRAWN, help="mutants of each")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/mutants", help="where results are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/mutants.md")
    parser.add_argument("--counted", action="store_true", help="run nothing: write the page of what has run already")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    subjects = {name: subject_of(name, table) for name in table["subjects"]}
    if not given.counted:
        prepare(ROOT)
        for name in given.modules:
            mutants = [*drawn(subjects[name].mutants(), given.count, seed=given.seed), *subjects[name].by_hand().values()]
            run(subjects[name], mutants, given.work)
    equivalent = {_name(each): each["reason"] for each in table["equivalent"]}
    given.out.write_text(document(list(subjects.values()), given.work, equivalent, count=given.count), encoding="utf-8")
    return 0


def subject_of(name: str, table: Mapping[str, Any]) -> Subject:
    """A subject of the table."""
    found = table["subjects"][name]
    faults = [each for each in table["by_hand"] if each["module"] in found["modules"]]
    return Subject(name, found["modules"], found["tests"], faults, found.get("without", ()))


def run(subject: Subject, mutants: Sequence[Mutant], work: Path) -> None:
    """Run those that have not, and those that survived other tests than are there now; each result is kept at once."""
    kept, digest = results(subject, work), subject.digest()
    left = [each for each in mutants if not _known(kept.get(each.name), digest)]
    if not left:
        return
    tests = Tests.of(ROOT, work / f"tree-{_stem(subject)}", subject.selection)
    clean = tests.clean()
    _say(f"{subject.name}: {len(left)} mutants, {clean:.1f} s a run")
    with (work / f"{_stem(subject)}.jsonl").open("a", encoding="utf-8") as out:
        for number, mutant in enumerate(left, 1):
            ran = tests.run(mutant.module, mutant.source, clean=clean)
            line = {
                "name": mutant.name,
                "module": mutant.module,
                "line": mutant.line,
                "before": mutant.before,
                "after": mutant.after,
            }
            out.write(json.dumps({**line, "outcome": ran.outcome, "by": ran.by, "seconds": ran.seconds, "tests": digest}) + "\n")
            out.flush()
            _say(f"  {number} of {len(left)}: {ran.outcome} {mutant.module}:{mutant.line} {ran.by}")


def results(subject: Subject, work: Path) -> dict[str, dict[str, Any]]:
    """What is known of a subject's mutants, by name; the last word counts."""
    path = work / f"{_stem(subject)}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {found["name"]: found for found in map(json.loads, lines)}


def _known(found: Mapping[str, Any] | None, digest: str) -> bool:
    return found is not None and (found["outcome"] != "survived" or found["tests"] == digest)


def _name(entry: Mapping[str, str]) -> str:
    return Mutant(entry["module"], 0, entry["before"], entry["after"], "").name


def _files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def _stem(subject: Subject) -> str:
    return subject.name.replace(" ", "-")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# ------------------------------------------------------------------ the page


def document(subjects: Sequence[Subject], work: Path, equivalent: Mapping[str, str], *, count: int) -> str:
    """The page of what has run so far."""
    return "\n".join(_lines(subjects, work, equivalent, count=count))


def _lines(subjects: Sequence[Subject], work: Path, equivalent: Mapping[str, str], *, count: int) -> Iterator[str]:
    counts = [_count(subject, work, equivalent, count=count, seed=seed) for seed in SEEDS for subject in subjects]
    yield "# Do tests notice?"
    yield ""
    for count_of in counts:
        yield count_of.row()


def _count(subject: Subject, work: Path, equivalent: Mapping[str, str], *, count: int, seed: int) -> Count:
    mutants, ran = subject.mutants(), results(subject, work)
    chosen = drawn(mutants, count, seed=seed)
    spared = {
        each.name: equivalent[each.name]
        for each in chosen
        if each.name in equivalent and ran.get(each.name, {}).get("outcome") == "survived"
    }
    return Count(subject, seed, len(mutants), ran, chosen, spared)


if __name__ == "__main__":
    raise SystemExit(main())
