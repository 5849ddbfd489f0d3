"""A plan on sounds from the command line to an export that labels a file: wav2vec-like models on samples, Whisper on spectra."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from furnished import command

from compressor.contracts import registry
from compressor.report import read_report
from compressor.testing.tiny import furnish, scratch

PLAN = """
model: {folder: pretrained}
task: {TASK: {seconds: 0.5}}
data: {files: sounds, format: audiofolder, split: {validation: 12, test: 12}, calibration: 8}
reference: source
stages: quality
passes:
  - distill-and-prune: {teacher: source, sparsity: 0.6, units: UNITS, epochs: 2, round_to: 4, objectives: {layer-to-layer: 1.0}, precision: fp32}
targets: [onnxruntime, openvino]
probes: [memory: {calls: 2}]
"""


def whisper(folder):
    import transformers

    shutil.rmtree(folder)
    encoder = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    config = transformers.WhisperConfig(
        **encoder, num_mel_bins=16, max_source_positions=60, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16
    )
    transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=16, hop_length=160).save_pretrained(folder)


def shallow(folder):
    """One block, since an export takes its time by blocks."""
    import transformers

    transformers.AutoModel.from_pretrained(folder, num_hidden_layers=1).save_pretrained(folder)


def masked(folder):
    shallow(folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "return_attention_mask": True, "do_normalize": True}))


MODELS = {
    "hubert": ("audio-classification", "[heads, neurons, channels]", shallow),
    "hubert with masks": ("audio-classification", "[heads, neurons]", masked),
    "whisper": ("audio-classification", "[heads, neurons, channels, attention]", whisper),
    "hubert with masks, features": ("audio-features", "[heads, neurons]", masked),
    "whisper, features": ("audio-features", "[heads, neurons]", whisper),
}
MEASURED = ("hubert", "whisper")
"""Those whose run measures: each candidate is a process of its own; the plans on features are measured in their rehearsal."""
REHEARSED = {"hubert with masks, features": "openvino", "whisper, features": "onnxruntime"}
"""The target of each rehearsal."""


@pytest.fixture(scope="module", params=MODELS)
def ran(request):
    folder = scratch()
    task, units, change = MODELS[request.param]
    furnish(folder, registry.load("task", task)(seconds=0.5))
    change(folder / "pretrained")
    (folder / "plan.yaml").write_text(PLAN.replace("UNITS", units).replace("TASK", task))
    probes = () if request.param in MEASURED else ("--set", "probes=[]")
    command(folder, "run", "plan.yaml", "--store", "store", "--out", "run", *probes)
    return folder, task


def test_model_is_smaller_and_its_files_compute_what_torch_does(ran):
    report = read_report(ran[0] / "run")
    stages = {stage.name: stage for stage in report.stages}
    assert stages["distill-and-prune"].weights < 0.75 * stages["source"].weights
    for candidate in report.candidates:
        if candidate.stage == "final":
            assert candidate.parity.max_abs < 1e-3
            assert candidate.scores.main.n == 12


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_exported_example_says_of_a_file_without_this_project_what_the_run_did(ran, target):
    folder, task = ran
    out = folder / f"exported-{target}"
    command(folder, "export", "run", str(out), "--target", target)
    for path in sorted((folder / "sounds").rglob("*.wav"))[::17]:
        example = [sys.executable, "-I", str(out / "example.py"), str(path)]
        done = subprocess.run(example, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        expected = by_the_run(folder, task, target, path)
        if task == "audio-features":
            np.testing.assert_allclose(json.loads(done.stdout), expected, rtol=1e-3, atol=1e-4)
        else:
            labels = json.loads((out / "labels.json").read_text())
            assert done.stdout.strip() == labels[int(np.argmax(expected))]
    assert (out / "labels.json").exists() == (task != "audio-features")


def by_the_run(folder, task, target, path):
    """What the built file makes of one sound, by way of the task."""
    import datasets

    built = folder / "run" / "artifacts" / f"final@{target}"
    rows = datasets.Dataset.from_dict(
        {"audio": [{"bytes": None, "path": str(path)}]},
        features=datasets.Features({"audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}),
    ).cast_column("audio", datasets.Audio(decode=False))
    (feed,) = registry.load("task", task)(seconds=0.5).feeds(rows, built)
    return next(iter(registry.load("target", target)().open(built).run(feed)[0].values()))[0]


@pytest.mark.parametrize("ran", REHEARSED, indirect=True)
def test_plan_on_features_is_rehearsed(ran, request):
    command(ran[0], "rehearse", "plan.yaml", "--set", f"targets=[{REHEARSED[request.node.callspec.params['ran']]}]")
