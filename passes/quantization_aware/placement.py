"""Where quantisers go: which layers of a model are rounded, what they read together, and how their steps start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from compressor.contracts import Context
from compressor.errors import UnsupportedModel
from compressor.model.quantization.grids import WeightGrid
from compressor.model.quantization.quantize import Quantize
from passes.quantization.quantizers.weight_layers import require_named
from passes.quantization_aware.choice import convolutions, linear_layers, table_of, tied_to
from passes.quantization_aware.passing import Passing, passing
from passes.quantization_aware.scheme import GROUP, QuantizationScheme
from passes.quantization_aware.widths import Widths, by_width, planned
from passes.side_files import write_side_files

if TYPE_CHECKING:
    from torch import nn

    from compressor.contracts import Model

CALIBRATED_BATCH = 16
ONE_MATRIX = "of one matrix for words and head"
SEVERAL_TABLES = "of one matrix for several tables of words"
EIGHT = "a table of words, and a head that is one, have 8"
AS_PLANNED = "a convolution has 8, or 7 where layers have"
IN_EIGHT = "convolutions, which have kernels of 8 bits with one step for what they read"


@dataclass(frozen=True)
class Placement:
    """Which layers of one model are rounded."""

    found: Passing
    """What they read on calibration rows; those that stay in float are not in it."""
    table: str | None
    """Path of the table of words; None where it stays in float."""
    tied: tuple[str, ...]
    """Layers whose weight is that table's, rounded with it."""
    left: dict[str, str]
    """Layers that stay in float, with the reason."""
    convolutions: tuple[tuple[str, ...], ...] = ()
    """Convolutions that are rounded, those that read one tensor together."""

    @property
    def alike(self) -> tuple[tuple[str, ...], ...]:
        """Layers whose bits can be chosen, those that read one tensor together."""
        fixed = {*self.tied, *chain(*self.convolutions)}
        return tuple(group for each in self.found.alike if (group := tuple(path for path in each if path not in fixed)))


def placed(student: Model, scheme: QuantizationScheme, ctx: Context) -> Placement:
    """What is to be rounded of a model in float.

    Raises:
        UnsupportedModel: nothing can be, or the plan names a layer that is not there.
    """
    require_layers(student.module, scheme)
    chosen, left = linear_layers(student.module, head=scheme.head, exclude=scheme.exclude)
    convs, others = convolutions(student.module, head=scheme.head, exclude=scheme.exclude)
    left |= others
    if scheme.convolution_grids() is None:
        convs, left = (), left | dict.fromkeys(convs, IN_EIGHT)
    chosen = (*chosen, *convs)
    table, unfit = table_of(student.module, scheme.exclude)
    words = table or next(iter(unfit), None)
    if scheme.embeddings != "none":
        left |= unfit
    found = _passing(student, chosen, scheme, ctx)
    left |= {path: "not called as a module" for path in chosen if path not in found.first}
    table, tied = tied_together(student, found, words, left, scheme)
    if not found.alike:
        raise UnsupportedModel(f"no layer of this model can be quantised ({len(left)} stay in float)")
    placement = Placement(found, table, tied, left, tuple(each for each in found.alike if each[0] in convs))
    _require_choosable(placement, tuple(scheme.layer_bits))
    return placement


def require_layers(module: nn.Module, scheme: QuantizationScheme) -> None:
    """Each part of a path that the plan gives names a layer or a table.

    Raises:
        UnsupportedModel: one does not.
    """
    chosen, left = linear_layers(module, head=True, exclude=())
    convs, others = convolutions(module, head=True, exclude=())
    table, unfit = table_of(module)
    known = (*chosen, *convs, *left, *others, *unfit, *((table,) if table else ()))
    require_named(scheme.exclude, known)
    require_named(tuple(scheme.layer_bits), known, option="layer_bits")


def _require_choosable(placement: Placement, parts: Sequence[str]) -> None:
    """Each part of a path that is given bits names a layer whose bits can be chosen, not only one.

    Raises:
        UnsupportedModel: one does not, with the reason.
    """
    chosen = [path for alike in placement.alike for path in alike]
    fixed = (*placement.tied, *((placement.table,) if placement.table else ()))
    others = placement.left | dict.fromkeys(fixed, EIGHT) | dict.fromkeys(chain(*placement.convolutions), AS_PLANNED)
    for part in parts:
        if not any(part in path for path in chosen):
            path, why = next((path, why) for path, why in others.items() if part in path)
            raise UnsupportedModel(f"layer_bits: bits of '{path}' cannot be chosen ({why}): leave '{part}' out")


def tied_together(
    student: Model, found: Passing, table: str | None, left: dict[str, str], scheme: QuantizationScheme
) -> tuple[str | None, tuple[str, ...]]:
    """The table, and the layers that read it the other way round.

    One matrix is on one grid: with 8 bits and a step for a group of a row both have kernels. Where that is not asked for, or cannot be, both
    stay in float, and what reads the table is taken out of what was found.
    """
    if table is None:
        return None, ()
    readers = tied_to(student.module, table)
    rounds = scheme.embeddings != "none" and table not in left
    if not readers:
        return (table if rounds else None), ()
    divided = student.module.get_submodule(table).weight.shape[1] % GROUP == 0
    if rounds and set(readers) <= set(found.first) and scheme.activations == 8 and divided:
        return table, readers
    why = ONE_MATRIX if divided else f"{ONE_MATRIX}, whose rows groups of {GROUP} do not divide"
    if any(hasattr(student.module.get_submodule(path), "num_embeddings") for path in readers):
        why = SEVERAL_TABLES
    left |= dict.fromkeys((table, *readers), why)
    found.leave(readers)
    return None, ()


def put_in(student: Model, placement: Placement, scheme: QuantizationScheme, widths: Widths | None = None) -> None:
    """Put quantisers into a model and have them start; of the bits that the plan says unless others are given."""
    weights, inputs = scheme.tied_grids()
    if placement.table is not None:
        own = WeightGrid(float16_steps=scheme.float16_steps)
        student.apply(Quantize(layers=((placement.table,),), weights=weights if placement.tied else own))
    if placement.tied:
        student.apply(Quantize(layers=(placement.tied,), weights=weights, inputs=inputs))
    if placement.convolutions and (grids := scheme.convolution_grids()):
        student.apply(Quantize(layers=placement.convolutions, weights=grids[0], inputs=grids[1]))
    paths = [path for alike in placement.alike for path in alike]
    for width, groups in by_width(placement.alike, widths or planned(paths, scheme.weights, scheme.layer_bits)).items():
        student.apply(Quantize(layers=groups, weights=scheme.weight_grid(width), inputs=scheme.input_grid(width)))
    _start(student, placement.found)


def _start(student: Model, found: Passing) -> None:
    from compressor.model.quantization.layers import InputQuantizer, quantized_layers

    for path, layer in quantized_layers(student.module).items():
        if not layer.borrows:
            layer.weight_quantizer.start(layer.weight)
        quantizer = layer.input_quantizer
        if isinstance(quantizer, InputQuantizer):
            seen = found.ranges[path]
            quantizer.start(seen.least, seen.most, seen.mean)


def _passing(student: Model, paths: Sequence[str], scheme: QuantizationScheme, ctx: Context) -> Passing:
    rows = ctx.data.split("calibration")
    rows = rows.select(range(min(scheme.calibration, len(rows))))
    files = write_side_files(student, ctx.folder / "files")
    module = student.module.to(ctx.device).eval()
    return passing(module, paths, ctx.task.batches(rows, files, batch_size=CALIBRATED_BATCH), ctx.task, ctx.device)
