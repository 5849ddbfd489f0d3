"""Optimisers that take turns, killed in the middle, and a step that makes three models: a stand-in's passes, by public doors."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest
from furnished import rows, write_model, write_rows
from tensor_rows import Context, bert
from typer.testing import CliRunner

from compressor.cli import app
from compressor.contracts import Message, Progress
from compressor.errors import CompressorError, PlanError
from compressor.plan.bound import load_plan
from compressor.report import read_report
from compressor.run.pipeline import run_plan
from compressor.store.store import Store
from compressor.training.checkpoint import INTERVAL

HERE = Path(__file__).parents[1] / "stand_ins" / "steps"


@pytest.fixture(scope="module", autouse=True)
def _plugins():
    """The stand-in's passes, installed here and in other processes."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(HERE))
    patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parent)]))
    yield
    patch.undo()


# ------------------------------------------------------------------ two optimisers, killed in the middle

SETTINGS = {"epochs": 4, "batch_size": 4, "learning_rate": 3e-3, "precision": "fp32", "attention": "sdpa"}
STEPS, JUDGED = 36, (6, 12, 18, 24, 30, 36)
STEP_OF_DEATH = 20
"""In the third epoch of 9 batches, and in the fourth turn: both optimisers, the average and a curve with gaps are under way."""


def took_turns(folder):
    from several import TakeTurns

    ctx = Context(folder, {})
    return TakeTurns.model_validate(SETTINGS).apply(bert(9), ctx), ctx


