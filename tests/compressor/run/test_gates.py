"""What a gate measures of a stage, what it says, and what becomes of the stage; building and timing have tests of their own."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from compressor.contracts import Candidate, Dialect, Missing, Target
from compressor.contracts.records import Difference, File, Interval, LatencyRecord, LatencyRow, Ratio, Stage, Workload
from compressor.errors import GateStopped
from compressor.plan.bound import BoundStep, BoundTarget
from compressor.plan.specs import Gate
from compressor.run.aside import Aside
from compressor.run.gates import Gates, stop_where_failed
from compressor.run.results import Built
from compressor.run.state import StageState
from compressor.run.stopwatch import Stopwatch
from compressor.store.store import StoredResult
from compressor.tasks.text_classification import TextClassification
from passes.finetune import Finetune

TASK = TextClassification()
DIGITS = Interval(low=1.5, high=3.0, method="m")


class Runs(Target):
    """Says that it lacks what it is told to lack."""

    lacks_build: str | None = None
    lacks_run: str | None = None

    def missing(self):
        return Missing(self.lacks_build, self.lacks_run)

    def build(self, source, out, *, graphs, workloads): ...
    def open(self, built): ...


class OnGraphs(Runs):
    dialect = Dialect(format="onnx")
    file = "model.onnx"


class OnTorch(Runs):
    dialect = Dialect(format="torch")
    file = "model"


class Builder:
    """Lowers into `LOWERED` and builds a file of ten bytes a letter of the stage's name."""

    def __init__(self):
        self.asked = []

    def lower(self, made, form, to, target):
        self.asked.append((made.digest, form, to, type(target).__name__))
        return f"{made.digest} as {to}"

    def build(self, lowered, *, stage, name, target, out):
        self.asked.append((lowered, stage, name, out))
        out.mkdir(parents=True)
        (out / "model").write_text("x")
        files = tuple(File(name=f"m{part}", bytes=size * len(stage), sha256="") for part, size in (("odel", 9), ("ap", 1)))
        return Candidate(f"{stage}@{name}", stage, name, target, out, TASK), files


class Ground:
    """What gates ask of a run."""

    def __init__(self, targets, reference="source"):
        self.bound = SimpleNamespace(targets=targets, reference=reference, task=TASK, seed=11)
        self.watch, self.builder, self.said = Stopwatch(), Builder(), []
        self.aside = Aside()
        self.say = self.said.append
        self.listener = object()
        self.data = SimpleNamespace(place=lambda split, number: f"line {number} of {split}")

    def workloads(self):
        return [Workload(batch=4, length=32), Workload(batch=1, length=8)]

    def feeds(self, workload, files):
        return [("feeds", workload, files)]


def bound(kind=OnGraphs, name="cpu", **options):
    return BoundTarget(name, name, kind(**options))


def evaluation(right, rows=8):
    """Of two classes in turn, the first `right` rows told right."""
    labels = np.arange(rows) % 2
    told = np.where(np.arange(rows) < right, labels, 1 - labels)
    return TASK.score(
        {"logits": np.eye(2, dtype=np.float32)[told]}, {"labels": labels, "names": np.array(["a", "b"])}, split="test"
    )


def state(name, size, *, form="torch", scored=None, drop=None):
    differences = (
        () if drop is None else (Difference(reference="source", metric="accuracy", change=-drop, interval=None, n=9, changed=1),)
    )
    stage = Stage(name=name, step=name, bytes=size, differences=differences)
    return StageState(StoredResult("", f"digest of {name}", Path(name), {}, 0.0, found=True), form, stage, scored)


def step(gate, name="prune"):
    gate = Gate.model_validate(gate) if gate is not None else None
    return BoundStep(name, "finetune", Finetune(), gate, None, (), {}, trunk=True, line=1)


@pytest.fixture
def gates(tmp_path):
    """Gates of a run in which the source and what is given were made."""

    def gates(*made, targets=(bound(),), reference="source", built=()):
        states = {each.stage.name: each for each in (state("source", 1000, scored=evaluation(8)), *made)}
        return Gates(Ground(targets, reference), tmp_path, states, built)

    return gates


