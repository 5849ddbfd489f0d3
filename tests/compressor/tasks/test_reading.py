"""Rows that are read many at a time are those that are read one by one, and loading reads none alone."""

from __future__ import annotations

import io
import math

import datasets.arrow_dataset
import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from datasets import Image as PictureColumn
from PIL import Image

from compressor.plan.specs import DataSpec
from compressor.tasks.data import load_data
from compressor.tasks.image_classification import ImageClassification
from compressor.tasks.reading import MOST_BYTES, MOST_ROWS, column_of, each_row, values_of
from compressor.tasks.text_classification import TextClassification

COUNT = 3 * MOST_ROWS + 5
ROWS = [
    {
        "text": None if number % 7 == 3 else f"row {number}",
        "label": number % 3 - 1,
        "number": math.inf if number == 5 else number / 3,
        "several": list(range(number % 4)),
        "messages": [{"role": "user", "content": str(number)}] * (number % 3),
        "file": {"bytes": bytes([number % 256]), "path": None},
    }
    for number in range(COUNT)
]
NAMED = Dataset.from_list(ROWS).cast_column("label", ClassLabel(names=["none", "some"]))
VIEWS = {
    "as they lie": Dataset.from_list(ROWS),
    "chosen": Dataset.from_list(ROWS).select(range(COUNT - 1, 0, -2)),
    "of named classes": NAMED,
    "none": Dataset.from_list(ROWS).select([]),
    "one batch": Dataset.from_list(ROWS).select(range(MOST_ROWS)),
    "in chunks": datasets.concatenate_datasets([Dataset.from_list(ROWS[:7]), Dataset.from_list(ROWS[7:])]),
}


@pytest.mark.parametrize("view", VIEWS)
def test_many_at_a_time_are_those_one_by_one(view):
    rows = VIEWS[view]
    single = [rows[number] for number in range(len(rows))]
    assert list(each_row(rows)) == single
    for name in rows.column_names:
        assert column_of(rows, name) == list(values_of(rows, name)) == [row[name] for row in single]
        assert [type(value) for value in column_of(rows, name)] == [type(row[name]) for row in single]


@pytest.mark.parametrize(("size", "most"), [(10, MOST_ROWS), (MOST_BYTES // 3, 2), (2 * MOST_BYTES, 1)])
def test_few_large_rows_are_in_memory_at_once(size, most, monkeypatch):
    asked, plain = [], Dataset.iter
    monkeypatch.setattr(Dataset, "iter", lambda rows, count: asked.append(count) or plain(rows, count))
    rows = Dataset.from_dict({"file": [bytes(size)] * 3, "label": [0, 1, 2]})
    assert [row["label"] for row in each_row(rows)] == [0, 1, 2]
    assert column_of(rows, "label") == [0, 1, 2]
    assert asked[0] == most
    assert asked[1] == MOST_ROWS, "a column of its own is small"


MANY = 320


def pictures():
    """Each of another gray, as files in cells of a table."""
    for number in range(MANY):
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8), number % 256, np.uint8)).resize((4 + number // 256, 4)).save(file, "png")
        yield {"image": {"bytes": file.getvalue(), "path": None}, "label": number % 4}


@pytest.mark.parametrize("kind", ["pictures", "texts"])
def test_loading_asks_for_no_row_alone(kind, tmp_path, monkeypatch):
    """Of what is read whole: checked, cleaned, compared, spelled, split, counted and told by a digest."""
    if kind == "pictures":
        task = ImageClassification(image="image", label="label")
        Dataset.from_list(list(pictures())).cast_column("image", PictureColumn()).to_parquet(tmp_path / "rows.parquet")
    else:
        task = TextClassification(text="text", label="label")
        Dataset.from_list([{"text": f"row {each}", "label": "ab"[each % 2]} for each in range(MANY)]).to_parquet(
            tmp_path / "rows.parquet"
        )
    asked, plain = [], datasets.arrow_dataset.format_table
    monkeypatch.setattr(datasets.arrow_dataset, "format_table", lambda *given, **named: asked.append(1) or plain(*given, **named))
    spec = DataSpec.model_validate({"files": {"train": "rows.parquet"}, "split": {"validation": 40, "test": 40}})
    data = load_data(spec, columns=task.columns(), seed=0, folder=tmp_path)
    assert sum(each.rows for each in data.record.splits if each.name != "calibration") == MANY
    assert len(asked) < MANY // 2
