"""What both probes of this package measure at: every kind of call with every batch size at every length."""

from __future__ import annotations

from collections.abc import Sequence
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
        """Every kind with every batch size at every length, each once; only loops have steps."""
        grid = product(self.kinds, self.batch, self.length or (None,))
        made = (Workload(kind=kind, batch=batch, length=length, steps=self._steps(kind)) for kind, batch, length in grid)
        return tuple(dict.fromkeys(made))

    def suited(self, workloads: Sequence[Workload]) -> Self:
        """Kinds, lengths and steps that the plan leaves open are those of the task."""
        given = {name for name in self.model_fields_set if getattr(self, name)}
        if tuple(workloads) == (Workload(),) or ("kinds" in given and set(self.kinds) == {"forward"}):
            return self
        offered = {
            "kinds": tuple(dict.fromkeys(each.kind for each in workloads)),
            "length": tuple(dict.fromkeys(each.length for each in workloads if each.length is not None)),
            "steps": next((each.steps for each in workloads if each.steps is not None), None),
        }
        chosen = {name: value for name, value in offered.items() if name not in given}
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **chosen})

    def at(self, workload: Workload) -> Self:
        """This probe at one workload alone."""
        length = () if workload.length is None else (workload.length,)
        return self.model_copy(
            update={"kinds": (workload.kind,), "batch": (workload.batch,), "length": length, "steps": workload.steps}
        )

    def _steps(self, kind: Kind) -> int | None:
        return None if kind in ("forward", "prefill") else self.steps
