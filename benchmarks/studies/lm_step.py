"""Remakes `docs/results/lm-step.md`: memory and time of a step that distils a language model, beside a step of plain fine-tuning.

    python -m benchmarks.studies.lm_step [--cells FOLDER] [--quick]

Models are of SmolLM2-135M's shape with random weights: 49,152 words, 30 layers in the teacher, 20 in the student. Memory is that of a process
for each kind of step, which the training loop runs that plans run. Times are of steps of all kinds by turns in one process. What was measured
lies in FOLDER, and a study that was cut goes on.
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
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from compressor.contracts import Batch, Event, registry
from compressor.deploy.machine import machine
from compressor.tasks.language.causal_lm import CausalLM
from compressor.training.learners import Learning, all_learners
from compressor.training.loop import Moment, Training, train
from compressor.training.memory import retained
from compressor.training.settings import TrainingSettings
from compressor.training.tables import measured as gradients

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model, Task
    from compressor.contracts.notes import Note

Step: TypeAlias = "Callable[[Batch, Moment], Mapping[str, torch.Tensor]]"
OUT = Path("docs/results/lm-step.md")
SHAPE: Mapping[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}
TEACHER, STUDENT = 30, 20
"""Layers."""
ROWS, LENGTH = 4, 128
STEPS, REPEATS, ROUNDS = 3, 2, 16
"""Of a process whose memory is looked at; processes of each kind; turns of all kinds that are timed, the first one not counted."""
SOFT: Mapping[str, Any] = {"temperature": 1.0}
KINDS: Mapping[str, Mapping[str, Any] | None] = {
    "fine-tuning": None,
    "forward KL": {"objectives": {"soft-targets": SOFT}, "cache_teacher": False},
    "forward KL and labels": {"objectives": {"soft-targets": SOFT}, "cache_teacher": False, "task_loss": 1.0},
    "interpolated targets": {"objectives": {"interpolated-targets": 1.0}, "cache_teacher": False},
    "forward KL, answers kept": {"objectives": {"soft-targets": SOFT}, "cache_teacher": True},
}
TEACHER_ALONE, TIMES = "teacher's forward pass", "times"
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
    """A context that nobody is told by."""

    folder: Path
    task: Task = field(default_factory=lambda: Tokens(max_length=LENGTH))
    seed: int = 0
    device: str = "cpu"
    dialect: None = None
    data: Any = field(default_factory=lambda: SimpleNamespace(split=lambda _name: range(ROWS * STEPS)))

    def tell(self, event: Event) -> None:
        """Events are not kept."""

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
    """One process: the peak of its memory beyond what libraries take, and the teacher's bytes; or seconds of steps of all kinds."""
    import torch
    import transformers  # noqa: F401 - its memory is no step's
    from transformers import LlamaForCausalLM  # noqa: F401

    torch.set_num_threads(1)
    libraries = status("VmRSS")
    given = {"steps": STEPS, "batch_size": ROWS, "precision": precision, "attention": "sdpa", "checkpoint": "last"}
    with tempfile.TemporaryDirectory(prefix="compressor-lm-step-") as folder:
        watch = Watch(Path(folder))
        if kind == TIMES:
            return {"seconds": times(watch, given)}
        student, source = model(STUDENT), None if kind == "fine-tuning" else model(TEACHER)
        modules, step = taught(kind, student, source, watch, given)
        batches, settings = rows(watch), TrainingSettings.model_validate(given)
        train(Training(torch.nn.ModuleList(modules), lambda _: batches, step, settings), watch, work="step")  # type: ignore[arg-type]
        held = 0 if source is None else sum(each.numel() * each.element_size() for each in source.module.parameters())
        return {"peak": status("VmHWM") - libraries, "teacher": held}


def rows(watch: Watch) -> list[Batch]:
    """The batches of a training."""
    return list(watch.task.batches(None, Path(), batch_size=ROWS))


def taught(kind: str, student: Model, source: Model | None, watch: Watch, given: Mapping[str, Any]) -> tuple[list[Any], Step]:
    """What is trained in a kind of step, and the losses of one."""
    if source is None:
        return [student.module], lambda batch, _: {"task": watch.task.loss(watch.task.forward(student.module, batch), batch)}
    chosen: Any = registry.load("pass", "distill")
    distill = chosen.model_validate({"teacher": "source", **given, **(KINDS[kind] or {})})
    teachers = distill.taught_by(student, {"source": source}, watch)
    beside = [lesson.projections for each in teachers for lesson in each.lessons if lesson.projections is not None]
    return [student.module, *beside], lambda batch, moment: distill.losses(student.module, teachers, batch, watch.task, moment)


def times(watch: Watch, given: Mapping[str, Any]) -> dict[str, list[float]]:
    """Processor seconds of each kind of step, by turns, as the training loop does one: losses, gradients, their norm, an update."""
    import torch

    from compressor.training.cheap import Cheap

    student, source = model(STUDENT), model(TEACHER)
    settings = TrainingSettings.model_validate(given)
    learning = Learning(all_learners(student.module.train(), (), settings)[0])
    steps = {kind: taught(kind, student, None if what is None else source, watch, given)[1] for kind, what in KINDS.items()}
    batches, found = rows(watch), {name: list[float]() for name in (TEACHER_ALONE, *steps)}

    def computed(call: Callable[[], Any]) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.precision == "bf16"), Cheap(rows=True):
            return call()

    with retained():
        for turn in range(ROUNDS):
            batch, moment = batches[turn % STEPS], Moment(turn, ROUNDS, frozenset())
            with torch.no_grad():
                found[TEACHER_ALONE].append(timed(partial(computed, partial(answers, watch.task, source.module, batch))))
            for kind, step in steps.items():
                taken = partial(computed, partial(step, batch, moment))
                found[kind].append(timed(lambda taken=taken: updated(taken(), learning)))  # type: ignore[misc]
    return {name: seconds[1:] for name, seconds in found.items()}


