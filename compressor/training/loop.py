"""The one training loop: device placement, mixed precision and processes by `accelerate`, seeded, with a guard against NaN.

It goes on from its last checkpoint where an earlier process was killed, and ends with the same bits as one that was not.

In a group of processes each computes its share of the rows of every batch; gradients are summed over the group before the step,
so all of them hold the same weights, and the batch of a step is the same whatever the number of processes.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from compressor.contracts import Batch, Event, Message, Progress
from compressor.errors import OutOfMemory, TrainingDiverged, WorkerFailed
from compressor.training.checkpoint import Checkpoints, identity_of, random_states, set_random_states
from compressor.training.group import Group, compiled, parts

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]
DIVERGED = 10.0
"""A loss that ends an epoch so many times above the first one has diverged."""
LEAST_LOSS = 0.1
"""A loss that begins below counts as this: a student that begins as its teacher's copy begins with 0."""
OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|alloc_cpu")
"""In what torch says where a processor or GPU has no memory left."""
LAST_LOSSES = 20
"""Steps at the end of an epoch, all of which have to be above."""
CURVES = ("losses", "watched")
WATCHED_POINTS = 200
"""Points of a curve of what is watched."""


class TrainingSettings(BaseModel):
    """Parameters that every training pass has."""

    epochs: int = Field(default=3, ge=1, le=10_000, description="Passes over the training rows.")
    batch_size: int = Field(default=16, ge=1, description="Rows a step, over all parts and processes.")
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Parts in which a process computes its rows, one after the other: less memory, the same step.",
    )
    learning_rate: float = Field(default=1e-4, gt=0, lt=1, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(default=0.01, ge=0, lt=1, description="Of matrices; biases and norms have none.")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="Share of the steps in which the rate rises from 0.")
    schedule: Literal["linear", "cosine", "constant"] = Field(default="linear", description="How the rate falls after warm-up.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are clipped to this norm.")
    precision: Precision = Field(default="auto", description="`auto`: bf16 where the processor or GPU computes in it, else fp32.")
    dropout: bool = Field(
        default=True,
        description="Off: no dropout, layer drop nor masking, which a model that was made small often does not need.",
    )
    compile: bool = Field(default=False, description="Compile the model by torch.compile; on a CPU this needs a C++ compiler.")
    keep: Literal["best", "last"] = Field(default="best", description="Which epoch's weights stay, by the metric on validation.")

    def shortened(self) -> Mapping[str, int]:
        """What is laid over these settings to train as little as can be, for `compressor rehearse`."""
        return {"epochs": 1}


@dataclass(frozen=True)
class OwnRate:
    """Parameters that are learned at a rate of their own, without decay; the schedule is that of all others."""

    parameters: tuple[torch.nn.Parameter, ...]
    learning_rate: float
    maximize: bool = False
    """True where the losses are to grow by them: multipliers of a constraint."""


@dataclass(frozen=True)
class TrainingLog:
    """What happened: losses by name and step, what was watched, the metric on validation after each epoch."""

    losses: Mapping[str, tuple[tuple[float, float], ...]]
    watched: Mapping[str, tuple[tuple[float, float], ...]]
    validation: tuple[tuple[float, float], ...]
    kept_epoch: int
    seconds: float
    rows_per_second: float
    precision: str


