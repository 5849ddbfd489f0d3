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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.studies.forked_tests import Tests, prepare
from benchmarks.studies.mutation import Mutant, by_hand, drawn, mutants_of

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("mutants.yaml")
DRAWN = 60
SHOWN = 160
"""Characters of a line that are shown."""
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
    afresh: int | None = None
    """A seed of a third draw, where survivors of the second were seen before tests were written."""

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

    @property
    def known(self) -> int:
        """How many of those drawn have run."""
        return self.killed + len(self.survivors) + len(self.equivalent)

    @property
    def share(self) -> str:
        """Of those that are not equivalent, how many died."""
        ran = self.killed + len(self.survivors)
        return f"{self.killed / ran:.1%}" if ran else "-"

    def apart_from(self, other: Count) -> Count:
        """Of those that another draw has not drawn."""
        left = [each for each in self.drawn if each.name not in {one.name for one in other.drawn}]
        names = {each.name for each in left}
        return replace(self, drawn=left, equivalent={name: why for name, why in self.equivalent.items() if name in names})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what has not run, and write the page."""
    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="of the draw; several are run one after the other")
    parser.add_argument(
        "--modules", nargs="+", choices=sorted(table["subjects"]), default=list(table["subjects"]), metavar="NAME"
    )
    parser.add_argument("--count", type=int, default=DRAWN, help="mutants of each")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/mutants", help="where results are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/mutants.md")
    parser.add_argument("--run-only", action="store_true", help="write no page, which takes a minute")
    parser.add_argument("--counted", action="store_true", help="run nothing: write the page of what has run already")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    subjects = {name: subject_of(name, table) for name in table["subjects"]}
    if not given.counted:
        prepare(ROOT)
        for name in given.modules:
            chosen = [each for seed in given.seed for each in drawn(subjects[name].mutants(), given.count, seed=seed)]
            run(subjects[name], [*chosen, *subjects[name].by_hand().values()], given.work)
    if given.run_only:
        return 0
    equivalent = {_name(each): each["reason"] for each in table["equivalent"]}
    given.out.write_text(document(list(subjects.values()), given.work, equivalent, count=given.count), encoding="utf-8")
    return 0


def subject_of(name: str, table: Mapping[str, Any]) -> Subject:
    """A subject of the table."""
    found = table["subjects"][name]
    faults = [each for each in table["by_hand"] if each["module"] in found["modules"]]
    return Subject(name, found["modules"], found["tests"], faults, found.get("without", ()), found.get("afresh"))


def run(subject: Subject, mutants: Sequence[Mutant], work: Path) -> None:
    """Run those that have not, and those that survived other tests than are there now; each result is kept at once."""
    kept, digest = results(subject, work), subject.digest()
    left = {each.name: each for each in mutants if not _known(kept.get(each.name), digest)}
    if not left:
        return
    tests = Tests.of(ROOT, work / f"tree-{_stem(subject)}", subject.selection)
    tests.apart_from(subject.modules, lambda: _run_on(tests, subject, list(left.values()), work, digest))


def _run_on(tests: Tests, subject: Subject, mutants: Sequence[Mutant], work: Path, digest: str) -> None:
    clean = tests.clean()
    _say(f"{subject.name}: {len(mutants)} mutants, {clean:.1f} s a run")
    with (work / f"{_stem(subject)}.jsonl").open("a", encoding="utf-8") as out:
        for number, mutant in enumerate(mutants, 1):
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
            _say(f"  {number} of {len(mutants)}: {ran.outcome} {mutant.module}:{mutant.line} {ran.by}")


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
    from compressor.deploy.machine import machine, versions

    counts = [_count(subject, work, equivalent, count=count, seed=seed) for seed in SEEDS for subject in subjects]
    first, second = (list(_table(counts, seed)) for seed in SEEDS)
    afresh = [_count(each, work, equivalent, count=count, seed=each.afresh) for each in subjects if each.afresh is not None]
    here, installed = machine(), versions(("compressor-toolchain", "mutmut", "pytest", "torch"))
    return "\n".join(
        [
            "# Do tests notice?",
            "",
            "`python -m benchmarks.studies.mutants` remakes this page (`--seed 1` for the second table); what has run is kept, and only",
            "mutants that survived tests which have changed since run again.",
            "",
            "A mutant is a module with one fault by [mutmut](https://mutmut.readthedocs.io)'s operators: another operator, number, text or",
            "constant, an argument left out or None. Annotations, names of types, decorators, imports and what only people read (docstrings,",
            "descriptions of parameters, papers) have none. Each runs against the tests named below alone and dies where one fails, or takes",
            "ten times as long as all of them do (and 30 s). One that survived runs again when the tests change; one that died does not.",
            "Equivalent mutants, which no test could tell from the module, are listed with the reason.",
            "",
            "## Drawn by seed 0",
            "",
            "Tests were written by what survived here.",
            "",
            *first,
            "",
            "## Drawn by seed 1",
            "",
            "No test was written by these. `new` are those that seed 0 did not draw.",
            "",
            *second,
            "",
            *(line for each in afresh for line in _afresh(each, counts)),
            "## Made by hand",
            "",
            "| fault | module | died by |",
            "| --- | --- | --- |",
            *(line for subject in subjects for line in _by_hand(subject, work)),
            "",
            "## Tests",
            "",
            "| subject | modules | tests |",
            "| --- | --- | --- |",
            *(f"| {each.name} | {_listed(each.modules)} | {_listed(each.tests)}{_without(each)} |" for each in subjects),
            "",
            "## Equivalent",
            "",
            *_reasons([*counts, *afresh]),
            "",
            "## Survived",
            "",
            *_survived([*counts, *afresh]),
            "",
            f"- Machine: {here.named}.",
            f"- Versions: {', '.join(f'{name} {number}' for name, number in installed.items())}; Python {here.python}.",
            "",
        ]
    )


def _table(counts: Sequence[Count], seed: int) -> Iterator[str]:
    new = " new | of new died |" if seed else ""
    yield f"| subject | mutants | drawn | ran | died | timed out | equivalent | survived | of the non-equivalent died |{new}"
    yield f"| --- | {'---: | ' * (7 + 2 * bool(seed))}---: |"
    for each in counts:
        if each.seed == seed:
            further = (
                each.apart_from(next(one for one in counts if one.subject is each.subject and one.seed != seed)) if seed else None
            )
            shown = f" {further.known} | {further.share} |" if further else ""
            yield (
                f"| {each.subject.name} | {each.of} | {len(each.drawn)} | {each.known} | {each.killed} | {each.timed_out} "
                f"| {len(each.equivalent)} | {len(each.survivors)} | {each.share} |{shown}"
            )


def _afresh(count: Count, others: Sequence[Count]) -> Iterator[str]:
    yield f"## {count.subject.name.capitalize()}, drawn by seed {count.seed}"
    yield ""
    yield "Survivors of both seeds were seen before tests of one of the modules were written; these were drawn afterwards."
    yield ""
    yield from _table([count, *(each for each in others if each.subject is count.subject)], count.seed)
    yield ""


def _by_hand(subject: Subject, work: Path) -> Iterator[str]:
    kept = results(subject, work)
    for what, mutant in subject.by_hand().items():
        found = kept.get(mutant.name, {"outcome": "not run", "by": ""})
        by = f"`{found['by'].rpartition('::')[2]}`" if found["outcome"] == "killed" else found["outcome"]
        yield f"| {what} | `{mutant.module}` | {by} |"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _without(subject: Subject) -> str:
    return f", but those with {_listed(subject.without)} in their name, which take seconds each" if subject.without else ""


def _reasons(counts: Sequence[Count]) -> Iterator[str]:
    yield "| module | line | mutant | reason |"
    yield "| --- | --- | --- | --- |"
    shown = {
        each.name: (each, count.equivalent[each.name])
        for count in counts
        for each in count.drawn
        if each.name in count.equivalent
    }
    for mutant, reason in shown.values():
        yield f"| `{mutant.module}` | {_code(mutant.before)} | {_code(mutant.after)} | {reason} |"


def _survived(counts: Sequence[Count]) -> Iterator[str]:
    yield "| seed | module | line | mutant |"
    yield "| ---: | --- | --- | --- |"
    for count in counts:
        for each in count.survivors:
            yield f"| {count.seed} | `{each.module}` | {_code(each.before)} | {_code(each.after)} |"


def _code(text: str) -> str:
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return f"`{shown.replace('|', chr(92) + '|').replace('`', chr(39))}`"


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