def answers(task: Task, module: Any, batch: Batch) -> torch.Tensor:
    """All logits of a model."""
    return task.forward(module, batch).main


def updated(losses: Mapping[str, torch.Tensor], learning: Learning) -> None:
    """Learn from losses."""
    import torch

    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.get_total_norm(gradients(learning.learner.parameters))
    learning.update(1.0, shrink=max(1.0, float(norm)))
    learning.optimiser.zero_grad(set_to_none=True)


def timed(call: Callable[[], Any]) -> float:
    """Processor seconds of a call: the work of others changes them little."""
    started = time.process_time()
    call()
    return time.process_time() - started


# ------------------------------------------------------------------ cells and page


def cells(folder: Path, kinds: Sequence[str], repeats: int, precision: str) -> dict[str, list[dict[str, Any]]]:
    """What was measured of each kind; kinds take turns, times have theirs inside, and what lies there already is not measured again."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for repeat in range(repeats):
        for kind in kinds if repeat == 0 else [each for each in kinds if each != TIMES]:
            path = folder / f"{precision}-{kind.replace(' ', '-').replace(',', '')}-{repeat}.json"
            if not path.is_file():
                sys.stderr.write(f"{path.stem}: measured now, about a minute\n")
                command = [sys.executable, "-m", "benchmarks.studies.lm_step", "--one", kind, "--precision", precision]
                measured = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                path.with_suffix(".part").write_text(measured, encoding="utf-8")
                path.with_suffix(".part").rename(path)
            found[kind].append(json.loads(path.read_text(encoding="utf-8")))
    return found


def over(values: Sequence[float], digits: int = 2) -> str:
    """The median of repeats, with the least and the most."""
    return f"{np.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """A line for each kind of step."""
    base = [each["peak"] for each in found["fine-tuning"]]
    seconds = {kind: [second for cell in found[TIMES] for second in cell["seconds"][kind]] for kind in (TEACHER_ALONE, *KINDS)}
    yield "| step | peak, MiB | of fine-tuning, without the teacher's bytes | seconds | of its parts |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    yield f"| {TEACHER_ALONE} | | | {over(seconds[TEACHER_ALONE])} | |"
    for kind, given in KINDS.items():
        peaks, held = [each["peak"] for each in found[kind]], found[kind][0]["teacher"]
        memory = over([(peak - held) / other for peak, other in zip(peaks, base, strict=True)])
        alone = given is None or given["cache_teacher"]
        parts = [one + (0 if alone else other) for one, other in zip(seconds["fine-tuning"], seconds[TEACHER_ALONE], strict=True)]
        ratio = middle([one / other for one, other in zip(seconds[kind], parts, strict=True)])
        yield f"| {kind} | {over([peak / 2**20 for peak in peaks], 0)} | {memory} | {over(seconds[kind])} | {ratio} |"


def middle(ratios: Sequence[float]) -> str:
    """The median of ratios, with an interval of at least 95 % by their ranks (a sign test)."""
    from scipy.stats import binom

    ordered, count = sorted(ratios), len(ratios)
    at = max(0, int(binom.ppf(0.025, count, 0.5)) - 1)
    return f"{np.median(ordered):.2f} ({ordered[at]:.2f} to {ordered[count - 1 - at]:.2f})"


def document(found: Mapping[str, Sequence[Mapping[str, Any]]], precision: str) -> str:
    """The page."""
    import torch

    here, held = machine(), found["forward KL"][0]["teacher"]
    processes, turns = len(found["fine-tuning"]), len(found[TIMES]) * (ROUNDS - 1)
    return "\n".join(
        [
            "# What a step costs that distils a language model: what was measured",
            "",
            "`python -m benchmarks.studies.lm_step` remakes this page.",
            "",
            f"- Machine: {here.named}; torch {torch.__version__}, {precision}, one thread.",
            f"- Llamas of SmolLM2-135M's shape with random weights, {SHAPE['vocab_size']:,} words: {TEACHER} layers teach {STUDENT}. A step has",
            f"  {ROWS} rows of {LENGTH} tokens. The teacher's weights take {held / 2**20:,.0f} MiB.",
            f"- `peak`: the most memory of a process that trains {STEPS} steps, less what it had before any model; of {processes} processes the",
            f"  median, the least and the most. Goal: at most {MOST_MEMORY:g} times fine-tuning, and the teacher's bytes.",
            f"- `seconds` are those of the processor, of {turns} turns in which each kind had a step: losses, gradients, an update.",
            "- `of its parts`: by the teacher's forward pass and a step of fine-tuning (the student's two passes and the update) of the same",
            "  turn; where answers are kept, and of fine-tuning, by fine-tuning alone. Medians, with intervals of 95 % by ranks.",
            f"  Goal: at most {MOST_TIME:g}; an interval that reaches beyond leaves it undecided.",
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
    parser.add_argument("--one", choices=[*KINDS, TIMES], help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one:
        sys.stdout.write(json.dumps(measured(given.one, given.precision)))
        return
    found = cells(given.cells, [*KINDS, TIMES], 1 if given.quick else REPEATS, given.precision)
    OUT.write_text(document(found, given.precision), encoding="utf-8")


if __name__ == "__main__":
    main()
