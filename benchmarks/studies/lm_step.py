"""Remakes `docs/results/lm-step.md`: memory and time of a step that distils a language model, beside a step of plain fine-tuning.

    python -m benchmarks.studies.lm_step [--cells FOLDER] [--quick]

Models are of SmolLM2-135M's shape with random weights: 49,152 words, 30 layers in the teacher, 20 in the student. Each kind of step is run in
a process of its own, by the training loop that plans run; what was measured lies in FOLDER, and a study that was cut goes on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.contracts import Batch, Event, Progress, registry
from compressor.deploy.machine import machine
from compressor.tasks.language.causal_lm import CausalLM
from compressor.training.loop import Moment, Training, train
from compressor.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model, Task
    from compressor.contracts.notes import Note

OUT = Path("docs/results/lm-step.md")
SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152}
TEACHER, STUDENT = 30, 20
"""Layers."""
ROWS, LENGTH = 4, 128
STEPS, REPEATS = 3, 3
"""Of a process, the first one not counted; processes of each kind."""
SOFT: Mapping[str, Any] = {"temperature": 1.0}
KINDS: Mapping[str, Mapping[str, Any] | None] = {
    "fine-tuning": None,
    "parts": None,
    "forward KL": {"objectives": {"soft-targets": SOFT}, "cache_teacher": False},
    "forward KL and labels": {"objectives": {"soft-targets": SOFT}, "cache_teacher": False, "task_loss": 1.0},
    "interpolated targets": {"objectives": {"interpolated-targets": 1.0}, "cache_teacher": False},
    "forward KL, answers kept": {"objectives": {"soft-targets": SOFT}, "cache_teacher": True},
}
MOST_MEMORY, MOST_TIME = 1.2, 1.1
"""The goals."""


class Tokens(CausalLM):
    """Language modelling of tokens that are drawn evenly."""

    def batches(self, rows: Any, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:  # noqa: ARG002
        """As many as steps, always the same ones."""
        import torch

        drawn = torch.Generator().manual_seed(0)
        ids = [torch.randint(0, SHAPE["vocab_size"], (batch_size, LENGTH), generator=drawn) for _ in range(STEPS)]
        places = torch.arange(LENGTH).expand(batch_size, -1)
        return [
            {
                "input_ids": each,
                "labels": each,
                "attention_mask": torch.ones_like(each),
                "position_ids": places,
                "row": torch.arange(at * batch_size, (at + 1) * batch_size),
            }
            for at, each in enumerate(ids)
        ]


@dataclass(frozen=True)
class Watch:
    """A context that keeps the processor time at which each step ended."""

    folder: Path
    task: Task = field(default_factory=lambda: Tokens(max_length=LENGTH))
    seed: int = 0
    device: str = "cpu"
    dialect: None = None
    data: Any = field(default_factory=lambda: SimpleNamespace(split=lambda _name: range(ROWS * STEPS)))
    ends: list[float] = field(default_factory=list)

    def tell(self, event: Event) -> None:
        """Keep the processor time at which a step ended: others' work changes that little."""
        if isinstance(event, Progress):
            self.ends.append(time.process_time())

    def note(self, note: Note) -> None:
        """Notes are not kept."""


def model(layers: int) -> Model:
    """Always the same one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from compressor.model import Model as Made

    torch.manual_seed(layers)
    config = LlamaConfig(**SHAPE, num_hidden_layers=layers, tie_word_embeddings=True, max_position_embeddings=2048)
    return Made.wrap(LlamaForCausalLM(config))


def status(name: str) -> int:
    """A number of bytes that the kernel tells of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measured(kind: str, precision: str) -> dict[str, Any]:
    """One process: seconds of each step after the first, the peak of memory beyond what libraries take, and the teacher's bytes."""
    import torch
    import transformers  # noqa: F401 - its memory is no step's
    from transformers import LlamaForCausalLM  # noqa: F401

    torch.set_num_threads(1)
    libraries = status("VmRSS")
    settings = {"steps": STEPS, "batch_size": ROWS, "precision": precision, "attention": "sdpa", "checkpoint": "last"}
    with tempfile.TemporaryDirectory(prefix="compressor-lm-step-") as folder:
        watch = Watch(Path(folder))
        if kind == "parts":
            return {"seconds": parts(watch, TrainingSettings.model_validate(settings))}
        seconds, teacher = steps(kind, watch, settings)
        return {"seconds": seconds, "peak": status("VmHWM") - libraries, "teacher": teacher}


def steps(kind: str, watch: Watch, settings: Mapping[str, Any]) -> tuple[list[float], int]:
    """Seconds of the steps of a training, and the bytes of its teacher."""
    import torch

    student, given, held = model(STUDENT), KINDS[kind], 0
    modules, step = [student.module], plain(student, watch.task)
    chosen = TrainingSettings.model_validate(settings)
    if given is not None:
        kept: Any = registry.load("pass", "distill")
        distill = kept.model_validate({"teacher": "source", **settings, **given})
        source = model(TEACHER)
        held = sum(each.numel() * each.element_size() for each in source.module.parameters())
        teachers = distill.taught_by(student, {"source": source}, watch)
        modules += [lesson.projections for each in teachers for lesson in each.lessons if lesson.projections is not None]

        def step(batch: Batch, moment: Moment) -> Mapping[str, torch.Tensor]:
            found: Mapping[str, torch.Tensor] = distill.losses(student.module, teachers, batch, watch.task, moment)
            return found

    watch.ends.clear()
    batches = watch.task.batches(None, Path(), batch_size=ROWS)  # type: ignore[arg-type]
    train(Training(torch.nn.ModuleList(modules), lambda _: batches, step, chosen), watch, work="step")  # type: ignore[arg-type]
    return np.diff(watch.ends).tolist(), held


