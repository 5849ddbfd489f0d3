"""The benchmarks of joint training: their plans are sound, their figures are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from benchmarks import hubert_shape, likeness, pages, speech, speech_lab, text
from compressor.plan import load_plan


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    for name in ("model", "train", "test"):
        (tmp_path / name).mkdir()
    return tmp_path


def bound(plan, folder):
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    return load_plan(folder / "plan.yaml")


@pytest.mark.parametrize("method", speech.TITLES)
def test_plans_on_speech_are_sound(method, folder):
    cell = speech_lab.Cell(method, 1, 1e-3, widths={"heads": [1, 0, 2, 3], "neurons": [16, 0, 32, 16]})
    found = bound(speech_lab.plan(cell, folder / "model", folder), folder)
    last = found.passes[-1].step
    epochs = last.epochs + (last.recovery_epochs if method == "joint" else 0)
    assert epochs == speech_lab.FIRST + speech_lab.SECOND
    assert last.cache_teacher


def test_equal_widths_come_to_the_budget():
    heads, neurons = (speech_lab.EQUAL[kind][0] for kind in ("heads", "neurons"))
    head, neuron, rest = 4 * 64 * 384 + 2 * 64, 2 * 384 + 1, 2 * 384 + 2 * 2 * 384
    total = 4 * (heads * head + neurons * neuron + rest)
    assert 0.99 * speech_lab.BUDGET < total <= speech_lab.BUDGET


@pytest.mark.parametrize("data", text.NAMES)
@pytest.mark.parametrize("method", text.METHODS)
def test_plans_on_text_are_sound(data, method, folder):
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").touch()
    found = bound(text.plan(text.Cell(data, method, 0.5, 0, 1e-4), folder), folder)
    assert found.passes[-1].step.teachers() == ("finetune",)


def test_plan_at_the_size_of_hubert_is_sound(folder):
    assert "channels" in bound(hubert_shape.plan(folder / "model", folder), folder).passes[0].step.units


def test_recordings_become_an_audiofolder(tmp_path):
    (tmp_path / "recordings").mkdir()
    for name in ("7_jackson_3.wav", "0_theo_15.wav"):
        (tmp_path / "recordings" / name).write_bytes(b"sound")
    data = speech_lab.prepared(tmp_path / "recordings", tmp_path / "data")
    assert (
        data / "test" / "metadata.jsonl"
    ).read_text() == '{"file_name": "7_jackson_3.wav", "digit": "7", "speaker": "jackson"}\n'
    assert (data / "train" / "0_theo_15.wav").read_bytes() == b"sound"


def test_feature_error_is_none_for_what_a_linear_map_makes_and_all_for_noise():
    teacher = [draw(0, 80, 10, 6), draw(1, 80, 10, 6)]
    turned = [layer @ draw(2, 6, 6) + 3 for layer in teacher]
    assert max(likeness.feature_errors(turned, teacher, fitted_on=40)) < 1e-3
    assert min(likeness.feature_errors([draw(3, 80, 10, 6)] * 2, teacher, fitted_on=40)) > 0.95
    half = likeness.feature_errors([teacher[0] + draw(4, 80, 10, 6)], teacher[:1], fitted_on=40)
    assert half[0] == pytest.approx(0.5, abs=0.08)


def test_student_with_one_layer_is_held_against_all_of_the_teacher():
    teacher = [draw(0, 80, 10, 6), draw(1, 80, 10, 6)]
    first, second = likeness.feature_errors(teacher[1:], teacher, fitted_on=40)
    assert second < 1e-3 < 0.9 < first


def test_differences_are_paired_and_bold_where_they_leave_out_zero():
    assert pages.differences([90.0, 80.0, 70.0], [89.0, 79.1, 68.9]) == "**+1.00 ± 0.25**"
    assert pages.differences([90.0, 80.0, 70.0], [91.0, 78.0, 70.0]) == "+0.33 ± 3.79"
    assert pages.mean_and_interval([1.0, 2.0, 3.0]) == "2.00 ± 2.48"


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_plans_to_a_latency_are_sound(target, folder, monkeypatch):
    monkeypatch.setattr(speech_lab.ablation, "run", lambda plan, _: bound(plan, folder))
    found = speech_lab.Lab(folder / "model", folder, folder).budgeted(target, 0.4, 1e-3)
    assert found.passes[0].step.latency.ratio == 0.4
    assert found.passes[0].step.targets() == (target,)
