from __future__ import annotations

import pytest
import torch
from tensor_rows import bert

from compressor.contracts.records import Spent, Stage
from compressor.plan.bound import load_plan
from compressor.run.forecast import REST, ModelSize, Scale, Trial, forecast, line

PLAN = """
model: {folder: .}
task: {text-classification: {}}
data: {files: rows.jsonl}
passes:
  - finetune: {epochs: 1}
  - prune-structure: {keep: {layers: 0.5, neurons: 0.25}}
  - distill: {teacher: finetune, epochs: 6}
targets:
  - onnxruntime
probes:
  - latency: {seconds: 60}
"""


@pytest.mark.parametrize(
    ("points", "at", "expected"),
    [
        ([(2, 5), (4, 9)], 10, 21),  # one fixed, two for each
        ([(4, 9), (2, 5)], 10, 21),
        ([(2, 5), (4, 4)], 10, 4.5),  # does not rise: a constant with noise
        ([(2, 1), (4, 3)], 8, 6),  # would start below zero: through zero
        ([(2, 5)], 10, 25),
        ([(2, 5), (2, 7)], 2, 6),
        ([(0, 5)], 10, 5),
    ],
)
def test_line_reads_off_fixed_and_growing_parts(points, at, expected):
    assert line(points, at) == pytest.approx(expected)


def test_model_size_grows_by_its_blocks_and_keeps_the_rest():
    size = ModelSize.of(
        {"embeddings": 400, "layer 0 attention": 40, "layer 0 feed-forward": 80, "layer 1 attention": 120, "head": 8}, 162
    )
    assert (size.blocks, size.weights, size.bytes) == (2, 60, 648)
    assert size.times(3) == ModelSize(6, 180, 720, 408 + 720)


def test_model_size_counts_the_parameters_of_a_model_in_bf16_whole():
    model = bert()
    whole = ModelSize.of(model.layer_bytes(), model.weights)
    model.module.to(torch.bfloat16)
    half = ModelSize.of(model.layer_bytes(), model.weights)
    assert (half.blocks, half.weights) == (whole.blocks, whole.weights)
    assert half.weights == sum(each.numel() for each in model.module.bert.encoder.layer.parameters())
    assert (2 * half.bytes, 2 * half.times(3).bytes) == (whole.bytes, whole.times(3).bytes)


def test_model_without_known_blocks_is_as_large_as_all_its_parameters():
    size = ModelSize.of({"stem": 40, "stages": 400}, 110)
    assert (size.blocks, size.weights, size.times(1)) == (1, 110, size)


# ------------------------------------------------------------------ runs of which the law is known

WIDTH = 100.0
"""Parameters in a block before pruning; the pruned model has half of the blocks, and a quarter of each."""


