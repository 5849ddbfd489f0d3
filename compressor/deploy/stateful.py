"""An OpenVINO model that keeps its growing state itself, as its runtime's kernels and OpenVINO GenAI take it."""

from __future__ import annotations

from typing import Any

from compressor.contracts import Graph, Port

BEAMS = "beam_idx"
"""Input of a stateful model: which row of the state each row of a call goes on from."""
DEFAULT = "default of {}"
"""Name of the constant that an input is where it holds nothing."""


def stateful(model: Any, graph: Graph) -> Any:
    """Change a model in place: what went round between calls becomes variables of a request, attention over them one operator.

    Attention of another form than eager attention of transformers stays as it is, and computes over the variables.
    """
    from openvino._offline_transformations import apply_make_stateful_transformation

    _attend(model)
    for port in (port for port in graph.fed if port.default):
        _give_default(model, port)
    _follow_beams(model, graph)
    apply_make_stateful_transformation(model, {becomes: output for output, becomes in graph.state})
    _begin_empty(model, graph)
    model.validate_nodes_and_infer_types()
    return model


def _give_default(model: Any, port: Port) -> None:
    """An input that holds nothing, as one does that was not set, is its default."""
    from openvino import opset13 as operators

    given = model.input(port.name)
    readers = given.get_target_inputs()
    lacks = operators.subtract(
        operators.constant([1]), operators.minimum(operators.shape_of(given, "i64"), operators.constant([1]))
    )
    most = operators.multiply(lacks, operators.constant([len(port.default)]))
    default = operators.constant(list(port.default), given.get_element_type(), name=DEFAULT.format(port.name))
    instead = operators.slice(default, operators.constant([0]), most, operators.constant([1]))
    whole = operators.concat([given, instead], 0)
    for reader in readers:
        reader.replace_source_output(whole.output(0))


def _follow_beams(model: Any, graph: Graph) -> None:
    """Rows of a state are chosen before they are read: the runtime's attention looks for this, and searches by beams need it."""
    import openvino
    from openvino import opset13 as operators

    beams = operators.parameter([-1], openvino.Type.i32, name=BEAMS)
    beams.output(0).get_tensor().set_names({BEAMS})
    model.add_parameters([beams])
    for name in (becomes for _, becomes in graph.state):
        port = model.input(name)
        readers = port.get_target_inputs()
        chosen = operators.gather(port, beams, operators.constant(0))
        for reader in readers:
            reader.replace_source_output(chosen.output(0))
    model.validate_nodes_and_infer_types()


def _begin_empty(model: Any, graph: Graph) -> None:
    """Before the first call a variable holds nothing of as many rows as that call has."""
    import openvino
    from openvino import opset13 as operators

    rows = operators.gather(
        operators.shape_of(model.input(graph.fed[0].name), "i64"), operators.constant([0]), operators.constant(0)
    )
    for each in [node for node in model.get_ordered_ops() if node.get_type_name() == "ReadValue"]:
        shape = [axis.get_length() if axis.is_static else 0 for axis in each.get_output_partial_shape(0)][1:]
        sizes = operators.concat([rows, operators.constant(shape, openvino.Type.i64)], 0)
        each.set_arguments([operators.broadcast(operators.constant(0.0, each.get_output_element_type(0)), sizes)])


def _attend(model: Any) -> None:
    """`softmax(query x keys^T x scale + mask) x values` as one operator."""
    for softmax in [node for node in model.get_ordered_ops() if node.get_type_name() == "Softmax"]:
        masked = _made_by(softmax.input_value(0), "Add")
        scaled = masked and _made_by(masked.input_value(0), "Multiply")
        scores = scaled and _made_by(scaled.input_value(0), "MatMul")
        readers = [each.get_node() for each in softmax.output(0).get_target_inputs()]
        scale = scaled and _number(scaled.input_value(1))
        if scores and scale is not None and [each.get_type_name() for each in readers] == ["MatMul"]:
            _replace(readers[0], scores, masked.input_value(1), scale)


def _replace(product: Any, scores: Any, mask: Any, scale: float) -> None:
    import openvino
    from openvino import opset13 as operators

    turned = _made_by(scores.input_value(1), "Transpose")
    if scores.get_attributes()["transpose_b"]:
        keys = scores.input_value(1)
    elif turned:
        keys = turned.input_value(0)
    else:
        return
    given = (scores.input_value(0), keys, product.input_value(1), mask, operators.constant(scale, openvino.Type.f32))
    attention = operators.scaled_dot_product_attention(*given, causal=False)
    attention.set_friendly_name(product.get_friendly_name())
    for reader in list(product.output(0).get_target_inputs()):
        reader.replace_source_output(attention.output(0))


def _made_by(output: Any, kind: str) -> Any:
    node = output.get_node()
    return node if node.get_type_name() == kind else None


def _number(output: Any) -> float | None:
    node = output.get_node()
    held = node.get_data().reshape(-1).tolist() if node.get_type_name() == "Constant" else []
    return float(held[0]) if len(held) == 1 else None
