"""Drawing latents that a decoder beside the network makes pictures of: rows are encoded once, the decoder is built, shipped and never trained."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from furnished import command
from PIL import Image

from compressor.api import run
from compressor.contracts import Progress
from compressor.deploy.session import predictor
from compressor.errors import SourceError, UnsupportedModel
from compressor.model import Model
from compressor.model.dit import DiT
from compressor.plan.bound import load_plan
from compressor.plan.specs import DataSpec
from compressor.report import read_report
from compressor.run.preflight import check_lowered
from compressor.run.preview import previewed
from compressor.store.place import open_store
from compressor.tasks.data import load_data
from compressor.tasks.generation.description import FILE, described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.tiny import images, shaken
from passes.diffusion.adaptive import Adaptive
from passes.diffusion.distill_layers import DistillLayers
from passes.diffusion.distill_steps import DistillSteps
from passes.side_files import write_side_files
from targets.onnxruntime import OnnxRuntime

diffusers = pytest.importorskip("diffusers")

KINDS = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
}
PLAN = """
name: latents
stages: quality
model: {folder: pretrained}
task:
  image-generation: {steps: 4}
data: {files: images, format: imagefolder, split: {validation: 12, test: 12}, calibration: 8}
passes:
  - finetune: {steps: 3, batch_size: 8, precision: fp32, learning_rate: 1.0e-3, ema: 0.5}
  - distill-steps: {teacher: finetune, method: progressive, to: [2], steps: 3, batch_size: 8, precision: fp32}
targets:
  - onnxruntime: {}
  - pytorch: {}
