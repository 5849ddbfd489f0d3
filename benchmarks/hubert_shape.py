"""Remakes `docs/results/hubert-shape.md`: `distill-and-prune` at the size of HuBERT-base, with random weights.

    python -m benchmarks.hubert_shape SOUNDS

SOUNDS is an audiofolder with the columns digit and speaker, as `benchmarks.speech` writes it. Random weights have nothing to keep: what is
measured is whether the pass runs at this size, what it takes, and that the budget is met; what the probes say means nothing.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pages import against, machine_lines
from compressor.records import LatencyRecord, Remark, Report, Table
from compressor.report import read_report
from compressor.report.findings import Findings

RUNS = Path("runs/hubert-shape")
OUT = Path("docs/results/hubert-shape.md")
SPARSITY, BATCH, EPOCHS, RECOVERY = 0.75, 4, 3, 1
ROWS = {"train": 256, "validation": 60, "test": 60}
SECONDS = 1.0


def source(folder: Path) -> Path:
    """HuBERT-base with random weights, in Hugging Face layout."""
    import torch
    import transformers

    if not (folder / "model.safetensors").is_file():
        torch.manual_seed(0)
        transformers.HubertModel(transformers.HubertConfig()).save_pretrained(folder)
        settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 16_000}
        text = json.dumps({**settings, "do_normalize": True, "return_attention_mask": False})
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return folder


def plan(model: Path, sounds: Path) -> dict[str, Any]:
    """Heads, neurons and the channels of all convolutions may go."""
    taught = {"layer-to-layer": {"layers": [0, 4, 8, 12]}}
    step = {"teacher": "source", "units": ["heads", "neurons", "channels"], "sparsity": SPARSITY, "objectives": taught}
    stages = {"epochs": EPOCHS, "recovery_epochs": RECOVERY, "batch_size": BATCH, "learning_rate": 2e-4}
    return {
        "name": "hubert-shape",
        "model": {"folder": str(model.resolve())},
        "task": {"speech": {"seconds": SECONDS, "probes": {"digit": {"label": "digit"}}}},
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
        "probes": [{"latency": {"batch": [1], "length": [round(16_000 * SECONDS)], "seconds": 40}}],
    }


def run(sounds: Path, runs: Path) -> tuple[Report, int]:
    """The report, and the most memory in bytes that a process of the run took."""
    path, out, peak = runs / "plan.yaml", runs / "run", runs / "peak.json"
    text = yaml.safe_dump(plan(source(runs / "model"), sounds), sort_keys=False)
    if not peak.is_file() or path.read_text(encoding="utf-8") != text:
        shutil.rmtree(out, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "compressor.cli", "run", str(path), "--out", str(out), "--store", str(runs / "store")]
        subprocess.run(command, check=True)
        peak.write_text(json.dumps(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss), encoding="utf-8")
    return read_report(out), json.loads(peak.read_text(encoding="utf-8"))


def document(report: Report, peak_bytes: int) -> Iterator[str]:
    """The page's lines."""
    stage = report.stages[-1]
    steps = [-(-ROWS["train"] // BATCH) * epochs for epochs in (EPOCHS, RECOVERY)]
    (latency,) = (probe for probe in report.probes if isinstance(probe, LatencyRecord))
    yield from ("# `distill-and-prune` at the size of HuBERT-base: what was measured", "")
    yield from ("`python -m benchmarks.hubert_shape SOUNDS` remakes this page.", "", *machine_lines(report))
    yield "- Weights are random, since no registry of packages ships HuBERT's."
    yield f"- Parameters: {report.stages[0].weights:,} before, {stage.weights:,} after."
    yield f"- {steps[0]} steps with gates on heads, neurons and channels, {steps[1]} without; batches of {BATCH} sounds of {SECONDS:g} s."
    yield f"- The step took {stage.seconds:,.0f} s, {stage.seconds / sum(steps):.2f} s a step of training, scoring included."
    yield f"- Peak memory of the process that trains: {peak_bytes / 2**30:.1f} GiB."
    yield from (f"- {note.text}" for note in stage.notes if isinstance(note, Remark) and "were to go" in note.text)
    yield from ("", "| target | model | median ms | against the source in ONNX Runtime |", "| --- | --- | ---: | ---: |")
    for target in Findings(report).targets:
        for name in ("source", "final"):
            row = next(each for each in latency.rows if each.candidate == f"{name}@{target}")
            ratio = next((each for each in latency.ratios if each.of == row.candidate), None)
            yield f"| {target} | {name} | {row.median_ms:.1f} | {against(ratio)} |"
    left = next(note for note in stage.notes if isinstance(note, Table) and note.title == "What is left")
    yield from ("", f"| {' | '.join(left.columns)} |", f"|{' --- |' * len(left.columns)}")
    yield from (f"| {' | '.join(map(str, row))} |" for row in left.rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("sounds", type=Path)
    parser.add_argument("--runs", type=Path, default=RUNS)
    given = parser.parse_args(arguments)
    OUT.write_text("\n".join(document(*run(given.sounds, given.runs))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
