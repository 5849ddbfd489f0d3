"""The edit that lets a denoising network be told how far a step goes."""

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
        from compressor.model.dit import DiT

        if not isinstance(module, DiT):
            raise UnsupportedModel(f"{type(module).__name__} cannot be told a span: only networks of the class DiT can")
        if module.span is not None:
            raise UnsupportedModel("the network is told a span already")
        module.tell_span()

    def describe(self) -> str:
        """What is added."""
        return "the network is told the span of a step"
