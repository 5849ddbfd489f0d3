from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compressor.errors import StoreError, WorkerFailed
from compressor.store import store as store_module
from compressor.store.store import CHECKSUM, ENTRY, FILES, MARK, STORE_VERSION, Store, digest_of, key_of
from compressor.training.checkpoint import INDEX, holds_checkpoint

PARTS = {"step": "a", "seed": 1}
FILE = f"{FILES}/deep/file.txt"
STAND_INS = Path(__file__).parents[2] / "stand_ins"


class Maker:
    def __init__(self, content: str = "hello") -> None:
        self.calls = 0
        self.content = content

    def __call__(self, out):
        self.calls += 1
        (out / "deep").mkdir()
        (out / "deep" / "file.txt").write_text(self.content)
        return {"rows": 3}


def left_over(root):
    return [path for path in root.rglob("*") if path.is_file() and not path.name.startswith(MARK)]


def test_obtain_makes_once_and_finds_after(tmp_path):
    maker, store = Maker(), Store(tmp_path)
    made, again = store.obtain(PARTS, maker), store.obtain(PARTS, maker)
    assert (maker.calls, made.found, again.found) == (1, False, True)
    assert (again.key, again.digest, again.path, again.facts) == (made.key, made.digest, made.path, made.facts)
    assert again.facts == {"rows": 3}
    assert (again.path / "deep" / "file.txt").read_text() == "hello"


def test_obtain_finds_when_another_store_has_the_same_root(tmp_path):
    Store(tmp_path).obtain(PARTS, Maker())
    found = Store(tmp_path).find({"seed": 1, "step": "a"})
    assert found is not None
    assert found.found


@pytest.mark.parametrize("parts", [{"step": "a", "seed": 2}, {"step": "a"}, {**PARTS, "more": None}])
def test_obtain_makes_another_when_any_part_differs(tmp_path, parts):
    maker, store = Maker(), Store(tmp_path)
    assert store.obtain(PARTS, maker).key != store.obtain(parts, maker).key
    assert maker.calls == 2


def test_key_ignores_the_order_of_parts():
    assert key_of({"a": 1, "b": {"c": 2, "d": 3}}) == key_of({"b": {"d": 3, "c": 2}, "a": 1})


def test_obtain_leaves_no_staging(tmp_path):
    Store(tmp_path).obtain(PARTS, Maker())
    assert list((tmp_path / "staging").iterdir()) == []


def test_obtain_keeps_nothing_when_the_maker_fails(tmp_path):
    def fail(out):
        (out / "half.txt").write_text("half")
        raise ValueError("broke")

    store, maker = Store(tmp_path), Maker()
    with pytest.raises(ValueError, match="broke"):
        store.obtain(PARTS, fail)
    assert left_over(tmp_path) == []
    assert store.find(PARTS) is None
    assert not store.obtain(PARTS, maker).found
    assert maker.calls == 1


def test_obtain_finds_again_when_facts_are_spelled_otherwise_in_json(tmp_path):
    facts = {"pair": (1, 2), 10: "ten", 9: "nine", "none": None, "third": 1 / 3}
    store = Store(tmp_path)
    made = store.obtain(PARTS, lambda out: facts)
    found = store.find(PARTS)
    assert found is not None
    assert found.facts == made.facts == {"pair": [1, 2], "10": "ten", "9": "nine", "none": None, "third": 1 / 3}


