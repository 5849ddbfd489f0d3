"""What `benchmarks.studies.diffusion_steps` runs: methods at equal training compute, plans of them, and cells, which are what is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.tasks.generation.samplers import Sampler, Sampling

SIZE, CLASSES = 28, 10
BATCH, GUIDANCE = 64, 1.5
TASK = {"sampler": "dpm++2m", "steps": 50, "guidance": GUIDANCE, "times": "logit-normal"}
TRAINED = {
    "batch_size": BATCH,
    "weight_decay": 0,
    "checkpoint": "last",
    "validations": 1,
    "precision": "fp32",
}
COUNTS = (8, 4, 2, 1)
"""Steps that students draw in."""
METHODS: Mapping[str, Mapping[str, Any]] = {
    "progressive": {},
    "shortcut": {"levels": 32},
    "consistency": {"levels": 32},
    "meanflow": {},
    "dmd": {},
    "boot": {"levels": 32},
}
UNALIGNED = "dmd-unaligned"
"""`dmd` whose losses draw their noise at the times of the student's input, not at those of the teacher's training."""
ROUNDS = (7, 5, 5, 5)
"""Evaluations of a network for a row in each training of `progressive`: only the first one's teacher is guided."""
ASKED: Mapping[str, float] = {
    "progressive": sum(ROUNDS),
    "shortcut": 5,
    "consistency": 6,
    "meanflow": 5.5,
    "dmd": (5 * (1 + 6) + (3 + 5)) / 6,
    UNALIGNED: (5 * (1 + 6) + (3 + 5)) / 6,
    "boot": 6,
    "guidance": 5,
    "presto": 4,
    "ase": 3,
    "constant": 3,
    "presto by its teacher": 5,
    "ase by its teacher": 4,
    "constant by its teacher": 4,
}
"""Evaluations of a network for a row that is learned from: of a guided teacher two, of a backward pass two; of progressive in four trainings;
of dmd in the mean over five steps of the fake network and one of the student; of passes
that leave blocks out as if all ran, of presto one more by itself."""
FEWER_BLOCKS: Mapping[str, Mapping[str, Any]] = {
    "presto": {"depths": [1, 1, 0.67, 0.5]},
    "ase": {"depths": [1, 1, 0.67, 0.5]},
    "constant": {"depths": [0.67]},
}
"""In four even steps all run as many blocks: 3, 3, 4 and 6, or 4 of 6 each time."""
STEPS_AND_LAYERS = 4
"""Steps of students that run fewer blocks."""
THEN = "-then-"
"""Between names of two passes of one student, in their order."""
AGAIN = (f"shortcut{THEN}presto", f"shortcut{THEN}constant")
"""Of them, those of all seeds: the schedule that comes nearest and its control."""
TIMED = "shortcut"
"""The method whose student is timed, and rounded: all of one shape cost the same."""
ROUNDED: Mapping[str, int] = {"int8-in-8": 8, "int8": 4}
"""Names of runs that round a student of `TIMED`, and the steps that it draws in."""
CALIBRATION = 128
"""Rows that ranges of int8 are found by, each at one of the levels of the sampler's steps."""


@dataclass(frozen=True)
class Size:
    """How much is trained and drawn."""

    epochs: int = 5
    """Of the teacher."""
    evaluations: int = 240_000
    """Of a network, in each student's training: see `ASKED`."""
    rate: float = 5e-4
    """Learning rate of students."""
    drawn: int = 1000
    """Pictures of each cell."""
    many: int = 5000
    """Of the teacher in its own steps and in few, and of every method's students, where distances are small."""

    def steps(self, method: str, *, share: float = 1.0) -> int:
        """Of the optimiser, in each training of a method that has a share of the evaluations."""
        return max(1, round(share * self.evaluations / ASKED[method] / BATCH))


@dataclass(frozen=True)
class Cell:
    """Pictures of one model by one sampler."""

    run: str
    """Name of the run that made the model."""
    model: str
    """Its stage."""
    sampling: Sampling
    seed: int = 0
    """Of the training."""
    told: bool = False
    """Whether the network is told how far it is guided, and takes one evaluation."""

    @property
    def kind(self) -> str:
        """`teacher`, or the method of a student."""
        return self.run.rpartition("-")[0]

    @property
    def name(self) -> str:
        """Of its file."""
        guided = "" if self.sampling.guidance in (1, GUIDANCE) else f"-at-{self.sampling.guidance:g}"
        return f"{self.run}-{self.sampling.sampler}-{self.sampling.steps}{guided}"

    @property
    def evaluations(self) -> int:
        """Of the network, for a picture."""
        return self.sampling.evaluations(told=self.told)


def teachers(seed: int = 0) -> Iterator[Cell]:
    """A teacher by each sampler; Heun's takes two evaluations a step, so it has half the steps. The first is what all are held against."""
    ways: tuple[tuple[Sampler, tuple[int, ...]], ...] = (
        ("dpm++2m", (50, 25, 16, 8, 4)),
        ("ddim", (50, 25, 16, 8, 4)),
        ("heun", (25, 13, 8, 4, 2)),
    )
    for sampler, counts in ways:
        for count in counts:
            yield Cell(f"teacher-{seed}", "final", Sampling(sampler=sampler, steps=count, guidance=GUIDANCE), seed)


def timed_student(steps: int) -> Cell:
    """Of `TIMED` in so many steps."""
    return next(cell for cell in students(TIMED, 0) if cell.sampling.steps == steps)


