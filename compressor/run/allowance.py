"""What the family of a plan's models allows, from their configurations alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compressor.files import json_in
from compressor.model.anatomy import limits
from compressor.model.sources import located
from compressor.plan.bound import Bound
from compressor.run.preflight import worked_on


def allowances(bound: Bound) -> Iterator[str]:
    """A line for each model: its family, which passes it takes, and which steps of the plan will be refused.

    Nothing is said of a folder that has no configuration of one model, such as a pipeline.
    """
    models = {"source": bound.model, **bound.models}
    steps = worked_on(bound, models)
    for name, source in models.items():
        config = _config(located(source, bound.folder) / "config.json")
        if model_type := str(config.get("model_type", "")):
            family, reasons = limits(model_type)
            mine = {step: parts for (model, step), parts in steps.items() if model == name}
            refused = [step for step, parts in mine.items() if reasons is None or set(parts) & set(reasons)]
            yield f"{name}: {family}: {_said(reasons)}{f'; {_listed(refused)} will be refused' if refused else ''}"


def _said(reasons: Mapping[str, str] | None) -> str:
    if reasons is None:
        return "all passes that look at nothing inside, as no anatomy row fits"
    parts = ", ".join(f"{part} ({why})" for part, why in reasons.items())
    return f"all passes, but none that works on {parts}" if parts else "all passes"


def _listed(steps: list[str]) -> str:
    return " and ".join(steps)


def _config(path: Any) -> dict[str, Any]:
    try:
        values = json_in(path)
    except (OSError, ValueError):
        return {}  # whatever is wrong with it is said when the model is loaded
    return values if isinstance(values, dict) else {}
