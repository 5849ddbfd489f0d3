"""Drawing pictures: what a model says of itself, one loop on every target, scores, training, export, from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from furnished import command
from PIL import Image

from compressor.contracts import Workload
from compressor.contracts.step import code_parts, step_parts
from compressor.deploy.session import eager, predictor
from compressor.errors import ExportDiffers, NotComparable, SourceError, UnsupportedModel
from compressor.export import export
from compressor.export.examples import example
from compressor.model import Model
from compressor.model.dit import DiT
from compressor.plan.specs import DataSpec
from compressor.report import read_report
from compressor.run.results import load_evaluation
from compressor.tasks.data import load_data
from compressor.tasks.generated.classifier import VERSION
from compressor.tasks.generation.description import FILE, Description, described, facts_of, output_of, scheduled
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.judging import JUDGE, ROWS, judge_in, judge_of
from compressor.tasks.generation.process import Process
from compressor.tasks.generation.side_by_side import first_of_classes, strip
from compressor.tasks.inputs.sampling import noise_of
from passes.diffusion.adaptive import Adaptive
from targets.eager import EagerTorch
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

TARGETS = {"pytorch": EagerTorch, "onnxruntime": OnnxRuntime, "openvino": OpenVino}
PLAN = """
name: pictures
stages: quality
model: {folder: pretrained}
task:
  image-generation: {steps: 4, guidance: 1.5, drop_labels: 0.2}
data: {files: images, format: imagefolder, split: {validation: 12, test: 12}, calibration: 8}
passes:
  - finetune: {steps: 4, batch_size: 8, precision: fp32, learning_rate: 1.0e-3, ema: 0.5}
    gate: {max_drop: 1000}
targets:
  - onnxruntime: {}
  - openvino: {}
  - pytorch: {}
probes:
  - latency: {rounds: 5, seconds: 2, warm_up_seconds: 0.05, control_limit: 0.9}
accept:
  - {target: onnxruntime, max_drop: 1000}
