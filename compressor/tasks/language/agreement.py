"""Whether two sessions go on with a text alike: step by step along the tokens of one of them, so that one difference makes no others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.contracts import Feed, Session
from compressor.tasks.inputs.generation import greedy
from compressor.tasks.language.cache import IDS, KEPT, LOGITS, MASK
from compressor.tasks.language.decoding import decoded, filled

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

NEAR = 1e-4
"""Two best logits that differ by less are a tie: which of them is the greater one is a matter of rounding."""


@dataclass(frozen=True)
class Agreement:
    """Steps of greedy decoding, of all rows together."""

    steps: int
    ties: int
    """Where the tokens differ and the two best logits of either session differ by less than `NEAR`."""
    different: int
    """Where the tokens differ otherwise."""


def agreement(one: Session, other: Session, feed: Feed, steps: int) -> Agreement:
    """How often two sessions choose the same most probable token after prompts, padded on either side.

    Args:
        one: its tokens are what both go on with.
        other: of a model with the same vocabulary.
        feed: prompts.
        steps: how many tokens after them.
    """
    start = filled(one, feed)
    tokens = decoded(one, start, steps)
    mine, theirs = (_along(session, begun, tokens) for session, begun in ((one, start), (other, filled(other, feed))))
    differ = greedy(mine) != greedy(theirs)
    tied = (_gap(mine) < NEAR) | (_gap(theirs) < NEAR)
    return Agreement(differ.size, int((differ & tied).sum()), int((differ & ~tied).sum()))


def _along(session: Session, start: tuple[NDArray[Any], NDArray[Any], Any], tokens: NDArray[Any]) -> NDArray[Any]:
    """Logits before each of the tokens, `[B, steps, V]`."""
    import numpy as np

    logits, mask, state = start
    found = [logits]
    for place in range(tokens.shape[1] - 1):
        mask = np.concatenate([mask, np.ones((len(mask), 1), dtype=mask.dtype)], axis=1)
        given = {IDS: tokens[:, place : place + 1], MASK: mask, KEPT: np.zeros(1, dtype=np.int64)}
        outputs, state = session.run(given, state=state)
        found.append(outputs[LOGITS][:, -1])
    return np.stack(found, axis=1)


def _gap(logits: NDArray[Any]) -> NDArray[Any]:
    """Between the two best of each step."""
    import numpy as np

    best = np.partition(logits, -2, axis=-1)
    gap: NDArray[Any] = best[..., -1] - best[..., -2]
    return gap
