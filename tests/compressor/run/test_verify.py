from __future__ import annotations

import numpy as np
import pytest

from compressor.contracts import Evaluation
from compressor.contracts.records import (
    Control,
    Difference,
    Interval,
    LatencyRecord,
    LatencyRow,
    Metric,
    Ratio,
    Scores,
    Workload,
)
from compressor.plan.specs import Accept, Gate
from compressor.run.verify import Measured, class_drop, finite, judge, parity
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
    ("min_speedup", 2.0, Measured(speedup=(2.5, WIDE)), "undecided", "not met"),
    ("min_speedup", 1.5, Measured(speedup=(2.5, WIDE)), "met", "met"),
    ("min_speedup", 2.6, Measured(speedup=(2.5, WIDE)), "undecided", "not met"),
    ("min_speedup", 3.1, Measured(speedup=(2.5, WIDE)), "not met", "not met"),
    ("max_latency_ms", 2.6, Measured(latency_ms=(2.5, WIDE)), "undecided", "not met"),
    ("max_latency_ms", 3.0, Measured(latency_ms=(2.5, WIDE)), "met", "met"),
    ("max_latency_ms", 2.0, Measured(latency_ms=(2.5, WIDE)), "undecided", "not met"),
    ("max_latency_ms", 1.4, Measured(latency_ms=(2.5, WIDE)), "not met", "not met"),
    ("max_size", 0.25, Measured(size=0.25), "met", "met"),
    ("max_size", 0.25, Measured(size=0.26), "not met", "not met"),
]


@pytest.mark.parametrize(("quantity", "limit", "measured", "by_point", "by_bound"), CASES)
def test_judge_decides_by_the_point_or_the_worse_bound(quantity, limit, measured, by_point, by_bound):
    for judged_by, outcome in (("point", by_point), ("bound", by_bound)):
        gate = Gate.model_validate({quantity: limit, "judged_by": judged_by})
        (verdict,) = judge(gate, measured, gate="accept[0]", candidate="a@b")
        assert (verdict.quantity, verdict.limit, verdict.judged_by) == (quantity, limit, judged_by)
        assert (verdict.outcome, verdict.gate, verdict.candidate) == (outcome, "accept[0]", "a@b")
        assert verdict.why.startswith(f"{limit:g} lies within what noise explains, 1.5 to 3:" if outcome == "undecided" else "")
        assert outcome == "undecided" or not verdict.why


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


# ------------------------------------------------------------------ times on a machine that is not still


def disturbed(value, low, high, *, outcome="faster"):
    """What a probe says of `b` over `a` on a machine whose baseline was 8 % off from itself."""
    between = Interval(low=low, high=high, method="m")
    about = {"workload": Workload(), "interval": between}
    row = LatencyRow(
        candidate="b",
        n=9,
        median_ms=2.0,
        throughput_per_s=500,
        load_s=0.1,
        first_call_ms=1,
        warm_up_calls=1,
        rounds_ms=(2.0,),
        samples_ms=((2.0,),),
        **about,
    )
    ratio = Ratio(of="b", to="a", value=value, outcome=outcome, disturbed=True, **about)
    control = Control(ratio=1.08, limit=0.03, passed=False, attempts=3, noise=0.2, **about)
    record = LatencyRecord(
        probe="latency", rows=(row,), ratios=(ratio,), controls=(control,), load_before=0, load_after=0, protocol={}
    )
    return Measured(why="latency was not measured").timed(record, row, ratio)


@pytest.mark.parametrize(
    ("limit", "value", "low", "high", "outcome"),
    [
        (1.5, 16.0, 10.6, 18.1, "met"),
        (1.5, 1.6, 1.3, 1.9, "undecided"),
        (1.5, 1.2, 1.0, 1.4, "not met"),
    ],
)
def test_disturbed_ratio_is_judged_wherever_noise_cannot_explain_it(limit, value, low, high, outcome):
    (verdict,) = judge(Accept(target="cpu", min_speedup=limit), disturbed(value, low, high), gate="accept[0]", candidate="b")
    assert (verdict.outcome, verdict.value) == (outcome, value)
    assert "disturbed: the baseline against itself gave 1.080, so the interval allows for 20% of noise" in verdict.why
    assert (f"1.5 lies within what noise explains, {low:g} to {high:g}" in verdict.why) == (outcome == "undecided")


