"""Networks that run fewer blocks where there is more noise: each row as if it were alone, and the table chooses as the network does."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressor.contracts import Want
from compressor.errors import UnsupportedModel
from compressor.model.capture import captured
from compressor.model.depths import ScheduleDepth, running
from compressor.model.dit import DiT
from compressor.model.edits import KeepBlocks
from compressor.tasks.generation.description import Description
from compressor.tasks.generation.process import Process
from compressor.tasks.generation.samplers import Sampling
from compressor.tasks.inputs.sampling import COLUMNS
from compressor.tasks.tiny import shaken
from passes.diffusion.distill_layers import variances

DEPTHS = (6, 5, 3, 2)


def network(*, keep_last=1, budget=True, depths=DEPTHS):
    torch.manual_seed(0)
    module = shaken(lambda: DiT(8, 1, 3, patch=4, width=16, blocks=6, heads=2))
    ScheduleDepth(depths=depths, keep_last=keep_last, budget=budget).apply(module)
    if budget:
        torch.nn.init.normal_(module.budget[2].weight)
    return module


def asked(times):
    count = len(times)
    sample = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return {"sample": sample, "time": torch.tensor(times), "label": torch.arange(count) % 3}


@pytest.mark.parametrize(
    ("depth", "keep_last", "expected"),
    [
        (6, 1, (0, 1, 2, 3, 4, 5)),
        (4, 0, (0, 1, 2, 3)),
        (4, 1, (0, 1, 2, 5)),
        (2, 2, (4, 5)),
        (1, 1, (5,)),
        (9, 0, (0, 1, 2, 3, 4, 5)),
    ],
)
def test_first_and_last_blocks_run(depth, keep_last, expected):
    assert running(6, depth, keep_last) == expected


@pytest.mark.parametrize("keep_last", [0, 1, 2])
def test_rows_of_a_batch_run_as_many_blocks_as_each_would_alone(keep_last):
    module, given = network(keep_last=keep_last), asked([10.0, 250.0, 600.0, 999.0, 400.0])
    assert module.depth_at(given["time"]).tolist() == [6, 5, 3, 2, 5]
    with torch.no_grad():
        together = module(**given)
        for row, depth in enumerate((6, 5, 3, 2, 5)):
            alone = module(**{name: each[row : row + 1] for name, each in given.items()}, blocks=depth)
            torch.testing.assert_close(together[row : row + 1], alone)
        assert not torch.allclose(together, module(**given, blocks=6))


def test_blocks_that_do_not_run_compute_nothing():
    module, given = network(), asked([999.0, 990.0])
    for number in (1, 2, 3, 4):
        module.blocks[number].forward = None
    assert module(**given).isfinite().all()


def test_without_a_schedule_all_blocks_run():
    module, given = shaken(lambda: DiT(8, 1, 3, patch=4, width=16, blocks=6, heads=2)), asked([10.0, 999.0])
    assert torch.equal(module(**given), module(**given, blocks=6))


@pytest.mark.parametrize("sampling", [Sampling(steps=7), Sampling(sampler="heun", steps=5), Sampling(sampler="ddim", steps=100)])
@pytest.mark.parametrize("kind", ["flow", "cosine"])
def test_the_table_asks_the_graph_of_as_many_blocks_as_the_network_would_run(sampling, kind):
    depths = (6, 6, 5, 5, 4, 4, 3, 3, 2, 2)
    module = network(depths=depths)
    how = Description(
        shape=(1, 8, 8), classes=3, empty=3, process=Process(kind=kind, prediction="v"), sampling=sampling, depths=depths
    )
    table = how.table().astype(np.float32)
    found = [int(blocks) or max(depths) for blocks in table[:, COLUMNS.index("blocks")]]
    assert found == module.depth_at(torch.from_numpy(table[:, COLUMNS.index("time")])).tolist()
    assert set(how.graphs()) == {"model", "model-5", "model-4", "model-3", "model-2"}


def test_variance_at_the_head_is_kept_by_keeping_the_last_block():
    """A toy of residual blocks that each add twice as much as the one before, as states of deep networks grow: leaving early loses most."""
    torch.manual_seed(0)
    module = DiT(8, 1, 3, patch=4, width=32, blocks=6, heads=2)
    for number, block in enumerate(module.blocks):
        torch.nn.init.constant_(block.modulation.bias, 0.0)
        block.modulation.bias.data[5 * 32 :] = 2.0**number  # the gate of the feed-forward
        torch.nn.init.normal_(block.down.weight, std=0.1)
    given = asked([900.0, 500.0, 100.0])
    ScheduleDepth(depths=(3,)).apply(module)
    early = variances(module, given, (3, 5))
    module.keep_last = 1
    kept = variances(module, given, (3, 5))
    assert kept[3] > 0.6 > 0.05 > early[3], (kept, early)
    assert kept[5] > 0.6 > 0.4 > early[5], (kept, early)


def test_derivatives_pass_rows_of_different_depths():
    """As mean velocities need them, along rows and times; they equal differences."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    module, given = network().double(), asked([10.0, 999.0])
    sample, way = given["sample"].double(), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    time, later = given["time"].double(), torch.ones(2, dtype=torch.float64)

    def told(x, t):
        return module(x, t, given["label"])

    with sdpa_kernel(SDPBackend.MATH), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch compiles its own derivatives in a way that it advises against
        found = torch.func.jvp(told, (sample, time), (way, later))[1]
        apart = told(sample + 1e-4 * way, time + 1e-4 * later) - told(sample - 1e-4 * way, time - 1e-4 * later)
    torch.testing.assert_close(found, apart / 2e-4, rtol=1e-4, atol=1e-4)


def test_what_counts_blocks_or_looks_inside_is_refused():
    module = network()
    with pytest.raises(UnsupportedModel, match="let blocks go before it has one"):
        KeepBlocks(blocks=("blocks.0",)).apply(module)
    with pytest.raises(UnsupportedModel, match="is not of every row"), captured(module, Want(hidden_states=("blocks.0",))):
        pass
    with pytest.raises(UnsupportedModel, match="has a schedule of blocks already"):
        ScheduleDepth(depths=(1,)).apply(module)
    with pytest.raises(UnsupportedModel, match="7 blocks cannot run: the network has 6"):
        network(depths=(7, 1))
    with pytest.raises(UnsupportedModel, match="Linear runs all of its blocks"):
        ScheduleDepth(depths=(1,)).apply(torch.nn.Linear(2, 2))
    with pytest.raises(ValidationError, match="as few as 1 blocks run"):
        ScheduleDepth(depths=(3, 1), keep_last=2)
