"""NNCF's quantisers, on a representation of one look-up and two products whose values are seen by hand."""

from __future__ import annotations

import ctypes
import io
import sys
import threading
from contextlib import redirect_stdout

import numpy as np
import pytest

from compressor.deploy.openvino import core, in_thread
from passes.quantization.quantizers import nncf as quantizers
from passes.quantization.quantizers.nncf_weights import compress
from passes.quantization.quantizers.weight_layers import Wanted

DRAW = np.random.default_rng(0)
TABLE = (DRAW.normal(size=(300, 8)) * np.linspace(0.1, 3, 8)).astype(np.float32)
ONE, TWO = (DRAW.normal(size=(8, 8)).astype(np.float32) for _ in range(2))
IDS = DRAW.integers(0, 300, (4, 5))
LAYERS = ("net/table", "net/one", "net/two")


@pytest.fixture
def made_in(monkeypatch):
    """The threads that make cores of OpenVINO's while a test runs."""
    import openvino

    threads = []

    class Told(openvino.Core):
        def __init__(self, *given):
            threads.append(threading.current_thread())
            super().__init__(*given)

    for module in (openvino, sys.modules[openvino.compile_model.__module__]):
        monkeypatch.setattr(module, "Core", Told)
    core.cache_clear()
    yield threads
    core.cache_clear()


def product(rows, weight, name, *, across):
    from openvino import opset13

    made = opset13.matmul(rows, opset13.constant(weight), False, across)
    made.set_friendly_name(name)
    return made


