"""An edit that lets a denoising network run fewer of its blocks where there is more noise, and which blocks these are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from compressor.contracts import Edit
from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

NOISE = 1000.0
"""The time, as networks are told it, at which nothing but noise is left."""


def running(total: int, depth: int, keep_last: int) -> tuple[int, ...]:
    """Which of `total` blocks run where `depth` of them do: the first ones, and the last `keep_last`."""
    last = min(keep_last, depth)
    return (*range(depth - last), *range(total - last, total)) if depth < total else tuple(range(total))


class ScheduleDepth(Edit):
    """Have the network run so many blocks by the time that it is told; with `budget` it is told that number too, by an embedding more."""

    kind: ClassVar[str] = "schedule-depth"
    tried_on: ClassVar[Literal["bert", "hubert", "whisper", "dit"]] = "dit"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"depths": (2, 1), "budget": True},
        {"depths": (1,), "keep_last": 1, "budget": True},
    )

    depths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Blocks by even bins of the time, from the clean row to noise."""
    keep_last: NonNegativeInt = 0
    """Of those that run, so many are the last ones of the network, the others its first."""
    budget: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.keep_last > min(self.depths):
            raise ValueError(f"keep_last is {self.keep_last}, and as few as {min(self.depths)} blocks run")
        return self

    def apply(self, module: torch.nn.Module) -> None:
        """Set the schedule; the embedding of the number of blocks is drawn by torch's own generator."""
        network: Any = module
        if not hasattr(network, "depths"):
            raise UnsupportedModel(
                f"{type(module).__name__} runs all of its blocks: only networks of the class DiT can run fewer"
            )
        if network.depths:
            raise UnsupportedModel("the network has a schedule of blocks already")
        if max(self.depths) > len(network.blocks):
            raise UnsupportedModel(f"{max(self.depths)} blocks cannot run: the network has {len(network.blocks)}")
        network.depths, network.keep_last = self.depths, self.keep_last
        if self.budget:
            network.tell("budget")

    def describe(self) -> str:
        """How many run."""
        return f"of the blocks {', '.join(map(str, self.depths))} run, from the clean row to noise"
