"""How many tokens a text model has positions for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compressor.errors import SourceError
from compressor.model.configurations import config_in


def positions(module: Any) -> int | None:
    """The longest input in tokens; None where nothing bounds it.

    RoBERTa and its kin number tokens from `padding_idx + 1` on: so many rows of their embedding are never reached.
    """
    most = getattr(module.config, "max_position_embeddings", None)
    bounds = [most] if isinstance(most, int) and most > 0 else []
    for name, child in module.named_modules():
        padding = getattr(child, "padding_idx", None)
        if "position" in name.rpartition(".")[2] and padding is not None and hasattr(child, "weight"):
            bounds.append(child.weight.shape[0] - padding - 1)
    return min(bounds, default=None)


def positions_in(folder: Path) -> int | None:
    """`positions` of the model that a folder's configuration describes.

    Raises:
        SourceError: the configuration cannot be read, or is none that transformers builds a model of.
    """
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    from compressor.model.libraries.transformers import Transformers

    config = config_in(folder)
    if type(config) not in MODEL_MAPPING:
        raise SourceError(f"{folder} describes no model that transformers builds: model type '{config.model_type}'")
    return positions(Transformers().build(MODEL_MAPPING[type(config)], json.loads(config.to_json_string(use_diff=False))))