def verdicts(found):
    return [(each.gate, each.candidate, each.quantity, each.outcome) for each in found.stage.verdicts]


# ------------------------------------------------------------------ what becomes of the stage


def test_step_without_a_gate_leaves_the_stage_as_it_is(gates):
    made, judging = state("prune", 500), gates()
    assert judging.passed(step(None), made, None) is made
    assert (judging.ground.said, judging.ground.watch.spent) == ([], [])


def test_gate_that_is_met_says_nothing_and_its_time_is_told(gates):
    judging = gates()
    found = judging.passed(step({"max_drop": 2, "on_fail": "roll back"}), state("prune", 500, drop=1.0), None)
    assert verdicts(found) == [("passes.prune.gate", "prune", "max_drop", "met")]
    assert (found.stage.rolled_back, judging.ground.said) == (False, [])
    assert [(each.work, each.of, each.target) for each in judging.ground.watch.spent] == [("gate", "prune", None)]


@pytest.mark.parametrize(("on_fail", "back"), [("stop", False), ("roll back", True), ("warn", False)])
def test_gate_that_is_not_met_is_told_and_rolls_back_where_it_says_so(gates, on_fail, back):
    judging = gates()
    made = state("pruned", 500, drop=3.0)
    found = judging.passed(step({"max_drop": 2, "max_size": 0.75, "on_fail": on_fail}), made, None)
    assert verdicts(found) == [
        ("passes.prune.gate", "pruned", "max_drop", "not met"),
        ("passes.prune.gate", "pruned", "max_size", "met"),
    ]
    assert found.stage.rolled_back is back
    assert judging.ground.said == [f"prune: gate max_drop 2.0\xa0points is not met (3.0\xa0points): {on_fail}"]
    assert (found.made, found.stage.bytes) == (made.made, 500)


def test_gate_that_is_undecided_counts_as_failed_and_says_why(gates):
    judging = gates()
    found = judging.passed(step({"max_drop": 2, "on_fail": "roll back"}), state("prune", 500), None)
    assert verdicts(found) == [("passes.prune.gate", "prune", "max_drop", "undecided")]
    assert found.stage.rolled_back
    assert judging.ground.said == ["prune: gate max_drop 2.0\xa0points is undecided (not measured): roll back"]
    timed = {"min_speedup": 2, "on_fail": "warn"}
    judging = gates(targets=(bound(lacks_run="no device"),))
    judging.passed(step(timed), state("prune", 500), None)
    assert judging.ground.said == ["prune: gate min_speedup 2.00\xd7 is undecided (not measured: cpu: no device): warn"]


def test_outputs_that_are_not_finite_come_first_and_are_not_met(gates):
    scored = evaluation(8)
    scored.outputs["logits"][2] = np.nan
    found = gates().passed(step({"max_size": 1}), state("prune", 500, scored=scored), None)
    assert found.stage.verdicts[0].why.endswith("(first: line 2 of test)")
    assert verdicts(found) == [
        ("passes.prune.gate", "prune", "finite", "not met"),
        ("passes.prune.gate", "prune", "max_size", "met"),
    ]


# ------------------------------------------------------------------ what is measured


@pytest.mark.parametrize(
    ("limit", "reference", "scored", "outcome"),
    [
        ({"max_class_drop": 25}, "source", evaluation(6), "met"),
        ({"max_class_drop": 24}, "source", evaluation(6), "not met"),
        ({"max_class_drop": 25}, "source", None, "undecided"),
        ({"max_class_drop": 25}, "later", evaluation(6), "undecided"),
        ({"max_class_drop": 25}, "unscored", evaluation(6), "undecided"),
    ],
)
def test_recall_is_held_against_the_reference_where_both_are_scored(gates, limit, reference, scored, outcome):
    judging = gates(state("unscored", 900), reference=reference)
    found = judging.passed(step(limit), state("prune", 500, scored=scored), None)
    assert [each[2:] for each in verdicts(found)] == [("max_class_drop", outcome)]
    (verdict,) = found.stage.verdicts
    assert verdict.value == (None if outcome == "undecided" else 25)


