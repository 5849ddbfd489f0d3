"""Bits of layers under a budget: what rounding each costs is measured, and the cheapest choice that fits is found exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Self

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import override

from compressor.contracts import Context, Progress
from compressor.contracts.figures import trimmed
from compressor.contracts.notes import Note, Remark, Table
from compressor.contracts.read_again import ReadAgain
from compressor.errors import CompressorError
from compressor.model.quantization.grids import WeightBits
from compressor.training.group import Group
from passes.pruning.latency_budget import LatencyBudget
from passes.quantization_aware.scheme import QuantizationScheme
from passes.quantization_aware.widths import RISING, Widths, named

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressor.contracts import Model
    from passes.quantization_aware.placement import Placement

ATTEMPTS = 4
"""Times that the latency of a choice is measured before the best one is taken."""
PRECISE = 0.99
"""Of a missed latency budget, that the next choice aims at."""


class MixedBits(ReadAgain):
    """What a model with layers of different bits may take; either `bytes` or `latency`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    widths: tuple[WeightBits, ...] = Field((8, 4), min_length=2, description="bits to choose from")
    bytes: int | None = Field(None, ge=1, description="of all parameters as deployed, those in float too")
    latency: LatencyBudget | None = Field(None, description="a latency to keep, measured on a target of the plan")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.bytes is None) == (self.latency is None):
            raise ValueError("mixed needs either `bytes` or `latency`")
        if len(set(self.widths)) < len(self.widths):
            raise ValueError(f"widths names one twice: {', '.join(map(str, self.widths))}")
        if self.latency is not None and "points" in self.latency.model_fields_set:
            raise ValueError("nothing would heed points, as no unit is cut: leave it out")
        return self

    @override
    def unheeded(self) -> tuple[str, ...]:
        """Points of a latency, as no unit is cut."""
        return ("latency.points",)


@dataclass(frozen=True)
class Unit:
    """Layers that read one tensor and get equal bits."""

    layers: tuple[str, ...]
    weights: int
    allowed: tuple[WeightBits, ...]


@dataclass(frozen=True)
class Cost:
    """What rounding a unit alone adds to the difference from the input model: a mean over rows, and its 95 % interval."""

    mean: float
    low: float
    high: float


class Sizes(NamedTuple):
    """What a budget of bytes is kept by."""

    units: Sequence[Sequence[int]]
    """Bytes of each unit at each of its widths."""
    room: int
    """For all of them together."""


Costs = Mapping[tuple[int, WeightBits], Cost]
"""By the unit's number and its bits."""


