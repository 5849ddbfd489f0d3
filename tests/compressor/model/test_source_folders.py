"""What a source model's folder may hold: plain files that lie in it, each of them in its key."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from compressor.errors import SourceError
from compressor.model import sources
from compressor.model.sources import check_tensors, located, read_json, unread_weights
from compressor.plan.specs import ModelSource
from compressor.run.keys import source_digest


@pytest.fixture
def folder(tmp_path):
    """A model in two files, one of them in a folder of its own."""
    folder = tmp_path / "model"
    (folder / "parts").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "one.safetensors").write_bytes(b"one")
    (folder / "parts" / "two.safetensors").write_bytes(b"two")
    index(folder, "one.safetensors", "parts/two.safetensors")
    return folder


def index(folder, *names):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(names))}))


def test_a_weight_that_two_files_hold_is_refused_where_they_differ(tmp_path):
    index(tmp_path, "a.safetensors", "b.safetensors")
    for name, value in {"a": 1.0, "b": 1.0}.items():
        save_file({"same.weight": torch.full((2,), value)}, tmp_path / f"{name}.safetensors")
    check_tensors(tmp_path)
    save_file({"same.weight": torch.full((2,), 2.0)}, tmp_path / "b.safetensors")
    with pytest.raises(SourceError, match=r"b\.safetensors and a\.safetensors both hold 'same.weight', with other values"):
        check_tensors(tmp_path)


def test_files_of_weights_that_an_older_save_left_are_told(tmp_path):
    assert unread_weights(tmp_path) == []
    index(tmp_path, "a.safetensors")
    for name in ("a", "model", "old"):
        save_file({"some.weight": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    assert unread_weights(tmp_path) == ["a.safetensors", "old.safetensors"]


def find(folder):
    return located(ModelSource(folder=str(folder)), folder)


@pytest.mark.parametrize("place", ["one.safetensors", "parts/two.safetensors", "config.json", ".hidden/three.safetensors"])
def test_every_file_that_is_read_is_in_the_digest(folder, place):
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "three.safetensors").write_bytes(b"three")
    index(folder, "one.safetensors", "parts/two.safetensors", ".hidden/three.safetensors")
    before = source_digest(folder)
    (folder / place).write_bytes(b"other")
    assert source_digest(folder) != before


def test_digest_sees_what_a_link_shows(folder):
    for name in ("a", "b"):
        (folder / name).mkdir()
        (folder / name / "w.safetensors").write_bytes(name.encode())
    (folder / "part").symlink_to("a")
    before = source_digest(folder)
    (folder / "part").unlink()
    (folder / "part").symlink_to("b")
    assert source_digest(folder) != before


def test_links_in_the_hubs_cache_are_followed_to_its_blobs_alone(folder, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    for each in (snapshot, blobs):
        each.mkdir(parents=True)
    (blobs / "abc").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    assert find(snapshot) == snapshot
    for target in ("../../../model/config.json", "/etc/passwd", "../../blobs-of-others/abc", "../../blobs/gone"):
        (snapshot / "vocab.txt").symlink_to(target)
        with pytest.raises(SourceError, match=r"vocab\.txt(:| leads to .*) (out of|no such)"):
            find(snapshot)
        (snapshot / "vocab.txt").unlink()


def test_folder_that_is_a_link_is_read(folder, tmp_path):
    (tmp_path / "named").symlink_to(folder)
    assert find(tmp_path / "named") == tmp_path / "named"


def test_folders_in_a_circle_end(folder):
    (folder / "parts" / "up").symlink_to("..")
    assert source_digest(find(folder)) != ""


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("nothing")])
@pytest.mark.parametrize("name", ["config.json", "parts/vocab.txt"])
def test_what_is_no_file_is_refused_before_it_is_read(folder, name, make):
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    with pytest.raises(SourceError, match=r"(is a pipe|leads to /dev/zero|no such file)"):
        find(folder)
    with pytest.raises(SourceError, match="cannot be read"):
        read_json(folder / name)


def test_folder_that_is_no_models_is_refused(folder, monkeypatch):
    monkeypatch.setattr(sources, "MOST_FILES", 3)
    with pytest.raises(SourceError, match="hold more than 3 files: name the folder itself"):
        find(folder)


@pytest.mark.parametrize("name", ["one.safetensors", "config.json", "tokenizer.json"])
def test_pointer_of_git_lfs_is_told(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(SourceError, match=f"{name}: it is a pointer of Git LFS .* `git lfs pull`"):
        find(folder)


def test_folder_that_is_not_there_is_told_with_a_near_name(folder):
    with pytest.raises(SourceError, match=r"no such folder \(did you mean 'model'\?\)"):
        find(folder.with_name("modell"))
