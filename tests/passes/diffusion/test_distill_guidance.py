"""One evaluation that is told the scale equals the two of guided sampling: on points of a plane, and in a plan."""

from __future__ import annotations

import pytest
import torch
from furnished import command
from pydantic import ValidationError

from compressor.errors import UnsupportedModel
from compressor.model import Model
from compressor.model.dit import DiT
from compressor.report import read_report
from compressor.tasks.generation.description import FILE, Description, described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.testing.tiny import run_of
from passes.diffusion.denoiser import Denoiser
from passes.diffusion.distill_guidance import DistillGuidance

PLAN = """
name: guidance
model: {folder: pretrained}
task:
  image-generation: {steps: 4, guidance: 2.0}
data: {files: images, format: imagefolder, split: {validation: 12, test: 12}, calibration: 8}
passes:
  - distill-guidance: {teacher: source, steps: 3, batch_size: 8, precision: fp32, attention: sdpa, ground_truth: 0.5}
  - distill-steps: {teacher: distill-guidance, to: [2], steps: 3, batch_size: 8, precision: fp32, attention: sdpa}
targets:
  - onnxruntime: {}
"""


def points(count=128):
    """Two groups, a label each."""
    label = torch.randint(2, (count,))
    found = torch.stack([2.0 * label - 1, torch.zeros(count)], dim=1) + 0.1 * torch.randn(count, 2)
    return found[:, :, None, None], label


def learned(module, loss, steps, rate):
    optimiser = torch.optim.AdamW(module.parameters(), rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.02, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(*points()).backward()
        optimiser.step()
        schedule.step()


def test_one_evaluation_equals_two_of_the_guided_teacher():
    torch.manual_seed(0)
    how = Description(shape=(2, 1, 1), classes=2, empty=2)
    teacher = Model.wrap(DiT(1, 2, 2, patch=1, width=64, blocks=1, heads=1), {FILE: how.written()})
    plain = Denoiser(teacher.module, how)

    def taught(rows, label):
        t, noise = torch.rand(len(rows), dtype=torch.float64), torch.randn_like(rows)
        given = torch.where(torch.rand(len(rows)) < 0.3, 2, label)
        return (plain.told(plain.noised(rows, t, noise), t, given) - (noise - rows)).square().mean()

    learned(teacher.module, taught, 400, 2e-3)
    teacher.module.requires_grad_(False)
    step = DistillGuidance(teacher="teacher", scales=(1.0, 4.0))
    student = step.begun(teacher, 0, lambda how: step.told(how, 2.5))
    student.module.requires_grad_(True)
    rows, label = points(512)
    t = torch.linspace(0.1, 0.9, 512, dtype=torch.float64)
    x = plain.noised(rows, t, torch.randn_like(rows))

    def apart(scale):
        with torch.no_grad():
            wanted = Denoiser(teacher.module, how, scale).told(x, t, label)
            found = Denoiser(student.module, described(student), scale).told(x, t, label)
        return float((found - wanted).square().mean())

    before = [apart(scale) for scale in (1.5, 2.5, 3.5)]
    learned(
        student.module,
        lambda rows, label: sum(step.losses(student, teacher, {"clean": rows, "labels": label}).values()),
        500,
        2e-3,
    )
    after = [apart(scale) for scale in (1.5, 2.5, 3.5)]
    assert all(later < earlier / 5 for earlier, later in zip(before[1:], after[1:], strict=True)), (before, after)
    assert after[0] < 0.05


def test_plan_folds_guidance_and_then_steps(tmp_path):
    ImageGeneration().tiny(tmp_path)
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    command(tmp_path, "run", "plan.yaml", "--out", "run")
    report = read_report(tmp_path / "run")
    assert [stage.name for stage in report.stages] == ["source", "distill-guidance", "distill-steps"]
    texts = [note.text for stage in report.stages for note in stage.notes if hasattr(note, "text")]
    assert "The student draws in 4 evaluations a picture, the teacher in 8." in texts
    assert "The student draws in 2 evaluations a picture, the teacher in 4." in texts
    final = described(tmp_path / "run" / "artifacts" / "final@onnxruntime")
    assert (final.scales, final.evaluations) == (True, 2)
    out = tmp_path / "out"
    command(tmp_path, "export", "run", str(out), "--target", "onnxruntime")
    assert "what the run did" in (out / "README.md").read_text()


def test_ground_truth_is_learned_at_scale_one():
    how = Description(shape=(2, 1, 1), classes=2, empty=2)
    teacher = Model.wrap(DiT(1, 2, 2, patch=1, width=8, blocks=1, heads=1), {FILE: how.written()})
    step = DistillGuidance(teacher="x")
    student = step.begun(teacher, 0, lambda how: step.told(how, 9.0))
    assert described(student).sampling.guidance == 4.0
    batch = dict(zip(("clean", "labels"), points(16), strict=True))
    found = DistillGuidance(teacher="x", ground_truth=2.0).losses(student, teacher, batch)
    assert set(found) == {"guided", "ground truth"}
    assert found["guided"] == 0  # both tell zeros yet
    assert found["ground truth"] > 1
    assert set(DistillGuidance(teacher="x").losses(student, teacher, batch)) == {"guided"}


def test_what_cannot_be_guided_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="the first is the least"):
        DistillGuidance(teacher="x", scales=(3.0, 2.0))
    run = run_of("image-generation", ImageGeneration(steps=4))
    model = run.model()
    model.files[FILE] = described(model).model_copy(update={"empty": None}).written()
    (tmp_path / "plain").mkdir()
    model.save(tmp_path / "plain")
    with pytest.raises(UnsupportedModel, match="no label that says nothing"):
        DistillGuidance(teacher="source").check(tmp_path / "plain", {"source": tmp_path / "plain"})