def cheapest(sizes: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], room: float) -> tuple[int, ...] | None:
    """For each item which of its sizes, so that costs are least and sizes fit together; None where no choice fits.

    Exact: of all choices of the first items those are kept that no other beats in both size and cost. Of equal costs the smaller size
    is taken.
    """
    import numpy as np

    total, lost = np.zeros(1), np.zeros(1)
    ways: list[tuple[NDArray[np.int32], NDArray[np.int8]]] = []
    least = np.cumsum([0.0, *(min(each) for each in reversed(sizes))])[::-1][1:]
    for size, cost, after in zip(sizes, costs, least, strict=True):
        taken = (total[:, None] + np.asarray(size, float)).ravel()
        worth = (lost[:, None] + np.asarray(cost, float)).ravel()
        order = np.lexsort((taken, worth))  # the cheapest first, of equal ones the smallest
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], taken[order]]))[:-1]
        kept = order[(taken[order] < best_before) & (taken[order] + after <= room)]
        if not kept.size:
            return None
        ways.append(((kept // len(size)).astype(np.int32), (kept % len(size)).astype(np.int8)))
        total, lost = taken[kept], worth[kept]
    at, chosen = int(np.lexsort((total, lost))[0]), []
    for parents, choices in reversed(ways):
        chosen.append(int(choices[at]))
        at = int(parents[at])
    return tuple(reversed(chosen))


def chosen_widths(model: Model, placement: Placement, scheme: QuantizationScheme, mixed: MixedBits, ctx: Context) -> Widths:
    """Bits of each layer, and notes of why.

    Raises:
        CompressorError: not even the fewest bits keep the budget, or no layer's bits can be chosen.
    """
    choice = _Choice(model, placement, scheme, mixed, ctx)
    if not choice.units:
        raise CompressorError("mixed: there is no layer whose bits can be chosen: leave mixed out")
    sizes = None if mixed.bytes is None else choice.sizes(mixed.bytes)
    costs = choice.costs()
    found = choice.for_latency(costs) if sizes is None else choice.for_bytes(costs, sizes)
    for note in choice.told(costs, found):
        ctx.note(note)
    return dict(Group().gathered(dict(found))[0])  # processors that round differently must not train different layers


class _Choice:
    """One model whose layers get bits."""

    def __init__(self, model: Model, placement: Placement, scheme: QuantizationScheme, mixed: MixedBits, ctx: Context) -> None:
        self.model, self.placement, self.scheme, self.mixed, self.ctx = model, placement, scheme, mixed, ctx
        self.units = tuple(self._unit(alike) for alike in placement.alike)

    def _unit(self, alike: tuple[str, ...]) -> Unit:
        pinned = {bits for path in alike if (bits := named(path, self.scheme.layer_bits)) is not None}
        if len(pinned) > 1:
            raise CompressorError(
                f"layer_bits gives {' and '.join(alike)} different bits, and they read one tensor: give them one"
            )
        weights = sum(self.model.module.get_submodule(path).weight.numel() for path in alike)
        return Unit(alike, weights, tuple(pinned) or self.mixed.widths)

    def rounded(self, widths: Widths) -> Model:
        """A copy of the model with layers of these bits."""
        from passes.quantization_aware.placement import put_in

        student = self.model.copy()
        put_in(student, self.placement, self.scheme, widths)
        return student

    # -------------------------------------------------------------- what rounding costs

    def costs(self) -> Costs:
        """Of each unit at each of its widths, rounded alone."""
        from compressor.contracts.statistics import paired
        from compressor.model.quantization.layers import in_float, quantized_layers
        from passes.quantization.quantize_static import SENSITIVITY_ROWS, difference_by

        apart, _ = difference_by(self.ctx.task)
        exact = self.ctx.outputs(self.model, "validation", limit=SENSITIVITY_ROWS)
        found: dict[tuple[int, WeightBits], Cost] = {}
        every = sum(len(unit.allowed) for unit in self.units)
        for width in dict.fromkeys(width for unit in self.units for width in unit.allowed):
            student = self.rounded(self._uniform(width))
            layers = quantized_layers(student.module)
            for number, unit in enumerate(self.units):
                if width not in unit.allowed:
                    continue
                with ExitStack() as stack:
                    for path, layer in layers.items():
                        if path not in unit.layers:
                            stack.enter_context(in_float(layer))
                    other = self.ctx.outputs(student, "validation", limit=SENSITIVITY_ROWS)
                found[number, width] = Cost(*paired(apart(exact, other), None, self.ctx.seed, binary=False)[:3])
                self.ctx.tell(Progress("sensitivity", len(found), every, "layers"))
        return found

    def _uniform(self, width: WeightBits) -> Widths:
        """All units at a width, or at the nearest that they may have."""
        return self._of([width if width in unit.allowed else unit.allowed[0] for unit in self.units])

    def _of(self, chosen: Sequence[WeightBits]) -> dict[str, WeightBits]:
        return {path: width for unit, width in zip(self.units, chosen, strict=True) for path in unit.layers}

    # -------------------------------------------------------------- what fits

    def sizes(self, most: int) -> Sizes:
        """Bytes of each unit at each of its widths, and those that all of them may take.

        Raises:
            CompressorError: not even the fewest bits fit.
        """
        from compressor.model.quantization.layers import packed_bytes

        shapes = {path: self._shape(path) for unit in self.units for path in unit.layers}
        found = [
            [sum(packed_bytes(shapes[path], self.scheme.weight_grid(width)) for path in unit.layers) for width in unit.allowed]
            for unit in self.units
        ]
        first = self.rounded(self._of([unit.allowed[0] for unit in self.units])).stored_bytes()
        rest = first - sum(each[0] for each in found)
        if (least := rest + sum(map(min, found))) > most:
            raise CompressorError(f"mixed: {most:,} bytes cannot be kept: with the fewest bits it is {least:,} bytes")
        return Sizes(found, most - rest)

    def for_bytes(self, costs: Costs, sizes: Sizes) -> Widths:
        """The cheapest that takes no more bytes."""
        found = cheapest(sizes.units, self._means(costs), sizes.room)
        assert found is not None, "the fewest bits fit"
        return self._of([unit.allowed[at] for unit, at in zip(self.units, found, strict=True)])

    def _shape(self, path: str) -> tuple[int, int]:
        layer = self.model.module.get_submodule(path)
        rows, columns = layer.weight.shape
        return (columns, rows) if hasattr(layer, "nf") else (rows, columns)

    def _means(self, costs: Costs) -> list[list[float]]:
        return [[costs[number, width].mean for width in unit.allowed] for number, unit in enumerate(self.units)]

    def for_latency(self, costs: Costs) -> Widths:
        """The cheapest that is as fast, as far as measured: a forecast by shares of the weights, measured and mended.

        Where no mix of bits is as fast the cheapest of equal bits is taken that is.

        Raises:
            CompressorError: no choice that was measured keeps the budget, or other processes compute beside this one.
        """
        budget = self.mixed.latency
        assert budget is not None
        if Group().size > 1:
            raise CompressorError("a latency is measured while nothing else runs: run this plan without --processes")
        usable = tuple(dict.fromkeys(width for unit in self.units for width in unit.allowed))
        whole = {width: self._uniform(width) for width in usable}
        times = dict(zip(usable, self._timed([*whole.values()])[1:], strict=True))
        share = [unit.weights / sum(each.weights for each in self.units) for unit in self.units]
        sizes = [[part * times[width] for width in unit.allowed] for part, unit in zip(share, self.units, strict=True)]
        most = budget.ms if budget.ms is not None else float(budget.ratio or 1.0) * self._timed([])[0]
        room, fastest = most, min(times.values())
        for _ in range(ATTEMPTS):
            found = cheapest(sizes, self._means(costs), room)
            if found is None:
                break
            widths = self._of([unit.allowed[at] for unit, at in zip(self.units, found, strict=True)])
            taken = self._timed([widths])[1]
            if taken <= most:
                return widths
            fastest, room = min(fastest, taken), PRECISE * room * most / taken
        if fitting := [width for width in usable if times[width] <= most]:
            return whole[min(fitting, key=lambda width: self._cost(whole[width], costs))]
        raise CompressorError(
            f"mixed: {trimmed(most)} {budget.unit} cannot be kept: the fastest of the choices that were measured takes {trimmed(fastest)}"
        )

    def _cost(self, widths: Widths, costs: Costs) -> float:
        return sum(costs[number, widths[unit.layers[0]]].mean for number, unit in enumerate(self.units))

    def _timed(self, choices: Sequence[Widths]) -> list[float]:
        """Milliseconds of the input model and of choices, once on this machine for these."""
        budget = self.mixed.latency
        assert budget is not None
        spelled = [sorted((path, str(width)) for path, width in each.items()) for each in choices]
        how = self.scheme.model_dump(mode="json", include=set(QuantizationScheme.model_fields))
        what = {"latency of bits": spelled, "model": _spelled(self.model), "scheme": how, **budget.spelled()}

        def timed() -> list[float]:
            return budget.timed([self.model, *(self.rounded(each) for each in choices)], self.ctx)

        found: list[float] = self.ctx.remember(what, timed)
        return found

    # -------------------------------------------------------------- what is told

    def told(self, costs: Costs, widths: Widths) -> list[Note]:
        """Bits of each unit, what rounding it alone costs at each width, and why some have more."""
        every = tuple(dict.fromkeys(width for unit in self.units for width in unit.allowed))
        rows = []
        for number, unit in enumerate(self.units):
            cells = [self._cell(costs.get((number, width))) for width in every]
            rows.append((", ".join(unit.layers), str(widths[unit.layers[0]]), unit.weights, *cells))
        title = "Bits chosen, and what rounding the layers alone costs (difference from the input model, 95 % interval)"
        table = Table(
            title=title, columns=("layers", "bits", "weights", *(f"cost at {width}" for width in every)), rows=tuple(rows)
        )
        return [table, Remark(text=self._why(costs, widths))]

    @staticmethod
    def _cell(cost: Cost | None) -> str:
        return "" if cost is None else f"{cost.mean:.3g} [{cost.low:.3g}, {cost.high:.3g}]"

    def _why(self, costs: Costs, widths: Widths) -> str:
        """Those that got more than the fewest bits, those first that would lose most by them."""
        more = []
        for number, unit in enumerate(self.units):
            fewest, now = min(unit.allowed, key=RISING.index), widths[unit.layers[0]]
            if now != fewest:
                spared = costs[number, fewest].mean - costs[number, now].mean
                sure = costs[number, fewest].low > costs[number, now].high
                more.append((spared, f"{unit.layers[0]} ({now} bits spare {spared:.3g}{'' if sure else ', within the noise'})"))
        if not more:
            return "No layer got more than the fewest bits: the budget has no room."
        names = [text for _, text in sorted(more, reverse=True)]
        rest = f", and {len(names) - 8} more" if len(names) > 8 else ""
        return f"More than the fewest bits, by what rounding costs for the room it takes: {'; '.join(names[:8])}{rest}."


def _spelled(model: Model) -> list[object]:
    """What the time of a model depends on, as JSON values."""
    shapes = {name: list(each.shape) for name, each in model.module.named_parameters()}
    return [str(getattr(model.module, "config", "")), shapes]
