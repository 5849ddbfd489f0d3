"""The page of `benchmarks.studies.lm_bits`: what was quantised, files beside peers, the goal, and what was not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.studies import lm_grid
from benchmarks.studies.lm_bits_cells import CALIBRATION, METHODS, RATE, REFERENCE, SEEDS, TRAINED_STEPS, Cell, Made, cell_of
from benchmarks.studies.lm_bits_files import CHARACTERS, DOCUMENTS, EIGHT, PEERS, Faster, Files, change, faster, row
from benchmarks.studies.lm_finetune import control_line, perplexity, span
from benchmarks.studies.lm_lab import BATCH, CORPORA, ROW
from benchmarks.studies.lm_runtimes import LENGTH, ROUNDS, STEPS, File, seconds_a_pass
from benchmarks.studies.pages import machine_lines
from compressor.contracts import Evaluation
from compressor.contracts.records import LatencyRecord

RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "llama-cpp": "llama.cpp"}
CORPUS = {"brown": "Brown", "bbc": "BBC"}
FASTER, WORSE = 1.3, 2.0
"""The goal: times the speed of decoding of the best that others have, at so many per cent more perplexity than in float at most."""


@dataclass(frozen=True)
class Asked:
    """How much is run."""

    seeds: tuple[int, ...] = SEEDS
    steps: int = TRAINED_STEPS
    threads: int = 2
    rounds: int = ROUNDS


@dataclass(frozen=True)
class Page:
    """All that is there."""

    asked: Asked
    distance: lm_grid.Apart
    made: tuple[Made, ...]
    """Cells."""
    files: tuple[File, ...]
    """That are scored."""
    scores: Mapping[str, Mapping[str, Evaluation]]
    """By file, by corpus."""
    timed: Mapping[str, Any] | None
    """What was timed; None where nothing was."""

    @classmethod
    def of(cls, files: Files, distance: lm_grid.Apart, asked: Asked) -> Page:
        """What lies in a folder; runs nothing."""
        scores = files.scored(run=False)
        made = tuple(files.book.one(cell) for cell in files.cells if files.book.there(cell))
        there = tuple(each for each in files.files() if each.name in scores)
        return cls(asked, distance, made, there, scores, files.timed())

    @property
    def record(self) -> LatencyRecord | None:
        """Times."""
        return LatencyRecord.model_validate(self.timed["latency"]) if self.timed else None

    def times(self, name: str) -> bool:
        """Whether a file was timed, or one of the same operators and sizes."""
        return self.record is not None and any(each.candidate == f"final@{timed_as(name)}" for each in self.record.rows)


def document(page: Page) -> str:
    """All of it."""
    if not page.made or REFERENCE not in page.scores:
        raise SystemExit(f"nothing can be told yet: {words(REFERENCE)} is not scored (--only build)")
    return "\n".join(
        [
            "# SmolLM2-135M in 8 and 4 bits: what was measured",
            "",
            f"`{command(page.asked)}` remakes this page,",
            "with the folders of SmolLM2-135M-Instruct (Apache-2.0) and of what `lm_finetune` made of it ([its page](lm-finetune.md)).",
            "",
            *lacking(page),
            *goal(page),
            *machine_lines(page.made[0].report),
            f"- Threads of every runtime: {page.asked.threads}; the cores above are those that the first file was made on.",
            "",
            "## What is quantised",
            "",
            *lm_grid.told(page.distance),
            "  So rounding to that very grid loses next to nothing, and says nothing of other models. Ours of 4 bits have runs of 64 or 128",
            "  weights; Q4_0 and GenAI's of 32 have the source's runs with one zero for all; Q4_K_M has its runs and its form, a least value",
            "  and a step for 32 weights: what that loses is too little to go by.",
            *methods(page),
            "",
            "## Files",
            "",
            *measured(page),
            *table(page),
            "",
            *spent(page),
        ]
    )


def command(asked: Asked) -> str:
    """That remakes the page."""
    words = [f"--steps {asked.steps}"] if asked.steps != TRAINED_STEPS else []
    words += [f"--seeds {len(asked.seeds)}"] if len(asked.seeds) != len(SEEDS) else []
    return " ".join(
        ["python -m benchmarks.studies.lm_bits --source SMOLLM2 --tuned FOLDER", *words, f"--threads {asked.threads}"]
    )


# ------------------------------------------------------------------ what is said of it


def lacking(page: Page) -> Iterator[str]:
    """What was not run, before anything else."""
    there, asked = {each.name for each in page.files}, page.asked
    wanted = [Cell(name) for name, how in METHODS.items() if not how.trains]
    left = [f"{RUNTIMES[each.how.target]}, {each.how.precision}" for each in wanted if each.name not in there]
    left += [f"{peer.runtime}, {peer.precision}" for name, peer in PEERS.items() if name not in there]
    said = [f"no score of {each}" for each in left]
    for name, how in METHODS.items():
        seeds = [seed for seed in SEEDS if Cell(name, seed, asked.steps).name in there]
        if how.trains and len(seeds) < len(SEEDS):
            said.append(f"{how.precision}: {len(seeds)} of {len(SEEDS)} seeds")
    if (record := page.record) is None:
        said.append("no times were taken")
    else:
        said += [f"{record.protocol['parameters']['rounds']} rounds instead of {ROUNDS}"] if _rounds(record) < ROUNDS else []
        said += [f"times of {each.workload.kind} are disturbed" for each in record.controls if not each.passed]
        said += [f"{words(each.name)} was not timed" for each in page.files if not page.times(each.name)]
    if said:
        yield f"**Not all of it was run: {'; '.join(said)}.**"
        yield ""


def _rounds(record: LatencyRecord) -> int:
    return int(record.protocol["parameters"]["rounds"])


def words(name: str) -> str:
    """Who runs a file, and in which precision."""
    if name in PEERS:
        return f"{PEERS[name].runtime}, {PEERS[name].precision}"
    cell = cell_of(name)
    return f"{RUNTIMES[cell.how.target]}, {cell.how.precision}{f', seed {cell.seed}' if cell.how.trains else ''}"


def timed_as(name: str) -> str:
    """The file whose times are those of a file: one of the same operators and sizes."""
    return name if name in PEERS else cell_of(name).timed_as


def bits(name: str) -> int:
    """Of the weights of a file."""
    return PEERS[name].bits if name in PEERS else cell_of(name).how.bits


@dataclass(frozen=True)
class Candidate:
    """One of our files held against the goal."""

    name: str
    worse: tuple[float, float, float]
    """Per cent of perplexity, with the ends of its interval."""
    rivals: Mapping[str, Faster]

    @property
    def least(self) -> float:
        """Against the rival that it gains least on."""
        return min(each.value for each in self.rivals.values())

    @property
    def reaches(self) -> bool:
        """Both halves of the goal."""
        return self.least >= FASTER and self.worse[0] <= WORSE

    def told(self) -> str:
        """In a row of the list."""
        others = "; ".join(f"{found.told()} of {words(rival)}" for rival, found in self.rivals.items())
        return f"{words(self.name)}: perplexity {_signed(self.worse)} %; decoding {others}"


def candidates(page: Page) -> list[Candidate]:
    """Our files of few bits that were timed, the best first: those that lose little, then those that are fast."""
    record = page.record
    if record is None:
        return []
    timed = [each for each in page.files if page.times(each.name)]
    four = [each.name for each in timed if each.name in PEERS and bits(each.name) == 4]
    rivals = [min(four, key=lambda name: seconds_a_pass(record, name))] if four else []
    rivals += [EIGHT] if any(each.name == EIGHT for each in timed) else []
    if len(rivals) < 2:
        return []
    found = [
        Candidate(each.name, change(each, page.scores), {rival: faster(record, timed_as(each.name), rival) for rival in rivals})
        for each in timed
        if each.name not in PEERS and bits(each.name) <= 8
    ]
    return sorted(found, key=lambda each: (each.reaches, each.worse[0] <= WORSE, each.least), reverse=True)


def goal(page: Page) -> Iterator[str]:
    """Reached or not, and by how much."""
    found = candidates(page)
    asked = (
        f"at least {FASTER:g} times the decoding speed of the fastest 4-bit file of existing tools and of OpenVINO's int8 weights (NNCF), "
        f"in one run, at no more than {WORSE:g} % more perplexity than in float"
    )
    if not found:
        yield f"Goal: {asked}. **Not judged**: the files that it names were not timed."
    else:
        verdict = "Reached" if found[0].reaches else "**Not reached**"
        yield f"Goal: {asked}. {verdict}; the nearest:"
        yield ""
        yield f"- {found[0].told()}."
        quick = max(found, key=lambda each: each.least)
        if quick is not found[0]:
            yield f"- The quickest of ours. {quick.told()}."
    yield ""


def methods(page: Page) -> Iterator[str]:
    """How what is quantised came to be."""
    yield f"- GPTQ, AWQ and int8 caches look at {CALIBRATION} training documents, each cut to {ROW} tokens. Tables and heads have 8 bits."
    taught = [each for each in page.made if each.cell.how.trains]
    if not taught:
        return
    steps = page.asked.steps
    yield f"- QAD: `distill-and-quantize`, KL to the fine-tuned model, {steps * BATCH * ROW:,} tokens, each seen once ({steps} steps of {BATCH} rows"
    yield f"  of {ROW}), bf16, AdamW at {RATE:g}; learned steps for 64 weights. No learning rate was tried beside it."
    for each in taught:
        agreed = f"{each.agreement:.1%} of next tokens of its file are the simulation's" if each.agreement is not None else ""
        stages = each.table("perplexity on validation")
        by = "; ".join(f"{name} {abs(float(value or 0)):.2f}" for name, value in stages.rows) if stages else ""
        yield f"  Seed {each.cell.seed}: perplexity on four validation texts: {by}. {each.seconds / 60:.0f} minutes by the clock. {agreed}."
    yield "  (The simulation itself is no steadier: [what holds](../quantization-aware.md#what-holds).)"


def measured(page: Page) -> Iterator[str]:
    """How."""
    yield f"- Perplexity on the beginnings ({CHARACTERS} characters) of {DOCUMENTS} test documents of each corpus, by the same code for all,"
    yield f"  with 95 % intervals over documents; `change`: in per cent of that of {words(REFERENCE)} on the same documents of both corpora, paired."
    record = page.record
    if record is None:
        yield ""
        return
    yield f"- Speed: a prompt of {LENGTH} tokens, and the {STEPS} passes of single tokens after it; batch 1. All files by turns in one run,"
    yield f"  {_rounds(record)} rounds; `*`: the times of a file with the same operators of the same sizes, which was timed once for all of them."
    yield f"  {words(page.files[0].name)} against further processes of itself: {control_line(record)}."
    yield ""


def table(page: Page) -> Iterator[str]:
    """A line a file."""
    names = " | ".join(f"perplexity, {CORPUS[each]}" for each in CORPORA)
    yield f"| run by | weights | MiB | {names} | change, % | prompt, tokens/s | decoding, tokens/s |"
    yield f"| --- | --- | ---: |{' ---: |' * (len(CORPORA) + 3)}"
    for each in page.files:
        runtime, _, precision = words(each.name).partition(", ")
        if each.name in PEERS:
            runtime, precision = f"{PEERS[each.name].runtime} (peer)", PEERS[each.name].precision
        told = " | ".join(perplexity(page.scores[each.name][corpus]) for corpus in CORPORA)
        worse = "" if each.name == REFERENCE else _signed(change(each, page.scores))
        yield f"| {runtime} | {precision} | {sum(each.parts.values()) / 2**20:.0f} | {told} | {worse} | {' | '.join(speeds(page, each.name))} |"


def speeds(page: Page, name: str) -> tuple[str, str]:
    """Tokens per second of prompts and of decoding, with intervals; empty where they were not timed."""
    record = page.record
    if record is None or not page.times(name):
        return "", ""
    mark = "" if timed_as(name) == name else " *"
    found = ((count, row(record, timed_as(name), kind)) for kind, count in (("prefill", LENGTH), ("decode", STEPS)))
    prompt, decode = (f"{1e3 * count / at.median_ms:.1f} {span(count, at.interval)}{mark}" for count, at in found)
    return prompt, decode


def _signed(found: Sequence[float]) -> str:
    value, low, high = found
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def spent(page: Page) -> Iterator[str]:
    """Where the time of decoding goes."""
    if not page.timed:
        return
    found = [speed / 1e9 for side in page.timed["bandwidth"].values() for speed in side]
    yield f"A product of a matrix and a vector reads {np.median(found):.1f} GB/s here."
    yield "By ONNX Runtime's own profiler, ms of a token's pass by kind of operator:"
    yield ""
    for name, costs in page.timed["operators"].items():
        told = ", ".join(f"`{kind}` {1e3 * seconds:.2f}" for kind, seconds in costs.items())
        yield f"- {words(name)}: {told}."
    yield ""
