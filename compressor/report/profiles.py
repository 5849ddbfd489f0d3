"""Why a file is not faster: its time by operator and by block, how near it is to its bound, and what would take the costliest away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compressor.contracts.profiles import Family, OperatorTime
from compressor.contracts.records import ProfileRow
from compressor.report import wording

COSTLIEST = 3
SMALL = 0.01
"""Share of the time below which kinds of operators are told together."""
STILL = 0.1
"""Load by others from which on peaks are doubted."""
REMEDIES: dict[Family, str] = {
    "product": "Only a smaller model has fewer of them: layers, heads, neurons.",
    "attention": "It grows with the square of the length: shorter inputs, or fewer heads.",
    "norm": "One pass over all activations each, which integers do not shorten: fewer layers, or a narrower hidden state.",
    "activation": "Fewer neurons, or a model trained with an activation that is cheaper than its own.",
    "sum": "Sums that a product or a norm takes in with its own pass; else fewer layers, or a narrower hidden state.",
    "conversion": "Neighbours that stay in integers, so that each tensor is converted once; layers too small to gain by int8 left in float.",
    "look-up": "Rows that come out as the next operator reads them; else shorter inputs, or a narrower hidden state.",
    "layout": "A graph whose operators read each other's layout: attention as one operator moves nothing.",
    "other": "What depends on shapes alone, masks above all, computed once for all layers, or given by the caller.",
}
"""What would take operators of a family away."""
IN_FLOAT = "They compute in {numbers}: in int8 their bound is {times} lower."
BEATEN = "its weights stay in caches from call to call, or torch, which measured the peaks, does not reach those of the machine."
BOUND_SHARE = 0.6
"""Of the peak, from which on products count as near it."""


@dataclass(frozen=True)
class Cost:
    """Operators that are told together."""

    name: str
    family: Family
    numbers: str
    count: int
    ms: float
    share: float
    """Of the time of all operators."""
    operations: float
    least_ms: float
    """What their products would take at the machine's peak."""

    @property
    def efficiency(self) -> float | None:
        """Of the peak; None where they have no products."""
        return self.least_ms / self.ms if self.operations and self.ms else None


def by_kind(row: ProfileRow) -> list[Cost]:
    """The costliest kind of operator first, products apart by the numbers that they compute in; small ones together at the end."""
    found = _costs(row, lambda each: (each.kind, each.numbers if each.operations else ""))
    small = [each for each in found if each.share < SMALL]
    if len(small) < 2:
        return found
    total = {name: sum(getattr(each, name) for each in small) for name in ("count", "ms", "share", "operations", "least_ms")}
    return [*(each for each in found if each not in small), Cost(f"{len(small)} other kinds", "other", "", **total)]


def by_block(row: ProfileRow) -> list[Cost]:
    """In the order in which blocks run."""
    return sorted(_costs(row, lambda each: (each.block, "")), key=_order(row.operators))


def _order(operators: Sequence[OperatorTime]) -> Callable[[Cost], int]:
    first = {each.block: place for place, each in reversed([*enumerate(operators)])}
    return lambda cost: first[cost.name]


def _costs(row: ProfileRow, key: Callable[[OperatorTime], tuple[str, str]]) -> list[Cost]:
    total, groups = sum(each.ms for each in row.operators), dict[tuple[str, str], list[OperatorTime]]()
    for each in row.operators:
        groups.setdefault(key(each), []).append(each)
    found = [
        Cost(
            name=name,
            family=each[0].family,
            numbers=numbers,
            count=len(each),
            ms=sum(one.ms for one in each),
            share=sum(one.ms for one in each) / total if total else 0.0,
            operations=sum(one.operations for one in each),
            least_ms=1e3 * sum(one.operations / row.peaks.of(one.numbers) for one in each),
        )
        for (name, numbers), each in groups.items()
    ]
    return sorted(found, key=lambda cost: -cost.ms)


def bound_words(row: ProfileRow) -> str:
    """How near a call is to the least that it could take, in a sentence or two."""
    bound, operations = row.bound, sum(each.operations for each in row.operators)
    products = f"{wording.count(operations)} operations of its products at the machine's peak"
    if not operations and bound.bytes_ms is None:
        return f"A call takes {wording.milliseconds(row.call_ms)}; what it takes at least is not known."
    weights = "" if bound.bytes_ms is None else f", and {wording.milliseconds(bound.bytes_ms)} to read its weights from memory"
    parts = f"{wording.milliseconds(bound.operations_ms)} for {products}{weights}"
    found = f"A call takes {wording.milliseconds(row.call_ms)}. " + (
        f"The least it could take is {wording.milliseconds(bound.ms)}, which is {wording.percent(row.share)} of that: {parts}."
        if row.share <= 1
        else f"It is faster than what was counted on, {wording.milliseconds(bound.ms)} ({parts}): {BEATEN}"
    )
    if row.peaks.load > STILL:
        found += (
            f" Others kept {wording.percent(row.peaks.load)} of the machine busy while its peaks were measured: they may be too low, "
            "and the share too high."
        )
    return found


def peaks_words(row: ProfileRow) -> str:
    """What the machine was seen to do."""
    rates = ", ".join(f"{numbers} {wording.significant(rate / 1e12)} T/s" for numbers, rate in row.peaks.operations_per_s.items())
    threads = f"{row.peaks.threads} thread{'s' if row.peaks.threads > 1 else ''}"
    return f"Peaks with {threads}: {rates} operations, {wording.size(row.peaks.bytes_per_s)}/s from memory."


def why_not_faster(row: ProfileRow) -> list[str]:
    """The costliest kinds of operators, and what would take them away."""
    return [f"{_spelled(each)}: {wording.percent(each.share)}. {_remedy(each, row)}" for each in by_kind(row)[:COSTLIEST]]


def _spelled(cost: Cost) -> str:
    return f"{cost.count} {cost.name}" + (f" in {cost.numbers}" if cost.numbers else "")


def _remedy(cost: Cost, row: ProfileRow) -> str:
    said = REMEDIES[cost.family]
    if cost.family != "product" or cost.efficiency is None:
        return said
    near = wording.percent(cost.efficiency)
    if cost.numbers != "int8" and (gain := row.peaks.of("int8") / row.peaks.of(cost.numbers)) > 1:
        said = IN_FLOAT.format(numbers=cost.numbers, times=wording.factor(gain))
    elif cost.efficiency < BOUND_SHARE:
        said += " Small products reach less of the peak than large ones."
    return f"They reach {near} of the peak. {said}"
