"""Weights of OpenVINO's representation in few bits by NNCF, and what became of each layer, read off the result."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from compressor.contracts import Feed
from compressor.deploy.openvino import in_thread, save_representation
from passes.quantization.quantizers.nncf import read_model
from passes.quantization.quantizers.weight_layers import Chosen, Left, Wanted, require_float, require_named, require_rows

ALGORITHMS = {"gptq": "gptq", "awq": "awq", "scale-estimation": "scale_estimation"}
"""What NNCF calls them."""
SCALED = ("Multiply", "Subtract", "Convert", "Reshape", "Transpose")
"""What stands between a constant of few bits and the product that reads it."""
WEIGHTS = {"MatMul": 1, "Gather": 0, "Convolution": 1, "GroupConvolution": 1, "ConvolutionBackpropData": 1}
"""Inputs that are weights, by what reads them."""
BITS = {"i8": 8, "u8": 8, "i4": 4, "u4": 4, "i2": 2, "u2": 2}


def compress(path: Path, out: Path, wanted: Wanted, *, feeds: Sequence[Feed] = ()) -> tuple[list[Chosen], list[Left]]:
    """Write a representation whose weights are of few bits; say what became of each layer.

    Groups that do not divide a row are made as short as it takes, down to 32; a row that none divides gets 8 bits.
    """
    import nncf

    exact = read_model(path)
    require_float(_quantised(exact))
    require_rows(wanted, feeds)
    names = {name for port in exact.inputs for name in port.get_names()}
    rows = [{name: array for name, array in feed.items() if name in names} for feed in feeds]
    given: dict[str, Any] = {"mode": _mode(wanted), "ignored_scope": _ignored(exact, wanted)}
    if wanted.bits < 8:
        given |= _options(wanted)
    if wanted.algorithm in ALGORITHMS:
        given |= {ALGORITHMS[wanted.algorithm]: True, "dataset": nncf.Dataset(rows), "subset_size": len(rows)}
    with redirect_stdout(io.StringIO()):  # bars of its own
        made = in_thread(lambda: nncf.compress_weights(exact, **given))
    save_representation(made, out)
    return _found(made, wanted)


def _mode(wanted: Wanted) -> Any:
    import nncf

    return getattr(nncf.CompressWeightsMode, f"INT{wanted.bits}_{'SYM' if wanted.symmetric else 'ASYM'}")


def _options(wanted: Wanted) -> dict[str, Any]:
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode

    eight = nncf.BackupMode.INT8_SYM if wanted.symmetric else nncf.BackupMode.INT8_ASYM
    return {
        "group_size": wanted.group or -1,
        "all_layers": wanted.embeddings == wanted.bits,
        "backup_mode": eight if wanted.embeddings else nncf.BackupMode.NONE,
        "advanced_parameters": AdvancedCompressionParameters(group_size_fallback_mode=GroupSizeFallbackMode.ADJUST),
    }


def _ignored(model: Any, wanted: Wanted) -> Any:
    """Layers that stay in float; of 8 bits tables and the last product are named, since NNCF has no option for them."""
    import nncf

    reading = [(op.get_friendly_name(), op.get_type_name()) for op in model.get_ordered_ops() if _weight_of(op)]
    outer = [name for name, kind in reading if kind == "Gather"] + [name for name, kind in reading if kind == "MatMul"][-1:]
    require_named(wanted.exclude, [_layer(name) for name, _ in reading])
    names = [name for name, _ in reading if wanted.leaves(_layer(name))]
    names += outer if wanted.embeddings is None and wanted.bits == 8 else []
    return nncf.IgnoredScope(names=list(dict.fromkeys(names))) if names else None


def _quantised(model: Any) -> Iterator[str]:
    for op in model.get_ordered_ops():
        weight = _weight_of(op)
        if op.get_type_name() == "FakeQuantize":
            yield "FakeQuantize"
        elif weight is not None and weight.bits is not None:
            yield f"weights of {weight.bits} bits"


def _found(model: Any, wanted: Wanted) -> tuple[list[Chosen], list[Left]]:
    chosen, left, seen = list[Chosen](), list[Left](), set[str]()
    for op in model.get_ordered_ops():
        weight = _weight_of(op)
        if weight is None:
            continue
        layer, tied = _layer(op.get_friendly_name()), weight.name in seen
        seen.add(weight.name)
        if weight.bits is None:
            why = "embeddings: float" if wanted.embeddings is None else "NNCF leaves it"
            left.append(Left(layer, weight.weights, "excluded" if wanted.leaves(layer) else why))
        else:
            stored = 0 if tied else weight.weights * weight.bits // 8 + weight.scales
            chosen.append(Chosen(layer, weight.bits, weight.group, weight.symmetric, weight.weights, stored, tied))
    return chosen, left


class _Weight(NamedTuple):
    name: str
    bits: int | None
    """None where it is in float."""
    group: int | None
    symmetric: bool
    weights: int
    scales: int
    """Bytes of scales and zero points."""


def _weight_of(op: Any) -> _Weight | None:
    """The constant that a product, a look-up or a convolution reads; None for other operations, and where it reads none."""
    number = WEIGHTS.get(op.get_type_name())
    if number is None:
        return None
    node, symmetric, scales = op.input_value(number).get_node(), True, 0
    while node.get_type_name() in SCALED:
        kind = node.get_type_name()
        if kind in ("Multiply", "Subtract"):
            symmetric = symmetric and kind != "Subtract"
            scales += _bytes_behind(node.input_value(1).get_node())
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or len(node.get_output_shape(0)) < 2:
        return None
    shape, kind = list(node.get_output_shape(0)), node.get_element_type().get_type_name()
    cut = len(shape) == 3 and op.get_type_name() in ("MatMul", "Gather")
    group = shape[-1] if cut else None
    return _Weight(node.get_friendly_name(), BITS.get(kind), group, symmetric, prod(shape), scales)


def _bytes_behind(node: Any) -> int:
    """Of the constant that a scale or a zero point comes from."""
    while node.get_type_name() in SCALED:
        node = node.input_value(0).get_node()
    return prod(node.get_output_shape(0)) * node.get_element_type().bitwidth // 8 if node.get_type_name() == "Constant" else 0


def _layer(name: str) -> str:
    """Path of the module that a node was traced from."""
    return name.rpartition("/")[0] or name
