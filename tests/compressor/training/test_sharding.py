"""Parameters spread over two processes: each holds half of them, and what comes out is what one process makes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import sharded
import torch
from safetensors.torch import load_file, save_file
from transformers import HubertConfig, HubertModel

from compressor.errors import UnsupportedModel
from compressor.model import sharding
from compressor.model.model import Model
from compressor.model.sharding import gathered, held_bytes, is_sharded, roots, write_gathered
from compressor.training.checkpoint import INTERVAL, RESCUED
from compressor.training.group import parts
from compressor.training.meeting import network
from compressor.training.state import spread

BOTH = (0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, and what two processes made of them."""
    folder = tmp_path_factory.mktemp("sharded")
    sharded.write(folder)
    around = {**os.environ, **network(""), INTERVAL: "0", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, sharded.__file__, str(folder)],
            env={**around, "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "", "MASTER_PORT": ""},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in BOTH
    ]
    said = [each.communicate(timeout=300)[1] for each in started]
    assert [each.returncode for each in started] == [0, 0], "\n".join(said)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in BOTH]


@pytest.fixture(scope="module")
def alone(folder):
    """The same training by one process that holds everything, and its model."""
    model = Model.load(folder / "small")
    return sharded.trained(model, folder / "alone"), model


@pytest.mark.parametrize("when", ["loaded", "trained"])
def test_each_process_holds_half_of_the_parameters(found, when):
    for each in found:
        held, whole = each["held"][when]
        assert held / whole == pytest.approx(0.5, abs=0.02)
    assert sum(each["held"][when][0] for each in found) >= found[0]["held"][when][1]


def test_a_process_that_loads_never_holds_the_parameters_of_the_other(found):
    for each in found:
        grown, whole = each["loading"]
        assert whole > 50e6
        assert 0.45 < grown / whole < 0.65


def test_losses_and_validation_of_spread_parameters_are_those_of_one_process(found, alone):
    log, _ = alone
    for each in found:
        assert each["losses"] == pytest.approx([value for _, value in log.losses["task"]], abs=1e-4)
        assert [value for _, value in each["validation"]] == pytest.approx([value for _, value in log.validation], abs=1e-4)
        assert each["kept_epoch"] == log.kept_epoch
    assert len(found[0]["losses"]) == sharded.STEPS


def test_weights_of_spread_parameters_are_those_of_one_process(folder, alone):
    made = Model.load(folder / "through-model").module
    for name, tensor in alone[1].module.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    assert made.lm_head.weight is made.model.embed_tokens.weight


def test_what_is_spread_stays_as_it_is(found):
    assert [each["moved"] for each in found] == ["a model that is spread over processes stays on cpu in torch.float32"] * 2


def test_model_that_only_went_through_is_the_same_file(folder):
    for name in ("model.safetensors", "config.json", "blueprint.json"):
        assert (folder / "unchanged" / name).read_bytes() == (folder / "small" / name).read_bytes()
    assert not (folder / "unchanged-beside" / "model.safetensors").exists()


def test_what_serves_the_main_component_is_whole_in_each_process(folder, found):
    """As an encoder is that rows are read by."""
    wanted = (folder / "pair" / "encoder" / "model.safetensors").read_bytes()
    for rank, each in enumerate(found):
        (mine, whole), (beside, all_of_it) = each["pair"]["net"], each["pair"]["encoder"]
        assert (mine / whole, beside / all_of_it) == (pytest.approx(0.5, abs=0.02), 1)
        assert (folder / f"beside-{rank}" / "encoder" / "model.safetensors").read_bytes() == wanted
    for name in ("net", "encoder"):
        written, before = (folder / each / name / "model.safetensors" for each in ("unchanged-pair", "pair"))
        assert written.read_bytes() == before.read_bytes()


def test_training_that_was_stopped_goes_on_to_the_same_bytes(folder, found):
    stopped, through = (folder / name / "model.safetensors" for name in ("stopped-model", "through-model"))
    assert stopped.read_bytes() == through.read_bytes()
    for each in found:
        assert each["told"] == [f"finetune: goes on at step {sharded.STOPPED} of {sharded.STEPS}"]
    at = f"step-{sharded.STOPPED}-of"
    assert found[0]["checkpoint"] == ["checkpoint.json", f"{at}-0.safetensors", f"{at}-1.safetensors"]


def test_weights_before_a_loss_that_is_infinite_are_kept_whole(folder, found):
    rescued = load_file(folder / "diverged" / "training-finetune" / RESCUED)
    for name, tensor in sharded.weights(folder / "small").items():
        assert rescued[name].shape == tensor.shape
        assert torch.isfinite(rescued[name]).all()
    for each in found:
        assert re.match(r"the loss 'task' is (inf|nan) at step 4 of 8", each["fault"])
        assert RESCUED in each["fault"]


def test_written_tensors_are_read_as_those_that_safetensors_writes(tmp_path):
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "b": torch.randn(3, 5, generator=draw),
        "a.weight": torch.randn(7, generator=draw).bfloat16(),
        "ä": torch.arange(4),
        "c": torch.randn(2, 2, generator=draw).half(),
        "empty": torch.zeros(0, 3),
    }
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    write_gathered(tensors, tmp_path / "ours", first=True)
    ours, theirs = load_file(tmp_path / "ours"), load_file(tmp_path / "theirs")
    assert sorted(ours) == sorted(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    write_gathered(tensors, tmp_path / "none", first=False)
    assert not (tmp_path / "none").exists()


def test_a_model_that_is_not_spread_is_left_alone():
    module = torch.nn.Linear(2, 3)
    assert (roots(module), is_sharded(module.weight), gathered([module], lambda: 7)) == ([], False, 7)
    assert held_bytes(module) == (36, 36)


@pytest.mark.parametrize(("rows", "accumulate"), [(3, 2), (1, 3), (8, 2), (5, 1)])
def test_processes_that_share_parameters_compute_as_many_parts(rows, accumulate):
    batch = {"x": torch.arange(rows)}
    made = [list(parts(batch, rank, 2, accumulate, alike=True)) for rank in BOTH]
    assert [len(each) for each in made] == [accumulate, accumulate]
    assert sum(share for each in made for _, share in each) == pytest.approx(1.0)


def test_a_first_process_that_cannot_write_gives_its_shares_all_the_same(tmp_path, monkeypatch):
    given, whole = [], sharding._whole
    monkeypatch.setattr(sharding, "_whole", lambda tensor: given.append(1) or whole(tensor))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write_gathered({"a": torch.ones(2), "b": torch.ones(3)}, tmp_path / "file" / "weights", first=True)
    assert len(given) == 2, "the others wait for each"


def test_layers_that_a_configuration_has_left_out_at_random_are_refused():
    config = HubertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, layerdrop=0.1)
    model = HubertModel(config)
    object.__setattr__(model, sharding.ROOT, model)
    with pytest.raises(UnsupportedModel, match="set dropout: false"):
        spread(model.train())
    config.layerdrop = 0.0
    assert spread(model)
