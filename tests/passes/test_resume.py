"""A training that is killed goes on and ends with the very bytes of one that was not: a real child process, a real SIGKILL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import deaths
import pytest
import torch
from safetensors import safe_open
from tensor_rows import Context, bert

from compressor.contracts import Message, Progress
from compressor.errors import TrainingDiverged
from compressor.model.model import Model
from compressor.training.checkpoint import INDEX, INTERVAL, RESCUED
from passes.distillation.distill import Distill
from passes.finetune import Finetune

QUICK = {"epochs": 3, "batch_size": 4, "learning_rate": 3e-3, "precision": "fp32"}
STEPS = {
    "finetune": Finetune.model_validate({**QUICK, "checkpoint": "best"}),
    "in parts, in bf16": Finetune.model_validate({**QUICK, "precision": "bf16", "accumulate": 2, "schedule": "cosine"}),
    "distill": Distill.model_validate(
        {**QUICK, "teacher": "finetune", "objectives": {"hidden-states": 1.0, "relations": 0.5}, "task_loss": 0.1}
    ),
}
STEP_OF_DEATH = 14  # in the middle of the second epoch of 9 batches


def applied(name: str, folder: Path) -> tuple[Model, Context]:
    """One training of a student with dropout; the teacher is wider, so that projections are learned too."""
    ctx = Context(folder, {"finetune": bert(0, hidden_size=48)})
    return STEPS[name].apply(bert(9), ctx), ctx


def dying(name: str, folder: Path, hang: Callable[[], None]) -> None:
    """Train, and hang for good once the step of death is written down."""
    tell = Context.tell

    def heard(ctx, event):
        tell(ctx, event)
        if isinstance(event, Progress) and event.done == STEP_OF_DEATH + 1:
            hang()

    Context.tell = heard
    applied(name, folder)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder of each training, whose process was killed."""
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, INTERVAL: "0", "PYTHONPATH": str(Path(__file__).parents[1] / "stand_ins")}
    done = subprocess.run([sys.executable, __file__, str(folder)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", STEPS)
def test_killed_training_ends_with_the_bytes_of_one_that_was_not(killed, tmp_path, name):
    resumed, again = applied(name, killed / name)
    unbroken, once = applied(name, tmp_path / "unbroken")
    resumed.save(tmp_path / "a")
    unbroken.save(tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert again.notes == once.notes
    said = [event.text for event in again.events if isinstance(event, Message) and "goes on" in event.text]
    work = "distill" if name == "distill" else "finetune"
    assert said == [f"{work}: goes on at step {STEP_OF_DEATH} of 27"]
    steps = [event.done for event in again.events if isinstance(event, Progress) and event.work == work]
    assert steps == list(range(STEP_OF_DEATH + 1, 28))


def test_training_that_diverges_keeps_its_last_good_checkpoint_and_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv(INTERVAL, "0")
    ctx = Context(tmp_path, {})
    loss, calls = ctx.task.loss, []

    def breaks(outputs, batch):
        calls.append(batch)
        return loss(outputs, batch) * (float("nan") if len(calls) == 6 else 1.0)

    monkeypatch.setattr(type(ctx.task), "loss", lambda self, *args: breaks(*args))
    with pytest.raises(TrainingDiverged) as diverged:
        STEPS["finetune"].apply(bert(9), ctx)
    place = tmp_path / "training-finetune"
    assert str(diverged.value) == (
        "the loss 'task' is nan at step 6 of 27: try a lower learning_rate (now 0.003), a longer warmup (now 0.1), "
        f"or precision: fp32; the weights before that step are kept in {place / RESCUED}"
    )
    assert (place / INDEX).is_file()
    with safe_open(place / RESCUED, framework="pt") as file:
        assert all(file.get_tensor(name).isfinite().all() for name in file.keys())  # noqa: SIM118
        assert set(file.keys()) >= {"classifier.weight", "classifier.bias"}
    STEPS["finetune"].apply(bert(9), ctx)
    assert "finetune: goes on at step 5 of 27" in [event.text for event in ctx.events if isinstance(event, Message)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in STEPS:
        deaths.killed(partial(dying, each, Path(sys.argv[1]) / each))
