"""Remakes `docs/results/hubert-shape.md`: `distill-and-prune` at the size of HuBERT-base, with random weights.

    python -m benchmarks.studies.hubert_shape SOUNDS

SOUNDS is an audiofolder with the columns digit and speaker, as `benchmarks.studies.speech` writes it. Random weights have nothing to keep: what is
measured is whether the pass runs at this size, what it takes, and that the budget is met; what the probes say means nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.studies import step_costs
from benchmarks.studies.pages import against, latency_of, machine_lines, milliseconds, ratio_of
from compressor.contracts.notes import Remark, Table
from compressor.contracts.records import Report
from compressor.deploy.machine import machine
from compressor.report import read_report
from compressor.report.findings import Findings
from compressor.tasks.audio_features import AudioFeatures, Probe

RUNS = Path("runs/hubert-shape")
OUT = Path("docs/results/hubert-shape.md")
BATCH, EPOCHS, RECOVERY = 4, 3, 1
ROWS = {"train": 256, "validation": 60, "test": 60}
SECONDS = 1.0
LENGTH = round(16_000 * SECONDS)
FRAMES = 49
"""That the convolutions make of so many samples."""
BASELINE = "source@onnxruntime"
BUDGETS: dict[str, dict[str, Any]] = {"sparsity": {"sparsity": 0.75}, "macs": {"macs": 0.25, "tokens": FRAMES}}
"""By the name of a run's folder."""


def source(folder: Path) -> Path:
    """HuBERT-base with random weights, in Hugging Face layout."""
    import transformers

    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(0)
        transformers.HubertModel(transformers.HubertConfig()).save_pretrained(folder)
        settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16_000}
        text = json.dumps({**settings, "do_normalize": True, "return_attention_mask": False})
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return folder


def plan(model: Path, sounds: Path, budget: str) -> dict[str, Any]:
    """Heads, neurons and the channels of all convolutions may go."""
    taught = {"layer-to-layer": {"layers": [0, 4, 8, 12]}}
    step = {"teacher": "source", "units": ["heads", "neurons", "channels"], **BUDGETS[budget], "objectives": taught}
    stages = {"epochs": EPOCHS, "recovery_epochs": RECOVERY, "batch_size": BATCH, "learning_rate": 2e-4}
    return {
        "name": "hubert-shape",
        "model": {"folder": str(model.resolve())},
        "task": {"audio-features": {"seconds": SECONDS, "linear_probes": {"digit": {"label": "digit"}}}},
        "data": {
            "files": {split: str((sounds / split).resolve()) for split in ("train", "test")},
            "format": "audiofolder",
            "split": {"validation": 100},
            "limit": ROWS,
            "calibration": 16,
        },
        "reference": "source",
        "stages": "quality",
        "passes": [{"distill-and-prune": {**step, **stages}}],
        "targets": [{"onnxruntime": {"threads": 2}}, {"openvino": {"threads": 2}}],
        "probes": [{"latency": {"batch": [1], "length": [LENGTH], "seconds": 40}}],
    }


def run(sounds: Path, runs: Path, budget: str) -> tuple[Report, int]:
    """The report, and the most memory in bytes that a process of the run took."""
    place = runs / budget
    path, out, peak = place / "plan.yaml", place / "run", place / "peak.json"
    text = yaml.safe_dump(plan(source(runs / "model"), sounds, budget), sort_keys=False)
    if not peak.is_file() or path.read_text(encoding="utf-8") != text:
        for folder in (out, place / "store"):  # what was stored is not computed again, and takes no memory
            shutil.rmtree(folder, ignore_errors=True)
        peak.unlink(missing_ok=True)  # a run that is killed leaves none
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "compressor.cli", "run", str(path), "--out", str(out), "--store", str(place / "store")]
        subprocess.run(command, check=True)
        peak.write_text(json.dumps(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss), encoding="utf-8")
    return read_report(out), json.loads(peak.read_text(encoding="utf-8"))


def step_seconds(sounds: Path, runs: Path) -> dict[str, float]:
    """Median time of a step in both stages."""
    torch.set_num_threads(machine().cores)
    task = AudioFeatures(seconds=SECONDS, linear_probes={"digit": Probe(label="digit")})
    data = step_costs.read(task, sounds, BATCH)
    given = plan(runs / "model", sounds, "sparsity")["passes"][0]["distill-and-prune"]
    found, _ = step_costs.steps(task.load(runs / "model", data, seed=0), task, data, {**given, "epochs": 1, "recovery_epochs": 1})
    return found


def document(found: Mapping[str, tuple[Report, int]], steps: Mapping[str, float]) -> Iterator[str]:
    """The page's lines."""
    report, _ = found["sparsity"]
    first, second = steps["first"], steps["second"]
    taken = [-(-ROWS["train"] // BATCH) * epochs for epochs in (EPOCHS, RECOVERY)]
    yield from ("# `distill-and-prune` at the size of HuBERT-base: what was measured", "")
    yield from ("`python -m benchmarks.studies.hubert_shape SOUNDS` remakes this page.", "", *machine_lines(report))
    yield f"- {report.stages[0].weights:,} parameters; weights are random, since no registry of packages ships HuBERT's."
    yield f"- {taken[0]} steps with gates on heads, neurons and channels, {taken[1]} without; batches of {BATCH} sounds of {SECONDS:g} s."
    yield "- Ratios are medians over rounds, in each of which all files run; so they differ a little from those of the medians."
    yield f"- A step takes {first:.2f} s in the first stage and {second:.2f} s in the second, medians of {step_costs.STEPS}."
    for budget, (each, peak_bytes) in found.items():
        yield from ("", f"## `{', '.join(f'{name}: {value:g}' for name, value in BUDGETS[budget].items())}`", "")
        yield from section(each, peak_bytes)


def section(report: Report, peak_bytes: int) -> Iterator[str]:
    """What one budget came to."""
    stage, latency = report.stages[-1], latency_of(report)
    yield from (f"- {note.text}" for note in stage.notes if isinstance(note, Remark) and "were to go" in note.text)
    yield f"- The pass took {stage.seconds:,.0f} s, with importance, cutting and scoring."
    yield f"- The most memory that a process of the run took: {peak_bytes / 2**30:.1f} GiB."
    yield ""
    yield "| target | model | median ms | against its source there | against the source in ONNX Runtime |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for target in Findings(report).targets:
        for name in ("source", "final"):
            file, own = f"{name}@{target}", f"source@{target}"
            ratios = ["-" if file == to else against(ratio_of(latency, file, to=to, length=LENGTH)) for to in (own, BASELINE)]
            yield f"| {target} | {name} | {milliseconds(latency, file, length=LENGTH):.1f} | {' | '.join(ratios)} |"
    left = next(note for note in stage.notes if isinstance(note, Table) and note.title == "What is left")
    yield from ("", f"| {' | '.join(left.columns)} |", f"|{' --- |' * len(left.columns)}")
    yield from (f"| {' | '.join(map(str, row))} |" for row in left.rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("sounds", type=Path)
    parser.add_argument("--runs", type=Path, default=RUNS)
    given = parser.parse_args(arguments)
    found = {budget: run(given.sounds, given.runs, budget) for budget in BUDGETS}
    lines = document(found, step_seconds(given.sounds, given.runs))
    OUT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