def plain(student: Model, task: Task) -> Callable[[Batch, Moment], Mapping[str, torch.Tensor]]:
    """A step of fine-tuning."""
    return lambda batch, _: {"task": task.loss(task.forward(student.module, batch), batch)}


def parts(watch: Watch, settings: TrainingSettings) -> dict[str, list[float]]:
    """Seconds of the teacher's forward pass alone, and of a step of plain fine-tuning: the student's two passes and its update."""
    import torch

    source = model(TEACHER)
    source.module.requires_grad_(False).eval()
    (batch, *_) = watch.task.batches(None, Path(), batch_size=ROWS)  # type: ignore[arg-type]
    forward = []
    for _ in range(STEPS):
        started = time.process_time()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.precision == "bf16"):
            watch.task.forward(source.module, batch).main  # noqa: B018 - computes the logits
        forward.append(time.process_time() - started)
    return {"teacher": forward[1:], "student": steps("fine-tuning", watch, settings.model_dump(exclude={"epochs"}))[0]}


# ------------------------------------------------------------------ cells and page


def cells(folder: Path, kinds: Sequence[str], repeats: int, precision: str) -> dict[str, list[dict[str, Any]]]:
    """What was measured of each kind; kinds take turns, and what lies there already is not measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for repeat in range(repeats):
        for kind in kinds:
            path = folder / f"{precision}-{kind.replace(' ', '-').replace(',', '')}-{repeat}.json"
            if not path.is_file():
                command = [sys.executable, "-m", "benchmarks.studies.lm_step", "--one", kind, "--precision", precision]
                path.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout, encoding="utf-8")
            found[kind].append(json.loads(path.read_text(encoding="utf-8")))
    return found


def over(values: Sequence[float], digits: int = 2) -> str:
    """The median of repeats, with the least and the most."""
    return f"{np.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """A line for each kind of step."""
    base = [each["peak"] for each in found["fine-tuning"]]
    plain_time = [float(np.median(each["seconds"])) for each in found["fine-tuning"]]
    wanted = [sum(float(np.median(part)) for part in each["seconds"].values()) for each in found["parts"]]
    yield "| step | peak, MiB | of fine-tuning, without the teacher's bytes | seconds | of its parts |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for kind, repeats in found.items():
        if kind == "parts":
            continue
        peaks, seconds = [each["peak"] for each in repeats], [float(np.median(each["seconds"])) for each in repeats]
        held = repeats[0]["teacher"]
        memory = over([(peak - held) / other for peak, other in zip(peaks, base, strict=True)])
        alone = kind == "fine-tuning" or "kept" in kind
        ratios = [one / other for one, other in zip(seconds, plain_time if alone else wanted, strict=True)]
        yield f"| {kind} | {over([peak / 2**20 for peak in peaks], 0)} | {memory} | {over(seconds)} | {over(ratios)} |"


def document(found: Mapping[str, Sequence[Mapping[str, Any]]], precision: str) -> str:
    """The page."""
    import torch

    here, held = machine(), found["forward KL"][0]["teacher"]
    return "\n".join(
        [
            "# What a step costs that distils a language model: what was measured",
            "",
            "`python -m benchmarks.studies.lm_step` remakes this page.",
            "",
            f"- Machine: {here.processor}, {here.cores} cores; torch {torch.__version__}, {precision}, one thread.",
            f"- Llamas of SmolLM2-135M's shape with random weights, {SHAPE['vocab_size']:,} words: {TEACHER} layers teach {STUDENT}. A step has",
            f"  {ROWS} rows of {LENGTH} tokens. The teacher's weights take {held / 2**20:,.0f} MiB.",
            f"- Of {len(found['parts'])} processes of each kind, by turns, the median, the least and the most; of a process the median of",
            f"  {STEPS - 1} steps after the first.",
            "- `peak`: the most memory that the process had, less what it had before any model. Goal: at most",
            f"  {MOST_MEMORY:g} times fine-tuning and the teacher's bytes.",
            "- `seconds` are those of the processor, which the work of others changes little. `of its parts`: by those of the teacher's",
            "  forward pass and a step of fine-tuning (the student's two passes and the update) together; where answers are kept, and of",
            f"  fine-tuning, by fine-tuning alone. Goal: at most {MOST_TIME:g}.",
            "",
            *table(found),
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--cells", type=Path, default=Path("runs/lm-step"))
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--quick", action="store_true", help="one process of each kind")
    parser.add_argument("--one", choices=list(KINDS), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        sys.stdout.write(json.dumps(measured(given.one, given.precision)))
        return
    found = cells(given.cells, list(KINDS), 1 if given.quick else REPEATS, given.precision)
    OUT.write_text(document(found, given.precision), encoding="utf-8")


if __name__ == "__main__":
    main()