def test_obtain_keeps_nothing_when_facts_are_not_json(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        Store(tmp_path).obtain(PARTS, lambda out: {"facts": object()})
    assert left_over(tmp_path) == []


def forged(folder, **changes):
    """Put other values into an entry, with the checksum that they ask for."""
    entry = {**json.loads((folder / ENTRY).read_text()), **changes}
    entry.pop(CHECKSUM)
    for name in [name for name, value in changes.items() if value is None]:
        del entry[name]
    text = json.dumps(entry, sort_keys=True)
    (folder / ENTRY).write_text(json.dumps({**entry, CHECKSUM: hashlib.sha256(text.encode()).hexdigest()}))


def link_away(path):
    """Put a link in the place of a file or folder, which moves outside the store."""
    outside = next(each for each in path.parents if each.name == "store").parent / f"outside-{path.name}"
    path.rename(outside)
    path.symlink_to(outside)
    return outside


DAMAGES = {
    "content changed": (lambda entry: (entry / FILE).write_text("jello"), "its digest does not match"),
    "file removed": (lambda entry: (entry / FILE).unlink(), "its digest does not match"),
    "file added": (lambda entry: (entry / FILES / "more.txt").write_text(""), "its digest does not match"),
    "file renamed": (lambda entry: (entry / FILE).rename(entry / FILES / "other.txt"), "its digest does not match"),
    "file is a pipe": (lambda entry: os.mkfifo(entry / FILES / "pipe"), "is a pipe"),
    "folder of files removed": (lambda entry: shutil.rmtree(entry / FILES), "files is missing"),
    "entry removed": (lambda entry: (entry / ENTRY).unlink(), "entry.json is missing"),
    "entry empty": (lambda entry: (entry / ENTRY).write_text(""), "is not what was written"),
    "entry cut": (lambda entry: (entry / ENTRY).write_bytes((entry / ENTRY).read_bytes()[:-9]), "is not what was written"),
    "entry is a list": (lambda entry: (entry / ENTRY).write_text("[1]"), "is not what was written"),
    "entry nested deeply": (lambda entry: (entry / ENTRY).write_text("[" * 100_000), "is not what was written"),
    "entry not text": (lambda entry: (entry / ENTRY).write_bytes(b"\xff\xfe"), "is not what was written"),
    "facts changed": (
        lambda entry: (entry / ENTRY).write_text((entry / ENTRY).read_text().replace('"rows": 3', '"rows": 4')),
        "does not match its checksum",
    ),
    "entry is a folder": (lambda entry: ((entry / ENTRY).unlink(), (entry / ENTRY).mkdir()), "is no plain file"),
    "entry of an older store": (lambda entry: forged(entry, store=1), "older store"),
    "entry without a field": (lambda entry: forged(entry, digest=None), "lacks or misspells"),
    "parts of another result": (lambda entry: forged(entry, parts={"step": "b"}), "result of another key"),
    "something beside": (lambda entry: (entry / "virus.sh").write_text(""), "'virus.sh', which nobody put there"),
    "file is a link": (lambda entry: link_away(entry / FILE), "symbolic link"),
    "folder of files is a link": (lambda entry: link_away(entry / FILES), "symbolic link"),
    "entry is a link": (lambda entry: link_away(entry / ENTRY), "is no plain file"),
    "use is a link": (lambda entry: link_away(entry / "used" / "-"), "no folder of plain files"),
    "uses are a link": (lambda entry: link_away(entry / "used"), "no folder of plain files"),
    "whole result is a link": (lambda entry: link_away(entry), "is no plain folder"),
    "folder above is a link": (lambda entry: link_away(entry.parent), "is no plain folder"),
    "whole result is a file": (lambda entry: (shutil.rmtree(entry), entry.write_text("")), "is no plain folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_result_is_named_and_made_again(tmp_path, damage):
    told, (harm, said) = [], DAMAGES[damage]
    maker, store = Maker(), Store(tmp_path / "deep" / "store", tell=told.append)
    made = store.obtain(PARTS, maker)
    harm(made.path.parent)
    outside = {path: path.read_bytes() for path in tmp_path.rglob("outside-*") if path.is_file()}

    assert store.find(PARTS) is None
    again = store.obtain(PARTS, maker)
    assert (maker.calls, again.found, again.digest) == (2, False, made.digest)
    assert (again.path.parent / FILE).read_text() == "hello"
    assert len(told) == 2
    for line in told:
        assert said in line
        assert f"stored result {made.key[:12]} is damaged" in line
    assert store.obtain(PARTS, maker).found
    assert {path: path.read_bytes() for path in outside} == outside, "what a link led to was touched"


def test_two_results_swapped_are_both_made_again(tmp_path):
    store, maker = Store(tmp_path), Maker()
    one, two = (store.obtain({"step": name}, maker).path.parent for name in ("a", "b"))
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    assert [store.obtain({"step": name}, maker).found for name in ("a", "b")] == [False, False]
    assert [store.obtain({"step": name}, maker).found for name in ("a", "b")] == [True, True]


def test_flipped_bit_in_any_byte_is_noticed(tmp_path):
    """In the entry and in the files: either the result counts as damaged, or not a value of it has changed."""
    store = Store(tmp_path)
    made = store.obtain(PARTS, Maker())
    truth = (made.digest, made.facts, made.seconds)
    for path in (made.path.parent / ENTRY, made.path.parent / FILE):
        whole = path.read_bytes()
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            path.write_bytes(flipped)
            found = store.find(PARTS)
            assert found is None or (found.digest, found.facts, found.seconds) == truth, (path.name, place)
            if path.name != ENTRY:
                assert found is None
        path.write_bytes(whole)
    assert store.find(PARTS) is not None


def test_find_and_obtain_refuse_what_a_newer_version_wrote(tmp_path):
    store, maker = Store(tmp_path), Maker()
    folder = store.obtain(PARTS, maker).path.parent
    forged(folder, store=STORE_VERSION + 1)
    for attempt in (store.find, lambda parts: store.obtain(parts, maker)):
        with pytest.raises(StoreError, match=r"newer version \(store 3, known 2\): update compressor-toolchain"):
            attempt(PARTS)
    assert maker.calls == 1
    assert (folder / ENTRY).is_file()


@pytest.mark.parametrize("left", ["file", "link"])
def test_half_made_result_of_a_killed_run_is_cleared(tmp_path, left):
    Store(tmp_path).obtain({"step": "other"}, Maker())
    staging = tmp_path / "staging" / key_of(PARTS)
    if left == "link":
        (tmp_path / "outside").mkdir()
        (tmp_path / "outside" / "kept.txt").write_text("kept")
        staging.symlink_to(tmp_path / "outside")
    else:
        (staging / FILES).mkdir(parents=True)
        (staging / FILES / "half.txt").write_text("half")
    made = Store(tmp_path).obtain(PARTS, Maker())
    assert [path.name for path in made.path.rglob("*") if path.is_file()] == ["file.txt"]
    assert left == "file" or (tmp_path / "outside" / "kept.txt").read_text() == "kept"


def test_digest_does_not_depend_on_the_place_or_time(tmp_path):
    for name in ("one", "two/three"):
        (tmp_path / name).mkdir(parents=True)
        Maker()(tmp_path / name)
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two/three")


@pytest.mark.parametrize("name", ["deep/other.txt", "file.txt"])
def test_digest_differs_when_a_name_or_folder_differs(tmp_path, name):
    (tmp_path / "one").mkdir()
    Maker()(tmp_path / "one")
    other = tmp_path / "two" / name
    other.parent.mkdir(parents=True)
    other.write_text("hello")
    assert digest_of(tmp_path / "one") != digest_of(tmp_path / "two")


def test_obtain_refuses_a_symbolic_link(tmp_path):
    (tmp_path / "outside.txt").write_text("outside")

    def link(out):
        (out / "link").symlink_to(tmp_path / "outside.txt")
        return {}

    with pytest.raises(StoreError, match="symbolic link"):
        Store(tmp_path / "store").obtain(PARTS, link)
    assert left_over(tmp_path / "store") == []


def test_scratch_is_the_same_folder_until_the_result_is_stored(tmp_path):
    store, seen = Store(tmp_path), []

    def make(out):
        seen.append(sorted(path.name for path in store.scratch(PARTS).iterdir()))
        (store.scratch(PARTS) / f"checkpoint-{len(seen)}").touch()
        if len(seen) < 3:
            raise RuntimeError("stopped")
        return {}

    for _ in range(2):
        with pytest.raises(RuntimeError):
            store.obtain(PARTS, make)
    store.obtain(PARTS, make)
    assert seen == [[], ["checkpoint-1"], ["checkpoint-1", "checkpoint-2"]]
    assert list((tmp_path / "scratch").iterdir()) == []
    assert store.scratch({"step": "a"}) != store.scratch({"step": "b"})


def test_scratch_keeps_only_what_is_whole(tmp_path):
    scratch = Store(tmp_path / "store").scratch(PARTS)
    (scratch / "training-distill").mkdir()
    (scratch / "training-distill" / INDEX).touch()
    (scratch / "training-other").mkdir()
    (scratch / "training-other" / "step-1.safetensors.unfinished").touch()
    (scratch / "config.json").touch()
    (scratch / "outside").symlink_to("/")
    (scratch / "nowhere").symlink_to(tmp_path / "nowhere")
    assert Store(tmp_path / "store").scratch(PARTS, keep=holds_checkpoint) == scratch
    assert [path.name for path in scratch.iterdir()] == ["training-distill"]


def test_scratch_does_not_follow_a_link(tmp_path):
    Store(tmp_path).scratch(PARTS).rmdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "scratch" / key_of(PARTS)).symlink_to(tmp_path / "outside")
    (Store(tmp_path).scratch(PARTS) / "file").touch()
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_store_that_cannot_be_written_is_named(tmp_path, root):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"file.* cannot be (read as a folder|written) \(Not a directory\): name another"):
        Store(tmp_path / root).obtain(PARTS, Maker())


@pytest.mark.parametrize("use", ["obtain", "find", "scratch", "running"])
def test_folder_that_is_no_store_is_refused_and_left_alone(tmp_path, use):
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "mine.txt").write_text("mine")
    store = Store(tmp_path)
    uses = {
        "obtain": lambda: store.obtain(PARTS, Maker()),
        "find": lambda: store.find(PARTS),
        "scratch": lambda: store.scratch(PARTS),
        "running": lambda: store.running().__enter__(),
    }
    with pytest.raises(StoreError) as raised:
        uses[use]()
    said = f"{tmp_path} is no store and not empty ('staging' lies in it): name another folder with --store"
    assert str(raised.value) == said
    assert [path.name for path in tmp_path.rglob("*")] == ["staging", "mine.txt"]


