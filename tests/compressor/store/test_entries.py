"""What a store writes, to the byte and in which order, and what it says of what it cannot take."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compressor.errors import StoreError
from compressor.store import store as store_module
from compressor.store.store import DamagedEntry, Store, digest_of, discard, key_of, read_entry, remove, sha256_of

PARTS = {"step": "a", "seed": 1, "pair": (1, 2), "name": "\u00e9"}
CANONICAL = '{"name": "\u00e9", "pair": [1, 2], "seed": 1, "step": "a"}'
KEY = hashlib.sha256(CANONICAL.encode()).hexdigest()
DIGEST = hashlib.sha256(
    b"".join(f"{name}\0{hashlib.sha256(b'hello').hexdigest()}\n".encode() for name in ("a.txt", "deep/b.txt"))
)


def make(out):
    (out / "deep").mkdir()
    for name in ("deep/b.txt", "a.txt"):
        (out / name).write_text("hello")
    return {"rows": 3}


def refused(message):
    return pytest.raises(StoreError, match=f"^{re.escape(message)}$")


def test_key_and_digest_are_those_of_earlier_versions(tmp_path):
    assert key_of(PARTS) == KEY
    make(tmp_path)
    assert sha256_of(tmp_path / "a.txt") == hashlib.sha256(b"hello").hexdigest()
    assert digest_of(tmp_path) == DIGEST.hexdigest()


def test_result_lies_under_its_key_with_all_that_is_known_of_it(tmp_path):
    store, before = Store(tmp_path, plan="mine"), datetime.now(UTC)
    found = store.obtain(PARTS, make)
    folder = tmp_path / "results" / KEY[:2] / KEY
    entry = json.loads((folder / "entry.json").read_text())
    made, checksum, seconds = entry.pop("made"), entry.pop("sha256"), entry.pop("seconds")
    assert entry == {
        "store": 2,
        "key": KEY,
        "parts": json.loads(CANONICAL),
        "digest": DIGEST.hexdigest(),
        "facts": {"rows": 3},
    }
    text = json.dumps({**entry, "made": made, "seconds": seconds}, sort_keys=True)
    assert checksum == hashlib.sha256(text.encode()).hexdigest()
    assert before - timedelta(seconds=1) <= datetime.fromisoformat(made) <= datetime.now(UTC)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", made)
    assert (found.key, found.digest, found.path, found.facts) == (KEY, DIGEST.hexdigest(), folder / "files", {"rows": 3})
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "entry.json", "files/a.txt", "files/deep/b.txt", "used/mine",
    }  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"compressor-store-2", "locks", "results", "staging"}


def test_seconds_are_those_that_the_maker_took(tmp_path):
    def slowly(out):
        time.sleep(0.05)
        return make(out)

    store = Store(tmp_path)
    made = store.obtain(PARTS, slowly)
    assert 0.05 <= made.seconds < 5
    assert made.seconds == round(made.seconds, 3)
    assert store.find(PARTS).seconds == store.obtain(PARTS, make).seconds == made.seconds


def test_everything_is_on_the_disk_before_a_result_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    events, fsync, rename = [], os.fsync, Path.rename

    def synced(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").resolve().relative_to(tmp_path).as_posix())
        fsync(descriptor)

    def renamed(path, to):
        events.append("renamed")
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    Store(tmp_path).obtain(PARTS, make)
    before, after = events[: events.index("renamed")], events[events.index("renamed") + 1 :]
    written = {"entry.json", "files/a.txt", "files/deep/b.txt", "used/-"}
    assert {f"staging/{KEY}/{name}" for name in written} | {f"staging/{KEY}"} == set(before)
    assert after == [f"results/{KEY[:2]}"]


def test_plan_is_noted_beside_what_it_found(tmp_path):
    Store(tmp_path, plan="one").obtain(PARTS, make)
    used = tmp_path / "results" / KEY[:2] / KEY / "used"
    Store(tmp_path, plan="two").find(PARTS)
    assert {path.name for path in used.iterdir()} == {"one"}, "to look changes nothing"
    Store(tmp_path, plan="two").obtain(PARTS, make)
    assert {path.name for path in used.iterdir()} == {"one", "two"}
    long_ago = time.time() - 1e6
    os.utime(used / "two", (long_ago, long_ago))
    Store(tmp_path, plan="two").obtain(PARTS, make)
    assert (used / "two").stat().st_mtime > long_ago + 1e5


def test_use_is_never_older_than_a_living_run(tmp_path):
    store = Store(tmp_path)
    with store.running():
        (lock,) = (tmp_path / "runs").iterdir()
        ahead = time.time_ns() + 10**12  # the clock was set back since
        os.utime(lock, ns=(ahead, ahead))
        made = store.obtain(PARTS, make)
        assert (made.path.parent / "used" / "-").stat().st_mtime_ns == ahead


def test_run_is_known_by_host_process_and_a_number(tmp_path):
    import socket

    with Store(tmp_path, plan="mine").running():
        (lock,) = (tmp_path / "runs").iterdir()
        assert re.fullmatch(rf"{re.escape(socket.gethostname())}-{os.getpid()}-[0-9a-f]{{8}}\.lock", lock.name)
        assert json.loads(lock.read_text())["work"] == "mine"
    assert list((tmp_path / "runs").iterdir()) == []


def test_run_clears_what_killed_runs_left_and_keeps_scratch_that_somebody_goes_on_from(tmp_path):
    store, other = Store(tmp_path), {"step": "unfinished"}
    store.obtain(PARTS, make)
    (store.scratch(PARTS) / "old").touch()
    (store.scratch(other) / "checkpoint").touch()
    (tmp_path / "staging" / "half").mkdir()
    for name in ("locks", "runs"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "left.lock").touch()
    with store.running():
        assert [path.name for path in (tmp_path / "scratch").iterdir()] == [key_of(other)]
        assert list((tmp_path / "staging").iterdir()) == list((tmp_path / "locks").iterdir()) == []
        assert len(list((tmp_path / "runs").iterdir())) == 1
    assert store.find(PARTS)


def test_lock_is_held_while_a_result_is_made_and_says_for_what(tmp_path):
    def looking(out):
        (lock,) = (tmp_path / "locks").iterdir()
        assert (lock.name, json.loads(lock.read_text())["work"]) == (f"{KEY}.lock", "a")
        return make(out)

    Store(tmp_path).obtain(PARTS, looking)

    def nameless(out):
        (lock,) = (tmp_path / "locks").iterdir()
        assert json.loads(lock.read_text())["work"] == "a result"
        return make(out)

    Store(tmp_path).obtain({"seed": 2}, nameless)
    assert list((tmp_path / "locks").iterdir()) == []


# ------------------------------------------------------------------ stores and other folders


def test_store_that_is_not_there_is_empty_and_is_not_made_by_looking(tmp_path):
    assert Store(tmp_path / "a" / "b").find(PARTS) is None
    assert list(tmp_path.iterdir()) == []
    Store(tmp_path / "a" / "b").ensure()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["compressor-store-2"]


def test_link_to_nowhere_is_no_empty_store(tmp_path):
    (tmp_path / "store").symlink_to(tmp_path / "nowhere")
    with refused(f"{tmp_path}/store cannot be read as a folder (No such file or directory): name another one with --store"):
        Store(tmp_path / "store").find(PARTS)


@pytest.mark.parametrize("room", ["locks", "results", "runs", "scratch", "staging"])
def test_unmarked_store_is_one_by_its_rooms_and_a_result_where_it_belongs(tmp_path, room):
    store = Store(tmp_path)
    store.obtain(PARTS, make)
    (tmp_path / "compressor-store-2").unlink()
    (tmp_path / room).mkdir(exist_ok=True)
    store.check()
    (tmp_path / f"{room}-of-mine").touch()
    first = min(path.name for path in tmp_path.iterdir())
    with refused(f"{tmp_path} is no store and not empty ('{first}' lies in it): name another folder with --store"):
        store.check()


@pytest.mark.parametrize("name", [KEY[:-1], KEY.upper(), "x" * 64])
def test_unmarked_folder_with_no_result_under_a_key_is_no_store(tmp_path, name):
    (tmp_path / "results" / "ab" / name).mkdir(parents=True)
    (tmp_path / "results" / "ab" / name / "entry.json").touch()
    with pytest.raises(StoreError, match="is no store and not empty"):
        Store(tmp_path).check()


def test_marks_of_several_versions_are_of_the_newest(tmp_path):
    for version in (1, 2):
        (tmp_path / f"compressor-store-{version}").touch()
    (tmp_path / "mine.txt").touch()
    Store(tmp_path).check()
    (tmp_path / "compressor-store-10").touch()
    with refused(
        f"{tmp_path} was written by a newer version (store 10, known 2): "
        "update compressor-toolchain, or name another folder with --store"
    ):
        Store(tmp_path).check()


def test_store_that_cannot_be_written_says_why_unless_the_disk_is_full(tmp_path, monkeypatch):
    touch = Path.touch

    def fails(code):
        def fail(path, *given, **named):
            if path.name.startswith("compressor-store"):
                raise OSError(code, os.strerror(code), str(path))
            touch(path, *given, **named)

        return fail

    monkeypatch.setattr(Path, "touch", fails(errno.EACCES))
    with refused(f"{tmp_path} cannot be written (Permission denied): name another folder with --store"):
        Store(tmp_path).ensure()
    monkeypatch.setattr(Path, "touch", fails(errno.ENOSPC))
    with pytest.raises(StoreError, match=r"cannot be written: no space left on device .*prune"):
        Store(tmp_path).ensure()


# ------------------------------------------------------------------ damage


@pytest.fixture
def folder(tmp_path):
    """Of a stored result."""
    return Store(tmp_path).obtain(PARTS, make).path.parent


def forge(folder, **changes):
    entry = json.loads((folder / "entry.json").read_text()) | changes
    entry.pop("sha256")
    text = json.dumps(entry, sort_keys=True)
    (folder / "entry.json").write_text(json.dumps({**entry, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


def without(path):
    entry = json.loads(path.read_text())
    del entry["sha256"]
    path.write_text(json.dumps(entry))


DAMAGES = {
    "stranger": (
        lambda folder: [(folder / name).touch() for name in ("b.sh", "c.sh")],
        "it holds 'b.sh', which nobody put there",
    ),
    "no entry": (lambda folder: (folder / "entry.json").unlink(), "entry.json is missing"),
    "no uses": (lambda folder: (remove(folder / "used"), (folder / "entry.json").unlink()), "entry.json is missing"),
    "no checksum": (lambda folder: without(folder / "entry.json"), "entry.json is not what was written: KeyError"),
    "no mapping": (lambda folder: (folder / "entry.json").write_text("[]"), "entry.json is not what was written: TypeError"),
    "other checksum": (
        lambda folder: (folder / "entry.json").write_text((folder / "entry.json").read_text().replace('"rows": 3', '"rows": 4')),
        "entry.json does not match its checksum",
    ),
    "older": (lambda folder: forge(folder, store=1), "it is of the older store 1"),
    "other key": (lambda folder: forge(folder, key="0" * 64), "it is the result of another key, 000000000000"),
    "other parts": (lambda folder: forge(folder, parts={"step": "b"}), f"it is the result of another key, {KEY[:12]}"),
    "other digest": (lambda folder: forge(folder, digest="0" * 64), "its digest does not match"),
    "no store": (lambda folder: forge(folder, store="2"), None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_as_what_it_is(folder, damage):
    harm, said = DAMAGES[damage]
    harm(folder)
    with pytest.raises(DamagedEntry) as raised:
        read_entry(folder)
    assert str(raised.value) == said or (said is None and "lacks or misspells a field" in str(raised.value))


def test_whole_entry_is_read_as_it_was_written(folder):
    assert read_entry(folder)["facts"] == {"rows": 3}
    assert "sha256" not in read_entry(folder)


def test_file_that_goes_while_it_is_read_is_damage_and_one_that_cannot_be_read_is_none(folder, monkeypatch):
    for code, kind in (
        (errno.ENOENT, DamagedEntry),
        (errno.ENOTDIR, DamagedEntry),
        (errno.ELOOP, DamagedEntry),
        (errno.EIO, StoreError),
    ):

        def fail(path, code=code):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(store_module, "digest_of", fail)
        with pytest.raises(kind, match=re.escape(f"{folder} cannot be read")):
            read_entry(folder)


def test_discarded_result_is_no_result_from_the_first_moment_on(folder, monkeypatch):
    gone = []
    rmtree = store_module.shutil.rmtree
    monkeypatch.setattr(
        store_module.shutil, "rmtree", lambda path, **named: (gone.append((folder / "entry.json").exists()), rmtree(path))
    )
    discard(folder)
    assert gone == [False]
    assert not folder.exists()
    discard(folder)


def test_digest_refuses_what_is_no_plain_file(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    with refused(f"{tmp_path}/link is a symbolic link: results hold plain files only"):
        digest_of(tmp_path)
    (tmp_path / "link").unlink()
    os.mkfifo(tmp_path / "pipe")
    with refused(f"{tmp_path}/pipe is a pipe, socket or device: results hold plain files only"):
        digest_of(tmp_path)


def test_remove_takes_files_links_and_folders_and_what_is_not_there(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("link", "nothing"):
        remove(tmp_path / name)
    assert (tmp_path / "kept" / "file").is_file()
    remove(tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []
