"""Cells of `benchmarks.studies.lm_bits`: a language model in 8 or 4 bits by one method, for one runtime; each is a run of a plan that is kept."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.studies import ablation
from benchmarks.studies.lm_lab import BATCH, ROW
from compressor.contracts import Target, registry
from compressor.contracts.notes import Note, Table
from compressor.contracts.records import Report
from compressor.report import read_report

TRAINED_STEPS = 60
"""Of the optimiser, of a cell that trains: about a quarter of an hour of one core."""
RATE, WARMUP = 2e-4, 0.05
SEEDS = (0, 1, 2)
CALIBRATION = 24
"""Training documents that data-aware methods look at, each cut to a row of a training."""
CONTEXT = 8192
"""Tokens that llama.cpp has room for: eight documents are scored together."""
SPLITS = ("train", "validation", "test")
WEIGHTS, TRAINED = "quantize-weights", "distill-and-quantize"
KL = {"soft-targets": {"temperature": 1.0, "divergence": "forward"}}


@dataclass(frozen=True)
class Method:
    """How a file comes to be."""

    target: str
    """Name of the target's plug-in."""
    precision: str
    """As the page says it."""
    step: Mapping[str, Any] = field(default_factory=dict)
    """The pass of its plan; none of the model in float."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the target."""
    beside: str = ""
    """Of the model in float: the method whose run builds it too, as its source."""
    alike: str = ""
    """The method whose file has the same operators of the same sizes, and other numbers in them: it is timed once for both."""

    @property
    def trains(self) -> bool:
        """Whether a seed has a part in it."""
        return TRAINED in self.step

    @property
    def bits(self) -> int:
        """Of the weights; 32 in float."""
        if not self.step:
            return 32
        given = next(iter(self.step.values()))
        return int(given.get("bits", given.get("weights")))


def _rounded(bits: int, **given: Any) -> Mapping[str, Any]:
    return {WEIGHTS: {"bits": bits, **given}}


def _taught(**given: Any) -> Mapping[str, Any]:
    return {TRAINED: {"teacher": "source", "weights": 4, "head": True, "objectives": KL, **given}}


GPTQ, AWQ = {"algorithm": "gptq"}, {"algorithm": "awq"}
ROOM = {"context": CONTEXT}
METHODS: Mapping[str, Method] = {
    "ort-fp32": Method("onnxruntime", "fp32", beside="ort-w8"),
    "ort-w8": Method("onnxruntime", "W8, groups of 128", _rounded(8)),
    "ort-w8-kv8": Method("onnxruntime", "W8, groups of 128; cache int8", _rounded(8, cache=8)),
    "ort-w4": Method("onnxruntime", "W4 rounded, groups of 64", _rounded(4)),
    "ort-w4-gptq": Method("onnxruntime", "W4 GPTQ, groups of 64", _rounded(4, **GPTQ), alike="ort-w4"),
    "ort-w4-awq": Method("onnxruntime", "W4 AWQ, groups of 64", _rounded(4, **AWQ), alike="ort-w4"),
    "ort-w4-gptq-128": Method("onnxruntime", "W4 GPTQ, groups of 128", _rounded(4, group_size=128, **GPTQ)),
    "ort-w4-qad": Method("onnxruntime", "W4 QAD, groups of 64", _taught(group=64)),
    "ov-fp32": Method("openvino", "fp32", beside="ov-w8"),
    "ov-w8": Method("openvino", "W8, a scale a row", _rounded(8)),
    "ov-w8-kv8": Method("openvino", "W8, a scale a row; cache int8", _rounded(8), {"cache": "int8"}),
    "ov-w4": Method("openvino", "W4 rounded, groups of 64", _rounded(4)),
    "ov-w4-awq": Method("openvino", "W4 AWQ, groups of 64", _rounded(4, **AWQ), alike="ov-w4"),
    "llama-fp16": Method("llama-cpp", "fp16", settings=ROOM, beside="llama-w8"),
    "llama-w8": Method("llama-cpp", "Q8_0", _rounded(8), ROOM),
    "llama-w8-kv8": Method("llama-cpp", "Q8_0; cache q8_0", _rounded(8), {**ROOM, "cache": "q8_0"}),
    "llama-w4": Method("llama-cpp", "Q4_0 (groups of 32), head Q8_0", _rounded(4), ROOM),
}
"""By name, in the order of the page. What a name stands for never changes: cells are kept by it."""
REFERENCE = "ort-fp32"
"""What perplexity is held against, which is that of the model in float whatever runs it."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    seed: int = 0
    steps: int = TRAINED_STEPS

    @property
    def how(self) -> Method:
        """Of its name."""
        return METHODS[self.method]

    @property
    def name(self) -> str:
        """Of its folder, and of its file among others."""
        return f"{self.method}-{self.steps}-{self.seed}" if self.how.trains else self.method

    @property
    def step(self) -> dict[str, Any]:
        """The pass of its plan, with what the study says of it."""
        ((kind, given),) = self.how.step.items()
        if not self.how.trains:
            return {kind: {**given, **({"calibration": CALIBRATION} if self.looks else {})}}
        training = {"batch_size": BATCH, "steps": self.steps, "learning_rate": RATE, "warmup": WARMUP, "checkpoint": "last"}
        runs = {"validations": 1, "attention": "sdpa", "precision": "bf16", "cache_teacher": False}
        return {kind: {**given, **training, **runs}}

    @property
    def timed_as(self) -> str:
        """Name of the file whose times are its own too."""
        return self.how.alike or replace(self, seed=0).name

    @property
    def looks(self) -> bool:
        """Whether it looks at calibration rows."""
        (given,) = self.how.step.values()
        return "algorithm" in given or "cache" in given

    def target(self, threads: int) -> Target:
        """What runs its file."""
        made: Target = registry.load("target", self.how.target)(threads=threads, **self.how.settings)
        return made


def cell_of(name: str) -> Cell:
    """By the name of its file."""
    if name in METHODS:
        return Cell(name)
    method, steps, seed = name.rsplit("-", 2)
    return Cell(method, int(seed), int(steps))


def plan(cell: Cell, model: Path, texts: Path, excerpts: Path) -> dict[str, Any]:
    """Of a cell.

    Args:
        cell: what is made.
        model: folder of the fine-tuned model.
        texts: folder with all training documents.
        excerpts: folder with the few documents of the other splits that the run itself looks at; the study scores files by itself.
    """
    files = {"train": texts / "train.jsonl", **{split: excerpts / f"{split}.jsonl" for split in SPLITS[1:]}}
    return {
        "name": "lm-bits",
        "seed": cell.seed,
        "model": {"folder": str(model.resolve())},
        "task": {"causal-lm": {"max_length": ROW}},
        "data": {"files": {split: str(path.resolve()) for split, path in files.items()}, "calibration": CALIBRATION},
        "reference": "source",
        "stages": "quality",
        "passes": [cell.step],
        "targets": [{cell.how.target: {"threads": 1, **cell.how.settings}}],
        "probes": [],
    }


class Absent(Exception):
    """A cell that is not there."""


@dataclass(frozen=True)
class Made:
    """What a cell's run left."""

    cell: Cell
    report: Report
    built: Path

    @property
    def notes(self) -> tuple[Note, ...]:
        """Of the pass."""
        return self.report.stages[-1].notes

    @property
    def seconds(self) -> float:
        """Of the pass."""
        return float(self.report.stages[-1].seconds)

    @property
    def facts(self) -> Mapping[str, str]:
        """What really ran."""
        return next(each.facts for each in self.report.candidates if each.id == self.built.name)

    @property
    def agreement(self) -> float | None:
        """Share of next tokens that the file and the model that it was made of have alike."""
        parity = next(each.parity for each in self.report.candidates if each.id == self.built.name)
        return parity.agreement if parity else None

    def table(self, title: str) -> Table | None:
        """A note by the beginning of its title."""
        found = (note for note in self.notes if isinstance(note, Table) and note.title.startswith(title))
        return next(found, None)


