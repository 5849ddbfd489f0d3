"""Pruning to a latency measured on a target: a table of what narrower blocks take, a choice by it, and the outcome measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import override

from compressor.contracts import Context, Message, Workload
from compressor.contracts.figures import trimmed
from compressor.contracts.notes import Remark, Table
from compressor.contracts.read_again import ReadAgain
from compressor.errors import CompressorError
from passes.pruning.costs import Site, saved
from passes.pruning.ranking import Cost, Kind, Ladder

if TYPE_CHECKING:
    from compressor.contracts import Model
    from passes.pruning.ranking import Number

ATTEMPTS = 4
"""Times that the outcome is measured before the best one is taken."""
TOLERANCE = 0.05
"""Relative miss of a budget that is left alone."""
FLAT = 1e-6
"""What a place is taken to cost beside the table, of the whole: where a unit saves no time the smaller model is the better one."""

Share = Annotated[float, Field(gt=0, lt=1)]


class LatencyBudget(ReadAgain):
    """A latency to reach, measured on one of the plan's targets; either `ratio` or `ms`, of a call or, decoding, of a token."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    target: str = Field(description="name of a target of the plan")
    ratio: Share | None = Field(None, description="latency as a fraction of the input model's")
    ms: float | None = Field(None, gt=0, description="latency in milliseconds; where tokens are decoded, of one of them")
    kind: Literal["forward", "prefill", "decode"] = Field(
        "forward", description="what is timed: a pass over whole rows, a prompt of a language model, or single tokens after one"
    )
    batch: int = Field(1, ge=1, description="rows of a batch")
    length: int = Field(128, ge=1, description="tokens, pixels or samples of timed rows: 16000 is 1 s of sound at 16 kHz")
    steps: int = Field(16, ge=1, le=4096, description="tokens that a timed call decodes, one after the other")
    points: int = Field(3, ge=1, le=16, description="narrower variants measured for each kind of unit")

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.ratio is None) == (self.ms is None):
            raise ValueError("a latency budget needs either `ratio` or `ms`")
        if "steps" in self.model_fields_set and self.kind != "decode":
            raise ValueError(f"nothing would heed steps, as {self.kind} is one call: leave it out, or say kind: decode")
        return self

    @override
    def unheeded(self) -> tuple[str, ...]:
        """Steps, of one call."""
        return () if self.kind == "decode" else ("steps",)

    @property
    def workload(self) -> Workload:
        """What models are timed at."""
        return Workload(kind=self.kind, batch=self.batch, length=self.length, steps=self._calls)

    @property
    def unit(self) -> str:
        """What times are of."""
        return "ms" if self._calls is None else "ms a token"

    @property
    def _calls(self) -> int | None:
        return self.steps if self.kind == "decode" else None

    def timed(self, models: Sequence[Model], ctx: Context) -> list[float]:
        """Milliseconds of each model, of a call or a token, measured in turns."""
        return [ms / (self._calls or 1) for ms in ctx.measure(models, self.target, self.workload)]

    def spelled(self) -> dict[str, Any]:
        """All that a measured time depends on, as JSON values."""
        other = {} if self.kind == "forward" else {"kind": self.kind, "steps": self._calls}
        return {"target": self.target, "batch": self.batch, "length": self.length, "points": self.points, **other}


# ------------------------------------------------------------------ table


@dataclass(frozen=True)
class LatencyTable:
    """Latency of the whole model on one target as it gets narrower or shallower, one kind of unit at a time."""

    full_ms: float
    points: Mapping[Kind, tuple[tuple[float, float], ...]]
    """By kind: (units left, ms) by rising number of units, a mean over blocks; times never fall with more units."""

    def above(self, kind: Kind, share: Number, part: float) -> Number:
        """Milliseconds above the narrowest model measured that a part of all units of a kind takes with this share of it left.

        Straight lines between the points; variants keep like shares of all blocks, so a block counts by its part of the units.
        """
        points = self.points[kind]
        found: Number = (_between(points, share * points[-1][0]) - points[0][1]) * part
        return found

    def cost(self, ladders: Sequence[Ladder]) -> Cost:
        """Milliseconds above the narrowest model measured."""
        units = _units((each.kind, each.units) for each in ladders)

        def cost(ladder: Ladder, count: int) -> float:
            return self.above(ladder.kind, count / ladder.units, ladder.units / units[ladder.kind])

        return cost


