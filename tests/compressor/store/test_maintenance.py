import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from compressor.cli import app
from compressor.errors import StoreError
from compressor.store.locks import holder
from compressor.store.maintenance import bytes_of, prune, seconds_of, survey, verify
from compressor.store.store import ENTRY, FILES, Store

DAY = 86400.0


def put(root, step, *, size=1000, days_ago=0.0, plan="-"):
    """A result of so many bytes, last used so long ago by a plan."""
    made = Store(root, plan=plan).obtain({"step": step}, lambda out: (out / "model").write_bytes(b"x" * size) and {})
    then = time.time() - days_ago * DAY
    os.utime(made.path.parent / "used" / plan, (then, then))
    return made


def steps(kept):
    return [each.step for each in kept]


def left(root):
    return sorted(steps(survey(Store(root))))


def command(*arguments):
    return CliRunner().invoke(app, ["store", *arguments])


def test_survey_lists_the_least_recently_used_first(tmp_path):
    put(tmp_path, "new")
    old = put(tmp_path, "old", size=5000, days_ago=3, plan="bbc")
    first, second = survey(Store(tmp_path))
    assert (first.step, first.key, first.plans, first.path) == ("old", old.key, ("bbc",), old.path.parent)
    assert 5000 < first.bytes < 7000
    assert first.used_seconds == pytest.approx(time.time() - 3 * DAY, abs=60)
    assert first.made.endswith("+00:00")
    assert second.step == "new"


def test_using_a_result_makes_it_the_last_to_go_and_notes_the_plan(tmp_path):
    for step in ("a", "b"):
        put(tmp_path, step, days_ago=9)
    put(tmp_path, "a", plan="later")
    assert [(each.step, each.plans) for each in survey(Store(tmp_path))] == [("b", ("-",)), ("a", ("-", "later"))]


def test_prune_by_age_removes_what_was_not_used_since(tmp_path):
    put(tmp_path, "old", days_ago=31)
    put(tmp_path, "young", days_ago=29)
    assert steps(prune(Store(tmp_path), older_than_seconds=30 * DAY)) == ["old"]
    assert left(tmp_path) == ["young"]
    assert verify(Store(tmp_path)).whole == 1


def test_prune_to_a_size_removes_the_least_recently_used_first(tmp_path):
    for days, step in enumerate("abcd"):
        put(tmp_path, step, size=10_000, days_ago=1 + days)
    assert steps(prune(Store(tmp_path), to_bytes=25_000)) == ["d", "c"]
    assert left(tmp_path) == ["a", "b"]
    assert prune(Store(tmp_path), to_bytes=25_000) == ()


def test_prune_by_plan_spares_what_another_plan_used(tmp_path):
    for step in ("alone", "shared"):
        put(tmp_path, step, days_ago=1, plan="mine")
    put(tmp_path, "shared", days_ago=1, plan="theirs")
    put(tmp_path, "other", days_ago=1, plan="theirs")
    assert steps(prune(Store(tmp_path), plan="mine")) == ["alone"]
    assert left(tmp_path) == ["other", "shared"]


def test_prune_conditions_narrow_one_another(tmp_path):
    put(tmp_path, "old of mine", days_ago=9, plan="mine")
    put(tmp_path, "new of mine", days_ago=1, plan="mine")
    put(tmp_path, "old of theirs", days_ago=9, plan="theirs")
    assert steps(prune(Store(tmp_path), plan="mine", older_than_seconds=5 * DAY)) == ["old of mine"]


def test_dry_run_names_the_same_and_removes_nothing(tmp_path):
    put(tmp_path, "old", days_ago=31)
    would = prune(Store(tmp_path), older_than_seconds=DAY, dry_run=True)
    assert left(tmp_path) == ["old"]
    assert prune(Store(tmp_path), older_than_seconds=DAY) == would


