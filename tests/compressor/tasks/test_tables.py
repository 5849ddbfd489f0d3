"""The characters of a table's fields are its values, only an empty field is missing, and whatever does not fit is told with its line."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from compressor.contracts import Columns
from compressor.errors import MissingColumn, SourceError
from compressor.plan.specs import DataSpec
from compressor.tasks import tables
from compressor.tasks.data import load_data
from compressor.tasks.sources import read_rows
from compressor.tasks.text_classification import TextClassification

COLUMNS = Columns(("text",), "label")
LOOKS = (
    "None",
    "NA",
    "N/A",
    "null",
    "nan",
    "NaN",
    "",
    "01",
    "1",
    "1.0",
    "1e3",
    "0x10",
    "true",
    "True",
    "2024-01-01",
    "1_000",
    " a ",
    "-0",
    "inf",
)


def read(folder, files, **spec):
    return read_rows(DataSpec.model_validate({"files": files, **spec}), folder, COLUMNS)


def cells(folder, files, **spec):
    rows = read(folder, files, **spec).parts["train"]
    return list(zip(rows["text"], rows["label"], strict=True))


def refused(folder, files, **spec):
    with pytest.raises(SourceError) as caught:
        read(folder, files, **spec)
    return str(caught.value).removeprefix(f"{folder}/")


def test_fields_of_csv_are_their_characters(tmp_path):
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((look, look) for look in LOOKS)])
    (tmp_path / "rows.tsv").write_text(
        "".join(f"{text}\t{text}\n" for text in ("label", *LOOKS)).replace("label\tlabel", "text\tlabel")
    )
    for name in ("rows.csv", "rows.tsv"):
        assert cells(tmp_path, name) == [(look or None, look or None) for look in LOOKS]


@pytest.mark.parametrize("array", [False, True])
def test_labels_of_json_are_their_characters(tmp_path, array):
    written = [
        '"None"',
        '"NA"',
        '"2024-01-01"',
        '"01"',
        "1",
        "1.0",
        "1e3",
        "true",
        "false",
        "-0.0",
        '""',
        "null",
        "10000000000000000000000",
    ]
    rows = [f'{{"text": "NA", "label": {label}}}' for label in written]
    (tmp_path / "rows.json").write_text(f"[{','.join(rows)}]" if array else "\n\n".join(rows))
    expected = [
        "None",
        "NA",
        "2024-01-01",
        "01",
        "1",
        "1.0",
        "1e3",
        "true",
        "false",
        "-0.0",
        None,
        None,
        "10000000000000000000000",
    ]
    assert cells(tmp_path, "rows.json") == [("NA", label) for label in expected]


def test_a_class_named_none_stays_a_class(tmp_path):
    lines = [f"word {at},{('Against', 'Favor', 'None')[at % 3]}" for at in range(90)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    data = load_data(DataSpec(files="rows.csv"), columns=COLUMNS, seed=0, folder=tmp_path)
    assert data.labels == ("Against", "Favor", "None")
    assert data.record.removed == {}


def test_codes_and_numbers_in_a_column_of_words_are_what_they_are(tmp_path):
    """Ten thousand numbers before the first word: nothing is decided by the rows that come first."""
    lines = [*(f"a{at},{at % 2:02}" for at in range(12_000)), "b,word"]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    assert {label for _, label in cells(tmp_path, "rows.csv")} == {"00", "01", "word"}


def test_quotation_marks_of_a_file_with_tabs_are_part_of_its_texts(tmp_path):
    rows = [
        (f'"word {at}' if at in (30, 60) else f'word "{at}"' if at == 40 else f"word {at}", "ab"[at % 2]) for at in range(120)
    ]
    (tmp_path / "rows.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows]))
    assert cells(tmp_path, "rows.tsv") == rows
    assert cells(tmp_path, "rows.tsv", quoting="none") == rows
    assert refused(tmp_path, "rows.tsv", quoting="minimal").startswith("rows.tsv, line 32: cannot be read as csv: ")


def test_field_in_quotation_marks_between_tabs_is_asked_about(tmp_path):
    (tmp_path / "rows.tsv").write_text('text\tlabel\nplain\ta\n"he said ""no"""\tb\n')
    said = refused(tmp_path, "rows.tsv")
    assert said.startswith('rows.tsv, line 3: "he said ""no""" begins and ends with a quotation mark: say `quoting: none` where')
    assert cells(tmp_path, "rows.tsv", quoting="minimal") == [("plain", "a"), ('he said "no"', "b")]
    assert cells(tmp_path, "rows.tsv", quoting="none")[1] == ('"he said ""no"""', "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "text,label\na,b\nc, d,e\n",
            "rows.csv, line 3: 3 fields, and the header has 2: put a text that holds a comma into quotation marks",
        ),
        ("text,label\na,b,\nc,d,\n", "rows.csv, line 2: 3 fields, and the header has 2"),
        ("text,label\na,b\n\n\nc\n", "rows.csv, line 5: 1 field, and the header has 2: each row has as many as the header"),
        (
            'text,label\n"a\nb",c\n"d"e,f\n',
            "rows.csv, line 4: cannot be read as csv: ',' expected after '\"'; say `quoting: none`",
        ),
        ('text,label\na,b\n"c,d\ne,f\n', "rows.csv, line 3: cannot be read as csv: unexpected end of data; say `quoting: none`"),
        ("text,label,label\na,b,c\n", "rows.csv, line 1: the column 'label' stands there more than once"),
        ("", "rows.csv holds no rows"),
        ("\n\ntext,label\n", "rows.csv holds no rows"),
        (
            "text;label\na;b\n",
            "rows.csv has no column 'text' (columns: text;label); fields seem to be separated otherwise: say `separator: \";\"`",
        ),
    ],
)
def test_csv_that_is_not_even_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "rows.csv").write_text(text)
    assert refused(tmp_path, "rows.csv").startswith(message)


