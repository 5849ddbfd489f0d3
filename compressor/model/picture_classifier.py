"""A small network that tells of which class a picture is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn


class PictureClassifier(nn.Module):
    """Convolutions, halved in between; features are means over all places, so that pictures may have any size."""

    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"channels": 1, "classes": 3, "widths": (4, 8)},)

    def __init__(self, channels: int = 1, classes: int = 10, widths: Sequence[int] = (32, 64, 128)) -> None:
        """
        Args:
            channels: of pictures.
            classes: how many logits it gives.
            widths: channels of its convolutions; the last are the features.
        """
        super().__init__()
        self.config = {"channels": channels, "classes": classes, "widths": list(widths)}
        layers: list[nn.Module] = []
        for before, width in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """Logits `[B, classes]` of pictures `[B, channels, height, width]` from -1 to 1."""
        found: torch.Tensor = self.head(self.body(picture))
        return found
