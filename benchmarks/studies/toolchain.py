"""What the toolchain itself costs, beside the models it works on: `python -m benchmarks.studies.toolchain`.

Writes a Markdown table to docs/results/toolchain.md. Models are random, since what they compute does not matter here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.statistics import median_with_interval
from benchmarks.studies.cli_start import start_seconds
from compressor.deploy.machine import machine, versions
from compressor.plan.specs import DataSpec
from compressor.plan.yaml_source import write_yaml
from compressor.store.store import Store
from compressor.tasks.tiny import WORDS, text_model, texts
from compressor.testing.tiny import run_in

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "toolchain.md"
QUICKSTART = ROOT / "plans" / "quickstart.yaml"
MEBIBYTE = 2**20
STORED_MEBIBYTES = (1, 10, 100)
BUILT = "report: write"  # what a run without probes says when all is built and scored
ROUNDS = 9
FOUND_ROUNDS = 3
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
GROWING = (
    {"hidden_size": 256, "num_hidden_layers": 8, "num_attention_heads": 4, "intermediate_size": 1024},
    {"hidden_size": 512, "num_hidden_layers": 10, "num_attention_heads": 8, "intermediate_size": 2048},
    {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
)
"""Sizes at which memory is measured: 25, 126 and 340 MB of weights."""
TOKENS, TRAINED_ROWS, BATCH_SIZE = 128, 96, 16
PYTHON = "COMPRESSOR_MEASURED_PYTHON"  # the interpreter of another version, whose commands are to be timed instead
PEAK = """
import sys
from compressor.cli import main
from compressor.deploy.worker import peak_bytes
try:
    main()
finally:
    sys.stderr.write(f"\\npeak bytes {peak_bytes()}\\n")
