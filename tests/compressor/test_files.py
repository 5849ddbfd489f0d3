"""What is read of files that others wrote: up to a bound, and only of files."""

from __future__ import annotations

import os

import pytest

from compressor.files import json_in, read_bytes

TOO_DEEP = "[" * 200_000


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name, told in (("pipe", "it is a pipe"), ("link", "it is a pipe, socket or device"), (".", "it is a folder")):
        with pytest.raises(OSError, match=told):
            read_bytes(tmp_path / name)


def test_no_more_is_read_than_the_bound(tmp_path):
    (tmp_path / "file").write_bytes(b"123")
    assert read_bytes(tmp_path / "file", 3) == b"123"
    with pytest.raises(OSError, match="it has 3 bytes; at most 2 are read"):
        read_bytes(tmp_path / "file", 2)


def test_json_that_is_nested_without_end_is_no_json(tmp_path):
    (tmp_path / "deep.json").write_text(TOO_DEEP)
    with pytest.raises(ValueError, match="nested too deep"):
        json_in(tmp_path / "deep.json")
    (tmp_path / "twice.json").write_text('{"a": {"b": 1, "c": 2, "b": 3}}')
    with pytest.raises(ValueError, match="the key 'b' is there twice, once with 1 and once with 3"):
        json_in(tmp_path / "twice.json")
    (tmp_path / "marked.json").write_text('\ufeff{"a": 1}')
    assert json_in(tmp_path / "marked.json") == {"a": 1}
