"""What lies in an export, and that it is what loaders of the ecosystem look for; pictures of all kinds from a run to its exports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image

from compressor.api import build_plan, run
from compressor.export import export
from compressor.export.witnesses import digest
from compressor.tasks.tiny import shaken
from targets.openvino import OpenVino

FORMER = Path(__file__).parent / "former" / "openvino-export"
COLORS = ("dark", "light")
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
"""By EXIF orientation how a picture lies in its file."""
INVERSE = {**TURNED, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}
"""What turns it upright."""
KINDS = ("RGB", "L", "CMYK", "P", "LA", "RGBA", "1")
TARGETS = ("onnxruntime", "pytorch")
EDGE = 16


def picture(folder: Path, number: int) -> None:
    """A picture in one of many ways to write it, beside its pixels as they are shown."""
    orientation, kind = number % 8 + 1, KINDS[number % len(KINDS)]
    pixels = np.random.default_rng(number).integers(0, 255, (EDGE, EDGE, 3), dtype=np.uint8)
    shown = Image.fromarray(pixels)
    if kind == "P":
        shown = shown.quantize(32)
        shown.info["transparency"] = 0
    elif kind != "RGB":
        shown = shown.convert(kind)
        if kind in ("LA", "RGBA"):
            shown.putalpha(100 + number)
    lies = shown if TURNED[orientation] is None else shown.transpose(TURNED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    place = folder / COLORS[number % 2] / f"{number}.{'jpg' if kind in ('L', 'CMYK') else 'png'}"
    place.parent.mkdir(parents=True, exist_ok=True)
    lies.save(place, exif=exif.tobytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A run on pictures of all kinds, and its exports."""
    folder = tmp_path_factory.mktemp("pictures")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=EDGE, patch_size=8, id2label=dict(enumerate(COLORS)), **sizes)
    shaken(lambda: transformers.ViTForImageClassification(config)).save_pretrained(folder / "model")
    for number in range(8 * len(KINDS)):
        picture(folder / "images", number)
    values = {
        "model": {"folder": "model"},
        "task": {"image-classification": {}},
        "data": {"files": "images", "format": "imagefolder", "split": {"validation": 4, "test": 48}, "calibration": 2},
        "passes": [{"fold": {}, "only": ["onnxruntime"]}],
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


def kept(place: Path) -> list[tuple[Path, dict]]:
    """Files of the rows that the run kept, with what it made of them."""
    folder = place / "run" / "witnesses"
    files = {row["row"]: folder / row["file"] for row in json.loads((folder / "rows.json").read_text())}
    answers = json.loads((folder / "final@onnxruntime" / "answers.json").read_text())
    return [(files[answer["row"]], answer) for answer in answers]


def test_pictures_of_all_kinds_are_fed_upright_and_in_colour_by_the_run_as_by_its_export(place):
    found = kept(place)
    kinds = {kind_of(file) for file, _ in found}
    assert {mode for mode, _ in kinds} == set(KINDS)
    assert {orientation for _, orientation in kinds} == set(TURNED)
    for file, answer in found:
        with Image.open(file) as image:
            lies = image.convert("RGB")
            back = INVERSE[image.getexif()[0x0112]]
        upright = lies if back is None else lies.transpose(back)
        scaled = (np.asarray(upright).astype(np.float64) / 255).astype(np.float32).transpose(2, 0, 1)
        pixels = (scaled - np.float32(0.5)) / np.float32(0.5)
        assert digest(np.ascontiguousarray(pixels[None])) == answer["inputs"]["pixel_values"], file
    assert told(place / "onnxruntime", *(file for file, _ in found)) == [answer["told"] for _, answer in found]


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
        ("pytorch", {"model.safetensors", "blueprint.json"}, "transformers.AutoModelForImageClassification"),
    ],
)
def test_export_lies_as_loaders_of_the_ecosystem_look_for_it(place, target, files, loader):
    out = place / target
    always = {"config.json", "preprocessor_config.json", "labels.json", "spec.json", "example.py", "README.md", "LICENSES.md"}
    assert {path.name for path in out.iterdir()} == files | always | {"SHA256SUMS"}
    config = transformers.AutoConfig.from_pretrained(out)
    assert (config.model_type, config.num_labels) == ("vit", 2)
    assert config.id2label == dict(enumerate(COLORS))
    assert json.loads((out / "preprocessor_config.json").read_text())["image_processor_type"] == "ViTImageProcessor"
    assert json.loads((out / "spec.json").read_text())["loader"] == loader
    assert f"`{loader}.from_pretrained(FOLDER" in (out / "README.md").read_text()


def test_pipeline_of_transformers_tells_pictures_as_the_example_does(place):
    answers = kept(place)[:12]
    ask = transformers.pipeline("image-classification", model=str(place / "pytorch"))
    assert [ask(str(file))[0]["label"] for file, _ in answers] == [answer["told"] for _, answer in answers]


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