def sizes(blocks):
    whole = {f"layer {n} attention": int(4 * WIDTH) for n in range(blocks)} | {"embeddings": 4000}
    pruned = {f"layer {n} attention": int(WIDTH) for n in range(blocks // 2)} | {"embeddings": 4000}
    return {"source": whole, "finetune": whole, "prune-structure": pruned, "distill": pruned}


def law(blocks, rows, epochs, probe_seconds):
    """Seconds by piece of work: one, and what grows as such work does."""
    full, small, scored = blocks * WIDTH, blocks * WIDTH / 8, rows // 2
    taught = (epochs * (3 * rows + scored) + min(500, scored)) * small + (rows + min(500, scored)) * full
    return {
        ("data", "rows", None): 2.0,
        ("load", "source", None): 1 + 1e-3 * full,
        ("step", "finetune", None): 1 + 1e-5 * (3 * rows + scored) * full,
        ("evaluate", "finetune", None): 1 + 1e-5 * scored * full,
        ("step", "distill", None): 1 + 1e-5 * taught,
        ("lower", "final", "onnxruntime"): 1 + 1e-3 * small,
        ("score", "final", "onnxruntime"): 1 + 1e-5 * scored * small,
        ("parity", "final", "onnxruntime"): 1 + 1e-5 * min(64, scored) * small,
        ("gate", "prune-structure", None): 15.0,
        ("probe", "latency", None): probe_seconds,
    }


def scale(blocks, rows):
    by_split = {"train": rows, "validation": rows // 2, "test": rows // 2, "calibration": min(rows, 256)}
    return Scale(by_split, {"source": ModelSize.of(sizes(blocks)["source"], sum(sizes(blocks)["source"].values()) // 4)})


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    (folder / "rows.jsonl").touch()
    (folder / "plan.yaml").write_text(PLAN)
    return folder / "plan.yaml"


def trial(plan, blocks, rows, *, complete):
    seconds = law(blocks, rows, epochs=1, probe_seconds=11.0)
    if not complete:
        seconds = {key: took for key, took in seconds.items() if key[0] not in ("gate", "probe")}
    return Trial(
        what=f"{blocks} blocks",
        bound=load_plan(plan, settings=["passes.distill.epochs=1"]),
        scale=scale(blocks, rows),
        stages=tuple(
            Stage(name=name, step=name, layer_bytes=parts, weights=sum(parts.values()) // 4)
            for name, parts in sizes(blocks).items()
        ),
        spent=tuple(Spent(work=work, of=of, target=target, seconds=took) for (work, of, target), took in seconds.items()),
        seconds=sum(seconds.values()) + 8,
        memory_bytes=10_000 + 16 * blocks,
        disk_bytes=5_000 + 4 * blocks,
    )


@pytest.fixture(scope="module")
def forecasted(plan):
    trials = (trial(plan, 2, 32, complete=True), trial(plan, 4, 96, complete=False))
    return forecast(load_plan(plan), scale(12, 5000), trials, rehearsal_seconds=60)


def test_forecast_follows_the_law_of_the_runs_it_was_made_from(forecasted):
    expected = law(12, 5000, epochs=6, probe_seconds=60.0)
    rows = {row.step: row.seconds for row in forecasted.rows}
    assert rows["rows"] == 2.0
    assert rows["prune-structure"] == 15.0  # a gate takes what it takes
    assert rows["finetune"] == pytest.approx(sum(took for key, took in expected.items() if key[1] == "finetune"), abs=0.1)
    assert rows["distill"] == pytest.approx(expected["step", "distill", None], abs=0.1)
    files = [took for key, took in expected.items() if key[2] == "onnxruntime"]
    assert rows["files for onnxruntime"] == pytest.approx(sum(files), abs=0.1)
    assert rows["measure latency"] == 60.0  # the plan's own seconds: loading left the rounds more than half of them
    assert rows[REST] == 8.0
    assert forecasted.seconds == pytest.approx(sum(expected.values()) + 8, abs=0.5)


def test_forecast_of_memory_and_disk_grows_with_the_blocks(forecasted):
    assert forecasted.memory_bytes == 10_000 + 16 * 12
    assert forecasted.disk_bytes == 5_000 + 4 * 12


def test_forecast_from_one_scale_takes_work_for_proportional(plan):
    one = trial(plan, 2, 32, complete=True)
    found = forecast(load_plan(plan), scale(2, 320), (one, one), rehearsal_seconds=60)
    rows = {row.step: row for row in found.rows}
    assert rows["finetune"].seconds == pytest.approx(10 * rows["finetune"].rehearsed_seconds, rel=0.05)


# ------------------------------------------------------------------ ranges by level of noise

DRAWING = """
model: {folder: .}
task: {image-generation: {steps: 8, label: colour}}
data: {files: rows.jsonl}
passes:
  - quantize-static: {calibration: 64, max_drop: 1}
targets:
  - onnxruntime
"""


def test_forecast_counts_what_ranges_by_level_take(tmp_path):
    """Beside what grows with other rows: of few calibration rows and many to validate by a line through both would be another."""
    (tmp_path / "rows.jsonl").touch()
    (tmp_path / "plan.yaml").write_text(DRAWING)
    bound = load_plan(tmp_path / "plan.yaml")

    def seconds(blocks, rows):
        split = scale(blocks, rows).rows
        calibrated, layers = (3 + 9) * min(64, split["calibration"]), 6 * blocks * min(64, split["validation"])
        return 1 + 1e-5 * (calibrated + (layers + 2 * split["validation"]) * (1 + 8)) * blocks * WIDTH

    def of(blocks, rows):
        took = seconds(blocks, rows)
        spent = (Spent(work="step", of="quantize-static", target="onnxruntime", seconds=took),)
        stages = (
            Stage(name="source", step="source", layer_bytes=(parts := sizes(blocks)["source"]), weights=sum(parts.values()) // 4),
        )
        return Trial(f"{blocks} blocks", bound, scale(blocks, rows), stages, spent, took, 0, 0)

    found = forecast(bound, scale(12, 600), (of(2, 32), of(4, 64)), rehearsal_seconds=1)
    assert found.rows[0].seconds == pytest.approx(seconds(12, 600), abs=0.1)
