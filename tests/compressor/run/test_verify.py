from __future__ import annotations

from dataclasses import replace

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
    Parity,
    Ratio,
    Scores,
    Verdict,
    Workload,
)
from compressor.contracts.statistics import paired
from compressor.plan.specs import Accept, Gate
from compressor.run.verify import ClassDrop, Measured, class_drop, finite, judge, parity
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.text_regression import TextRegression

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


# ------------------------------------------------------------------ everything that a verdict and a parity hold


def test_parity_is_at_worst_over_the_outputs_and_of_rows():
    mine = {"a": np.array([[3.0, 4.0], [1.0, 0.0]]), "b": np.array([[[1.0, 0.0]], [[0.0, 2.0]]]), "more": np.zeros(1)}
    theirs = {"a": np.array([[3.0, 4.0], [1.0, 0.0]]), "b": np.array([[[1.0, 1.0]], [[0.0, -2.5]]])}
    task = TextRegression()
    found = parity(task, mine, theirs, against="source, eager")
    assert (found.against, found.n, found.finite, found.agreement) == ("source, eager", 2, True, None)
    assert found.max_abs == 4.5
    assert found.cosine == pytest.approx((1 / 2**0.5 - 1) / 2)


def test_parity_of_nothing_has_no_direction():
    zero = {"logits": np.zeros((2, 2))}
    assert parity(TASK, zero, zero, against="s").cosine == 0


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e308])
def test_parity_of_what_is_not_finite_or_too_large_is_no_warning(value):
    mine, theirs = {"logits": np.array([[value, 0.0], [1.0, 0.0]])}, {"logits": np.array([[value, 1.0], [-value, 0.0]])}
    assert parity(TASK, mine, theirs, against="s").finite is (value == 1e308)


def test_interval_of_a_class_is_that_of_its_rows_with_its_sign_turned():
    found = class_drop(TASK, WORSE, REFERENCE)
    mean, low, high, method = paired(np.array([0.0, 0.0, -1.0, -1.0]), None, 0, binary=True)
    assert (mean, found.points) == (-0.5, 50)
    assert found.interval == Interval(low=-100 * high, high=-100 * low, method=method)
    better = class_drop(TASK, REFERENCE, WORSE)
    assert (better.label, better.points) == ("a", 0), "no class has lost"


def test_class_that_no_row_is_of_is_not_scored():
    reference = scored(told([0] * 4 + [1] * 4), [0] * 4 + [1] * 4, "abc")
    worse = scored(told([0] * 4 + [1] * 3 + [2]), [0] * 4 + [1] * 4, "abc")
    found = class_drop(TASK, worse, reference)
    assert (found.label, found.points) == ("b", 25)


def test_class_drop_of_rows_of_several_labels_has_no_interval():
    task = TextClassification(multi_label=True)
    truth = {"labels": np.eye(3, dtype=np.int64)[[0, 1, 2, 0]], "names": np.array(["a", "b", "c"])}
    logits = np.where(truth["labels"] == 1, 3.0, -3.0)
    worse = logits.copy()
    worse[0, 0] = -3.0
    sides = [task.score({"logits": each}, truth, split="test") for each in (worse, logits)]
    found = class_drop(task, *sides)
    assert (found.label, found.points, found.interval) == ("a", 50, None)


def test_verdict_on_what_is_not_finite_holds_no_limit_that_is_met():
    one = scored([[np.nan, 0], [0, 1]], [0, 1])
    assert finite(one, None, gate="outputs", candidate="final@cpu") == (
        Verdict(
            gate="outputs",
            candidate="final@cpu",
            quantity="finite",
            limit=0.0,
            value=1.0,
            judged_by="point",
            outcome="not met",
            why="outputs are not finite (NaN or infinite) in test rows 0 (first: row 0 of test)",
        ),
    )
    (verdict,) = finite(one, None, gate="g", candidate="c", place=lambda split, number: f"line {number + 2} of {split}")
    assert verdict.why.endswith("(first: line 2 of test)")


def test_ten_rows_are_told_and_how_many_more_there_are():
    for rows, more in ((10, ""), (11, " and 1 more")):
        (verdict,) = finite(scored(np.full((rows, 2), np.inf), [0] * rows), None, gate="g", candidate="c")
        assert (
            verdict.why
            == f"outputs are not finite (NaN or infinite) in test rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9{more} (first: row 0 of test)"
        )


