"""Facts kept beside how their files looked: found again while nothing changed, made anew after every kind of change."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest

from compressor.store import known as known_module
from compressor.store.known import KNOWN, UNSETTLED_NS, Fact, known
from compressor.store.store import Store


class Asked:
    """A fact about a folder of rows, and how often its files were read for it."""

    def __init__(self, folder):
        self.store, self.rows = Store(folder / "store"), folder / "rows"
        self.elsewhere = folder / "elsewhere.txt"
        self.reads = 0
        for path in (self.rows / "a.txt", self.rows / "deep" / "b.txt", self.elsewhere):
            path.parent.mkdir(exist_ok=True)
            path.write_text(path.name)
        settle()

    def __call__(self, **parts):
        def find():
            self.reads += 1
            texts = [path.read_text() for path in sorted(self.rows.rglob("*")) if path.is_file()]
            return Fact([*texts, self.elsewhere.read_text()], (self.elsewhere,))

        return known(self.store, {"fact": "texts", **parts}, [self.rows], find)

    def again(self, **parts):
        """Whether files are read when the fact is asked for."""
        before = self.reads
        self(**parts)
        return self.reads > before


def settle():
    time.sleep(3 * UNSETTLED_NS / 1e9)


@pytest.fixture
def asked(tmp_path):
    asked = Asked(tmp_path)
    assert asked() == ["a.txt", "b.txt", "elsewhere.txt"]
    assert not asked.again()
    return asked


def appended(asked):
    with (asked.rows / "a.txt").open("a") as file:
        file.write("more")


def same_size_and_mtime(asked):
    path = asked.rows / "deep" / "b.txt"
    before = path.stat()
    path.write_text("B.txt")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


def replaced(asked):
    path = asked.rows / "a.txt"
    before = path.stat()
    (asked.rows.parent / "other").write_text("A.txt")
    os.utime(asked.rows.parent / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (asked.rows.parent / "other").replace(path)
    assert path.stat().st_ino != before.st_ino


def added(asked):
    (asked.rows / "deep" / "c.txt").write_text("c")


def removed(asked):
    (asked.rows / "a.txt").unlink()


def renamed(asked):
    (asked.rows / "a.txt").rename(asked.rows / "z.txt")


def named_file(asked):
    asked.elsewhere.write_text("changed!")


def link_led_elsewhere(asked):
    path = asked.rows / "a.txt"
    path.unlink()
    path.symlink_to(asked.elsewhere)


CHANGES = (appended, same_size_and_mtime, replaced, added, removed, renamed, named_file, link_led_elsewhere)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_file_makes_the_fact_anew(asked, change):
    change(asked)
    settle()
    assert asked.again(), change.__name__
    assert not asked.again(), "and the new fact is kept"


def test_other_parts_are_another_fact(asked):
    assert asked.again(seed=1)
    assert not asked.again()
    assert not asked.again(seed=1)


def test_inode_alone_tells_a_replaced_file(asked, monkeypatch):
    """As on a file system that keeps no ctime: the other fields are the same."""

    class Stat:
        def __init__(self, found):
            self.st_size, self.st_mtime_ns, self.st_ino, self.st_ctime_ns = found.st_size, 0, found.st_ino, 0

    class Os:
        def __getattr__(self, name):
            return getattr(os, name)

        def stat(self, path):
            return Stat(os.stat(path))  # noqa: PTH116 - what the module calls

    monkeypatch.setattr(known_module, "os", Os())
    assert asked.again()
    assert not asked.again()
    shutil.copy2(asked.rows / "a.txt", asked.rows.parent / "other")
    (asked.rows.parent / "other").replace(asked.rows / "a.txt")
    assert asked.again()


def test_file_changed_within_a_tick_of_the_clock_is_not_trusted(asked):
    (asked.rows / "a.txt").write_text("changed")
    assert asked.again()
    assert asked.again(), "a further change could have the same date"


def test_file_that_changes_while_it_is_read_is_not_trusted(asked):
    def find():
        (asked.rows / "a.txt").write_text(str(time.monotonic_ns()))
        settle()
        return Fact("half old, half new")

    parts = {"fact": "torn"}
    known(asked.store, parts, [asked.rows], find)
    assert known(asked.store, parts, [asked.rows], lambda: Fact("whole")) == "whole"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"look": "x"}', "null"])
def test_damaged_fact_is_made_anew(asked, text):
    (path,) = (asked.store.root / KNOWN).iterdir()
    path.write_text(text)
    assert asked.again()
    assert not asked.again()


def test_altered_fact_is_made_anew(asked):
    (path,) = (asked.store.root / KNOWN).iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "value": ["forged"]}))
    assert asked() == ["a.txt", "b.txt", "elsewhere.txt"]


def test_link_that_leads_up_ends(asked):
    (asked.rows / "deep" / "up").symlink_to(asked.rows, target_is_directory=True)
    settle()
    assert known(asked.store, {"fact": "round"}, [asked.rows], lambda: Fact(1)) == 1
    assert known(asked.store, {"fact": "round"}, [asked.rows], lambda: Fact(2)) == 1


def test_store_that_cannot_be_written_keeps_nothing_and_says_nothing(asked, tmp_path):
    (tmp_path / "file").write_text("no folder")
    asked.store = Store(tmp_path / "file" / "store")
    assert asked() == ["a.txt", "b.txt", "elsewhere.txt"]
    assert asked.again()


def test_facts_that_nobody_asked_for_go_first(asked, monkeypatch):
    monkeypatch.setattr(known_module, "MOST", 3)
    for number in range(4):
        settle()
        asked(number=number)
    assert len(list((asked.store.root / KNOWN).iterdir())) == 3
    assert asked.again(), "the eldest is gone"
    assert not asked.again(number=3)
