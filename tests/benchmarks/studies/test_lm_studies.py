"""Studies of trained language models: documents are split first, cells are kept, and pages claim no more than was run."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from benchmarks.studies import lm_depth, lm_draft, lm_finetune
from benchmarks.studies.lm_depth import Depth, Plan, lacking, shared, table, verdict
from benchmarks.studies.lm_draft import LEADS, TURNS, Way, equal, ways
from benchmarks.studies.lm_lab import HELD_EVERY, Ground, Learned, kept, prepared, texts
from benchmarks.studies.lm_peers import GenAi
from benchmarks.studies.lm_students import LABELS, OBJECTIVES, Absent, Book, Cell, Student, best_rate, whole
from compressor.errors import TrainingDiverged

CURVE = ((0, 4.0), *((at, 4.0 - at / 100) for at in range(10, 101, 10)))


def learned(end=3.0, *, tokens=100, seconds=50.0):
    return Learned(tokens, seconds, (*CURVE[:-1], (100, end)), {"task": ((1.0, 4.0), (2.0, end))})


def student(test):
    return Student(learned(), test, 100_000_000)


@pytest.fixture
def ground(tmp_path):
    sources = {}
    for corpus in ("brown", "bbc"):
        sources[corpus] = tmp_path / corpus
        sources[corpus].mkdir()
        for split, count in (("train", 25), ("test", 3)):
            rows = (json.dumps({"text": f"{corpus} {split} {number}"}) for number in range(count))
            (sources[corpus] / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return Ground(prepared(sources, tmp_path / "texts"), tmp_path / "files")


@pytest.fixture
def book(ground, tmp_path):
    return Book(tmp_path / "model", ground, tmp_path / "cells", train=False)


def write(book, cell, made):
    place = book.folder / cell.name
    place.mkdir(parents=True)
    values = {
        "tokens": made.learned.tokens,
        "seconds": made.learned.seconds,
        "held": made.learned.held,
        "losses": {"task": [[1, 4.0]]},
    }
    (place / "cell.json").write_text(
        json.dumps({"learned": values, "test": made.test, "weights": made.weights}), encoding="utf-8"
    )


def test_documents_are_split_before_anything_is_cut(ground):
    train, held, test = (list(texts(ground.folder / f"{split}.jsonl")) for split in ("train", "validation", "test"))
    assert len(held) == 2 * (25 // HELD_EVERY)
    assert {each.split()[1] for each in test} == {"test"}
    assert sorted([*train, *held]) == sorted(f"{corpus} train {number}" for corpus in ("brown", "bbc") for number in range(25))


def test_how_far_from_level_a_curve_ends_is_of_its_last_fifth():
    made = learned(end=2.88)
    assert made.fall == pytest.approx((3.2 - 2.88) / 3.2)
    assert Learned.read(json.loads(json.dumps(made.__dict__))) == made


def test_a_cell_is_made_once_and_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a" / "cell.json"
    with pytest.raises(ZeroDivisionError):
        kept(path, lambda: {"value": 1 / 0})
    assert not path.exists()
    assert kept(path, lambda: {"value": 1}) == kept(path, lambda: {"value": 2}) == {"value": 1}


def test_a_page_of_what_is_there_trains_nothing(book):
    cell = Cell(LABELS, 20, 3e-4, 10_240, 0)
    with pytest.raises(Absent):
        book.student(cell)
    write(book, cell, student(3.5))
    assert book.student(cell).test == 3.5
    assert book.student(cell, keep=True).test == 3.5


def test_only_seeds_with_all_their_students_are_shown(book):
    plan = Plan(10_240, (0, 1, 2), (3e-4,))
    for seed, methods in ((0, OBJECTIVES), (1, list(OBJECTIVES)[:-1]), (2, OBJECTIVES)):
        for method in methods:
            write(book, plan.cell(method, 3e-4, seed), student(3.0))
    assert Depth(book, plan).whole_seeds() == (0, 2)


def test_the_rate_is_that_of_the_best_trial(book):
    plan = Plan(102_400, (0,), (1e-4, 1e-3))
    for rate, end in ((1e-4, 2.9), (1e-3, 3.1)):
        write(book, plan.trial(LABELS, rate), Student(learned(end), 3.0, 1))
    assert best_rate(book, plan.rates, lambda rate: plan.trial(LABELS, rate)) == 1e-4
    assert Depth(book, plan).rate(LABELS) == 1e-4


def test_a_trial_that_diverges_is_kept_and_no_rate(book, monkeypatch):
    plan, trained = Plan(102_400, (0,), (1e-4, 1e-3)), []

    def diverging(self, cell, place, keep):
        trained.append(cell.rate)
        if cell.rate > 1e-4 or len(trained) > 2:
            raise TrainingDiverged("the loss is not finite")
        return student(3.0)

    monkeypatch.setattr(Book, "_trained", diverging)
    book = replace(book, train=True)
    for _ in range(2):
        assert best_rate(book, plan.rates, lambda rate: plan.trial(LABELS, rate)) == 1e-4
    assert trained == [1e-4, 1e-3], "once each"
    with pytest.raises(SystemExit, match=r"every one of the rates 0\.01 diverges"):
        best_rate(book, (1e-2,), lambda rate: plan.trial(LABELS, rate))


def test_cells_that_differ_have_folders_that_differ():
    cells = [
        Cell(method, 20, rate, tokens, seed, shape)
        for method in OBJECTIVES
        for rate in (1e-4, 3e-4)
        for tokens in (10_240, 20_480)
        for seed in (0, 1)
        for shape in ("depth", "width")
    ]
    assert len({each.name for each in cells}) == len(cells)


@pytest.mark.parametrize(("asked", "found"), [(1, 10_240), (300_000, 296_960), (307_200, 307_200)])
def test_tokens_make_whole_steps_in_every_tenth(asked, found):
    assert whole(asked, 10, 4) == found


def test_a_ranking_is_claimed_only_where_the_interval_over_seeds_leaves_out_0():
    near = {LABELS: [student(each) for each in (3.0, 3.1, 3.2)], "TAID": [student(each) for each in (2.9, 3.2, 3.1)]}
    assert "no ranking is claimed" in verdict(near, LABELS)
    far = {LABELS: near[LABELS], "TAID": [student(each) for each in (2.5, 2.61, 2.7)]}
    assert verdict(far, LABELS).endswith("leave out 0 for: TAID below labels.")
    assert verdict({LABELS: near[LABELS][:1], "TAID": far["TAID"][:1]}, LABELS) == "One seed: no ranking."


def test_differences_are_paired_by_seed():
    found = {LABELS: [student(each) for each in (3.0, 3.1, 3.2)], "TAID": [student(each) for each in (2.9, 3.0, 3.1)]}
    lines = list(table(found))
    assert lines[2].startswith("| labels | 100.0 | 100 | 2 | 0.8 | 3.000 |")
    assert "| **-0.100 ± 0.000** |" in lines[3]


def test_the_page_of_layers_says_what_was_not_run():
    told = " ".join(lacking(Plan(40_960, (0,), (3e-4,)), ("tokens", "width")))
    for each in (
        "40,960 tokens a student instead of the 300,000 asked",
        "1 of 3 seeds",
        "no trials",
        "nothing of minutes",
        "nothing of on-policy",
    ):
        assert each in told
    assert "width" not in told
    assert not list(lacking(Plan(lm_depth.TOKENS, lm_depth.SEEDS, lm_depth.RATES), lm_depth.PARTS))


def test_what_remains_counts_the_parts_that_are_asked_for():
    plan = Plan(60_000, (0, 1), (3e-4,))
    assert plan.planned(("tokens",)) == 60_000 * 2 * 4
    assert plan.planned(("tokens", "width")) == 60_000 * 2 * 6
    tried = Plan(60_000, (0, 1), (1e-4, 3e-4, 1e-3))
    assert tried.planned(("tokens",)) == 60_000 * (2 * 4 + 4 * 3 / 6)


def test_shares_are_counted_from_one():
    assert [tuple(OBJECTIVES)[at - 1 :: count] for at, count in map(shared, ("1/2", "2/2"))] == [
        ("labels", "skewed KL"),
        ("forward KL", "TAID"),
    ]
    with pytest.raises(ValueError, match="no share"):
        shared("3/2")


def made(tokens, seconds=1.0, proposed=4, accepted=3, calls=2):
    return {"seconds": seconds, "tokens": tokens, "proposed": proposed, "accepted": accepted, "calls": calls}


def test_the_page_of_drafts_tells_speed_acceptance_and_other_tokens():
    found = {way.name: [[made([1, 2, 3, 4], 0.5 if way.ahead else 1.0)] for _ in range(3)] for way in ways((4,))}
    found[LEADS] = [[2.0, 1.0, 0.00012, 1.0]]
    taught = {4: student(3.5)}
    (line,) = [line for line in lm_draft.table(taught, found, drawn=False) if line.startswith("| 4 layers | 100.0 | 3.000 | 2 ")]
    assert line.endswith("| 75% | 2.00 | 8.0 | 2.00x [2.00, 2.00] |")
    assert equal(found).endswith("plain decoding in 2 of 2 texts.")
    found[Way(4, 2).name][0] = [made([1, 2, 9, 4])]
    assert equal(found).endswith("in 1 of 2 texts; the first other token's logit was behind the best by at most 0.0001.")
    page = lm_draft.document(taught, found, 40_960)
    for each in (
        "40,960 tokens a draft instead of the 300,000 asked",
        "no draft of 6 layers",
        f"3 of {TURNS} turns",
        "one seed of each draft",
    ):
        assert each in page


def test_the_curve_of_fine_tuning_says_whether_it_is_level():
    assert "so it is level (" in " ".join(lm_finetune.training(learned(3.19)))
    assert "not level yet" in " ".join(lm_finetune.training(learned(3.0)))


@pytest.mark.parametrize(
    ("shared", "found"), [(False, {"embeddings": 128, "head and layers": 64}), (True, {"embeddings": 0, "head and layers": 128})]
)
def test_a_table_that_is_only_looked_up_is_no_part_of_a_token_s_pass(tmp_path, shared, found):
    table, head = (
        onnx.numpy_helper.from_array(np.zeros(shape, kind), name)
        for shape, kind, name in (((8, 4), "f4", "table"), ((4, 8), "f2", "head"))
    )
    weight = "turned" if shared else "head"
    nodes = [
        onnx.helper.make_node("Gather", ["table", "ids"], ["read"]),
        onnx.helper.make_node("MatMul", ["read", weight], ["logits"]),
    ]
    if shared:
        nodes.insert(1, onnx.helper.make_node("Transpose", ["table"], ["turned"]))
    given = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, [1])
    made = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [1, 8])
    graph = onnx.helper.make_graph(nodes, "g", [given], [made], [table] if shared else [table, head])
    onnx.save(onnx.helper.make_model(graph), tmp_path / GenAi.file)
    assert GenAi().layer_bytes(tmp_path) == found


def test_the_page_tells_the_command_of_what_it_shows():
    base = "python -m benchmarks.studies.lm_depth"
    assert lm_depth.command(Plan(307_200, (0, 1, 2), lm_depth.RATES), lm_depth.PARTS) == f"{base} --tokens 307200"
    assert (
        lm_depth.command(Plan(30_720, (0,), (3e-4,)), ("tokens",))
        == f"{base} --tokens 30720 --seeds 1 --rates 0.0003 --only tokens"
    )
