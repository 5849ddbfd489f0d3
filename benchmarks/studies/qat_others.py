"""Remakes `docs/results/qat-others.md`: encoders of pictures and of speech in 8 and 4 bits, by post-training quantisation and by training.

    python -m benchmarks.studies.qat_others --pictures MODEL --images FOLDER --speech MODEL --recordings FOLDER [--work FOLDER] [--steps N]
        [--picture-rows N N N --speech-rows N N N --scored N --picture-epochs N --speech-epochs N --seeds N --rates R ... --only PART ... --quick]

MODEL of pictures is a folder of DINOv2-small without a head, with Fashion-MNIST as `train.parquet` and `test.parquet` in the folder of images;
of speech one of Whisper-tiny.en, with the recordings of the Free Spoken Digit Dataset (`7_jackson_32.wav`). A cell is a run of a plan, kept in
`--work`: a study that was cut goes on, and says how many cells remain. `--quick` runs one seed at one learning rate; `--page` runs nothing and
writes what is there. `--only time` times the files of the first seed, which takes five minutes and wants a still machine. What is not there
the page says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.studies import qat_times
from benchmarks.studies.pages import machine_lines
from benchmarks.studies.qat_cases import (
    PICTURES,
    REFERENCE,
    SECONDS,
    SIZE,
    SPARSITY,
    SPEECH,
    Rows,
    picture_case,
    speech_case,
)
from benchmarks.studies.qat_cells import (
    BATCH,
    CALIBRATION,
    LABELS,
    ROUNDED,
    SOFT,
    TARGETS,
    TOOLS,
    WEIGHT_ONLY,
    Book,
    Found,
)
from benchmarks.studies.qat_numbers import change
from benchmarks.studies.qat_study import (
    INTERVALS,
    SEEDS,
    Plan,
    Study,
    arguments,
    cells_lacking,
    courses,
    rates,
    table,
    tested_rows,
    verdicts,
)
from benchmarks.studies.qat_times import NAMES as RUNTIMES
from benchmarks.studies.speech_lab import widths

if TYPE_CHECKING:
    from compressor.contracts.records import Report

OUT, WORK = Path("docs/results/qat-others.md"), Path("runs/qat-others")
RATES = (1e-5, 3e-5, 1e-4)
STEPS = 600
ROWS = {PICTURES: Rows(4000, 500, 2000), SPEECH: Rows(1800, 300, 900)}
EPOCHS = {PICTURES: 8, SPEECH: 8}
PARTS: Mapping[str, tuple[str, ...]] = {
    f"{PICTURES}-W8A8": (ROUNDED, TOOLS, SOFT, LABELS),
    f"{PICTURES}-W4A8": (ROUNDED, WEIGHT_ONLY, SOFT, LABELS),
    f"{SPEECH}-W8A8": (ROUNDED, TOOLS, SOFT),
}
OPTIONS = {PICTURES: "picture", SPEECH: "speech"}
"""What options of a case begin with."""
ALLOWED = 0.5
"""Points that 8 bits are to lose at most."""


@dataclass(frozen=True)
class Asked:
    """How the references were made, by case."""

    rows: Mapping[str, Rows]
    epochs: Mapping[str, int]
    scored: int | None

    def words(self) -> Iterator[str]:
        """Of the command that remakes the page, where they are not usual."""
        for name, option in OPTIONS.items():
            mine = self.rows[name]
            if mine != ROWS[name]:
                yield f"--{option}-rows {mine.train} {mine.validation} {mine.test}"
            if self.epochs[name] != EPOCHS[name]:
                yield f"--{option}-epochs {self.epochs[name]}"
        if self.scored:
            yield f"--scored {self.scored}"

    def short(self, name: str) -> Iterator[str]:
        """What is less than usual of a case."""
        mine, usual = self.rows[name], ROWS[name]
        for what in ("train", "validation", "test"):
            if getattr(mine, what) < getattr(usual, what):
                yield f"{getattr(mine, what):,} rows of {what} instead of {getattr(usual, what):,}"
        if self.epochs[name] < EPOCHS[name]:
            yield f"{self.epochs[name]} epochs of fine-tuning instead of {EPOCHS[name]}"


# ------------------------------------------------------------------ the page


def document(study: Study, asked: Asked, there: Mapping[str, Mapping[str, Mapping[int, Found]]], times: qat_times.Times) -> str:
    """What there is, part by part."""
    references = {data: study.book.reference(data) for data in dict.fromkeys(part.split("-")[0] for part in there)}
    lines = [
        "# Quantisation-aware training of encoders of pictures and of speech: what was measured",
        "",
        f"`{command(study, asked)}` remakes this page.",
        "",
        *lacking(study, asked, there, times),
        *machine_lines(next(iter(references.values()))),
        f"- Pictures: DINOv2-small at {SIZE} pixels ({(SIZE // 14) ** 2} patches and one token of the class). Speech: Whisper-tiny.en's",
        f"  encoder, sounds of {SECONDS:g} s (50 frames), fine-tuned to tell digits, then `distill-and-prune` to {1 - SPARSITY:.0%} of",
        "  the parameters of its layers.",
        f"- Fine-tuned at {REFERENCE['learning_rate']:g} (the best point by validation stays), once for each case, one thread; all cells start",
        "  from that model and learn from it.",
        f"- Equal steps: {study.plan.steps:,} of {BATCH} rows, AdamW, the last weights stay; {CALIBRATION} rows for calibration. {rates(study)}",
        f"- `{ROUNDED}`: our scheme, rounded and not trained (one step at a rate of 1e-9). `{TOOLS}`: ONNX Runtime's quantiser and NNCF's,",
        f"  by `quantize-static`; `{WEIGHT_ONLY}`: theirs of 4 bits, by `quantize-weights`, whose activations stay in float.",
        f"  `{LABELS}` learns from labels alone, `{SOFT}` from the logits of the fine-tuned model alone (`distill-and-quantize`).",
        "- Heads stay in float in our files, and convolutions (patches of pictures, the two that read spectra) at 4 bits; not in the tools'. Our",
        "  weights of 4 bits have a step for 32 inputs, the tools' for more.",
        "- `labels as simulated` is of 64 rows, of which one is 1.6 %; files of tools have no simulation.",
        *INTERVALS,
    ]
    for data, report in references.items():
        lines += ["", f"## {study.book.cases[data].title}", "", *courses(report, tested_rows(there, data)), *left(report)]
        for part, found in there.items():
            if part.startswith(f"{data}-"):
                lines += [
                    "",
                    f"### {part.split('-')[1]}",
                    "",
                    *table(study, part, found),
                    "",
                    *verdicts(found),
                    *kept_within(part, found),
                ]
    return "\n".join([*lines, "", "## Size, latency and quality", "", *qat_times.section(study, there, times)]) + "\n"


def command(study: Study, asked: Asked) -> str:
    """That remakes the page."""
    plan = study.plan
    words = [
        "python -m benchmarks.studies.qat_others --pictures MODEL --images FOLDER --speech MODEL --recordings FOLDER",
        *asked.words(),
    ]
    words += [f"--steps {plan.steps}"] if plan.steps != STEPS else []
    words += [f"--seeds {len(plan.seeds)}"] if len(plan.seeds) != len(SEEDS) else []
    words += [f"--rates {' '.join(f'{rate:g}' for rate in plan.rates)}"] if plan.rates != RATES else []
    return " ".join(words)


def lacking(
    study: Study, asked: Asked, there: Mapping[str, Mapping[str, Mapping[int, Found]]], times: qat_times.Times
) -> Iterator[str]:
    """What this page does not show."""
    plan = study.plan
    short = [f"{case.title}: {', '.join(fewer)}" for name, case in study.book.cases.items() if (fewer := list(asked.short(name)))]
    short += [f"{plan.steps:,} steps instead of {STEPS:,}"] if plan.steps < STEPS else []
    short += ["no trials of learning rates"] if len(plan.rates) == 1 else []
    short += cells_lacking(study, there)
    short += [f"no latency of {study.book.cases[data].title}" for data in study.book.cases if data not in times]
    if short:
        yield f"**Not run: {'; '.join(short)}.**"
        yield "What is told apart below is so at this number of steps and rows; it may turn at more."
        yield ""


def left(report: Report) -> Iterator[str]:
    """What pruning left, where there was any."""
    if len(report.stages) > len(("source", "finetune")):
        found = widths(report)
        yield ""
        yield (
            "What `distill-and-prune` left, block by block: "
            + "; ".join(f"{kind} {', '.join(map(str, each))}" for kind, each in found.items())
            + "."
        )


def kept_within(part: str, found: Mapping[str, Mapping[int, Found]]) -> Iterator[str]:
    """Whether files of 8 bits lose at most what is allowed, on each target against the fine-tuned model's file in ONNX Runtime."""
    if not part.endswith("W8A8"):
        return
    yield ""
    for method, seeds in found.items():
        for target in TARGETS:
            each = [one for one in seeds.values() if target in one.right]
            if each:
                lost = change([one.right[target] for one in each], [one.reference for one in each])
                sides = [lost.rows, *([lost.seeds] if lost.seeds else [])]
                low, high = min(side[0] for side in sides), max(side[1] for side in sides)
                held = "held" if low >= -ALLOWED else "missed" if high < -ALLOWED else "undecided"
                span = f"{0.0 - lost.value:.2f}, between {-high:.2f} and {-low:.2f}"
                yield f"- {method} in {RUNTIMES[target]}: at most {ALLOWED:g} points lost: {span}: {held}."


