"""A language model in four runtimes, beside what existing tools make of it: files and scores, times, and how far memory bounds them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from benchmarks.latency import Latency
from benchmarks.studies.lm_lab import CORPORA, kept
from benchmarks.studies.lm_peers import peers
from compressor.contracts import Candidate, Evaluation, Event, Message, Progress, Target, Workload
from compressor.contracts.records import LatencyRecord, Report
from compressor.deploy.bench import ProcessBench
from compressor.deploy.session import opened
from compressor.plan.bound import Bound, load_plan
from compressor.plan.yaml_source import write_yaml
from compressor.report import read_report
from compressor.run.results import load_evaluation, save_evaluation
from compressor.run.rows import rows_in
from compressor.store.disk import put
from compressor.tasks.language.causal_lm import CausalLM

if TYPE_CHECKING:
    from datasets import Dataset

DOCUMENTS, CHARACTERS = 12, 900
"""Of each corpus, from its test documents; each is cut to its beginning."""
LENGTH, STEPS = 128, 16
"""Tokens of the prompt, and tokens that are decoded after it, one pass each."""
ROUNDS = 7
SECONDS = 120.0
"""Of all rounds of one kind of call, as far as they can be told in it."""
NEAR = 0.7
"""Share of the bound below which operators are looked at."""
SWEPT_BYTES, SWEEPS = 2**30, 7
CONTEXT = 8192
"""Tokens that llama.cpp has room for: eight documents are scored together."""
INT8 = "onnxruntime-int8"
REFERENCE = "pytorch"
OURS: Mapping[str, tuple[str, str]] = {
    REFERENCE: ("torch", "fp32"),
    "onnxruntime": ("ONNX Runtime", "fp32"),
    INT8: ("ONNX Runtime", "dynamic int8"),
    "openvino": ("OpenVINO", "fp32"),
    "openvino-bf16": ("OpenVINO", "bf16"),
    "llama-f32": ("llama.cpp", "fp32"),
    "llama-q8": ("llama.cpp", "Q8_0"),
}
"""Runtime and precision, by target."""


@dataclass(frozen=True)
class File:
    """One built model."""

    name: str
    runtime: Target
    built: Path
    task: CausalLM

    @property
    def candidate(self) -> Candidate:
        """As a probe takes it."""
        return Candidate(f"final@{self.name}", "final", self.name, self.runtime, self.built, self.task)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of the weights by part of the model; as a whole where the runtime does not say."""
        found = self.runtime.layer_bytes(self.built)
        return found or {"weights": sum(path.stat().st_size for path in self.built.glob("*.safetensors"))}

    def read_bytes(self, length: int = LENGTH) -> int:
        """Bytes that a token's pass has to read at least: all weights but a table of embeddings that is not the head's too, and the cache."""
        parts = self.parts
        table, head = (sum(size for part, size in parts.items() if word in part) for word in ("embed", "head"))
        apart = table if head > table / 8 else 0
        graph = self.task.graphs(self.built)[0]
        kept = {name for _, name in graph.state}
        cached = sum(
            4 * int(np.prod([axis for axis in port.axes if isinstance(axis, int)])) for port in graph.inputs if port.name in kept
        )
        return sum(parts.values()) - apart + cached * length


def plan(model: Path, texts: Path, threads: int) -> dict[str, Any]:
    """Ours: the model as it is for each runtime, and in int8 for ONNX Runtime.

    OpenVINO 2026.4.1 ends the process (its issue 33300) where it compiles for bf16 and has one thread or core: with one thread that row is left out.
    """
    each = {"threads": threads}
    brief = [{"openvino": {**each, "precision": "bf16"}, "name": "openvino-bf16"}] if threads > 1 else []
    return {
        "name": "lm-runtimes",
        "model": {"folder": str(model.resolve())},
        "task": {"causal-lm": {"max_length": 512}},
        "data": {"files": {split: str((texts / f"{split}.jsonl").resolve()) for split in ("train", "validation", "test")}},
        "reference": "source",
        "stages": "quality",
        "passes": [{"quantize-dynamic": None, "only": [INT8]}],
        "targets": [
            {"pytorch": each},
            {"onnxruntime": each},
            {"onnxruntime": each, "name": INT8},
            {"openvino": each},
            *brief,
            {"llama-cpp": {**each, "weights": "f32", "context": CONTEXT}, "name": "llama-f32"},
            {"llama-cpp": {**each, "weights": "q8_0", "context": CONTEXT}, "name": "llama-q8"},
        ],
        "probes": [],
    }