def test_what_else_a_file_may_be_is_said(tmp_path):
    (tmp_path / "rows.csv").write_bytes(gzip.compress(b"text,label\na,b\n", mtime=0))
    assert refused(tmp_path, "rows.csv") == "rows.csv is a compressed file: unpack it"
    (tmp_path / "rows.tsv").write_text('"text"\t"label"\n"a"\t"b"\n')
    assert refused(tmp_path, "rows.tsv").endswith("; fields seem to be quoted: say `quoting: minimal`")
    (tmp_path / "rows.tsv").write_text("text,label\na,b\n")
    assert refused(tmp_path, "rows.tsv").endswith('; fields seem to be separated otherwise: say `separator: ","`')


def test_table_that_unfolds_beyond_all_bounds_is_refused(tmp_path, monkeypatch):
    table = pandas.DataFrame({"text": pandas.Categorical(["x" * 100_000] * 4000), "label": "a"})
    table.to_parquet(tmp_path / "rows.parquet")
    assert (tmp_path / "rows.parquet").stat().st_size < 100_000
    monkeypatch.setattr(tables, "MOST_READ_BYTES", 10**8)  # a real one takes as much memory as is allowed
    assert refused(tmp_path, "rows.parquet") == "rows.parquet unfolds to more than 0 GB: split it"


def test_trailing_column_without_a_name_is_a_column_like_others(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label,\na,b,\nc,d,\n")
    assert cells(tmp_path, "rows.csv") == [("a", "b"), ("c", "d")]


def test_quoted_field_that_holds_rows_is_told(tmp_path):
    (tmp_path / "rows.csv").write_text('text,label\na,b\n"c,d\ne,f\ng",h\n"two\nlines",i\n')
    found = read(tmp_path, "rows.csv")
    assert found.parts["train"]["text"][1] == "c,d\ne,f\ng"
    (finding,) = found.findings
    assert "rows.csv, lines 3 to 5: a quoted field holds lines that look like rows" in finding


def test_separator_quoting_and_encoding_are_options(tmp_path):
    (tmp_path / "rows.csv").write_bytes('text;label\ncaf\u00e9, "\u20ac";b\n'.encode("cp1252"))
    assert cells(tmp_path, "rows.csv", separator=";", quoting="none", encoding="cp1252") == [('caf\u00e9, "\u20ac"', "b")]
    said = refused(tmp_path, "rows.csv", separator=";")
    assert said.startswith("rows.csv, line 2: byte 14 of the file is 0xe9, not UTF-8; say what it is in, as `encoding: cp1252`")
    assert cells(tmp_path, "rows.csv", separator=";", quoting="none", encoding=["utf-8", "cp1252"])[0][1] == "b"
    for name, encoding in (
        ("rows.csv", "utf-16"),
        ("rows.jsonl", "utf-16"),
        ("rows.csv", "utf-8-sig"),
        ("rows.jsonl", "utf-8-sig"),
    ):
        text = "text,label\n\u00e9,b\n" if name.endswith("csv") else '{"text": "\u00e9", "label": "b"}\n'
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert cells(tmp_path, name, **({"encoding": encoding} if encoding == "utf-16" else {})) == [("\u00e9", "b")]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"separator": "\\t"}, "expected one character"),
        ({"separator": ""}, "expected one character"),
        ({"encoding": "utf-9"}, "expected an encoding"),
        ({"encoding": "rot13"}, "expected an encoding"),
        ({"quoting": "some"}, "'minimal' or 'none'"),
    ],
)
def test_options_that_mean_nothing_are_faults(spec, message):
    with pytest.raises(ValueError, match=message):
        DataSpec.model_validate({"files": "x.csv", **spec})


