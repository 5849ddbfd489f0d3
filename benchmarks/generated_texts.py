"""What models write after prompts: right answers, length, repetition, the same tokens as another model; and how a draft model speeds one up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

from benchmarks.rounds import median
from benchmarks.texts import Texts, Written, is_of_texts, one_by_one, opened, share, written
from compressor.contracts import Bench, Candidate, Feed, Probe, Progress, Session, Workload
from compressor.contracts.notes import Note, Remark, Table
from compressor.contracts.probe import FEEDS
from compressor.tasks.language.decoding import decoded, filled, sampling
from compressor.tasks.language.documents import Encoder
from compressor.tasks.language.people import ends
from compressor.tasks.tokenization import tokenization

if TYPE_CHECKING:
    from compressor.contracts.records import OtherRecord
    from compressor.tasks.language.agreement import Agreement
    from compressor.tasks.language.speculation import Speculated

COMPARED = 4
"""Prompts after which two models are compared token by token, and a draft model is timed."""
SHOWN = 200
"""Characters of a text that the report shows."""


class Sampling(BaseModel):
    """How tokens are drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: PositiveFloat = Field(1.0, description="divides the logits")
    top_k: PositiveInt | None = Field(None, description="of the most probable tokens at most so many")
    top_p: float = Field(1.0, gt=0, le=1, description="as few of the most probable tokens as hold so much of the probability")


