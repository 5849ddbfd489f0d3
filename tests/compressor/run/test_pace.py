"""How long `check` says a training takes: as long as a like one took here, by what there is to do."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from furnished import rows, write_model, write_rows

from compressor.api import run
from compressor.contracts import Progress, registry
from compressor.errors import PlanError
from compressor.plan.bound import load_plan
from compressor.run.pace import UPDATE_SECONDS, Pace
from compressor.run.preview import previewed
from compressor.store.store import Store
from compressor.training.checkpoint import INTERVAL
from compressor.training.launch import Processes

PLAN = """
model: {folder: model}
task: {text-classification: {max_length: 16}}
data: {files: rows.jsonl, split: {validation: 12, test: 12}}
passes:
  - finetune: {epochs: 3, batch_size: 8, learning_rate: 0.001}
  - prune-structure: {keep: 0.5}
targets: [pytorch]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pace")
    write_model(folder, ("blue", "red"))
    write_rows(folder / "rows.jsonl", rows())
    (folder / "plan.yaml").write_text(PLAN)
    return folder


def finetune(place, store, *settings):
    bound = load_plan(place / "plan.yaml", settings=settings)
    found = previewed(bound, store)
    counts = {split.name: split.rows for split in found.data.splits}
    return Pace(bound, store, counts, found.inputs), bound.passes[0], found


def test_training_is_told_with_its_steps_and_a_time_once_one_ran(place, tmp_path):
    store = Store(tmp_path / "store")
    pace, step, found = finetune(place, store)
    assert (found.steps[0].rows, found.steps[0].epochs, found.steps[0].steps) == (36, 3, 15)
    assert found.steps[0].guessed
    assert 15 * UPDATE_SECONDS < found.steps[0].seconds < 60
    guess = r"finetune: to be run; 3 epochs of 36 rows, 8 a step: 15 steps; about \d+ s, a guess by the model's size, `compressor rehearse`"
    assert re.search(guess, " ".join(map(str, found.lines)))
    assert found.steps[1].rows is None, "pruning trains nothing"
    pace.learn(step, 240.0)
    _, _, found = finetune(place, store)
    assert (found.steps[0].seconds, found.steps[0].guessed) == (pytest.approx(240), False)
    assert "15 steps; about 4 min by earlier trainings on this machine" in " ".join(map(str, found.lines))
    _, _, longer = finetune(place, store, "passes.finetune.epochs=6", "passes.finetune.learning_rate=0.01")
    assert longer.steps[0].seconds == pytest.approx(480)


def test_guess_grows_with_the_work_and_says_nothing_of_a_gpu(place, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    monkeypatch.setattr("compressor.run.pace.measured_products", lambda: 1e6)
    pace, step, found = finetune(place, store)
    monkeypatch.setattr("compressor.run.pace.measured_products", lambda: 1e12)
    _, _, longer = finetune(place, store, "passes.finetune.epochs=6")
    own = [each.steps[0].seconds - UPDATE_SECONDS * each.steps[0].steps for each in (found, longer)]
    assert own[1] == pytest.approx(2 * own[0]), "the machine is measured once"
    pixels = replace(pace, sizes=found.inputs.model_copy(update={"unit": "pixels"}))
    assert pixels.guessed_seconds(step, 15) is None
    monkeypatch.setattr("compressor.run.pace.device", lambda: "cuda")
    assert pace.guessed_seconds(step, 15) is None


def test_time_is_only_of_like_trainings_on_this_machine(place, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    pace, step, _ = finetune(place, store)
    pace.learn(step, 60.0)
    other, same, _ = finetune(place, store, "passes.finetune.precision=bf16")
    assert other.expected_seconds(same) is None
    for others in (Processes(each=2), Processes(each=2, sharded=True)):
        assert Pace(pace.bound, store, pace.rows, pace.sizes, others).expected_seconds(step) is None
    from compressor.run import pace as module

    here = module.machine()
    monkeypatch.setattr(module, "machine", lambda: here.model_copy(update={"fingerprint": "another"}))
    assert pace.expected_seconds(step) is None


def test_steps_are_counted_where_a_training_counts_them(place, tmp_path):
    _, step, found = finetune(place, Store(tmp_path / "store"), "passes.finetune={steps: 40, batch_size: 8}")
    assert step.step.steps_of(36) == 40
    assert (found.steps[0].epochs, found.steps[0].steps) == (None, 40)


def test_a_budget_of_tokens_is_refused_where_a_task_counts_rows_and_beside_another_one(place):
    with pytest.raises(PlanError, match="counts tokens, and the task 'text-classification' counts rows: give epochs or steps"):
        load_plan(place / "plan.yaml", settings=("passes.finetune={tokens: 300}",))
    with pytest.raises(PlanError, match="counts steps or tokens: leave one of them out"):
        load_plan(place / "plan.yaml", settings=("passes.finetune={tokens: 300, steps: 4}",))


RUN = ("passes.finetune={epochs: 2, batch_size: 8, precision: fp32}", "stages=quality", "probes=[]")


def test_time_of_a_training_that_another_run_began_is_not_learned_and_no_run_fails_of_learning(place, tmp_path, monkeypatch):
    monkeypatch.setenv(INTERVAL, "0")
    bound, store = load_plan(place / "plan.yaml", settings=RUN), Store(tmp_path / "store")
    pace = Pace(bound, store, {"train": 36, "validation": 12, "test": 12}, previewed(bound, store).inputs)

    def killed(event):
        if isinstance(event, Progress) and event.work == "finetune" and event.done == 3:
            raise KeyboardInterrupt

    said = []
    with pytest.raises(KeyboardInterrupt):
        run(bound, store=store.root, out=tmp_path / "run", tell=killed)
    run(bound, store=store.root, out=tmp_path / "run", tell=lambda event: said.append(str(event)))
    assert "goes on at step" in " ".join(said)
    assert pace.expected_seconds(bound.passes[0]) is None
    monkeypatch.setattr(type(bound.task), "sizes", raising)
    monkeypatch.setattr(registry, "OURS", "another")  # somebody else's
    other = load_plan(place / "plan.yaml", settings=(*RUN, "seed=5"))
    found = run(other, store=store.root, out=tmp_path / "other", tell=lambda event: said.append(str(event)))
    assert found.report.outcome == "measured"
    assert (
        "how long trainings took is not kept for the next check: task 'text-classification' fails: KeyError: 'its own'"
        in " ".join(said)
    )


def raising(*_):
    raise KeyError("its own")