def size(gates_, made, target=None):
    (verdict,) = gates_.passed(step({"max_size": 0.6}), made, target).stage.verdicts
    return verdict.value, verdict.outcome, verdict.why


def test_size_on_the_trunk_is_of_torch_models_and_says_what_it_is_not_of(gates):
    others = (bound(), bound(OnTorch, "eager"), bound(OnGraphs, "gpu"))
    of = "bytes of the torch model, not of what cpu, gpu will deploy"
    assert size(gates(targets=others), state("prune", 500)) == (0.5, "met", of)
    assert size(gates(targets=others[1:2]), state("prune", 700)) == (0.7, "not met", "")


def test_size_on_the_trunk_is_against_the_reference_and_until_it_is_made_against_the_source(gates):
    eager = (bound(OnTorch, "eager"),)
    assert size(gates(state("tuned", 2000), targets=eager, reference="tuned"), state("prune", 500)) == (0.25, "met", "")
    later = "against the source, as tuned is not made yet"
    assert size(gates(targets=eager, reference="tuned"), state("prune", 500)) == (0.5, "met", later)
    of = "bytes of the torch model, not of what cpu will deploy"
    assert size(gates(reference="tuned"), state("prune", 500)) == (0.5, "met", f"{of}; {later}")


def built(name, *sizes):
    return Built(None, tuple(File(name=f"m{size}", bytes=size, sha256="") for size in sizes), {}, None, timed=False, id=name)


def test_size_in_a_branch_is_of_the_files_that_its_target_deploys(gates, tmp_path):
    target = bound(name="gpu")
    given = (built("final@gpu", 1), built("source@cpu", 2), built("source@gpu", 90, 110))
    judging = gates(targets=(bound(), target), built=given)
    assert size(judging, state("round", 7, form="onnx"), target) == (0.25, "met", "bytes of what gpu deploys")
    out = tmp_path / "gates" / "round" / "round@gpu"
    assert judging.ground.builder.asked == [
        ("digest of round", "onnx", "onnx", "OnGraphs"),
        ("digest of round as onnx", "round", "gpu", out),
    ]
    assert not out.exists(), "it was built to be weighed"
    assert [each.target for each in judging.ground.watch.spent] == ["gpu"]


def test_gate_that_limits_no_size_builds_nothing(gates):
    judging = gates()
    judging.passed(step({"max_drop": 2}), state("prune", 500, drop=1.0), bound())
    assert judging.ground.builder.asked == []


# ------------------------------------------------------------------ times


def record(of, to):
    about = {"workload": Workload(batch=4, length=32), "interval": DIGITS}
    shared = {
        "n": 9,
        "throughput_per_s": 1,
        "load_s": 1,
        "first_call_ms": 1,
        "warm_up_calls": 1,
        "rounds_ms": (),
        "samples_ms": (),
    }
    rows = [LatencyRow(candidate=name, median_ms=ms, **shared, **about) for name, ms in ((to, 9.0), (of, 4.0))]
    pairs = ((to, of, 0.4), (of, of, 1.0), (to, to, 1.0), (of, to, 2.25))
    ratios = [Ratio(of=one, to=other, value=value, outcome="faster", **about) for one, other, value in pairs]
    return LatencyRecord(probe="p", rows=tuple(rows), ratios=tuple(ratios), controls=(), load_before=0, load_after=0, protocol={})


@pytest.fixture
def timed(monkeypatch):
    """What the timing was asked for."""
    asked = []

    def time_candidates(candidates, feeds, workload, **options):
        asked.append(([each.id for each in candidates], feeds, workload, options))
        return record(candidates[1].id, candidates[0].id)

    monkeypatch.setattr("compressor.run.gates.time_candidates", time_candidates)
    return asked


