"""What a training with gates has to end with: a share of parameters, multiply-accumulates or milliseconds that goes, and what is left."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.contracts import Context
from compressor.contracts.anatomy import Units
from compressor.contracts.figures import trimmed
from compressor.contracts.notes import Remark, Table
from compressor.errors import CompressorError
from compressor.training.group import Group
from passes.gating.constraint import choose
from passes.gating.expected_size import Formula, multiply_accumulates, parameters
from passes.gating.gating import Gating, masks_after_training, pruned
from passes.pruning.costs import Site
from passes.pruning.latency_budget import (
    Choice,
    LatencyBudget,
    LatencyFormula,
    LatencyTable,
    check_reachable,
    latency_table,
    reach,
)
from passes.pruning.ranking import Ladder, ladder

if TYPE_CHECKING:
    from compressor.contracts import Model


@dataclass(frozen=True)
class Limits:
    """What widths may be, by kind of unit."""

    multiples: Mapping[str, int]
    least: Mapping[str, int]

    def lowest(self, place: Units) -> int:
        """The fewest units that stay at a place."""
        return min(place.count, self.least.get(place.kind, 0))


@dataclass(frozen=True)
class Goal:
    """A share of a cost that goes."""

    formula: Formula
    share: float
    unit: str
    limits: Limits
    latency: tuple[LatencyBudget, LatencyTable] | None = None
    """Where the cost is a latency: the formula is a forecast, and what is left is measured."""

    def check(self, gating: Gating) -> None:
        """The goal must be within reach with all gone that may go.

        Raises:
            CompressorError: it is not.
        """
        most = 1 - self.formula.of([float(self.limits.lowest(place)) for place in gating.places]) / self.formula.whole
        if most < self.share:
            kinds = ", ".join(dict.fromkeys(place.kind for place in gating.places))
            raise CompressorError(
                f"{self.share:.1%} of the {self.unit} cannot go: {most:.1%} do with all gone that may go ({kinds}); ask for less"
                + ("" if self.latency else ", or let more kinds of units go")
            )

    @property
    def trained_by(self) -> Formula:
        """The formula that gates learn by."""
        return self.formula.hull() if isinstance(self.formula, LatencyFormula) else self.formula

    def widths(self, gating: Gating, share: float) -> dict[Units, tuple[int, ...]]:
        """Which units stay at each place where so much goes."""
        return choose(gating, self.formula, sparsity=share, multiples=self.limits.multiples, least=self.limits.least)

    def cost(self, chosen: Mapping[Units, Sequence[int]]) -> float:
        """What these units cost."""
        return self.formula.of([float(len(units)) for units in chosen.values()])


def size_goal(student: Model, gating: Gating, limits: Limits, *, sparsity: float) -> Goal:
    """So much of the parameters goes."""
    return Goal(parameters(student.module, gating.anatomy, gating.places), sparsity, "parameters", limits)


def macs_goal(student: Model, gating: Gating, limits: Limits, *, macs: float, tokens: int) -> Goal:
    """So much of the multiply-accumulates of a row of so many tokens stays."""
    formula = multiply_accumulates(student.module, gating.anatomy, gating.places, tokens=tokens)
    return Goal(formula, 1 - macs, "multiply-accumulates", limits)


def latency_goal(student: Model, gating: Gating, limits: Limits, *, budget: LatencyBudget, ctx: Context) -> Goal:
    """A latency on a target, by a table that is measured now unless this machine has it.

    Raises:
        CompressorError: the model is as fast as that, is not with all gone that may go, or other processes compute beside this one.
    """
    if Group().size > 1:
        raise CompressorError("a latency is measured while nothing else runs: run this plan without --processes")
    site = Site(student, gating.anatomy, tuple(_ladders(gating, limits)), ctx)
    table = latency_table(site, budget)
    left = budget.ratio if budget.ratio is not None else (budget.ms or 0.0) / table.full_ms
    if left >= 1:
        raise CompressorError(
            f"the model takes {trimmed(table.full_ms)} {budget.unit} on {budget.target}, which is within {trimmed(left * table.full_ms)} ms"
        )
    check_reachable(site, budget)
    formula = LatencyFormula(table, tuple((each.kind, each.units) for each in site.ladders))
    return Goal(formula, 1 - left, f"{budget.unit} on {budget.target}", limits, (budget, table))


def _ladders(gating: Gating, limits: Limits) -> list[Ladder]:
    """What may go of each place, for a table of latencies; in which order does not matter there."""
    made = []
    for place in gating.places:
        assert place.kind in ("heads", "neurons")
        least, round_to = limits.lowest(place), limits.multiples.get(place.kind, 1)
        made.append(ladder(place.kind, place.where, [0.0] * place.count, round_to=round_to, least=least))
    return made


# ------------------------------------------------------------------ what is left


def cut(student: Model, gating: Gating, goal: Goal, ctx: Context) -> Model:
    """The student without the units that are off; a latency is measured, and units are chosen anew while it is missed by over 5 %."""
    expected = [float(count.detach()) for count in gating.expected()]
    learned = goal.trained_by
    gating.eval()
    chosen = goal.widths(gating, goal.share) if goal.latency is None else _measured(student, gating, goal, ctx)
    gating.keep(chosen)
    small = pruned(student, gating)
    whole = goal.formula.whole
    ctx.note(
        Remark(
            text=f"{goal.share:.1%} of {_number(whole)} {goal.unit} were to go; {1 - learned.of(expected) / learned.whole:.1%} were "
            f"expected to at the end of the first stage, and {1 - goal.cost(chosen) / whole:.1%} went"
            f"{' by the table' if goal.latency else ''}: {small.weights:,} of {student.weights:,} parameters are left."
        )
    )
    ctx.note(_table(gating, expected))
    return small


def _measured(student: Model, gating: Gating, goal: Goal, ctx: Context) -> dict[Units, tuple[int, ...]]:
    assert goal.latency is not None
    budget, table = goal.latency

    def make(chosen: Mapping[Units, tuple[int, ...]]) -> Model:
        gating.keep(chosen)
        return pruned(student, gating)

    def choice(excess: float) -> Choice:
        chosen = goal.widths(gating, excess / goal.formula.whole)
        return Choice(tuple(chosen.items()), goal.cost(chosen), lambda: make(chosen))

    gates = hashlib.sha256(b"".join(gate.detach().cpu().numpy().tobytes() for gate in gating.parameters())).hexdigest()

    def measure(choice: Choice, small: Model) -> tuple[float, float]:
        """Remembered, so that a killed run that goes on takes the same widths."""
        left = [[str(place), len(units)] for place, units in choice.what]  # type: ignore[attr-defined]
        what = {"latency of": left, "gates": gates, **budget.model_dump(mode="json")}

        before, after = ctx.remember(what, lambda: budget.timed([student, small], ctx))
        return before, after

    best = reach(budget, table, choice, measure, ctx)
    assert isinstance(best.choice.what, tuple)
    return dict(best.choice.what)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(gating: Gating, expected: Sequence[float]) -> Table:
    rows = tuple(
        (place.where, place.kind, place.count, round(count, 1), int((mask > 0).sum()))
        for (place, mask), count in zip(masks_after_training(gating).items(), expected, strict=True)
    )
    return Table(title="What is left", columns=("where", "kind", "before", "expected", "after"), rows=rows)
