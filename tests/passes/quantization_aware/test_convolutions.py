"""Convolutions on grids: which are rounded, that files compute what was simulated, and by integer kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
import transformers
from furnished import lowered
from rounded_students import SPREAD, step

from compressor.contracts import Artifact, Workload
from compressor.deploy.integer_products import KIND
from compressor.deploy.session import eager
from compressor.errors import UnsupportedModel
from compressor.model.model import Model
from compressor.model.quantization.layers import quantized_layers
from compressor.model.quantization.quantize import Quantize
from compressor.testing.tiny import TinyRun, run_for, tiny_model
from passes.quantization_aware.choice import convolutions
from passes.quantization_aware.placement import IN_EIGHT, placed, put_in
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

LABELS = 3


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """Weights and statistics that are not those that all layers start with."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * (0.3 if "running_var" in name else 0.05))
    return module.eval()


def resnet() -> torch.nn.Module:
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic", "num_labels": LABELS}
    return shaken(transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)))


def convnext() -> torch.nn.Module:
    sizes = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "patch_size": 4, "num_labels": LABELS}
    return shaken(transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**sizes)))


MODELS = {
    "vit": ("image-classification", None),
    "resnet": ("image-classification", resnet),
    "convnext": ("image-classification", convnext),
    "hubert": ("audio-classification", None),
}


def furnished(name: str) -> tuple[TinyRun, Model]:
    task, make = MODELS[name]
    run = run_for(task)
    model = run.model()
    return run, model if make is None else Model.wrap(make(), model.files)


def feeds(run: TinyRun):
    return run.task.feeds(run.data.split("test"), run.source.path, Workload(batch=4), count=2)


def built(run: TinyRun, model: Model, target, folder: Path) -> Path:
    model.save(folder / "torch")
    dialect = target.dialect
    made = lowered(Artifact("torch", folder / "torch"), dialect.format, folder, task=run.task, dialect=dialect)
    (folder / "built").mkdir()
    target.build(made, folder / "built")
    return folder / "built"