def test_scores_that_are_not_finite_are_named_where_no_row_is():
    metrics = tuple(Metric(name=name, value=value, n=2) for name, value in (("a", np.nan), ("b", 1.0), ("c", np.inf)))
    broken = Evaluation(Scores(split="test", metric="a", metrics=metrics), {"logits": np.zeros((2, 2))}, {})
    (verdict,) = finite(broken, None, gate="g", candidate="c")
    assert (verdict.value, verdict.why) == (0.0, "a, c is not finite")


@pytest.mark.parametrize(("max_abs", "whole", "fails"), [(0.1, True, False), (0.1, False, True), (np.inf, True, True)])
def test_parity_that_is_not_finite_fails(max_abs, whole, fails):
    one = scored([[1, 0], [0, 1]], [0, 1])
    checked = Parity(against="source", max_abs=max_abs, cosine=1, agreement=1, n=2, finite=whole)
    found = finite(one, checked, gate="g", candidate="c")
    assert [verdict.why for verdict in found] == (["outputs of source are not finite"] if fails else [])


def test_limit_on_a_metric_is_judged_by_its_own_difference_and_unit():
    first = difference(-0.5, -2, 1)
    second = first.model_copy(update={"metric": "macro-F1", "change": -3.0, "unit": "percent"})
    measured = Measured(differences=(first, second))
    for limits, metric, unit, value in (
        (Gate(max_drop=1), "accuracy", "points", 0.5),
        (Gate(max_drop=1, metric="macro-F1"), "macro-F1", "percent", 3.0),
    ):
        (verdict,) = judge(limits, measured, gate="g", candidate="c")
        assert (verdict.metric, verdict.unit, verdict.value) == (metric, unit, value)
    (unknown,) = judge(Gate(max_drop=1, metric="loss"), measured, gate="g", candidate="c")
    assert (unknown.outcome, unknown.value, unknown.metric) == ("undecided", None, None)


def test_verdict_holds_all_that_it_rests_on():
    measured = Measured(differences=(difference(-0.5, -2, 1),), size=0.4, size_of="bytes of what cpu deploys", why="x")
    drop, size = judge(Gate(max_drop=1, max_size=0.5, judged_by="bound", on_fail="warn"), measured, gate="g", candidate="c")
    shared = {"gate": "g", "candidate": "c", "judged_by": "bound", "on_fail": "warn"}
    turned = Interval(low=-1, high=2, method="m")
    assert drop == Verdict(
        quantity="max_drop", metric="accuracy", limit=1, value=0.5, interval=turned, outcome="not met", **shared
    )
    assert size == Verdict(quantity="max_size", limit=0.5, value=0.4, outcome="met", why="bytes of what cpu deploys", **shared)


def test_drop_keeps_the_level_of_its_interval_and_zero_has_no_sign():
    of = Interval(low=-2, high=1, level=0.8, method="m")
    measured = Measured(differences=(difference(0.0, 0, 0).model_copy(update={"interval": of}),))
    (verdict,) = judge(Gate(max_drop=1), measured, gate="g", candidate="c")
    assert verdict.interval == Interval(low=-1, high=2, level=0.8, method="m")
    assert str(verdict.value) == "0.0"


@pytest.mark.parametrize("quantity", ["max_drop", "max_class_drop"])
def test_bound_of_what_has_no_interval_is_undecided_and_the_point_is_not(quantity):
    whole = difference(-0.5, 0, 0).model_copy(update={"interval": None})
    measured = Measured(differences=(whole,), class_drop=ClassDrop("a", 0.5, None))
    (bound,) = judge(Gate.model_validate({quantity: 1, "judged_by": "bound"}), measured, gate="g", candidate="c")
    assert (bound.outcome, bound.value) == ("undecided", 0.5)
    assert bound.why == "it is a property of the whole set and has no interval: say judged_by: point"
    (point,) = judge(Gate.model_validate({quantity: 1}), measured, gate="g", candidate="c")
    assert point.outcome == "met"


@pytest.mark.parametrize(
    ("limit", "judged_by", "outcome"),
    [(0.5, "point", "met"), (2, "bound", "met"), (1.9, "bound", "not met"), (0.4, "point", "not met")],
)
def test_limit_is_met_by_what_just_reaches_it(limit, judged_by, outcome):
    gate = Gate(max_drop=limit, judged_by=judged_by)
    (verdict,) = judge(gate, Measured(differences=(difference(-0.5, -2, 1),)), gate="g", candidate="c")
    assert verdict.outcome == outcome


