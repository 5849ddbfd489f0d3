"""Where the parts of a model are: blocks with their attention and feed-forward, embeddings, convolutions, norms and head.

Families are rows of a table; what differs from block to block (heads, widths) is read from the modules themselves.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from compressor.contracts import registry
from compressor.contracts.anatomy import Anatomy, Attention, Block, Convolution, FeedForward, Row
from compressor.errors import PluginError, UnsupportedModel
from compressor.foreign import told

if TYPE_CHECKING:
    from torch import nn


def anatomy_of(module: nn.Module) -> Anatomy:
    """Read the parts of a model, also of one on meta and of one whose blocks were cut to different sizes.

    Raises:
        UnsupportedModel: no row of the table fits; the message names the closest ones.
        PluginError: the row of the model's type names parts that the model does not have.
    """
    model_type = type_of(module)
    for name, row in registry.loaded("anatomy"):
        if isinstance(row, Row) and model_type in row.model_types:
            for trunk in row.trunks:
                if _find(module, _join(trunk, row.stack)) is not None:
                    return _read_by(name, row, module, trunk)
    raise UnsupportedModel(refusal(model_type, type(module).__name__))


def type_of(module: nn.Module) -> str:
    """What a row knows a model by: the model type of its configuration; its class where that names none, as outside of transformers."""
    named = getattr(getattr(module, "config", None), "model_type", "")
    return str(named) or (type(module).__name__ if isinstance(getattr(module, "config", None), Mapping) else "")


def anatomy_or_bare(module: nn.Module) -> Anatomy:
    """The parts of a model; where no row fits, an anatomy without blocks: such a model can be run and trained, not looked into."""
    try:
        return anatomy_of(module)
    except UnsupportedModel:
        return Anatomy.bare(
            family_of(module), hidden_size=int(getattr(getattr(module, "config", None), "hidden_size", None) or 0)
        )


def family_of(module: nn.Module) -> str:
    """The family that a model's row names, else its model type, else its class."""
    model_type = type_of(module)
    row = row_of(model_type)
    return row.family if row else model_type or type(module).__name__


def row_of(model_type: str) -> Row | None:
    """The first row for a model type, by name; the model's own modules may still not fit it."""
    return next((row for row in rows() if model_type in row.model_types), None)


def rows() -> Iterator[Row]:
    """The rows of all that is installed, by name; one that is broken, which the list of anatomies tells, hides no other."""
    return (row for _, row in registry.loaded("anatomy") if isinstance(row, Row))


def limits(model_type: str) -> tuple[str, Mapping[str, str] | None]:
    """The family of models of a configuration, and the parts that no pass can work on with the reason; None where no part is known."""
    row = row_of(model_type)
    if row is None:
        return model_type, None
    return row.family, row.without


def _read_by(name: str, row: Row, module: Any, trunk: str) -> Anatomy:
    try:
        return _read(module, row, trunk)
    except (AttributeError, TypeError, ZeroDivisionError) as error:
        raise PluginError(
            f"anatomy '{name}' does not fit {type(module).__name__}: {told(error)}; repair or uninstall "
            f"{registry.distribution('anatomy', name)}"
        ) from error


def _read(root: Any, row: Row, trunk: str) -> Anatomy:
    stack = _join(trunk, row.stack)
    return Anatomy(
        family=row.family,
        stack=stack,
        blocks=tuple(_block(root, row, f"{stack}.{index}") for index, _ in root.get_submodule(stack).named_children()),
        embeddings=tuple(path for name in row.embeddings if _find(root, path := _join(trunk, name)) is not None),
        convolutions=tuple(_convolutions(root, trunk)),
        extractor=tuple(_extractor(root, row, trunk)),
        head=tuple(_head(root, row, trunk)),
        hidden_size=outputs_of(_find(root, _join(trunk, row.stream))) if row.stream else trunk_config(root).hidden_size,
        row=row,
    )


def trunk_config(root: Any) -> Any:
    """The configuration of the trunk: of a model of two towers that of its vision model."""
    return getattr(root.config, "vision_config", root.config)


def _block(root: nn.Module, row: Row, path: str) -> Block:
    block = root.get_submodule(path)
    norms = tuple(f"{path}.{name}" for name in row.norms if _find(block, name) is not None)
    return Block(path, _attention(root, block, row, path), _feed_forward(block, row, path), norms)