@dataclass
class _Course:
    """How far a training has come and what it has seen; JSON values only, for a checkpoint keeps them."""

    epoch: int = 0
    """Epochs that are over."""
    at: int = 0
    """Batches taken of the epoch under way."""
    step: int = 0
    rows: int = 0
    seconds: float = 0.0
    """Spent by processes that were killed."""
    losses: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    watched: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    validation: list[tuple[float, float]] = field(default_factory=list)
    best: tuple[float, int] | None = None
    """Best value on validation and the epoch it came from, counted from 1."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> _Course:
        """From JSON, which knows no tuples."""
        curves = {each: {name: [(at, value) for at, value in curve] for name, curve in values[each].items()} for each in CURVES}
        validation = [(at, value) for at, value in values["validation"]]
        best = tuple(values["best"]) if values["best"] else None
        return cls(**{**values, **curves, "validation": validation, "best": best})


def train(
    trained: torch.nn.Module,
    *,
    batches: Callable[[int], Iterable[Batch]],
    step: Callable[[Batch, float], Mapping[str, torch.Tensor]],
    settings: TrainingSettings,
    seed: int,
    device: str,
    tell: Callable[[Event], None],
    work: str,
    folder: Path,
    evaluate: Callable[[], float] | None = None,
    own_rates: Sequence[OwnRate] = (),
    watch: Callable[[], Mapping[str, float]] = dict,
    may_rise: bool = False,
    followed: bool = False,
) -> TrainingLog:
    """Train in place.

    Args:
        trained: everything with parameters to learn, in one module.
        batches: the batches of an epoch, by its number from 0; with a length.
        step: losses by name for a batch, already weighted, at a share of the training that is done, in [0, 1); their sum is minimised.
        work: what the progress is told of; trainings in one folder differ in it.
        folder: where checkpoints are kept, and where a killed training goes on from.
        evaluate: the metric on validation, higher is better; needed for `keep: best`. It must draw nothing at random.
        own_rates: parts of `trained` that have learning rates of their own.
        watch: numbers by name that are worth a curve; asked about `WATCHED_POINTS` times.
        may_rise: the loss is bound to rise, as where a constraint tightens; else one that ends an epoch far above its start is stopped.
        followed: another training follows in this step; the end is written down too, so that a killed run does not come back here.

    A batch is cut by rows into `accumulate` parts for each process, and losses and gradients are weighted by the rows of a part. For
    losses that are means over rows this is the loss of the whole batch; those over tokens or pairs of rows see each part by itself.

    Raises:
        TrainingDiverged: a loss or a gradient is not finite, or the loss ends an epoch more than `DIVERGED` times as high as it began.
            The weights before that are kept in the training's folder.
        OutOfMemory: a step needs more memory than there is.
        MissingDependency: `compile` without a compiler.
        WorkerFailed: processes of one group do not see the same checkpoint.
    """
    from accelerate.utils import set_seed

    loop = _Loop(trained, batches, step, settings, device, tell, work, evaluate, own_rates, watch, may_rise)
    set_seed(seed, device_specific=True)  # each process draws its own dropout
    loop.start(folder / f"training-{work}", seed)
    with compiled(trained, device) if settings.compile else nullcontext():
        loop.run(followed=followed)
    return loop.log()


class _Loop:
    """One training under way."""

    def __init__(
        self,
        trained: torch.nn.Module,
        batches: Callable[[int], Iterable[Batch]],
        step: Callable[[Batch, float], Mapping[str, torch.Tensor]],
        settings: TrainingSettings,
        device: str,
        tell: Callable[[Event], None],
        work: str,
        evaluate: Callable[[], float] | None,
        own_rates: Sequence[OwnRate],
        watch: Callable[[], Mapping[str, float]],
        may_rise: bool,
    ) -> None:
        import torch
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        self.started = time.monotonic()
        self.batches, self.step, self.evaluate, self.watch, self.may_rise = batches, step, evaluate, watch, may_rise
        self.settings, self.device, self.tell, self.work = settings, device, tell, work
        self.precision = resolved_precision(settings.precision, device)
        AcceleratorState._reset_state(reset_partial_state=True)  # else an earlier training's precision and device are kept
        self.accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if self.precision == "bf16" else "no")
        self.group = Group()
        self.trained = trained.to(device).train(settings.dropout)
        groups = parameter_groups(trained, settings.weight_decay, own_rates)
        self.optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)  # one pass over memory, not ten
        self.first = batches(0)
        self.total = settings.epochs * len(self.first)  # type: ignore[arg-type]
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda at: rate(at, self.total, settings))
        self.course = _Course()
        self.best: dict[str, torch.Tensor] = {}
        self.random: dict[str, Any] | None = None

    def start(self, folder: Path, seed: int) -> None:
        """Look for a checkpoint of this very training and go on from there."""
        import torch

        folder = self.group.gathered(folder)[0]  # processes have folders of their own; checkpoints lie in that of the first one
        weights = self.group.same(learned(self.trained))
        what = {"settings": self.settings.model_dump(mode="json"), "total": self.total, "seed": seed, "torch": torch.__version__}
        self.checkpoints = Checkpoints(folder, identity_of({**what, "processes": self.group.size}, weights), self.tell)
        found = self.checkpoints.read()
        if found is not None:
            self._restore(*found)
            self.tell(Message(f"{self.work}: goes on at step {self.course.step} of {self.total}"))
        if len(set(self.group.gathered(self.course.step))) > 1:
            raise WorkerFailed(f"the processes do not see the same checkpoint in {folder}: machines have to share this folder")

    def run(self, *, followed: bool) -> None:
        """Train to the end and leave the weights that `keep` names."""
        over = self.course.epoch == self.settings.epochs
        for epoch in range(self.course.epoch, self.settings.epochs):
            for batch in self._rest(epoch):
                with out_of_memory_told(self.settings, f"step {self.course.step + 1} of {self.total}"):
                    due = self._step(batch)
                self.course.at += 1
                if due:
                    self._keep()
            self._check_level()
            if self.evaluate is not None:
                self._validate(self.evaluate, epoch)
            self.course.epoch, self.course.at = epoch + 1, 0
        if followed and not over:
            self._keep()
        put(self.trained, self.best)
        self.trained.eval()

    def log(self) -> TrainingLog:
        """What happened."""
        course, seconds = self.course, self._seconds()
        return TrainingLog(
            losses={name: tuple(curve) for name, curve in course.losses.items()},
            watched={name: tuple(curve) for name, curve in course.watched.items()},
            validation=tuple(course.validation),
            kept_epoch=course.best[1] if course.best else self.settings.epochs,
            seconds=seconds,
            rows_per_second=course.rows / seconds,
            precision=self.precision,
        )

    def _seconds(self) -> float:
        return self.course.seconds + time.monotonic() - self.started

    def _rest(self, epoch: int) -> Iterator[Batch]:
        """Batches of an epoch that are still to come."""
        batches = iter(self.first if epoch == 0 else self.batches(epoch))
        for _ in range(self.course.at):
            next(batches)
        if self.random is not None:  # only now: batches may draw too
            set_random_states(self.random)
            self.random = None
        return batches

    def _step(self, batch: Batch) -> bool:
        """One step of the optimiser; True where the first process finds a checkpoint due, and all of them are to write it."""
        import torch

        course, parameters = self.course, [each for each in self.trained.parameters() if each.requires_grad]
        names, values = self._losses(batch)
        *found, due = self.group.summed(torch.stack([*values, torch.tensor(float(self._due), device=self.device)])).tolist()
        course.step += 1
        for name, value in zip(names, found, strict=True):
            self._check_finite(f"the loss '{name}'", value)
            course.losses.setdefault(name, []).append((float(course.step), value))
        self.group.sum_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        self._check_finite("the norm of the gradients", float(norm))
        self.optimiser.step()
        self.schedule.step()
        self.optimiser.zero_grad(set_to_none=True)
        course.rows += len(next(iter(batch.values())))
        if course.step % -(-self.total // WATCHED_POINTS) == 0 or course.step == self.total:
            for name, value in self.watch().items():
                course.watched.setdefault(name, []).append((float(course.step), value))
        self.tell(Progress(self.work, course.step, self.total, values={name: at[-1][1] for name, at in course.losses.items()}))
        return bool(due)

    @property
    def _due(self) -> bool:
        return self.group.rank == 0 and self.checkpoints.due

    def _losses(self, batch: Batch) -> tuple[list[str], list[torch.Tensor]]:
        """Names and values of this process's share of the losses; their gradients are left with the parameters."""
        import torch

        total: dict[str, torch.Tensor] = {}
        for part, share in parts(batch, self.group.rank, self.group.size, self.settings.accumulate):
            moved = {name: tensor.to(self.device) for name, tensor in part.items()}
            with self.accelerator.autocast():
                losses = {name: share * loss for name, loss in self.step(moved, self.course.step / self.total).items()}
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            total = {name: loss.detach().float() + total.get(name, 0.0) for name, loss in losses.items()}
        return list(total), list(total.values())

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise self._diverged(f"{what} is {value}", "before that step", learned(self.trained))

    def _check_level(self) -> None:
        """At the end of an epoch: whether all of the last losses are far above the first one."""
        totals = [sum(value for _, value in each) for each in zip(*self.course.losses.values(), strict=True)]
        last, began = min(totals[-LAST_LOSSES:]), totals[0]
        if not self.may_rise and last > DIVERGED * max(began, LEAST_LOSS):
            raise self._diverged(f"the loss is {last:.3g} or more, and began with {began:.3g},", "of the best epoch", self.best)

    def _diverged(self, what: str, which: str, good: Mapping[str, torch.Tensor]) -> TrainingDiverged:
        settings, kept = self.settings, self.checkpoints.described()
        rescued = self.checkpoints.rescue(good) if good and self.group.rank == 0 else None
        if place := self.group.gathered(rescued)[0]:  # all processes come here, with equal losses, and end when it is written
            kept = f"the weights {which} are kept in {place}"
        advice = f"a lower learning_rate (now {settings.learning_rate:g}), a longer warmup (now {settings.warmup:g})"
        return TrainingDiverged(f"{what} at step {self.course.step} of {self.total}: try {advice}, or precision: fp32; {kept}")

    def _validate(self, evaluate: Callable[[], float], epoch: int) -> None:
        import torch

        course = self.course
        self.trained.eval()
        with torch.compiler.set_stance("force_eager" if self.settings.compile else "default"):
            value = evaluate()
        self.trained.train(self.settings.dropout)
        course.validation.append((float(course.step), value))
        if self.settings.keep == "best" and (course.best is None or value >= course.best[0]):
            course.best = (value, epoch + 1)
            self.best = {name: tensor.detach().clone() for name, tensor in learned(self.trained).items()}

    # -------------------------------------------------------------- checkpoints

    def _keep(self) -> None:
        """Write down all that the steps to come depend on; the first process does, for the whole group."""
        randoms = self.group.gathered(random_states())
        if self.group.rank != 0:
            return
        optimiser = self.optimiser.state_dict()
        moments = {f"{at}.{name}": value for at, each in optimiser["state"].items() for name, value in each.items()}
        tensors = _prefixed("weights", learned(self.trained)) | _prefixed("best", self.best) | _prefixed("optimiser", moments)
        values = {
            "course": {**dataclasses.asdict(self.course), "seconds": self._seconds()},
            "groups": optimiser["param_groups"],
            "schedule": self.schedule.state_dict(),
            "random": randoms,
        }
        self.checkpoints.write(values, tensors, step=self.course.step)

    def _restore(self, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        put(self.trained, _stripped("weights", tensors))
        self.best = {name: tensor.to(self.device) for name, tensor in _stripped("best", tensors).items()}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in _stripped("optimiser", tensors).items():
            at, _, name = key.partition(".")
            moments.setdefault(int(at), {})[name] = value
        self.optimiser.load_state_dict({"state": moments, "param_groups": values["groups"]})
        self.schedule.load_state_dict(values["schedule"])
        self.course = _Course.read(values["course"])
        self.random = values["random"][self.group.rank]


@contextmanager
def out_of_memory_told(settings: TrainingSettings, where: str) -> Iterator[None]:
    """Tell memory that ran out as what it is, with what to do about it.

    Raises:
        OutOfMemory: what was done needs more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
            raise
        raise OutOfMemory(
            f"out of memory at {where}: try accumulate: {2 * settings.accumulate} (now {settings.accumulate}; the same step in more "
            f"parts) or a smaller batch_size (now {settings.batch_size})"
        ) from error


def learned(trained: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What training changes: parameters that are not frozen, shared ones once, and buffers."""
    parameters = {name: parameter for name, parameter in trained.named_parameters() if parameter.requires_grad}
    return {**parameters, **dict(trained.named_buffers())}


def put(trained: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors into what is learned, by name."""
    import torch

    here = learned(trained)
    with torch.no_grad():
        for name, tensor in tensors.items():
            here[name].copy_(tensor)


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _stripped(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")}


def resolved_precision(precision: Precision, device: str) -> Literal["fp32", "bf16"]:
    """What `auto` means here: bf16 where there are instructions for it, since emulated bf16 is slower than fp32."""
    import torch

    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    from compressor.deploy.machine import features, read_cpuinfo

    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(features(read_cpuinfo())) else "fp32"


def parameter_groups(trained: torch.nn.Module, weight_decay: float, own_rates: Sequence[OwnRate] = ()) -> list[dict[str, object]]:
    """Matrices, which decay, vectors (biases and norms), which do not, and each part that has a rate of its own."""
    own = {parameter for each in own_rates for parameter in each.parameters}
    learned = [parameter for parameter in trained.parameters() if parameter.requires_grad and parameter not in own]
    return [
        {"params": [each for each in learned if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in learned if each.ndim <= 1], "weight_decay": 0.0},
        *(
            {"params": list(each.parameters), "lr": each.learning_rate, "weight_decay": 0.0, "maximize": each.maximize}
            for each in own_rates
        ),
    ]


def rate(at: int, total: int, settings: TrainingSettings) -> float:
    """Share of the peak rate at a step."""
    warm = max(1, round(settings.warmup * total))
    if at < warm and settings.warmup:
        return (at + 1) / warm
    if settings.schedule == "constant":
        return 1.0
    left = max(0.0, (total - at) / max(1, total - warm))
    return left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