@pytest.mark.parametrize(
    ("quantity", "limit", "outcome"),
    [
        ("min_speedup", 1.5, "met"),
        ("min_speedup", 3.0, "not met"),
        ("max_latency_ms", 1.5, "not met"),
        ("max_latency_ms", 3.0, "met"),
    ],
)
def test_time_is_undecided_only_inside_of_its_interval(quantity, limit, outcome):
    measured = Measured(speedup=(2.5, WIDE), latency_ms=(2.5, WIDE))
    (verdict,) = judge(Gate.model_validate({quantity: limit}), measured, gate="g", candidate="c")
    assert (verdict.outcome, verdict.value, verdict.interval, verdict.why) == (outcome, 2.5, WIDE, "")


def test_undecided_time_tells_its_limit_and_interval_and_what_disturbed_it():
    held = "2.12346 lies within what noise explains, 1.5 to 3: measure longer, or on a quieter machine"
    for measured, why in (
        (Measured(speedup=(2.5, WIDE)), held),
        (Measured(speedup=(2.5, WIDE), disturbed="by a neighbour"), f"{held}; by a neighbour"),
    ):
        (verdict,) = judge(Gate(min_speedup=2.123456), measured, gate="g", candidate="c")
        assert (verdict.outcome, verdict.why) == ("undecided", why)


def test_reasons_belong_to_what_they_are_of():
    measured = Measured(size=0.4, size_of="bytes of cpu", why="not measured", disturbed="disturbed", speedup=(2, WIDE))
    assert measured.told("max_size") == "bytes of cpu"
    assert measured.told("min_speedup") == measured.told("max_latency_ms") == "disturbed"
    assert measured.told("max_drop") == measured.told("max_class_drop") == "not measured"
    assert Measured(why="none", size_of="x", disturbed="y").told("max_size") == "none"
    assert Measured(why="none", disturbed="y").told("min_speedup") == "none"
    assert Measured(disturbed="y", speedup=(2, WIDE)).told("max_drop") == ""
    assert Measured(why="none", class_drop=ClassDrop("b", 1, None)).told("max_class_drop") == "of class b"
    assert Measured().told("max_class_drop") == "no classes were scored"


def test_times_are_those_of_the_row_and_the_ratio():
    found = disturbed(16.0, 10.6, 18.1)
    interval = Interval(low=10.6, high=18.1, method="m")
    assert (found.speedup, found.latency_ms) == ((16.0, interval), (2.0, interval))
    assert found.disturbed == "disturbed: the baseline against itself gave 1.080, so the interval allows for 20% of noise"
    assert found.why == "latency was not measured"


@pytest.mark.parametrize(
    ("low", "high", "undecided"), [(1.0, 2.0, False), (0.5, 1.0, False), (0.9, 1.1, False), (1.01, 2, True), (0.5, 0.99, True)]
)
def test_ratio_that_is_called_undecided_is_taken_where_1_lies_in_its_interval(low, high, undecided):
    found = disturbed(1.5, low, high, outcome="undecided")
    assert (found.speedup is None) is undecided
    said = "the probe calls its ratio undecided, though its interval leaves 1 out"
    assert found.why == (said if undecided else "latency was not measured")
    assert disturbed(1.5, low, high).speedup is not None


def test_control_is_that_of_the_workload_and_tells_nothing_where_it_passed():
    about = {"workload": Workload(), "interval": WIDE}
    shared = {"throughput_per_s": 1, "load_s": 1, "first_call_ms": 1, "warm_up_calls": 1, "rounds_ms": (), "samples_ms": ()}
    row = LatencyRow(candidate="b", n=9, median_ms=2.0, **shared, **about)
    ratio = Ratio(of="b", to="a", value=2, outcome="faster", **about)
    elsewhere = {"workload": Workload(batch=64), "interval": WIDE}

    def timed(*controls):
        record = LatencyRecord(
            probe="p", rows=(row,), ratios=(ratio,), controls=controls, load_before=0, load_after=0, protocol={}
        )
        return Measured().timed(record, row, ratio).disturbed

    failed = {"ratio": 1.2, "limit": 0.03, "attempts": 1, "noise": 0.1, "passed": False}
    assert timed() == timed(Control(**failed, **elsewhere)) == timed(Control(**{**failed, "passed": True}, **about)) == ""
    assert "1.200" in timed(Control(**{**failed, "ratio": 9}, **elsewhere), Control(**failed, **about))


def test_class_drop_without_the_truth_of_its_rows_has_no_interval():
    found = class_drop(TASK, WORSE, replace(REFERENCE, truth={}))
    assert (found.label, found.points, found.interval) == ("c", 50, None)
