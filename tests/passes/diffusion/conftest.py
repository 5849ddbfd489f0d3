"""A teacher of points on a circle, trained once."""

from __future__ import annotations

import pytest
import torch
from circle import FLOW, learned, network

from passes.diffusion.denoiser import Denoiser


@pytest.fixture(scope="session")
def taught():
    """A teacher of the points, and how it draws."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = Denoiser(network(), FLOW)

        def loss(rows, label):
            t, noise = torch.rand(len(rows), dtype=torch.float64), torch.randn_like(rows)
            told = teacher.told(teacher.noised(rows, t, noise), t, label)
            return (told - (noise - rows)).square().mean()

        learned(teacher.module, loss, 600)
        teacher.module.requires_grad_(False)
        yield teacher


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(1)