def test_ratio_that_another_probe_leaves_undecided_without_a_wider_interval_stays_so():
    found = disturbed(16.0, 15.0, 17.0, outcome="undecided")
    (verdict,) = judge(Accept(target="cpu", min_speedup=1.5), found, gate="accept[0]", candidate="b")
    assert (verdict.outcome, verdict.value) == ("undecided", None)
    assert "the probe calls its ratio undecided" in verdict.why


# ------------------------------------------------------------------ outputs that are not finite


def scored(logits, labels, names=("a", "b")):
    outputs, truth = np.asarray(logits, dtype=np.float32), np.asarray(labels)
    return TASK.score({"logits": outputs}, {"labels": truth, "names": np.asarray(list(names))}, split="test")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_fail_with_their_rows(value):
    logits = np.tile([1.0, 0.0], (40, 1))
    logits[[3, *range(20, 32)], 1] = value
    (verdict,) = finite(scored(logits, [0] * 40), None, gate="outputs", candidate="final@cpu")
    assert (verdict.quantity, verdict.outcome, verdict.value, verdict.on_fail) == ("finite", "not met", 13, "stop")
    assert verdict.why == (
        "outputs are not finite (NaN or infinite) in test rows 3, 20, 21, 22, 23, 24, 25, 26, 27, 28 and 3 more (first: row 3 of test)"
    )


def test_outputs_that_are_finite_have_no_verdict():
    one = scored([[1, 0], [0, 1]], [0, 1])
    assert finite(one, parity(TASK, one.outputs, one.outputs, against="source"), gate="outputs", candidate="c") == ()


def test_a_model_whose_eager_outputs_are_not_finite_fails_though_its_file_gives_numbers():
    one = scored([[1, 0], [0, 1]], [0, 1])
    checked = parity(TASK, one.outputs, {"logits": np.array([[np.nan, 0], [0, 1]])}, against="source, eager float32")
    (verdict,) = finite(one, checked, gate="outputs", candidate="c")
    assert verdict.why == "outputs of source, eager float32 are not finite"


def test_a_value_that_is_not_a_number_meets_no_limit():
    for quantity, measured in (("max_size", Measured(size=np.nan)), ("min_speedup", Measured(speedup=(np.nan, WIDE)))):
        (verdict,) = judge(Gate.model_validate({quantity: 4}), measured, gate="g", candidate="c")
        assert verdict.outcome == "not met"


# ------------------------------------------------------------------ recall of the worst class


def told(classes):
    return np.eye(3)[list(classes)]


LABELS = [0] * 10 + [1] * 10 + [2] * 4
REFERENCE = scored(told([0] * 10 + [1] * 10 + [2] * 4), LABELS, "abc")
WORSE = scored(told([0] * 10 + [1] * 9 + [0] + [2] * 2 + [0] * 2), LABELS, "abc")


def test_class_drop_is_of_the_class_that_lost_most_recall():
    found = class_drop(TASK, WORSE, REFERENCE)
    assert (found.label, found.points) == ("c", 50)
    assert found.interval.low < 50 < found.interval.high, "of the four rows of that class"
    assert found.interval.low < 0


@pytest.mark.parametrize(
    ("limit", "judged_by", "outcome"), [(50, "point", "met"), (49, "point", "not met"), (50, "bound", "not met")]
)
def test_max_class_drop_limits_what_the_worst_class_lost(limit, judged_by, outcome):
    limits = Accept(target="cpu", max_class_drop=limit, judged_by=judged_by)
    (verdict,) = judge(limits, Measured(class_drop=class_drop(TASK, WORSE, REFERENCE)), gate="g", candidate="c")
    assert (verdict.quantity, verdict.outcome, verdict.why) == ("max_class_drop", outcome, "of class c")


def test_max_class_drop_is_undecided_where_no_classes_are_scored():
    assert class_drop(TASK, evaluation([1, 0]), evaluation([1, 0])) is None
    (verdict,) = judge(Gate(max_class_drop=5), Measured(), gate="g", candidate="c")
    assert (verdict.outcome, verdict.why) == ("undecided", "no classes were scored")
