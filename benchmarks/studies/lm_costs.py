"""Remakes `docs/results/lm-costs.md`: time per token and memory of language models by their size, measured at three and projected above.

    python -m benchmarks.studies.lm_costs [--cells FOLDER] [--sizes 135M ...]

Models are Llamas with random weights. Each size is trained, and computes and decodes prompts, in processes of its own; the training is that of
plans, in bf16. What was measured lies in FOLDER, and a study that was cut goes on. All of it takes about 6 minutes, and the largest size 13 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.lm_step import LENGTH, ROWS, Watch, rows, status
from compressor.contracts import Event, Progress
from compressor.deploy.machine import machine
from compressor.deploy.session import EagerSession
from compressor.tasks.language.decoding import decoded, filled
from compressor.tasks.language.scoring import fed
from compressor.training.cheap import Cheap
from compressor.training.loop import Training, train
from compressor.training.settings import TrainingSettings

if TYPE_CHECKING:
    from compressor.contracts import Model

OUT = Path("docs/results/lm-costs.md")
STEPS, CALLS, PASSES = 5, 4, 12
"""Of a training, the first one not counted; prompts, the first one not counted; tokens after one."""
MOST_EXPONENT, MOST_OFF = 1.05, 0.1
"""The goals."""
KINDS = ("training", "prefill", "decode")
ANSWERS = "answers"


@dataclass(frozen=True)
class Shape:
    """Of a Llama."""

    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    """Of heads that share a key and a value."""
    words: int = 49152
    tied: bool = True

    @property
    def table(self) -> int:
        """Numbers in a table of words."""
        return self.words * self.hidden

    @property
    def parameters(self) -> int:
        """All of them, embeddings and head counted."""
        shared = self.hidden * self.groups // self.heads
        block = 2 * self.hidden * (self.hidden + shared) + 3 * self.hidden * self.inner + 2 * self.hidden
        return self.layers * block + self.hidden + self.table * (1 if self.tied else 2)

    def answering_bytes(self, prompt: int, tokens: int) -> float:
        """Weights, a cache of keys and values of so many tokens, and the logits of a prompt, in float32."""
        shared = self.hidden * self.groups // self.heads
        return 4.0 * (self.parameters + 2 * tokens * self.layers * shared + prompt * self.words)

    def model(self, **changed: Any) -> Model:
        """Always the same one."""
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from compressor.model import Model as Made

        torch.manual_seed(0)
        given = {
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.groups,
            "vocab_size": self.words,
            "tie_word_embeddings": self.tied,
        }
        return Made.wrap(LlamaForCausalLM(LlamaConfig(**(given | changed), max_position_embeddings=2048)))


MEASURED: Mapping[str, Shape] = {
    "135M": Shape(576, 1536, 30, 9, 3),
    "360M": Shape(960, 2560, 32, 15, 5),
    "630M": Shape(1536, 4096, 22, 24, 8),
}
PROJECTED: Mapping[str, Shape] = {
    "3B": Shape(3072, 8192, 28, 24, 8, words=128256),
    "7B": Shape(4096, 11008, 32, 32, 32, words=32000, tied=False),
}
SHAPES = {**MEASURED, **PROJECTED}


@dataclass(frozen=True)
class Timed(Watch):
    """Hears when a step of a training has ended, in processor seconds."""

    ends: list[float] = field(default_factory=list)

    def tell(self, event: Event) -> None:
        """Progress is told after each step."""
        if isinstance(event, Progress):
            self.ends.append(time.process_time())


# ------------------------------------------------------------------ one process each


def trained(shape: Shape) -> dict[str, Any]:
    """Processor seconds of steps, and the most memory, beyond what libraries take."""
    libraries, model = begun(), shape.model()
    fresh_peak()
    given = {"steps": STEPS, "batch_size": ROWS, "precision": "bf16", "attention": "sdpa", "checkpoint": "last"}
    with tempfile.TemporaryDirectory(prefix="compressor-lm-costs-") as folder:
        watch = Timed(Path(folder))
        batches, settings = rows(watch), TrainingSettings.model_validate(given)

        def step(batch: Any, _: Any) -> dict[str, Any]:
            return {"task": watch.task.loss(watch.task.forward(model.module, batch), batch)}

        train(Training(model.module, lambda _: batches, step, settings), watch, work="step")  # type: ignore[arg-type]
        seconds = [float(each) for each in np.diff(watch.ends)]
        return {"training": [each / (ROWS * LENGTH) for each in seconds], "training peak": status("VmHWM") - libraries}


def answered(shape: Shape) -> dict[str, Any]:
    """Processor seconds of a token of a prompt and of one after it, and the most memory, beyond what libraries take."""
    libraries, model = begun(), shape.model()
    fresh_peak()
    found: dict[str, list[float]] = {"prefill": [], "decode": []}
    with tempfile.TemporaryDirectory(prefix="compressor-lm-costs-") as folder:
        watch = Watch(Path(folder))
        model.save_files(watch.folder)
        session = EagerSession(watch.task, model, watch.task.graphs(watch.folder), "cpu")
        ids = np.random.default_rng(0).integers(0, shape.words, (1, LENGTH))
        for _ in range(CALLS):
            started = time.process_time()
            start = filled(session, fed(ids, np.ones_like(ids)))
            between = time.process_time()
            decoded(session, start, PASSES + 1)  # the first token is the prompt's own
            found["prefill"].append((between - started) / LENGTH)
            found["decode"].append((time.process_time() - between) / PASSES)
    return {name: seconds[1:] for name, seconds in found.items()} | {"answers peak": status("VmHWM") - libraries}


def begun() -> int:
    """Bytes that libraries take."""
    import torch
    import transformers  # noqa: F401 - its memory is no model's
    from transformers import LlamaForCausalLM  # noqa: F401

    torch.set_num_threads(1)
    return status("VmRSS")


def fresh_peak() -> None:
    """Have the kernel forget the most memory of this process so far: weights are drawn in more than they take."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def kept_bytes(shape: Shape) -> float:
    """Bytes that a layer keeps of a token for the backward pass: what a second row adds in a second layer."""
    return (
        float(np.diff(np.diff([[_kept(shape, layers, count) for count in (1, 2)] for layers in (1, 2)], axis=1), axis=0)[0, 0])
        / LENGTH
    )


