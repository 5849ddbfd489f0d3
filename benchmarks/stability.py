"""Whether models that go on with texts do so soundly: far into a text, after a prompt, and with numbers that are finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from benchmarks.texts import Texts, is_of_texts, opened, share, written
from compressor.contracts import Bench, Candidate, Feed, Probe, Progress, Session, Workload
from compressor.contracts.notes import Note, Remark, Series, Table
from compressor.contracts.probe import FEEDS
from compressor.tasks.language.cache import IDS, MASK
from compressor.tasks.language.likelihood import costs
from compressor.tasks.language.people import ends
from compressor.tasks.language.scoring import in_parts

if TYPE_CHECKING:
    from compressor.contracts.records import OtherRecord

AT_ONCE = 256
"""Tokens whose logits are held at a time."""
GOES_ON = ("decode", "generate")


class Stability(Probe):
    """Perplexity by how far into a text a token stands, the share of prompts after which a model loops, and outputs that are not finite.

    Any output that is NaN or infinite fails, whatever the plan accepts by. A prompt loops where the text after it, by the most
    probable tokens, ends in a piece that stands there three times or more, over 12 tokens or more. The run's own process opens one
    candidate after the other: nothing is timed.
    """

    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"buckets": 2, "prompts": 2, "prompt": 4, "steps": 4},)

    length: PositiveInt | None = None
    """Tokens of a row, texts one after the other in it, up to what the model has positions for; documents as they are, up to the task's
    `max_length`, unless given."""
    buckets: Annotated[int, Field(ge=2, le=64)] = 8
    """Parts of a text that perplexity is told of."""
    prompts: NonNegativeInt = 32
    """Beginnings of texts that are gone on with; 0 for none."""
    prompt: PositiveInt = 16
    """Tokens of each."""
    steps: Annotated[int, Field(ge=4)] = 64
    """Tokens after it."""

    def workloads(self) -> tuple[Workload, ...]:
        """Texts, and prompts."""
        return (self._told, *((self._asked,) if self.prompts else ()))

    @property
    def _told(self) -> Workload:
        return Workload(length=self.length)

    @property
    def _asked(self) -> Workload:
        return Workload(kind="generate", batch=-(-self.prompts // FEEDS), length=self.prompt, steps=self.steps)

    def suited(self, workloads: Sequence[Workload]) -> Self:
        """Of a task that does not go on with anything only its outputs are looked at."""
        return self if any(each.kind in GOES_ON for each in workloads) else self.model_copy(update={"prompts": 0})

    def shortened(self) -> Self:
        """Few prompts, and few tokens after each."""
        return self.model_copy(update={"prompts": min(self.prompts, 4), "steps": min(self.steps, 4)})

    def expected_seconds(self, short: Self, took_seconds: float) -> float:
        """As many times as there are tokens to be written; half of a short one is loading."""
        written = self.prompts * self.steps / max(1, short.prompts * short.steps)
        return took_seconds * (0.5 + 0.5 * max(1.0, written))

    def measure(
        self,
        candidates: Sequence[Candidate],
        feeds: Mapping[Workload, Sequence[Feed]],
        bench: Bench,
        *,
        seed: int,  # noqa: ARG002 - nothing is drawn here
    ) -> OtherRecord:
        """A curve over places, and a row for each candidate."""
        from compressor.contracts.records import OtherRecord

        found: dict[str, _Found] = {}
        for done, candidate in enumerate(candidates, start=1):
            found[candidate.id] = self._look(candidate, feeds)
            bench.tell(Progress("stability", done, len(candidates), unit="candidates"))
        broken = {name: each.not_finite for name, each in found.items()}
        return OtherRecord(probe="stability", notes=tuple(self._notes(found)), not_finite=broken)

    def _look(self, candidate: Candidate, feeds: Mapping[Workload, Sequence[Feed]]) -> _Found:
        session, told = opened(candidate), feeds[self._told]
        if not all(map(is_of_texts, told)):
            return _Found(Places((), (), sum(_broken(session, feed) for feed in told)), None)
        asked = feeds[self._asked][: -(-self.prompts // self._asked.batch)] if self.prompts else ()
        texts = written(session, asked, self.steps, ends(candidate.built), most=self.prompts) if asked else None
        return _Found(places(session, [_once(feed) for feed in told] if self.length else told), texts)

    def _notes(self, found: Mapping[str, _Found]) -> Iterator[Note]:
        """What was found, drawn and told."""
        longest = max((len(each.places.nats) for each in found.values()), default=0)
        width = max(1, math.ceil(longest / self.buckets))
        by_place = {name: each.places.perplexities(width) for name, each in found.items()}
        if longest:
            drawn = {
                name: tuple((float(at + width // 2), value) for at, _, value in rows if math.isfinite(value))
                for name, rows in by_place.items()
            }
            yield Series(title="Perplexity by place in a text", x="token", y="perplexity", curves=drawn)
            cells = tuple(
                (name, f"{at + 1} to {min(at + width, longest + 1)}", count, round(value, 4) if math.isfinite(value) else None)
                for name, rows in by_place.items()
                for at, count, value in rows
            )
            yield Table(title="Perplexity by place", columns=("candidate", "tokens", "counted", "perplexity"), rows=cells)
        yield Table(
            title="Looping, and outputs that are not finite",
            columns=SUMMED,
            rows=tuple(each.row(name) for name, each in found.items()),
        )
        if self.length and longest and longest < self.length - 1:
            yield Remark(text=f"Test has {longest + 1} tokens for a row of {self.length}: nothing is said of places beyond.")


SUMMED = ("candidate", "prompts", "loop", "end by themselves", "not finite")


@dataclass(frozen=True)
class Places:
    """What tokens cost by their place in a text, over all texts."""

    nats: Sequence[float]
    """Sums, from the second token on."""
    counts: Sequence[int]
    not_finite: int
    """Places whose logits are not all finite."""

    def perplexities(self, width: int) -> list[tuple[int, int, float]]:
        """Of each part of so many places: where it begins, from 1, how many tokens it has, and their perplexity."""
        found = []
        for at in range(0, len(self.nats), width):
            count, nats = sum(self.counts[at : at + width]), sum(self.nats[at : at + width])
            found.append((at + 1, count, math.exp(min(700.0, nats / count)) if count else math.nan))
        return found


@dataclass(frozen=True)
class _Found:
    """Of one candidate."""

    places: Places
    texts: Texts | None

    @property
    def not_finite(self) -> int:
        return self.places.not_finite + (self.texts.not_finite if self.texts else 0)

    def row(self, name: str) -> tuple[str | int | None, ...]:
        if self.texts is None:
            return (name, 0, None, None, self.not_finite)
        count, ended = len(self.texts.all), sum(each.ended for each in self.texts.all)
        return (name, count, share(self.texts.looping, count), share(ended, count), self.not_finite)


def places(session: Session, feeds: Sequence[Feed]) -> Places:
    """What a session makes of texts `[B, T]`, by place."""
    import numpy as np

    longest = max(feed[IDS].shape[1] for feed in feeds) - 1
    nats, counts, broken = np.zeros(longest), np.zeros(longest, dtype=np.int64), 0
    for feed in feeds:
        ids, mask = feed[IDS], feed[MASK]
        targets, counted = ids[:, 1:], mask[:, 1:] != 0
        for start, end, logits in in_parts(session, ids[:, :-1], mask, AT_ONCE):
            here = counted[:, start:end]
            broken += int((~np.isfinite(logits[here])).any(axis=-1).sum())
            each, _ = costs(logits[here], targets[:, start:end][here])
            places = start + np.nonzero(here)[1]
            np.add.at(nats, places, each)
            np.add.at(counts, places, 1)
    used = int(np.flatnonzero(counts).max(initial=-1)) + 1
    return Places(nats[:used].tolist(), counts[:used].tolist(), broken)


def _once(feed: Feed) -> Feed:
    """Rows up to where they begin again: a text that is too short for a length comes again in it, and would be known by then."""
    import numpy as np

    ids = feed[IDS]
    period = next((each for each in range(2, ids.shape[1]) if np.array_equal(ids[:, each:], ids[:, :-each])), ids.shape[1])
    return {**feed, IDS: ids[:, :period], MASK: feed[MASK][:, :period]}


def _broken(session: Session, feed: Feed) -> int:
    """Numbers of a call's outputs that are not finite."""
    import numpy as np

    return sum(int((~np.isfinite(each)).sum()) for each in session.run(feed)[0].values() if each.dtype.kind == "f")
