"""Configurations of transformers, read without what could name code on a hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.contracts.model import CONFIG
from compressor.errors import SourceError
from compressor.model.meta import BUILDING_ERRORS
from compressor.model.sources import read_json


def config_in(folder: Path) -> Any:
    """The configuration in a folder, without the fields that can name code on a hub.

    Raises:
        SourceError: it cannot be read, or is of a model type that transformers does not know.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values = read_json(folder / CONFIG)
    model_type = str(values.get("model_type", ""))
    if model_type not in CONFIG_MAPPING:
        raise SourceError(
            f"{folder} cannot be read as a model: its model type '{model_type}' is none of transformers {transformers.__version__}"
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict(without_kernels(values))
    except (*BUILDING_ERRORS, StrictDataclassError) as error:
        raise SourceError(f"{folder} cannot be read as a model: {type(error).__name__}: {error}") from error


def without_kernels(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the fields that can name code on a hub."""
    kept = {name: value for name, value in config.items() if not name.endswith(("attn_implementation", "experts_implementation"))}
    return {name: without_kernels(value) if isinstance(value, Mapping) else value for name, value in kept.items()}
