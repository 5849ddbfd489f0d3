"""What `init` takes rows for: splits by names of tables, tables beside pictures, columns that cannot be read, and foreign text."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from furnished import rows, write_rows

from compressor.cli_plans import accepted_in, shipped_of
from compressor.contracts import Column, Columns
from compressor.errors import SourceError
from compressor.plan.specs import DataSpec, ModelSource
from compressor.plan.yaml_source import read_yaml, write_yaml
from compressor.proposal import Asked, propose
from compressor.proposal.checked import checked
from compressor.proposal.columns import LOOKED_AT, column_of
from compressor.proposal.looked import _chosen
from compressor.proposal.propose import _name
from compressor.proposal.rows import Rows, look
from compressor.proposal.writing import MOST_TOLD, _block, _comments
from compressor.tasks.sources import read_rows
from compressor.tasks.tables import read_table
from compressor.tasks.tiny import text_model

TABLE = "text,label\n" + "".join(f"some words {n},{'ab'[n % 2]}\n" for n in range(20))


def made(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("" if name.endswith(".png") else TABLE, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("names", "files", "note"),
    [
        (("data.csv", "test.csv"), {"train": "data.csv", "test": "test.csv"}, "'data.csv' is trained on"),
        (
            ("sst_train.csv", "sst_dev.csv", "sst_test.csv"),
            {"train": "sst_train.csv", "validation": "sst_dev.csv", "test": "sst_test.csv"},
            "",
        ),
        (("train1.csv", "train 2.csv", "extra.csv"), ["train 2.csv", "train1.csv"], "'extra.csv'"),
        (("trainset.csv", "testset.csv"), {"train": "trainset.csv", "test": "testset.csv"}, ""),
        (("a.csv", "b.csv"), ["a.csv", "b.csv"], ""),
        (("train.csv", "test.csv", "plot.png"), {"train": "train.csv", "test": "test.csv"}, ""),
        (("train.csv", "test.csv", "assets/plot.png"), {"train": "train.csv", "test": "test.csv"}, ""),
        (("train/x.csv", "train/plot.png", "test/y.csv", "docs/z.csv"), {"train": "train/x.csv", "test": "test/y.csv"}, "'docs'"),
        (
            ("train/x.csv", "val/x.csv", "dev/y.csv"),
            {"train": "train/x.csv", "validation": ["dev/y.csv", "val/x.csv"]},
            "",
        ),
        (("x.csv", "cat/1.png", "dog/1.png"), "", ""),
        (("train/1.png", "car/1.png"), "", ""),
        (("metadata.csv", "1.png"), "", ""),
        (("data/train-00000-of-00001.csv", "README.md"), "data/train-00000-of-00001.csv", ""),
        (("data/train.csv", "data/test.csv", ".git/x.csv"), {"train": "data/train.csv", "test": "data/test.csv"}, ""),
    ],
)
def test_rows_of_a_folder_are_told_by_names(tmp_path, names, files, note):
    found = look(made(tmp_path, *names), "")
    assert found.data["files"] == files
    assert found.data.get("format") == (None if files else "imagefolder")
    assert note in "; ".join(found.notes)
    assert bool(found.notes) == bool(note)


@pytest.mark.parametrize(
    ("names", "listed"),
    [(("a.csv", "b.csv", "test.csv"), "It could be 'a.csv', 'b.csv';"), (("dev.csv", "test.csv"), "other splits")],
)
def test_table_to_train_on_is_asked_for_where_names_do_not_say_it(tmp_path, names, listed):
    with pytest.raises(SourceError, match="which table is trained on") as error:
        look(made(tmp_path, *names), "")
    assert listed in str(error.value)


NO_ROWS = {
    "saved by datasets": (
        ("dataset_info.json", "state.json", "data-00000-of-00001.arrow"),
        "holds no rows; `save_to_disk` of datasets wrote it",
    ),
    "splits saved by datasets": (("dataset_dict.json", "train/state.json"), "holds no rows; `save_to_disk` of datasets wrote it"),
    "a model": (("config.json", "model.safetensors", "vocab.txt"), "holds no rows; a model lies there"),
    "several sets": (("a/train.parquet", "b/train.parquet"), "holds several folders of tables, 'a', 'b': name the one"),
}


@pytest.mark.parametrize(("names", "told"), NO_ROWS.values(), ids=NO_ROWS)
def test_folder_that_is_easily_taken_for_rows_is_told_as_what_it_is(tmp_path, names, told):
    made(tmp_path, *names)
    with pytest.raises(SourceError, match=told):
        look(tmp_path, "rows")


@pytest.mark.parametrize(
    ("spelled", "told"),
    [
        ("https://example.org/rows.csv", "a path is wanted, and no address"),
        ("~/rows.csv", "`~` and `.NAME` are characters here"),
        ("gone.csv", r"gone\.csv: no such file or folder$"),
        ("/dev/zero", "it is a pipe, socket or device, and no file"),
    ],
)
def test_where_there_is_nothing_to_read_the_reason_is_told(tmp_path, spelled, told):
    with pytest.raises(SourceError, match=told):
        look(tmp_path / spelled, spelled)


def test_model_that_is_not_there_is_told_with_how_one_of_the_hub_is_named(tmp_path):
    made(tmp_path, "rows.csv")
    for model, near in (("org/name", ""), ("rows.csv", "; it is a file")):
        with pytest.raises(SourceError, match=rf"{model}: no such folder{near}; a model of the hub is named hub:ORG/NAME"):
            propose(Asked(model, "rows.csv", folder=tmp_path))


def test_table_without_the_label_is_left_out_and_that_is_said(tmp_path):
    made(tmp_path, "rows/train.csv")
    (tmp_path / "rows" / "test.csv").write_text("text\nto be predicted\n", encoding="utf-8")
    text_model(tmp_path / "model")
    found = propose(Asked("model", "rows", folder=tmp_path))
    assert found.bound.data.files.parts() == {"train": ("rows/train.csv",)}
    assert any("no column 'label', as rows have that are to be predicted: 'test.csv'" in line for line in found.seen)


def test_table_in_utf_16_is_read_as_its_mark_says(tmp_path):
    (tmp_path / "rows.csv").write_text(TABLE, encoding="utf-16")
    assert look(tmp_path / "rows.csv", "rows.csv").data == {"files": "rows.csv", "encoding": "utf-16"}


def test_files_that_are_no_rows_say_nothing_of_the_encoding(tmp_path):
    made(tmp_path, "a/1.txt", "b/2.txt")
    for name in (".git/objects/1f", "a/Thumbs.db", "cover.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff\xfe\x81")
    assert look(tmp_path, ".").data == {"files": {"path": ".", "layout": "folder-per-label"}}


# ------------------------------------------------------------------ columns


def test_column_that_cannot_be_read_is_no_reason_to_refuse_the_table(tmp_path):
    mixed = [{"text": f"some words {n}", "label": "ab"[n % 2], "mixed": [n, "x"][n % 2]} for n in range(20)]
    path = write_rows(tmp_path / "mixed.jsonl", mixed)
    found = look(path, "mixed.jsonl")
    assert [each.kind for each in found.columns] == ["text", "class", "other"]
    assert "a column is of one type" in found.columns[-1].told
    path = write_rows(tmp_path / "later.jsonl", [{"text": "some words", "mixed": value} for value in (1, 2.5, 3, "x", 4)])
    assert look(path, "later.jsonl").columns[-1].told.startswith(f"cannot be read: {path}, line 4: 'mixed' is \"x\" (str)")
    path.write_text(path.read_text() + "{broken\n")
    with pytest.raises(SourceError, match="line 6: cannot be read as json"):
        look(path, "later.jsonl")


def test_columns_of_one_name_are_left_out_and_that_is_said(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\n\nid;text;label;id\n" + "".join(f"1;some words {n};{'ab'[n % 2]};2\n" for n in range(20)))
    found = look(path, "rows.csv")
    assert [(each.name, each.kind) for each in found.columns] == [("id", "other"), ("text", "text"), ("label", "class")]
    assert found.data == {"files": "rows.csv", "separator": ";"}, "blank lines before the header are passed over"
    assert found.notes == ("column 'id' stands there more than once: it is not read",)


def test_of_parquet_some_rows_are_read_and_they_lie_all_over_it(tmp_path):
    path, count = tmp_path / "rows.parquet", 50_000
    texts, labels = [f"some words {n}" for n in range(count)], ["a" if n < count / 2 else "b" for n in range(count)]
    pq.write_table(pa.table({"text": texts, "label": labels}), path, row_group_size=1000)
    read, _ = read_table(path, "parquet", ["label"], DataSpec(files=path.name), most=LOOKED_AT)
    assert len(read) <= LOOKED_AT
    assert Counter(read["label"]) == {"a": len(read) / 2, "b": len(read) / 2}
    assert look(path, "rows.parquet").columns[1] == Column("label", "class", "2 classes", ("a", "b"))


@pytest.mark.parametrize(
    "values", [[0.5, float("nan"), 2.25, 0.75], ["0.5", "nan", "2.25", "0.75"], [0.5, float("inf"), 2.25, 0.75]]
)
def test_number_that_is_none_leaves_a_column_of_numbers_one(values):
    assert column_of("it", values) == Column("it", "number", "numbers 0.5 to 2.25")


# ------------------------------------------------------------------ tasks, models and names


def test_task_of_a_later_rank_is_not_taken_where_an_earlier_one_is_unclear():
    columns = (Column("text", "text"), Column("tone", "class", "2 classes"), Column("genre", "class", "3 classes"))
    columns += (Column("price", "number", "numbers"),)
    with pytest.raises(SourceError, match=r"'tone' \(2 classes\), 'genre' .*: say --label NAME, or --task text-regression"):
        _chosen(Asked("m", "d"), {}, Rows({}, columns, ""))
    assert _chosen(Asked("m", "d", label=("price",)), {}, Rows({}, columns, ""))[0] == "text-regression"
    columns = (Column("text", "text"), Column("label", "class"), Column("price", "number"), Column("size", "number"))
    assert _chosen(Asked("m", "d"), {}, Rows({}, columns, ""))[0] == "text-classification", "what comes later may be unclear"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ModelSource, {"folder": ""}),
        (ModelSource, {"installed": ""}),
        (ModelSource, {"hub": ""}),
        (DataSpec, {"files": "\udcff.csv"}),
    ],
)
def test_what_no_plan_can_say_is_refused_with_the_first_reason(kind, values):
    with pytest.raises(SourceError, match=rf"it: {next(iter(values))}.*: (String should|Input should)"):
        checked(kind, values, "it")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("models/bge-small-en-v1.5", "bge-small-en-v1-5"),
        ("hub:BAAI/bge-small-en-v1.5", "bge-small-en-v1-5"),
        ("installed:package/my model/", "my-model"),
        (".", "here"),
        ("../there", "there"),
    ],
)
def test_plan_is_named_by_the_last_part_of_the_model(model, name):
    assert _name(Asked(model, "d", folder=Path("/some/here"))) == name


# ------------------------------------------------------------------ foreign text

FOREIGN = [
    "a\npasses: []", "a # b", "a: b", "'", '"', "\x1b[31m", "\x00", "\x85new", "\u2028new", "\ufeff", "- a", "? a", "*a", "&a", "!!x",
    "{a}", "[a", "%a", "@a", "`a", "null", "~", "1e3", "0o17", "0x1f", "1:30", "on", "yes", "<<", "=", "", " a ", "a\\n", "\ta", "...",
    "---", "a\r\nb", "\u202e", "é" * 200, ".nan", "1_000",
]  # fmt: skip


def test_plan_says_foreign_text_as_it_is_and_comments_hold_it():
    values = {text: [text, {"label": text}] for text in FOREIGN}
    text = _comments(*FOREIGN, "long " * 9999, indent="  ") + _block("task", values) + _block("name", FOREIGN)
    found, faults = read_yaml(_comments(*FOREIGN, "long " * 9999) + write_yaml({"task": values}, compact=True), "plan")
    assert not faults
    assert found.plain() == {"task": values}
    assert all(line.lstrip().startswith("# ") for line in _comments(*FOREIGN, "long " * 9999).splitlines())
    assert len(_comments("long " * 9999)) < MOST_TOLD + 50
    assert read_yaml(text, "plan")[0].plain() == {"task": values, "name": FOREIGN}


def test_plan_of_hostile_names_says_them(tmp_path):
    text_model(tmp_path / "model # 1")
    column, kind = "text: a\nb # c", 'it\'s "x"\x1b'
    labels = ("blue\npasses: []", "red # 'x'")
    name = "rows: a # b's.jsonl"
    write_rows(tmp_path / name, [{column: each["text"], kind: each["label"]} for each in rows(60, labels)])
    plan = propose(Asked("model # 1", name, folder=tmp_path, command="compressor init\nname: x"))
    assert (plan.bound.task.text, plan.bound.task.label) == (column, kind)
    assert plan.bound.data.files.path == (name,)
    assert (plan.bound.name, plan.bound.model.folder) == ("model-1", "model # 1")
    with pytest.raises(SourceError, match="text-classification"):
        propose(Asked("model # 1", name, folder=tmp_path, text=(column,), label=(column,), task="text-classification"))


# ------------------------------------------------------------------ quantize


def verdict(target, outcome, on_fail="stop"):
    return SimpleNamespace(candidate=f"final@{target}", outcome=outcome, on_fail=on_fail)


def test_first_target_that_is_accepted_is_the_one_that_is_shipped():
    report = SimpleNamespace(verdicts=[verdict("b", "met"), verdict("c", "not met")])
    assert shipped_of(report, ["a", "b", "c"]) == "b"
    assert shipped_of(SimpleNamespace(verdicts=[]), ["a", "b"]) == "a"


def test_targets_that_met_all_that_was_asked_are_exported():
    verdicts = [verdict("a", "met"), verdict("a", "not met", "warn"), verdict("b", "met"), verdict("b", "undecided")]
    assert accepted_in(SimpleNamespace(verdicts=verdicts)) == {"a"}


def lines(sign, word, start):
    return f"text{sign}label\n" + "".join(f"{word} {n}{sign}{'ab'[n % 2]}\n" for n in range(start, start + 20))


def test_what_is_said_of_tables_reads_all_of_them(tmp_path):
    """Each of another format, separator and encoding; what is said of the first one alone would read the others wrongly."""
    (tmp_path / "train.csv").write_text(lines(";", "schöne Tage", 0), encoding="cp1252")
    records = [{"text": f"schöne Nächte {n}", "label": "ab"[n % 2]} for n in range(20)]
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in records), encoding="utf-8"
    )
    (tmp_path / "val.tsv").write_text(lines("\t", "frühe, späte", 40), encoding="utf-16")
    found = look(tmp_path, "")
    assert {key: found.data[key] for key in ("separator", "encoding")} == {
        "separator": ";",
        "encoding": ["utf-8", "utf-16", "cp1252"],
    }
    rows = read_rows(DataSpec.model_validate(dict(found.data)), tmp_path, Columns(("text",), "label")).parts
    assert [rows[name]["text"][0] for name in ("train", "validation", "test")] == [
        "schöne Tage 0",
        "frühe, späte 40",
        "schöne Nächte 0",
    ]


def test_tables_that_no_plan_can_read_together_are_told(tmp_path):
    (tmp_path / "train.csv").write_text(lines(";", "a word", 0))
    (tmp_path / "test.csv").write_text(lines("|", "a word", 20))
    with pytest.raises(
        SourceError, match=r"fields are separated by '\|' in .*test.csv and ';' in .*train.csv, and a plan says one"
    ):
        look(tmp_path, "")


def test_file_that_is_no_table_is_told_as_what_it_is(tmp_path):
    (tmp_path / "rows.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(SourceError, match=r"rows.xlsx is a zip archive, as workbooks of Excel are"):
        look(tmp_path / "rows.xlsx", "rows.xlsx")


def test_a_folder_of_texts_is_one_document_a_file_unless_names_say_splits(tmp_path):
    found = look(made(tmp_path / "some", "a.txt", "b.txt", "notes.md"), "some")
    assert (found.data, [each.name for each in found.columns]) == ({"files": "some"}, ["text"])
    assert "each file one document" in found.told
    found = look(made(tmp_path / "wiki", "wiki.train.txt", "wiki.test.txt"), "wiki")
    assert found.data["files"] == {"train": "wiki/wiki.train.txt", "test": "wiki/wiki.test.txt"}
