"""How loaders of the ecosystem open an export; one that none of them can open says so to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from compressor.contracts.model import CONFIG
from compressor.export.spec import OURS, Deployed

NO_TYPE = "compressor-"
"""What stands before the model type of an export that only we can open: no library knows it, and each refuses it by this name."""


def opening(deployed: Deployed) -> Iterator[str]:
    """Lines of the README."""
    runtime, found = deployed.runtime, deployed.loader
    if found == OURS:
        yield f"No stock configuration says the structure of this model: it is opened with `{OURS}.load`. Loaders of transformers"
        yield f"refuse it by the model type in its {CONFIG}, `{_type(deployed)}`."
        if deployed.per_layer_config:
            yield "`per_layer_config` there has the sizes of its layers as transformers spells them, which builds no model of this type by it yet."
        yield ""
    elif found:
        given = (
            f", {runtime.takes_settings}={json.dumps(dict(runtime.settings))}"
            if runtime.takes_settings and runtime.settings
            else ""
        )
        yield from (f"`{found}.from_pretrained(FOLDER{given})` opens it too.", "")


def configuration(deployed: Deployed) -> dict[str, Any]:
    """`config.json` as such loaders are to find it; empty where there is none."""
    if not deployed.config:
        return {}
    if deployed.needs_this_project:
        layers = {"per_layer_config": dict(deployed.per_layer_config)} if deployed.per_layer_config else {}
        return {**deployed.config, **layers, "model_type": _type(deployed)}
    if not (deployed.classes and deployed.labels):
        return dict(deployed.config)
    named = {str(number): label for number, label in enumerate(deployed.labels)}
    return {**deployed.config, "id2label": named, "label2id": {label: int(number) for number, label in named.items()}}


def _type(deployed: Deployed) -> str:
    return f"{NO_TYPE}{deployed.config.get('model_type', 'model')}"