def test_long_texts_are_read_whole(tmp_path):
    limit = csv.field_size_limit()
    (tmp_path / "rows.csv").write_text(f"text,label\n{'x' * 300_000},a\n")
    assert len(cells(tmp_path, "rows.csv")[0][0]) == 300_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a", "label": "b"}\n{"text": \n', "rows.jsonl, line 2: cannot be read as json: Expecting value in column 9"),
        ('{"text": "a", "label": "b"}\n\n["c", "d"]\n', 'rows.jsonl, line 3: found ["c", "d"], expected an object'),
        ('{"text": "a", "label": "b"}\n{"text": 3, "label": "b"}\n', "rows.jsonl, line 2: 'text' is 3 (int), and str before"),
        ('{"text": "\\ud800", "label": "b"}\n', "rows.jsonl, line 1: 'text' holds half of a character"),
        ("[" * 100_000, "rows.jsonl, line 1: cannot be read as json"),
        ('{"text": "a"}\n', "rows.jsonl has no column 'label' (columns: text)"),
        ("\n", "rows.jsonl holds no rows"),
        (
            '{"text": [{"a": "b"}, {"a": ["c"]}], "label": "b"}\n',
            'rows.jsonl, line 1: \'text\' holds [{"a": "b"}, {"a": ["c"]}]: inside',
        ),
        (
            '{"text": "a", "text": "a", "label": "b"}\n{"text": "a", "label": "b", "label": "c"}\n',
            "rows.jsonl, line 2: the key 'label' is there twice, once with 'b' and once with 'c'",
        ),
    ],
)
def test_json_that_does_not_fit_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "rows.jsonl").write_text(text)
    assert refused(tmp_path, "rows.jsonl").startswith(message)


def test_objects_may_lack_what_others_have(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"label": "b", "text": "c"}\n')
    assert cells(tmp_path, "rows.jsonl") == [("a", None), ("c", "b")]


