"""Any number of labels for each row: read from lists or columns, a threshold of validation rows, F1 as scikit-learn counts it."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.metrics import f1_score

from compressor.contracts import Data, Outputs
from compressor.contracts.records import DataRecord, SplitRecord
from compressor.errors import SourceError
from compressor.tasks.multi_label import TARGETS, best_threshold
from compressor.tasks.text_classification import TextClassification
from compressor.testing.subject import Subject
from compressor.testing.tasks import TASK

LISTS = TextClassification(multi_label=True)
COLUMNS = TextClassification(multi_label=True, label=("red", "round"))


def data(**columns):
    rows = datasets.Dataset.from_dict({"text": ["t"] * len(next(iter(columns.values()))), **columns})
    splits = (SplitRecord(name="train", rows=len(rows), digest=""),)
    return Data({"train": rows}, (), DataRecord(source="rows.jsonl", digest="", splits=splits), "d")


def test_lists_become_targets():
    made = LISTS.encoded(data(label=[["red", "round"], [], ["round"], ["new"]]))
    assert made.labels == ("new", "red", "round")
    assert made.split("train")[TARGETS] == [[0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert made.record.splits[0].classes == {"new": 1, "red": 1, "round": 2}
    assert LISTS.targets(made.split("train")) == made.split("train")[TARGETS][:]
    assert LISTS.encoded(data(label=['["red"]', '["round", "red"]'])).split("train")[TARGETS] == [[1, 0], [1, 1]]


def test_columns_become_targets_in_the_order_of_the_plan():
    for red, round_ in (
        (["1", "0", " 1 "], [0, 1, 1]),
        (["True", "FALSE", "true"], ["0.0", "1.0", "1.0"]),
        ([True, False, True], [0.0, 1.0, 1.0]),
    ):
        made = COLUMNS.encoded(data(red=red, round=round_))
        assert made.labels == ("red", "round")
        assert made.split("train")[TARGETS] == [[1, 0], [0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        (LISTS, {"label": ["red", "round"]}, "row 0 of train: column 'label' holds 'red', expected a list of labels"),
        (LISTS, {"label": [["red"], ["red"]]}, "the rows of train have the labels ['red']; at least 2 are needed"),
        (
            LISTS,
            {"label": [[0, 1, 1], [1, 0, 0]]},
            "row 0 of train: column 'label' holds ['0', '1', '1'], which seems to be 0 or 1 for each label",
        ),
        (
            LISTS,
            {"label": [[True, False], [False, False]]},
            "row 0 of train: column 'label' holds [True, False], expected a list",
        ),
        (COLUMNS, {"red": [0, 2], "round": [1, 1]}, "row 1 of train: column 'red' holds 2, expected 0 or 1"),
        (COLUMNS, {"red": [0.0, 0.5], "round": [1, 1]}, "row 1 of train: column 'red' holds 0.5, expected 0 or 1"),
    ],
)
def test_other_values_are_named_with_their_row(task, columns, message):
    with pytest.raises(SourceError, match=re.escape(message)):
        task.encoded(data(**columns))


@pytest.mark.parametrize("parameters", [{"label": ("a", "b")}, {"threshold": 0.3}, {"multi_label": True, "label": ("a",)}])
def test_parameters_that_do_not_go_together(parameters):
    with pytest.raises(ValidationError, match="multi_label: true"):
        TextClassification(**parameters)


def outputs(n=200, seed=0):
    draw = np.random.default_rng(seed)
    truth = (draw.random((n, 3)) < (0.5, 0.3, 0.1)).astype(np.int64)
    logits = (2.5 * truth - 2.5 + draw.standard_normal(truth.shape)).astype(np.float32)
    return {"logits": logits}, {"labels": truth, "names": np.asarray(("a", "b", "c"))}


def test_threshold_has_the_best_micro_f1_that_there_is():
    given, truth = outputs()
    likely = 1 / (1 + np.exp(-given["logits"].astype(np.float64)))
    found = best_threshold(likely, truth["labels"])
    best = max(f1_score(truth["labels"], likely >= cut, average="micro", zero_division=0) for cut in np.unique(likely))
    assert f1_score(truth["labels"], likely >= found, average="micro") == pytest.approx(best)
    assert found < 0.4
    even = np.asarray([[0.1, 0.9], [0.2, 0.8]])
    assert best_threshold(even, (even > 0.5).astype(int)) == pytest.approx(0.5)


def test_scores_are_those_of_scikit_learn_at_the_threshold():
    given, truth = outputs()
    task = TextClassification(multi_label=True, threshold=0.3)
    found = task.score(given, truth, split="test")
    told = 1 / (1 + np.exp(-given["logits"].astype(np.float64))) >= 0.3
    for metric, average in zip(found.scores.metrics, ("micro", "macro"), strict=True):
        assert metric.value == pytest.approx(f1_score(truth["labels"], told, average=average))
        assert metric.interval.low < metric.value < metric.interval.high
    assert [each.f1 for each in found.scores.per_class] == pytest.approx(list(f1_score(truth["labels"], told, average=None)))
    assert task.tell({"logits": np.asarray([[3.0, -0.5, -3.0]])}, "abc")[0].text == "a, b"


def test_loss_is_of_each_label_by_itself():
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([[1, 1]])
    wanted = -(torch.sigmoid(torch.tensor(2.0)).log() + torch.sigmoid(torch.tensor(-1.0)).log()) / 2
    assert LISTS.loss(Outputs(logits), {"labels": labels}) == pytest.approx(float(wanted))


def test_threshold_is_chosen_on_validation_rows(monkeypatch):
    given, truth = outputs()
    task = TextClassification(multi_label=True)
    monkeypatch.setattr(TextClassification, "predicted", lambda *_: given)
    rows = datasets.Dataset.from_dict({TARGETS: truth["labels"].tolist()})
    decided = task.decided(lambda feed: feed, rows, None)
    assert decided.threshold == best_threshold(1 / (1 + np.exp(-given["logits"].astype(np.float64))), truth["labels"])
    assert TextClassification(multi_label=True, threshold=0.9).decided(lambda feed: feed, rows, None).threshold == 0.9
    other, labels = outputs(seed=1)
    assert float(decided.score(other, labels, split="test").truth["threshold"]) == decided.threshold


def test_differences_are_paired_each_at_its_own_threshold():
    given, truth = outputs()
    worse = {"logits": given["logits"] * np.asarray((1, 1, -1), dtype=np.float32)}
    task = TextClassification(multi_label=True)
    one, other = (task.score(each, truth, split="test") for each in (given, worse))
    assert float(one.truth["threshold"]) != float(other.truth["threshold"])
    for metric in ("micro-F1", "macro-F1"):
        found = task.compare(other, one, metric=metric, name="source", seed=0)
        assert found.change == pytest.approx(100 * (other.scores.of(metric).value - one.scores.of(metric).value), abs=1e-5)
        assert found.interval.low < found.change < found.interval.high < 0
    shown = task.disagreements(other, one, [{"text": "x"}] * 200, "abc", name="final")
    assert len(shown) == found.changed > 0
    for metric in ("micro-F1", "macro-F1"):
        same = task.compare(one, one, metric=metric, name="source", seed=0)
        assert (same.change, same.changed) == (0, 0)
        assert -3 < same.interval.low < 0 < same.interval.high < 3, (
            "200 rows of which none differs say little of a small difference"
        )


def test_soft_targets_are_refused_by_the_plan():
    assert not LISTS.gives_logits()
    assert TextClassification().gives_logits()
    assert SimpleNamespace(columns=LISTS.columns()).columns.kept == ("label",)


@pytest.mark.parametrize("task", [LISTS, TextClassification(text=("text", "other"))], ids=["several labels", "pairs"])
def test_conforms_as_every_task_does(task):
    subject = Subject("task", "text-classification", task.model_copy(update={"max_length": 24}))
    for check in TASK[-5:]:
        check(subject)


def test_numbers_of_named_classes_are_their_names():
    """As GoEmotions has them: lists of numbers, and names in the type of the column."""
    kind = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=["joy", "anger"]))}
    )
    rows = datasets.Dataset.from_dict({"text": ["t"] * 3, "label": [[0], [1, 0], []]}, features=kind)
    made = LISTS.encoded(replace(data(label=[]), splits={"train": rows}))
    assert made.labels == ("anger", "joy")
    assert made.split("train")[TARGETS] == [[0, 1], [1, 1], [0, 0]]


def test_lists_of_numbers_of_classes_are_no_vectors_and_come_in_their_order():
    made = LISTS.encoded(data(label=[[0], [1, 0], [10], [2, 9]]))
    assert made.labels == ("0", "1", "2", "9", "10")
    assert LISTS.encoded(data(label=[[0, 1], [1, 0]])).labels == ("0", "1")