def test_store_from_before_they_were_marked_is_taken_and_marked(tmp_path):
    maker = Maker()
    Store(tmp_path).obtain(PARTS, maker)
    (tmp_path / f"{MARK}{STORE_VERSION}").unlink()
    assert Store(tmp_path).obtain(PARTS, maker).found
    assert (tmp_path / f"{MARK}{STORE_VERSION}").is_file()
    (tmp_path / f"{MARK}{STORE_VERSION}").unlink()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(StoreError, match="is no store and not empty"):
        Store(tmp_path).obtain(PARTS, maker)


def test_store_of_a_newer_layout_is_refused_and_left_alone(tmp_path):
    (tmp_path / f"{MARK}{STORE_VERSION + 1}").touch()
    (tmp_path / "unheard-of").mkdir()
    with pytest.raises(StoreError) as raised:
        Store(tmp_path).obtain(PARTS, Maker())
    assert str(raised.value) == (
        f"{tmp_path} was written by a newer version (store 3, known 2): "
        "update compressor-toolchain, or name another folder with --store"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{MARK}3", "unheard-of"]


def test_result_that_cannot_be_read_is_kept(tmp_path, monkeypatch):
    store, maker = Store(tmp_path), Maker()
    made = store.obtain(PARTS, maker)

    def fail(path):
        raise OSError(errno.EMFILE, "Too many open files", str(path))

    monkeypatch.setattr(store_module, "sha256_of", fail)
    for attempt in (store.find, lambda parts: store.obtain(parts, maker)):
        with pytest.raises(StoreError) as raised:
            attempt(PARTS)
        assert str(raised.value) == (
            f"{made.path / 'deep/file.txt'} cannot be read (Too many open files): what is stored there may be whole, and is kept; "
            "see to it that it can be read, or name another folder with --store"
        )
    monkeypatch.undo()
    assert store.obtain(PARTS, maker).found
    assert maker.calls == 1


# ------------------------------------------------------------------ failures that pass


def out_of_memory(out):
    import numpy as np

    np.ones(1 << 56)


def interrupt(out):
    raise KeyboardInterrupt  # runs that get the signal itself are those of test_forked_runs


def lost_worker(out):
    from compressor.contracts import Candidate
    from compressor.deploy.bench import ProcessBench

    sleeping = runpy.run_path(str(STAND_INS / "sleeping.py"), run_name="sleeping")["Sleeping"](fault="killed")
    with ProcessBench(out.parent / "bench", tell=lambda event: None) as bench:
        worker = bench.worker(Candidate("source@a", "source", "a", sleeping, out))
        worker.put([{}])
        worker.run(1)


@pytest.mark.parametrize(
    ("failure", "error"), [(out_of_memory, MemoryError), (interrupt, KeyboardInterrupt), (lost_worker, WorkerFailed)]
)
def test_failure_that_passes_is_never_stored(tmp_path, monkeypatch, failure, error):
    monkeypatch.setenv("PYTHONPATH", f"{STAND_INS}{os.pathsep}{Path(__file__).parents[3]}")

    def make(out):
        (out / "half").touch()
        failure(out)
        return {}

    store, maker = Store(tmp_path), Maker()
    with pytest.raises(error):
        store.obtain(PARTS, make)
    assert left_over(tmp_path) == []
    assert store.find(PARTS) is None
    assert not store.obtain(PARTS, maker).found
    assert maker.calls == 1


# ------------------------------------------------------------------ several processes

WORK = """
import sys, time, pathlib, random, json
from compressor.store import Store
root, log, seed = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store, digests, said = Store(root, tell=lambda line: said.append(line)), {}, []
def maker(step):
    def make(out):
        with open(log, "a") as file:
            file.write(step + "\\n")
        time.sleep(0.05)
        (out / "file").write_text(step)
        return {"step": step}
    return make
steps = [f"step-{number}" for number in range(8)]
random.Random(seed).shuffle(steps)
with store.running():
    for step in steps:
        digests[step] = store.obtain({"step": step}, maker(step)).digest
print(json.dumps([digests, said]))
"""


@pytest.mark.parametrize("count", [2, 4])
def test_processes_on_one_store_make_nothing_twice(tmp_path, count):
    log = tmp_path / "made.txt"
    commands = [[sys.executable, "-c", WORK, str(tmp_path / "store"), str(log), str(seed)] for seed in range(count)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for command in commands]
    answers = [json.loads(run.communicate()[0]) for run in runs]
    assert sorted(log.read_text().splitlines()) == [f"step-{number}" for number in range(8)]
    assert all(digests == answers[0][0] for digests, _ in answers)
    assert len(set(answers[0][0].values())) == 8
    assert [path for name in ("staging", "locks", "runs") for path in (tmp_path / "store" / name).iterdir()] == []


def test_waiting_says_whom_it_waits_for_and_ends_with_that_process(tmp_path):
    hold = (
        "import sys, pathlib; from compressor.store import Store\n"
        "def make(out): print('making', flush=True); sys.stdin.read(); return {}\n"
        "Store(pathlib.Path(sys.argv[1])).obtain({'step': 'a', 'seed': 1}, make)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert other.stdout.readline() == "making\n"
    told = []

    def tell(line):
        told.append(line)
        other.kill()  # the lock goes with it

    maker = Maker()
    assert not Store(tmp_path, tell=tell).obtain(PARTS, maker).found
    other.communicate()
    assert maker.calls == 1
    assert len(told) == 1
    assert re.fullmatch(rf"a: waits for process {other.pid} on \S+ \(a, since 20\S+\)", told[0])
