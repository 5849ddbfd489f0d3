"""A state is a value on every target: whatever is done with it, and whether or not a call goes on in the same place."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from compressor.tasks.language.scoring import fed

from .conftest import TARGETS

IDS = np.array([[5, 9, 30, 41, 77, 12, 8, 3, 61], [7, 7, 19, 2, 54, 81, 90, 33, 6]])


def part(start: int, end: int, ids=IDS):
    return fed(ids[:, start:end], np.ones((len(ids), end), dtype=np.int64))


@pytest.fixture(params=TARGETS)
def session(request, llama):
    return llama.session(request.param)


def test_an_old_state_goes_on_as_it_did_while_newer_ones_are_held(session):
    _, state = session.run(part(0, 4))
    expected, longer = session.run(part(4, 6), state=state)
    other = IDS[:, ::-1].copy()
    elsewhere, branch = session.run(part(4, 9, other), state=state)
    again, _ = session.run(part(4, 6), state=state)
    np.testing.assert_array_equal(again["logits"], expected["logits"])
    after, _ = session.run(part(6, 9), state=longer)
    whole, _ = session.run(part(0, 9))
    np.testing.assert_allclose(after["logits"], whole["logits"][:, 6:], atol=1e-5)
    mixed, _ = session.run(part(0, 9, np.concatenate([IDS[:, :4], other[:, 4:]], axis=1)))
    np.testing.assert_allclose(elsewhere["logits"], mixed["logits"][:, 4:], atol=1e-5)
    assert branch is not None


def test_two_prompts_are_decoded_side_by_side(session):
    """A call without a state leaves those of others alone."""
    pairs = [[part(0, 5, IDS[row : row + 1]), None] for row in range(2)]
    for pair in pairs:
        pair[1] = session.run(pair[0])[1]
    for at in range(5, 9):
        for row, pair in enumerate(pairs):
            found, pair[1] = session.run(part(at, at + 1, IDS[row : row + 1]), state=pair[1])
            if at == 8:
                whole, _ = session.run(part(0, 9, IDS[row : row + 1]))
                np.testing.assert_allclose(found["logits"][:, -1], whole["logits"][:, -1], atol=1e-5)


def test_onnxruntime_adds_to_one_buffer_until_it_is_full(llama):
    """No call copies what came before: timed decoding from one prompt starts in the same buffer again and again."""
    session = llama.session("onnxruntime")
    _, state = session.run(part(0, 4))
    memory = dict(state.line.held.arrays)
    for _ in range(3):
        now = state
        for at in range(4, 9):
            _, now = session.run(part(at, at + 1), state=now)
        assert now.line is state.line
    held = dict(now.line.held.arrays)
    assert all(held[name] is array for name, array in memory.items())
    size = next(iter(held.values())).shape[2]
    long = np.resize(IDS, (2, size + 3))
    _, beyond = session.run(part(9, size + 1, long), state=now)
    assert beyond.line is not now.line
    found, _ = session.run(part(size + 1, size + 3, long), state=beyond)
    whole, _ = session.run(part(0, size + 3, np.concatenate([IDS, long[:, 9:]], axis=1)))
    np.testing.assert_allclose(found["logits"], whole["logits"][:, -2:], atol=1e-4)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_mask_that_does_not_fit_the_state_is_refused(name, llama):
    session = llama.session(name)
    _, state = session.run(part(0, 4))
    with pytest.raises(ValueError, match="attention_mask of 6 tokens, 1 of them new, does not fit a state of 4"):
        session.run(part(5, 6), state=state)


def test_facts_name_the_kernel_of_attention_and_the_precision_of_the_cache(llama):
    names = {"onnxruntime": "GroupQueryAttention", "openvino": "ScaledDotProductAttention"}
    for target, name in names.items():
        facts = llama.session(target).facts()
        assert (facts["attention"], facts["cache"]) == (name, "fp32")


def test_attention_over_a_cache_is_one_operator_in_onnxruntime(llama):
    graph = onnx.load(llama.candidate("onnxruntime").built / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    layers = llama.model.module.config.num_hidden_layers
    assert kinds.count("GroupQueryAttention") == layers
    assert kinds.count("RotaryEmbedding") == 2 * layers
    assert (kinds.count("SimplifiedLayerNormalization"), kinds.count("Pow")) == (2 * layers + 1, 0)
    assert "Softmax" not in kinds
    assert "Expand" not in [node.op_type for node in graph.node if "self_attn" in node.name and "Unsqueeze" not in node.name]


def test_openvino_goes_on_in_one_request_and_uses_it_again(llama):
    session = llama.session("openvino")
    _, state = session.run(part(0, 4))
    request, now = state.line.held, state
    for at in range(4, 9):
        _, now = session.run(part(at, at + 1), state=now)
    expected, _ = session.run(part(4, 6), state=state)
    assert now.line is state.line
    assert state.line.written == 9  # the call went on elsewhere, since a later state is held
    del now
    found, now = session.run(part(4, 6), state=state)
    assert (now.line, state.line.written) == (state.line, 6)
    np.testing.assert_array_equal(found["logits"], expected["logits"])
    del state, now
    assert session.run(part(0, 4))[1].line.held is request


def test_openvino_computes_attention_over_its_state_by_one_operator(llama):
    from targets.openvino import OpenVino, layers

    candidate = llama.candidate("openvino")
    compiled = OpenVino()._compiled(candidate.built, llama.task.graphs(llama.files)[0])
    kinds = [kind for kind, _ in layers(compiled)]
    count = llama.model.module.config.num_hidden_layers
    assert (kinds.count("ScaledDotProductAttention"), kinds.count("MemoryInput"), kinds.count("Softmax")) == (count, 2 * count, 0)
    assert compiled.get_property("KV_CACHE_PRECISION").to_string() == "f32"


def test_a_cut_state_goes_on_as_the_shorter_one_did(session):
    _, state = session.run(part(0, 4))
    expected, longer = session.run(part(4, 6), state=state)
    other = np.concatenate([IDS[:, :4], IDS[:, :3]], axis=1)
    _, longer = session.run(part(4, 7, other), state=session.cut(longer, 4))
    found, _ = session.run(part(4, 6), state=session.cut(longer, 4))
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5)


def test_the_newest_token_is_told_of_where_no_place_is_named(session):
    feed = part(0, 4)
    del feed["logits_at"]
    found, _ = session.run(feed)
    whole, _ = session.run(part(0, 4))
    np.testing.assert_allclose(found["logits"], whole["logits"][:, -1:], atol=1e-6)


def test_attention_is_found_where_a_quantiser_dropped_the_shapes_of_values(llama):
    from compressor.deploy.cached_attention import grouped
    from targets.onnxruntime import OnnxRuntime

    target = OnnxRuntime()
    lowered = llama.builder.lower(llama.made, "torch", target.dialect.format, target)
    model = onnx.load(lowered.path / "model.onnx")
    del model.graph.value_info[:]
    made = grouped(model, llama.task.graphs(llama.files)[0])
    kernels = [node for node in made.graph.node if node.op_type == "GroupQueryAttention"]
    config = llama.model.module.config
    assert len(kernels) == config.num_hidden_layers
    sizes = [{each.name: each.i for each in node.attribute} for node in kernels]
    assert {(each["num_heads"], each["kv_num_heads"]) for each in sizes} == {
        (config.num_attention_heads, config.num_key_value_heads)
    }