class Draft(BaseModel):
    """A small model that proposes tokens, which another one judges several at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field("final", description="which model proposes: `final`, or with `stages: all` a step of the plan")
    of: str = Field("source", description="which model's tokens are proposed: `source`, or with `stages: all` a step of the plan")
    ahead: Annotated[int, Field(ge=1, le=64)] = Field(4, description="tokens that it proposes at a time")
    rounds: Annotated[int, Field(ge=5)] = Field(5, description="rounds in which both ways are timed in turn")


class GeneratedTexts(Probe):
    """What every candidate writes after prompts, and how fast a model decodes with a draft model.

    Prompts are those of test rows that have some (`prompt` and `completion`, or chats), whose answers are then held against what is
    written; of plain texts the first halves. Candidates are compared with the first one along its own most probable tokens, so that one
    difference makes no others. With `draft` a model of each target decodes alone and by speculation, in turns; the distribution
    of what it writes is its own. The run's own process opens the models.
    """

    of_tokens: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Leviathan, Kalman, Matias: Fast Inference from Transformers via Speculative Decoding, 2023, arXiv:2211.17192"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"prompts": 2, "steps": 4},)

    prompts: PositiveInt = 32
    """Prompts that are gone on with, at most."""
    length: PositiveInt | None = None
    """Tokens of a prompt, cut out of texts one after the other; the rows' own prompts unless given."""
    steps: Annotated[int, Field(ge=2)] = 64
    """Tokens after a prompt, fewer where a text ends."""
    sampling: Sampling | None = None
    """Draw tokens, by the plan's seed; the most probable ones unless given."""
    draft: Draft | None = None
    """Time speculative decoding by a draft model."""
    shown: NonNegativeInt = 3
    """Texts of each candidate that the report shows."""

    def workloads(self) -> tuple[Workload, ...]:
        """Prompts, and tokens after them."""
        return (Workload(kind="generate", batch=-(-self.prompts // FEEDS), length=self.length, steps=self.steps),)

    def stages(self) -> tuple[str, ...]:
        """The draft model's, and the one that it speeds up."""
        return (self.draft.stage, self.draft.of) if self.draft else ()

    def shortened(self) -> GeneratedTexts:
        """Few prompts, and few tokens after each."""
        return self.model_copy(update={"prompts": min(self.prompts, 2), "steps": min(self.steps, 4)})

    def expected_seconds(self, short: GeneratedTexts, took_seconds: float) -> float:
        """As many times as there are tokens to be written; half of a short one is loading."""
        return took_seconds * (0.5 + 0.5 * self.prompts * self.steps / (short.prompts * short.steps))

    def measure(
        self, candidates: Sequence[Candidate], feeds: Mapping[Workload, Sequence[Feed]], bench: Bench, *, seed: int
    ) -> OtherRecord:
        """A row for each candidate, some of its texts, and a row for each target where there is a draft model."""
        from compressor.contracts.records import OtherRecord

        (workload,) = self.workloads()
        asked = feeds[workload][: -(-self.prompts // workload.batch)]
        if not all(map(is_of_texts, asked)):
            names = ", ".join(each.id for each in candidates)
            return OtherRecord(probe="generated-texts", notes=(Remark(text=f"{names}: these models do not go on with texts."),))
        alone, first = one_by_one(asked, COMPARED), opened(candidates[0])
        found: dict[str, _Found] = {}
        for done, candidate in enumerate(candidates, start=1):
            session = first if done == 1 else opened(candidate)
            same = None if done == 1 else agreed(first, session, alone, self.steps)
            found[candidate.id] = _Found(candidate, self._written(session, asked, candidate, seed), same)
            bench.tell(Progress("generated-texts", done, len(candidates), unit="candidates"))
        notes = (*_notes(found, candidates[0].id, self.shown), *self._speculation(candidates, alone, seed))
        return OtherRecord(
            probe="generated-texts", notes=notes, not_finite={name: each.texts.not_finite for name, each in found.items()}
        )

    @property
    def _how(self) -> dict[str, Any] | None:
        return self.sampling.model_dump() if self.sampling else None

    def _written(self, session: Session, asked: Sequence[Feed], candidate: Candidate, seed: int) -> Texts:
        choose = None if self._how is None else sampling(seed, self._how)
        return written(session, asked, self.steps, ends(candidate.built), most=self.prompts, choose=choose)

    # -------------------------------------------------------------- a draft model

    def _speculation(self, candidates: Sequence[Candidate], alone: Sequence[Feed], seed: int) -> Iterator[Note]:
        """Of each target, where there is a draft model."""
        if self.draft is None:
            return
        rows = []
        for target, each in groupby(sorted(candidates, key=lambda one: one.target), key=lambda one: one.target):
            by_stage = {one.stage: one for one in each}
            model, draft = by_stage.get(self.draft.of), by_stage.get(self.draft.stage)
            if model and draft:
                rows.append(self._race(self.draft, model, draft, alone, seed))
                continue
            lacking = self.draft.stage if model else self.draft.of
            there = f"there are {', '.join(by_stage)}; `stages: all` builds every step's on the first target"
            yield Remark(text=f"No speculative decoding on {target}, which has no model '{lacking}' ({there}).")
        if rows:
            yield Table(
                title=f"Speculative decoding, {self.draft.ahead} tokens ahead, one prompt at a time",
                columns=RACED,
                rows=tuple(rows),
            )

    def _race(
        self, draft: Draft, model: Candidate, small: Candidate, alone: Sequence[Feed], seed: int
    ) -> tuple[str | float, ...]:
        """The same prompts both ways, in turns; the first round warms up."""
        from benchmarks.statistics import ratio_with_interval
        from compressor.tasks.language.speculation import speculated

        session, guess, over = opened(model), opened(small), ends(model.built)
        given: dict[str, Any] = {"steps": self.steps, "how": self._how, "seed": seed, "ends": over}
        ways = (partial(_alone, session, **given), partial(speculated, session, guess, ahead=draft.ahead, **given))
        rounds = [[_timed(way, alone) for way in ways] for _ in range(draft.rounds + 1)][1:]
        plain, drafted = ([way.seconds_a_token for way in each] for each in zip(*rounds, strict=True))
        ratio, between = ratio_with_interval(plain, drafted, seed=seed)
        last = rounds[-1][1]
        return (
            model.id,
            small.id,
            round(last.tokens / max(1, last.calls), 2),
            f"{last.accepted / max(1, last.proposed):.1%}",
            *(round(1 / median(each), 1) for each in (plain, drafted)),
            f"{ratio:.2f} ({between.low:.2f} to {between.high:.2f})",
        )


@dataclass(frozen=True)
class _Round:
    """Several prompts gone on with in one way."""

    seconds: float
    tokens: int
    calls: int
    proposed: int
    accepted: int

    @property
    def seconds_a_token(self) -> float:
        return self.seconds / self.tokens


def _timed(way: Callable[[Feed], Speculated], alone: Sequence[Feed]) -> _Round:
    started = time.perf_counter()
    made = [way(feed) for feed in alone]
    seconds = time.perf_counter() - started
    sums = (sum(getattr(each, name) for each in made) for name in ("calls", "proposed", "accepted"))
    return _Round(seconds, sum(each.tokens.shape[1] for each in made), *sums)


RACED = ("model", "draft", "tokens a call", "accepted", "tokens/s alone", "tokens/s drafted", "speed-up")


def _alone(
    session: Session, feed: Feed, *, steps: int, how: Mapping[str, Any] | None, seed: int, ends: Sequence[int]
) -> Speculated:
    """As the model decodes without a draft."""
    from compressor.tasks.language.speculation import Speculated

    choose = None if how is None else sampling(seed, how)
    tokens = decoded(session, filled(session, feed), steps, choose=choose, ends=ends)
    return Speculated(tokens, 0, 0, tokens.shape[1])


# ------------------------------------------------------------------ what is told


@dataclass(frozen=True)
class _Found:
    """Of one candidate."""

    candidate: Candidate
    texts: Texts
    same: Agreement | None
    """With the first candidate; None of itself."""


def agreed(first: Session, other: Session, alone: Sequence[Feed], steps: int) -> Agreement:
    """Over all prompts."""
    from compressor.tasks.language.agreement import Agreement, agreement

    found = [agreement(first, other, feed, steps) for feed in alone]
    return Agreement(*(sum(getattr(each, name) for each in found) for name in ("steps", "ties", "different")))


def _notes(found: Mapping[str, _Found], first: str, shown: int) -> Iterator[Note]:
    answered = any(each.answer is not None for one in found.values() for each in one.texts.all)
    columns = (
        "candidate",
        "prompts",
        "tokens",
        "ended",
        "loop",
        "said again",
        *(["right answers"] if answered else []),
        f"same tokens as {first}",
    )
    yield Table(
        title="What is written after prompts",
        columns=columns,
        rows=tuple(_row(each, answered=answered) for each in found.values()),
    )
    ties = sum(each.same.ties for each in found.values() if each.same)
    if ties:
        from compressor.tasks.language.agreement import NEAR

        yield Remark(text=f"{ties} of the tokens that differ are ties: the two best logits are less than {NEAR:g} apart.")
    if shown:
        rows = [row for each in found.values() for row in _texts(each, shown)]
        yield Table(title="Texts", columns=("candidate", "prompt", "what follows"), rows=tuple(rows))


def _row(found: _Found, *, answered: bool) -> tuple[str | float | int | None, ...]:
    texts, speller = found.texts.all, _speller(found.candidate)
    count = len(texts)
    right = [share(sum(speller.right(each) for each in texts), count)] if answered else []
    same = None if found.same is None else share(found.same.steps - found.same.ties - found.same.different, found.same.steps)
    tokens, again = (sum(values) / count for values in ([len(each.tokens) for each in texts], [each.repeated for each in texts]))
    return (
        found.candidate.id,
        count,
        round(tokens, 1),
        share(sum(each.ended for each in texts), count),
        share(found.texts.looping, count),
        f"{again:.1%}",
        *right,
        same,
    )


@dataclass(frozen=True)
class _Speller:
    """The texts of tokens."""

    encoder: Encoder

    def right(self, each: Written) -> bool:
        """Whether the answer is that of the row, but for spaces around it."""
        return each.answer is not None and self.text(each.tokens).strip() == self.text(each.answer).strip()

    def text(self, tokens: Sequence[int]) -> str:
        """Special tokens left out."""
        return self.encoder.spelled(tokens)


def _speller(candidate: Candidate) -> _Speller:
    return _Speller(Encoder(tokenization(candidate.built)))


def _texts(found: _Found, shown: int) -> Iterator[tuple[str, str, str]]:
    speller = _speller(found.candidate)
    for each in found.texts.all[:shown]:
        yield found.candidate.id, speller.text(each.prompt)[-SHOWN:], speller.text(each.tokens)[:SHOWN]