def _attention(root: nn.Module, block: nn.Module, row: Row, path: str) -> Attention | None:
    query, key, *_ = (_find(block, name) for name in row.projections)
    if getattr(query, "weight", None) is None:
        return None
    head_size: int | None = getattr(_find(block, row.attention), row.head_size_attribute, None)
    if head_size is None:
        head_size = getattr(trunk_config(root), row.config_head_size or row.head_size_attribute)
    query_rows, key_rows = outputs_of(query), outputs_of(key)
    if query is key:  # one matrix of queries, keys and values
        query_rows = key_rows = query_rows // 3
    names = ("module", "query", "key", "value", "output")
    paths = {name: _join(path, inner) for name, inner in zip(names, (row.attention, *row.projections), strict=True)}
    return Attention(**paths, heads=query_rows // head_size, head_size=head_size, key_value_groups=query_rows // key_rows)


def _feed_forward(block: nn.Module, row: Row, path: str) -> FeedForward | None:
    gate = row.gate if row.gate is not None and _find(block, row.gate) is not None else None
    up, down = row.gated if gate is not None and row.gated is not None else (row.up, row.down)
    found = _find(block, up)
    if getattr(found, "weight", None) is None:
        return None
    width = outputs_of(found) // (2 if gate == up else 1)
    return FeedForward(f"{path}.{up}", gate and f"{path}.{gate}", f"{path}.{down}", width)


def _convolutions(root: nn.Module, trunk: str) -> Iterator[str]:
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return (_join(trunk, name) for name, module in root.get_submodule(trunk).named_modules() if isinstance(module, kinds))


def _extractor(root: nn.Module, row: Row, trunk: str) -> Iterator[Convolution]:
    for conv, reader in pairwise(_join(trunk, name) for name in row.chain):
        yield Convolution(conv, None, reader, _width(root, conv))
    if row.extractor is None or row.projection is None:
        return
    stack = _join(trunk, row.extractor)
    layers = [f"{stack}.{name}" for name, _ in root.get_submodule(stack).named_children()]
    through, reader = (_join(trunk, name) for name in row.projection)
    ends = [*((f"{layer}.conv", None) for layer in layers[1:]), (reader, through if _find(root, through) is not None else None)]
    for layer, (read_by, passed) in zip(layers, ends, strict=True):
        norm = f"{layer}.layer_norm"
        found = norm if _find(root, norm) is not None else None
        yield Convolution(f"{layer}.conv", found, read_by, _width(root, f"{layer}.conv"), passed)


def _width(root: nn.Module, conv: str) -> int:
    """Output channels."""
    return root.get_submodule(conv).get_parameter("weight").shape[0]


def _head(root: nn.Module, row: Row, trunk: str) -> Iterator[str]:
    yield from (path for name in row.head if _find(root, path := _join(trunk, name)) is not None)
    if trunk:
        top = trunk.split(".")[0]
        yield from (name for name, child in root.named_children() if name != top and any(True for _ in child.parameters()))
        yield from (name for name, _ in root.named_parameters(recurse=False))


def refusal(model_type: str, class_name: str = "") -> str:
    """That no row fits a model, and which rows are closest."""
    families = {name: row.family for row in rows() for name in (*row.model_types, row.family)}
    broken = [name for name, row in registry.loaded("anatomy") if not isinstance(row, Row)]
    hidden = f"; {' and '.join(broken)} cannot be used (`compressor list anatomies` says why)" if broken else ""
    near = difflib.get_close_matches(model_type, families, n=3, cutoff=0.4)
    closest = sorted({families[name] for name in near}) or sorted(set(families.values()))
    kind = f"model type '{model_type}'"
    what = f"{class_name} ({kind})" if class_name and model_type not in ("", class_name) else class_name or kind
    return f"no anatomy row fits {what}; closest: {', '.join(closest)}; another row is one entry point of 'compressor.anatomy'{hidden}"


def outputs_of(layer: Any) -> int:
    """Outputs of a linear layer or a convolution; GPT-2 keeps its weight as `[inputs, outputs]`."""
    rows: int = layer.weight.shape[1 if hasattr(layer, "nf") else 0]
    return rows


def _find(module: nn.Module, path: str) -> Any:
    """The submodule or parameter at a path, or None; the module itself at an empty one."""
    found: Any = module
    for name in path.split(".") if path else ():
        found = getattr(found, name, None)
    return found


def _join(trunk: str, path: str) -> str:
    return ".".join(filter(None, (trunk, path)))