def test_parquet_keeps_the_values_of_its_types(tmp_path):
    frame = pandas.DataFrame({"more": [1, 2], "label": pandas.Categorical(["None", "01"]), "text": ["NA", "x"]})
    frame.to_parquet(tmp_path / "rows.parquet")
    assert cells(tmp_path, "rows.parquet") == [("NA", "None"), ("x", "01")]
    pandas.DataFrame({"label": [1.0, None], "text": ["a", "b"]}).to_parquet(tmp_path / "gap.parquet")
    assert cells(tmp_path, "gap.parquet") == [("a", "1"), ("b", None)]
    pandas.DataFrame({"body": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(MissingColumn, match=r"has no column 'text' \(columns: body\)"):
        read(tmp_path, "other.parquet")


def test_column_that_stands_twice_in_parquet_is_told(tmp_path):
    twice = pa.table([["a", "b"], ["c", "d"], ["e", "f"]], names=["text", "label", "label"])
    pq.write_table(twice, tmp_path / "rows.parquet")
    assert refused(tmp_path, "rows.parquet") == "rows.parquet: the column 'label' stands there more than once"


@pytest.mark.parametrize("name", ["\ufefftext", "Text ", "te\u00adxt"])
def test_column_that_only_looks_like_the_one_that_is_meant_is_told_as_that(tmp_path, name):
    (tmp_path / "rows.jsonl").write_text(json.dumps({name: "a", "label": "b"}) + "\n")
    with pytest.raises(MissingColumn, match=r"differ by blanks or letter case|look the same, and are spelled in different code"):
        read(tmp_path, "rows.jsonl")


def test_scores_are_no_classes(tmp_path):
    for count, values in ((10, "0.{}"), (9, "{} or more"), (8, "{}")):
        lines = [f"text {at},{values.format(at % count)}" for at in range(200)]
        (tmp_path / f"{count}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    for count in (8, 9):
        assert len(load_data(DataSpec(files=f"{count}.csv"), columns=COLUMNS, seed=0, folder=tmp_path).labels) == count
    with pytest.raises(
        SourceError, match=r"10.csv: column 'label' holds 10 different numbers, as 0.1: these are amounts and no c"
    ):
        load_data(DataSpec(files="10.csv"), columns=COLUMNS, seed=0, folder=tmp_path)


def test_equal_texts_with_different_labels_are_kept_and_told(tmp_path):
    lines = [*(f"number {at},{'ab'[at % 2]}" for at in range(40)), "Number  3,a", "number 5,b", "number 7,B"]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    data = load_data(DataSpec(files="rows.csv"), columns=COLUMNS, seed=0, folder=tmp_path)
    assert data.record.removed == {"duplicates": 1}
    assert sum(split.rows for split in data.record.splits if split.name != "calibration") == 42
    assert data.record.findings == (
        "2 rows with the content of another row and a different label, all kept (first: {}, line 5 'b', {}, line 42 'a')".format(
            *[tmp_path / "rows.csv"] * 2
        ),
        "labels 'B' and 'b' differ by blanks or letter case alone, and are two classes",
    )


def test_equal_texts_with_different_lists_or_numbers_are_kept_and_told(tmp_path):
    rows = [{"text": f"number {at}", "labels": ["a"], "score": at / 2} for at in range(40)]
    rows += [{"text": "Number 3", "labels": ["a", "b"], "score": 1.5}, {"text": "number 4", "labels": ["a"], "score": 0.25}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for column, number, first, other in (("labels", 3, "['a']", "['a', 'b']"), ("score", 4, "2.0", "0.25")):
        data = load_data(DataSpec(files="rows.jsonl"), columns=Columns(("text",), kept=(column,)), seed=0, folder=tmp_path)
        assert data.record.findings == (
            "1 row with the content of another row and a different label, all kept "
            f"(first: {tmp_path}/rows.jsonl, line {number + 1} {column} {first}, "
            f"{tmp_path}/rows.jsonl, line {38 + number} {column} {other})",
        )
    assert load_data(DataSpec(files="rows.jsonl"), columns=Columns(("text",)), seed=0, folder=tmp_path).record.findings == ()


def test_lists_of_equal_labels_in_another_order_are_equal(tmp_path):
    rows = [{"text": f"number {at}", "labels": ["a", "b"]} for at in range(40)]
    rows += [{"text": "number 3", "labels": ["b", "a"]}, {"text": "number 4", "labels": '["b", "a", "b"]'}]
    frame = [{**row, "labels": json.dumps(row["labels"]) if isinstance(row["labels"], list) else row["labels"]} for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in frame))
    columns = TextClassification(label="labels", multi_label=True).columns()
    data = load_data(DataSpec(files="rows.jsonl"), columns=columns, seed=0, folder=tmp_path)
    assert (data.record.removed, data.record.findings) == ({"duplicates": 2}, ())


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.json", "rows.parquet"])
def test_rows_know_their_place_in_the_users_file_after_cleaning_and_splitting(tmp_path, name):
    rows = [{"text": f"number {at}" if at % 5 else "", "label": "ab"[at % 2]} for at in range(60)] + [
        {"text": "number 1", "label": "b"}
    ] * 3
    if name.endswith("csv"):
        (tmp_path / name).write_text("text,label\n" + "".join(f'"{row["text"]}",{row["label"]}\n' for row in rows))
    elif name.endswith("jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name.endswith("json"):
        (tmp_path / name).write_text(json.dumps(rows))
    else:
        pandas.DataFrame(rows).to_parquet(tmp_path / name)
    data = load_data(DataSpec(files=name), columns=COLUMNS, seed=0, folder=tmp_path)
    first, unit = {"rows.csv": (2, "line"), "rows.jsonl": (1, "line"), "rows.json": (1, "record")}.get(name, (1, "row"))
    for split in ("train", "validation", "test", "calibration"):
        for at, text in enumerate(data.split(split)["text"]):
            assert data.place(split, at) == f"{tmp_path / name}, {unit} {int(text.split()[1]) + first}"
    assert "place of the row" not in data.split("train").column_names


# ------------------------------------------------------------------ files that rows name


@pytest.fixture
def secret(tmp_path):
    """A file that nobody named, beside the folder of the data."""
    (tmp_path / "data").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "secret.png")
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "data" / "own.png")
    return tmp_path / "secret.png"


def put(folder, kind, names):
    """Rows whose cells name files, and hold none."""
    stored = [{"bytes": None, "path": str(name)} for name in names]
    labels = ["a"] * len(names)
    if kind == "jsonl":
        rows = ({"image": cell, "label": "a"} for cell in stored)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return
    image = datasets.Image() if kind == "parquet" else {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"image": image, "label": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": stored, "label": labels}, features=features)
    import pyarrow.parquet as pq

    pq.write_table(table.data.table, folder / "rows.parquet")  # as it is: the library would read the files and keep their bytes


@pytest.mark.parametrize("kind", ["parquet", "plain parquet", "jsonl"])
@pytest.mark.parametrize(
    "name", ["{secret}", "../secret.png", "link.png", "/dev/zero", "absent.png", "https://example.org/x.png", "a\0b.png"]
)
def test_rows_name_no_file_out_of_their_folder(tmp_path, secret, kind, name):
    data = tmp_path / "data"
    (data / "link.png").symlink_to(secret)
    put(data, kind, ["own.png", name.format(secret=secret)])
    with pytest.raises(SourceError, match=r"(line|row) 2: .*(leads to|no such file)"):
        read_rows(DataSpec(files=f"data/rows.{kind.split()[-1]}"), tmp_path, Columns(("image",), "label"))


def test_rows_name_files_below_their_folder_and_the_root_of_the_plan(tmp_path, secret, monkeypatch):
    monkeypatch.chdir("/")
    put(tmp_path / "data", "parquet", ["own.png", str(tmp_path / "data" / "own.png")])
    rows = read_rows(DataSpec(files="data/rows.parquet"), tmp_path, Columns(("image",), "label")).parts["train"]
    assert rows[0]["image"].getpixel((0, 0)) == rows[1]["image"].getpixel((0, 0)) == (0, 0, 255)
    put(tmp_path / "data", "parquet", ["secret.png", str(secret)])
    rows = read_rows(DataSpec(files="data/rows.parquet", root="."), tmp_path, Columns(("image",), "label")).parts["train"]
    assert rows[0]["image"].getpixel((0, 0)) == rows[1]["image"].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("name", ["rows.jsonl", "pipe.jsonl", "zero.csv", "more/*.jsonl"])
def test_tables_are_plain_files_of_their_own_folder(tmp_path, name):
    (tmp_path / "more").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    (tmp_path / "rows.jsonl").symlink_to("secret/../secret/rows.jsonl")
    (tmp_path / "rows.jsonl").unlink()
    (tmp_path / "rows.jsonl").symlink_to("/etc/passwd")
    (tmp_path / "more" / "rows.jsonl").symlink_to(tmp_path / "secret" / "rows.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    assert re.search("leads to|is a pipe", refused(tmp_path, name))
    if name == "more/*.jsonl":
        assert cells(tmp_path, name, root="secret") == [("a", "b")]


# ------------------------------------------------------------------ files that are taken for others, and other shapes

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.csv", b"PK\x03\x04junk", "zip archive, as workbooks of Excel"),
        ("rows.xls", bytes.fromhex("D0CF11E0A1B11AE1"), "workbook of Excel: save the sheet as CSV"),
        ("rows.csv.gz", gzip.compress(b"text,label\n", mtime=0), "compressed file: unpack it"),
        ("rows.arrow", b"ARROW1\0\0", "file of Arrow: write it as parquet"),
        ("rows.jsonl", b"<!DOCTYPE html>\n<html>", "page of the web"),
        ("rows.csv", b"PAR1\x15junk", "say `format: parquet`"),
        ("rows.pkl", b"\x80\x04junk", "pickle, which could run code"),
        ("rows.csv", POINTER, "pointer of Git LFS"),
        ("rows.parquet", POINTER, "pointer of Git LFS"),
    ],
)
def test_file_that_is_another_is_told_as_what_it_is(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert says in refused(tmp_path, name)


def test_columns_may_be_called_as_other_files_begin(tmp_path):
    (tmp_path / "rows.csv").write_text("PAR1,par1,bzh,text,label\na,b,c,d,e\n")
    assert cells(tmp_path, "rows.csv") == [("d", "e")]


def test_page_of_the_web_is_a_text_where_lines_are_rows(tmp_path):
    (tmp_path / "rows.txt").write_text("<html>\n<p>\n")
    rows = read_rows(DataSpec(files="rows.txt"), tmp_path, Columns(("text",))).parts["train"]
    assert list(rows["text"]) == ["<html>", "<p>"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": ["a", "b"], "label": ["x", "y"]}', "line 1: the object holds columns"),
        ('{"text": {"0": "a"}, "label": {"0": "x"}}', "line 1: the object holds columns"),
        ('{"version": 1, "data": [{"text": "a", "label": "x"}]}', "line 1: the rows lie in the object's 'data'"),
        ('{\n "text": "a",\n "label": "x"\n}', "the object goes on over further lines"),
    ],
)
def test_json_of_another_shape_is_told(tmp_path, content, says):
    (tmp_path / "rows.json").write_text(content)
    assert says in refused(tmp_path, "rows.json")


def test_one_row_of_turns_is_a_row(tmp_path):
    (tmp_path / "rows.json").write_text('{"messages": [{"role": "user", "content": "a"}]}')
    rows = read_rows(DataSpec(files="rows.json"), tmp_path, Columns(("messages",))).parts["train"]
    assert rows[0]["messages"] == [{"role": "user", "content": "a"}]


def test_label_that_is_nan_in_json_is_missing_as_in_parquet(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": NaN}\n{"text": "b", "label": "NaN"}\n')
    assert cells(tmp_path, "rows.jsonl") == [("a", None), ("b", "NaN")]


def test_first_line_that_is_no_header_is_told(tmp_path):
    (tmp_path / "excel.csv").write_text("sep=;\ntext;label\na;b\n")
    assert 'the first line is for Excel and no header: take it out, and say `separator: ";"`' in refused(tmp_path, "excel.csv")
    (tmp_path / "bare.csv").write_text("some words,a\nothers,b\n")
    assert refused(tmp_path, "bare.csv").endswith("the first line has to name the columns")


def test_separator_of_the_plan_gives_way_where_a_file_has_its_columns_by_its_usual_one(tmp_path):
    (tmp_path / "a.csv").write_text("text;label\none, two;x\n")
    (tmp_path / "b.tsv").write_text("text\tlabel\nthree; four\ty\n")
    (tmp_path / "c.csv").write_text("text,label\nfive; six,z\n")
    expected = [("one, two", "x"), ("three; four", "y"), ("five; six", "z")]
    assert cells(tmp_path, ["a.csv", "b.tsv", "c.csv"], separator=";") == expected


def test_paths_that_are_near_or_of_a_shell_are_told(tmp_path):
    (tmp_path / "Rows.csv").write_text("text,label\na,b\n")
    assert refused(tmp_path, "rows.csv") == "rows.csv: no such file or folder (did you mean 'Rows.csv'?)"
    for name in ("~/rows.csv", "$HOME/rows.csv"):
        assert refused(tmp_path, name).endswith("no such file or folder; `~` and `$NAME` are characters here: write the path out")


OTHERS = {"list": lambda at: [f"a {at}"], "bytes": lambda at: b"a %d" % at, "struct": lambda at: {"a": f"b {at}"}}


@pytest.mark.parametrize("value", OTHERS.values(), ids=OTHERS)
def test_column_of_what_is_no_text_or_label_is_told_with_its_row(tmp_path, value):
    for column, other in (("text", "label"), ("label", "text")):
        plain = [f"w {at % 2 if other == 'label' else at}" for at in range(40)]
        pq.write_table(pa.table({column: [value(at) for at in range(40)], other: plain}), tmp_path / "x.parquet")
        with pytest.raises(SourceError, match=r"x\.parquet, row \d+: "):
            TextClassification().encoded(load_data(DataSpec(files="x.parquet"), columns=COLUMNS, seed=0, folder=tmp_path))


def test_texts_of_any_type_of_string_are_texts(tmp_path):
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        texts = pa.array([f"w {at}" for at in range(40)], kind)
        pq.write_table(pa.table({"text": texts, "label": ["a", "b"] * 20}), tmp_path / "x.parquet")
        data = TextClassification().encoded(load_data(DataSpec(files="x.parquet"), columns=COLUMNS, seed=0, folder=tmp_path))
        assert data.labels == ("a", "b")


def test_tables_that_systems_keep_of_tables_are_no_rows(tmp_path):
    for name in ("set/a.csv", "set/@eaDir/a.csv", "set/.old.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text,label\na,x\nb,y\n")
    found = read(tmp_path, "set", format="csv")
    assert len(found.parts["train"]) == 2
    assert found.findings == (f"{tmp_path}/set: passed over 1 '@eaDir', 1 hidden",)


def test_labels_that_stand_elsewhere_are_told(tmp_path):
    (tmp_path / "set" / "label=a").mkdir(parents=True)
    pandas.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "set" / "label=a" / "part-0.snappy.parquet")
    said = refused(tmp_path, "set", format="parquet")
    assert said.endswith(
        "its values stand in names of folders, as Hive and Spark write a partitioned table: write them into the rows"
    )
    (tmp_path / "rows.txt").write_text("__label__a some text\n")
    assert refused(tmp_path, "rows.txt").endswith(
        "a line of a file of text is a text and nothing else: write rows with labels as csv or json"
    )


@pytest.mark.parametrize("other", [[1, "1"], [["a"]], [1.0], [True], 3, {"a": 1}])
def test_value_of_another_type_is_told_with_its_own_line(tmp_path, other):
    values = [["a"], [], ["b"], other, ["a"]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": "a", "tags": each}) + "\n" for each in values))
    with pytest.raises(
        SourceError, match=re.escape(f"rows.jsonl, line 4: 'tags' is {json.dumps(other)} ({type(other).__name__}), and")
    ):
        read_rows(DataSpec(files="rows.jsonl"), tmp_path, Columns(("text",), kept=("tags",)))


def test_header_among_the_rows_is_told_with_its_line(tmp_path):
    """`cat a.csv b.csv` makes a class of the name of the column."""
    (tmp_path / "rows.csv").write_text("text,label\na,x\n" * 2)
    assert refused(tmp_path, "rows.csv").startswith("rows.csv, line 3: the header stands here again")


def test_parts_that_several_programs_wrote_are_one_split(tmp_path):
    """Polars writes other texts than pandas, and each file numbers its classes in its own order."""
    pq.write_table(pa.table({"text": pa.array(["a"]), "label": pa.array(["x"])}), tmp_path / "a.parquet")
    large = {"text": pa.array(["b"], pa.large_string()), "label": pa.array(["y"], pa.large_string())}
    pq.write_table(pa.table(large), tmp_path / "b.parquet")
    for name, classes in (("c", ["x", "y"]), ("d", ["y", "x"])):
        shape = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=classes)})
        datasets.Dataset.from_dict({"text": [name], "label": [0]}, features=shape).to_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "e.csv").write_text("text,label\ne,y\n")
    names = ["a.parquet", "b.parquet", "c.parquet", "d.parquet", "e.csv"]
    assert cells(tmp_path, names) == [("a", "x"), ("b", "y"), ("c", "x"), ("d", "y"), ("e", "y")]


def test_column_that_is_called_as_the_place_of_rows_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("place of the row,label\na,x\n")
    with pytest.raises(SourceError, match="a column cannot be called 'place of the row'"):
        read_rows(DataSpec(files="rows.csv"), tmp_path, Columns(("place of the row",), "label"))
