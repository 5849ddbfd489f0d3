from __future__ import annotations

import numpy as np
import pytest

from compressor.contracts import Evaluation
from compressor.contracts.records import Difference, Interval, Metric, Scores
from compressor.plan.specs import Accept, Gate
from compressor.run.verify import Measured, judge, parity
from compressor.tasks.text_classification import TextClassification

TASK = TextClassification()


def evaluation(correct, outputs=None):
    values = np.asarray(correct, dtype=np.float64)
    scores = Scores(
        split="test", metric="accuracy", metrics=(Metric(name="accuracy", value=float(values.mean()), n=len(values)),)
    )
    made = np.stack([values, 1 - values], axis=-1) if outputs is None else outputs
    return Evaluation(scores=scores, outputs={"logits": np.asarray(made, dtype=np.float32)}, gains={"accuracy": values})


def compare(candidate, reference, *, name, seed):
    return TASK.compare(candidate, reference, metric="accuracy", name=name, seed=seed)


def difference(points, low, high):
    return Difference(
        reference="source", metric="accuracy", change=points, interval=Interval(low=low, high=high, method="m"), n=10, changed=1
    )


def test_compare_gives_zero_and_a_width_when_identical():
    one = evaluation([1, 0, 1, 1])
    found = compare(one, one, name="source", seed=0)
    assert (found.change, found.n, found.changed, found.reference) == (0.0, 4, 0, "source")
    assert found.interval.low < 0 < found.interval.high
    assert found.interval.low == pytest.approx(-found.interval.high)
    assert "Bonett-Price" in found.interval.method


def test_compare_interval_narrows_when_there_are_more_rows():
    few, many = evaluation([1] * 20), evaluation([1] * 2000)
    width = [(found := compare(each, each, name="s", seed=0).interval).high - found.low for each in (few, many)]
    assert 0 < width[1] < width[0] / 50


def test_compare_gives_known_points_and_interval():
    candidate = evaluation([1] * 10 + [1] * 6 + [0] * 2 + [0] * 2)
    reference = evaluation([1] * 10 + [0] * 6 + [1] * 2 + [0] * 2)
    found = compare(candidate, reference, name="source", seed=0)
    assert found.change == pytest.approx(20)  # 6 gained, 2 lost, of 20
    assert found.changed == 8
    better, worse = 7 / 22, 3 / 22
    spread = 1.959964 * ((better + worse - (better - worse) ** 2) / 22) ** 0.5
    assert found.interval.low == pytest.approx(100 * (better - worse - spread), abs=1e-3)
    assert found.interval.high == pytest.approx(100 * (better - worse + spread), abs=1e-3)


def test_compare_turns_its_sign_when_the_two_are_swapped():
    one, two = evaluation([1, 1, 1, 0, 1]), evaluation([0, 1, 0, 0, 1])
    forth, back = compare(one, two, name="s", seed=0), compare(two, one, name="s", seed=0)
    assert forth.change == -back.change == 40
    assert forth.interval.low == pytest.approx(-back.interval.high)


def test_compare_stays_within_a_hundred_points_when_everything_is_lost():
    found = compare(evaluation([0, 0]), evaluation([1, 1]), name="s", seed=0)
    assert found.change == -100
    assert found.interval.low >= -100


def test_compare_bootstraps_by_the_seed_when_rows_count_in_part():
    draw = np.random.default_rng(0)
    reference = draw.uniform(0, 0.5, 200)
    outputs = np.zeros((200, 2))
    candidate = evaluation(reference + draw.uniform(0, 0.2, 200), outputs)
    found = compare(candidate, evaluation(reference, outputs), name="s", seed=3)
    assert found == compare(candidate, evaluation(reference, outputs), name="s", seed=3)
    assert found.interval.low < found.change < found.interval.high
    assert found.change == pytest.approx(10, abs=1.5)
    assert "bootstrap" in found.interval.method


def test_compare_raises_when_the_rows_are_not_the_same():
    with pytest.raises(ValueError, match="not the same rows"):
        compare(evaluation([1, 0]), evaluation([1]), name="s", seed=0)


