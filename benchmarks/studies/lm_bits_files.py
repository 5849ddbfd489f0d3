"""Files of `benchmarks.studies.lm_bits`, ours and those of existing tools: where they lie, what they score, and how fast they are."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.lm_bits_cells import CONTEXT, REFERENCE, Book, Cell
from benchmarks.studies.lm_lab import CORPORA
from benchmarks.studies.lm_peers import GenAi, built_by_genai, compressed_by_nncf, finished
from benchmarks.studies.lm_runtimes import File, excerpts, scored
from compressor.contracts import Evaluation, Target, registry
from compressor.contracts.records import Interval, LatencyRecord
from compressor.tasks.language.causal_lm import CausalLM

if TYPE_CHECKING:
    from datasets import Dataset

DOCUMENTS, CHARACTERS = 16, 1000
"""Of each corpus, from its test documents; each is cut to its beginning."""
LONGEST = 512
"""Tokens of a text that is scored: more than any beginning has."""
ACCURACY_LEVEL, MADE = "accuracy_level=4", "task.json"
"""What the model builder is told; the file that lies beside a peer's model once it is there."""
FLOAT, HALF, GGUF = "ov-fp32", "llama-fp16", "model.gguf"
"""What peers start from, where they do not read the model itself; the file of the latter."""


@dataclass(frozen=True)
class Peer:
    """What an existing tool makes of the model, by its own defaults but for what is said."""

    runtime: str
    precision: str
    bits: int
    make: Callable[[Files, Path], tuple[Target, Path]]


def _genai(group: int) -> Callable[[Files, Path], tuple[Target, Path]]:
    def make(files: Files, out: Path) -> tuple[Target, Path]:
        options = (ACCURACY_LEVEL, f"block_size={group}")
        return GenAi(threads=files.threads), built_by_genai(files.model, out, files.task, precision="int4", options=options)

    return make


def _nncf(mode: str, **given: Any) -> Callable[[Files, Path], tuple[Target, Path]]:
    def make(files: Files, out: Path) -> tuple[Target, Path]:
        runtime = registry.load("target", "openvino")(threads=files.threads, precision="default")
        return runtime, compressed_by_nncf(files.place(FLOAT), out, files.task, mode, **given)

    return make


def _llama(kind: str) -> Callable[[Files, Path], tuple[Target, Path]]:
    def make(files: Files, out: Path) -> tuple[Target, Path]:
        runtime = registry.load("target", "llama-cpp")(threads=files.threads, context=CONTEXT)
        return runtime, quantised_by_llama(files.place(HALF), out, files.task, kind)

    return make