def child(folder):
    """Train, and hang for good once the step of death is written down."""
    tell = Context.tell

    def hang(ctx, event):
        tell(ctx, event)
        if isinstance(event, Progress) and event.done == STEP_OF_DEATH + 1:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            time.sleep(600)

    Context.tell = hang
    took_turns(folder)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return took_turns(tmp_path_factory.mktemp("unbroken"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Where a process trained that was killed."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, env={**os.environ, INTERVAL: "0"}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return folder


def test_optimisers_that_take_turns_end_with_equal_bytes_after_a_kill(killed, unbroken, tmp_path):
    (resumed, again), (once, before) = took_turns(killed), unbroken
    resumed.save(tmp_path / "a")
    once.save(tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert again.notes == before.notes
    said = [event.text for event in again.events if isinstance(event, Message) and "goes on" in event.text]
    assert said == [f"take turns: goes on at step {STEP_OF_DEATH} of {STEPS}"]
    steps = [event.done for event in again.events if isinstance(event, Progress) and event.work == "take turns"]
    assert steps == list(range(STEP_OF_DEATH + 1, STEPS + 1))


def test_losses_have_the_steps_of_those_that_learn_by_them(unbroken):
    (note,) = unbroken[1].notes
    found = {name: tuple(step for step, _ in curve) for name, curve in note.curves.items()}
    assert found == {
        "judge": tuple(step for step in range(1, STEPS + 1) if step not in JUDGED),
        "task": JUDGED,
        "judged": JUDGED,
    }


# ------------------------------------------------------------------ three models of one step

PLAN = """
model: {folder: model}
task:
  text-classification: {max_length: 16}
data: {files: rows.jsonl, split: {validation: 12, test: 16}, calibration: 8}
passes:
  - three-sizes: {}
    name: sizes
  - finetune: {epochs: 2, batch_size: 8, learning_rate: 0.01, precision: fp32, dropout: false}
    name: grown
    from: sizes.small
  - distill: {teacher: sizes.tiny, epochs: 1, precision: fp32}
    name: taught
targets:
  - pytorch
"""
MADE = ("source", "sizes", "sizes.small", "sizes.tiny", "grown", "taught")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("three")
    write_model(made, ("blue", "red"))
    write_rows(made / "rows.jsonl", rows())
    (made / "plan.yaml").write_text(PLAN)
    return made


def checked(folder):
    """What `check` says of each step."""
    with chdir(folder):
        found = CliRunner().invoke(app, ["check", "plan.yaml", "--store", "store"])
    assert found.exit_code == 0, found.output
    return re.findall(r"^((?:sizes|grown|taught)\S*: .*)$", found.output, flags=re.MULTILINE)


def ran(folder, *settings, name="run"):
    bound = load_plan(folder / "plan.yaml", settings=list(settings))
    return run_plan(bound, store=Store(folder / "store"), folder=folder / "runs" / name, command="", tell=[].append)


@pytest.fixture(scope="module")
def before(folder):
    return checked(folder)


@pytest.fixture(scope="module")
def report(folder, before):
    ran(folder)
    return read_report(folder / "runs" / "run")


def test_each_model_of_a_step_is_a_stage(report):
    stages = {stage.name: stage for stage in report.stages}
    assert tuple(stages) == MADE
    assert {stage.step for name, stage in stages.items() if name.startswith("sizes")} == {"three-sizes"}
    assert stages["source"].digest == stages["sizes"].digest
    assert stages["source"].weights > stages["sizes.small"].weights > stages["sizes.tiny"].weights
    assert all(stage.scores.main.n == 12 and stage.bytes for stage in report.stages)
    assert [len(stages[name].edits) for name in ("sizes", "sizes.small", "sizes.tiny")] == [0, 1, 2]
    candidates = {f"{name}@pytorch" for name in (*MADE, "final")}
    assert {candidate.id for candidate in report.candidates} == candidates


def test_later_steps_start_from_a_product_and_are_taught_by_one(report):
    stages = {stage.name: stage for stage in report.stages}
    for name in ("grown", "taught"):
        assert (stages[name].weights, stages[name].edits) == (stages["sizes.small"].weights, stages["sizes.small"].edits)
    assert stages["grown"].digest != stages["sizes.small"].digest
    assert stages["taught"].parameters["teacher"] == "sizes.tiny"


def test_all_that_a_step_made_is_found_again(folder, report):
    again = ran(folder, name="again")
    assert [(stage.name, stage.digest) for stage in again.stages] == [(stage.name, stage.digest) for stage in report.stages]
    assert all(stage.found for stage in again.stages)


def test_check_names_the_models_of_a_step(folder, before, report):
    assert [line.partition(";")[0] for line in before] == [  # a training goes on with its steps and how long they take
        "sizes: to be run, makes sizes.small and sizes.tiny too",
        "grown: to be run",
        "taught: to be run",
    ]
    assert checked(folder) == [
        "sizes: found in the store, makes sizes.small and sizes.tiny too",
        "grown: found in the store",
        "taught: found in the store",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("from: sizes.small", "from: sizes.smal", "step 'sizes' makes no 'smal' (did you mean 'small'?)"),
        ("teacher: sizes.tiny", "teacher: sizes.tny", "step 'sizes' makes no 'tny' (did you mean 'tiny'?)"),
        ("teacher: sizes.tiny", "teacher: size.tiny", "no step or model is named 'size.tiny' (did you mean 'sizes.tiny'?)"),
        ("teacher: sizes.tiny", "teacher: grown.tiny", "step 'grown' makes no 'tiny'"),
    ],
)
def test_a_misspelt_model_of_a_step_is_a_fault_with_its_near_name(folder, old, new, said):
    (folder / "faulty.yaml").write_text(PLAN.replace(old, new))
    with pytest.raises(PlanError) as found:
        load_plan(folder / "faulty.yaml")
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("forgets=tiny", "the step's needs name 'tiny' among its products, and it made none of that name"),
        ("adds=smaller", "the step makes 'smaller', which its needs do not name (did you mean 'small'?)"),
    ],
)
def test_a_step_that_does_not_make_what_it_says_is_an_error(folder, report, setting, said):
    with pytest.raises(CompressorError, match=re.escape(said)):
        ran(folder, f"passes.sizes.{setting}", name="wrong")


if __name__ == "__main__":
    child(Path(sys.argv[1]))