probes: []
"""


def decoder(**fields):
    """A tiny one of random weights, which makes 16 pixels of 8 by 8 latents."""
    given = {"latent_channels": 4, "sample_size": 16, "scaling_factor": 0.5, "shift_factor": 0.1, **KINDS, **fields}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return diffusers.AutoencoderKL(**given).train(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline as diffusers lays it out, and rows."""
    folder = tmp_path_factory.mktemp("latents")
    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "layers_per_block": 1, "norm_num_groups": 4}
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = shaken(lambda: diffusers.UNet2DModel(**sizes, **kinds, num_class_embeds=4))
    unet.save_pretrained(folder / "pretrained" / "unet")
    decoder().save_pretrained(folder / "pretrained" / "vae")
    parts = {"unet": ["diffusers", "UNet2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "pretrained" / "model_index.json").write_text(json.dumps({"_class_name": "DiffusionPipeline", **parts}))
    images(folder)
    return folder


@pytest.fixture(scope="module")
def data(folder):
    spec = {"files": "images", "format": "imagefolder", "split": {"validation": 12, "test": 12}, "calibration": 8}
    return load_data(DataSpec.model_validate(spec), columns=ImageGeneration().columns(), seed=0, folder=folder)


@pytest.fixture(scope="module")
def model(folder, data):
    return ImageGeneration(steps=4).load(folder / "pretrained", data, seed=0)


@pytest.fixture(scope="module")
def finished(folder):
    (folder / "plan.yaml").write_text(PLAN, encoding="utf-8")
    command(folder, "run", "plan.yaml", "--out", "run")
    return folder / "run"


def test_rows_are_latents_and_pictures_those_of_the_decoder(model, data, tmp_path):
    how = described(model)
    assert (how.shape, how.decoded, how.row_shape, how.empty) == ((4, 8, 8), (3, 16, 16), (3, 16, 16), 3)
    task, files = ImageGeneration(steps=4), write_side_files(model, tmp_path / "files")
    rows = data.split("train")
    batches = list(task.batches(rows, files, batch_size=8))
    pictures = torch.from_numpy(task.read(rows, range(len(rows)), how))
    with torch.inference_mode():
        expected = (model.component("vae").module.encode(pictures).latent_dist.mode() - 0.1) * 0.5
    torch.testing.assert_close(torch.cat([batch["clean"] for batch in batches]), expected, atol=1e-5, rtol=1e-4)
    assert not (files / "unet" / "diffusion_pytorch_model.safetensors").exists(), "what is trained is no side file"


def test_rows_are_encoded_once(model, data, tmp_path):
    """What was kept is read again, for these rows alone."""
    task, files = ImageGeneration(steps=4), write_side_files(model, tmp_path / "files")
    count, told = len(data.split("train")), []
    for _ in range(2):
        task.ready(data.split("train"), files, told.append)
    done = [*range(16, count, 16), count]
    assert told == [Progress("latents", each, count, "rows") for each in done], "of what is not there yet"
    first = next(iter(task.batches(data.split("train"), files, batch_size=8)))
    (kept,) = files.glob("latents-*.npy")
    np.save(kept, np.zeros_like(np.load(kept)))
    again = next(iter(task.batches(data.split("train"), files, batch_size=8)))
    assert first["clean"].abs().max() > 0
    assert again["clean"].abs().max() == 0
    other = next(iter(task.batches(data.split("test"), files, batch_size=8)))
    assert other["clean"].abs().max() > 0


def test_our_network_draws_latents_too(data, tmp_path):
    parts = {"model": shaken(lambda: DiT(8, 4, 3, patch=4, width=16, blocks=1, heads=2)), "vae": decoder()}
    Model.wrap(parts, main="model").save(tmp_path / "ours")
    how = described(ImageGeneration(guidance=2).load(tmp_path / "ours", data, seed=0))
    assert (how.shape, how.decoded) == ((4, 8, 8), (3, 16, 16))


def test_a_measure_that_latents_do_not_have_is_refused_by_name(folder, tmp_path):
    (folder / "judged.yaml").write_text(f"metric: denoising-error\n{PLAN}")
    with pytest.raises(UnsupportedModel, match="denoising-error is not measured of this model; `metric:` may be"):
        run(load_plan(folder / "judged.yaml"), out=tmp_path / "run", store=tmp_path / "store")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (lambda: {"vae": decoder(latent_channels=2)}, "draws 4 channels, and its decoder takes latents of 2"),
        (lambda: {"vae": decoder(latents_mean=[0.0] * 4)}, "a mean and a deviation for each channel"),
        (lambda: {"vae": decoder(scaling_factor=0.0)}, "scales and shifts latents by 0.0 and 0.1, expected a number above 0"),
        (lambda: {"vae": decoder(shift_factor="much")}, "by 0.5 and 'much', expected"),
        (lambda: {"vae": decoder(), "text": DiT(8, 1, 3, width=8, heads=1, blocks=1)}, "several components"),
        (lambda: {"vae": DiT(8, 1, 3, width=8, heads=1, blocks=1)}, "`vae` is a DiT, and an AutoencoderKL"),
        (dict, "draws 4 channels, and pictures have 1 or 3"),
    ],
)
def test_what_is_no_decoder_of_it_is_refused(parts, said, data, tmp_path):
    network = DiT(8, 4, 3, patch=4, width=8, blocks=1, heads=1)
    Model.wrap({"model": network, **parts()}, main="model").save(tmp_path / "other")
    with pytest.raises(UnsupportedModel, match=said):
        ImageGeneration().load(tmp_path / "other", data, seed=0)


def test_a_decoder_that_is_named_and_not_there_is_told(folder, model, data, tmp_path):
    """A network of 3 channels would draw pictures else."""
    shutil.copytree(folder / "pretrained", tmp_path / "partly")
    (tmp_path / "partly" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"names a `vae`, and .*vae holds no weights"):
        ImageGeneration().load(tmp_path / "partly", data, seed=0)
    how = described(model).model_copy(update={"shape": (3, 8, 8)})
    network = DiT(8, 3, 3, patch=4, width=8, blocks=1, heads=1)
    Model.wrap(network, {FILE: how.written()}).save(tmp_path / "alone")
    with pytest.raises(SourceError, match="draws latents, and the `vae` that decodes them is not there"):
        ImageGeneration().load(tmp_path / "alone", data, seed=0)


def test_latents_of_another_decoder_are_no_lesson(model, tmp_path):
    other = model.copy()
    with torch.no_grad():
        other.component("vae").module.decoder.conv_out.bias.add_(0.1)
    for name, each in (("mine", model), ("equal", model), ("theirs", other)):
        each.save(tmp_path / name)
    for step in (DistillSteps(teacher="taught"), DistillLayers(teacher="taught")):
        with pytest.raises(UnsupportedModel, match="latents of teacher taught are decoded by another `vae`"):
            step.check(tmp_path / "mine", {"taught": tmp_path / "theirs"})
    DistillSteps(teacher="taught").check(tmp_path / "mine", {"taught": tmp_path / "equal"})


