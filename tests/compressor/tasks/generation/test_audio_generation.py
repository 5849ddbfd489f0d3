"""Drawing sounds as spectra, by the same networks, loop and passes as pictures: rows, a plan from the command line, and an export that sounds."""

from __future__ import annotations

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from furnished import command
from PIL import Image

from compressor.deploy.graphs import task_of
from compressor.errors import SourceError, UnsupportedModel
from compressor.model import Model
from compressor.model.dit import DiT
from compressor.plan.specs import DataSpec
from compressor.report import read_report
from compressor.run.results import load_evaluation
from compressor.tasks.audio import undecoded
from compressor.tasks.data import load_data
from compressor.tasks.generation.audio_generation import AudioGeneration
from compressor.tasks.generation.description import described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.judging import ROWS, judge_in
from compressor.tasks.generation.side_by_side import first_of_classes
from compressor.tasks.inputs.spectra import VERSION, sounded, spectrum
from demos.by_task import ByTask
from demos.side.worker import Exported
from passes.diffusion.students import check_alike
from targets.onnxruntime import OnnxRuntime

SOUND = {"rate": 2000, "window": 128, "hop": 64, "low": -60.0, "high": 0.0}
PLAN = """
name: sounds
stages: quality
model: {folder: pretrained}
task:
  audio-generation: {steps: 4, guidance: 1.5, sound: {rate: 2000, window: 128, hop: 64, low: -60, high: 0}}
data: {files: sounds, format: audiofolder, split: {validation: 12, test: 12}, calibration: 8}
passes:
  - finetune: {steps: 4, batch_size: 8, precision: fp32, learning_rate: 1.0e-3, ema: 0.5}
  - distill-steps: {teacher: finetune, method: shortcut, to: [2], steps: 3, batch_size: 8, precision: fp32}
  - quantize-static: {}
targets:
  - onnxruntime: {}
probes:
  - latency: {rounds: 5, seconds: 1, warm_up_seconds: 0.05, control_limit: 0.9}
"""


@pytest.fixture(scope="module")
def task():
    return AudioGeneration(steps=4, guidance=1.5, sound=SOUND)


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounding")
    task.tiny(folder)
    return folder


@pytest.fixture(scope="module")
def data(task, folder):
    spec = {"files": "sounds", "format": "audiofolder", "split": {"validation": 12, "test": 12}, "calibration": 8}
    return load_data(DataSpec.model_validate(spec), columns=task.columns(), seed=0, folder=folder)


@pytest.fixture(scope="module")
def loaded(task, folder, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("loaded")
    task.load(folder / "pretrained", data, seed=0).save(out)
    return out


@pytest.fixture(scope="module")
def finished(folder):
    (folder / "plan.yaml").write_text(PLAN, encoding="utf-8")
    command(folder, "run", "plan.yaml", "--out", "run")
    return folder / "run"


# ------------------------------------------------------------------ spectra


def test_a_tone_is_where_its_frequency_lies():
    wave = np.sin(2 * np.pi * 500 * np.arange(2048) / 2000)
    found = spectrum(wave, (16, 32), SOUND)
    assert found.shape == (16, 32)
    assert found.dtype == np.float32
    assert set(found[:, 4:28].argmax(0)) == {int(found[:, 16].argmax())}
    lower = spectrum(np.sin(2 * np.pi * 250 * np.arange(2048) / 2000), (16, 32), SOUND)
    assert lower[:, 16].argmax() < found[:, 16].argmax()
    louder = spectrum(2 * wave, (16, 32), SOUND)
    assert (louder - found)[found > -0.9].mean() == pytest.approx(2 * 20 * np.log10(2) / 60, rel=0.05)
    assert (spectrum(np.zeros(100), (16, 32), SOUND) == -1).all()


def test_a_sound_of_a_spectrum_has_about_that_spectrum():
    at = np.arange(2048) / 2000
    wave = np.sin(2 * np.pi * (200 + 200 * at) * at) * np.minimum(1, 4 * at)
    given = spectrum(wave, (16, 32), SOUND)
    made = sounded(given, SOUND)
    assert made.shape == (2048,)
    again = spectrum(made, (16, 32), SOUND)
    assert np.corrcoef(again.ravel(), given.ravel())[0, 1] > 0.93
    assert np.array_equal(made, sounded(given, SOUND))
    assert np.abs(sounded(-np.ones((16, 32)), SOUND)).max() < 1e-6


# ------------------------------------------------------------------ the task


def test_rows_are_spectra_of_the_sounds(task, data, loaded):
    how = described(loaded)
    assert (how.shape, how.row_shape, how.sound.model_dump()) == ((1, 16, 16), (1, 16, 16), SOUND)
    rows = data.split("train")
    (batch, *_) = task.batches(rows, loaded, batch_size=4)
    wave, rate = soundfile.read(undecoded(rows, "audio")[0]["audio"]["path"], dtype="float32")
    assert rate == 2000
    np.testing.assert_allclose(batch["clean"][0, 0].numpy(), spectrum(wave, (16, 16), SOUND), atol=1e-6)
    assert judge_in(loaded).space.accuracy.value > 0.8


def test_spectra_that_are_made_otherwise_have_another_judge(task, data, loaded, monkeypatch):
    before = Model.load(loaded).files[ROWS]
    assert task.load(loaded, data, seed=0).files[ROWS] == before
    monkeypatch.setattr("compressor.tasks.inputs.spectra.VERSION", VERSION + 1)
    assert task.load(loaded, data, seed=0).files[ROWS] != before


def test_a_network_need_not_be_square(data, tmp_path):
    task = AudioGeneration(steps=2, sound=SOUND)
    Model.wrap(DiT((8, 24), 1, 3, patch=4, width=8, heads=2, blocks=1)).save(tmp_path / "wide")
    task.load(tmp_path / "wide", data, seed=0).save(tmp_path / "loaded")
    (batch, *_) = task.batches(data.split("train"), tmp_path / "loaded", batch_size=4)
    assert batch["clean"].shape == (4, 1, 8, 24)
    assert task.loss(task.forward(Model.load(tmp_path / "loaded").module, batch), batch).isfinite()


def test_what_does_not_fit_is_refused(task, data, loaded, tmp_path):
    with pytest.raises(SourceError, match="trained on spectra of sounds by other settings"):
        AudioGeneration(sound={**SOUND, "hop": 32}).load(loaded, data, seed=0)
    with pytest.raises(SourceError, match="trained on something else"):
        ImageGeneration().load(loaded, data, seed=0)
    Model.wrap(DiT(16, 3, 3, patch=8, width=8, heads=1, blocks=1)).save(tmp_path / "coloured")
    with pytest.raises(UnsupportedModel, match="draws 3 channels, and spectra have 1"):
        task.load(tmp_path / "coloured", data, seed=0)


def test_a_teacher_of_other_spectra_is_no_teacher(loaded):
    mine = described(loaded)
    theirs = mine.model_copy(update={"sound": mine.sound.model_copy(update={"low": -70.0})})
    with pytest.raises(UnsupportedModel, match="teacher loud draws spectra by other settings than the student"):
        check_alike(mine, theirs, "loud")
    check_alike(mine, mine, "loud")


def test_mels_that_hold_nothing_are_refused(folder, data):
    with pytest.raises(SourceError, match="of 16 mels hold none of the frequencies of 16 samples"):
        AudioGeneration(sound={**SOUND, "window": 16, "hop": 16}).load(folder / "pretrained", data, seed=0)


def test_frames_need_not_overlap():
    how = {**SOUND, "hop": 128}
    assert sounded(spectrum(np.sin(np.arange(2048)), (16, 16), how), how).shape == (2048,)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hop": 2048}, "samples between frames of 1024 would be left out"),
        ({"low": 0, "high": -10}, "expected less than high"),
        ({"low": float("nan")}, "finite number"),
        ({"low": -120}, "greater than or equal to -100"),
    ],
)
def test_faults_of_a_plan(given, said):
    with pytest.raises(ValueError, match=said):
        AudioGeneration(sound=given)


