"""The study of quantisation-aware training: plans are sound, cells are kept apart, and the page claims no more than was run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from benchmarks.studies import qat_costs, qat_text
from benchmarks.studies.qat_cells import (
    BY_BLOCKS,
    LABELS,
    RANKED,
    ROUNDED,
    SOFT,
    SPLITS,
    STARTED,
    TAUGHT,
    TOOLS,
    UNIFIED,
    WEIGHT_ONLY,
    Absent,
    Book,
    Cell,
    Found,
    plan,
    reference,
)
from benchmarks.studies.qat_numbers import against, against_reference, change, recovered
from benchmarks.studies.qat_study import Plan, Study, course, verdicts
from benchmarks.studies.qat_text import PARTS, lacking
from benchmarks.studies.qat_texts import NAMES, Rows, text_case
from compressor.plan.bound import load_plan
from passes.quantization_aware.distill_and_quantize import DistillAndQuantize

ROWS = 200


CASES = {name: text_case(name, Rows(scored=64)) for name in NAMES}


def bound(made, folder):
    (folder / "plan.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
    return load_plan(folder / "plan.yaml")


def rows_of(folder):
    for name in NAMES:
        (folder / f"{name}-rows").mkdir()
        for split in SPLITS:
            (folder / f"{name}-rows" / f"{split}.jsonl").touch()


@pytest.mark.parametrize("part", PARTS)
def test_every_cell_is_a_sound_plan(part, tmp_path):
    rows_of(tmp_path)
    (tmp_path / "model").mkdir()
    data, scheme = part.split("-")
    for method in (f"{SOFT}{RANKED[each][1]}" if each in RANKED else each for each in PARTS[part]):
        made = plan(Cell(data, scheme, method, 10, 1e-4, 2), CASES[data], tmp_path, tmp_path / "model")
        found = bound(made, tmp_path)
        assert [each.name for each in found.targets] == ["onnxruntime", "openvino"]
        assert found.data.limit.validation == 64
        if method not in (TOOLS, WEIGHT_ONLY):
            step = found.passes[-1].step
            assert isinstance(step, DistillAndQuantize)
            assert step.steps == 10
            assert step.block_wise == (STARTED if method.endswith(BY_BLOCKS) else 0)


def test_the_reference_is_fine_tuned_and_left_as_a_folder_that_plans_read(tmp_path):
    rows_of(tmp_path)
    found = bound(reference(CASES["bbc"], tmp_path), tmp_path)
    assert [each.step.trains for each in found.passes] == [True]
    assert [each.name for each in found.targets] == ["pytorch"]
    assert found.data.limit.validation is None


def test_cells_have_folders_of_their_own():
    cells = [
        Cell(*part.split("-"), method, 10, rate, seed)
        for part in PARTS
        for method in PARTS[part]
        if method in TAUGHT
        for rate in (1e-4, 3e-4)
        for seed in (0, 1)
    ]
    assert len({each.name for each in cells}) == len(cells)


def test_validation_keeps_its_share_where_rows_are_limited():
    assert Rows(800, 100).limit == {"train": 800, "validation": 100, "test": 100}
    assert Rows().limit == {}


# ------------------------------------------------------------------ numbers


def found(right, base, *, validation=0.8, divergence=None):
    return Found({"onnxruntime": right, "openvino": right}, base, {"onnxruntime": 17.0}, 1.0, validation, divergence, 1.0)


def rows(share, shift=0):
    return np.roll(np.arange(ROWS) < round(share * ROWS), shift).astype(np.float64)


def test_a_change_is_clear_only_where_rows_and_seeds_leave_out_0():
    base = rows(0.8)
    same_way = change([rows(0.7), rows(0.69), rows(0.7)], [base] * 3)
    assert same_way.clear
    assert same_way.value == pytest.approx(-100 * (0.1 + 0.11 + 0.1) / 3)
    both_ways = change([rows(0.95), rows(0.65), rows(0.8)], [base] * 3)
    assert not both_ways.clear
    one_seed = change([rows(0.6)], [base])
    assert not one_seed.clear
    assert one_seed.seeds is None
    assert change([rows(0.6)], [base], drawn=False).clear
    assert not change([rows(0.805)], [base], drawn=False).clear


def test_rows_are_paired():
    moved = change([rows(0.8, shift=40)], [rows(0.8)])
    still = change([rows(0.8)], [rows(0.8)])
    assert moved.value == still.value == 0
    assert moved.rows[1] - moved.rows[0] > 2 * (still.rows[1] - still.rows[0])


def test_what_is_won_back_counts_only_where_something_is_lost():
    base = rows(0.8)
    lost, mended = found(rows(0.6), base), found(rows(0.75), base)
    assert recovered([mended], [lost]) == "75 %"
    assert recovered([mended], [found(rows(0.8), base)]) == "nothing to recover"
    assert against_reference([lost]).value == pytest.approx(-20)


def test_one_rounding_is_held_against_every_seed():
    base = rows(0.8)
    trained = {seed: found(rows(0.78), base) for seed in (0, 1, 2)}
    gap = against(trained, {0: found(rows(0.6), base)}, drawn=(True, False))
    assert gap.value == pytest.approx(18)
    assert gap.seeds is not None
    assert against({0: trained[0], 1: trained[1]}, {1: trained[1], 2: trained[2]}).seeds is None
    assert against({0: trained[0], 1: trained[1]}, {2: trained[2], 3: trained[2]}) is None


# ------------------------------------------------------------------ the page


class Kept(Book):
    """Cells that a test says."""

    def __init__(self, cells, folder):
        super().__init__(folder, CASES, len(cells), run=False)
        self._seen = dict(cells)


def study(cells, folder, *, seeds=(0, 1, 2), rates=(1e-4,), methods=(LABELS, SOFT)):
    return Study(Kept(cells, folder), Plan(PARTS, 10, seeds, rates, methods))


def test_the_rate_is_chosen_on_validation_rows(tmp_path):
    base = rows(0.8)
    cells = {
        Cell("newsgroups", "W2A8", LABELS, 10, rate, 0).name: found(rows(test), base, validation=validation)
        for rate, validation, test in ((3e-5, 0.7, 0.9), (1e-4, 0.75, 0.6), (3e-4, 0.75, 0.6))
    }
    assert study(cells, tmp_path, rates=(3e-4, 3e-5, 1e-4)).rate("newsgroups-W2A8", LABELS) == 1e-4


def test_cells_that_are_not_there_are_told(tmp_path):
    base, part = rows(0.8), "newsgroups-W2A8"
    cells = {Cell("newsgroups", "W2A8", ROUNDED).name: found(rows(0.6), base)}
    cells |= {Cell("newsgroups", "W2A8", LABELS, 10, 1e-4, seed).name: found(rows(0.7), base) for seed in (0, 1)}
    made = study(cells, tmp_path)
    there = {part: made.found(part)}
    assert {method: list(seeds) for method, seeds in there[part].items()} == {ROUNDED: [0], LABELS: [0, 1]}
    said = " ".join(lacking(made, Rows(), there, {}))
    for missing in (
        "QAT of W2A8 on 20 Newsgroups: 2 of 3 cells",
        "KL of W2A8 on 20 Newsgroups: 0 of 3",
        "no unified",
        "W8A8",
        "0 of 36",
    ):
        assert missing in said
    with pytest.raises(Absent):
        made.ranked()


def test_the_best_two_start_by_blocks_too(tmp_path):
    """At the learning rates that they were found at; elsewhere the best one alone is run."""
    base = rows(0.8)
    validation = {LABELS: (0.7, 0.71, 0.72), SOFT: (0.75, 0.74, 0.76)}
    cells = {
        Cell("newsgroups", "W2A8", name, 10, 1e-4, seed).name: found(rows(0.7), base, validation=value)
        for name, values in validation.items()
        for seed, value in enumerate(values)
    }
    made = study(cells, tmp_path)
    assert made.ranked() == [SOFT, LABELS]
    assert made.methods("newsgroups-W2A8")[-2:] == (f"{SOFT}{BY_BLOCKS}", f"{LABELS}{BY_BLOCKS}")
    assert made.methods("bbc-W2A8") == (ROUNDED, LABELS, SOFT)
    assert made.cell("newsgroups-W2A8", f"{SOFT}{BY_BLOCKS}", 1).rate == 1e-4
    said = " ".join(lacking(made, Rows(), {"newsgroups-W2A8": made.found("newsgroups-W2A8")}, {}))
    assert "KL, block-wise of W2A8 on 20 Newsgroups: 0 of 3 cells" in said
    assert "QAT, block-wise of W2A8 on 20 Newsgroups: 0 of 3 cells" in said


def test_cells_are_counted_with_trials(tmp_path):
    plan = study({}, tmp_path, rates=(1e-4, 3e-4)).plan  # two methods, three seeds
    assert plan.cells_in("newsgroups-W2A8") == 1 + 2 * (3 + 1) + 2 * 3
    assert plan.cells_in("bbc-W2A8") == 1 + 3 * (3 + 1)


def test_one_seed_is_no_ranking():
    base = rows(0.8)
    one = {LABELS: {0: found(rows(0.5), base)}, UNIFIED: {0: found(rows(0.8), base)}}
    said = " ".join(verdicts(one))
    assert said.index("no ranking") < said.index("Of these files alone") < said.index("unified above QAT: +30.00")
    three = {name: {seed: found(rows(share), base) for seed in (0, 1, 2)} for name, share in ((LABELS, 0.5), (UNIFIED, 0.8))}
    said = " ".join(verdicts(three))
    assert "unified above QAT: **+30.00" in said
    assert "these files alone" not in said


def test_the_command_is_that_of_the_page(tmp_path):
    made = study({}, tmp_path)
    assert qat_text.command(made, Rows(), [*PARTS, qat_costs.PART]).endswith('--steps 10 --rates 0.0001 --methods "QAT" "KL"')


def test_a_training_whose_last_point_is_the_best_is_told():
    stopped = " ".join(course("finetune", [(1, 0.7), (2, 0.8), (3, 0.8)], 200))
    assert "stops improving before the end" in stopped
    rising = " ".join(course("finetune", [(1, 0.7), (2, 0.8), (3, 0.805)], 200))
    assert "by 1 of 200 rows: validation had not stopped improving" in rising


# ------------------------------------------------------------------ costs


def test_costs_are_held_against_fine_tuning_of_the_same_turn():
    def cell(seconds, peak):
        return {"seconds": [seconds] * 3, "peak": peak}

    kinds = {qat_costs.PLAIN: [cell(1.0, 100), cell(2.0, 100)], qat_costs.ASKED: [cell(1.6, 150), cell(3.4, 210)]}
    said = "\n".join(qat_costs.section({"fp32": kinds}))
    assert "1.65 [1.60, 1.70]" in said
    assert "memory at most 2 times that of fine-tuning: 1.80, reached" in said


def test_cells_of_another_reference_are_refused(tmp_path, monkeypatch):
    """They learned from a model that the page would not tell of."""
    digests = {"bbc-reference": ("raw", "taught"), "bbc-W2A8-PTQ": ("taught before", "rounded")}
    reports = {name: SimpleNamespace(stages=[SimpleNamespace(digest=each) for each in found]) for name, found in digests.items()}
    book = Book(tmp_path, CASES, 1, run=False)
    monkeypatch.setattr(Book, "_report", lambda _, name, __: reports[name])
    with pytest.raises(SystemExit, match="holds a run of another bbc-reference"):
        book.found(Cell("bbc", "W2A8", ROUNDED))
