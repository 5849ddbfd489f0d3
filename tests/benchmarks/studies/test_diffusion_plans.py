"""Plans and cells of the study of fewer steps: they are sound, and cost alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.studies import diffusion_int8
from benchmarks.studies.diffusion_cells import Book
from benchmarks.studies.diffusion_plans import (
    AGAIN,
    ASKED,
    BATCH,
    COUNTS,
    FEWER_BLOCKS,
    METHODS,
    STEPS_AND_LAYERS,
    THEN,
    UNALIGNED,
    Size,
    counts_of,
    guided,
    layered,
    rounded_plan,
    student_plan,
    students,
    teacher_plan,
    teachers,
)
from benchmarks.studies.diffusion_scores import Plan
from compressor.plan.bound import load_plan
from compressor.tasks.generation.process import Process
from compressor.tasks.generation.samplers import Sampling


def bound(made, folder):
    for split in ("train", "test"):
        (folder / f"{split}.parquet").touch()
    (folder / "plan.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
    return load_plan(folder / "plan.yaml")


@pytest.mark.parametrize("method", METHODS)
def test_every_student_is_a_sound_plan(method, tmp_path):
    (tmp_path / "model").mkdir()
    found = bound(student_plan(tmp_path, tmp_path / "model", method, 1, Size(), "onnxruntime", "openvino"), tmp_path)
    (step,) = found.passes
    assert (step.step.to, step.step.steps, step.step.batch_size) == (counts_of(method), Size().steps(method), BATCH)
    assert [cell.model for cell in students(method, 1)] == [f"distill-steps.{each}" for each in step.step.needs().products] + [
        "final"
    ]
    assert [each.name for each in found.targets] == ["onnxruntime", "openvino"]


def test_the_teacher_is_that_of_the_recipe(tmp_path):
    (tmp_path / "dit").mkdir()
    recipe = yaml.safe_load(Path("plans/diffusion-teacher.yaml").read_text(encoding="utf-8"))
    made = teacher_plan(tmp_path, tmp_path / "dit", 0, Size())
    assert bound(made, tmp_path).reference == "finetune"
    assert made["passes"] == recipe["passes"]
    assert made["task"] == recipe["task"]


def test_noise_that_is_not_aligned_is_all_that_differs(tmp_path):
    (tmp_path / "model").mkdir()
    (plain,), (other,) = (
        bound(student_plan(tmp_path, tmp_path / "model", each, 0, Size()), tmp_path).passes for each in ("dmd", UNALIGNED)
    )
    assert (plain.step.matching.aligned, other.step.matching.aligned) == (("matching", "fake", "gan"), ())
    matching = plain.step.matching.model_copy(update={"aligned": ()})
    assert plain.step.model_copy(update={"matching": matching}) == other.step


def test_students_are_trained_by_equal_evaluations():
    size = Size(evaluations=240_000)
    spent = {method: size.steps(method) * BATCH * ASKED[method] for method in METHODS}
    assert all(abs(each / 240_000 - 1) < 0.01 for each in spent.values()), spent


@pytest.mark.parametrize("cell", list(layered()), ids=lambda cell: cell.kind)
def test_students_of_two_passes_are_sound_plans_at_equal_cost(cell, tmp_path):
    """In either order; blocks that go after steps are learned from the student that was taught them."""
    (tmp_path / "model").mkdir()
    size = Size(evaluations=240_000)
    passes = bound(student_plan(tmp_path, tmp_path / "model", cell.kind, 0, size), tmp_path).passes
    steps, layers = _by_kind(passes)
    assert steps.step.to == (cell.sampling.steps,)
    after = cell.kind.startswith("shortcut")
    assert layers.step.teacher == ("distill-steps" if after else None)
    spent = [BATCH * each.step.steps * ASKED[name] for each, name in zip(passes, _costs(cell.kind), strict=True)]
    assert all(abs(each / 120_000 - 1) < 0.01 for each in spent), spent


def _by_kind(passes):
    found = {type(each.step).__name__: each for each in passes}
    return found["DistillSteps"], found["DistillLayers"]


def _costs(kind):
    first, second = kind.split(THEN)
    return first, (second if second == "shortcut" else f"{second} by its teacher")


def test_schedules_and_their_control_run_as_many_blocks():
    """In even steps of as many as students draw in."""
    sampling = Sampling(sampler="ddim", steps=STEPS_AND_LAYERS)
    of = {name: [round(6 * share) for share in given["depths"]] for name, given in FEWER_BLOCKS.items()}
    ran = {
        name: sum(each or max(depths) for each in sampling.table(Process(), depths=depths)[:, -1].astype(int))
        for name, depths in of.items()
    }
    assert set(ran.values()) == {16}, ran


def test_a_student_that_is_told_its_scale_is_a_sound_plan(tmp_path):
    (tmp_path / "model").mkdir()
    (step,) = bound(student_plan(tmp_path, tmp_path / "model", "guidance", 0, Size()), tmp_path).passes
    taught, told, *_ = guided()
    assert step.step.scales[0] <= min(cell.sampling.guidance for cell in guided())
    assert (taught.evaluations, told.evaluations) == (16, 8)
    assert len({cell.name for cell in guided()}) == len(list(guided()))


def test_cells_are_told_apart_and_count_what_they_ask():
    cells = list(Plan(2, 3, tuple(METHODS)).cells())
    assert len({cell.name for cell in cells}) == len(cells) == 15 + 2 + 2 * (4 * len(METHODS) - 3) + 6 + len(AGAIN) + 2 * 4 + 3
    assert cells[0].evaluations == 100
    assert {cell.evaluations for cell in teachers() if cell.sampling.sampler == "heun"} == {98, 50, 30, 14, 6}
    assert [cell.evaluations for cell in students("shortcut", 0)] == list(COUNTS)


def test_many_pictures_are_of_what_lies_near_together():
    """The teacher by other samplers, fewer blocks and another scale are left as they are."""
    kinds = {(cell.kind, cell.sampling.sampler, cell.sampling.guidance) for cell in Plan(1, 3, tuple(METHODS)).wide()}
    assert {kind for kind, *_ in kinds} == {"teacher", *METHODS}
    assert {each[1:] for each in kinds if each[0] == "teacher"} == {("dpm++2m", 1.5)}
    teachers_in = [(cell.seed, cell.sampling.steps) for cell in Plan(1, 3, ()).wide()]
    assert sorted(teachers_in) == [(0, 4), (0, 8), (0, 50), (1, 50), (2, 50)]


def test_network_is_that_of_a_seed(tmp_path):
    one, two = (Book(tmp_path / name, tmp_path)._network(seed) for name, seed in (("a", 0), ("b", 0)))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    other = Book(tmp_path / "c", tmp_path)._network(1)
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_the_rounded_student_is_a_sound_plan(tmp_path):
    (tmp_path / "model").mkdir()
    found = bound(rounded_plan(tmp_path, tmp_path / "model", 0, 8), tmp_path)
    assert [step.name for step in found.passes] == ["quantize-static"]
    assert found.task.steps == 8
    assert [each.name for each in found.targets] == list(diffusion_int8.NAMES)