PEERS: Mapping[str, Peer] = {
    "genai-int4": Peer("ONNX Runtime GenAI", "4 bits, groups of 32", 4, _genai(32)),
    "genai-int4-128": Peer("ONNX Runtime GenAI", "4 bits, groups of 128", 4, _genai(128)),
    "nncf-int8": Peer("OpenVINO, NNCF", "int8 weights", 8, _nncf("INT8_ASYM")),
    "nncf-int4": Peer("OpenVINO, NNCF", "int4 weights, groups of 64", 4, _nncf("INT4_ASYM", ratio=1.0, group_size=64)),
    "llama-q8_0": Peer("llama.cpp, its own", "Q8_0", 8, _llama("Q8_0")),
    "llama-q4_0": Peer("llama.cpp, its own", "Q4_0", 4, _llama("Q4_0")),
    "llama-q4_k_m": Peer("llama.cpp, its own", "Q4_K_M", 4, _llama("Q4_K_M")),
}
EIGHT = "nncf-int8"
"""OpenVINO's int8 weights, which the goal names."""
FTYPES = {"Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15}
"""The library's numbers."""


def quantised_by_llama(source: Path, out: Path, task: CausalLM, kind: str) -> Path:
    """What llama.cpp's own quantiser makes of a GGUF file in float, unless it is there."""
    if not (out / MADE).is_file():
        from cyllama.llama import llama_cpp

        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        how = llama_cpp.LlamaModelQuantizeParams()
        how.ftype = FTYPES[kind]
        llama_cpp.model_quantize(str(source / GGUF), str(out / GGUF), how)
        finished(source, out, task)
    return out


@dataclass(frozen=True)
class Files:
    """All files of the study."""

    book: Book
    cells: Sequence[Cell]
    """Those that have a file, as far as they are there."""
    threads: int
    """Of every runtime."""

    @property
    def work(self) -> Path:
        """Where everything is kept."""
        return self.book.folder

    @property
    def model(self) -> Path:
        """Folder of the fine-tuned model."""
        return self.book.model

    @property
    def task(self) -> CausalLM:
        """That scores them."""
        return CausalLM(max_length=LONGEST)

    def place(self, method: str) -> Path:
        """Of a cell's file."""
        return self.book.one(Cell(method)).built

    def make_peers(self) -> None:
        """What existing tools make of the model, unless it is there."""
        for name, peer in PEERS.items():
            sys.stderr.write(f"{name}: {peer.runtime}, {peer.precision}\n")
            peer.make(self, self.work / "peers" / name)

    def files(self) -> list[File]:
        """Those that are there: theirs, the first of which all others are held against, then ours."""
        there = {name: (self.work / "peers" / name / MADE).is_file() for name in PEERS}
        made = [(name, *peer.make(self, self.work / "peers" / name)) for name, peer in PEERS.items() if there[name]]
        ours = [self.book.one(cell) for cell in self.cells if self.book.there(cell)]
        made += [(each.cell.name, each.cell.target(self.threads), each.built) for each in ours]
        return [File(name, runtime, built, self.task) for name, runtime, built in made]

    def named(self, beginnings: Sequence[str]) -> list[str]:
        """Names of files that begin so."""
        return [each.name for each in self.files() if each.name.startswith(tuple(beginnings))]

    def timed(self) -> dict[str, Any] | None:
        """What was timed, None where nothing was."""
        place = self.work / f"timing-{self.threads}.json"
        found: dict[str, Any] | None = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else None
        return found

    def rows(self) -> Dataset:
        """Texts that are scored."""
        from datasets import Dataset

        return Dataset.from_list([{"text": text} for text, _ in self._texts])

    @cached_property
    def _texts(self) -> list[tuple[str, str]]:
        texts = excerpts(self.book.texts, self.work / "scored", documents=DOCUMENTS, characters=CHARACTERS)
        lines = (texts / "test.jsonl").read_text(encoding="utf-8").splitlines()
        return [(json.loads(line)["text"], CORPORA[number // DOCUMENTS]) for number, line in enumerate(lines)]

    def scored(self, *, run: bool) -> dict[str, dict[str, Evaluation]]:
        """By file: on all texts by the empty name, and on each corpus; kept. Files that have no score are scored where they are to be."""
        places = {each.name: self.work / "scores" / each.name for each in self.files()}
        there = [each for each in self.files() if run or (places[each.name] / "done").is_file()]
        return {each.name: self._by_corpus(scored(each, self.rows(), places[each.name])) for each in there}

    def _by_corpus(self, whole: Evaluation) -> dict[str, Evaluation]:
        found = {"": whole}
        for corpus in CORPORA:
            mine = np.array([each == corpus for _, each in self._texts])
            found[corpus] = self.task.score({name: array[mine] for name, array in whole.outputs.items()}, {}, split="test")
        return found


# ------------------------------------------------------------------ what is held against what


@dataclass(frozen=True)
class Faster:
    """How many times as fast one file is as another, in the same rounds."""

    value: float
    interval: Interval

    def told(self) -> str:
        """With its interval."""
        return f"{self.value:.2f}x [{self.interval.low:.2f}, {self.interval.high:.2f}]"


def faster(record: LatencyRecord, mine: str, theirs: str, kind: str = "decode") -> Faster:
    """The median over rounds of the ratio of both times; no narrower than what processes of one model differ by."""
    from benchmarks.statistics import EFFECT_FLOOR, ratio_with_interval, widened

    one, other = (row(record, name, kind).rounds_ms for name in (mine, theirs))
    value, interval = ratio_with_interval(other, one, seed=0)
    noise = next(each.noise for each in record.controls if each.workload.kind == kind)
    return Faster(value, widened(value, interval, by=float(np.log1p(max(EFFECT_FLOOR, noise)))))


def row(record: LatencyRecord, name: str, kind: str) -> Any:
    """What was timed of a file."""
    return next(each for each in record.rows if (each.candidate, each.workload.kind) == (f"final@{name}", kind))


def change(file: File, scores: Mapping[str, Mapping[str, Evaluation]], corpus: str = "") -> tuple[float, float, float]:
    """Per cent of perplexity against the model in float, on the same texts, with the ends of its interval: above 0 is worse."""
    mine, theirs = scores[file.name][corpus], scores[REFERENCE][corpus]
    found = file.task.compare(mine, theirs, metric="perplexity", name=REFERENCE, seed=0)
    assert found.interval is not None
    return -found.change, -found.interval.high, -found.interval.low
