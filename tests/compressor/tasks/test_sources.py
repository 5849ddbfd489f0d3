"""What files and folders may hold, how they are pinned, and that reading them leaves no trace and asks no one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
from PIL import Image

from compressor.contracts import Columns
from compressor.errors import SourceError
from compressor.model.sources import resolve
from compressor.plan.specs import DataSpec, ModelSource
from compressor.tasks.data import load_data

COLUMNS = Columns(("text",), "label")


def load(folder, files, columns=COLUMNS, seed=0, **spec):
    return load_data(DataSpec.model_validate({"files": files, **spec}), columns=columns, seed=seed, folder=folder)


def write_jsonl(path, labels, start=0):
    rows = [{"text": f"number {start + at}", "label": label} for at, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_images(folder, names, count=8, seed=0):
    draw = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for at in range(count):
            Image.fromarray(draw.integers(0, 255, (6, 5, 3), dtype=np.uint8)).save(folder / name / f"{at}.png")


def test_labels_that_are_numbers_are_in_order_of_value(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [10, 9, 2] * 12)
    assert load(tmp_path, "rows.jsonl").labels == ("2", "9", "10")


def test_labels_stay_whole_numbers_when_a_row_has_none(tmp_path):
    lines = [f"number {at},{at % 2}" for at in range(40)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines, "no label,"]) + "\n", encoding="utf-8")
    data = load(tmp_path, "rows.csv")
    assert data.labels == ("0", "1")
    assert data.record.removed == {"without a label": 1}


def test_labels_have_their_names_when_the_file_has_named_classes(tmp_path):
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    rows = {"text": [f"number {at}" for at in range(41)], "label": [*(at % 2 for at in range(40)), -1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    data = load(tmp_path, "rows.parquet")
    assert data.labels == ("neg", "pos")
    assert data.record.removed == {"without a label": 1}
    assert data.split("test").features["label"].names == ["neg", "pos"]


def test_rows_match_their_sha256_whatever_the_seed(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", "ab" * 20)
    found = load(tmp_path, "rows.jsonl").record.digest
    for seed in (0, 1):
        assert load(tmp_path, {"path": "rows.jsonl", "sha256": found[:12]}, seed=seed).record.digest == found
    with pytest.raises(SourceError, match=f"have sha256 {found[:16]}..., the plan says 000000000000"):
        load(tmp_path, {"path": "rows.jsonl", "sha256": "0" * 12})


def test_rows_in_two_given_splits_are_refused_unless_they_are_to_be_removed(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", "ab" * 20)
    write_jsonl(tmp_path / "test.jsonl", "ab" * 4, start=36)
    files = {"train": "train.jsonl", "test": "test.jsonl"}
    for deduplicate in (None, False):
        with pytest.raises(
            SourceError,
            match=r"4 rows of train stand in test too \(first: .*train.jsonl, line 37\), so that scores would flatter",
        ):
            load(tmp_path, files, deduplicate=deduplicate)
    assert load(tmp_path, files, deduplicate=True).record.removed == {"in two splits": 4}


@pytest.mark.parametrize("files", ["pictures", {"path": "pictures", "layout": "folder-per-label"}])
def test_folder_of_images_is_read_by_its_folders(tmp_path, files):
    write_images(tmp_path / "pictures", ("cat", "test"))
    data = load(tmp_path, files, columns=Columns(("picture",), "kind"), split={"validation": 2, "test": 4})
    assert data.labels == ("cat", "test")
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [10, 2, 4]
    assert data.split("test")[0]["picture"].size == (5, 6)


def test_images_are_equal_when_their_files_are(tmp_path):
    write_images(tmp_path / "one", ("cat", "dog"))
    write_images(tmp_path / "two", ("cat", "dog"))
    (tmp_path / "two" / "dog" / "again.png").write_bytes((tmp_path / "two" / "dog" / "0.png").read_bytes())
    one = load(tmp_path, "one", columns=Columns(("image",), "label"))
    two = load(tmp_path, "two", columns=Columns(("image",), "label"), deduplicate=True)
    assert two.record.removed == {"duplicates": 1}
    assert one.digest == two.digest
    assert one.record.digest != two.record.digest


def test_images_with_a_metadata_file_have_its_labels(tmp_path):
    write_images(tmp_path / "set", ("all",), count=12)
    lines = [f"all/{at}.png,{'ab'[at % 2]}" for at in range(12)]
    (tmp_path / "set" / "metadata.csv").write_text("\n".join(["file_name,label", *lines]) + "\n", encoding="utf-8")
    data = load(tmp_path, "set", columns=Columns(("image",), "label"), split={"validation": 2, "test": 2})
    assert data.labels == ("a", "b")
    assert len(data.split("train")) == 8


@pytest.mark.parametrize(
    ("make", "files", "message"),
    [
        (lambda root: write_images(root / "x", ("train", "test")), "x", r"holds the folders \['test', 'train'\]: name them"),
        (lambda root: (root / "x.csv").write_text(""), "x.csv", r"x\.csv holds no rows"),
        (lambda root: (root / "x.jsonl").write_text("{no json"), "x.jsonl", r"x\.jsonl, line 1: cannot be read as json"),
        (lambda root: (root / "x.parquet").write_bytes(b"junk"), "x.parquet", r"x\.parquet cannot be read as parquet"),
        (
            lambda root: write_jsonl(root / "x.jsonl", [None] * 5),
            "x.jsonl",
            r"no row of train has content and a label \(5 without a label\)",
        ),
        (
            lambda root: write_jsonl(root / "x.jsonl", "ab"),
            {"path": "x.jsonl", "layout": "folder-per-label"},
            "is a file; `layout: folder-per-label` needs a folder",
        ),
    ],
)
def test_load_data_raises_when_the_content_does_not_fit(tmp_path, make, files, message):
    make(tmp_path)
    with pytest.raises(SourceError, match=message):
        load(tmp_path, files, columns=Columns(("image",), "label") if files == "x" else COLUMNS)


def test_load_data_raises_when_images_and_other_files_are_mixed(tmp_path):
    write_images(tmp_path / "set", ("cat", "dog"))
    (tmp_path / "set" / "dog" / "notes.txt").write_text("x")
    with pytest.raises(
        SourceError, match=r"notes\.txt is no picture that is read .*: its name ends in '\.txt'; convert it, or move it out"
    ):
        load(tmp_path, "set", columns=Columns(("image",), "label"))


def test_resolve_checks_the_index_when_weights_are_in_several_files(tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    with pytest.raises(SourceError, match=r"model\.safetensors\.index\.json is no index of weights: KeyError: 'weight_map'"):
        resolve(ModelSource(folder=str(tmp_path)), tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    with pytest.raises(SourceError, match=r"model-1\.safetensors is missing, and model\.safetensors\.index\.json names it"):
        resolve(ModelSource(folder=str(tmp_path)), tmp_path)
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    assert resolve(ModelSource(folder=str(tmp_path)), tmp_path) == tmp_path
    with pytest.raises(SourceError, match=r"model\.safetensors\.index\.json and the files it names has sha256"):
        resolve(ModelSource(folder=str(tmp_path), sha256="0" * 12), tmp_path)


def test_resolve_raises_when_the_hub_cannot_be_reached(tmp_path):
    with pytest.raises(SourceError, match=r"hub model 'nobody/nothing' \(revision main\) cannot be fetched"):
        resolve(ModelSource(hub="nobody/nothing"), tmp_path)


def test_load_data_raises_when_the_hub_cannot_be_reached(tmp_path):
    with pytest.raises(SourceError, match="hub data set 'nobody/nothing' cannot be fetched"):
        load_data(DataSpec(hub="nobody/nothing"), columns=COLUMNS, seed=0, folder=tmp_path)


QUIET = """
import socket, sys, pathlib
def refuse(*_): raise RuntimeError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from compressor.contracts import Columns
from compressor.tasks.data import load_data
from compressor.plan.specs import DataSpec
folder = pathlib.Path(sys.argv[1])
print(load_data(DataSpec(files="rows.csv"), columns=Columns(("text",), "label"), seed=0, folder=folder).digest)
"""


def test_reading_files_leaves_no_trace_and_asks_no_network(tmp_path):
    home, temporary, place = (tmp_path / name for name in ("home", "tmp", "data"))
    for folder in (home, temporary, place):
        folder.mkdir()
    lines = [f"number {at},{'ab'[at % 2]}" for at in range(40)]
    (place / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(place)],
        env={**environment, "HOME": str(home), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == load(place, "rows.csv").digest
    assert done.stderr == ""
    assert [path for folder in (home, temporary) for path in folder.rglob("*") if path.is_file()] == []
    assert [path.name for path in place.iterdir()] == ["rows.csv"]
