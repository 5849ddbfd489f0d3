"""Edits that let a denoising network be told more than time and label: how far a step goes, and how far it is guided."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from compressor.contracts import Edit
from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    import torch


class TellSpan(Edit):
    """Tell the network how far a step goes, beside the time that it starts from: an embedding more, drawn by torch's own generator."""

    kind: ClassVar[str] = "tell-span"
    tried_on: ClassVar[Literal["bert", "hubert", "whisper", "dit"]] = "dit"

    def apply(self, module: torch.nn.Module) -> None:
        """Add the embedding."""
        _tell(module, "span")

    def describe(self) -> str:
        """What is added."""
        return "the network is told the span of a step"


class TellScale(Edit):
    """Tell the network the scale of its guidance, so that it answers in one evaluation: an embedding more, drawn by torch's own generator."""

    kind: ClassVar[str] = "tell-scale"
    tried_on: ClassVar[Literal["bert", "hubert", "whisper", "dit"]] = "dit"

    def apply(self, module: torch.nn.Module) -> None:
        """Add the embedding."""
        _tell(module, "scale")

    def describe(self) -> str:
        """What is added."""
        return "the network is told the scale of its guidance"


def _tell(module: torch.nn.Module, what: Literal["span", "scale"]) -> None:
    from compressor.model.dit import DiT

    if not isinstance(module, DiT):
        raise UnsupportedModel(f"{type(module).__name__} cannot be told a {what}: only networks of the class DiT can")
    if getattr(module, what) is not None:
        raise UnsupportedModel(f"the network is told a {what} already")
    module.tell(what)
