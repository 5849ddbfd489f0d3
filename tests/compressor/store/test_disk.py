"""A full disk, on a real file system of a megabyte, met by everything here that writes files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CODE = """
import json, resource, shutil, sys
from pathlib import Path
import numpy as np, onnx, onnxruntime, openvino, torch
from onnx import helper, numpy_helper
from safetensors.torch import save_file
from compressor.store.disk import writing
from compressor.errors import StoreError
from compressor.run.run_folder import claimed
from compressor.store.store import MARK, Store

small, roomy = Path(sys.argv[1]), Path(sys.argv[2])
weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(900, 900)).astype(np.float32), "w")
ports = [helper.make_tensor_value_info(name, 1, [1, 900]) for name in "xy"]
graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ports[:1], ports[1:], [weight])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnx.save(model, roomy / "model.onnx")

def optimise(out):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(out / "model.onnx")
    onnxruntime.InferenceSession(roomy / "model.onnx", options, providers=["CPUExecutionProvider"])

makers = {
    "python": lambda out: (out / "file").write_bytes(b"x" * 3_000_000),
    "numpy": lambda out: np.savez(out / "rows.npz", rows=np.random.default_rng(0).normal(size=400_000)),
    "safetensors": lambda out: save_file({"a": torch.zeros(900, 900)}, out / "model.safetensors"),
    "onnx": lambda out: onnx.save(model, out / "model.onnx"),
    "copy": lambda out: shutil.copyfile(roomy / "model.onnx", out / "model.onnx"),
    "copy of a folder": lambda out: shutil.copytree(roomy, out, dirs_exist_ok=True),
    "onnxruntime": optimise,
    "openvino": lambda out: openvino.save_model(openvino.convert_model(roomy / "model.onnx"), out / "m.xml", False),
}
def attempt(action):
    try:
        action()
        return "no error"
    except StoreError as error:
        return str(error)

def write(maker):
    return lambda out: maker(out) and {} or {}

store, said = Store(small / "store"), {}
for name, maker in makers.items():
    said[name] = attempt(lambda: store.obtain({"step": name}, write(maker)))
    left = [str(path) for path in small.rglob("*") if path.is_file() and not path.name.startswith(MARK)]
    assert left == [], left
    assert store.obtain({"step": "afterwards " + name}, lambda out: {}).found is False
    shutil.rmtree(small / "store" / "results")
(small / "rest").write_bytes(b"x" * 900_000)
while True:
    try:
        with (small / "rest").open("ab") as rest:
            rest.write(b"x" * 1024)
    except OSError:
        break
said["lock"] = attempt(lambda: store.obtain({"step": "lock"}, lambda out: {}))
def claim():
    with claimed(small / "run", "name: tiny"):
        pass
said["run folder"] = attempt(claim)
print(json.dumps(said))
"""
LIMIT = """
import resource, sys
from pathlib import Path
from compressor.errors import StoreError
from compressor.store.store import MARK, Store
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    Store(Path(sys.argv[1])).obtain({"step": "a"}, lambda out: (out / "file").write_bytes(b"x" * 200_000) and {})
except StoreError as error:
    print(error, [str(path) for path in Path(sys.argv[1]).rglob("*") if path.is_file() and not path.name.startswith(MARK)])
"""


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OPENVINO_TELEMETRY_OPT_OUT": "1"}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each writer's failure became, by writer; in a mount namespace of its own, which needs Linux and user namespaces."""
    small, roomy = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("roomy")
    mounted = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"',
        str(small),
    ]
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a file system of their own")
    command = [*mounted, sys.executable, "-c", CODE, str(small), str(roomy)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("writer", "why"),
    [
        ("python", "no space left on device"),
        ("numpy", "no space left on device"),
        ("safetensors", "no space left on device"),
        ("onnx", "no space left on device"),
        ("copy", "no space left on device"),
        ("copy of a folder", "no space left on device"),
        ("onnxruntime", "ONNX Runtime could not write a model, most likely for want of space"),
        ("openvino", "OpenVINO could not write a model, most likely for want of space"),
        ("lock", "no space left on device"),
        ("run folder", "no space left on device"),
    ],
)
def test_full_disk_is_told_with_its_path_and_what_to_do_and_nothing_half_is_left(said, writer, why):
    text = said[writer]
    assert "/small" in text.partition(" cannot be written: ")[0]
    assert f" cannot be written: {why} (" in text
    assert (
        " MB free). Make room, for example with `compressor store prune --older-than 30d`, and run the same command again" in text
    )


def test_file_larger_than_the_system_allows_is_told_too(tmp_path):
    ran = subprocess.run([sys.executable, "-c", LIMIT, str(tmp_path)], capture_output=True, text=True, env=environment())
    assert "cannot be written: file too large (" in ran.stdout, ran.stderr
    assert ran.stdout.rstrip().endswith("[]")
