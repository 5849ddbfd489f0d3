"""A number for each text: read whatever it was written as, scored as scipy counts, told and exported as a number."""

from __future__ import annotations

import json
import tracemalloc

import datasets
import numpy as np
import pytest
import torch
from scipy import stats

from compressor.contracts import Data, Outputs, statistics
from compressor.contracts.records import DataRecord
from compressor.errors import SourceError
from compressor.tasks.text_regression import TextRegression
from compressor.tasks.tiny import text_model

TASK = TextRegression(label="score")


def data(values):
    rows = datasets.Dataset.from_dict({"text": ["t"] * len(values), "score": values})
    return Data({"train": rows}, (), DataRecord(source="rows.csv", digest="", splits=()), "d")


@pytest.mark.parametrize("values", [[1, 2], ["1", " 2.0 "], [1.0, 2.0], ["1e0", "0.2e1"]])
def test_numbers_are_read_whatever_they_were_written_as(values):
    assert TASK.encoded(data(values)).split("train")["score"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("values", "told"),
    [(["1", "good"], "'good'"), ([1.0, float("nan")], "nan"), (["1", "inf"], "'inf'"), (["1", "1_000"], "'1_000'")],
)
def test_what_is_no_number_is_named_with_its_row(values, told):
    with pytest.raises(SourceError, match=f"row 1 of train: column 'score' holds {told}, expected a number"):
        TASK.encoded(data(values))


def test_decimal_commas_are_told():
    with pytest.raises(SourceError, match="holds '1,5', expected a number written with a point"):
        TASK.encoded(data(["1", "1,5"]))


def test_number_that_no_model_computes_with_is_told():
    with pytest.raises(
        SourceError, match=r"row 1 of train: column 'score' holds '1e39': models compute with numbers up to 1e\+15"
    ):
        TASK.encoded(data(["1", "1e39"]))


def test_classes_are_numbers_by_their_names_and_not_by_their_places():
    def named(*names, score=(0, 1)):
        shape = datasets.Features({"text": datasets.Value("string"), "score": datasets.ClassLabel(names=list(names))})
        rows = datasets.Dataset.from_dict({"text": ["t", "u"], "score": score}, features=shape)
        return Data({"train": rows}, (), DataRecord(source="rows.csv", digest="", splits=()), "d")

    assert TASK.encoded(named("1", "5")).split("train")["score"] == [1.0, 5.0]
    with pytest.raises(SourceError, match="row 0 of train: column 'score' holds '1 star', expected a number"):
        TASK.encoded(named("1 star", "5 stars"))
    with pytest.raises(SourceError, match="row 1 of train: column 'score' holds None, expected a number"):
        TASK.encoded(named("1", "5", score=(0, -1)))


def test_one_number_for_all_rows_is_refused():
    with pytest.raises(SourceError, match="all rows of train have the number 3"):
        TASK.encoded(data([3, 3]))


def scored(told, true):
    return TASK.score({"logits": np.asarray(told, dtype=np.float32)[:, None]}, {"numbers": np.asarray(true)}, split="test")


def test_scores_are_those_of_scipy():
    draw = np.random.default_rng(0)
    true = draw.integers(0, 6, 80).astype(float)  # with ties
    told = (true + draw.standard_normal(80)).round(1).astype(np.float32)
    found = scored(told, true)
    values = {metric.name: metric.value for metric in found.scores.metrics}
    assert values["Spearman"] == pytest.approx(stats.spearmanr(told, true).statistic)
    assert values["Pearson"] == pytest.approx(stats.pearsonr(told, true).statistic, abs=1e-6)
    assert values["MSE"] == pytest.approx(float(((told - true) ** 2).mean()))
    assert all(metric.interval.low < metric.value < metric.interval.high for metric in found.scores.metrics)
    assert scored([1.0] * 4, [1.0, 2, 3, 4]).scores.main.value == 0


def test_differences_are_paired_and_negative_where_worse():
    draw = np.random.default_rng(0)
    true = draw.standard_normal(100)
    near, far = true + 0.1 * draw.standard_normal(100), true + draw.standard_normal(100)
    for metric, unit in (("Spearman", "points"), ("Pearson", "points"), ("MSE", "percent")):
        found = TASK.compare(scored(far, true), scored(near, true), metric=metric, name="source", seed=0)
        assert found.unit == unit
        assert found.interval.low < found.change < found.interval.high < 0


def test_intervals_of_many_rows_are_drawn_in_blocks(monkeypatch):
    """All draws at once would hold a thousand numbers for each row."""
    monkeypatch.setattr(statistics, "DRAWN_AT_ONCE", 2_000)
    draw = np.random.default_rng(0)
    true, told = draw.standard_normal(500), draw.standard_normal(500)
    tracemalloc.start()
    try:
        found = scored(told, true)
        TASK.compare(found, found, metric="Pearson", name="source", seed=0)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1000 * 500 * 8 / 4


def test_loss_is_the_mean_square_error():
    loss = TASK.loss(Outputs(torch.tensor([[1.0], [3.0]])), {"labels": torch.tensor([2.0, 1.0])})
    assert float(loss) == pytest.approx((1 + 4) / 2)


def test_answers_are_numbers_and_no_logits():
    assert TASK.tell({"logits": np.asarray([[2.5]], dtype=np.float32)}, ())[0].text == "2.5"
    assert not TASK.gives_logits()
    assert TASK.columns().label is None


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, ("Sigmoid",)),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.activation.Sigmoid"}, ("Sigmoid",)),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, ()),
        ({}, ()),
    ],
)
def test_what_sentence_transformers_puts_on_the_answers_is_told(tmp_path, fields, told):
    text_model(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text()) | fields
    (tmp_path / "config.json").write_text(json.dumps(values))
    lines = TASK.model_copy(update={"max_length": 16}).examine(tmp_path, ())
    after = [f"sentence-transformers puts {name} on its answers: numbers here are those before it" for name in told]
    assert list(lines[1:]) == after