# ------------------------------------------------------------------ running


def main(words: Sequence[str] | None = None) -> None:
    """Run what is not there, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    arguments(parser, work=WORK, out=OUT, steps=STEPS, rates=RATES)
    for name in ("pictures", "images", "speech", "recordings"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name, option in OPTIONS.items():
        usual = ROWS[name]
        numbers = (usual.train, usual.validation, usual.test)
        parser.add_argument(f"--{option}-rows", type=int, nargs=3, default=numbers, metavar=("TRAIN", "VALIDATION", "TEST"))
        parser.add_argument(f"--{option}-epochs", type=int, default=EPOCHS[name], help="of fine-tuning")
    parser.add_argument("--scored", type=int, help="validation rows that a cell is scored on; all unless given")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, qat_times.PART], default=list(PARTS))
    given = parser.parse_args(words)
    plan = Plan(PARTS, given.steps, tuple(range(given.seeds)), tuple(given.rates), (LABELS, SOFT))
    if given.quick:
        plan = replace(plan, seeds=SEEDS[:1], rates=RATES[1:2])
    asked = Asked(
        {PICTURES: Rows(*given.picture_rows), SPEECH: Rows(*given.speech_rows)},
        {PICTURES: given.picture_epochs, SPEECH: given.speech_epochs},
        given.scored,
    )
    given.work.mkdir(parents=True, exist_ok=True)
    cases = (
        picture_case(given.pictures, given.images, asked.rows[PICTURES], asked.epochs[PICTURES], asked.scored, given.work),
        speech_case(given.speech, given.recordings, asked.rows[SPEECH], asked.epochs[SPEECH]),
    )
    parts = [each for each in PARTS if each in given.only]
    book = Book(given.work, {each.name: each for each in cases}, sum(map(plan.cells_in, parts)), not given.page)
    study = Study(book, plan)
    for part in parts if not given.page else ():
        study.found(part)
    book.run = False
    there = {part: found for part in PARTS if (found := study.found(part))}
    if not there:
        raise SystemExit("no cell is there yet")
    times = qat_times.times(study, there, run=qat_times.PART in given.only and not given.page)
    given.out.write_text(document(study, asked, there, times), encoding="utf-8")
    qat_times.draw(qat_times.points(study, there, times), given.out.with_suffix(".svg"))
    sys.stderr.write(f"{given.out} is written\n")


if __name__ == "__main__":
    main()
