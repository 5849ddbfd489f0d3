"""Remakes `docs/results/lm-draft.md`: a language model's own small students propose its tokens, by their number of layers.

    python -m benchmarks.studies.lm_draft [--work FOLDER] [--tokens N] [--quick]

Starts from the model and texts that `benchmarks.studies.lm_finetune` left in FOLDER; students and times are kept there. Times are of one process
in which plain decoding and all drafts take turns: for them the machine should do nothing else. `--again` measures once more.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.statistics import ratio_with_interval
from benchmarks.studies.lm_finetune import WORK
from benchmarks.studies.lm_lab import BATCH, POINTS, Ground, kept
from benchmarks.studies.lm_students import Book, Cell, Student, whole
from compressor.contracts import Feed, Session, Target, registry
from compressor.deploy.build import Builder
from compressor.deploy.machine import machine, versions
from compressor.store.store import Store
from compressor.tasks.language.cache import IDS, LOGITS
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.language.decoding import decoded, filled, sampling
from compressor.tasks.language.scoring import fed
from compressor.tasks.language.speculation import speculated

if TYPE_CHECKING:
    from compressor.contracts import Model

OUT = Path("docs/results/lm-draft.md")
LAYERS, AHEAD = (4, 6, 10), (2, 4)
METHOD, RATE = "skewed KL", 3e-4
TOKENS, LEAST, SEED = 307_200, 300_000, 0
PROMPTS, PROMPT, STEPS, TURNS = 4, 64, 48, 6
"""Test documents, tokens of each that are given, tokens that are made after them, and turns of all ways."""
DRAWN: Mapping[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
QUICK_TURNS = 3
PLAIN, LEADS = "plain", "leads"


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

    task, built = CausalLM(max_length=512), work / "built" / name
    target: Target = registry.load("target", "onnxruntime")(threads=1)
    if not (built / "task.json").is_file():

        def make(out: Path) -> Mapping[str, Any]:
            found: Model = Made.load(model)
            found.save(out)
            return {}

        with tempfile.TemporaryDirectory(prefix="compressor-draft-", dir=work) as store:
            builder = Builder(Store(Path(store)), task, "causal-lm", (), {})
            lowered = builder.lower(builder.store.obtain({"model": name}, make), "torch", target.dialect.format, target)
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
        newest = {**feed, "logits_at": np.array([feed[IDS].shape[1] - 1])}
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


def measured(work: Path, tokens: int, layers: Sequence[int], turns: int) -> dict[str, list[list[Any]]]:
    """By way, for each turn what was made of each prompt; ways take turns in an order drawn anew. And how far best tokens lead.

    Each turn is kept; a process that goes on has all ways make the tokens after one prompt first, which is not counted.
    """
    place = work / "draft"
    model = session(work / "model", place, "model")
    drafts = {
        count: session(place / drafted(count, tokens).name / "model", place, drafted(count, tokens).name) for count in layers
    }
    feeds, all_ways, took = prompts(work), ways(layers), list[float]()
    for way in all_ways:
        made_by(way, model, drafts, feeds[0])

    def one(turn: int) -> dict[str, list[Any]]:
        left = f", {np.median(took) * (turns - turn) / 60:.1f} minutes remain" if took else ""
        sys.stderr.write(f"turn {turn + 1} of {turns}{left}\n")
        order = np.random.default_rng(turn).permutation(len(all_ways))
        started = time.monotonic()
        made = {all_ways[at].name: [made_by(all_ways[at], model, drafts, feed) for feed in feeds] for at in order}
        took.append(time.monotonic() - started)
        return made

    named = place / f"times-{whole(tokens, POINTS, BATCH)}-{'-'.join(map(str, layers))}"
    found = [kept(named / f"{turn}.json", partial(one, turn)) for turn in range(turns)]
    by_way = {way.name: [each[way.name] for each in found] for way in all_ways}
    return by_way | {LEADS: leads(model, feeds, by_way[Way(0).name][0])}


def leads(model: Session, feeds: Sequence[Feed], made: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Of each text, by how much each token's logit is above the next best one, read as a whole."""
    found = []
    for feed, each in zip(feeds, made, strict=True):
        ids = np.concatenate([feed[IDS], [each["tokens"][:-1]]], axis=1)
        logits = np.sort(model.run(fed(ids, np.ones_like(ids)))[0][LOGITS][0, feed[IDS].shape[1] - 1 :], axis=-1)
        found.append((logits[:, -1] - logits[:, -2]).tolist())
    return found


