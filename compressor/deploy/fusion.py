"""Rewrites of an ONNX graph that keep its mathematics and let ONNX Runtime's kernels for transformers take over."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from compressor.deploy.cached_attention import cached
from compressor.deploy.masks import give_keys
from compressor.deploy.norms import fuse_norms

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from compressor.contracts import Graph
    from compressor.contracts.target import Rewrite


def fuse(graph: onnx.ModelProto, wires: Graph, *, leaves: Collection[Rewrite] = ()) -> onnx.ModelProto:
    """The graph with whatever matches fused; what does not match stays as it is.

    Attention becomes one `MultiHeadAttention` that takes a mask of padding as it comes, a bias before a GELU one `BiasGelu`, a norm by the
    root of the mean square one
    `SimplifiedLayerNormalization`. Attention over a state that grows stays: a
    target may have an operator that reads and writes the state itself. Additions before a layer norm become one
    `Sum`: ONNX Runtime would make `SkipLayerNormalization` of them when it loads the graph, and on CPU that one kernel took five
    times as long as `Sum` and `LayerNormalization` together.
    """
    import onnx_ir as ir
    from onnxscript.optimizer import optimize

    model = ir.from_proto(graph)
    _fuse_for_transformers(model, attention=not cached(model, wires))
    if "keys of padding" not in leaves:
        give_keys(model)
    _sum_before_norms(model)
    fuse_norms(model)
    optimize(model)
    fused: onnx.ModelProto = ir.to_proto(model)
    return fused


def _fuse_for_transformers(model: ir.Model, *, attention: bool) -> None:
    """In the order onnxscript does it for ONNX Runtime, without what costs time on CPU."""
    from onnx_ir.passes.common import CommonSubexpressionEliminationPass, ShapeInferencePass
    from onnxscript.optimizer import optimize
    from onnxscript.rewriter.ort_fusions import shape_optimization
    from onnxscript.rewriter.ort_fusions.bias_gelu import fuse_bias_gelu
    from onnxscript.rewriter.ort_fusions.erfgelu import fuse_erfgelu
    from onnxscript.rewriter.ort_fusions.gelu import fuse_gelu
    from onnxscript.rewriter.ort_fusions.mha import fuse_mha1, fuse_mha2
    from onnxscript.rewriter.ort_fusions.mha_bias import fuse_mha_bias
    from onnxscript.rewriter.ort_fusions.mha_scale import fuse_mha_scale
    from onnxscript.rewriter.ort_fusions.sdpa import fuse_sdpa
    from onnxscript.rewriter.ort_fusions.sdpa_via_mha import replace_sdpa_by_mha

    ShapeInferencePass()(model)
    optimize(model)
    shape_optimization.rules.apply_to_model(model)
    optimize(model)
    fuse_erfgelu(model)
    CommonSubexpressionEliminationPass()(model)
    if attention:
        fuse_sdpa(model, apply_shape_inference=True)
        for rule in (fuse_mha1, fuse_mha2, fuse_mha_scale, fuse_mha_bias):
            rule(model)
    fuse_gelu(model)
    fuse_bias_gelu(model)
    if attention:
        replace_sdpa_by_mha(model)


def _sum_before_norms(model: ir.Model) -> None:
    """`LayerNormalization(Add(Add(x, bias), skip))` becomes `LayerNormalization(Sum(x, bias, skip))`."""
    for node in list(model.graph):
        added = node.inputs[0].producer() if node.op_type == "LayerNormalization" and node.inputs[0] is not None else None
        if added is not None and added.op_type == "Add":
            _sum(model, added)


def _sum(model: ir.Model, added: ir.Node) -> None:
    import onnx_ir as ir

    terms: list[ir.Value | None] = []
    for value in added.inputs:
        inner = value.producer() if value is not None else None
        alone = value is not None and len(value.uses()) == 1 and not value.is_graph_output()
        biased = (
            inner is not None
            and inner.op_type == "Add"
            and any(each is not None and each.const_value is not None for each in inner.inputs)
        )
        terms += inner.inputs if inner is not None and alone and biased else [value]
    total = ir.node("Sum", terms, name=added.name)
    old, new = added.outputs[0], total.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    model.graph.insert_before(added, total)
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    model.graph.remove(added, safe=True)