def test_parity_is_exact_when_outputs_are_equal():
    one = evaluation([1, 0, 1], [[1, 2], [3, 1], [0, 5]])
    found = parity(TASK, one.outputs, one.outputs, against="source")
    assert (found.max_abs, found.agreement, found.n, found.finite) == (0, 1, 3, True)
    assert found.cosine == pytest.approx(1)


def test_parity_counts_what_differs():
    found = parity(TASK, {"logits": np.array([[1, 0], [0, 1]])}, {"logits": np.array([[1, 0], [3, 0]])}, against="source")
    assert (found.max_abs, found.agreement) == (3, 0.5)
    assert found.cosine == pytest.approx(0.5)


def test_parity_is_not_finite_when_an_output_is_nan():
    assert not parity(TASK, {"logits": np.array([[np.nan, 0]])}, {"logits": np.array([[1.0, 0]])}, against="s").finite


WIDE = Interval(low=1.5, high=3, method="m")
CASES = [
    ("max_drop", 1.0, Measured(differences=(difference(-0.5, -2, 1),)), "met", "not met"),
    ("max_drop", 1.0, Measured(differences=(difference(-1.5, -2, 1),)), "not met", "not met"),
    ("max_drop", 1.0, Measured(differences=(difference(0.5, -0.9, 2),)), "met", "met"),
    ("max_drop", 1.0, Measured(differences=(difference(-1.0, -1.0, 0),)), "met", "met"),
    ("min_speedup", 2.0, Measured(speedup=(2.5, WIDE)), "met", "not met"),
    ("min_speedup", 1.4, Measured(speedup=(2.5, WIDE)), "met", "met"),
    ("min_speedup", 2.6, Measured(speedup=(2.5, WIDE)), "not met", "not met"),
    ("max_latency_ms", 2.6, Measured(latency_ms=(2.5, WIDE)), "met", "not met"),
    ("max_latency_ms", 3.0, Measured(latency_ms=(2.5, WIDE)), "met", "met"),
    ("max_latency_ms", 2.0, Measured(latency_ms=(2.5, WIDE)), "not met", "not met"),
    ("max_size", 0.25, Measured(size=0.25), "met", "met"),
    ("max_size", 0.25, Measured(size=0.26), "not met", "not met"),
]


@pytest.mark.parametrize(("quantity", "limit", "measured", "by_point", "by_bound"), CASES)
def test_judge_decides_by_the_point_or_the_worse_bound(quantity, limit, measured, by_point, by_bound):
    for judged_by, outcome in (("point", by_point), ("bound", by_bound)):
        gate = Gate.model_validate({quantity: limit, "judged_by": judged_by})
        (verdict,) = judge(gate, measured, gate="accept[0]", candidate="a@b")
        assert (verdict.quantity, verdict.limit, verdict.judged_by) == (quantity, limit, judged_by)
        assert (verdict.outcome, verdict.gate, verdict.candidate, verdict.why) == (outcome, "accept[0]", "a@b", "")


@pytest.mark.parametrize("quantity", ["max_drop", "min_speedup", "max_latency_ms", "max_size"])
def test_judge_is_undecided_when_it_was_not_measured(quantity):
    (verdict,) = judge(Gate.model_validate({quantity: 1}), Measured(why="no CUDA device"), gate="g", candidate="c")
    assert (verdict.outcome, verdict.value, verdict.interval, verdict.why) == ("undecided", None, None, "no CUDA device")


def test_judge_turns_the_difference_into_a_drop():
    (verdict,) = judge(Gate(max_drop=1), Measured(differences=(difference(-0.5, -2, 1),)), gate="g", candidate="c")
    assert verdict.interval is not None
    assert (verdict.value, verdict.interval.low, verdict.interval.high) == (0.5, -1, 2)


def test_judge_gives_one_verdict_for_each_limit_and_carries_on_fail():
    limits = Gate(max_drop=1, max_size=0.5, on_fail="roll back")
    verdicts = judge(limits, Measured(size=0.4), gate="g", candidate="c")
    assert [(each.quantity, each.outcome, each.on_fail) for each in verdicts] == [
        ("max_drop", "undecided", "roll back"),
        ("max_size", "met", "roll back"),
    ]
    (accepted,) = judge(Accept(target="cpu", max_size=0.5, on_fail="warn"), Measured(size=0.4), gate="g", candidate="c")
    assert accepted.on_fail == "warn"
