"""`SHA256SUMS`: what is read later is what was written, or it is refused with what is wrong."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess

import pytest

from compressor.errors import StoreError
from compressor.store.checksums import SUMS, check_below, check_file, names_in, sums_text

CONTENTS = {"report.json": b"{}", "built/a/model.onnx": b"weights", "built/a/notes.txt": b"", "builtin.txt": b"x"}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path):
    """A folder with its sums."""
    for name, content in CONTENTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / SUMS).write_text(sums_text({name: sha256(content) for name, content in CONTENTS.items()}))
    return tmp_path


def refused(message):
    return pytest.raises(StoreError, match=f"^{re.escape(str(message))}$")


def test_sums_are_lines_that_sha256sum_reads_sorted_by_name(folder):
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert lines == [f"{sha256(CONTENTS[name])}  {name}" for name in sorted(CONTENTS)]
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder).returncode == 0


def test_names_are_those_of_all_files_sorted(folder):
    assert list(names_in(folder)) == sorted([*CONTENTS, "SHA256SUMS"])


@pytest.mark.parametrize("kind", ["link", "link to a folder", "pipe"])
def test_names_of_a_folder_that_holds_more_than_plain_files_are_refused(folder, kind):
    strange = folder / "built" / "b"
    if kind == "pipe":
        os.mkfifo(strange)
    else:
        strange.symlink_to(folder / ("report.json" if kind == "link" else "built/a"))
    with refused(f"{strange} is a link, pipe or device: only plain files are read here"):
        list(names_in(folder))


def test_files_as_they_were_written_pass(folder):
    for name in CONTENTS:
        check_file(folder, name)
    check_below(folder, "built")
    check_below(folder, "built/a")


def test_altered_file_is_refused_with_both_sums(folder):
    (folder / "report.json").write_bytes(b"[]")
    message = (
        f"{folder}/report.json is not the file that was written: sha256 {sha256(b'[]')[:12]}, "
        f"SHA256SUMS says {sha256(b'{}')[:12]}; run the plan again"
    )
    with refused(message):
        check_file(folder, "report.json")
    check_below(folder, "built")


def test_missing_file_is_refused(folder):
    (folder / "report.json").unlink()
    with refused(f"{folder}/report.json is missing: run the plan again"):
        check_file(folder, "report.json")
    (folder / "report.json").mkdir()
    with refused(f"{folder}/report.json is missing: run the plan again"):
        check_file(folder, "report.json")


def test_file_that_is_not_listed_is_refused(folder):
    (folder / "other.json").write_text("{}")
    with refused(f"{folder}/other.json is not in {folder}/SHA256SUMS: the run did not write it"):
        check_file(folder, "other.json")


@pytest.mark.parametrize("place", ["built/a/model.onnx", "built/a", "built"])
def test_listed_file_behind_a_link_is_refused(folder, place):
    (folder / place).rename(folder / "elsewhere")
    (folder / place).symlink_to(folder / "elsewhere")
    with refused(f"{folder / place} is a link: only plain files are read here"):
        check_file(folder, "built/a/model.onnx")


def test_folder_itself_may_be_reached_by_a_link(folder, tmp_path_factory):
    link = tmp_path_factory.mktemp("link") / "run"
    link.symlink_to(folder)
    check_file(link, "built/a/model.onnx")


def test_file_that_cannot_be_read_is_refused_with_the_reason(folder, monkeypatch):
    def fails(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("compressor.store.checksums.sha256_of", fails)
    with refused(f"{folder}/report.json cannot be read (Permission denied)") as raised:
        check_file(folder, "report.json")
    assert isinstance(raised.value.__cause__, PermissionError)


def test_every_file_below_a_folder_is_held_and_none_may_be_added(folder):
    (folder / "builtin.txt").write_bytes(b"altered, and not below")
    check_below(folder, "built")
    (folder / "built" / "run.sh").write_text("")
    with refused(f"{folder}/built/run.sh is not in SHA256SUMS: the run did not write it"):
        check_below(folder, "built")
    (folder / "built" / "a" / "notes.txt").unlink()
    with refused(f"{folder}/built/a/notes.txt is missing: run the plan again"):
        check_below(folder, "built")


UNREADABLE = {
    "missing": lambda sums: sums.unlink(),
    "folder": lambda sums: (sums.unlink(), sums.mkdir()),
    "no text": lambda sums: sums.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_sums_that_cannot_be_read_prove_nothing(folder, kind):
    UNREADABLE[kind](folder / SUMS)
    with refused(f"{folder}/SHA256SUMS cannot be read, so nothing proves what lies beside it: run the plan again"):
        check_file(folder, "report.json")


def test_sums_behind_a_link_are_refused(folder):
    (folder / SUMS).rename(folder / "sums")
    (folder / SUMS).symlink_to(folder / "sums")
    with refused(f"{folder}/SHA256SUMS is a link: only plain files are read here"):
        check_file(folder, "report.json")


@pytest.mark.parametrize(
    "line",
    [
        f"{'0' * 64}  ../secret",
        f"{'0' * 64}  /etc/passwd",
        f"{'0' * 63}  report.json",
        f"{'0' * 65}  report.json",
        f"{'G' * 64}  report.json",
        f"{'A' * 64}  report.json",
        f"{'0' * 64} report.json",
        f"{'0' * 64}  ",
        f"{'0' * 64}  {'../' * 20}",
    ],
)
def test_line_that_is_no_digest_of_a_file_in_the_folder_is_refused_and_shown_in_part(folder, line):
    with (folder / SUMS).open("a") as sums:
        sums.write(f"{line}\n")
    with refused(f"{folder}/SHA256SUMS has a line that is no digest of a file in this folder: {line[:80]!r}"):
        check_file(folder, "report.json")
