"""The benchmarks of joint training: their plans are sound, their figures are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import yaml
from datasets import Audio, Dataset

from benchmarks.studies import hubert_shape, likeness, pages, speech_chain, speech_lab, text
from compressor.contracts.records import LatencyRecord
from compressor.plan.bound import load_plan
from compressor.tasks.audio_features import AudioFeatures


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


@pytest.mark.parametrize("method", speech_lab.METHODS)
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
    assert found.passes[-1].step.needs().teachers == ("finetune",)


@pytest.mark.parametrize("budget", hubert_shape.BUDGETS)
def test_plans_at_the_size_of_hubert_are_sound(budget, folder):
    step = bound(hubert_shape.plan(folder / "model", folder, budget), folder).passes[0].step
    assert "channels" in step.units
    assert getattr(step, budget) is not None


def test_recordings_become_an_audiofolder(tmp_path):
    (tmp_path / "recordings").mkdir()
    for name in ("7_jackson_3.wav", "0_theo_15.wav"):
        (tmp_path / "recordings" / name).write_bytes(b"sound")
    data = speech_lab.prepared(tmp_path / "recordings", tmp_path / "data")
    assert (
        data / "test" / "metadata.jsonl"
    ).read_text() == '{"file_name": "7_jackson_3.wav", "digit": "7", "speaker": "jackson"}\n'
    assert (data / "train" / "0_theo_15.wav").read_bytes() == b"sound"


ALL = np.ones((80, 10), dtype=bool)


def test_feature_error_is_none_for_what_a_linear_map_makes_and_all_for_noise():
    teacher = [draw(0, 80, 10, 6), draw(1, 80, 10, 6)]
    turned = [layer @ draw(2, 6, 6) + 3 for layer in teacher]
    assert max(likeness.feature_errors(turned, teacher, ALL, fitted_on=40)) < 1e-3
    assert min(likeness.feature_errors([draw(3, 80, 10, 6)] * 2, teacher, ALL, fitted_on=40)) > 0.95
    half = likeness.feature_errors([teacher[0] + draw(4, 80, 10, 6)], teacher[:1], ALL, fitted_on=40)
    assert half[0] == pytest.approx(0.5, abs=0.08)


def test_feature_error_leaves_padding_out():
    teacher, valid = draw(0, 80, 10, 6), np.arange(10) < np.full((80, 1), 4)
    student = np.where(valid[..., None], teacher, draw(1, 80, 10, 6))
    assert likeness.feature_errors([student], [teacher], valid, fitted_on=40)[0] < 1e-3
    assert likeness.feature_errors([student], [teacher], ALL, fitted_on=40)[0] > 0.3


def test_frames_that_sound_go_by_the_length_of_the_file(tmp_path):
    for name, samples in (("a", 8000), ("b", 2000), ("c", 16000)):
        soundfile.write(tmp_path / f"{name}.wav", draw(0, samples), 8000)
    rows = Dataset.from_dict({"audio": [str(tmp_path / f"{name}.wav") for name in "abc"]}).cast_column("audio", Audio())
    assert likeness.sounding(AudioFeatures(seconds=1.0), rows, 50).sum(axis=1).tolist() == [50, 13, 50]


def test_student_with_one_layer_is_held_against_all_of_the_teacher():
    teacher = [draw(0, 80, 10, 6), draw(1, 80, 10, 6)]
    first, second = likeness.feature_errors(teacher[1:], teacher, ALL, fitted_on=40)
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
    assert found.passes[0].step.needs().targets == (target,)


def timed(ratios, *, passed=True):
    """A latency record of two sources and a student's four files, as `Lab.timed` lays them out."""
    whole = {"interval": {"low": 0.9, "high": 1.1, "method": "made up"}}
    names = ["source@onnxruntime", "final@onnxruntime", "source@openvino", "final@openvino"]
    names += ["source@onnxruntime-int8", "final@onnxruntime-int8", "source@openvino-int8", "final@openvino-int8"]
    anchors = [name for name in names if name.startswith("source")]
    row = {"n": 3, "p90_ms": None, "p99_ms": None, "throughput_per_s": 1, "load_s": 0, "first_call_ms": 1, "warm_up_calls": 1}
    return LatencyRecord.model_validate(
        {
            "rows": [
                {
                    **row,
                    **whole,
                    "candidate": name,
                    "workload": {"batch": 1, "length": length},
                    "median_ms": 12.0,
                    "rounds_ms": [12.0],
                    "samples_ms": [[12.0]],
                }
                for name in names
                for length in speech_lab.LENGTHS.values()
            ],
            "ratios": [
                {
                    "of": of,
                    "to": to,
                    "workload": {"batch": 1, "length": length},
                    "value": value,
                    "interval": {"low": 0.99 * value, "high": 1.01 * value, "method": "made up"},
                    "outcome": "faster" if passed else "undecided",
                }
                for length in speech_lab.LENGTHS.values()
                for of in names
                for to in reversed(anchors)
                for value in [ratios.get(of, 1.0) if to == "source@onnxruntime" else 99.0]
                if of != to
            ],
            "controls": [
                {**whole, "workload": {"batch": 1, "length": 16000}, "ratio": 1.0, "limit": 0.02, "passed": passed, "attempts": 1}
            ],
            "probe": "latency",
            "load_before": 0,
            "load_after": 0,
            "protocol": {},
        }
    )