def _kept(shape: Shape, layers: int, count: int) -> int:
    import torch

    held: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    module: Any = shape.model(num_hidden_layers=layers, vocab_size=64).module
    ids = torch.zeros(count, LENGTH, dtype=torch.int64)
    places = torch.arange(LENGTH).expand(count, -1)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.autocast("cpu", dtype=torch.bfloat16), Cheap(rows=True), hooks:
        states = module.train().model(input_ids=ids, position_ids=places, use_cache=False)
        found = sum(each.nbytes() for each in held.values())
        del states
    return found


def measured(size: str, kind: str) -> dict[str, Any]:
    """What a process finds."""
    if kind == "kept":
        return {"kept": kept_bytes(SHAPES[size])}
    return trained(SHAPES[size]) if kind == "training" else answered(SHAPES[size])


# ------------------------------------------------------------------ cells and page


def cells(folder: Path, sizes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What was measured of each size; what lies there already is not measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for size in (*sizes, *PROJECTED):
        found[size] = dict[str, Any]()
        for kind in ("kept", *(("training", ANSWERS) if size in MEASURED else ())):
            path = folder / f"{size}-{kind}.json"
            if not path.is_file():
                sys.stderr.write(f"{path.stem}: measured now\n")
                command = [sys.executable, "-m", "benchmarks.studies.lm_costs", "--one", size, kind]
                path.with_suffix(".part").write_text(
                    subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                )
                path.with_suffix(".part").rename(path)
            found[size] |= json.loads(path.read_text(encoding="utf-8"))
    return found


def exponent(parameters: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Exponent and factor of the power of the parameters that is nearest to times, by least squares of logarithms."""
    slope, offset = np.polyfit(np.log(parameters), np.log(seconds), 1)
    return float(slope), float(np.exp(offset))


def slopes(parameters: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """The exponent between each size and the next."""
    return [float(each) for each in np.diff(np.log(seconds)) / np.diff(np.log(parameters))]


@dataclass(frozen=True)
class Memory:
    """Most bytes of a training: so many for each parameter, and for each byte that layers keep for the backward pass."""

    parameter: float
    kept: float

    def needs(self, size: str, cell: Mapping[str, Any]) -> float:
        """Of a step of all rows."""
        return self.parameter * SHAPES[size].parameters + self.kept * kept_in_all(size, cell)


def kept_in_all(size: str, cell: Mapping[str, Any]) -> float:
    """Bytes that all layers keep of all tokens of a step."""
    return float(cell["kept"]) * SHAPES[size].layers * ROWS * LENGTH


def formula(found: Mapping[str, Mapping[str, Any]]) -> Memory:
    """That of the two smallest sizes, exactly: what others need is not looked at."""
    two = [size for size in found if size in MEASURED][:2]
    given = [[SHAPES[size].parameters, kept_in_all(size, found[size])] for size in two]
    return Memory(*(float(each) for each in np.linalg.solve(given, [found[size]["training peak"] for size in two])))


def table(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line for each size: milliseconds a token, medians of what was measured; above them what the power says."""
    columns = (
        "training, ms a token",
        "prefill, ms a token",
        "decode, ms a token",
        *("training, GB", "formula", "off", "answers, GB", "formula", "off"),
    )
    yield "| " + " | ".join(["size", "parameters, millions", *columns]) + " |"
    yield "| --- |" + " ---: |" * (len(columns) + 1)
    known, training = [size for size in found if size in MEASURED], formula(found)
    counts = [SHAPES[size].parameters for size in known]
    powers = {kind: exponent(counts, [float(np.median(found[size][kind])) for size in known]) for kind in KINDS}
    for size, cell in found.items():
        shape = SHAPES[size]
        needs = training.needs(size, cell), shape.answering_bytes(LENGTH, LENGTH + PASSES)
        if size in MEASURED:
            times = [
                f"{1e3 * np.median(cell[kind]):.2f} [{1e3 * min(cell[kind]):.2f}, {1e3 * max(cell[kind]):.2f}]" for kind in KINDS
            ]
            peaks = cell["training peak"], cell["answers peak"]
            memory = [part for peak, need in zip(peaks, needs, strict=True) for part in memory_of(peak, need)]
        else:
            times = [f"*{1e3 * powers[kind][1] * shape.parameters ** powers[kind][0]:.1f}*" for kind in KINDS]
            memory = [part for need in needs for part in ("", f"*{need / 1e9:.1f}*", "")]
        yield "| " + " | ".join([size, f"{shape.parameters / 1e6:,.0f}", *times, *memory]) + " |"


def memory_of(peak: float, need: float) -> tuple[str, str, str]:
    """What was measured, what the formula says, and how far that is off."""
    return f"{peak / 1e9:.2f}", f"{need / 1e9:.2f}", f"{need / peak - 1:+.1%}"


def goals(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Exponents, and how far the formulas are off, beside what was asked."""
    known = [size for size in found if size in MEASURED]
    counts = [SHAPES[size].parameters for size in known]
    for kind in KINDS:
        seconds = [float(np.median(found[size][kind])) for size in known]
        between, power = ", ".join(f"{each:.2f}" for each in slopes(counts, seconds)), exponent(counts, seconds)[0]
        grows = f"over all sizes time a token grows with the parameters to the power {power:.2f} (between two: {between})"
        yield f"- {kind}: {grows}: {reached(power <= MOST_EXPONENT)}."
    training, others = formula(found), known[2:]
    off = [abs(training.needs(size, found[size]) / found[size]["training peak"] - 1) for size in others]
    said = (
        f"off by {max(off):.1%} at {others[0]}: {reached(max(off) <= MOST_OFF)}"
        if off
        else "not confirmed: no third size was measured"
    )
    yield f"- memory of training: {said}."
    off = [abs(SHAPES[size].answering_bytes(LENGTH, LENGTH + PASSES) / found[size]["answers peak"] - 1) for size in known]
    yield f"- memory of answers: off by {max(off):.1%} at most: {reached(max(off) <= MOST_OFF)}."


def reached(is_so: bool) -> str:
    """In words."""
    return "reached" if is_so else "**not reached**"


def document(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page."""
    import torch

    here, training = machine(), formula(found)
    missing = [size for size in MEASURED if size not in found]
    kept = ", ".join(f"{cell['kept'] / 1024:,.0f} KiB ({size})" for size, cell in found.items())
    return "\n".join(
        [
            "# What language models cost by their size: what was measured, and what follows for larger ones",
            "",
            "`python -m benchmarks.studies.lm_costs` remakes this page.",
            "",
            f"- Machine: {here.named}; torch {torch.__version__}, one thread.",
            "- Llamas with random weights; parameters are all of them, a tied table counted once. Of 3B and 7B nothing was run: their numbers,",
            "  in *italics*, are those of the power of the parameters that is nearest to the sizes measured, and of the formulas. No interval",
            "  stands beside them: they lie four and more times above the largest.",
            *([f"- Not measured: {', '.join(missing)}."] if missing else []),
            f"- Training: {STEPS - 1} steps of {ROWS} rows of {LENGTH} tokens in bf16 by the loop of plans (losses, gradients, AdamW); the update is",
            f"  counted among their tokens. Prefill: a prompt of {LENGTH} tokens. Decode: {PASSES} tokens after it. Both in eager torch, float32,",
            f"  {CALLS - 1} times. Processor seconds: medians [least, most].",
            "- Memory: the most of a process once its model is there, less what it had before.",
            f"- Formula of training: {training.parameter:.1f} bytes a parameter (16 are weights, gradients and two moments in float32), and",
            f"  {training.kept:.2f} times what layers keep for the backward pass. Both numbers are those of the two smallest sizes, so that only a",
            "  third one confirms them. What a layer keeps of a token was counted in two layers of each shape:",
            f"  {kept}.",
            "- Formula of answers: 4 bytes a parameter, the cache, and the logits of the prompt.",
            f"- Goals: exponents of at most {MOST_EXPONENT:g} where they are fitted over all sizes, whatever they are between two; formulas within",
            f"  {MOST_OFF:.0%}.",
            "",
            *table(found),
            "",
            *goals(found),
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cells", type=Path, default=Path("runs/lm-costs"))
    parser.add_argument(
        "--sizes", nargs="+", choices=list(MEASURED), default=list(MEASURED), help="two at least, the smallest first"
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if len(given.sizes) < 2:
        parser.error("a power and a formula need two sizes")
    if given.one:
        sys.stdout.write(json.dumps(measured(*given.one)))
        return
    given.out.write_text(document(cells(given.cells, given.sizes)), encoding="utf-8")


if __name__ == "__main__":
    main()