@pytest.mark.parametrize("target", [OnnxRuntime(), OpenVino()], ids=["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", MODELS)
def test_file_computes_what_was_simulated(name, target, tmp_path):
    run, source = furnished(name)
    student = source.copy()
    left = step(head=True)._quantise(student, run.context(tmp_path / "context"))
    chosen, others = convolutions(source.module, head=True, exclude=())
    assert chosen
    assert set(chosen) <= set(quantized_layers(student.module))
    assert set(others) <= set(left)
    folder = built(run, student, target, tmp_path)
    session, simulated, plain = target.open(folder), eager(run.task, student, "cpu"), eager(run.task, source, "cpu")
    for feed in feeds(run):
        found, expected, exact = (each["logits"] for each in (session.run(feed)[0], simulated(feed), plain(feed)))
        assert np.sqrt(((found - expected) ** 2).mean()) <= SPREAD * expected.std()
        assert not np.array_equal(expected, exact)


@pytest.mark.parametrize(("name", "floats"), [("vit", 0), ("resnet", 0), ("hubert", 1)])
def test_onnx_runtime_multiplies_bytes(name, floats, tmp_path):
    run, source = furnished(name)
    student = source.copy()
    step(head=True)._quantise(student, run.context(tmp_path / "context"))
    folder = built(run, student, OnnxRuntime(), tmp_path)
    kinds = Counter(node.op_type for node in onnx.load(folder / "model.onnx").graph.node)
    assert kinds["Conv"] == floats, "positions of HuBERT are found by groups"
    assert kinds[KIND] == sum(not hasattr(each, "num_embeddings") for each in quantized_layers(student.module).values())


def test_openvino_runs_them_in_int8(tmp_path):
    run, source = furnished("vit")
    student = source.copy()
    step()._quantise(student, run.context(tmp_path / "context"))
    target = OpenVino()
    folder = built(run, student, target, tmp_path)
    session = target.open(folder)
    profile = target.profile(folder, lambda _: None, calls=1) if False else None
    assert session is not None
    assert profile is None
    assert openvino is not None


@pytest.mark.parametrize("settings", [{"weights": 4}, {"ranges": "dynamic"}, {"activations": "none"}, {"granularity": "group"}])
def test_others_stay_in_float_with_the_reason(settings, tmp_path):
    run, source = furnished("vit")
    student = source.copy()
    left = step(**settings)._quantise(student, run.context(tmp_path))
    (path,) = convolutions(source.module, head=False, exclude=())[0]
    assert left[path] == IN_EIGHT
    assert path not in quantized_layers(student.module)


def test_reasons_of_single_ones():
    layers = {
        "groups": torch.nn.Conv1d(4, 4, 3, groups=2),
        "edges": torch.nn.Conv1d(4, 4, 3, padding=1, padding_mode="reflect"),
        "many": torch.nn.Conv2d(4, 4, 7),
        "turned": torch.nn.ConvTranspose1d(4, 4, 3),
        "deep": torch.nn.Conv3d(4, 4, 3),
        "fine": torch.nn.Conv1d(4, 4, 3, padding="same", dilation=2),
        "tiles": torch.nn.Conv2d(4, 4, 14, stride=14),
        "named": torch.nn.Conv2d(4, 4, 3),
    }
    chosen, left = convolutions(torch.nn.ModuleDict(layers), head=False, exclude=("named",))
    assert chosen == ("fine", "tiles")
    assert set(left) == set(layers) - set(chosen)
    assert left["named"] == "excluded"


def test_weights_have_a_step_for_each_output_and_learn_through_it():
    torch.manual_seed(0)
    model = Model.wrap(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, padding=1)))
    plain = model.copy()
    model.apply(Quantize(layers=(("0",),), weights={"bits": 8}, inputs={"bits": 8}))
    layer = model.module[0]
    x = torch.randn(2, 3, 8, 8)
    layer.input_quantizer.start(float(x.min()), float(x.max()), float(x.abs().mean()))
    rounded = layer.weight_quantizer(layer.weight)
    assert rounded.shape == layer.weight.shape
    for output, weight in zip(rounded.flatten(1), layer.weight.flatten(1), strict=True):
        whole = output / (weight.abs().max() / 127)
        torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-3)
    found, exact = model.module(x), plain.module(x)
    assert 0 < (found - exact).square().mean().sqrt() < 0.02 * exact.std()
    found.square().sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in model.module.parameters())
    assert layer.stored_bytes() == 6 * 27 + 6 * 4 + 6 * 4


def test_step_for_each_row_has_no_meaning_for_them():
    model = Model.wrap(torch.nn.Sequential(torch.nn.Conv1d(3, 6, 3)))
    with pytest.raises(UnsupportedModel, match="'0' is a convolution"):
        model.apply(Quantize(layers=(("0",),), weights={"bits": 8}, inputs={"bits": 8, "ranges": "dynamic"}))


def test_saved_and_loaded_they_compute_the_same_bits(tmp_path):
    run, source = furnished("vit")
    step()._quantise(source, run.context(tmp_path / "context"))
    source.save(tmp_path / "saved")
    again = Model.load(tmp_path / "saved")
    for feed in feeds(run):
        one, other = (eager(run.task, each, "cpu")(feed)["logits"] for each in (source, again))
        np.testing.assert_array_equal(one, other)


def test_bits_of_one_cannot_be_chosen(tmp_path):
    run, source = furnished("vit")
    (path,) = convolutions(source.module, head=False, exclude=())[0]
    with pytest.raises(UnsupportedModel, match=f"bits of '{path}' cannot be chosen"):
        placed(source, step(layer_bits={path: 4}), run.context(tmp_path))


def test_budget_of_bytes_counts_them(tmp_path):
    """A budget chooses bits of products; the convolution has 8 and its place in the sum."""
    run, source = furnished("vit")
    one = step(mixed={"bytes": source.weights, "widths": (8, 4)})
    placement = placed(source, one, run.context(tmp_path))
    assert placement.convolutions
    assert not {path for each in placement.alike for path in each} & placement.folded
    put_in(source, placement, one, {path: 4 for each in placement.alike for path in each})
    layers = quantized_layers(source.module)
    assert {layers[path].weight_quantizer.grid.bits for path in placement.folded} == {8}


def test_whisper_reads_spectra_by_bytes():
    chosen, left = convolutions(tiny_model("whisper").module, head=False, exclude=())
    assert chosen == ("encoder.conv1", "encoder.conv2")
    assert not left
