"""Eight groups of points on a circle, as pictures of one pixel, and networks that draw them: what diffusion is tried on in seconds."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch

from compressor.model.dit import DiT
from compressor.tasks.generation.description import Description
from compressor.tasks.generation.process import Process
from passes.diffusion.denoiser import Denoiser

FLOW = Description(shape=(2, 1, 1), classes=1, empty=1)
COSINE = FLOW.model_copy(update={"process": Process(kind="cosine", prediction="v")})
BATCH = 128


def points(count=BATCH):
    """Eight groups on a circle, as pictures of one pixel with two channels; their labels are all 0."""
    at = torch.randint(8, (count,)) * (torch.pi / 4)
    found = torch.stack([at.cos(), at.sin()], dim=1) + 0.05 * torch.randn(count, 2)
    return found[:, :, None, None], torch.zeros(count, dtype=torch.long)


def network():
    return DiT(1, 2, 1, patch=1, width=64, blocks=1, heads=1)


def learned(module, loss, steps, rate=2e-3):
    """Trained by a loss of rows and labels."""
    optimiser = torch.optim.AdamW(module.parameters(), rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.02, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(*points()).backward()
        optimiser.step()
        schedule.step()


def drawn(denoiser, noise, steps):
    x, label = noise, torch.zeros(len(noise), dtype=torch.long)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    with torch.no_grad():
        for here, there in pairwise(times):
            x = denoiser.moved(x, here.expand(len(x)), there.expand(len(x)), label)
    return x


def copied(denoiser, *, spans=False):
    module = copy.deepcopy(denoiser.module).requires_grad_(True)
    if spans:
        module.tell("span")
    return Denoiser(module, denoiser.how.model_copy(update={"spans": spans}))


def shaken(how=FLOW, spans=False):
    module = network()
    if spans:
        module.tell("span")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Denoiser(module, how.model_copy(update={"spans": spans}))


def off(rows):
    """How far points lie from the circle, in the mean."""
    return (rows.flatten(1).norm(dim=1) - 1).abs().mean()