def counts_of(method: str) -> tuple[int, ...]:
    """Steps that students of a method draw in: of boot one."""
    return COUNTS[-1:] if method == "boot" else COUNTS


def students(method: str, seed: int) -> Iterator[Cell]:
    """A method's students, most steps first."""
    sampler: Sampler = "consistency" if method in ("consistency", "dmd", UNALIGNED) else "ddim"
    if THEN in method:
        yield Cell(f"{method}-{seed}", "final", Sampling(sampler="ddim", steps=STEPS_AND_LAYERS), seed)
        return
    for count in counts_of(method):
        stage = "final" if count == COUNTS[-1] else f"distill-steps.steps-{count}"
        yield Cell(f"{method}-{seed}", stage, Sampling(sampler=sampler, steps=count), seed)


SCALES = (GUIDANCE, 3.0)
"""At which a network that is told how far it is guided is held against its teacher."""
GUIDED_STEPS = 8


def guided(seed: int = 0) -> Iterator[Cell]:
    """The teacher and what learned from it to take one evaluation, at each of `SCALES`."""
    for scale in SCALES:
        sampling = Sampling(sampler="dpm++2m", steps=GUIDED_STEPS, guidance=scale)
        yield Cell("teacher-0", "final", sampling)
        yield Cell(f"guidance-{seed}", "final", sampling, seed, told=True)


def layered(seed: int = 0) -> Iterator[Cell]:
    """Students that run fewer blocks, by each way to leave them out, before steps and after; of other seeds than the first some."""
    every = [f"shortcut{THEN}{fewer}" for fewer in FEWER_BLOCKS] + [f"{fewer}{THEN}shortcut" for fewer in FEWER_BLOCKS]
    for passes in AGAIN if seed else every:
        yield from students(passes, seed)


# ------------------------------------------------------------------ plans


def data(pictures: Path) -> dict[str, Any]:
    """Fashion-MNIST as the recipe for a teacher has it; the plans themselves draw few pictures, since cells draw more."""
    files = {split: str((pictures / f"{split}.parquet").resolve()) for split in ("train", "test")}
    return {"files": files, "split": {"validation": 500}, "limit": {"validation": 100, "test": 32}}


def common(name: str, pictures: Path, seed: int) -> dict[str, Any]:
    """What all plans of the study share."""
    return {"name": name, "seed": seed, "task": {"image-generation": TASK}, "data": data(pictures), "probes": []}


def teacher_plan(pictures: Path, network: Path, seed: int, size: Size) -> dict[str, Any]:
    """The recipe of `plans/diffusion-teacher.yaml`."""
    trained = {"epochs": size.epochs, "learning_rate": 1e-3, "ema": 0.995, **TRAINED}
    return {
        **common("diffusion-teacher", pictures, seed),
        "model": {"folder": str(network.resolve())},
        "reference": "finetune",
        "stages": "quality",
        "passes": [{"finetune": trained}],
        "targets": ["pytorch"],
    }


def student_plan(pictures: Path, teacher: Path, method: str, seed: int, size: Size, *targets: Any) -> dict[str, Any]:
    """A student of a teacher's folder; for PyTorch, unless other targets are named. Boot is given no data."""
    made = {
        **common(f"diffusion-{method}", pictures, seed),
        "model": {"folder": str(teacher.resolve())},
        "passes": passes(method, size),
        "targets": list(targets or ("pytorch",)),
    }
    return {name: each for name, each in made.items() if name != "data" or method != "boot"}


def rounded_plan(pictures: Path, student: Path, seed: int, steps: int) -> dict[str, Any]:
    """The folder of a student that draws in so many steps, in int8 for both runtimes."""
    common_to_all = common("diffusion-int8", pictures, seed)
    return {
        **common_to_all,
        "task": {"image-generation": {**TASK, "sampler": "ddim", "steps": steps, "guidance": 1}},
        "data": {**common_to_all["data"], "calibration": CALIBRATION},
        "model": {"folder": str(student.resolve())},
        "passes": [{"quantize-static": {}}],
        "targets": ["onnxruntime", "openvino"],
    }


def passes(method: str, size: Size) -> list[dict[str, Any]]:
    """What makes a student: one of `METHODS`, `UNALIGNED` or `guidance`.

    Or two passes, `shortcut-then-presto` say, which have half of the evaluations each.
    """
    if THEN in method:
        first, second = method.split(THEN)
        taught = {"teacher": "distill-steps"} if second in FEWER_BLOCKS else {}
        return [_pass(first, size, {}, 0.5), _pass(second, size, taught, 0.5)]
    return [_pass(method, size, {}, 1.0)]


def _pass(method: str, size: Size, taught: Mapping[str, str], share: float) -> dict[str, Any]:
    steps = size.steps(f"{method} by its teacher" if taught else method, share=share)
    trained = {"steps": steps, "learning_rate": size.rate, **TRAINED}
    if method in FEWER_BLOCKS:
        return {"distill-layers": {"method": method, **taught, **FEWER_BLOCKS[method], **trained}}
    if method == "guidance":
        return {"distill-guidance": {"teacher": "source", **trained}}
    counts = counts_of(method) if share == 1 else (STEPS_AND_LAYERS,)
    own = {"method": "dmd", "matching": {"aligned": []}} if method == UNALIGNED else {"method": method}
    given = {"teacher": "source", **own, "to": list(counts), "steps": steps, "learning_rate": size.rate}
    return {"distill-steps": {**given, **METHODS.get(method, {}), **TRAINED}}
