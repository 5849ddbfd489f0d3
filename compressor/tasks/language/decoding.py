"""Decoding with any session: a prompt fills the cache, then single tokens go through it; in numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed, Session
from compressor.tasks.language.cache import IDS, LOGITS, MASK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Start = tuple[NDArray[Any], NDArray[Any], Any]


def filled(session: Session, feed: Feed) -> Start:
    """Logits of the newest token of each prompt `[B, V]`, the mask, and the filled cache; prompts may be padded on either side."""
    from compressor.tasks.inputs.generation import begun

    return begun(partial(_step, session), feed[IDS], feed[MASK])


def decoded(
    session: Session,
    start: Start,
    steps: int,
    *,
    choose: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    ends: Sequence[int] = (),
) -> NDArray[Any]:
    """Tokens after a filled cache, `[B, at most steps]`; the most probable ones unless `choose` says otherwise.

    Args:
        session: the built model.
        start: what `filled` gave; it stays as it is.
        steps: how many tokens at most.
        choose: from logits `[B, V]` to a token of each row `[B]`; None for the most probable ones.
        ends: tokens after which a row is over.
    """
    from compressor.tasks.inputs.generation import continued, greedy

    return continued(partial(_step, session), start, steps, choose=choose or greedy, ends=ends)


def sampling(seed: int, how: Mapping[str, Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """A way to choose that draws tokens: `temperature`, `top_k`, `top_p`; one seed draws the same ones again."""
    import numpy as np

    from compressor.tasks.inputs.generation import sampled

    return partial(sampled, draw=np.random.default_rng(seed), how=how)


def _step(session: Session, feed: Feed, state: Any) -> tuple[NDArray[Any], Any]:
    found, state = session.run(feed, state=state)
    return found[LOGITS][:, -1], state