def latency_table(site: Site, budget: LatencyBudget) -> LatencyTable:
    """The table for this shape of model, measured on the budget's target unless this machine has done so already.

    For each kind, variants keep evenly spaced shares of the units, the same in all blocks, down to the least possible.
    """
    ladders = site.ladders
    kinds: tuple[Kind, ...] = tuple(dict.fromkeys(ladder.kind for ladder in ladders))
    steps = {kind: _steps(ladders, kind, budget.points) for kind in kinds}

    def make() -> dict[str, Any]:
        variants = [site.pruned(taken) for kind in kinds for taken in steps[kind]]
        full, *rest = budget.timed([site.model, *variants], site.ctx)
        times = iter(rest)
        return {"full_ms": full, "ms": {kind: [next(times) for _ in steps[kind]] for kind in kinds}}

    found = site.ctx.remember(_shape(site, budget), make)
    full, curves = float(found["full_ms"]), dict[Kind, tuple[tuple[float, float], ...]]()
    for kind in kinds:
        counts = [_mean_count(ladders, kind, taken) for taken in (*steps[kind], [0] * len(ladders))]
        curves[kind] = _rising(list(zip(counts, [*found["ms"][kind], full], strict=True)))
    return LatencyTable(full, curves)


def _shape(site: Site, budget: LatencyBudget) -> dict[str, Any]:
    """All that latency depends on, as far as the model and the budget tell."""
    anatomy, ladders = site.anatomy, site.ladders
    return {
        "latency by heads, neurons and layers": anatomy.family,
        "weights": site.model.weights,
        "hidden_size": anatomy.hidden_size,
        "blocks": [
            [block.attention and block.attention.heads, block.feed_forward and block.feed_forward.width]
            for block in anatomy.blocks
        ],
        "ladders": [[each.kind, each.units, each.count(len(each.rungs)), len(each.rungs)] for each in ladders],
        **budget.spelled(),
    }


def _steps(ladders: Sequence[Ladder], kind: Kind, points: int) -> list[tuple[int, ...]]:
    """Rungs to take of each ladder, those of other kinds left alone; no variant twice."""
    found: dict[tuple[int, ...], None] = {}
    for point in range(points):
        taken = tuple(_nearest(each, point / points) if each.kind == kind else 0 for each in ladders)
        if any(taken):
            found[taken] = None
    return list(found)


def _nearest(ladder: Ladder, share: float) -> int:
    """Rungs that leave nearest to the least and this share of the rest."""
    least = ladder.count(len(ladder.rungs))
    return ladder.nearest(least + share * (ladder.units - least))


def _mean_count(ladders: Sequence[Ladder], kind: Kind, taken: Sequence[int]) -> float:
    counts = [each.count(rungs) for each, rungs in zip(ladders, taken, strict=True) if each.kind == kind]
    return sum(counts) / len(counts)


