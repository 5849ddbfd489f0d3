"""What a plan may say of a task that draws."""

from __future__ import annotations

from abc import ABC
from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Task
from compressor.tasks.generation.description import Description
from compressor.tasks.generation.process import Process
from compressor.tasks.generation.samplers import Sampler, Sampling


class DrawingSettings(Task, ABC):
    """How a model that says nothing of itself is trained, and how the source is sampled."""

    label: str = Field(default="label", description="Column of the label.")
    process: Process | None = Field(
        default=None,
        description="How rows become noise and what the network tells: `kind` (flow, cosine, betas, edm) and `prediction` (flow, v, x0, epsilon, "
        "edm). What lies beside a trained model holds; a network without it learns `flow`.",
    )
    sampler: Sampler | None = Field(
        default=None,
        description="How the source is sampled; dpm++2m unless it says something else. What a pass makes says it itself.",
    )
    steps: int | None = Field(
        default=None, ge=1, le=10_000, description="Steps that the source is sampled in; 50 unless it says something else."
    )
    guidance: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="How far outputs are moved away from those without a label; 1 for outputs as they are, where others take two evaluations.",
    )
    weighting: Literal["none", "min-snr", "flow", "edm"] = Field(
        default="none",
        description="How errors at different times count in training, by what the network tells: see the page of diffusion.",
    )
    times: Literal["uniform", "logit-normal"] = Field(
        default="uniform", description="How times are drawn in training; of `edm` they are normal in ln(sigma) either way."
    )
    drop_labels: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of the training rows whose label is left out, so that the model can be guided.",
    )
    drawing: Description | None = Field(
        default=None, description="How a built model draws. A run writes it beside the model; leave it out."
    )

    @override
    def passes_to_score(self) -> float:
        """As the plan samples, or would by itself; and one of a noisy row."""
        return 1.0 + Sampling.model_validate(self.sampling()).evaluations()

    def sampling(self) -> dict[str, Any]:
        """What the plan says of how the source is sampled, by the names of `Sampling`."""
        return {name: getattr(self, name) for name in Sampling.model_fields if getattr(self, name) is not None}
