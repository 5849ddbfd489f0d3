"""Remakes `docs/results/lm-finetune.md`: SmolLM2-135M fine-tuned once on two corpora, then scored and timed in four runtimes, beside what
existing tools make of it.

    python -m benchmarks.studies.lm_finetune --model SMOLLM2 --brown BROWN --bbc BBC [--work FOLDER] [--only train build time page] [--quick]

`train` makes the model that the other studies of language models start from, `build` its files for all runtimes and their scores, `time`
measures, on a machine that does nothing else. What is in FOLDER already is not made again; `--again` measures once more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies.lm_lab import BATCH, HELD, ROW, Ground, Learned, Watch, kept, learn, prepared, source
from benchmarks.studies.lm_peers import NAMES
from benchmarks.studies.lm_runtimes import (
    CHARACTERS,
    DOCUMENTS,
    LENGTH,
    NEAR,
    OURS,
    REFERENCE,
    ROUNDS,
    SECONDS,
    STEPS,
    File,
    Shelf,
    seconds_a_pass,
    timing,
)
from benchmarks.studies.pages import machine_lines
from compressor.contracts import Evaluation
from compressor.contracts.records import Interval, LatencyRecord

OUT, CHART = Path("docs/results/lm-finetune.md"), Path("docs/results/lm-finetune.svg")
WORK = Path("runs/lm-study")
TOKENS = 204_800
"""Of fine-tuning: about 25 minutes of one core."""
RATE, WARMUP = 2e-4, 0.05
PHASES = ("train", "build", "time", "page")
LEVEL = 0.01
"""A curve that falls by less over the last fifth of its tokens is level."""
QUICK_ROUNDS, QUICK_SECONDS = 5, 2.0


def tuned(model: Path, sources: Mapping[str, Path], work: Path, tokens: int) -> Learned:
    """The fine-tuned model in `work/model`, and how it came to be; goes on where it was cut."""

    def make() -> dict[str, object]:
        made = source(model)
        made.save_files(work / "files")
        ground = Ground(prepared(sources, work / "texts"), work / "files")
        watch = Watch(work / "training", ground.task, seed=0)
        found = learn(made, ground, watch, {"learning_rate": RATE, "warmup": WARMUP}, tokens=tokens)
        watch.clear()
        made.save(work / "model")
        return asdict(found)

    return Learned.read(kept(work / "training.json", make))


# ------------------------------------------------------------------ the page


def command(tokens: int, threads: int, *, quick: bool) -> str:
    """What remakes the page."""
    others = f"{'' if tokens == TOKENS else f' --tokens {tokens}'} --threads {threads}{' --quick' if quick else ''}"
    return f"python -m benchmarks.studies.lm_finetune --model SMOLLM2 --brown BROWN --bbc BBC{others}"


def document(found: Learned, shelf: Shelf, taken: Mapping[str, Any]) -> str:
    """All of it."""
    record = LatencyRecord.model_validate(taken["latency"])
    quick = int(record.protocol["parameters"]["rounds"]) < ROUNDS
    files = shelf.files()
    scores = {each.name: shelf.scores(each) for each in files}
    speeds = [speed / 1e9 for side in taken["bandwidth"].values() for speed in side]
    return "\n".join(
        [
            "# SmolLM2-135M, fine-tuned, in four runtimes: what was measured",
            "",
            f"`{command(found.tokens, shelf.threads, quick=quick)}` remakes this page, with the folders of the",
            "three (SmolLM2-135M-Instruct, Apache-2.0, whose weights come from a file of 4 bits; the Brown corpus; BBC news).",
            "",
            *machine_lines(shelf.report),
            f"- Threads of every runtime: {shelf.threads}.",
            "",
            "## Fine-tuning",
            "",
            *training(found),
            "",
            "## Runtimes",
            "",
            f"- Perplexity on the beginnings ({CHARACTERS} characters) of {DOCUMENTS} test documents of each corpus, by the same code for all",
            "  files, with 95 % intervals over documents; beside it the change against torch in fp32 on the same documents, paired.",
            f"- Speed: a prompt of {LENGTH} tokens, and the {STEPS} passes of single tokens after it; batch 1. All files by turns in one run,",
            f"  {record.protocol['parameters']['rounds']} rounds, with further processes of torch as controls: {control_line(record)}.",
            "- `at least`: the bytes that a token's pass reads (weights, a tied head once, and the cache) over the bandwidth of a product of a",
            f"  matrix and a vector here, {np.median(speeds):.1f} GB/s (passes before and after: {min(speeds):.1f} to {max(speeds):.1f}). `share`:",
            "  how much of the time that is. Caches of a processor may hold parts of small files: a share may exceed 100 %.",
            "",
            *table(files, scores, record, float(np.median(speeds)) * 1e9),
            "",
            *lacking({each.name for each in files}, record),
            *spent(taken["operators"]),
        ]
    )


def training(found: Learned) -> Iterator[str]:
    """The budget, the curve, and how it ends."""
    first, last = found.held[0][1], found.end
    reached = "so it is level" if found.fall < LEVEL else "so it is not level yet: more tokens would still help"
    steps, minutes = found.tokens // (BATCH * ROW), found.seconds / 60
    yield f"- {found.tokens:,} tokens, each seen once: {steps} steps of {BATCH} packed rows of {ROW} tokens, bf16, AdamW, rate {RATE:g} falling to 0;"
    yield f"  {found.tokens_per_second:.0f} tokens/s ({minutes:.0f} minutes) by the clock, with what the curve took and what else the machine did."
    yield f"- A held-out token costs {first:.3f} nats before and {last:.3f} after (perplexity {np.exp(first):.1f} and {np.exp(last):.1f}), on {HELD}"
    yield "  windows of documents that are not trained on."
    yield f"- Over the last fifth of the tokens that fell by {found.fall:.2%}, {reached} (asked for: under {LEVEL:.0%}). The rate falls to 0 there,"
    yield "  which levels any curve: it says that this training was over, not that the texts had no more to teach."
    yield ""
    yield "![held-out loss by tokens](lm-finetune.svg)"
    yield ""
    yield f"| tokens | {' | '.join(f'{at:,}' for at, _ in found.held)} |"
    yield f"| --- |{' ---: |' * len(found.held)}"
    yield f"| nats | {' | '.join(f'{value:.3f}' for _, value in found.held)} |"


def control_line(record: LatencyRecord) -> str:
    """What torch gave against itself."""
    return "; ".join(
        f"{each.workload.kind} {each.ratio:.3f}{'' if each.passed else ' (beyond what is allowed)'}" for each in record.controls
    )


def lacking(names: Collection[str], record: LatencyRecord) -> Iterator[str]:
    """What the table does not show, and what its times do not bear."""
    rounds = record.protocol["parameters"]["rounds"]
    left = [f"no row of {runtime}, {precision}" for name, (runtime, precision) in {**OURS, **NAMES}.items() if name not in names]
    few = [f"{rounds} rounds instead of {ROUNDS}"] if rounds < ROUNDS else []
    disturbed = [f"times of {each.workload.kind} are disturbed" for each in record.controls if not each.passed]
    if missing := [*left, *few, *disturbed]:
        yield f"**Not as it should be: {'; '.join(missing)}.**"
        yield ""


def table(files: Sequence[File], scores: Mapping[str, Evaluation], record: LatencyRecord, speed: float) -> Iterator[str]:
    """A line a file."""
    yield "| run by | precision | MiB | perplexity | change, % | prompt, tokens/s | decoding, tokens/s | ms a token | at least | share |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for each in files:
        runtime, precision = {**OURS, **NAMES}[each.name]
        whose = "" if each.name in OURS else " (peer)"
        prompt, decode = (row(record, each.name, kind) for kind in ("prefill", "decode"))
        least, took = each.read_bytes() / speed, seconds_a_pass(record, each.name)
        speeds = [
            f"{1e3 * count / at.median_ms:.1f} {span(count, at.interval)}" for count, at in ((LENGTH, prompt), (STEPS, decode))
        ]
        yield (
            f"| {runtime}{whose} | {precision} | {sum(each.parts.values()) / 2**20:.0f} | {perplexity(scores[each.name])} | "
            f"{change(each, scores)} | {speeds[0]} | {speeds[1]} | {1e3 * took:.1f} | {1e3 * least:.1f} | {least / took:.0%} |"
        )


def row(record: LatencyRecord, name: str, kind: str) -> Any:
    """What was timed of a file."""
    return next(each for each in record.rows if (each.candidate, each.workload.kind) == (f"final@{name}", kind))


def span(count: int, interval: Interval) -> str:
    """Tokens per second at the ends of an interval of milliseconds."""
    return f"[{1e3 * count / interval.high:.1f}, {1e3 * count / interval.low:.1f}]"


def perplexity(scored: Evaluation) -> str:
    """With its interval."""
    main = scored.scores.main
    assert main.interval is not None
    return f"{main.value:.2f} [{main.interval.low:.2f}, {main.interval.high:.2f}]"


def change(file: File, scores: Mapping[str, Evaluation]) -> str:
    """Per cent of perplexity against torch: above 0 is worse."""
    if file.name == REFERENCE:
        return ""
    found = file.task.compare(scores[file.name], scores[REFERENCE], metric="perplexity", name=REFERENCE, seed=0)
    assert found.interval is not None
    return f"{-found.change:+.2f} [{-found.interval.high:+.2f}, {-found.interval.low:+.2f}]"


def spent(operators: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Where the time goes of what is far from the bound."""
    yield f"Below {NEAR:.0%}, by the runtime's own profiler, ms of a pass by kind of operator (profiling slows small ones down):"
    yield ""
    for name, found in operators.items():
        runtime, precision = {**OURS, **NAMES}[name]
        costs = ", ".join(f"`{kind}` {1e3 * seconds:.1f}" for kind, seconds in found.items() if seconds > 5e-5)
        yield f"- {runtime}, {precision}: {costs or 'it has no profiler that can be reached from here'}."
    yield ""


