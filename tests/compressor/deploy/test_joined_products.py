"""Products by packed weights that read the same become one, and give what they gave."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.deploy.joined_products import DOMAIN, PRODUCT, join_products

WIDTH, GROUP = 64, 32
OUTPUTS = {"q": 32, "k": 16, "v": 16}


def graph(sizes=OUTPUTS, *, bits=None, zeros=False, shared=False) -> onnx.ModelProto:
    """Products of one input, each by packed weights of its own unless they are shared; `bits` says others by name."""
    draw, nodes, constants = np.random.default_rng(0), [], {}
    for name, outputs in sizes.items():
        width = (bits or {}).get(name, 4)
        of = "all" if shared else name
        constants[f"{of}.b"] = draw.integers(0, 256, (outputs, WIDTH // GROUP, GROUP * width // 8)).astype(np.uint8)
        constants[f"{of}.s"] = draw.random(outputs * WIDTH // GROUP).astype(np.float32)
        if zeros:
            constants[f"{of}.z"] = draw.integers(0, 256, (outputs * -(-WIDTH // GROUP * width // 8))).astype(np.uint8)
        inputs = ["x", *(f"{of}.{part}" for part in ("b", "s", *(("z",) if zeros else ())))]
        settings = {"K": WIDTH, "N": outputs, "bits": width, "block_size": GROUP, "accuracy_level": 4}
        nodes.append(
            helper.make_node(PRODUCT, inputs, [f"{name}_out"], name=f"block.0.attn.{name}/MatMul_3", domain=DOMAIN, **settings)
        )
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])]
    made = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, ["n", outputs]) for name, outputs in sizes.items()]
    stored = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    domains = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(helper.make_graph(nodes, "g", given, made, stored), opset_imports=domains, ir_version=10)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(1).standard_normal((3, WIDTH)).astype(np.float32)})


@pytest.mark.parametrize("zeros", [False, True])
def test_one_product_gives_what_several_gave(zeros):
    model = graph(zeros=zeros)
    before = run(model)
    assert join_products(model) == 3
    onnx.checker.check_model(model)
    assert Counter(node.op_type for node in model.graph.node) == {PRODUCT: 1, "Split": 1}
    for one, other in zip(before, run(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {each.name for each in model.graph.initializer if "b" in each.name.split(".")} == set(), "no weight is there twice"
    assert model.graph.node[0].name == "block.0.attn/MatMulNBits_3"


def test_products_of_other_bits_stay_by_themselves():
    model = graph(bits={"v": 8})
    before = run(model)
    assert join_products(model) == 2
    for one, other in zip(before, run(model), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "model", [graph({"q": 32}), graph({"q": 32, "k": 32}, shared=True)], ids=["one", "weights that two read"]
)
def test_what_cannot_be_joined_stays_as_it_is(model):
    before = model.SerializeToString()
    assert join_products(model) == 0
    assert model.SerializeToString() == before