def test_prune_removes_unfinished_work_when_it_is_old(tmp_path):
    scratch = Store(tmp_path).scratch({"step": "distill"})
    (scratch / "checkpoint").write_bytes(b"x" * 100)
    assert prune(Store(tmp_path), older_than_seconds=DAY) == ()
    for path in (scratch / "checkpoint", scratch):
        os.utime(path, (1, 1))
    assert steps(prune(Store(tmp_path), older_than_seconds=DAY)) == ["(unfinished)"]
    assert not scratch.exists()


def test_prune_spares_what_a_living_run_used(tmp_path):
    put(tmp_path, "before", days_ago=1)
    put(tmp_path, "used", days_ago=1)
    code = (
        "import sys, pathlib; from compressor.store import Store; store = Store(pathlib.Path(sys.argv[1]))\n"
        "with store.running():\n"
        "    assert store.obtain({'step': 'used'}, None).found\n"
        "    print('ready', flush=True); sys.stdin.read()"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "ready\n"
    assert steps(prune(Store(tmp_path), to_bytes=0)) == ["before"]
    run.communicate()
    assert steps(prune(Store(tmp_path), to_bytes=0)) == ["used"]


def test_prune_spares_what_a_living_run_used_though_the_clock_was_set_back(tmp_path):
    put(tmp_path, "before", days_ago=3)
    put(tmp_path, "found", days_ago=3)
    store, ahead = Store(tmp_path, plan="tiny"), time.time() + DAY
    with store.running():
        (run,) = (tmp_path / "runs").iterdir()
        os.utime(run, (ahead, ahead))  # so it looks to a process after the clock was set back by a day
        assert store.obtain({"step": "found"}, None).found
        store.obtain({"step": "made"}, lambda out: {})
        assert steps(prune(Store(tmp_path), to_bytes=0)) == ["before"]
        assert [store.find({"step": each}) is not None for each in ("found", "made")] == [True, True]


def test_prune_spares_what_is_being_made(tmp_path):
    store, seen = Store(tmp_path), []

    def make(out):
        scratch = store.scratch({"step": "train"})
        (scratch / "checkpoint").touch()
        for path in (scratch / "checkpoint", scratch):
            os.utime(path, (1, 1))
        seen.append(prune(Store(tmp_path), to_bytes=0))
        assert (scratch / "checkpoint").exists()
        return {}

    store.obtain({"step": "train"}, make)
    assert seen == [()]


def test_verify_names_what_is_damaged(tmp_path):
    put(tmp_path, "whole")
    bad, worse = put(tmp_path, "bad"), put(tmp_path, "worse")
    (bad.path / "model").write_bytes(b"y")
    (worse.path.parent / ENTRY).write_text("{")
    found = verify(Store(tmp_path))
    assert (found.whole, found.busy) == (1, 0)
    assert found.damaged[bad.path.parent] == "its digest does not match"
    assert "is not what was written" in found.damaged[worse.path.parent]
    assert sorted(steps(survey(Store(tmp_path)))) == ["(damaged)", "bad", "whole"]


def test_a_run_clears_what_killed_runs_left_and_nothing_of_living_ones(tmp_path):
    code = (
        "import sys, os, pathlib; from compressor.store import Store; store = Store(pathlib.Path(sys.argv[1]))\n"
        "def make(out):\n"
        "    (store.scratch({'step': sys.argv[2]}) / 'checkpoint').touch(); (out / 'half').touch()\n"
        "    print('half', flush=True); sys.stdin.read(); return {}\n"
        "with store.running(): store.obtain({'step': sys.argv[2]}, make)"
    )
    runs = {}
    for step in ("killed", "living"):
        runs[step] = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), step], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert runs[step].stdout.readline() == "half\n"
    runs["killed"].kill()
    runs["killed"].communicate()
    assert len(list((tmp_path / "staging").iterdir())) == 2
    with Store(tmp_path).running():
        assert len(list((tmp_path / "staging").iterdir())) == len(list((tmp_path / "locks").iterdir())) == 1
        assert len(list((tmp_path / "runs").iterdir())) == 2
        assert len(list((tmp_path / "scratch").iterdir())) == 2, "a killed step goes on from its scratch"
    (lock,) = (tmp_path / "locks").iterdir()
    assert f"process {runs['living'].pid} on " in holder(lock)
    assert "(living, since " in holder(lock)
    runs["living"].communicate()
    assert runs["living"].returncode == 0
    assert left(tmp_path) == ["(unfinished)", "living"]
    assert list((tmp_path / "locks").iterdir()) == list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(("text", "value"), [("45m", 2700), ("12h", 43200), ("30d", 30 * DAY), ("1.5 w", 10.5 * DAY)])
