"""The study of mutants on a project of its own: which faults are made, drawn, run, and counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.studies.mutants import TABLE, Count, Subject, results, subject_of
from benchmarks.studies.mutation import Mutant, by_hand, drawn, mutants_of

ROOT = Path(__file__).parents[3]
SOURCE = '''"""Adds."""

from __future__ import annotations

from functools import cache

LIMIT: int = 3


@cache
def add(one: int, other: int = 1) -> int:
    """Add them."""
    if one > LIMIT:
        raise ValueError(f"{one} is too large")
    return one + other


class Adder:
    paper: str = "A paper, 2026"

    def twice(self, number: int | None) -> int:
        return add(number, other=number) if number is not None else 0
'''
TESTS = """
import pytest
from compressor.adding import Adder, add

def test_sum(): assert (add(2), add(2, 3)) == (3, 5)
def test_limit():
    with pytest.raises(ValueError, match="4 is"): add(4)
"""
RUN = """
import json, sys
from pathlib import Path
from benchmarks.studies import forked_tests
from benchmarks.studies.forked_tests import Tests, prepare
forked_tests.LEAST_SECONDS = 3.0
root, work = Path(sys.argv[1]), Path(sys.argv[2])
mutants = json.loads(sys.stdin.read())
prepare(Path(sys.argv[3]))
tests = Tests.of(root, work / "tree", ["tests"])
def runs():
    clean = tests.clean()
    found = [tests.run("compressor/adding.py", source, clean=0.1) for source in mutants]
    (work / "found.json").write_text(json.dumps([[each.outcome, each.by] for each in found]))
tests.apart_from(["compressor/adding.py"], runs)
"""


def changed(mutants):
    return {(each.line, each.before, each.after) for each in mutants}


def test_mutants_are_of_what_runs_and_each_is_one_change():
    found = mutants_of("adding.py", SOURCE)
    assert len({each.name for each in found}) == len(found)
    assert {
        (7, "LIMIT: int = 3", "LIMIT: int = 4"),
        (7, "LIMIT: int = 3", "LIMIT: int = None"),
        (11, "def add(one: int, other: int = 1) -> int:", "def add(one: int, other: int = 2) -> int:"),
        (13, "if one > LIMIT:", "if one >= LIMIT:"),
        (15, "return one + other", "return one - other"),
    } <= changed(found)
    assert {each.line for each in found} == {7, 11, 13, 14, 15, 22}, "no imports, decorators, docstrings and papers"
    assert not any("int & None" in each.after for each in found), "no annotations"
    for each in found:
        compile(each.source, "mutant", "exec")
        differs = [
            number
            for number, pair in enumerate(zip(SOURCE.splitlines(), each.source.splitlines(), strict=True), 1)
            if pair[0] != pair[1]
        ]
        assert differs == [each.line]


def test_names_of_mutants_and_draws_hold_when_other_lines_change():
    before, after = mutants_of("adding.py", SOURCE), mutants_of("adding.py", f"'''More.'''\nMORE = 9\n{SOURCE[11:]}")
    assert {each.name for each in before} < {each.name for each in after}
    assert len(drawn(before, 5, seed=0)) == 5
    assert drawn(before, 5, seed=0) == drawn(list(reversed(before)), 5, seed=0) != drawn(before, 5, seed=1)
    assert len(drawn(before, 999, seed=0)) == len(before)
    names = {each.name for each in drawn(after, 5, seed=0)}
    assert {each.name for each in drawn(before, 5, seed=0)} - names <= {each.name for each in before}


def test_fault_by_hand_replaces_a_text_that_is_there_once():
    found = by_hand("adding.py", SOURCE, "one + other", "one")
    assert (found.line, found.before, found.after) == (15, "return one + other", "return one")
    for text in ("no such text", "int"):
        with pytest.raises(ValueError, match="times, not once"):
            by_hand("adding.py", SOURCE, text, "")


def test_forks_see_the_fault_and_tell_which_test_it_died_by(tmp_path):
    root, work = tmp_path / "root", tmp_path / "work"
    for name, text in (
        ("compressor/__init__.py", ""),
        ("compressor/adding.py", SOURCE),
        ("tests/test_adding.py", TESTS),
        ("compressor/using.py", "from compressor.adding import add\n"),
        ("pyproject.toml", "[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    work.mkdir()
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    faults = (
        ("one + other", "one - other"),
        ("one > LIMIT", "one > 99"),
        ("else 0", "else 1"),
        ("return one", "while True: one"),
    )
    mutants = [SOURCE, *(SOURCE.replace(*fault) for fault in faults), SOURCE.replace("return one", "retrun one")]
    command = [sys.executable, "-c", RUN, str(root), str(work), str(ROOT)]
    subprocess.run(command, input=json.dumps(mutants), text=True, check=True, cwd=ROOT)
    assert json.loads((work / "found.json").read_text()) == [
        ["survived", ""],
        ["killed", "tests/test_adding.py::test_sum"],
        ["killed", "tests/test_adding.py::test_limit"],
        ["survived", ""],
        ["timed out", ""],
        ["killed", "tests/test_adding.py"],
    ]
    assert (root / "compressor/adding.py").read_text() == (work / "tree/compressor/adding.py").read_text() == SOURCE


def test_share_is_of_those_that_are_not_equivalent_and_of_what_has_run():
    mutants = [Mutant("a.py", number, f"before {number}", "after", "") for number in range(6)]
    outcomes = ("killed", "killed", "timed out", "survived", "survived")
    ran = {each.name: {"outcome": outcome} for each, outcome in zip(mutants, outcomes, strict=False)}
    count = Count(Subject("a", ["a.py"], [], []), 0, 9, ran, mutants, {mutants[3].name: "same"})
    assert (count.killed, count.timed_out, count.survivors, count.known) == (3, 1, [mutants[4]], 5)
    assert count.share == "75.0%"
    later = Count(count.subject, 1, 9, ran, mutants[3:], {mutants[3].name: "same"})
    apart = later.apart_from(Count(count.subject, 0, 9, ran, mutants[4:5], {}))
    assert (apart.known, apart.share, apart.drawn) == (1, "-", [mutants[3], mutants[5]])


def test_last_word_on_a_mutant_counts(tmp_path):
    subject = Subject("two words", [], [], [])
    assert results(subject, tmp_path) == {}
    lines = [{"name": "a", "outcome": outcome} for outcome in ("survived", "killed")]
    (tmp_path / "two-words.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert results(subject, tmp_path) == {"a": {"name": "a", "outcome": "killed"}}


@pytest.mark.parametrize("name", yaml.safe_load(TABLE.read_text(encoding="utf-8"))["subjects"])
def test_subjects_and_faults_by_hand_are_there(name):
    subject = subject_of(name, yaml.safe_load(TABLE.read_text(encoding="utf-8")))
    assert all((ROOT / path).is_file() for path in subject.modules)
    assert all((ROOT / test.partition("::")[0]).exists() for test in subject.tests)
    assert len(subject.by_hand()) == len(subject.faults)
    assert len(subject.digest()) == 16
