"""Image classification: loading, preprocessing, batches, scores, and export with parity."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from furnished import lowered
from PIL import Image
from safetensors.torch import load_file, save_file

from compressor.contracts import Artifact, Graph, Port, Workload
from compressor.errors import SourceError
from compressor.model.model import Model
from compressor.plan.specs import DataSpec
from compressor.tasks.data import load_data
from compressor.tasks.image_classification import ImageClassification
from compressor.tasks.image_processors import completed, resized, shape_of, steps_of
from targets.onnxruntime import OnnxRuntime

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 60), "red": (210, 30, 20)}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
TASK = ImageClassification()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for number in range(8):
            pixels = np.asarray(colour) + noise.integers(-20, 20, size=(20 + number, 24, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
    spec = DataSpec(files=str(folder), format="imagefolder", split={"test": 0.25, "validation": 0.25})
    return load_data(spec, columns=TASK.columns(), seed=0, folder=folder)


def save(folder, family="vit", labels=None, **changes):
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}} if labels else {}
    if family == "vit":
        config = transformers.ViTConfig(intermediate_size=32, **SIZES, **names, **changes)
        kind = transformers.ViTForImageClassification if labels else transformers.ViTModel
    else:
        config = transformers.Dinov2Config(mlp_ratio=2, **SIZES, **names, **changes)
        kind = transformers.Dinov2ForImageClassification if labels else transformers.Dinov2Model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        kind(config).save_pretrained(folder)
    return folder


def test_pictures_that_nothing_resizes_are_refused_before_a_training(tmp_path, data):
    folder = save(tmp_path / "model", labels=sorted(COLOURS))
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}, "do_resize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    model = TASK.load(folder, data, seed=0)
    model.save(tmp_path / "stored")
    with pytest.raises(
        SourceError, match=r"is a picture of 24 x \d+ pixels, the model takes 16 x 16, and its image processor resizes nothing"
    ):
        TASK.check_rows(model, data, tmp_path / "stored")


def test_packed_weights_that_are_no_layers_are_refused(tmp_path, data):
    folder = save(tmp_path / "model", labels=sorted(COLOURS))
    tensors = load_file(folder / "model.safetensors")
    tensors["vit.embeddings.position_embeddings"] = tensors["vit.embeddings.position_embeddings"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"1 weights of type I8 \('vit.embeddings.position_embeddings'\)"):
        TASK.examine(folder, data.labels)


@pytest.fixture(scope="module", params=["vit", "dinov2"])
def stored(request, data, tmp_path_factory):
    """A loaded and saved model."""
    source = save(tmp_path_factory.mktemp("source"), request.param)
    out = tmp_path_factory.mktemp("stored")
    TASK.load(source, data, seed=3).save(out)
    return out


def test_load_draws_the_head_from_the_seed(data, tmp_path):
    source = save(tmp_path)
    first, again, other = (TASK.load(source, data, seed=seed).module.classifier.weight for seed in (3, 3, 4))
    assert data.labels == ("blue", "green", "red")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_load_refuses_a_head_for_other_labels(data, tmp_path):
    with pytest.raises(SourceError, match="not the same labels"):
        TASK.load(save(tmp_path, labels=["blue", "green", "pink"]), data, seed=0)


def test_load_puts_a_trained_head_into_the_order_of_the_data(data, tmp_path):
    source = save(tmp_path, labels=["red", "blue", "green"])
    before = transformers.ViTForImageClassification.from_pretrained(source).classifier.weight
    model = TASK.load(source, data, seed=0)
    assert torch.equal(model.module.classifier.weight, before[[1, 2, 0]])
    assert model.module.config.id2label == {0: "blue", 1: "green", 2: "red"}


def test_inputs_are_the_same_for_a_model_and_its_folder(stored):
    ports = (Port("pixel_values", "float32", ("batch", 3, 16, 16)),)
    assert TASK.inputs(stored) == TASK.inputs(Model.load(stored)) == ports
    assert TASK.example(stored, Graph(), batch=2, length=99)["pixel_values"].shape == (2, 3, 16, 16)


def test_batches_hold_every_row_once(data, stored):
    rows = data.split("train")
    batches = TASK.batches(rows, stored, batch_size=5, shuffle_seed=1)
    found = list(batches)
    order = [int(row) for batch in found for row in batch["row"]]
    assert len(batches) == len(found) == -(-len(rows) // 5)
    assert sorted(order) == list(range(len(rows)))
    assert order != sorted(order)
    assert [int(label) for batch in found for label in batch["labels"]] == [rows["label"][row] for row in order]
    plain = torch.cat([batch["pixel_values"] for batch in TASK.batches(rows, stored, batch_size=4)])
    assert plain.shape == (len(rows), 3, 16, 16)
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in found]), plain[order])
    outputs = TASK.forward(Model.load(stored).module, found[0])
    assert TASK.loss(outputs, found[0]).isfinite()


def test_feeds_are_full_batches(data, stored):
    rows = data.split("test")
    assert [feed["pixel_values"].shape[0] for feed in TASK.feeds(rows, stored, Workload(batch=4, length=128))] == [4] * (
        len(rows) // 4
    )
    assert len(TASK.feeds(rows, stored, count=2)) == 2
    with pytest.raises(SourceError, match="too few"):
        TASK.feeds(rows, stored, Workload(batch=100))


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 16, "width": 12}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7], "resample": 3},
        {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True, "resample": 3},
        {"size": {"shortest_edge": 14}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True},
        {"size": {"height": 16, "width": 16}, "do_normalize": False, "rescale_factor": 0.01},
        {"size": 16},
    ],
)
def test_pixels_are_those_of_transformers(data, tmp_path, settings):
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    rows = data.split("test")
    ours = TASK.feeds(rows, tmp_path)
    processor = ViTImageProcessorPil(**settings)
    for feed, image in zip(ours, rows["image"], strict=True):
        theirs = processor(image, return_tensors="np")["pixel_values"]
        np.testing.assert_allclose(feed["pixel_values"], theirs, atol=1e-5)


def test_image_that_cannot_be_read_is_named_before_anything_runs(tmp_path):
    folder = tmp_path / "images"
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (16, 16), (*colour[:2], number)).save(folder / name / f"{number}.png")
    broken = folder / "red" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(SourceError) as raised:
        load_data(DataSpec(files=str(folder), format="imagefolder"), columns=TASK.columns(), seed=0, folder=tmp_path)
    assert str(raised.value).startswith(f"{broken} cannot be read as an image: ")


def test_settings_that_leave_the_size_open_are_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 16}}))
    with pytest.raises(SourceError, match="same size"):
        TASK.inputs(tmp_path)


def test_export_runs_and_scores_as_torch_does(data, stored, tmp_path):
    target = OnnxRuntime()
    graph = lowered(Artifact("torch", stored), "onnxruntime", tmp_path / "graph", task=TASK, dialect=target.dialect)
    built = tmp_path / "built"
    built.mkdir()
    target.build(graph, built)
    session, module = target.open(built), Model.load(stored).module

    def eager(feed):
        with torch.no_grad():
            return {"logits": module(torch.from_numpy(feed["pixel_values"])).logits.numpy()}

    rows = data.split("test")
    expected = TASK.evaluate(eager, rows, stored, split="test")
    found = TASK.evaluate(lambda feed: session.run(feed)[0], rows, stored, split="test")
    assert expected.outputs["logits"].shape == (len(rows), 3)
    assert [each.label for each in expected.scores.per_class] == ["blue", "green", "red"]
    np.testing.assert_allclose(found.outputs["logits"], expected.outputs["logits"], atol=1e-4)
    assert found.scores == expected.scores
    one = TASK.feeds(rows, stored, count=1)[0]
    np.testing.assert_allclose(session.run(one)[0]["logits"], expected.outputs["logits"][:1], atol=1e-4)


# ------------------------------------------------------------------ pictures of another size


@pytest.mark.parametrize(
    ("settings", "edge"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, 32),
        ({"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256}, "crop_size": 224}, 112),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224}}, 160),
        ({"image_processor_type": "DeiTImageProcessor"}, 64),
        ({"image_processor_type": "EfficientNetImageProcessor"}, 128),
        ({"image_processor_type": "PoolFormerImageProcessor"}, 96),
        ({"size": 16, "do_resize": False}, 24),
    ],
)
def test_pictures_are_made_as_large_as_the_task_asks(settings, edge):
    values = completed(settings, {})
    assert shape_of(steps_of(resized(values, edge)))[1:] == (edge, edge)
    first = next(step for step in steps_of(values) if step["do"] == "resize") if values["do_resize"] else None
    if first and "shortest_edge" in first:
        again = next(step for step in steps_of(resized(values, edge)) if step["do"] == "resize")
        share = shape_of(steps_of(values))[1] / first["shortest_edge"]
        assert edge / again["shortest_edge"] == pytest.approx(share, rel=0.02), "a crop leaves as much of a picture as before"


def test_size_holds_from_loading_to_the_exported_file(data, tmp_path):
    source, larger = save(tmp_path / "source", "dinov2"), ImageClassification(size=24)
    assert TASK.sizes(data, source).takes == "16 x 16 pixels (its own size; `size:` makes it another)"
    found = larger.sizes(data, source)
    assert (found.takes, found.limit, found.least) == ("24 x 24 pixels", 24, 20)
    larger.load(source, data, seed=3).save(tmp_path / "stored")
    assert larger.inputs(tmp_path / "stored")[0].axes == ("batch", 3, 24, 24)
    assert shape_of(larger.deployment(tmp_path / "stored", ()).preprocessing["steps"]) == (3, 24, 24)
    target, built = OnnxRuntime(), tmp_path / "built"
    stored = Artifact("torch", tmp_path / "stored")
    graph = lowered(stored, "onnxruntime", tmp_path / "graph", task=larger, dialect=target.dialect)
    built.mkdir()
    target.build(graph, built)
    (feed,) = larger.feeds(data.split("test"), tmp_path / "stored", count=1)
    with torch.no_grad():
        expected = Model.load(tmp_path / "stored").module.eval()(torch.from_numpy(feed["pixel_values"])).logits
    np.testing.assert_allclose(target.open(built).run(feed)[0]["logits"], expected, atol=1e-4)


@pytest.mark.parametrize("way", ["examine", "load"])
def test_model_that_takes_one_size_only_refuses_another(data, tmp_path, way):
    source, larger = save(tmp_path), ImageClassification(size=24)
    use = {"examine": lambda: larger.examine(source, data.labels), "load": lambda: larger.load(source, data, seed=0)}[way]
    with pytest.raises(SourceError, match=r"size: 24: .* takes pictures of its own size only, 16 pixels: leave size out"):
        use()
    with pytest.raises(SourceError, match=r"size: 20 is no multiple of the patches of .*, 8 pixels wide"):
        ImageClassification(size=20).examine(source, data.labels)


def test_what_is_not_about_sizes_is_told_as_it_is(data, tmp_path, monkeypatch):
    source, larger = save(tmp_path), ImageClassification(size=24)

    def exhausted(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(transformers.ViTForImageClassification, "forward", exhausted)
    with pytest.raises(SourceError, match=r"size: 24: .* cannot be tried on such pictures: RuntimeError: CUDA out of memory"):
        larger.load(source, data, seed=0)


@pytest.mark.parametrize("way", ["examine", "load"])
@pytest.mark.parametrize(
    ("settings", "made"),
    [({"size": {"height": 24, "width": 24}}, "3 x 24 x 24"), ({"image_mean": [0.5], "image_std": [0.5]}, "1 x ")],
)
def test_processor_that_makes_what_its_model_does_not_take_is_refused(data, tmp_path, way, settings, made):
    source = save(tmp_path)
    kept = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (source / "preprocessor_config.json").write_text(json.dumps({**kept, **settings}))
    use = {"examine": lambda: TASK.examine(source, data.labels), "load": lambda: TASK.load(source, data, seed=0)}[way]
    with pytest.raises(
        SourceError, match=f"its image processor makes {made}.* numbers of a picture .* and its model does not take"
    ):
        use()


def test_picture_that_would_fill_the_memory_is_named_when_rows_are_read(tmp_path):
    save(tmp_path)
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 16},
        "crop_size": {"height": 16, "width": 16},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "set").mkdir()
    for number in range(6):
        folder = tmp_path / "set" / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        Image.new("L", (9000, 1) if number == 3 else (20, 16), 40 * number).save(folder / f"{number}.png")
    spec = DataSpec(files="set", format="imagefolder", split={"test": 2, "validation": 2})
    rows = load_data(spec, columns=TASK.columns(), seed=0, folder=tmp_path)
    with pytest.raises(
        SourceError, match=r"b/3\.png is a picture of 9000 x 1 pixels: .* edge of 16 it would be 144000 pixels long"
    ):
        TASK.check_rows(None, rows, tmp_path)
