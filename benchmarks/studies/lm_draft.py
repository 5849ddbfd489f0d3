"""Remakes `docs/results/lm-draft.md`: a language model's own small students propose its tokens, by their number of layers.

    python -m benchmarks.studies.lm_draft [--work FOLDER] [--tokens N] [--quick]

Starts from the model and texts that `benchmarks.studies.lm_finetune` left in FOLDER; students and times are kept there. Times are of one process
in which plain decoding and all drafts take turns: for them the machine should do nothing else. `--again` measures once more.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.statistics import ratio_with_interval
from benchmarks.studies.lm_finetune import WORK
from benchmarks.studies.lm_lab import BATCH, POINTS, Ground, kept
from benchmarks.studies.lm_students import Book, Cell, Student, whole
from compressor.contracts import Feed, Session
from compressor.deploy.build import Builder
from compressor.deploy.machine import machine, versions
from compressor.store.store import Store
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.language.decoding import decoded, filled, sampling
from compressor.tasks.language.scoring import fed
from compressor.tasks.language.speculation import speculated
from targets.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from compressor.contracts import Model

OUT = Path("docs/results/lm-draft.md")
LAYERS, AHEAD = (4, 6, 10), (2, 4)
METHOD, RATE = "skewed KL", 3e-4
TOKENS, SEED = 307_200, 0
PROMPTS, PROMPT, STEPS, ROUNDS = 4, 64, 48, 7
"""Test documents, tokens of each that are given, tokens that are made after them, and turns of all ways, the first one not counted."""
DRAWN: Mapping[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
PLAIN = "plain"


@dataclass(frozen=True)
class Way:
    """How tokens are made: plainly, or proposed by a draft of some layers, some at a time."""

    layers: int
    ahead: int = 0
    drawn: bool = False

    @property
    def name(self) -> str:
        """In what is kept."""
        return f"{'drawn' if self.drawn else 'greedy'}-{self.layers}-{self.ahead}"


def ways(layers: Sequence[int]) -> list[Way]:
    """Plain decoding first, greedy and drawn."""
    each = [Way(0), *(Way(count, ahead) for count in layers for ahead in AHEAD)]
    return [*each, *(Way(way.layers, way.ahead, True) for way in each)]


def students(work: Path, tokens: int, layers: Sequence[int]) -> dict[int, Student]:
    """By layers; trained unless they are there."""
    ground = Ground(work / "texts", work / "files")
    book = Book(work / "model", ground, work / "draft", planned=len(layers) * whole(tokens, POINTS, BATCH))
    return {count: book.student(drafted(count, tokens), keep=True) for count in layers}


def drafted(layers: int, tokens: int) -> Cell:
    """The training of a draft."""
    return Cell(METHOD, layers, RATE, whole(tokens, POINTS, BATCH), SEED)


def session(model: Path, work: Path, name: str) -> Session:
    """A model in ONNX Runtime, in float32, one thread."""
    from compressor.model import Model as Made

    task, target, built = CausalLM(max_length=512), OnnxRuntime(threads=1), work / "built" / name
    if not (built / "task.json").is_file():

        def make(out: Path) -> Mapping[str, Any]:
            found: Model = Made.load(model)
            found.save(out)
            return {}

        builder = Builder(Store(work / "store"), task, "causal-lm", (), {})
        made = builder.store.obtain(
            {"model": name, "of": str(model), "at": (model / "model.safetensors").stat().st_mtime_ns}, make
        )
        lowered = builder.lower(made, "torch", target.dialect.format, target)
        builder.build(lowered, stage="final", name=name, target=target, out=built)
    return target.open(built)


def prompts(work: Path) -> list[Feed]:
    """Beginnings of test documents."""
    ground = Ground(work / "texts", work / "files")
    found = [batch["input_ids"][0, :PROMPT].numpy()[None] for batch in ground.windows("test", 8 * PROMPTS)]
    return [fed(ids, np.ones_like(ids)) for ids in found[:PROMPTS]]


def made_by(way: Way, model: Session, drafts: Mapping[int, Session], feed: Feed) -> dict[str, Any]:
    """Tokens after a prompt, its reading included in the seconds."""
    how = DRAWN if way.drawn else None
    started = time.perf_counter()
    if not way.ahead:
        newest = {**feed, "logits_at": np.array([feed["input_ids"].shape[1] - 1])}
        tokens = decoded(model, filled(model, newest), STEPS, choose=sampling(0, DRAWN) if way.drawn else None)
        return {
            "seconds": time.perf_counter() - started,
            "tokens": tokens[0].tolist(),
            "proposed": 0,
            "accepted": 0,
            "calls": STEPS,
        }
    found = speculated(model, drafts[way.layers], feed, STEPS, ahead=way.ahead, how=how)
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "tokens": found.tokens[0].tolist(),
        "proposed": found.proposed,
        "accepted": found.accepted,
        "calls": found.calls,
    }


def measured(work: Path, tokens: int, layers: Sequence[int], rounds: int) -> dict[str, list[list[dict[str, Any]]]]:
    """By way, for each turn what was made of each prompt; ways take turns in an order drawn anew."""
    place = work / "draft"
    model = session(work / "model", place, "model")
    drafts = {
        count: session(place / drafted(count, tokens).name / "model", place, drafted(count, tokens).name) for count in layers
    }
    feeds, random = prompts(work), np.random.default_rng(0)
    found: dict[str, list[list[dict[str, Any]]]] = {each.name: [] for each in ways(layers)}
    for turn in range(rounds):
        sys.stderr.write(f"turn {turn + 1} of {rounds}\n")
        for at in random.permutation(len(found)):
            way = ways(layers)[at]
            found[way.name].append([made_by(way, model, drafts, feed) for feed in feeds])
    return {name: turns[1:] or turns for name, turns in found.items()}


# ------------------------------------------------------------------ the page


def document(taught: Mapping[int, Student], found: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], tokens: int) -> str:
    """All of it."""
    here, installed, turns = machine(), versions(), len(next(iter(found.values())))
    short = (
        ""
        if tokens >= TOKENS
        else f" **Not there yet: drafts of {TOKENS:,} tokens; these saw {whole(tokens, POINTS, BATCH):,}.**"
    )
    return "\n".join(
        [
            "# A language model and drafts of its own: what was measured",
            "",
            f"`python -m benchmarks.studies.lm_draft --tokens {tokens}` remakes this page.{short}",
            "",
            f"- Machine: {here.processor}, {here.cores} cores; ONNX Runtime {installed.get('onnxruntime')}, fp32, one thread.",
            "- The model is that of [lm-finetune](lm-finetune.md), 30 layers. Drafts are evenly spaced layers of it, distilled "
            f"({METHOD}, rate {RATE:g}, one seed).",
            f"- {PROMPTS} test documents: {PROMPT} tokens are read and {STEPS} made, the reading included; {turns} turns of all ways in",
            "  one process. `a call makes`: tokens that one call of the model makes. `as fast`: against plain decoding of the same turn, with 95 %",
            "  intervals over turns.",
            "",
            *table(taught, found, drawn=False),
            "",
            *table(taught, found, drawn=True),
            "",
            equal(found),
            "",
        ]
    )


def table(taught: Mapping[int, Student], found: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], *, drawn: bool) -> list[str]:
    """A line a way."""
    chosen = [way for way in ways(list(taught)) if way.drawn is drawn]
    base = [sum(each["seconds"] for each in turn) for turn in found[chosen[0].name]]
    lines = [
        f"| {'drawn at temperature 1' if drawn else 'most probable tokens'} | parameters, M | held-out loss | proposed at a time | accepted | "
        "a call makes | tokens/s | as fast |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for way in chosen:
        turns = found[way.name]
        each = turns[0]
        seconds = [sum(one["seconds"] for one in turn) for turn in turns]
        speed = sum(len(one["tokens"]) for one in each) / float(np.median(seconds))
        if not way.ahead:
            lines.append(f"| {PLAIN} | | | | | 1 | {speed:.1f} | |")
            continue
        ratio, interval = ratio_with_interval(base, seconds, seed=0)
        accepted = sum(one["accepted"] for one in each) / max(1, sum(one["proposed"] for one in each))
        length = sum(len(one["tokens"]) for one in each) / sum(one["calls"] for one in each)
        student = taught[way.layers]
        lines.append(
            f"| {way.layers} layers | {student.weights / 1e6:.1f} | {student.learned.end:.3f} | {way.ahead} | {accepted:.0%} | {length:.2f} | "
            f"{speed:.1f} | {ratio:.2f}x [{interval.low:.2f}, {interval.high:.2f}] |"
        )
    return lines


def equal(found: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> str:
    """Whether drafts change the most probable tokens."""
    plain = [one["tokens"] for one in found[Way(0).name][0]]
    others = [turns[0] for name, turns in found.items() if name.startswith("greedy") and name != Way(0).name]
    same = sum(one["tokens"] == tokens for turn in others for one, tokens in zip(turn, plain, strict=True))
    count = len(others) * len(plain)
    return f"Most probable tokens are those of plain decoding in {same} of {count} texts; where they differ two logits are as good as equal."


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not there, measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quick", action="store_true", help="two turns")
    parser.add_argument("--again", action="store_true", help="measure once more")
    parser.add_argument("--only", nargs="+", choices=("train", "measure"), default=["train", "measure"])
    given = parser.parse_args(arguments)
    taught = students(given.work, given.tokens, given.layers)
    if "measure" not in given.only:
        return
    place = given.work / "draft" / f"times-{whole(given.tokens, POINTS, BATCH)}.json"
    if given.again:
        place.unlink(missing_ok=True)
    found = kept(place, lambda: measured(given.work, given.tokens, given.layers, 2 if given.quick else ROUNDS))
    given.out.write_text(document(taught, found, given.tokens), encoding="utf-8")


if __name__ == "__main__":
    main()
