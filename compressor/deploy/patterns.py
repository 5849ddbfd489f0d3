"""What rewrites of ONNX graphs look for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def made_by(value: ir.Value | None, kind: str) -> ir.Node | None:
    """The node that makes a value, where it is of a kind."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == kind else None