# ------------------------------------------------------------------ the page


def document(taught: Mapping[int, Student], found: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], tokens: int) -> str:
    """All of it."""
    here, installed, turns = machine(), versions(), len(found[Way(0).name])
    options = "" if tuple(taught) == LAYERS else f" --layers {' '.join(map(str, taught))}"
    options += "" if turns == TURNS else f" --turns {turns}"
    return "\n".join(
        [
            "# A language model and drafts of its own: what was measured",
            "",
            f"`python -m benchmarks.studies.lm_draft --tokens {tokens}{options}` remakes this page.",
            "",
            *lacking(list(taught), tokens, turns),
            "",
            f"- Machine: {here.named}; ONNX Runtime {installed.get('onnxruntime')}, fp32, one thread.",
            "- The model is that of [lm-finetune](lm-finetune.md), 30 layers. Drafts are evenly spaced layers of it, distilled on",
            f"  {whole(tokens, POINTS, BATCH):,} tokens each ({METHOD}, rate {RATE:g}, one seed).",
            f"- {PROMPTS} test documents: {PROMPT} tokens are read and {STEPS} made, the reading included; {turns} turns of all ways in one process.",
            "  `a call makes`: tokens that one call of the model makes. `as fast`: against plain decoding of the same turn, with 95 % intervals over",
            "  turns: of these documents and students, not of others.",
            "",
            *table(taught, found, drawn=False),
            "",
            *table(taught, found, drawn=True),
            "",
            equal(found),
            "",
        ]
    )


def lacking(layers: Sequence[int], tokens: int, turns: int) -> Iterator[str]:
    """What this page does not show."""
    seen = whole(tokens, POINTS, BATCH)
    short = [f"{seen:,} tokens a draft instead of the {LEAST:,} asked"] if seen < LEAST else []
    left = [f"no draft of {count} layers" for count in LAYERS if count not in layers]
    few = [f"{turns} of {TURNS} turns"] if turns < TURNS else []
    yield f"**Not run at full scale: {'; '.join([*short, *left, *few, 'one seed of each draft'])}.**"


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


def equal(found: Mapping[str, Sequence[Sequence[Any]]]) -> str:
    """Whether drafts change the most probable tokens, and by how much the first other one was behind."""
    plain = [one["tokens"] for one in found[Way(0).name][0]]
    others = [turns[0] for name, turns in found.items() if name.startswith("greedy") and name != Way(0).name]
    behind = [
        lead[next(at for at, (one, other) in enumerate(zip(made["tokens"], tokens, strict=True)) if one != other)]
        for turn in others
        for made, tokens, lead in zip(turn, plain, found[LEADS], strict=True)
        if made["tokens"] != tokens
    ]
    count = len(others) * len(plain)
    text = f"Most probable tokens are those of plain decoding in {count - len(behind)} of {count} texts"
    return f"{text}; the first other token's logit was behind the best by at most {max(behind):.1g}." if behind else f"{text}."


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not there, measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--turns", type=int, default=TURNS, help="of all ways")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TURNS} turns")
    parser.add_argument("--again", action="store_true", help="measure once more")
    parser.add_argument("--only", nargs="+", choices=("train", "measure"), default=["train", "measure"])
    given = parser.parse_args(arguments)
    taught = students(given.work, given.tokens, given.layers)
    if "measure" not in given.only:
        return
    if given.again:
        for place in (given.work / "draft").glob("times-*"):
            shutil.rmtree(place)
    found = measured(given.work, given.tokens, given.layers, QUICK_TURNS if given.quick else given.turns)
    given.out.write_text(document(taught, found, given.tokens), encoding="utf-8")


if __name__ == "__main__":
    main()