def test_seconds_of_reads_a_span_of_time(text, value):
    assert seconds_of(text) == value


@pytest.mark.parametrize(("text", "value"), [("5GB", 5 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("0B", 0)])
def test_bytes_of_reads_a_size(text, value):
    assert bytes_of(text) == value


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1e9d", "30 days", "9" * 40 + "d"])
def test_what_is_no_span_or_size_is_refused(text):
    with pytest.raises(StoreError, match="is no span of time: write 45m, 12h, 30d or 2w"):
        seconds_of(text)
    with pytest.raises(StoreError, match=r"is no size: write 5GB, 500MB or 1\.5GiB"):
        bytes_of(text)


# ------------------------------------------------------------------ the commands


def test_commands_list_size_verify_and_prune(tmp_path):
    here = ("--store", str(tmp_path))
    made = put(tmp_path, "finetune", days_ago=40, plan="bbc")
    put(tmp_path, "lower", size=2_000_000, plan="bbc")

    listed = command("list", *here).stdout.splitlines()
    assert listed[0].split() == ["step", "made", "bytes", "seconds", "key", "plans"]
    assert listed[1].split()[0] == "finetune"
    assert listed[1].split()[-2:] == [made.key[:12], "bbc"]
    assert command("size", *here).stdout.splitlines()[1].split() == ["lower", "1", "2.0", "MB"]
    assert command("verify", *here).stdout == "2 whole, 0 damaged\n"

    (made.path.parent / FILES / "model").write_bytes(b"y")
    damaged = command("verify", *here)
    assert damaged.exit_code == 1
    assert damaged.stdout.splitlines() == [
        f"{made.path.parent}: damaged: its digest does not match",
        "1 whole, 1 damaged",
    ]
    dry = command("prune", "--older-than", "30d", "--dry-run", *here)
    assert dry.stdout.splitlines()[-1] == "would remove 1, 0.0 MB"
    assert command("prune", "--plan", "bbc", "--older-than", "30d", *here).stdout.splitlines()[-1] == "removed 1, 0.0 MB"
    assert left(tmp_path) == ["lower"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say what may go: --older-than 30d, --to-size 5GB or --plan PLAN"),
        (("--older-than", "soon"), "'soon' is no span of time: write 45m, 12h, 30d or 2w"),
        (("--to-size", "small"), "'small' is no size: write 5GB, 500MB or 1.5GiB"),
        (("--plan", "bcc"), "no result in STORE was used by a plan named 'bcc' (did you mean 'bbc'?)"),
    ],
)
def test_prune_command_says_what_is_wrong(tmp_path, arguments, said):
    put(tmp_path, "finetune", days_ago=40, plan="bbc")
    refused = command("prune", "--store", str(tmp_path), *arguments)
    assert isinstance(refused.exception, StoreError)
    assert str(refused.exception) == said.replace("STORE", str(tmp_path))
    assert left(tmp_path) == ["finetune"]


@pytest.mark.parametrize("name", ["list", "size", "verify", "prune"])
def test_store_that_is_not_there_is_not_said_to_be_whole(tmp_path, name):
    refused = command(name, "--store", str(tmp_path / "none"), *(["--to-size", "0B"] if name == "prune" else []))
    assert isinstance(refused.exception, StoreError)
    assert str(refused.exception) == f"{tmp_path / 'none'}: no such folder: name the store's by --store"
    assert not (tmp_path / "none").exists()
