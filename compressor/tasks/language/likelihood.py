"""How probable a model finds texts: what tokens cost, and perplexities with intervals over documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compressor.contracts import Evaluation, Feed, Measure
from compressor.contracts.records import Difference, Interval, Scores
from compressor.contracts.statistics import difference, paired
from compressor.tasks.language import fidelity

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

PERPLEXITY = Measure("perplexity", better="lower", drop="percent")
BITS = Measure("bits per byte", better="lower", drop="percent")
ACCURACY = Measure("next-token accuracy")
MEASURES = (PERPLEXITY, BITS, ACCURACY)
AT_ONCE = 2**22
"""Logits that are put through their logarithms at a time."""
IGNORED = -100
"""The label of a token that is not told from those before it."""
MOST_NATS = 690.0
"""Of a token, as far as a perplexity of them is a number."""
OVER = "bootstrap over documents, studentised"


def costs(logits: NDArray[Any], targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each token costs in nats, and 1 where it is the most probable one: `[T]` each.

    Args:
        logits: `[T, V]`.
        targets: the tokens that came, `[T]`.
    """
    import numpy as np

    count = max(1, AT_ONCE // logits.shape[-1])
    parts = [_costs(logits[at : at + count], targets[at : at + count]) for at in range(0, len(targets), count)]
    cost, right = zip(*parts, strict=True) if parts else ((np.zeros(0),), (np.zeros(0),))
    return np.concatenate(cost), np.concatenate(right)


def _costs(logits: NDArray[Any], targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by a verdict, not warned of
        most = logits.max(axis=-1)
        total = np.exp(logits - most[:, None]).sum(axis=-1, dtype=np.float64)
        came = np.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
        return np.log(total) + (most.astype(np.float64) - came), (logits.argmax(axis=-1) == targets) * 1.0


def evaluation(outputs: Feed, *, split: str) -> Evaluation:
    """Scores of documents by what a token costs in the mean (`nats`), how many there are (`tokens`), how many were the most probable
    (`right`), and how many bytes they spell (`bytes`): `[documents]` each."""
    import numpy as np

    tokens, size = (outputs[name].astype(np.float64) for name in ("tokens", "bytes"))
    cost = outputs["nats"] * tokens
    right, n = outputs["right"] / np.maximum(tokens, 1), len(cost)
    scored = (
        (PERPLEXITY, _over(cost, tokens, _exp, least=0.0)),
        (BITS, _over(cost, size, lambda mean: mean / math.log(2), least=0.0)),
        (ACCURACY, _over(outputs["right"], tokens, lambda mean: min(1.0, mean), least=0.0)),
    )
    metrics = tuple(measure.metric(value, n, interval) for measure, (value, interval) in scored)
    gains = {PERPLEXITY.name: -outputs["nats"], ACCURACY.name: right}
    return Evaluation(Scores(split=split, metric=PERPLEXITY.name, metrics=metrics), outputs, gains, tokens)


def compared(candidate: Evaluation, reference: Evaluation, *, metric: str, name: str, seed: int) -> Difference:
    """Per cent of the reference's perplexity, or bits per byte, or points of accuracy, by what the tokens of equal documents cost."""
    counts = [len(each.outputs["nats"]) for each in (candidate, reference)]
    if counts[0] != counts[1]:
        raise ValueError(f"{counts[0]} documents against {counts[1]}: not the same ones")
    near = {
        "agreement": fidelity.agreement(candidate.outputs, reference.outputs),
        "divergence": fidelity.divergence(candidate.outputs, reference.outputs),
    }
    if metric == ACCURACY.name:
        return difference(candidate, reference, metric=metric, name=name, seed=seed, changed=None).model_copy(update=near)
    ours, theirs = (each.outputs["nats"] * each.outputs["tokens"] for each in (candidate, reference))
    held = reference.scores.of(metric)
    bits = metric == BITS.name
    counted = reference.outputs["bytes" if bits else "tokens"].astype("float64")

    def percent(mean: float) -> float:
        return -100 * (mean / math.log(2) / max(held.value, 1e-12) if bits else _exp(mean) - 1)

    value, interval = _over(ours - theirs, counted, percent, seed=seed)
    return Difference(reference=name, metric=metric, change=round(value, 6), unit=held.drop, interval=interval, n=held.n, **near)


def _over(
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    function: Callable[[float], float],
    *,
    least: float = -math.inf,
    seed: int = 0,
) -> tuple[float, Interval]:
    """A monotonic function of the mean over all that is counted, which cannot be less than `least`, and its interval over documents."""
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):
        mean, low, high, _ = paired(sums / np.maximum(counts, 1), counts, seed, binary=False)
    ends = sorted((function(max(low, least)), function(min(high, MOST_NATS))))
    return function(mean), Interval(low=ends[0], high=ends[1], method=OVER)


def _exp(mean: float) -> float:
    return math.exp(mean) if mean <= MOST_NATS or math.isnan(mean) else math.inf


# ------------------------------------------------------------------ in training


def ahead(labels: torch.Tensor) -> torch.Tensor:
    """The token that each position is to tell, `[B, T]`: the one after it, `IGNORED` where that does not count."""
    import torch

    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def counted(labels: torch.Tensor) -> int:
    """How many tokens count."""
    return int((labels[:, 1:] != IGNORED).sum())
