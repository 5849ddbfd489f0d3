"""What both probes of this package measure at: every kind of call with every batch size at every length."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from compressor.contracts import Probe, Workload
from compressor.contracts.records import Kind


class Grid(Probe):
    """A probe at the workloads that its parameters span."""

    batch: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1,)
    """Batch sizes."""
    length: tuple[PositiveInt, ...] = ()
    """Lengths in tokens, pixels or samples; empty for the natural length of each row."""
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("forward",)
    """What a call does: one pass, filling a cache, single tokens on a filled one, or a whole loop of the task."""
    steps: PositiveInt | None = None
    """Steps of a loop of the task: tokens that `decode` and `generate` make in one call, denoising steps of `sample`."""

    @model_validator(mode="after")
    def _well_formed(self) -> Self:
        """Tell a workload that makes no sense with the plan, not when it is measured."""
        self.workloads()
        return self

    def workloads(self) -> tuple[Workload, ...]:
        """Every kind with every batch size at every length; only loops have steps."""
        grid = product(self.kinds, self.batch, self.length or (None,))
        return tuple(Workload(kind=kind, batch=batch, length=length, steps=self._steps(kind)) for kind, batch, length in grid)

    def at(self, workload: Workload) -> Self:
        """This probe at one workload alone."""
        length = () if workload.length is None else (workload.length,)
        return self.model_copy(
            update={"kinds": (workload.kind,), "batch": (workload.batch,), "length": length, "steps": workload.steps}
        )

    def _steps(self, kind: Kind) -> int | None:
        return None if kind in ("forward", "prefill") else self.steps
