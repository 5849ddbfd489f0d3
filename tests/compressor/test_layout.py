"""What lies in an export, and that it is what loaders of the ecosystem look for; pictures of all kinds from a run to its exports."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressor.api import build_plan, run
from compressor.export import export
from compressor.tasks.tiny import image_model
from targets.openvino import OpenVino

FORMER = Path(__file__).parent / "former" / "openvino-export"
SIDES = ("bottom", "left", "right", "top")
TURNED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""By EXIF orientation how a picture lies in its file: the inverse of what turns it upright."""
KINDS = ("RGB", "RGB", "L", "CMYK", "P", "LA", "RGBA", "1")
TARGETS = ("onnxruntime", "openvino", "pytorch")


def picture(path: Path, number: int, orientation: int, kind: str, draw: random.Random) -> Path:
    """A picture with one bright side, as it is shown, in one of many ways to write it."""
    pixels = np.random.default_rng(number).integers(0, 60, (24, 24, 3), dtype=np.uint8)
    part = {"left": np.s_[:, :12], "right": np.s_[:, 12:], "top": np.s_[:12], "bottom": np.s_[12:]}[SIDES[number % 4]]
    pixels[part] += 170
    shown = Image.fromarray(pixels)
    if kind == "P":
        shown = shown.quantize(32)
        shown.info["transparency"] = 0
    elif kind != "RGB":
        shown = shown.convert(kind)
        if kind in ("LA", "RGBA"):
            shown.putalpha(draw.randrange(120, 255))
    lies = shown if TURNED[orientation] is None else shown.transpose(TURNED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    suffix = "jpg" if kind in ("RGB", "L", "CMYK") else "png"
    place = path / SIDES[number % 4] / f"{number}-{kind}-{orientation}.{suffix}"
    place.parent.mkdir(parents=True, exist_ok=True)
    lies.save(place, exif=exif.tobytes())
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A run on pictures of all kinds, and its exports."""
    folder, draw = tmp_path_factory.mktemp("pictures"), random.Random(0)
    image_model(folder / "pretrained")
    for number in range(128):
        picture(folder / "images", number, number // 4 % 8 + 1, KINDS[number // 32 + 4 * (number // 4 % 2)], draw)
    values = {
        "model": {"folder": "pretrained"},
        "task": {"image-classification": {}},
        "data": {"files": "images", "format": "imagefolder", "split": {"validation": 16, "test": 40}, "calibration": 8},
        "reference": "finetune",
        "stages": "quality",
        "passes": [{"finetune": {"epochs": 24, "learning_rate": 0.002, "precision": "fp32"}}],
        "targets": list(TARGETS),
    }
    run(build_plan(values, folder=folder), store=folder / "store", out=folder / "run")
    for target in TARGETS:
        export(folder / "run", target, folder / target)
    return folder


def kind_of(path: Path) -> tuple[str, int]:
    with Image.open(path) as image:
        return image.mode, image.getexif().get(0x0112, 1)


def told(folder: Path, *paths: Path) -> list[str]:
    done = subprocess.run([sys.executable, "example.py", *paths], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_pictures_of_all_kinds_are_told_by_an_export_as_they_were_in_the_run(place):
    report = json.loads((place / "run" / "report.json").read_text())
    final = next(each for each in report["candidates"] if each["id"] == "final@onnxruntime")
    accuracy = next(each["value"] for each in final["scores"]["metrics"] if each["name"] == "accuracy")
    paths = sorted((place / "images").rglob("*-*"))
    found = told(place / "onnxruntime", *paths)
    right = [label == path.parent.name for label, path in zip(found, paths, strict=True)]
    assert accuracy > 0.85
    assert sum(right) / len(right) > 0.85, "of a picture that lies as it is not shown a quarter is right"
    for orientation in TURNED:
        assert sum(each for each, path in zip(right, paths, strict=True) if path.stem.endswith(str(orientation))) > 11, (
            orientation
        )
    given = json.loads((place / "run" / "witnesses" / "rows.json").read_text())
    kept = {kind_of(place / "run" / "witnesses" / row["file"]) for row in given}
    assert {mode for mode, _ in kept} >= {"RGB", "L", "CMYK", "P", "LA", "RGBA", "1"}, "what the export proved itself on"
    assert {orientation for _, orientation in kept} >= set(TURNED)


def test_picture_of_16_bits_is_refused_by_the_example_as_by_the_run(place, tmp_path):
    Image.fromarray(np.full((24, 24), 40_000, np.uint16)).save(tmp_path / "deep.png")
    done = subprocess.run(
        [sys.executable, "example.py", tmp_path / "deep.png"],
        cwd=place / "onnxruntime",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "more than 8 bits a channel" in done.stderr


@pytest.mark.parametrize(
    ("target", "files", "loader"),
    [
        ("onnxruntime", {"model.onnx"}, "optimum.onnxruntime.ORTModelForImageClassification"),
        ("openvino", {"openvino_model.xml", "openvino_model.bin"}, "optimum.intel.OVModelForImageClassification"),
        ("pytorch", {"model.safetensors", "blueprint.json"}, "transformers.AutoModelForImageClassification"),
    ],
)
def test_export_lies_as_loaders_of_the_ecosystem_look_for_it(place, target, files, loader):
    from transformers import AutoConfig

    out = place / target
    always = {"config.json", "preprocessor_config.json", "labels.json", "spec.json", "example.py", "README.md", "LICENSES.md"}
    assert {path.name for path in out.iterdir()} == files | always | {"SHA256SUMS"}
    config = AutoConfig.from_pretrained(out)
    assert (config.model_type, config.num_labels) == ("vit", 4)
    assert config.id2label == dict(enumerate(SIDES))
    assert json.loads((out / "preprocessor_config.json").read_text())["image_processor_type"] == "ViTImageProcessor"
    assert json.loads((out / "spec.json").read_text())["loader"] == loader
    assert f"`{loader}.from_pretrained(FOLDER" in (out / "README.md").read_text()


def test_pipeline_of_transformers_tells_pictures_as_the_example_does(place):
    from transformers import pipeline

    paths = sorted((place / "images").rglob("*-RGB-*"))[:16]
    ask = pipeline("image-classification", model=str(place / "pytorch"))
    assert [ask(str(path))[0]["label"] for path in paths] == told(place / "pytorch", *paths)


# ------------------------------------------------------------------ files of before


def test_export_with_the_former_names_of_files_opens_and_its_example_runs(tmp_path):
    out = tmp_path / "out"
    shutil.copytree(FORMER, out)
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=False).returncode == 0
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    labels = json.loads((out / "labels.json").read_text())
    done = subprocess.run(
        [sys.executable, out / "example.py", tmp_path / "a.png"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1)
    outputs, _ = OpenVino().open(out).run({"pixel_values": (pixels[None] / 255 - 0.5) / 0.5})
    assert done == labels[int(outputs["logits"].argmax())]


def test_files_of_graphs_are_named_after_the_main_one_and_found_under_former_names(tmp_path):
    assert (OpenVino.file_of("model"), OpenVino.file_of("decoder")) == ("openvino_model.xml", "openvino_decoder.xml")
    (tmp_path / "decoder.xml").touch()
    assert OpenVino.file_of("decoder", tmp_path) == "model.xml".replace("model", "decoder")
    (tmp_path / "openvino_decoder.xml").touch()
    assert OpenVino.file_of("decoder", tmp_path) == "openvino_decoder.xml"
