"""Convolutions on grids: which are rounded, that files compute what was simulated, and by integer kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import transformers
from furnished import lowered
from rounded_students import SPREAD, step

from compressor.contracts import Artifact, Workload
from compressor.deploy.integer_products import KIND
from compressor.deploy.openvino import core
from compressor.deploy.session import eager
from compressor.errors import UnsupportedModel
from compressor.model.model import Model
from compressor.model.quantization.grids import InputGrid, WeightGrid
from compressor.model.quantization.layers import InputQuantizer, quantized_layers
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
    if make is None:
        shaken(model.module)
        return run, model
    return run, Model.wrap(make(), model.files)


def feeds(run: TinyRun):
    return run.task.feeds(run.data.split("test"), run.source.path, Workload(batch=4), count=2)


def built(run: TinyRun, model: Model, target, folder: Path) -> Path:
    if not (folder / "torch").exists():
        model.save(folder / "torch")
    dialect = target.dialect
    made = lowered(Artifact("torch", folder / "torch"), dialect.format, folder, task=run.task, dialect=dialect)
    out = folder / f"built-{dialect.format}"
    out.mkdir()
    target.build(made, out)
    return out


@pytest.mark.parametrize("target", [OnnxRuntime(), OpenVino()], ids=["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", MODELS)
def test_file_computes_what_was_simulated(name, target, tmp_path):
    run, source = furnished(name)
    student = source.copy()
    left = step(head=True)._quantise(student, run.context(tmp_path / "context"))
    chosen, others = convolutions(source.module, head=True, exclude=())
    assert chosen or name == "resnet"
    assert set(chosen) <= set(quantized_layers(student.module))
    assert set(others) <= set(left)
    folder = built(run, student, target, tmp_path)
    session, simulated, plain = target.open(folder), eager(run.task, student, "cpu"), eager(run.task, source, "cpu")
    for feed in feeds(run):
        found, expected, exact = (each["logits"] for each in (session.run(feed)[0], simulated(feed), plain(feed)))
        assert np.sqrt(((found - expected) ** 2).mean()) <= SPREAD * expected.std()
        assert not np.array_equal(expected, exact)


@pytest.mark.parametrize("name", ["vit", "hubert"])
def test_runtimes_multiply_bytes(name, tmp_path):
    """But where HuBERT finds positions by groups, and where it reads samples."""
    run, source = furnished(name)
    student = source.copy()
    left = step()._quantise(student, run.context(tmp_path / "context"))
    floats = sum(isinstance(source.module.get_submodule(path), torch.nn.modules.conv._ConvNd) for path in left)
    products = sum(not hasattr(each, "num_embeddings") for each in quantized_layers(student.module).values())
    folder = built(run, student, OnnxRuntime(), tmp_path)
    kinds = Counter(node.op_type for node in onnx.load(folder / "model.onnx").graph.node)
    assert (kinds["Conv"], kinds[KIND]) == (floats, products)
    folder = built(run, student, OpenVino(), tmp_path)
    compiled = core().compile_model(str(folder / "openvino_model.xml"), "CPU")
    told = [each.get_rt_info() for each in compiled.get_runtime_model().get_ordered_ops()]
    found = Counter((each["layerType"].astype(str), each["runtimePrecision"].astype(str)) for each in told)
    assert found["FullyConnected", "i8"] + found["FullyConnected", "u8"] == products


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
        "groups": torch.nn.Conv1d(32, 32, 3, groups=2),
        "gaps": torch.nn.Conv1d(32, 32, 3, dilation=2),
        "edges": torch.nn.Conv1d(32, 32, 3, padding=1, padding_mode="reflect"),
        "overlap": torch.nn.Conv2d(4, 4, 7),
        "margin": torch.nn.Conv2d(4, 4, 8, stride=8, padding=1),
        "rare": torch.nn.Conv2d(4, 4, 8, stride=9),
        "pixels": torch.nn.Conv2d(64, 4, 1),
        "samples": torch.nn.Conv1d(1, 32, 10, stride=5),
        "turned": torch.nn.ConvTranspose1d(32, 32, 3),
        "deep": torch.nn.Conv3d(4, 4, 3, stride=3),
        "fine": torch.nn.Conv1d(32, 32, 3, padding="same"),
        "patches": torch.nn.Conv2d(4, 4, 14, stride=14),
        "named": torch.nn.Conv1d(32, 32, 3),
    }
    chosen, left = convolutions(torch.nn.ModuleDict(layers), head=False, exclude=("named",))
    assert chosen == ("fine", "patches")
    assert set(left) == set(layers) - set(chosen)
    assert left["overlap"] == left["margin"] == left["rare"]
    assert len(set(left.values())) == len(left) - 3, "groups and gaps are one reason too"


def test_weights_have_a_step_for_each_output_and_learn_through_it():
    model = Model.wrap(convnext())
    (path, *_), _ = convolutions(model.module, head=False, exclude=())
    plain = model.module.get_submodule(path).weight.detach().clone()
    model.apply(Quantize(layers=((path,),), weights=WeightGrid(), inputs=InputGrid()))
    layer = model.module.get_submodule(path)
    x = torch.randn(2, plain.shape[1], 8, 8)
    layer.input_quantizer.start(float(x.min()), float(x.max()), float(x.abs().mean()))
    rounded = layer.weight_quantizer(layer.weight)
    assert rounded.shape == plain.shape
    for output, weight in zip(rounded.flatten(1), plain.flatten(1), strict=True):
        whole = output / (weight.abs().max() / 127)
        torch.testing.assert_close(whole, whole.round(), rtol=0, atol=1e-3)
    found, exact = layer(x), torch.nn.functional.conv2d(x, plain, layer.bias, layer.stride, layer.padding)
    assert 0 < (found - exact).square().mean().sqrt() < 0.02 * exact.std()
    found.square().sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in layer.parameters())
    outputs, inputs = plain.flatten(1).shape
    assert layer.stored_bytes() == outputs * inputs + outputs * 4 + outputs * 4


def test_learned_steps_of_what_is_read_know_channels():
    """The gradient of a step is divided by the root of how many features share it, wherever they stand."""
    quantizers = [InputQuantizer(InputGrid(), torch.device("cpu"), axis=axis) for axis in (-1, 1)]
    x = torch.randn(2, 5, 9)
    for quantizer, given in zip(quantizers, (x, x.transpose(1, 2)), strict=True):
        quantizer.start(-2.0, 2.0, 0.8)
        quantizer(given).sum().backward()
    torch.testing.assert_close(quantizers[0].log_step.grad, quantizers[1].log_step.grad)


def test_step_for_each_row_has_no_meaning_for_them():
    model = Model.wrap(convnext())
    (path, *_), _ = convolutions(model.module, head=False, exclude=())
    with pytest.raises(UnsupportedModel, match=f"'{path}' is a convolution"):
        model.apply(Quantize(layers=((path,),), weights=WeightGrid(), inputs=InputGrid(ranges="dynamic")))


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
    chosen, fixed = ({path for each in groups for path in each} for groups in (placement.alike, placement.convolutions))
    assert not chosen & fixed
    put_in(source, placement, one, dict.fromkeys(chosen, 4))
    layers = quantized_layers(source.module)
    assert {layers[path].weight_quantizer.grid.bits for path in fixed} == {8}


def test_whisper_reads_by_bytes_where_windows_have_numbers_enough():
    chosen, left = convolutions(tiny_model("whisper").module, head=False, exclude=())
    assert chosen == ("encoder.conv2",)
    assert set(left) == {"encoder.conv1"}, "8 bands, 3 places"