def test_few_rows_are_decoded_at_once(model, data, tmp_path):
    files = write_side_files(model, tmp_path / "files")
    feeds, order = ImageGeneration(steps=4).scored_feeds(data.split("train"), files)
    assert [len(feed["seed"]) for feed in feeds] == [16] * (len(order) // 16) + [len(order) % 16] * bool(len(order) % 16)


def test_what_latents_cannot_do_is_refused(model, data, tmp_path):
    how = described(model)
    step = Adaptive(teacher="source")
    with pytest.raises(UnsupportedModel, match="draws latents"):
        step._check(how, how)
    model.save_files(tmp_path)
    with pytest.raises(SourceError, match="cannot be read"):
        next(iter(ImageGeneration().batches(data.split("train"), tmp_path, batch_size=4)))
    with pytest.raises(UnsupportedModel, match="nothing to calibrate by"):
        ImageGeneration().calls(data.split("calibration"), tmp_path)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("quantize-static: {}", r"quantize-static: the model draws latents.*nothing to calibrate by"),
        ("quantize-weights: {}", r"quantize-weights quantises one graph, and the model has 2 \(model, decoder\)"),
        ("quantize-dynamic: {}", ""),
        (None, ""),
    ],
)
def test_what_quantises_no_latents_is_refused_before_anything_is_trained(folder, model, data, tmp_path, step, said):
    model.save_files(tmp_path)
    path = folder / "quantised.yaml"
    path.write_text(
        PLAN.replace("targets:", f"  - {step}\n    only: [onnxruntime]\ntargets:" if step else "targets:"), encoding="utf-8"
    )
    with pytest.raises(UnsupportedModel, match=said) if said else nullcontext():
        check_lowered(load_plan(path), {"source": tmp_path}, data)


def test_check_refuses_a_quantiser_of_one_graph_once_the_model_is_known(finished, tmp_path):
    path = finished.parent / "quantised.yaml"
    path.write_text(PLAN.replace("targets:", "  - quantize-weights: {}\n    only: [onnxruntime]\ntargets:"), encoding="utf-8")
    previewed(load_plan(finished.parent / "plan.yaml"), open_store(None))
    with pytest.raises(UnsupportedModel, match="quantize-weights quantises one graph"):
        previewed(load_plan(path), open_store(None))


# ------------------------------------------------------------------ a whole plan


def test_plan_trains_the_network_and_leaves_the_decoder_as_it_was(finished, model):
    report = read_report(finished)
    scores = {each.id: each.scores.main for each in report.candidates}
    assert scores["source@onnxruntime"].value != scores["final@onnxruntime"].value
    assert all(each.parity.max_abs < 1e-2 for each in report.candidates)
    final = Model.load(finished / "artifacts" / "final@pytorch")
    for name, changes in (("vae", False), ("unet", True)):
        pairs = zip(model.component(name).module.parameters(), final.component(name).module.parameters(), strict=True)
        assert any(not torch.equal(*pair) for pair in pairs) is changes
    assert described(final).evaluations == 2
    assert not list((finished / "artifacts").rglob("latents-*")), "rows are not shipped"


def test_export_ships_the_decoder_and_draws_a_grid(finished, tmp_path):
    out = tmp_path / "out"
    command(finished.parent, "export", "run", str(out), "--target", "onnxruntime")
    spec = json.loads((out / "spec.json").read_text())
    assert [graph["name"] for graph in spec["graphs"]] == ["model", "decoder"]
    assert "rows of test, each alone, what the run did" in (out / "README.md").read_text()
    assert not (out / "vae").exists() or not list((out / "vae").glob("*.safetensors")), "the encoder is not shipped"
    done = subprocess.run(
        [sys.executable, "-I", out / "example.py", "grid.png"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    built = finished / "artifacts" / "final@onnxruntime"
    task = ImageGeneration(**json.loads((built / "task.json").read_text())["parameters"])
    (picture,) = predictor(task, OnnxRuntime().open(built))(task.feed({"label": 1, "seed": 2}, built))["pictures"]
    assert picture.shape == (3, 16, 16)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (8 * 16, 3 * 16)
        pixels = np.asarray(grid).astype(np.float32)
    assert np.abs(pixels[16:32, 32:48] - ((picture.clip(-1, 1) + 1) * 127.5).round().transpose(1, 2, 0)).max() <= 1
