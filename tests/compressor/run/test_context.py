"""What a step sees of the run: outputs of rows from all over a split, and a machine that is not steady told as that."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from compressor.contracts import Message, Workload
from compressor.contracts.notes import Remark
from compressor.contracts.records import Control, Interval, LatencyRecord, LatencyRow
from compressor.run import context
from compressor.run.context import StepContext
from compressor.testing.tiny import tiny_run


def test_outputs_are_of_rows_spread_over_the_split(tmp_path):
    run = tiny_run()
    ctx = run.context(tmp_path)
    rows, model = len(run.data.split("validation")), run.model()
    every = ctx.outputs(model, "validation", limit=10_000)
    assert len(every) == rows
    assert np.array_equal(every, ctx.evaluate(model, "validation").outputs["logits"])
    few = ctx.outputs(model, "validation", limit=rows // 2)
    np.testing.assert_allclose(few, every[[at * rows // (rows // 2) for at in range(rows // 2)]], rtol=1e-4, atol=1e-5)
    assert not np.allclose(few, every[: rows // 2], atol=1e-5), "the first rows, and not from all over"


def test_outputs_of_a_step_that_was_scored_are_those_of_its_scores(tmp_path):
    run, ran = tiny_run(), []

    def models(name):
        ran.append(name)
        return run.model()

    plain = run.context(tmp_path / "plain", models=models)
    kept = {"tuned": plain.evaluate(run.model(), "validation")}
    ctx = replace(plain, scored=kept.get)
    for limit in (10_000, 3):
        known, made = (each.outputs("tuned", "validation", limit=limit) for each in (ctx, plain))
        np.testing.assert_allclose(known, made, rtol=1e-4, atol=1e-5)
    assert ran == ["tuned", "tuned"], "where there are scores no model is run"
    for name, split in (("source", "validation"), ("tuned", "train")):
        assert len(ctx.outputs(name, split, limit=2)) == 2
    assert ran[2:] == ["source", "tuned"], "of others there are none"


def test_what_was_noted_while_measuring_is_remembered_with_it(tmp_path):
    run = tiny_run()
    found = []
    for name in ("one", "two"):
        ctx = run.context(tmp_path / name)

        def make(ctx=ctx, name=name):
            (lock,) = (ctx.store.root / "locks").iterdir()
            assert json.loads(lock.read_text())["work"] == "the answer"
            found.append(name)
            ctx.note(Remark(text="shaky"))
            return [1.5]

        ctx.note(Remark(text="before"))
        for _ in range(2):
            assert ctx.remember({"the answer": str(tmp_path)}, make) == [1.5]
        assert [note.text for note in ctx.notes] == ["before", "shaky"]
    assert found == ["one"]


def timed(passed):
    interval = Interval(low=0.9, high=1.2, method="none")
    row = {"workload": Workload(length=8)}
    return LatencyRecord.model_construct(
        rows=tuple(LatencyRow.model_construct(candidate=f"variant-{at}@cpu", median_ms=2.0 - at, **row) for at in (0, 1)),
        controls=(Control(ratio=1.07, interval=interval, limit=0.03, passed=passed, attempts=3, **row),),
    )


def test_latency_measured_on_an_unsteady_machine_is_told_and_noted(tmp_path, monkeypatch):
    for passed in (True, False):
        told = []
        monkeypatch.setattr(context, "time_candidates", lambda *_, passed=passed, **__: timed(passed))
        ctx: StepContext = tiny_run().context(tmp_path / str(passed), others=("cpu",), tell=told.append)
        assert ctx.measure([tiny_run().model()] * 2, "cpu", Workload(length=8)) == [2.0, 1.0]
        said = [event.text for event in told if isinstance(event, Message)]
        noted = [note.text for note in ctx.notes if isinstance(note, Remark)]
        assert said == noted
        assert [("not steady" in text, "differed by 7.0%" in text) for text in noted] == ([] if passed else [(True, True)])
