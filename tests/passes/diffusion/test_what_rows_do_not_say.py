"""Long steps and scales of guidance are no part of rows: trainings on rows are refused after they were taught, in a plan and of a folder."""

from __future__ import annotations

import pytest

from compressor.contracts.anatomy import Insides
from compressor.errors import PlanError, UnsupportedModel
from compressor.model import Model
from compressor.plan.bound import load_plan
from compressor.run.preflight import check_steps
from compressor.run.preview import previewed
from compressor.store import Store
from compressor.tasks.generation.description import FILE, Description
from compressor.tasks.generation.image_generation import ImageGeneration

STEP = "steps: 3, batch_size: 8, precision: fp32, attention: sdpa"
TAUGHT = {
    "progressive": f"distill-steps: {{teacher: source, to: [2], {STEP}}}",
    "shortcut": f"distill-steps: {{teacher: source, method: shortcut, to: [2], {STEP}}}",
    "guidance": f"distill-guidance: {{teacher: source, {STEP}}}",
}
ON_ROWS = {
    "finetune": f"finetune: {{{STEP}}}",
    "fewer blocks by rows": f"distill-layers: {{depths: [1, 0.5], {STEP}}}",
    "features": f"distill: {{teacher: source, objectives: {{hidden-states: 1.0}}, {STEP}}}",
}
PLAN = """
name: taught
stages: quality
model: {folder: MODEL}
task:
  image-generation: {steps: 4}
data: {files: images, format: imagefolder, split: {validation: 12, test: 12}, calibration: 8}
passes:
STEPStargets:
  - onnxruntime: {}
"""


def plan(folder, *steps, model="pretrained"):
    path = folder / "plan.yaml"
    text = "".join(f"  - {step}\n" for step in steps)
    path.write_text(PLAN.replace("STEPS", text).replace("MODEL", model), encoding="utf-8")
    return path


@pytest.mark.parametrize("taught", TAUGHT)
@pytest.mark.parametrize("on_rows", ON_ROWS)
def test_a_training_on_rows_after_what_they_do_not_say_is_a_fault_of_the_plan(taught, on_rows, tmp_path):
    ImageGeneration().tiny(tmp_path)
    what = "scales" if taught == "guidance" else "long steps"
    with pytest.raises(PlanError, match=rf"plan.yaml:10.*trains on rows, which say nothing of the {what} that '.*' has taught"):
        load_plan(plan(tmp_path, TAUGHT[taught], ON_ROWS[on_rows]))
    load_plan(plan(tmp_path, ON_ROWS[on_rows], TAUGHT[taught]))


def test_what_comes_between_changes_nothing(tmp_path):
    ImageGeneration().tiny(tmp_path)
    pruned = "prune-structure: {importance: magnitude, keep: 0.5}"
    with pytest.raises(PlanError, match=r"plan.yaml:11.*of the long steps that 'distill-steps' has taught"):
        load_plan(plan(tmp_path, TAUGHT["shortcut"], pruned, ON_ROWS["finetune"]))
    load_plan(plan(tmp_path, pruned, ON_ROWS["finetune"], TAUGHT["shortcut"]))


@pytest.mark.parametrize("changes", [{"stepped": True}, {"spans": True}, {"scales": True}])
def test_check_refuses_to_train_a_folder_of_such_a_model_on_rows(changes, tmp_path):
    ImageGeneration().tiny(tmp_path)
    model = Model.read(tmp_path / "pretrained")
    model.files[FILE] = Description(shape=(1, 8, 8), classes=3, empty=3).model_copy(update=changes).written()
    model.save(tmp_path / "student")
    bound = load_plan(plan(tmp_path, ON_ROWS["finetune"], model="student"))
    what = "scales of guidance" if "scales" in changes else "long steps"
    with pytest.raises(
        UnsupportedModel, match=f"finetune trains on rows, which say nothing of the {what} that the model was taught"
    ):
        previewed(bound, Store(tmp_path / "store"))
    with pytest.raises(UnsupportedModel, match=f"{what} that the model was taught"):
        check_steps(bound, {"source": tmp_path / "student"}, (), lambda _: Insides("dit", known=True, without={}))
    previewed(load_plan(plan(tmp_path, ON_ROWS["finetune"])), Store(tmp_path / "store"))
