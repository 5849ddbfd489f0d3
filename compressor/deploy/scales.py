"""Operators that multiply by constants or add nothing: what they do is done by those before them, or left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compressor.deploy.patterns import UNKNOWN, Reads, drop_unused

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


def fold_scales(graph: onnx.ModelProto) -> None:
    """Have weights and bias of a product bear the scale that each of its outputs is multiplied by next (a layer scale), in place.

    A scale of all outputs stays: fusions of attention look for that of the scores. So do those of half precision, in which small scales of small
    weights are hardly told from 0.
    """
    reads = Reads(graph)
    scales = [(node, _for_each(reads, *node.input)) for node in graph.graph.node if node.op_type == "Mul"]
    folded = [_fold(reads, node, scale) for node, scale in scales if scale is not None]
    if any(folded):
        drop_unused(graph)


def _fold(reads: Reads, scaled: onnx.NodeProto, scale: NDArray[Any]) -> bool:
    """Whether there is a product that can bear it, and does."""
    last = product = reads.alone(scaled.input[0])
    bias = None
    if last is not None and last.op_type == "Add":
        value, added = last.input if last.input[1] in reads.constants else reversed(last.input)
        product, bias = reads.alone(value), _for_each(reads, value, added)
        if bias is None or len(bias) != len(scale):
            return False
    weight = reads.array(product.input[1]) if product is not None and product.op_type == "MatMul" else None
    if last is None or product is None or weight is None or weight.ndim != 2 or weight.shape[1] != len(scale):
        return False
    own = scaled.output[0]
    product.input[1] = reads.add(f"{own}_weight", weight * scale)
    if bias is not None:
        del last.input[:]
        last.input.extend([product.output[0], reads.add(f"{own}_bias", bias * scale)])
    last.output[0], scaled.output[0] = own, reads.fresh(f"{own}_unread")
    return True


def _for_each(reads: Reads, value: str, name: str) -> NDArray[Any] | None:
    """A constant of float32 with one number for each place of a value's last axis, which gives the value no further axes."""
    found = reads.array(name)
    if found is None or found.dtype != "float32" or not found.ndim or not found.size == found.shape[-1] > 1:
        return None
    return found.reshape(-1) if found.ndim == 1 or found.ndim <= len(reads.sizes.get(value, ())) else None


def drop_empty_masks(graph: onnx.ModelProto) -> None:
    """Have scores of attention go without a mask that is 0 whatever is given, in place: models of pictures make one where nothing is padded."""
    reads, instead = Reads(graph), dict[str, str]()
    vectors = {name for name, held in reads.constants.items() if len(held.dims) < 2}  # a bias of zeros, which fusions look for
    for node in graph.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = instead.get(name, name)
        if node.op_type != "Add" or node.output[0] in reads.given:
            continue
        for value, mask in (tuple(node.input), tuple(reversed(node.input))):
            sizes = reads.sizes.get(value, (UNKNOWN,))
            if (
                mask not in vectors
                and _nothing(reads, mask)
                and UNKNOWN not in sizes
                and sizes == reads.sizes.get(node.output[0])
            ):
                instead[node.output[0]] = value
                break
    if instead:
        drop_unused(graph)


def _nothing(reads: Reads, name: str) -> bool:
    """Whether a value is 0 everywhere: a constant, or chosen where a condition holds that always does."""
    node, held = reads.made.get(name), reads.array(name)
    if node is None:
        return held is not None and not held.any()
    if node.op_type in ("Expand", "Unsqueeze"):
        return _nothing(reads, node.input[0])
    return node.op_type == "Where" and _always(reads, node.input[0]) and _nothing(reads, node.input[1])


def _always(reads: Reads, name: str) -> bool:
    node, held = reads.made.get(name), reads.array(name)
    if node is None:
        return held is not None and bool(held.all())
    asked = list(node.input) if node.op_type == "And" else node.input[:1]
    return node.op_type in ("Expand", "Unsqueeze", "And") and all(_always(reads, each) for each in asked)