def _rising(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """In order of counts; a time above that of a larger count is noise, or a slow kernel, and is set to it."""
    result: list[tuple[float, float]] = []
    for count, ms in sorted(points, reverse=True):
        result.append((count, min([ms, *(larger for _, larger in result[-1:])])))
    return tuple(reversed(result))


def _units(places: Iterable[tuple[Kind, int]]) -> Counter[Kind]:
    """Units of each kind over all places."""
    found: Counter[Kind] = Counter()
    for kind, units in places:
        found[kind] += units
    return found


def _lower_hull(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Of points by rising count those on the lower convex hull: slopes rise with the count."""
    hull: list[tuple[float, float]] = []
    for count, ms in points:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], (count, ms)):
            hull.pop()
        hull.append((count, ms))
    return tuple(hull)


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def _between(points: Sequence[tuple[float, float]], count: Number) -> Number:
    """Linear interpolation, constant beyond the ends; a tensor stays one."""
    found: Any = points[-1][1] + 0 * count
    for (low, low_ms), (high, high_ms) in pairwise(points):
        if count <= high:
            found = low_ms + (high_ms - low_ms) / (high - low) * (count - low if count > low else 0 * count)
            break
    result: Number = found
    return result


@dataclass(frozen=True)
class LatencyFormula:
    """Milliseconds of the whole model by the numbers of heads and neurons left, as a table has them."""

    table: LatencyTable
    places: tuple[tuple[Kind, int], ...]
    """Kind and number of units at each place."""

    @property
    def whole(self) -> float:
        """The latency before anything is removed."""
        return self.table.full_ms

    def of(self, counts: Sequence[Number]) -> Number:
        """The latency with so many units left at each place; straight lines between the points."""
        total: Any = self.whole
        every = _units(self.places)
        for (kind, units), count in zip(self.places, counts, strict=True):
            part = units / every[kind]
            total = total - (self.table.above(kind, 1.0, part) - self.table.above(kind, count / units, part))
            total = total - FLAT * self.whole * (units - count) / units
        found: Number = total
        return found

    def hull(self) -> LatencyFormula:
        """The same with each curve's lower convex hull: what gates learn by, for a flat stretch would not say that less is faster."""
        points = {kind: _lower_hull(curve) for kind, curve in self.table.points.items()}
        return replace(self, table=replace(self.table, points=points))


# ------------------------------------------------------------------ search


@dataclass(frozen=True)
class Choice:
    """What would go to save so many milliseconds."""

    what: Hashable
    predicted_ms: float
    pruned: Callable[[], Model]


@dataclass(frozen=True)
class Outcome:
    """One choice, its model, and its latency as measured beside the input model's."""

    choice: Choice
    pruned: Model
    ms: float
    input_ms: float
    goal_ms: float

    @property
    def miss(self) -> float:
        """How far above (or, negative, below) the goal, as a fraction of it."""
        return self.ms / self.goal_ms - 1


def reach(
    budget: LatencyBudget,
    table: LatencyTable,
    choose: Callable[[float], Choice],
    measure: Callable[[Choice, Model], tuple[float, float]],
    ctx: Context,
) -> Outcome:
    """Remove what the table says the budget takes; measure; correct by what was really saved while it misses by over 5 %.

    Args:
        choose: what goes to save so many milliseconds by the table.
        measure: milliseconds of the input model and of what is left, side by side.
    """
    excess = table.full_ms - (budget.ms or (budget.ratio or 1.0) * table.full_ms)
    outcomes: list[Outcome] = []
    for _ in range(ATTEMPTS):
        choice = choose(excess)
        if any(choice.what == earlier.choice.what for earlier in outcomes):
            break
        last = _outcome(budget, choice, measure, ctx)
        outcomes.append(last)
        if abs(last.miss) <= TOLERANCE:
            break
        really_saved = last.input_ms - last.ms
        excess *= (last.input_ms - last.goal_ms) / really_saved if really_saved > 0 else 2.0
    best = _best(outcomes)
    _tell(budget, table, best, tries=len(outcomes), ctx=ctx)
    return best


Shed = Callable[[Sequence[Ladder], Cost, float], tuple[int, ...]]
"""Rungs to take of ladders to shed so much of a cost."""


def prune_to_latency(site: Site, budget: LatencyBudget, shed: Shed) -> tuple[tuple[int, ...], Model]:
    """Rungs to take of a site's ladders so that the budget is met, and the model without them.

    Raises:
        CompressorError: the budget is missed with all gone that may go.
    """
    table = latency_table(site, budget)
    cost = table.cost(site.ladders)
    everything = tuple(len(each.rungs) for each in site.ladders)

    def choose(excess: float) -> Choice:
        taken = shed(site.ladders, cost, excess)
        return Choice(taken, table.full_ms - saved(site.ladders, cost, taken), lambda: site.pruned(taken))

    def measure(_: Choice, pruned: Model) -> tuple[float, float]:
        before, after = budget.timed([site.model, pruned], site.ctx)
        return before, after

    best = reach(budget, table, choose, measure, site.ctx)
    if best.miss > TOLERANCE and best.choice.what == everything:
        raise CompressorError(
            f"{_unreachable(budget, best.goal_ms, best.input_ms, best.ms)}; raise the budget, or let layers go too"
        )
    taken = best.choice.what
    assert isinstance(taken, tuple)
    return taken, best.pruned


def check_reachable(site: Site, budget: LatencyBudget) -> None:
    """Measure what is left with all gone that may go, before anything is trained.

    Raises:
        CompressorError: that still takes longer than the budget allows.
    """
    everything = [len(each.rungs) for each in site.ladders]

    def timed() -> list[float]:
        return budget.timed([site.model, site.pruned(everything)], site.ctx)

    input_ms, ms = site.ctx.remember({"latency with all gone that may go": True, **_shape(site, budget)}, timed)
    goal_ms = budget.ms or (budget.ratio or 1.0) * input_ms
    if ms > (1 + TOLERANCE) * goal_ms:
        raise CompressorError(f"{_unreachable(budget, goal_ms, input_ms, ms)}; ask for less")


def _unreachable(budget: LatencyBudget, goal_ms: float, input_ms: float, ms: float) -> str:
    return (
        f"the latency budget cannot be met on {budget.target}: {trimmed(goal_ms)} {budget.unit} is the goal, {trimmed(input_ms)} ms the input "
        f"model, "
        f"{trimmed(ms)} ms with all gone that may go"
    )


def _outcome(
    budget: LatencyBudget, choice: Choice, measure: Callable[[Choice, Model], tuple[float, float]], ctx: Context
) -> Outcome:
    pruned = choice.pruned()
    input_ms, ms = measure(choice, pruned)
    goal_ms = budget.ms or (budget.ratio or 1.0) * input_ms
    ctx.tell(
        Message(
            f"{trimmed(ms)} {budget.unit} on {budget.target}, predicted {trimmed(choice.predicted_ms)}, goal {trimmed(goal_ms)}"
        )
    )
    return Outcome(choice, pruned, ms, input_ms, goal_ms)


def _best(outcomes: Sequence[Outcome]) -> Outcome:
    """The slowest of those that meet the goal, as it keeps most; the one nearest to it where none does."""
    met = [each for each in outcomes if each.miss <= TOLERANCE]
    return max(met, key=lambda each: each.ms) if met else min(outcomes, key=lambda each: each.miss)


def _tell(budget: LatencyBudget, table: LatencyTable, best: Outcome, *, tries: int, ctx: Context) -> None:
    where = f"{budget.target}, {budget.workload}"
    rows = tuple((kind, round(count, 1), round(ms, 4)) for kind, points in table.points.items() for count, ms in points)
    ctx.note(Table(title=f"Latency by what is left in each block ({where})", columns=("kind", "left", budget.unit), rows=rows))
    verdict = "met" if best.miss <= TOLERANCE else f"missed by {best.miss:.0%}"
    ctx.note(
        Remark(
            text=f"Latency on {where}: predicted {trimmed(best.choice.predicted_ms)} {budget.unit}, measured {trimmed(best.ms)} ms "
            f"({trimmed(best.input_ms)} ms before); the budget of {trimmed(best.goal_ms)} ms is {verdict} after {_count(tries)}."
        )
    )


def _count(tries: int) -> str:
    return "1 measurement" if tries == 1 else f"{tries} measurements"