def saved(out, inputs, path):
    import openvino

    openvino.save_model(openvino.Model([out], inputs, "net"), path, compress_to_fp16=False)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Rows of a table through `rows @ ONE.T`, what is above 0 of it, and `@ TWO`."""
    from openvino import opset13

    ids = opset13.parameter(["?", "?"], np.int64)
    ids.output(0).set_names({"ids"})
    rows = opset13.gather(opset13.constant(TABLE), ids, opset13.constant(0))
    rows.set_friendly_name("net/table/Gather")
    inner = opset13.relu(product(rows, ONE, "net/one/MatMul", across=True))
    return saved(product(inner, TWO, "net/two/MatMul", across=False), [ids], tmp_path_factory.mktemp("nncf") / "model.xml")


def expected(ids):
    return np.maximum(TABLE[ids] @ ONE.T, 0) @ TWO


def feeds():
    return [{"ids": IDS[at : at + 1], "unused": np.zeros(3)} for at in range(len(IDS))]


@pytest.fixture(scope="module")
def int8(path):
    said = io.StringIO()
    with redirect_stdout(said):
        made = quantizers.quantize_static(path, feeds())
    assert said.getvalue() == ""
    return made


def opened(model):
    return core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def run(model, ids):
    return opened(model)({"ids": ids})[0]


def read(path):
    return core().read_model(str(path))


def op(model, name):
    return next(each for each in model.get_ordered_ops() if each.get_friendly_name() == name)


def kinds(model, name):
    """What the inputs of a node are made by."""
    return [each.get_node().get_type_name() for each in op(model, name).input_values()]


def bytes_of(model, name, number):
    """The int8 constant that an input of a node is scaled back from."""
    return op(model, name).input_value(number).get_node().input_value(0).get_node().input_value(0).get_node().data


def test_tables_and_both_inputs_of_products_are_quantised_by_layer(int8):
    assert int8.layers == LAYERS
    assert int8.nodes == {layer: (f"{layer}/{kind}",) for layer, kind in zip(LAYERS, ("Gather", "MatMul", "MatMul"), strict=True)}
    assert kinds(int8.int8, "net/table/Gather")[0] == "Multiply"
    assert kinds(int8.int8, "net/one/MatMul") == ["FakeQuantize", "Multiply"]
    assert kinds(int8.int8, "net/two/MatMul") == ["FakeQuantize", "Multiply"]


def test_float_model_stays_as_it_was_beside_it(int8):
    assert kinds(int8.exact, "net/one/MatMul") == ["Gather", "Constant"]
    np.testing.assert_allclose(run(int8.exact, IDS), expected(IDS), rtol=1e-4, atol=1e-4)


def test_what_is_written_is_near_the_float_model_and_not_it(int8, tmp_path):
    int8.write(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    found, right = run(read(tmp_path / "model.xml"), IDS), expected(IDS)
    error = np.abs(found - right).max() / np.abs(right).max()
    assert 1e-4 < error < 0.05
    assert bytes_of(read(tmp_path / "model.xml"), "net/one/MatMul", 1).dtype == np.int8


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_that_is_left_reads_exact_values_and_the_others_do_not(int8, tmp_path, layer):
    int8.write(tmp_path, (layer,))
    model = read(tmp_path / "model.xml")
    for name in LAYERS:
        node = f"{name}/{'Gather' if name.endswith('table') else 'MatMul'}"
        rounded = {"FakeQuantize", "Multiply"} & set(kinds(model, node)[1:] if name != "net/table" else kinds(model, node))
        assert bool(rounded) == (name != layer), node
    assert "FakeQuantize" not in kinds(model, f"{layer}/MatMul" if layer != "net/table" else "net/table/Gather")
    assert kinds(int8.int8, "net/one/MatMul") == ["FakeQuantize", "Multiply"], "the model that is kept stays"


def test_with_all_layers_left_it_computes_what_the_float_model_does(int8, tmp_path):
    int8.write(tmp_path, LAYERS)
    model = read(tmp_path / "model.xml")
    assert "FakeQuantize" not in {each.get_type_name() for each in model.get_ordered_ops()}
    np.testing.assert_allclose(run(model, IDS), expected(IDS), rtol=1e-3, atol=1e-4)


def test_layers_that_are_left_out_from_the_beginning_have_float_constants(path):
    made = quantizers.quantize_static(path, feeds(), exclude=("one", "table"))
    assert made.layers == ("net/two",)
    assert kinds(made.int8, "net/one/MatMul")[1] == "Constant"
    assert kinds(made.int8, "net/table/Gather")[0] == "Constant"
    assert kinds(made.int8, "net/two/MatMul") == ["FakeQuantize", "Multiply"]


def test_weights_of_seven_bits_take_half_the_range(path, int8):
    seven = quantizers.quantize_static(path, feeds(), bits=7)
    for layer in ("net/one", "net/two"):
        assert np.abs(bytes_of(int8.int8, f"{layer}/MatMul", 1).astype(int)).max() >= 127
        assert np.abs(bytes_of(seven.int8, f"{layer}/MatMul", 1).astype(int)).max() <= 64


def test_compressed_weights_are_bytes_and_activations_stay_in_float(path, tmp_path):
    said = io.StringIO()
    with redirect_stdout(said):
        quantizers.compress_weights(path, tmp_path / "model.xml")
    assert said.getvalue() == ""
    model = read(tmp_path / "model.xml")
    assert "FakeQuantize" not in {each.get_type_name() for each in model.get_ordered_ops()}
    assert {str(each.get_element_type()) for each in model.get_ordered_ops() if each.get_type_name() == "Constant"} & {
        "<Type: 'uint8_t'>"
    }, "with a zero point for each row"
    error = np.abs(run(model, IDS) - expected(IDS)).max() / np.abs(expected(IDS)).max()
    assert 1e-5 < error < 0.05


# ------------------------------------------------------------------ graphs made by hand


def by_hand(*, weight, scaled="factors", across=False):
    """`(x * 2) @ weight` as it is, and with what it reads rounded; the scaling is a smoothing by its name only."""
    from openvino import opset13

    made = []
    for rounds in (False, True):
        x = opset13.parameter(["?", 2], np.float32)
        x.output(0).set_names({"x"})
        rows = opset13.multiply(x, opset13.constant(np.float32([[2, 4]])))
        rows.set_friendly_name(scaled)
        held = opset13.constant(weight)
        if rounds:
            ends = [opset13.constant(np.float32(end)) for end in (-8, 8, -8, 8)]
            rows = opset13.fake_quantize(rows, *ends, 256)
            held = opset13.multiply(
                opset13.convert(opset13.constant(np.round(weight / 0.1).astype(np.int8)), "f32"),
                opset13.constant(np.float32(0.1)),
            )
        out = opset13.matmul(rows, held, False, across)
        out.set_friendly_name("p/MatMul")
        import openvino

        made.append(openvino.Model([out], [x], "net"))
    return made


WEIGHT = np.float32([[1.23, -0.57], [0.31, 0.88], [0.11, 0.42]])
X = np.float32([[0.3, -0.7], [1.1, 0.2]])


def test_a_scaling_that_is_none_of_smoothing_leaves_weights_as_they_were():
    exact, int8 = by_hand(weight=WEIGHT.T)
    back = quantizers.put_back(int8, exact, {"p/MatMul"})
    np.testing.assert_allclose(opened(back)({"x": X})[0], (X * [2, 4]) @ WEIGHT.T, rtol=1e-5)
    assert kinds(back, "p/MatMul") == ["Multiply", "Constant"]
    assert kinds(int8, "p/MatMul") == ["FakeQuantize", "Multiply"]


@pytest.mark.parametrize("across", [False, True])
def test_exact_weights_are_divided_by_what_smoothing_scaled_the_rows_by(across):
    weight = WEIGHT if across else np.ascontiguousarray(WEIGHT.T)
    exact, int8 = by_hand(weight=weight, scaled="x/nncf_smooth_quant", across=across)
    back = quantizers.put_back(int8, exact, {"p/MatMul"})
    np.testing.assert_allclose(opened(back)({"x": X})[0], X @ WEIGHT.T, rtol=1e-5)


def test_nodes_that_are_not_named_stay_rounded():
    exact, int8 = by_hand(weight=WEIGHT.T)
    same = quantizers.put_back(int8, exact, {"q/MatMul"})
    assert kinds(same, "p/MatMul") == ["FakeQuantize", "Multiply"]
    np.testing.assert_array_equal(opened(same)({"x": X})[0], opened(int8)({"x": X})[0])


def test_a_product_with_another_scaling_than_of_bytes_is_no_quantised_one():
    from openvino import opset13

    x = opset13.parameter(["?", 2], np.float32)
    half = opset13.convert(opset13.constant(WEIGHT.T.astype(np.float16)), "f32")
    scaled = opset13.multiply(half, opset13.constant(np.float32(2)))
    plain = opset13.multiply(opset13.relu(x), opset13.constant(np.float32(2)))
    assert not quantizers._is_quantised(scaled.output(0))
    assert not quantizers._is_quantised(plain.output(0))
    assert not quantizers._is_quantised(x.output(0))
    assert quantizers._read_by(opset13.relu(x)) == []


def test_no_core_is_made_in_a_thread_that_lives_on(made_in, path, tmp_path):
    made = quantizers.quantize_static(path, feeds())
    made.outputs(feeds())
    quantizers.compress_weights(path, tmp_path / "eight.xml")
    compress(path, tmp_path / "four.xml", Wanted(4, 8, False, "gptq", None), feeds=feeds())
    assert len(made_in) > 1
    assert not any(thread.is_alive() for thread in made_in)


class SignalStack(ctypes.Structure):
    _fields_ = (("where", ctypes.c_void_p), ("flags", ctypes.c_int), ("bytes", ctypes.c_size_t))


def stack_for_signals():
    """Where this thread's is; None where it has none, and signals come on its own stack."""
    found = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.where


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux lays out what tells of a stack")
def test_cores_that_come_and_go_leave_a_thread_its_stack_for_signals():
    import openvino

    def loaded():
        found = openvino.Core()
        found.get_property("CPU", "FULL_DEVICE_NAME")
        return found

    def twice():
        before, first, second = stack_for_signals(), loaded(), loaded()
        del first
        there = stack_for_signals()
        del second
        return before, there, stack_for_signals()

    before, there, after = in_thread(twice)
    assert before != there != after != before, "OpenVINO mends it: nothing has to be kept in a thread of its own any more"
    before = stack_for_signals()
    cores = in_thread(lambda: [loaded(), loaded()])
    while cores:
        cores.pop(0)
    assert stack_for_signals() == before
