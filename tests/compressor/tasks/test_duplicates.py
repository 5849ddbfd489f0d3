"""Rows in memory: what is cleaned away, what counts as equal and what becomes of it, and what the digests hold."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from datasets import Dataset, Features, Image, Value

from compressor.contracts import Columns, derived_seed
from compressor.errors import SourceError
from compressor.plan.specs import DataSpec
from compressor.tasks.data import named_files, split_rows
from compressor.tasks.labels import look_alikes
from compressor.tasks.sources import Source
from compressor.tasks.split import cut

ONE = Columns(("text",), "label")
SPLITS = ("train", "validation", "test")


def dataset(rows, columns=("text", "label")):
    return Dataset.from_list([dict(zip(columns, row, strict=True)) for row in rows])


def row(number, label=None):
    return (f"row {number}", label or "ab"[number % 2])


def load(parts, columns=ONE, *, seed=0, findings=(), names=("text", "label"), **spec):
    made = {name: rows if isinstance(rows, Dataset) else dataset(rows, names) for name, rows in parts.items()}
    return split_rows(
        Source(made, "rows.csv", findings), DataSpec.model_validate({"hub": "a/b", **spec}), columns=columns, seed=seed
    )


def refused(message):
    return pytest.raises(SourceError, match=f"^{re.escape(message)}$")


MANY = [row(number) for number in range(20)]
GIVEN = {name: [row(number) for number in range(start, start + 6)] for name, start in zip(SPLITS, (0, 100, 200), strict=True)}


def texts(data, name):
    return data.split(name)["text"][:]


# ------------------------------------------------------------------ what is left out


@pytest.mark.parametrize("empty", [None, "", "  \n\t "])
def test_rows_without_content_are_left_out_and_counted(empty):
    data = load({"train": [*MANY, (empty, "a"), ("x", None), (None, None), ("y", "")]})
    counted = {"without content": 1, "without a label": 3}
    assert data.record.removed == counted
    assert sum(len(data.split(name)) for name in SPLITS) == 20


def test_every_column_of_content_and_every_further_one_is_needed():
    rows = [(f"a {n}", f"b {n}", f"k {n}", "xy"[n % 2]) for n in range(20)]
    lacking = [("a", "", "k", "x"), ("", "b", "k", "x"), ("a", "b", None, "x")]
    columns = Columns(("one", "two"), "label", ("kept",))
    data = load({"train": [*rows, *lacking]}, columns, names=("one", "two", "kept", "label"))
    assert data.record.removed == {"without content": 2, "without 'kept'": 1}
    assert load({"train": MANY}).record.removed == {}


def test_rows_that_are_too_few_are_told_with_what_was_left_out():
    """Columns of 0 and 1 in which 0 was left empty: the rows are there, and their labels are not."""
    rows = [(f"a {n}", "1" if n % 2 else "", "1" if n % 3 else "") for n in range(30)]
    columns, names = Columns(("text",), None, ("sport", "politics")), ("text", "sport", "politics")
    with refused(
        "cannot cut 12 rows of test from 10 (15 without 'sport', 5 without 'politics' are left out): give more rows or another `split:`"
    ):
        load({"train": rows}, columns, names=names, split={"validation": 3, "test": 12})
    with refused("rows.csv: no row of train has content, 'sport' and 'politics' (3 without 'sport')"):
        load({"train": [("a", "", "1")] * 3}, columns, names=names)


def test_split_with_no_row_left_is_refused_with_what_was_removed():
    with refused("rows.csv: no row of test has content and a label (1 without content, 2 without a label)"):
        load({"train": MANY, "test": [("", "a"), ("x", None), ("y", None)]})
    with refused("rows.csv: no row of train has content (the file is empty)"):
        load({"train": Dataset.from_dict({"text": []})}, Columns(("text",)), names=("text",))


# ------------------------------------------------------------------ what is equal


EQUAL = [("Alpha  BETA", "alpha beta"), (" x\n y ", "X Y"), ("stra\u00dfe", "STRASSE")]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_texts_are_equal_but_for_letter_case_and_blanks(one, other):
    data = load({"train": [*MANY, (one, "a"), (other, "a")]})
    assert data.record.removed == {"duplicates": 1}
    kept = [text for name in SPLITS for text in texts(data, name)]
    assert one in kept
    assert other not in kept, "the first one stays"


@pytest.mark.parametrize(("one", "other"), [("ab", "a b"), ("a", "a."), ("1", "01")])
def test_other_texts_are_not_equal(one, other):
    assert load({"train": [*MANY, (one, "a"), (other, "a")]}).record.removed == {}


def test_columns_are_not_run_together():
    rows = [(f"a {n}", f"b {n}", "xy"[n % 2]) for n in range(20)]
    columns, names = Columns(("one", "two"), "label"), ("one", "two", "label")
    assert load({"train": [*rows, ("ab", "c", "x"), ("a", "bc", "x")]}, columns, names=names).record.removed == {}
    assert load({"train": [*rows, ("ab", "c", "x"), ("AB", "c", "x")]}, columns, names=names).record.removed == {"duplicates": 1}


def test_rows_of_three_copies_lose_two():
    assert load({"train": [*MANY, MANY[0], MANY[0]]}).record.removed == {"duplicates": 2}


def test_equal_content_with_another_label_is_kept_and_found():
    data = load({"train": [*MANY, ("ROW 3", "a"), ("row 4", "b")]}, findings=("passed over: x",))
    assert data.record.removed == {}
    assert data.record.findings == (
        "passed over: x",
        "2 rows with the content of another row and a different label, all kept (first: row 3 of train 'b', row 20 of train 'a')",
    )


def test_contradiction_across_splits_names_both():
    parts = {**GIVEN, "test": [*GIVEN["test"], ("row 0", "b")]}
    assert load(parts).record.findings == (
        "1 row with the content of another row and a different label, all kept (first: row 0 of train 'a', row 6 of test 'b')",
    )


def test_without_a_label_what_is_kept_beside_the_content_stands_for_one():
    columns = Columns(("text",), None, ("score", "note"))
    rows = [(f"row {n}", float(n), "n") for n in range(20)]
    long = "n" * 60
    data = load({"train": [*rows, ("row 1", 1.0, "N"), ("row 2", 7.0, long)]}, columns, names=("text", "score", "note"))
    assert data.record.removed == {"duplicates": 1}
    assert data.record.findings == (
        "1 row with the content of another row and a different label, all kept "
        f"(first: row 2 of train score 2.0, note 'n', row 21 of train score 7.0, note '{'n' * 39})",
    )
    assert data.labels == ()
    assert all(split.classes == {} for split in data.record.splits)


def test_pictures_are_equal_by_their_bytes_and_missing_ones_have_no_content(tmp_path):
    from PIL import Image as Pixels

    for name, colour in (("one", 10), ("copy", 10), ("other", 200)):
        Pixels.new("L", (4, 4), colour).save(tmp_path / f"{name}.png")
    cells = [{"bytes": None, "path": str(tmp_path / f"{name}.png")} for name in ("one", "copy", "other")]
    more = [{"bytes": _png(Pixels, number), "path": None} for number in range(20)]
    shape = Features({"image": Image(decode=False), "label": Value("string")})
    rows = [*cells, *more, None]
    made = Dataset.from_dict({"image": rows, "label": ["ab"[n % 2] for n in range(len(rows))]}, features=shape)
    made = made.map(lambda each, at: {"label": "a" if at < 3 else each["label"]}, with_indices=True, features=shape)
    data = load({"train": made.cast_column("image", Image())}, Columns(("image",), "label"))
    assert data.record.removed == {"without content": 1, "duplicates": 1}
    kept = {cell["path"] for name in SPLITS for cell in data.split(name).cast_column("image", Image(decode=False))["image"]}
    assert str(tmp_path / "copy.png") not in kept
    assert named_files({"train": made}) == tuple(sorted(tmp_path / f"{name}.png" for name in ("one", "copy", "other")))
    assert named_files({"train": dataset(MANY)}) == ()


def _png(pixels, number):
    from io import BytesIO

    held = BytesIO()
    pixels.new("L", (4, 4), 14 + 4 * number).save(held, "PNG")
    return held.getvalue()


# ------------------------------------------------------------------ equal rows of several splits


def shared(first, second):
    """Splits given by hand of which two have a row in common, and one of them has it twice."""
    parts = {name: list(rows) for name, rows in GIVEN.items()}
    parts[first].append(("shared", "a"))
    parts[second] += [("shared", "a"), ("Shared ", "a")]
    return parts


@pytest.mark.parametrize(
    ("first", "second", "owner", "loser"),
    [("test", "train", "test", "train"), ("train", "test", "test", "train"), ("test", "validation", "test", "validation"),
     ("validation", "test", "test", "validation"), ("validation", "train", "validation", "train")],
)  # fmt: skip
def test_test_has_the_first_right_to_a_row_then_validation(first, second, owner, loser):
    parts = shared(first, second)
    data = load(parts, deduplicate=True)
    twice_where_it_stays = second == owner
    assert data.record.removed == ({"duplicates": 1, "in two splits": 1} if twice_where_it_stays else {"in two splits": 2})
    assert texts(data, owner).count("shared") == 1
    assert not {"shared", "Shared "} & set(texts(data, loser))


@pytest.mark.parametrize("deduplicate", [None, False])
def test_row_in_two_given_splits_is_refused(deduplicate):
    parts = {**GIVEN, "train": [*GIVEN["train"], GIVEN["test"][2]]}
    with refused(
        "1 row of train stands in test too (first: row 6 of train), so that scores would flatter: "
        "say `deduplicate: true` to keep them in test only"
    ):
        load(parts, deduplicate=deduplicate)
    parts["validation"] = [*GIVEN["validation"], GIVEN["test"][0], GIVEN["test"][1]]
    with refused(
        "2 rows of validation stand in test too (first: row 6 of validation), so that scores would flatter: "
        "say `deduplicate: true` to keep them in test only"
    ):
        load(parts, deduplicate=deduplicate)


def test_copies_are_refused_where_they_could_come_to_stand_in_two_splits_and_shall_stay():
    advice = "equal rows can come to stand in two splits: leave `deduplicate: false` out, or give all splits by hand"
    with refused(f"1 row of train repeats another (first: row 20 of train), and {advice}"):
        load({"train": [*MANY, MANY[5]]}, deduplicate=False)
    with refused(f"2 rows of train repeat another (first: row 20 of train), and {advice}"):
        load({"train": [*MANY, MANY[5], MANY[5]], "test": GIVEN["test"]}, deduplicate=False)


@pytest.mark.parametrize(("deduplicate", "left"), [(None, 8), (False, 8), (True, 6)])
def test_copies_inside_of_a_split_given_by_hand_stay_unless_they_shall_go(deduplicate, left):
    parts = {**GIVEN, "test": [*GIVEN["test"], *GIVEN["test"][:2]], "train": [*GIVEN["train"], *GIVEN["train"][:2]]}
    data = load(parts, deduplicate=deduplicate)
    assert [len(data.split(name)) for name in SPLITS] == [left, 6, left]
    assert data.record.removed == ({"duplicates": 4} if deduplicate else {})


def test_copies_in_train_go_where_splits_are_cut_from_it_and_those_of_the_given_ones_stay():
    parts = {"train": [*MANY, MANY[0]], "test": [*GIVEN["test"], GIVEN["test"][0]]}
    data = load(parts)
    assert data.record.removed == {"duplicates": 1}
    assert len(data.split("test")) == 7


# ------------------------------------------------------------------ labels, digests, records


def test_labels_are_those_of_train_in_order_and_rows_hold_their_numbers():
    rows = [(f"row {n}", str(10 - n % 3)) for n in range(30)]
    data = load({"train": rows})
    assert data.labels == ("8", "9", "10")
    number = dict(zip(*(data.split("train")[name][:] for name in ("text", "label")), strict=True))
    assert all(data.labels[label] == dict(rows)[text] for text, label in number.items())
    assert data.split("train").features["label"].names == ["8", "9", "10"]
    assert {split.name: split.classes for split in data.record.splits}["test"] == {"8": 2, "9": 2, "10": 2}


def test_rows_are_known_by_where_they_stood():
    rows = dataset(MANY).add_column("place of the row", [f"rows.csv, line {number + 2}" for number in range(20)])
    data = load({"train": rows})
    for name in (*SPLITS, "calibration"):
        expected = [f"rows.csv, line {int(text.split()[1]) + 2}" for text in texts(data, name)]
        assert [data.place(name, number) for number in range(len(expected))] == expected
        assert data.split(name).column_names == ["text", "label"]
    assert load({"train": MANY}).digest == data.digest, "no part of what is learned"
    with pytest.raises(SourceError, match=r"repeats another \(first: rows\.csv, line 3\)"):
        load({"train": rows.select([1, 1, *range(2, 20)])}, deduplicate=False)


def test_labels_that_look_alike_are_found_and_amounts_are_refused():
    data = load({"train": [*MANY, *((f"more {n}", "A ") for n in range(6))]})
    assert [each for each in data.record.findings if "letter case alone" in each]
    data = load({"train": [*MANY, *((f"more {n}", "label") for n in range(6))]})
    assert data.record.findings[-1].startswith("column 'label' has the name of one of its labels: is the first line a row")
    with pytest.raises(SourceError, match=r"^rows\.csv: column 'label' holds 20 different numbers"):
        load({"train": [(f"row {n}", f"{n}.5") for n in range(20)]})


def test_labels_that_do_not_do_are_refused():
    with refused("rows.csv: all rows of train have the one label 'a'; at least 2 labels are needed"):
        load({"train": [row(n, "a") for n in range(20)]})
    with refused("test has the label 'c', which no row of train has"):
        load({**GIVEN, "test": [*GIVEN["test"], ("x", "d"), ("y", "c")]})
    load({"train": [row(n, "a") for n in range(20)]}, Columns(("text",)))


def digest(rows, columns=("label", "text")):
    total = hashlib.sha256()
    for each in rows:
        for name in sorted(columns):
            value = each[name]
            content = value.encode() if isinstance(value, str) else json.dumps(value).encode()
            total.update(len(content).to_bytes(8, "little"))
            total.update(content)
    return total.hexdigest()


def whole(digests):
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def test_digests_are_of_the_rows_as_they_were_read_and_as_they_are_used():
    data = load(GIVEN, calibration=3)
    read = {name: digest([{"text": text, "label": label} for text, label in rows]) for name, rows in GIVEN.items()}
    assert data.record.digest == whole(read)
    used = {name: digest(data.split(name)) for name in (*SPLITS, "calibration")}
    assert {split.name: (split.rows, split.digest) for split in data.record.splits} == {
        name: (3 if name == "calibration" else 6, used[name]) for name in used
    }
    assert data.digest == whole({**used, "labels": "a\0b"})
    assert data.record.source == "rows.csv"


def test_digest_differs_where_a_value_a_label_or_the_order_does():
    found = {load({**GIVEN, "test": rows}).digest for rows in (
        GIVEN["test"], GIVEN["test"][::-1], [*GIVEN["test"][:5], ("row 205 ", "b")], [*GIVEN["test"][:5], ("row 205", "a")],
    )}  # fmt: skip
    assert len(found) == 4


def test_files_that_do_not_match_the_plan_are_refused():
    rows = {"train": dataset(MANY)}
    right = load({"train": MANY}).record.digest

    def spec(sha256):
        return DataSpec.model_validate({"files": {"path": "rows.csv", "sha256": sha256}})

    for given in (right, right[:12]):
        split_rows(Source(rows, "rows.csv"), spec(given), columns=ONE, seed=0)
    with refused(f"the rows of rows.csv have sha256 {right[:16]}..., the plan says {'0' * 12}"):
        split_rows(Source(rows, "rows.csv"), spec("0" * 12), columns=ONE, seed=0)


# ------------------------------------------------------------------ cutting


def test_splits_are_cut_from_train_one_after_the_other_by_the_seed():
    rows = [row(n, "abb"[n % 3]) for n in range(60)]
    data = load({"train": rows}, seed=5, split={"test": 0.25, "validation": 6})
    labels = [label == "b" for _, label in rows]
    stay, test = cut(labels, 15, seed=5)
    left, validation = cut([labels[at] for at in stay], 6, seed=5)
    assert texts(data, "test") == [rows[at][0] for at in test]
    assert texts(data, "validation") == [rows[stay[at]][0] for at in validation]
    assert texts(data, "train") == [rows[stay[at]][0] for at in left]


def test_rows_without_labels_are_cut_at_random():
    columns, rows = Columns(("text",)), [(f"row {n}",) for n in range(40)]
    one, same, other = (load({"train": rows}, columns, seed=seed, names=("text",)) for seed in (1, 1, 2))
    assert texts(one, "test") == texts(same, "test") != texts(other, "test")
    _, test = cut(list(range(40)), 8, seed=1)
    assert texts(one, "test") == [rows[at][0] for at in test]


@pytest.mark.parametrize(("count", "rows"), [(0.01, 20), (20, 20), (25, 20)])
def test_split_that_would_be_all_or_nothing_is_refused(count, rows):
    wanted = 0 if count == 0.01 else count
    with refused(f"cannot cut {wanted} rows of test from {rows}: give more rows or another `split:`"):
        load({"train": MANY[:rows]}, split={"test": count})


def test_limits_and_calibration_are_drawn_by_the_seed_in_the_order_of_the_rows():
    import numpy as np

    rows = {**GIVEN, "train": [row(n) for n in range(50)]}
    data = load(rows, seed=3, limit={"train": 20, "test": 4}, calibration=5)
    train = sorted(np.random.default_rng(3).permutation(50)[:20].tolist())
    assert texts(data, "train") == [rows["train"][at][0] for at in train]
    test = sorted(np.random.default_rng(3).permutation(6)[:4].tolist())
    assert texts(data, "test") == [rows["test"][at][0] for at in test]
    drawn = sorted(np.random.default_rng(derived_seed(3, "calibration")).permutation(20)[:5].tolist())
    assert texts(data, "calibration") == [texts(data, "train")[at] for at in drawn]
    assert len(data.split("validation")) == 6
    assert texts(load(rows, limit={"test": 6}), "test") == texts(load(rows), "test")


def test_label_that_is_left_with_no_row_to_train_on_is_refused():
    rows = [*MANY, ("alone", "c")]
    seed = next(seed for seed in range(50) if 20 in cut([0, 1] * 10 + [2], 4, seed=seed)[1])
    with refused("every row with the label 'c' went to test, train has none: give more rows of it, or splits by hand"):
        load({"train": rows}, seed=seed, split={"test": 4, "validation": 2})


def test_sets_of_labels_are_equal_in_any_order():
    columns = Columns(("text",), None, ("tags",), sets=("tags",))
    rows = [(f"row {n}", ["a", "b"]) for n in range(20)]
    data = load({"train": [*rows, ("ROW 1", ["b", "a"]), ("ROW 2", ["a", "c"])]}, columns, names=("text", "tags"))
    assert data.record.removed == {"duplicates": 1}
    assert len(data.record.findings) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("caf\u00e9", "cafe\u0301"), ("b", "b\u200b"), ("\uff41", "a"), ("b c", "b\u00a0C"), ("1", "1.0"), ("007", "7")],
)
def test_labels_that_nobody_could_tell_apart_are_found(one, other):
    (finding,) = look_alikes(sorted([one, other, "x"]))
    assert finding.endswith("and are two classes")
    assert finding.isascii() or "blanks or letter case" in finding
    assert ("are one number" in finding) is one.isdecimal()


def test_labels_of_other_letters_are_no_look_alikes():
    assert not list(
        look_alikes(["caf\u00e9", "cafe", "cat", "c at", "10", "1e0", "12345678901234567890", "12345678901234567891"])
    )