"""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: str
    how: str
    before: str = ""  # what an earlier version took


# ------------------------------------------------------------------ the command line


def command_start(*, rounds: int = ROUNDS) -> Iterator[Row]:
    """`--help` beside a bare interpreter."""
    bare, command = start_seconds([[sys.executable, "-c", "pass"], _command("--help")], rounds=rounds)
    yield Row(
        "start of the command line",
        _seconds([c - b for b, c in zip(bare, command, strict=True)]),
        "`--help`, beyond a bare interpreter",
    )


def check(plan: Path = QUICKSTART, *, rounds: int = ROUNDS) -> Iterator[Row]:
    """`check` of a plan, an earlier version's own, with nothing stored: each time on a store of its own, then again on one."""
    if plan == QUICKSTART and (python := os.environ.get(PYTHON)):
        plan = Path(python).parents[2] / QUICKSTART.relative_to(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        stores = [Path(folder) / str(turn) for turn in range(rounds + 1)]
        first = [_check_seconds(plan, store) for store in stores]
        again = [_check_seconds(plan, store) for store in stores]
    yield Row(f"check of {plan.name}, first time", _seconds(first[1:]), "reads, splits and hashes the data; fresh process")
    yield Row(f"check of {plan.name}, second time", _seconds(again[1:]), "no file has changed; fresh process")


def found_run(*, rounds: int = FOUND_ROUNDS, **sizes: int) -> Iterator[Row]:
    """A run of a plan for the first time, then with all its steps in the store: until it has all to measure, and as a whole."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = write_plan(folder, passes=[{"finetune": {"epochs": 1}}, {"prune-structure": {"keep": 0.5}}], **(sizes or TINY))
        (_, first), *found = [_until(BUILT, _run(plan, folder, number)) for number in range(rounds + 1)]
    how = "two passes on a tiny model, ONNX Runtime, no probe; fresh process"
    yield Row("first run of a tiny plan", f"{first:.2f} s", how)
    yield Row(
        "the same run, all steps found, before measuring",
        _seconds([built for built, _ in found]),
        "imports, reading and hashing rows and models, building, scoring on test",
    )
    yield Row("the same run, all steps found, with its report", _seconds([whole for _, whole in found]), "drawing the page, too")


def _until(line: str, command: Sequence[str]) -> tuple[float, float]:
    """Seconds until a process says a line, and until it ends.

    Raises:
        RuntimeError: it failed, or never said it.
    """
    start, said, seconds = time.perf_counter(), "", None
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        for each in process.stdout or ():
            said += each
            if each.startswith(line):
                seconds = time.perf_counter() - start
    if process.returncode != 0 or seconds is None:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said[-2000:]}")
    return seconds, time.perf_counter() - start


def _check_seconds(plan: Path, store: Path) -> float:
    command = _command("check", str(plan), "--store", str(store))
    return _timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


# ------------------------------------------------------------------ the store


def store_overhead(mebibytes: Sequence[int] = STORED_MEBIBYTES, *, rounds: int = ROUNDS) -> Iterator[Row]:
    """Putting files into the store beyond writing and syncing them, and finding them again."""
    for size in mebibytes:
        content = os.urandom(MEBIBYTE) * size
        with tempfile.TemporaryDirectory() as folder:
            times = [_store_seconds(Path(folder), number, content) for number in range(rounds)]
        put, find = ([1e3 * each[column] for each in times] for column in (0, 1))
        yield Row(
            f"store: put {size} MiB", _seconds(put, "1f", "ms"), "beyond writing and syncing one file: staging, sha256, renaming"
        )
        yield Row(f"store: find {size} MiB", _seconds(find, "1f", "ms"), "with its digest held against the files")


def _store_seconds(folder: Path, number: int, content: bytes) -> tuple[float, float]:
    """Seconds of putting `content` beyond writing it, and of finding it."""
    store, parts = Store(folder / "store"), {"number": number}
    plain = _timed(lambda: _write_synced(folder / "plain", content))
    put = _timed(lambda: store.obtain(parts, lambda out: _write(out, content)))
    return put - plain, _timed(lambda: store.find(parts))


# ------------------------------------------------------------------ training


@dataclass
class Stopwatch:
    """Seconds spent in the model and its optimiser."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def over(self, what: str) -> Iterator[None]:
        """Add the block's time to `what`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start


def training_share(models: Sequence[tuple[str, dict[str, int]]] = (("tiny", TINY), ("MiniLM-sized", SMALL))) -> Iterator[Row]:
    """Share of a fine-tuning's wall time that is not spent in forward, backward and optimiser."""
    for name, sizes in models:
        with tempfile.TemporaryDirectory() as folder:
            whole, inside = _train(Path(folder), sizes)
        parts = ", ".join(f"{what} {seconds / whole:.0%}" for what, seconds in inside.items())
        shape = f"{TRAINED_ROWS // BATCH_SIZE} steps of {BATCH_SIZE} rows of {TOKENS} tokens"
        yield Row(
            f"training beside the model, {name}",
            f"{1 - sum(inside.values()) / whole:.1%}",
            f"{parts}; {shape}, validation included",
        )


def _train(folder: Path, sizes: dict[str, int]) -> tuple[float, dict[str, float]]:
    """Wall time of `finetune` and, of it, seconds in the model and its optimiser."""
    import torch

    from compressor.contracts import registry

    task = registry.load("task", "text-classification")(max_length=TOKENS)
    text_model(folder / "pretrained", max_position_embeddings=TOKENS, **sizes)
    rows = DataSpec.model_validate(texts(folder, task.columns()))
    _write_long_rows(folder / "rows.jsonl")
    run = run_in(folder, "text-classification", task, rows)
    model = run.model()
    step = registry.load("pass", "finetune")(epochs=1, batch_size=BATCH_SIZE, precision="fp32")
    watch = Stopwatch()
    forward, backward, optimise = type(model.module).__call__, torch.Tensor.backward, torch.optim.AdamW.step
    (folder / "scratch").mkdir()

    def timed(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            with watch.over(what):
                return function(*arguments, **named)

        return wrapped

    with _replaced(
        (type(model.module), "__call__", timed("forward", forward)),
        (torch.Tensor, "backward", timed("backward", backward)),
        (torch.optim.AdamW, "step", timed("optimiser", optimise)),
    ):
        start = time.perf_counter()
        step.apply(model, run.context(folder / "scratch"))
        whole = time.perf_counter() - start
    if set(watch.seconds) != {"forward", "backward", "optimiser"}:
        raise RuntimeError(f"only {', '.join(watch.seconds) or 'nothing'} of the training ran in this process")
    return whole, watch.seconds


@contextmanager
def _replaced(*places: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes of classes with other values during the block."""
    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in places]
    for owner, name, value in places:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            delattr(owner, name) if value is None else setattr(owner, name, value)


def _write_long_rows(path: Path) -> None:
    """Texts that fill `TOKENS` tokens, `TRAINED_ROWS` of them beside those that are split off."""
    words = [" ".join(WORDS[7 + (number + at) % 40] for at in range(TOKENS)) for number in range(TRAINED_ROWS + 24)]
    rows = [{"text": f"{text} {number}", "label": f"class {number % 3}"} for number, text in enumerate(words)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# ------------------------------------------------------------------ memory


def memory(growing: Sequence[dict[str, int]] = GROWING, *, base: dict[str, int] | None = None) -> Iterator[Row]:
    """Peak memory of a run that prunes, lowers and builds, beyond that of a tiny model, over the bytes of the model."""
    floor, _ = _peak(base or TINY)
    yield Row("peak memory of a run, tiny model", f"{floor / MEBIBYTE:.0f} MiB", "interpreter and libraries: what any run takes")
    for sizes in growing:
        peak, weights = _peak(sizes)
        shape = f"{sizes['num_hidden_layers']} layers of {sizes['hidden_size']}"
        yield Row(
            f"peak memory over model size, {weights / MEBIBYTE:.0f} MiB",
            f"{(peak - floor) / weights:.1f}",
            f"{shape}: {peak / MEBIBYTE:.0f} MiB at the peak; prune-structure, export to ONNX, build, score",
        )


def _peak(sizes: dict[str, int]) -> tuple[int, int]:
    """Peak resident bytes of a run, and the bytes of its model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = write_plan(folder, passes=[{"prune-structure": {"keep": 0.5, "importance": "magnitude"}}], **sizes)
        command = [sys.executable, "-c", PEAK, *_run(plan, folder, 0)[len(_command()) :]]
        return peak_of(command), (folder / "pretrained" / "model.safetensors").stat().st_size


def peak_of(command: Sequence[str]) -> int:
    """Peak resident bytes of a process that ends with a line `peak bytes N` on standard error.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    *_, last = done.stderr.strip().splitlines() or [""]
    if done.returncode != 0 or not last.startswith("peak bytes "):
        raise RuntimeError(f"{' '.join(command[3:])} ended with {done.returncode}: {done.stderr[-2000:]}")
    return int(last.removeprefix("peak bytes "))


# ------------------------------------------------------------------ plans, numbers, table


def write_plan(folder: Path, *, passes: Sequence[dict[str, Any]], **sizes: int) -> Path:
    """A plan for ONNX Runtime with a random model of those sizes and its rows."""
    from compressor.contracts import registry

    text_model(folder / "pretrained", **sizes)
    texts(folder, registry.load("task", "text-classification")().columns())
    plan = {
        "model": {"folder": "pretrained"},
        "task": {"text-classification": {"max_length": 16}},
        "data": {"files": "rows.jsonl", "split": {"validation": 12, "test": 12}},
        "stages": "quality",
        "passes": list(passes),
        "targets": [{"onnxruntime": {}}],
    }
    path = folder / "plan.yaml"
    path.write_text(write_yaml(plan), encoding="utf-8")
    return path


def _command(*arguments: str) -> list[str]:
    return [os.environ.get(PYTHON) or sys.executable, "-P", "-m", "compressor.cli", *arguments]


def _run(plan: Path, folder: Path, number: int) -> list[str]:
    return _command("run", str(plan), "--store", str(folder / "store"), "--out", str(folder / f"run-{number}"))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _write(out: Path, content: bytes) -> dict[str, Any]:
    (out / "content").write_bytes(content)
    return {}


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _seconds(values: Sequence[float], digits: str = "2f", unit: str = "s") -> str:
    value, interval = median_with_interval(values, seed=0)
    return f"{value:.{digits}} {unit} ({interval.low:.{digits}} to {interval.high:.{digits}})"


COMMANDS = ("start", "check", "found")  # they time whole commands, which may be of another version
MEASURES: dict[str, Callable[[], Iterator[Row]]] = {
    "start": command_start,
    "check": check,
    "found": found_run,
    "store": store_overhead,
    "training": training_share,
    "memory": memory,
}


def measured(name: str, before: str) -> Iterator[Row]:
    """Rows of a measure, with what an earlier version takes, by its interpreter, right before."""
    with patch.dict(os.environ, {PYTHON: before}):
        earlier = [row.value for row in MEASURES[name]()] if before and name in COMMANDS else []
    yield from (replace(row, before=was or "") for row, was in zip_longest(MEASURES[name](), earlier))


def table(rows: Sequence[Row], before: str = "") -> str:
    """The page: what was measured, where, and the table; `before` names the earlier version."""
    here, installed = machine(), versions()
    named = ", ".join(
        f"{name} {installed[name]}" for name in ("compressor-toolchain", "torch", "onnxruntime") if name in installed
    )
    lines = [
        "# What the toolchain costs",
        "",
        f"{here.named}, {here.memory_bytes / 2**30:.0f} GiB; Python {here.python}, {named}; "
        f"{datetime.now(UTC).date().isoformat()}, load {os.getloadavg()[0]:.1f}.",
        "",
        "Medians with 95 % intervals where something was repeated. Made by `python -m benchmarks.studies.toolchain`.",
        "",
        *([f"`before` is commit {before}, each of its rows timed right before today's.", ""] if before else []),
        f"| what | {'before | ' if before else ''}value | how |",
        f"|---|{'---|' if before else ''}---|---|",
        *(f"| {row.what} | {f'{row.before} | ' if before else ''}{row.value} | {row.how} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print each row as it comes, write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies.toolchain", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES), help="measure only these")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the page to write")
    parser.add_argument("--before", nargs=2, metavar=("COMMIT", "PYTHON"), help="an earlier version, which is timed too")
    chosen = parser.parse_args(arguments)
    rows, (commit, python) = [], chosen.before or ("", "")
    for name in chosen.only:
        for row in measured(name, python):
            sys.stdout.write(f"{row.what}: {row.before}{' -> ' if row.before else ''}{row.value} ({row.how})\n")
            sys.stdout.flush()
            rows.append(row)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.write_text(table(rows, commit), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
