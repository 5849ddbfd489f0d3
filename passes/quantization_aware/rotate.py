"""Rotations that a decoder computes the same with, folded into its weights: what single channels hold is spread over all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Context, Needs, Pass, Size, derived_seed
from compressor.contracts.notes import Remark, Table
from compressor.errors import UnsupportedModel
from compressor.model.anatomy import anatomy_of
from passes.quantization.quantizers.weight_layers import unnumbered

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from compressor.contracts import Model
    from compressor.contracts.anatomy import Anatomy, Attention

ROWS, COMPARED = 32, 16
"""Rows whose activations are looked at, and whose outputs are compared."""
NEAR = 1e-3
"""Of their spread, by which outputs may differ in float32: a model that this does not hold for computes otherwise than is known."""
GAINS_ALONE = ("llama", "qwen", "mistral")
"""Families whose norms do nothing but divide by the root of the mean square and multiply by their weight."""


def rotation(size: int, seed: int) -> NDArray[np.float64]:
    """An orthogonal matrix `[size, size]`: a Hadamard matrix with random signs times, where the size is no power of 2, a random rotation."""
    import numpy as np
    from scipy.linalg import hadamard

    draw = np.random.default_rng(seed)
    power = size & -size
    odd, _ = np.linalg.qr(draw.normal(size=(size // power,) * 2))
    signs = draw.choice((-1.0, 1.0), size)
    found: NDArray[np.float64] = signs[:, None] * np.kron(hadamard(power) / np.sqrt(power), odd)
    return found


class Rotate(Pass):
    """Rotate the residual stream and the values of attention of a decoder with RMS norms (SpinQuant's R1 and R2, random and not learned).

    The model computes the same: rotations are folded into the weights, gains of norms into what reads them. It stands before what quantises.
    """

    version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers", "scipy")
    tried_on: ClassVar[str | None] = "causal-lm"
    paper: ClassVar[str] = (
        "Liu et al., SpinQuant: LLM Quantization with Learned Rotations, 2024, arXiv:2405.16406; random Hadamard rotations: Ashkboos et al., "
        "QuaRot, 2024, arXiv:2404.00456"
    )

    residual: bool = Field(True, description="rotate the residual stream (R1); not where head and table of words are one matrix")
    values: bool = Field(True, description="rotate the values of each head (R2)")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.residual or self.values):
            raise ValueError("nothing is rotated: leave residual or values out")
        return self

    @override
    def needs(self) -> Needs:
        """Blocks that are known, of layers in float."""
        return Needs(inside=("features",), floats={"": "rotations are folded into layers in float"})

    @override
    def work(self, size: Size) -> float:
        """Forward passes over a few rows."""
        return (2 * ROWS + 2 * COMPARED) * size.weights

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """The rotated model, a model of its own.

        Raises:
            UnsupportedModel: its norms, its heads or its layers are of another kind, or it would compute something else.
        """
        import numpy as np

        from compressor.model.quantization.layers import quantized_layers

        anatomy = anatomy_of(model.module)
        if anatomy.family not in GAINS_ALONE:
            raise UnsupportedModel(
                f"rotations go into decoders of {', '.join(GAINS_ALONE)}, and this is of family {anatomy.family}"
            )
        if quantized_layers(model.module):
            raise UnsupportedModel("the model is quantised: rotate it before")
        rotated = model.copy()
        if self.values:
            for number, block in enumerate(anatomy.blocks):
                if block.attention is not None:
                    turn = rotation(block.attention.head_size, derived_seed(ctx.seed, "values", number))
                    _rotate_values(rotated.module, block.attention, turn)
        if self.residual:
            _rotate_residual(rotated.module, anatomy, rotation(anatomy.hidden_size, derived_seed(ctx.seed, "residual")))
        exact, found = (ctx.outputs(each, "validation", limit=COMPARED) for each in (model, rotated))
        off = float(np.sqrt(np.mean((exact - found) ** 2)) / max(float(exact.std()), 1e-12))
        if not off < NEAR:
            raise UnsupportedModel(
                f"outputs of the rotated model are off by {off:.2g} of their spread: it computes otherwise than is known"
            )
        ctx.note(Remark(text=f"Outputs are off by {off:.1e} of their spread, which is rounding in float32."))
        ctx.note(_told(model, rotated, ctx))
        return rotated


def _rotate_values(module: Any, attention: Attention, turn: NDArray[np.float64]) -> None:
    """Those of all heads of a block; what they are multiplied by afterwards turns them back."""
    if attention.query == attention.value:
        raise UnsupportedModel(f"{attention.value} makes queries too: its values cannot be rotated apart")
    value, output = module.get_submodule(attention.value), module.get_submodule(attention.output)
    _written(value, turn)
    _read(output, turn)


@dataclass(frozen=True)
class _Ends:
    """What lies around the blocks of a decoder."""

    table: Any
    norm: Any
    head: Any


def _rotate_residual(module: Any, anatomy: Anatomy, turn: NDArray[np.float64]) -> None:
    import torch

    ends = _ends_of(module, anatomy)
    for block in anatomy.blocks:
        if block.attention is None or block.feed_forward is None or len(block.norms) != 2:
            raise UnsupportedModel(f"{block.id} has lost a part: rotate a model before it is cut, or say residual: false")
        attention, inner = block.attention, block.feed_forward
        readers = ([attention.query, attention.key, attention.value], [inner.up, *([inner.gate] if inner.gate else [])])
        for norm, paths in zip(block.norms, readers, strict=True):
            layers = [module.get_submodule(path) for path in dict.fromkeys(paths)]
            _fold_gain(module.get_submodule(norm), layers)
            for layer in layers:
                _read(layer, turn)
        for path in (attention.output, inner.down):
            _written(module.get_submodule(path), turn)
    _fold_gain(ends.norm, [ends.head])
    _read(ends.head, turn)
    with torch.no_grad():
        ends.table.weight.copy_(_product(ends.table.weight, turn))


def _ends_of(module: Any, anatomy: Anatomy) -> _Ends:
    """Raises `UnsupportedModel` where there is not one norm and one head of its own after the blocks."""
    import torch

    within = f"{anatomy.stack}."
    outside = {path: part for path, part in module.named_modules() if not path.startswith(within)}
    norms = [part for path, part in outside.items() if type(part).__name__.endswith("RMSNorm")]
    heads = [part for part in outside.values() if isinstance(part, torch.nn.Linear)]
    table = module.get_input_embeddings()
    if len(norms) != 1 or len(heads) != 1:
        raise UnsupportedModel(
            "the residual stream is rotated between one table and one head after one norm: say residual: false"
        )
    if heads[0].weight is table.weight:
        raise UnsupportedModel(
            "head and table of words are one matrix, and the gain of the last norm would have to go into one of them: say residual: false"
        )
    return _Ends(table, norms[0], heads[0])


def _fold_gain(norm: Any, layers: Sequence[Any]) -> None:
    """Multiply what reads a norm by its gain, which is 1 afterwards."""
    import torch

    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_((layer.weight.double() * norm.weight.double()).to(layer.weight.dtype))
        norm.weight.fill_(1.0)


def _read(layer: Any, turn: NDArray[np.float64]) -> None:
    """Have a layer read what was rotated, one run of its inputs after the other."""
    import torch

    with torch.no_grad():
        layer.weight.copy_(_product(layer.weight, turn))


def _written(layer: Any, turn: NDArray[np.float64]) -> None:
    """Have a layer write what is rotated."""
    import torch

    with torch.no_grad():
        layer.weight.copy_(_product(layer.weight.t(), turn).t())
        if layer.bias is not None:
            layer.bias.copy_(_product(layer.bias[None], turn)[0])


def _product(rows: torch.Tensor, turn: NDArray[np.float64]) -> torch.Tensor:
    """Rows `[n, k * size]` with each run of a rotation's size turned, computed in float64."""
    import torch

    by = torch.from_numpy(turn).to(rows.device)
    if rows.shape[1] % len(turn):
        raise UnsupportedModel(f"rows of {rows.shape[1]} are not made of runs of {len(turn)}")
    turned = rows.double().reshape(len(rows), -1, len(turn)) @ by
    return turned.reshape(rows.shape).to(rows.dtype)


def _told(model: Model, rotated: Model, ctx: Context) -> Table:
    """How far the greatest activation stands above the mean one, before and after."""
    from passes.quantization_aware.choice import linear_layers
    from passes.quantization_aware.passing import passing
    from passes.side_files import write_side_files

    rows = ctx.data.split("calibration")
    rows = rows.select(range(min(ROWS, len(rows))))
    ratios: list[Mapping[str, list[float]]] = []
    for each in (model, rotated):
        files = write_side_files(each, ctx.folder / "files")
        paths = linear_layers(each.module, head=True, exclude=())[0]
        seen = passing(
            each.module.to(ctx.device).eval(), paths, ctx.task.batches(rows, files, batch_size=COMPARED), ctx.task, ctx.device
        )
        found: dict[str, list[float]] = defaultdict(list)
        for path, reach in seen.ranges.items():
            found[unnumbered(path)].append(max(-reach.least, reach.most) / max(reach.mean, 1e-12))
        ratios.append(found)
    before, after = ratios
    return Table(
        title=f"Greatest activation that layers read, in mean magnitudes, the most of all blocks ({len(rows)} rows)",
        columns=("layers", "before", "rotated"),
        rows=tuple((name, max(found), max(after[name])) for name, found in before.items()),
    )