# ------------------------------------------------------------------ a whole plan


def test_plan_trains_distils_quantises_and_times(finished):
    report = read_report(finished)
    assert report.task == "audio-generation"
    source, final = (
        next(each for each in report.candidates if each.id == f"{stage}@onnxruntime") for stage in ("source", "final")
    )
    assert final.scores.main.name == "kernel-distance"
    assert final.scores.main.value != source.scores.main.value
    how = described(finished / "artifacts" / "final@onnxruntime")
    assert (how.sampling.steps, how.evaluations, how.spans) == (2, 2, True)
    (record,) = report.probes
    assert {row.unit for row in record.rows} == {"samples"}


def test_people_see_low_frequencies_below_high_ones(task, finished):
    """In the report, on a demo's page and in letters."""
    kept = load_evaluation(finished / "evaluations" / "final@onnxruntime")
    spectra = kept.outputs["spectra"]
    first = spectra[first_of_classes(kept.truth["labels"])][0]
    upright = np.where(np.arange(16)[:, None] < 2, 1.0, -1.0)[None, None] * np.ones((1, 1, 16, 16))
    assert task.tell({"spectra": upright}, ())[0].text.splitlines()[-3:] == [" " * 16, "#" * 16, "#" * 16]
    report = read_report(finished)
    strips = next(note.strips for note in report.notes if "final@onnxruntime" in getattr(note, "strips", ()))
    cell = np.asarray(Image.open(io.BytesIO(base64.b64decode(strips["final@onnxruntime"]))))[:, :16]
    np.testing.assert_array_equal(cell[::-1], ((first[0].clip(-1, 1) + 1) * 127.5).round())
    built = finished / "artifacts" / "final@onnxruntime"
    opened = ByTask(task_of(built), OnnxRuntime().open(built), built, ())
    page = np.asarray(Image.open(io.BytesIO(base64.b64decode(opened.read({"spectra": first[None]})["picture"]))))
    np.testing.assert_array_equal(page, cell)


def test_export_proves_its_loop_and_writes_sounds(finished, tmp_path):
    out = tmp_path / "out"
    command(finished.parent, "export", "run", str(out), "--target", "onnxruntime")
    assert "rows of test, each alone, what the run did" in (out / "README.md").read_text()
    done = subprocess.run(
        [sys.executable, "-I", out / "example.py", "sounds.wav"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 sounds, 2 evaluations each" in done.stdout
    wave, rate = soundfile.read(tmp_path / "sounds.wav", dtype="float32")
    assert (rate, len(wave)) == (2000, 3 * 16 * 64)
    spectra = np.load(tmp_path / "sounds.npy")
    assert spectra.shape == (3, 1, 16, 16)
    seen = Exported(out).read(spectra[0])["picture"]
    light = np.asarray(Image.open(io.BytesIO(base64.b64decode(seen))))
    np.testing.assert_array_equal(
        light[::-1], ((spectra[0, 0].clip(-1, 1) + 1) * 127.5).round(), "the lowest frequency is at the bottom"
    )
    made = np.concatenate([sounded(each[0], SOUND) for each in spectra])
    np.testing.assert_allclose(wave, made / max(1, np.abs(made).max()), atol=1e-3)