def excerpts(texts: Path, folder: Path, *, documents: int = DOCUMENTS, characters: int = CHARACTERS) -> Path:
    """Beginnings of documents: of test so many of each corpus, of the other splits a few, since a plan has three."""
    for split, count in (("train", 2), ("validation", 2), ("test", documents)):
        rows = [json.loads(line) for line in (texts / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
        chosen = [row for corpus in CORPORA for row in [each for each in rows if each["corpus"] == corpus][:count]]
        lines = [json.dumps({"text": row["text"][:characters].rpartition(" ")[0]}) + "\n" for row in chosen]
        folder.mkdir(parents=True, exist_ok=True)
        put(folder / f"{split}.jsonl", "".join(lines))
    return folder


@dataclass(frozen=True)
class Shelf:
    """Where the model, its files for all runtimes and their scores lie."""

    model: Path
    work: Path
    threads: int = 2

    @property
    def bound(self) -> Bound:
        """The plan."""
        return load_plan(self.work / "plan.yaml")

    @property
    def task(self) -> CausalLM:
        """Of the plan."""
        found = self.bound.task
        assert isinstance(found, CausalLM)
        return found

    @property
    def report(self) -> Report:
        """Of our files; made in a process of its own unless it is there.

        Raises:
            subprocess.CalledProcessError: a step failed.
        """
        out = self.work / "run"
        if not (out / "report.json").is_file():
            texts = excerpts(self.work.parent / "texts", self.work / "texts")
            put(self.work / "plan.yaml", write_yaml(plan(self.model, texts, self.threads)))
            command = [sys.executable, "-m", "compressor.cli", "run", str(self.work / "plan.yaml"), "--out", str(out)]
            subprocess.run([*command, "--store", str(self.work / "store")], check=True, stdout=sys.stderr)
        return read_report(out)

    def files(self) -> list[File]:
        """Ours, then theirs."""
        report, task = self.report, self.task
        targets = {each.name: each.target for each in self.bound.targets}
        places = {
            each.target: self.work / "run" / "artifacts" / each.id for each in report.candidates if each.not_measured is None
        }
        made = {name: (targets[name], places[name]) for name in OURS if name in places}
        made |= peers(self.model, places["openvino"], self.work / "peers", task, self.threads)
        return [File(name, runtime, built, task) for name, (runtime, built) in made.items()]

    def rows(self) -> Dataset:
        """That are scored."""
        return rows_in(self.bound).split("test")

    def scores(self, file: File) -> Evaluation:
        """On the test excerpts, all by the same code; kept."""
        return scored(file, self.rows(), self.work / "scores" / file.name)


def scored(file: File, rows: Dataset, place: Path) -> Evaluation:
    """A file's scores on rows, kept in a folder."""
    if not (place / "done").is_file():
        sys.stderr.write(f"{file.name}: scored now, about half a minute\n")
        place.mkdir(parents=True, exist_ok=True)
        found = file.task.evaluate(opened(file.task, file.runtime, file.built), rows, file.built, split="test")
        save_evaluation(found, place)
        put(place / "done", "")
    return load_evaluation(place)


class Timed(Protocol):
    """Files that are timed together."""

    @property
    def work(self) -> Path:
        """Where what is measured is kept."""

    @property
    def threads(self) -> int:
        """Of every runtime."""

    @property
    def task(self) -> CausalLM:
        """Of all files."""

    def files(self) -> list[File]:
        """The first one is what all others are held against."""

    def rows(self) -> Dataset:
        """Texts that prompts are made of."""


# ------------------------------------------------------------------ times


def bandwidth(threads: int) -> list[float]:
    """Bytes per second of a product of a matrix of 1 GiB and a vector, which is what decoding is made of, in some passes."""
    import torch

    torch.set_num_threads(threads)
    columns = 4096
    matrix = torch.ones(SWEPT_BYTES // 4 // columns, columns)
    vector = torch.ones(columns)
    found = []
    for _ in range(SWEEPS + 1):
        started = time.perf_counter()
        torch.mv(matrix, vector)
        found.append(SWEPT_BYTES / (time.perf_counter() - started))
    return found[1:]


def times(files: Sequence[File], rows: Dataset, work: Path, *, seconds: float, rounds: int) -> LatencyRecord:
    """Prompts and decoding of all files, interleaved, the first one against itself too."""
    probe = Latency(
        batch=(1,),
        length=(LENGTH,),
        kinds=("prefill", "decode"),
        steps=STEPS,
        rounds=rounds,
        seconds=2 * seconds,
        inputs=1,
        warm_up_seconds=min(0.5, seconds / 10),
        controls=2,
        control_limit=0.15,
    )
    first = files[0]
    feeds = {workload: first.task.feeds(rows, first.built, workload, count=1) for workload in probe.workloads()}
    with ProcessBench(work / "bench", tell=told) as bench:
        return probe.measure([each.candidate for each in files], feeds, bench, seed=0)


def told(event: Event) -> None:
    """Progress on one line."""
    if isinstance(event, Progress):
        sys.stderr.write(f"\r{event.work}: {event.done} of {event.total} {event.unit} ")
    elif isinstance(event, Message):
        sys.stderr.write(f"{event.text}\n")
    sys.stderr.flush()


def measured(shelf: Timed, *, seconds: float, rounds: int, watched: Collection[str] | None = None) -> dict[str, Any]:
    """Bandwidth before and after, times, and where the time of files that are far from the bound goes, of `watched` ones where they are given."""
    from benchmarks.studies.lm_operators import operators

    files = shelf.files()
    before = bandwidth(shelf.threads)
    record = times(files, shelf.rows(), shelf.work, seconds=seconds, rounds=rounds)
    after = bandwidth(shelf.threads)
    speed = float(np.median([*before, *after]))
    seen = [each for each in files if watched is None or each.name in watched]
    far = [each for each in seen if each.read_bytes() / speed / seconds_a_pass(record, each.name) < NEAR]
    feed = shelf.task.feeds(shelf.rows(), files[0].built, Workload(length=LENGTH), count=1)[0]
    spent: dict[str, Any] = {each.name: operators(each.runtime, each.built, feed) for each in far}
    return {"bandwidth": {"before": before, "after": after}, "latency": record.model_dump(mode="json"), "operators": spent}


def timing(shelf: Timed, *, seconds: float, rounds: int, watched: Collection[str] | None = None) -> dict[str, Any]:
    """What was measured, or is now."""
    place = shelf.work / f"timing-{shelf.threads}.json"
    return kept(place, lambda: measured(shelf, seconds=seconds, rounds=rounds, watched=watched))


def seconds_a_pass(record: LatencyRecord, name: str, at: Callable[[Any], float] = lambda row: row.median_ms) -> float:
    """Of decoding: a token's pass."""
    row = next(each for each in record.rows if each.candidate == f"final@{name}" and each.workload.kind == "decode")
    return at(row) / 1e3 / STEPS
