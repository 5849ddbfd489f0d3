"""Decoding by two models: a small one proposes tokens, the model itself judges several of them in one call; in numpy alone.

What comes out is distributed as the model alone would have it: accepting and drawing anew follow Leviathan, Kalman and Matias,
"Fast Inference from Transformers via Speculative Decoding" (2023), section 2.3. The most probable tokens are the case of one-hot
distributions: they are exactly those of plain decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed, Session
from compressor.tasks.inputs.generation import warped
from compressor.tasks.language.cache import IDS, KEPT, LOGITS, MASK

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Shares = NDArray[np.float64]


@dataclass(frozen=True)
class Speculated:
    """Tokens after a prompt, and how they were come by."""

    tokens: NDArray[Any]
    """`[1, at most steps]`."""
    proposed: int
    """Tokens that the draft model proposed."""
    accepted: int
    """Of these, how many were taken."""
    calls: int
    """Of the model itself after the prompt."""

    @property
    def acceptance_length(self) -> float:
        """Tokens that one call of the model makes, 1 to one more than are proposed at a time."""
        return float(self.tokens.shape[1] / max(self.calls, 1))


def speculated(
    model: Session,
    draft: Session,
    feed: Feed,
    steps: int,
    *,
    ahead: int = 4,
    how: Mapping[str, Any] | None = None,
    seed: int = 0,
    ends: Sequence[int] = (),
) -> Speculated:
    """Tokens after one prompt.

    Args:
        model: whose tokens they are.
        draft: a session of a model with the same vocabulary.
        feed: one prompt, padded or not.
        steps: how many tokens at most.
        ahead: how many the draft model proposes at a time.
        how: `temperature`, `top_k` and `top_p` to draw by; None for the most probable tokens.
        seed: of the draws.
        ends: tokens after which the text is over; the last token made is then one of them.
    """
    import numpy as np

    shares, random = _most_probable if how is None else partial(warped, how=how), np.random.default_rng(seed)
    tokens = feed[IDS][0][feed[MASK][0] != 0].tolist()
    started = len(tokens)
    judge, guess = _Reader(model), _Reader(draft)
    proposed = accepted = calls = 0
    while len(tokens) - started < steps and not set(tokens[started:]) & set(ends):
        most = min(ahead, steps - (len(tokens) - started) - 1)
        guesses, guessed = _guesses(guess, tokens, most, shares, random)
        truth = shares(judge.read([*tokens, *guesses], len(guesses) + 1))
        taken = _taken(truth, guessed, guesses, random)
        tokens, calls = [*tokens, *taken], calls + 1
        proposed, accepted = proposed + len(guesses), accepted + len(taken) - 1
        for reader in (judge, guess):
            reader.cut(len(tokens) - 1)
    made = _until(tokens[started:], ends)
    return Speculated(np.array([made], dtype=np.int64), proposed, accepted, calls)


class _Reader:
    """A session that has read a text up to some token."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._state: Any = None
        self._read = 0

    def read(self, tokens: Sequence[int], wanted: int) -> NDArray[Any]:
        """Logits of the last tokens of a text, `[wanted, V]`; what was read of it before is not read again."""
        import numpy as np

        new = np.array([tokens[self._read :]], dtype=np.int64)
        places = np.arange(new.shape[1] - wanted, new.shape[1], dtype=np.int64)
        feed = {IDS: new, MASK: np.ones((1, len(tokens)), dtype=np.int64), KEPT: places}
        found, self._state = self._session.run(feed, state=self._state)
        self._read = len(tokens)
        logits: NDArray[Any] = found[LOGITS][0]
        return logits

    def cut(self, length: int) -> None:
        """Forget what was read beyond a length."""
        if length < self._read:
            self._state, self._read = self._session.cut(self._state, length), length


def _guesses(
    reader: _Reader, tokens: Sequence[int], most: int, shares: Callable[[NDArray[Any]], Shares], random: np.random.Generator
) -> tuple[list[int], list[Shares]]:
    """Tokens that the draft model would go on with, and the distribution that each was drawn from."""
    guesses: list[int] = []
    found: list[Shares] = []
    for _ in range(most):
        found.append(shares(reader.read([*tokens, *guesses], 1))[0])
        guesses.append(_drawn(found[-1], random))
    return guesses, found


def _taken(truth: Shares, guessed: Sequence[Shares], guesses: Sequence[int], random: np.random.Generator) -> list[int]:
    """The guesses that are accepted, and one token more: drawn from what the model has beyond the guess, or after all of them."""
    import numpy as np

    for place, (guess, draft) in enumerate(zip(guesses, guessed, strict=True)):
        if random.random() * draft[guess] >= truth[place, guess]:
            beyond = np.maximum(truth[place] - draft, 0.0)
            return [*guesses[:place], _drawn(beyond / beyond.sum(), random)]
    return [*guesses, _drawn(truth[len(guesses)], random)]


def _drawn(shares: Shares, random: np.random.Generator) -> int:
    import numpy as np

    reached = np.cumsum(shares)
    return int(np.searchsorted(reached, random.random() * reached[-1], side="right"))


def _most_probable(logits: NDArray[Any]) -> Shares:
    """One-hot: `[rows, V]`."""
    import numpy as np

    made = np.zeros(logits.shape)
    made[np.arange(len(logits)), logits.argmax(-1)] = 1.0
    return made


def _until(tokens: list[int], ends: Sequence[int]) -> list[int]:
    """Up to the first token that ends a text."""
    place = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: place + 1]