@dataclass
class Book:
    """All cells of a study in a folder; says how many remain, and about how long they take."""

    folder: Path
    model: Path
    texts: Path
    excerpts: Path
    run: bool = True
    """Whether cells that are not there are run."""
    _seconds: dict[bool, list[float]] = field(default_factory=dict)
    """By whether a cell trains."""

    def there(self, cell: Cell) -> bool:
        """Whether the run that makes its file is over."""
        return (self._place(cell) / "run" / "report.json").is_file()

    def made(self, cells: Sequence[Cell]) -> Iterator[Made]:
        """One after the other; those that are not there are run where they are to be, and left out where not."""
        for number, cell in enumerate(cells):
            if not self.there(cell):
                if not self.run:
                    continue
                self._tell(cells[number:])
            yield self.one(cell)

    def one(self, cell: Cell) -> Made:
        """A cell.

        Raises:
            Absent: it is not there, and nothing is to be run.
            subprocess.CalledProcessError: its run failed.
        """
        place = self._place(cell)
        if not self.there(cell):
            if not self.run:
                raise Absent(cell.name)
            began = time.monotonic()
            made = plan(Cell(cell.how.beside) if cell.how.beside else cell, self.model, self.texts, self.excerpts)
            ablation.run(made, place, store=self.folder / "store")
            self._seconds.setdefault(cell.how.trains, []).append(time.monotonic() - began)
        files = place / "run" / "artifacts"
        if cell.name not in {each.beside for each in METHODS.values()} and not cell.how.beside:
            shutil.rmtree(files / f"source@{cell.how.target}", ignore_errors=True)  # every run builds it, and one is enough
        return Made(cell, read_report(place / "run"), files / f"{'source' if cell.how.beside else 'final'}@{cell.how.target}")

    def _place(self, cell: Cell) -> Path:
        return self.folder / "cells" / (cell.how.beside or cell.name)

    def _tell(self, cells: Sequence[Cell]) -> None:
        left = [cell for cell in cells if not self.there(cell)]
        known = {kind: float(np.median(found)) for kind, found in self._seconds.items()}
        timed = [known[cell.how.trains] for cell in left if cell.how.trains in known]
        pace = f", {len(timed)} of them in about {sum(timed) / 60:.0f} minutes" if timed else ""
        sys.stderr.write(f"{left[0].name}: run now; {len(left)} cells remain{pace}\n")