def test_times_are_of_the_stage_beside_the_source_in_the_same_rounds(gates, timed, tmp_path):
    judging, target = gates(targets=(bound(), bound(name="gpu"))), bound(name="gpu")
    found = judging.passed(
        step({"min_speedup": 1.4, "max_latency_ms": 4.5, "max_drop": 1}), state("prune", 500, drop=0.5), target
    )
    assert {each.quantity: (each.value, each.outcome) for each in found.stage.verdicts} == {
        "max_drop": (0.5, "met"),
        "min_speedup": (2.25, "met"),
        "max_latency_ms": (4.0, "met"),
    }
    ((candidates, feeds, workload, options),) = timed
    assert candidates == ["source@gpu", "prune@gpu"]
    assert workload == Workload(batch=4, length=32)
    assert feeds == [("feeds", workload, Path("source"))]
    listener = judging.ground.listener
    assert options == {"folder": tmp_path / "bench", "seconds": 15, "seed": 11, "tell": listener}
    outs = [each[3] for each in judging.ground.builder.asked[1::2]]
    assert outs == [tmp_path / "gates" / "source" / "source@gpu", tmp_path / "gates" / "prune" / "prune@gpu"]
    assert [each[:3] for each in judging.ground.builder.asked[::2]] == [
        ("digest of source", "torch", "onnx"),
        ("digest of prune", "torch", "onnx"),
    ]


def test_times_on_the_trunk_are_of_the_first_target(gates, timed):
    gates(targets=(bound(), bound(name="gpu"))).passed(step({"min_speedup": 1.4}), state("prune", 500), None)
    assert timed[0][0] == ["source@cpu", "prune@cpu"]


def test_nothing_is_timed_where_no_limit_asks_for_it(gates, timed):
    gates().passed(step({"max_size": 1}), state("prune", 500), None)
    assert timed == []


@pytest.mark.parametrize(
    ("lacks", "why"),
    [
        ({"lacks_build": "no compiler"}, "cpu: no compiler"),
        ({"lacks_run": "no device"}, "cpu: no device"),
        ({"lacks_build": "no compiler", "lacks_run": "no device"}, "cpu: no compiler"),
    ],
)
def test_target_that_cannot_run_here_leaves_times_undecided_and_the_rest_judged(gates, timed, lacks, why):
    found = gates(targets=(bound(**lacks),)).passed(step({"min_speedup": 2, "max_drop": 1}), state("prune", 500, drop=0.5), None)
    assert [(each.quantity, each.outcome, each.why) for each in found.stage.verdicts] == [
        ("max_drop", "met", ""),
        ("min_speedup", "undecided", why),
    ]
    assert timed == []


# ------------------------------------------------------------------ ending the run


def test_run_ends_where_a_gate_that_says_stop_is_not_met(gates):
    gate = {"max_drop": 2, "max_size": 0.4}
    judged = gates(targets=(bound(OnTorch),)).passed(step(gate), state("prune", 500, drop=1.0), None).stage.verdicts
    message = "passes.prune.gate: max_size 40.0\xa0% is not met (50.0\xa0%)"
    with pytest.raises(GateStopped, match=f"^{re.escape(message)}$"):
        stop_where_failed(step(gate), judged)
    stop_where_failed(step({**gate, "on_fail": "warn"}), judged)
    stop_where_failed(step({**gate, "on_fail": "roll back"}), judged)
    stop_where_failed(step(None), judged)
    stop_where_failed(step(gate), judged[:1])
    stop_where_failed(step(gate), ())


def test_reason_is_told_where_a_run_ends(gates):
    judged = gates().passed(step({"max_size": 0.4}), state("prune", 500), None).stage.verdicts
    with pytest.raises(GateStopped, match=r"is not met \(50.*: bytes of the torch model, not of what cpu will deploy\)$"):
        stop_where_failed(step({"max_size": 0.4}), judged)