def draw(found: Learned) -> None:
    """Held-out loss, and the training loss as means over tenths."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(
        ["default", {"svg.hashsalt": CHART.stem, "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False}]
    ):
        figure = Figure(figsize=(6, 2.8), layout="constrained")
        axes = figure.subplots()
        axes.plot(*zip(*found.held, strict=True), "o-", color="#c0392b", ms=4, label="held out")
        steps = np.array([value for curve in found.losses.values() for _, value in curve])
        parts = np.array_split(steps, len(found.held) - 1)
        middle = [(at + 0.5) * found.tokens / len(parts) for at in range(len(parts))]
        axes.plot(middle, [part.mean() for part in parts], "s--", color="#3b76af", ms=3, label="training, mean of a tenth")
        axes.set(xlabel="tokens", ylabel="nats a token")
        axes.legend(frameon=False)
        axes.grid(color="#dddddd", lw=0.6)
        figure.savefig(CHART, metadata={"Date": None, "Creator": None})


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is asked for of what is not there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    for name in ("model", "brown", "bbc"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--threads", type=int, default=2, help="of every runtime")
    parser.add_argument("--only", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds in {QUICK_SECONDS:g} seconds")
    parser.add_argument("--again", action="store_true", help="measure once more")
    given = parser.parse_args(arguments)
    found = tuned(given.model, {"brown": given.brown, "bbc": given.bbc}, given.work, given.tokens)
    shelf = Shelf(given.work / "model", given.work / "runtimes", given.threads)
    if "build" in given.only:
        sys.stderr.write(f"{sum(bool(shelf.scores(each)) for each in shelf.files())} files are built and scored\n")
    if "time" in given.only and given.again:
        (shelf.work / f"timing-{shelf.threads}.json").unlink(missing_ok=True)
    if {"time", "page"} & set(given.only):
        seconds, rounds = (QUICK_SECONDS, QUICK_ROUNDS) if given.quick else (SECONDS, ROUNDS)
        taken = timing(shelf, seconds=seconds, rounds=rounds)
        draw(found)
        OUT.write_text(document(found, shelf, taken), encoding="utf-8")


if __name__ == "__main__":
    main()
