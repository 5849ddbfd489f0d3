"""Candidate against reference: paired differences with their interval, parity of raw outputs, limits turned into verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from compressor.contracts import Evaluation
from compressor.contracts.records import Difference, Interval, Parity, Verdict
from compressor.plan.specs import Gate, Limits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Outcome: TypeAlias = Literal["met", "not met", "undecided"]
NORMAL_95 = 1.959963984540054


def compare(candidate: Evaluation, reference: Evaluation, *, name: str, seed: int) -> Difference:
    """Difference of the main metric on the same rows, in points.

    Where rows are right or wrong, the interval is Bonett and Price's adjusted Wald interval for paired proportions (J. Educ.
    Behav. Stat. 37, 2012), which keeps a width when no row differs; else a bootstrap over rows.

    Raises:
        ValueError: the two were not evaluated on the same number of rows.
    """
    if len(candidate.correct) != len(reference.correct):
        raise ValueError(f"{len(candidate.correct)} rows against {len(reference.correct)}: not the same rows")
    gained = candidate.correct - reference.correct
    changed = int((candidate.outputs.argmax(-1) != reference.outputs.argmax(-1)).sum())
    low, high, method = _paired_interval(gained, seed)
    return Difference(
        reference=name,
        points=round(100 * float(gained.mean()), 6),
        interval=Interval(low=100 * low, high=100 * high, method=method),
        n=len(gained),
        changed=changed,
    )


def _paired_interval(gained: NDArray[np.float64], seed: int) -> tuple[float, float, str]:
    import numpy as np

    n = len(gained)
    if np.isin(gained, (-1.0, 0.0, 1.0)).all():
        better, worse = (float((gained == sign).sum() + 1) / (n + 2) for sign in (1, -1))
        centre, spread = better - worse, math.sqrt((better + worse - (better - worse) ** 2) / (n + 2))
        return max(-1.0, centre - NORMAL_95 * spread), min(1.0, centre + NORMAL_95 * spread), "Bonett-Price, paired"
    draws = np.random.default_rng(seed).integers(0, n, size=(2000, n))
    low, high = np.quantile(gained[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high), "bootstrap over rows, paired"


def parity(candidate: NDArray[np.float32], eager: NDArray[np.float32], *, against: str) -> Parity:
    """How far the raw outputs of a built file are from those of the same rows run eagerly in float32."""
    import numpy as np

    ours, theirs = candidate.astype(np.float64), eager.astype(np.float64)
    norms = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return Parity(
        against=against,
        max_abs=float(np.abs(ours - theirs).max()),
        cosine=float(np.mean((ours * theirs).sum(-1) / np.maximum(norms, 1e-30))),
        agreement=float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
        n=len(ours),
        finite=bool(np.isfinite(ours).all()),
    )


@dataclass(frozen=True)
class Measured:
    """What is known of a candidate when it is judged; None where it was not measured, with the reason in `why`."""

    difference: Difference | None = None
    speedup: tuple[float, Interval] | None = None
    latency_ms: tuple[float, Interval] | None = None
    size: float | None = None
    why: str = ""
    size_of: str = ""
    """Which bytes `size` is of, where a reader could take it for others."""


def judge(limits: Limits, measured: Measured, *, gate: str, candidate: str) -> tuple[Verdict, ...]:
    """One verdict for each limit that is given; what was not measured is undecided."""
    found: dict[str, tuple[float, Interval | None] | None] = {
        "max_drop": _drop(measured.difference),
        "min_speedup": measured.speedup,
        "max_latency_ms": measured.latency_ms,
        "max_size": None if measured.size is None else (measured.size, None),
    }
    return tuple(
        _verdict(
            limits,
            quantity,
            limit,
            found[quantity],
            gate=gate,
            candidate=candidate,
            why=measured.why if found[quantity] is None else measured.size_of if quantity == "max_size" else "",
        )
        for quantity in found
        if (limit := getattr(limits, quantity)) is not None
    )


def _drop(difference: Difference | None) -> tuple[float, Interval] | None:
    """Points lost: the difference with its sign turned."""
    if difference is None:
        return None
    of = difference.interval
    return -difference.points + 0.0, Interval(low=-of.high, high=-of.low, level=of.level, method=of.method)


def _verdict(
    limits: Limits,
    quantity: str,
    limit: float,
    found: tuple[float, Interval | None] | None,
    *,
    gate: str,
    candidate: str,
    why: str,
) -> Verdict:
    value, interval = found if found else (None, None)
    least = quantity == "min_speedup"
    outcome: Outcome = "undecided"
    if value is not None:
        decisive = value
        if limits.judged_by == "bound" and interval is not None:
            decisive = interval.low if least else interval.high
        outcome = "met" if (decisive >= limit if least else decisive <= limit) else "not met"
    return Verdict.model_validate(
        {
            "gate": gate,
            "candidate": candidate,
            "quantity": quantity,
            "limit": limit,
            "value": value,
            "interval": interval,
            "judged_by": limits.judged_by,
            "outcome": outcome,
            "on_fail": limits.on_fail if isinstance(limits, Gate) else getattr(limits, "on_fail", "stop"),
            "why": why,
        }
    )