"""


@pytest.fixture(scope="module")
def task():
    return ImageGeneration(steps=4, guidance=1.5)


@pytest.fixture(scope="module")
def folder(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawing")
    task.tiny(folder)
    return folder


@pytest.fixture(scope="module")
def data(task, folder):
    spec = {"files": "images", "format": "imagefolder", "split": {"validation": 12, "test": 12}, "calibration": 8}
    return load_data(DataSpec.model_validate(spec), columns=task.columns(), seed=0, folder=folder)


@pytest.fixture(scope="module")
def finished(folder):
    (folder / "plan.yaml").write_text(PLAN, encoding="utf-8")
    command(folder, "run", "plan.yaml", "--out", "run")
    return folder / "run"


@pytest.fixture(scope="module")
def loaded(task, folder, data, tmp_path_factory):
    """The folder of the source model with what a task puts beside it."""
    out = tmp_path_factory.mktemp("loaded")
    task.load(folder / "pretrained", data, seed=0).save(out)
    return out


def test_source_says_how_it_draws_and_who_judges(task, folder, data, loaded, tmp_path):
    model = Model.load(loaded)
    how = described(model)
    assert (how.shape, how.classes, how.empty) == ((3, 16, 16), 3, 3)
    assert (how.process, how.sampling.steps, how.sampling.guidance, how.sampling.sampler) == (Process(), 4, 1.5, "dpm++2m")
    again = task.load(folder / "pretrained", data, seed=1)
    assert again.files == model.files
    (tmp_path / JUDGE).write_bytes(b"something else")
    with pytest.raises(SourceError, match="cannot be read"):
        judge_in(tmp_path)


def test_a_classifier_that_is_made_otherwise_is_another_key_and_another_judge(task, folder, data, loaded, monkeypatch):
    model, oracle = Model.load(loaded), Adaptive(teacher="source")
    read = partial(task.read, how=described(model))
    assert judge_of(model, data, read, task.columns(), [VERSION]) == {name: model.files[name] for name in (JUDGE, ROWS)}
    before = [code_parts(ImageGeneration), step_parts("adaptive", oracle)]
    monkeypatch.setattr("compressor.tasks.generated.classifier.VERSION", VERSION + 1)
    after = [code_parts(ImageGeneration), step_parts("adaptive", oracle)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, False]
    again = task.load(loaded, data, seed=0).files
    assert again[ROWS] != model.files[ROWS]
    assert again[JUDGE] != model.files[JUDGE]


def test_what_does_not_fit_is_refused(task, data, loaded, tmp_path):
    other = ImageGeneration(process=Process(kind="cosine", prediction="v"))
    with pytest.raises(SourceError, match="another process"):
        other.load(loaded, data, seed=0)
    Model.wrap(DiT(8, 1, 5, width=8, heads=2, blocks=1)).save(tmp_path / "five")
    with pytest.raises(SourceError, match="knows 5 classes, and the data has 3"):
        task.load(tmp_path / "five", data, seed=0)


def test_a_network_that_knows_no_classes_is_told_none(data, tmp_path):
    task = ImageGeneration(steps=2)
    Model.wrap(DiT(16, 3, 0, patch=8, width=8, heads=1, blocks=1)).save(tmp_path / "plain")
    model = task.load(tmp_path / "plain", data, seed=0)
    model.save(tmp_path / "loaded")
    batch = next(iter(task.batches(data.split("train"), tmp_path / "loaded", batch_size=8)))
    assert task.loss(task.forward(model.module, batch), batch).isfinite()
    (scored, *_), _ = task.scored_feeds(data.split("test"), tmp_path / "loaded")
    (timed,) = task.feeds(data.split("test"), tmp_path / "loaded", count=1)
    for feed in (scored, timed):
        assert eager(task, model, "cpu")(feed)["pictures"].shape[1:] == (3, 16, 16)


def test_networks_of_diffusers_are_read(task, data, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    sizes = {"sample_size": 16, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "norm_num_groups": 4}
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = diffusers.UNet2DModel(**sizes, **kinds, num_class_embeds=4)
    assert facts_of(unet) == ((3, 16, 16), 3, 3)
    plain = diffusers.UNet2DModel(**sizes, **kinds)
    assert facts_of(plain) == ((3, 16, 16), 0, None)
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "norm_num_groups": 4}
    dit = diffusers.DiTTransformer2DModel(
        **heads, in_channels=3, out_channels=6, sample_size=16, patch_size=4, num_embeds_ada_norm=3
    )
    assert facts_of(dit) == ((3, 16, 16), 3, 3)
    sample, time, label = torch.randn(2, 3, 16, 16), torch.tensor([3.0, 9.0]), torch.tensor([1, 3])
    for module in (unet, plain, dit):
        module.train(False)
        assert output_of(module, sample, time, label).shape == sample.shape
    unet.save_pretrained(tmp_path / "unet")
    how = described(task.load(tmp_path / "unet", data, seed=0))
    assert (how.classes, how.empty, how.process) == (3, 3, Process())
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(SourceError, match="no label that says nothing"):
        task.load(tmp_path / "plain", data, seed=0)


def test_last_label_of_a_unet_says_nothing_unless_the_data_has_as_many(data, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    sizes = {"sample_size": 16, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "norm_num_groups": 4}
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    diffusers.UNet2DModel(**sizes, **kinds, num_class_embeds=3).save_pretrained(tmp_path / "unet")
    how = described(ImageGeneration().load(tmp_path / "unet", data, seed=0))
    assert (how.classes, how.empty) == (3, None)
    with pytest.raises(SourceError, match="no label that says nothing"):
        ImageGeneration(guidance=2).load(tmp_path / "unet", data, seed=0)


def test_networks_that_draw_no_pictures_are_refused(data, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    sizes = {"sample_size": 16, "layers_per_block": 1, "norm_num_groups": 4, **kinds}
    for number, (module, said) in enumerate(
        (
            (DiT(16, 4, 3, patch=8, width=8, heads=1, blocks=1), "draws 4 channels, and pictures have 1 or 3"),
            (diffusers.UNet2DModel(**sizes, in_channels=6, out_channels=3), "draws 6 channels"),
        )
    ):
        Model.wrap(module).save(tmp_path / str(number))
        with pytest.raises(UnsupportedModel, match=said):
            ImageGeneration().load(tmp_path / str(number), data, seed=0)
    for module, said in (
        (diffusers.UNet2DModel(**sizes, in_channels=3, out_channels=3, class_embed_type="timestep"), "no network that draws"),
        (diffusers.UNet2DConditionModel(**sizes, cross_attention_dim=8), "UNet2DConditionModel is no network that draws"),
        (diffusers.AutoencoderKL(norm_num_groups=1, block_out_channels=(8,)), "AutoencoderKL is no network that draws"),
    ):
        with pytest.raises(UnsupportedModel, match=said):
            facts_of(module)


def test_labels_are_left_out_by_the_task_alone():
    """A DiT of diffusers does so itself while it trains, by another label in each block."""
    diffusers = pytest.importorskip("diffusers")
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "norm_num_groups": 4}
    dit = diffusers.DiTTransformer2DModel(
        **heads, in_channels=3, out_channels=6, sample_size=16, patch_size=4, num_embeds_ada_norm=3
    )
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        sample, label = torch.randn(1, 3, 16, 16).expand(64, 3, 16, 16), torch.ones(64, dtype=torch.long)
        told = [output_of(dit.train(on), sample, torch.full((64,), 5.0), label) for on in (False, True)]
    torch.testing.assert_close(*told)


def test_schedulers_of_diffusers_are_read():
    diffusers = pytest.importorskip("diffusers")

    def process(scheduler):
        return scheduled({"scheduler/scheduler_config.json": scheduler.to_json_string().encode()})

    assert process(diffusers.FlowMatchEulerDiscreteScheduler()) == Process()
    assert process(diffusers.EDMEulerScheduler(sigma_max=40.0)) == Process(kind="edm", prediction="edm", sigma_max=40.0)
    chain = process(diffusers.DDPMScheduler(50, prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"))
    assert chain == Process(kind="betas", prediction="v", betas="squaredcos_cap_v2", levels=50)
    assert scheduled({}) is None
    for other in (
        diffusers.DDPMScheduler(trained_betas=[0.1, 0.2]),
        diffusers.EDMEulerScheduler(prediction_type="v_prediction"),
        diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction"),
        diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=500),
    ):
        with pytest.raises(UnsupportedModel, match="no process that is known here"):
            process(other)


def test_batches_are_noisy_pictures_and_what_is_to_be_told(task, data, loaded):
    rows = data.split("train")
    first, again = (list(task.batches(rows, loaded, batch_size=8, shuffle_seed=3)) for _ in range(2))
    other = list(task.batches(rows, loaded, batch_size=8, shuffle_seed=4))
    assert all(torch.equal(one[name], two[name]) for one, two in zip(first, again, strict=True) for name in one)
    assert not torch.equal(first[0]["sample"], other[0]["sample"])
    for batch in first:
        t = batch["time"][:, None, None, None] / 1000
        torch.testing.assert_close(batch["sample"] - t * batch["target"], batch["clean"], atol=1e-5, rtol=1e-5)
        assert batch["clean"].abs().max() <= 1
        left = batch["label"] != batch["labels"]
        assert (batch["label"][left] == 3).all()
    assert 0 < sum(int((batch["label"] == 3).sum()) for batch in first) < len(rows) / 2


def test_noise_of_training_is_not_that_of_scores(task, data, loaded):
    """Whatever the seed: row 3 is scored from noise of seed 3."""
    batch = next(iter(task.batches(data.split("train"), loaded, batch_size=8, shuffle_seed=3)))
    noise = batch["target"] + batch["clean"]
    apart = np.abs(noise.numpy().ravel()[:, None] - noise_of([3], (3, 16, 16)).ravel()[None, :64]).min(0)
    assert np.median(apart) > 1e-6


def test_same_noise_gives_the_same_pictures_on_every_target(finished, data):
    test = data.split("test")
    drawn = {}
    for name, kind in TARGETS.items():
        built = finished / "artifacts" / f"final@{name}"
        task = ImageGeneration(**json.loads((built / "task.json").read_text())["parameters"])
        assert task.drawing == described(built)
        (feed,) = task.feeds(test, built, Workload(kind="sample", batch=3), count=1)
        drawn[name] = task.call(kind().open(built), feed, Workload(kind="sample", batch=3))["pictures"]
        assert drawn[name].shape == (3, 3, 16, 16)
        fewer = task.call(kind().open(built), feed, Workload(kind="sample", batch=3, steps=1))["pictures"]
        assert np.abs(fewer - drawn[name]).max() > 1e-3
    for name in ("onnxruntime", "openvino"):
        np.testing.assert_allclose(drawn[name], drawn["pytorch"], atol=2e-2 if name == "openvino" else 1e-4)


def test_plan_trains_scores_and_times(finished):
    report = read_report(finished)
    assert (report.outcome, report.task) == ("accepted", "image-generation")
    for candidate in report.candidates:
        distance, *others, accuracy, error = candidate.scores.metrics
        assert (distance.name, accuracy.name, error.name) == ("kernel-distance", "class-accuracy", "denoising-error")
        assert {each.name for each in others} > {"frechet-distance", "precision", "recall", "density", "coverage"}
        assert "; judge " in candidate.scores.of("judge-accuracy").interval.method
        assert (distance.better, distance.n) == ("lower", 12)
        assert distance.interval.low < distance.value < distance.interval.high
        assert 0 <= accuracy.value <= 1
        assert candidate.parity.max_abs < 1
    source, final = (
        next(each for each in report.candidates if each.id == f"{stage}@onnxruntime") for stage in ("source", "final")
    )
    assert source.scores.main.value != final.scores.main.value
    (record,) = report.probes
    assert {row.unit for row in record.rows} == {"samples"}
    assert {row.workload for row in record.rows} == {Workload(kind="sample")}


def test_report_shows_pictures_and_errors_side_by_side(finished):
    report = read_report(finished)
    validation, levels, test, of_files = report.notes
    assert list(validation.strips) == ["source", "finetune"]
    assert next(iter(test.strips)) == "source@onnxruntime"
    assert set(test.strips) == {f"{stage}@{name}" for stage in ("source", "final") for name in TARGETS}
    assert test.columns == validation.columns
    assert len(test.columns) == 3
    kept = load_evaluation(finished / "evaluations" / "final@onnxruntime")
    assert test.strips["final@onnxruntime"] == strip(kept.outputs["pictures"][first_of_classes(kept.truth["labels"])], "pictures")
    assert [len(note.rows) for note in (levels, of_files)] == [8, 8]
    assert levels.columns == ("time", "source", "finetune")
    told = [float(row[of_files.columns.index("final@onnxruntime")].split()[0]) for row in of_files.rows]
    assert told == pytest.approx([-kept.gains["denoising-error"][at::8].mean() for at in range(8)], abs=1e-4)
    page, text = ((finished / name).read_text() for name in ("report.html", "report.md"))
    for note in (validation, test):
        assert all(f'src="data:image/png;base64,{png}"' in page for png in note.strips.values())
        assert f"{note.title}: pictures of" in text
    assert "Score by noise level" in page
    assert "Score by noise level" in text
    assert [stage.effort for stage in report.stages] == [{"steps": 4, "evaluations": 8}] * 2


def test_judge_tells_the_classes_of_the_rows(data, loaded):
    accuracy = judge_in(loaded).space.accuracy
    assert accuracy.value > 0.8
    assert accuracy.n == len(data.split("validation"))


def test_real_pictures_score_better_than_noise(task, data, loaded):
    rows = data.split("test")
    noise = task.evaluate(lambda feed: {"pictures": feed["noise"]}, rows, loaded, split="test")
    real = next(iter(task.batches(rows, loaded, batch_size=12)))["clean"].numpy()
    same = task.evaluate(lambda feed: {"pictures": real[feed["seed"]]}, rows, loaded, split="test")
    assert same.scores.of("denoising-error").value == 0 < noise.scores.of("denoising-error").value
    assert same.scores.main.value < noise.scores.main.value
    assert same.scores.of("class-accuracy").value > 0.8
    changed = task.compare(same, noise, metric="class-accuracy", name="noise", seed=0)
    assert changed.change > 0
    assert changed.interval is not None
    paired = task.compare(same, noise, metric="frechet-distance", name="noise", seed=0)
    assert paired.change > 0
    nearer = task.compare(same, noise, metric="kernel-distance", name="noise", seed=0)
    lost = noise.scores.main.value - same.scores.main.value
    assert (nearer.unit, nearer.change) == ("points", pytest.approx(100 * lost)), "as large where the reference is about 0"
    noise.truth["judge"] = np.asarray(str(noise.truth["judge"]).replace('"digest":"', '"digest":"0'))
    with pytest.raises(NotComparable, match="figures of different networks"):
        task.compare(same, noise, metric="class-accuracy", name="noise", seed=0)


def test_a_person_names_a_label_and_a_seed(task, data, loaded):
    feed = task.feed({"label": 2, "seed": 7}, loaded)
    rows = task.feeds(data.split("test"), loaded, Workload(batch=8), count=1)[0]
    assert np.array_equal(feed["noise"][0], rows["noise"][7])
    assert feed["label"].tolist() == [2]
    (told,) = task.tell({"pictures": feed["noise"]}, ())
    assert [len(line) for line in told.text.splitlines()] == [16] * 16
    assert set(task.tell({"pictures": np.full((1, 3, 2, 2), np.nan)}, ())[0].text) == {"=", "\n"}, "what is no number is grey"
    for wrong in ("cat", {"label": 9}, {"label": float("inf")}, {"label": 1, "seed": -1}, {"label": 1, "seed": 2**63}):
        with pytest.raises(SourceError):
            task.feed(wrong, loaded)


def test_an_example_starts_from_the_same_bytes(task, tmp_path):
    """Of a chain, whose noisiest level is not all noise."""
    chain = Description(shape=(3, 16, 16), classes=3, process=Process(kind="betas", prediction="epsilon"))
    (tmp_path / FILE).write_bytes(chain.written())
    start = np.float32(json.loads(json.dumps(task.deployment(tmp_path, ()).draws["start"])))
    assert start < 1
    feed = task.feed({"label": 1, "seed": 7}, tmp_path)
    assert feed["noise"].dtype == np.float32
    assert np.array_equal(feed["noise"], start * noise_of([7], chain.shape))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_export_proves_its_loop_and_draws_a_grid(finished, tmp_path, name):
    out = tmp_path / "out"
    command(finished.parent, "export", "run", str(out), "--target", name)
    readme = (out / "README.md").read_text()
    assert "rows of test, each alone, what the run did" in readme
    done = subprocess.run(
        [sys.executable, "-I", out / "example.py", "grid.png"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 x 8 pictures, 8 evaluations each" in done.stdout
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (8 * 16, 3 * 16)
        pixels = np.asarray(grid).astype(np.float32)
    task = ImageGeneration(**json.loads((finished / "artifacts" / f"final@{name}" / "task.json").read_text())["parameters"])
    built = finished / "artifacts" / f"final@{name}"
    feed = task.feed({"label": 1, "seed": 2}, built)
    (picture,) = predictor(task, TARGETS[name]().open(built))(feed)["pictures"]
    expected = ((picture.clip(-1, 1) + 1) * 127.5).round().transpose(1, 2, 0)
    assert np.abs(pixels[16:32, 32:48] - expected).max() <= 1


def test_export_is_refused_where_its_loop_differs(finished, tmp_path, monkeypatch):
    import compressor.export as module

    monkeypatch.setattr(
        module, "example", lambda deployed: example(deployed).replace("made += before * last", "made -= before * last")
    )
    with pytest.raises(ExportDiffers, match=r"does not do what the run did with row .*: outputs differ by"):
        export(finished, "onnxruntime", tmp_path / "out")
