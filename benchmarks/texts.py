"""What models write after prompts, and what is told of it: where it ends, whether it loops, how much of it is said again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.contracts import Candidate, Feed, Session
from compressor.tasks.language.cache import IDS, KEPT, MASK
from compressor.tasks.language.decoding import decoded, filled
from compressor.tasks.language.prompts import answers_in

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMES = 3
"""A piece that stands at the end of a text so often, at least, is a loop."""
LEAST_LOOP = 12
"""Tokens that a loop has, at least: three full stops are none."""
PIECE = 4
"""Tokens of a piece that is looked for again."""


@dataclass(frozen=True)
class Written:
    """What one prompt was followed by."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    """Up to the token that ends a text, without it."""
    ended: bool
    """Whether there was one."""
    answer: tuple[int, ...] | None
    """What should follow, as far as the rows say it; without the token that ends a text."""

    @property
    def loops(self) -> bool:
        """Whether it ends in a piece that stands there several times."""
        return loops(self.tokens)

    @property
    def repeated(self) -> float:
        """Share of its pieces of a few tokens that stood there before."""
        pieces = [self.tokens[at : at + PIECE] for at in range(len(self.tokens) - PIECE + 1)]
        return 1 - len(set(pieces)) / len(pieces) if pieces else 0.0


@dataclass(frozen=True)
class Texts:
    """What several prompts were followed by."""

    all: tuple[Written, ...]
    not_finite: int
    """Tokens that were chosen from logits of which some are not finite."""

    @property
    def looping(self) -> int:
        """How many loop."""
        return sum(each.loops for each in self.all)


def loops(tokens: Sequence[int]) -> bool:
    """Whether a text ends in a piece of any length that stands there `TIMES` times or more, over `LEAST_LOOP` tokens or more."""
    import numpy as np

    found = np.asarray(tokens)
    for period in range(1, len(found) // TIMES + 1):
        length = max(TIMES * period, LEAST_LOOP)
        if length <= len(found):
            end = found[-length:]
            if bool((end[period:] == end[:-period]).all()):
                return True
    return False


def is_of_texts(feed: Feed) -> bool:
    """Whether a feed is one of a model that goes on with texts."""
    return KEPT in feed


def written(
    session: Session,
    feeds: Sequence[Feed],
    steps: int,
    ends: Sequence[int],
    *,
    most: int,
    choose: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
) -> Texts:
    """What a session writes after each prompt of some feeds; equal prompts with equal answers count once.

    Args:
        session: of a language model.
        feeds: prompts, padded or not, with answers where there are some.
        steps: tokens at most.
        ends: tokens that end a text.
        most: prompts that count; those beyond only fill the last batch.
        choose: the next token of each row `[B]`, of logits `[B, V]`; the most probable ones unless given.
    """
    import numpy as np

    from compressor.tasks.inputs.generation import greedy

    broken: list[int] = []

    def told(logits: NDArray[Any]) -> NDArray[Any]:
        broken.append(int((~np.isfinite(logits)).any(axis=-1).sum()))
        return (choose or greedy)(logits)

    found: dict[tuple[object, ...], Written] = {}
    for feed in feeds:
        made = decoded(session, filled(session, feed), steps, choose=told, ends=ends)
        for prompt, answer, tokens in zip(prompts_in(feed), answers_in(feed, ends), made.tolist(), strict=True):
            cut = next((at for at, token in enumerate(tokens) if token in ends), None)
            found.setdefault((prompt, answer), Written(prompt, tuple(tokens[:cut]), cut is not None, answer))
    return Texts(tuple(found.values())[:most], sum(broken))


def prompts_in(feed: Feed) -> list[tuple[int, ...]]:
    """The tokens of each row that are text."""
    return [tuple(ids[mask != 0].tolist()) for ids, mask in zip(feed[IDS], feed[MASK], strict=True)]


def one_by_one(feeds: Sequence[Feed], most: int) -> list[Feed]:
    """The first prompts, each alone and without padding; equal ones once."""
    import numpy as np

    prompts = list(dict.fromkeys(prompt for feed in feeds for prompt in prompts_in(feed)))[:most]
    return [
        {IDS: np.array([each], dtype=np.int64), MASK: np.ones((1, len(each)), dtype=np.int64), KEPT: np.array([len(each) - 1])}
        for each in prompts
    ]


def share(count: int, of: int) -> str:
    """A share in per cent with its 95 % interval (Wilson's score)."""
    if not of:
        return "none"
    z, found = 1.959964, count / of
    middle, half = found + z * z / (2 * of), z * (found * (1 - found) / of + z * z / (4 * of * of)) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / of) for sign in (-1, 1))
    return f"{found:.1%} ({max(0.0, low):.1%} to {min(1.0, high):.1%})"


def opened(candidate: Candidate) -> Session:
    """A candidate in this process: nothing is timed that other candidates are held against."""
    return candidate.runtime.open(candidate.built)