@pytest.mark.parametrize(
    ("times", "speaker", "passed", "meets"),
    [(6.2, 99.0, True, True), (6.05, 99.0, True, False), (6.2, 98.9, True, False), (6.2, 99.0, False, False)],
)
def test_chain_is_held_against_the_source_in_onnx_runtime(times, speaker, passed, meets):
    teacher = {"digit": 96.0, "speaker": 100.0}
    latency = timed({"final@openvino-int8": times}, passed=passed)
    point = speech_chain.Point("joint", 0, "openvino", "int8", latency, {"digit": 97.0, "speaker": speaker})
    assert point.ratio().value == times
    assert point.meets(teacher) is meets
    assert "undecided" in pages.against(point.ratio()) or passed


def test_chain_is_told_and_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(speech_chain, "CHART", tmp_path / "chart.svg")
    latency = timed({"final@openvino-int8": 7.0, "final@onnxruntime": 1.0})
    scores = {"digit": 96.0, "speaker": 98.0, "digit-10": 95.0, "speaker-10": 80.0}
    found = [
        speech_chain.Point(method, 0, target, precision, latency, scores)
        for method in speech_chain.TITLES
        for target in speech_lab.TARGETS
        for precision in ("fp32", "int8")
    ]
    assert "1 of 1 seeds of joint training meet both: the slowest has 7.00x [6.93, 7.07]" in speech_chain.verdict(found)
    lines = list(speech_chain.table(found))
    assert sum("yes" in line for line in lines) == len(speech_chain.TITLES)
    assert any("joint | 0 | openvino | int8 | 12.00 | 7.00x" in line for line in lines)
    assert len(list(speech_chain.lengths_table(found))) == 3 + len(found)
    speech_chain.draw(found)
    assert "digit-10 probe" in (tmp_path / "chart.svg").read_text()


def test_plan_of_files_in_both_precisions_is_sound(folder, monkeypatch):
    monkeypatch.setattr(speech_lab.ablation, "run", lambda plan, _: bound(plan, folder))
    lab = speech_lab.Lab(folder / "model", folder, folder)
    for found in (lab.timed(None), lab.timed(speech_lab.Cell("one-layer", 0, 1e-3))):
        assert [target.name for target in found.targets] == ["onnxruntime", "openvino", "onnxruntime-int8", "openvino-int8"]
        assert found.passes[-1].only == ("onnxruntime-int8", "openvino-int8")
