"""The one training loop: device placement, mixed precision and processes, seeded, with a guard against NaN.

It goes on from its last checkpoint where an earlier process was killed, and ends with the same bits as one that was not.

In a group of processes each computes its share of the rows of every batch; gradients are summed over the group before the step,
so all of them hold the same weights, and the batch of a step is the same whatever the number of processes.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Batch, Context, Message, Progress
from compressor.contracts.failing import rows_told
from compressor.errors import PluginError, TrainingDiverged, WorkerFailed
from compressor.training.attention import attending, fastest, is_measured
from compressor.training.budget import looked_at, steps_for
from compressor.training.checkpoint import Checkpoints, random_states, set_random_states, shared_identity
from compressor.training.course import Course, TrainingLog
from compressor.training.group import Group, compiled, parts, rows_of
from compressor.training.learners import Learner, Learning, all_learners, averaged, rate
from compressor.training.memory import retained
from compressor.training.settings import TrainingSettings, resolved_precision
from compressor.training.state import alike, apart, held, learned, out_of_memory_told, prefixed, put, spread, stripped

if TYPE_CHECKING:
    import torch

MEASURED_BATCHES = 2
"""Of the first epoch, with which the fastest attention is found."""
WATCHED_POINTS = 200
"""Points of a curve of what is watched."""


@dataclass(frozen=True)
class Moment:
    """Where a training stands when a step is computed."""

    step: int
    """Counted from 0."""
    total: int
    updates: frozenset[str]
    """Names of the learners that update in this step; of others no gradient is used."""
    before: Mapping[str, float] = field(default_factory=dict)
    """The last value of each loss, over all parts and processes; empty in the first step."""

    @property
    def done(self) -> float:
        """Share of the training that is done, in [0, 1)."""
        return self.step / self.total


@dataclass(frozen=True, eq=False)
class Training:
    """What is trained, on what, and how."""

    trained: torch.nn.Module
    """Everything with parameters to learn, in one module."""
    batches: Callable[[int], Iterable[Batch]]
    """The batches of an epoch, by its number from 0; with a length unless the settings count steps."""
    step: Callable[[Batch, Moment], Mapping[str, torch.Tensor]]
    """Losses by name for a batch, already weighted; their sum is minimised. Not every step needs to have every one."""
    settings: TrainingSettings
    learners: tuple[Learner, ...] = ()
    """Optimisers for parts of what is trained; the rest is learned by one that follows the settings, in every step."""
    evaluate: Callable[[], float] | None = None
    """The metric on validation, higher is better; needed for `checkpoint: best`. It must draw nothing at random."""
    watch: Callable[[], Mapping[str, float]] = dict
    """Numbers by name that are worth a curve; asked about `WATCHED_POINTS` times."""
    may_rise: bool = False
    """The loss is bound to rise, as where a constraint tightens; else one that ends an epoch far above its start is stopped."""
    stage: int = 0
    """Of a step that trains several times, which of its trainings: each draws apart from the others, and its `batches` are those of the stage."""
    followed: bool = False
    """Another training follows in this step; the end is written down too, so that a killed run does not come back here."""
    beside: tuple[torch.nn.Module, ...] = ()
    """Modules that steps run without training them."""


def train(training: Training, ctx: Context, *, work: str) -> TrainingLog:
    """Train in place.

    Args:
        training: what to do.
        ctx: gives the task, which weighs parts of a batch, the seed, the device, and the folder of checkpoints, from which a killed
            training goes on.
        work: what the progress is told of; trainings in one folder differ in it.

    A batch is cut by rows into `accumulate` parts for each process, and losses and gradients are weighted by `Task.weight` of each
    part: where a loss is a mean over what that counts, this is the loss of the whole batch.

    Raises:
        TrainingDiverged: a loss or a gradient is not finite, or the loss ends an epoch more than `course.DIVERGED` times as high as it
            began. The weights before that are kept in the training's folder.
        OutOfMemory: a step needs more memory than there is.
        MissingDependency: there is no compiler to compile with.
        PluginError: the learners or batches of the pass are at fault.
        UnsupportedModel: parameters are spread over processes, and layers would be dropped in some of them and not in others.
        WorkerFailed: processes of one group do not see the same checkpoint.
    """
    loop = _Loop(training, ctx, work)
    loop.start()
    with retained(), compiled(training.trained, ctx.device) if training.settings.compile else nullcontext():
        loop.run()
    return loop.log()


class _Loop:
    """One training under way."""

    def __init__(self, training: Training, ctx: Context, work: str) -> None:
        self.started = time.monotonic()
        self.training, self.settings, self.ctx, self.work = training, training.settings, ctx, work
        self.precision = resolved_precision(self.settings.precision, ctx.device)
        self.group = Group()
        self.trained = training.trained.to(ctx.device).train(self.settings.dropout)
        self.sharded = spread(self.trained)
        self.learning = [Learning(each) for each in all_learners(self.trained, training.learners, self.settings)]
        self.first = training.batches(0)
        self.total = self._total()
        self.looks = looked_at(self.total, self.settings.looks)
        self.course = Course()
        self.best: dict[str, torch.Tensor] = {}
        self.attention: str | None = None
        self.random: dict[str, Any] | None = None

    def start(self) -> None:
        """Seed, and look for a checkpoint of this very training to go on from."""
        import torch

        self.group.seed(self.ctx.seed, self.training.stage)
        folder = Path(self.group.gathered(str(self.ctx.folder / f"training-{self.work}"))[0])  # that of the first process
        weights = self.group.same(learned(self.trained))
        what = {"settings": self.settings.model_dump(mode="json"), "total": self.total, "seed": self.ctx.seed}
        whole = {
            **what,
            "torch": torch.__version__,
            "processes": self.group.size,
            "learners": [str(each) for each in self.learning],
        }
        group = self.group if self.sharded else None
        self.checkpoints = Checkpoints(folder, shared_identity(whole, weights, group), self.ctx.tell, group)
        self.attention = self.group.gathered(self._attention() if self.group.rank == 0 else None)[0]
        found = self.checkpoints.read()
        if found is not None:
            self._restore(*found)
            self.ctx.tell(Message(f"{self.work}: goes on at step {self.course.step} of {self.total}"))
        if len(set(self.group.gathered(self.course.step))) > 1:
            raise WorkerFailed(f"the processes do not see the same checkpoint in {folder}: machines have to share this folder")

    def run(self) -> None:
        """Train to the end and leave the weights that `checkpoint` names."""
        over = self.course.over
        while not self.course.over:
            self._epoch()
        if self.training.followed and not over:
            self._keep()
        for each in self.learning:
            each.swap()
        put(self.trained, self.best)
        self.trained.eval()

    def log(self) -> TrainingLog:
        """What happened."""
        course, seconds = self.course, self._seconds()
        return TrainingLog(
            losses={name: tuple(curve) for name, curve in course.losses.items()},
            watched={name: tuple(curve) for name, curve in course.watched.items()},
            validation=tuple(course.validation),
            seen=tuple(course.seen),
            counted=course.counted,
            kept_epoch=course.best[1] if course.best else course.epoch,
            seconds=seconds,
            rows_per_second=course.rows / seconds,
            precision=self.precision,
            attention=self.attention,
        )

    def _seconds(self) -> float:
        return self.course.seconds + time.monotonic() - self.started

    # -------------------------------------------------------------- epochs and steps

    def _total(self) -> int:
        """Steps in all."""
        settings = self.settings
        if settings.budget is not None:
            return steps_for(settings.budget, self.training.batches, self.ctx.task.weight)
        return settings.steps or settings.epochs * _length(self.first)

    def _epoch(self) -> None:
        """The rest of an epoch, and what is looked at when it is over."""
        course, batches, going = self.course, self._rest(), True
        while going:
            with attending(self.trained, self.attention):
                going, due = self._steps(batches)
            if self.looks and course.step in self.looks:
                self._validate()
            if due:
                self._keep()
        if not course.at:
            raise PluginError(f"{self.work}: epoch {course.epoch + 1} has no batches")
        if not self.training.may_rise and (risen := course.risen()):
            last, began = risen
            raise self._diverged(f"the loss is {last:.3g} or more, and began with {began:.3g},", "of the best epoch", self.best)
        if self.looks is None:
            self._validate()
        course.epoch, course.at, course.over = course.epoch + 1, 0, course.step == self.total

    def _steps(self, batches: Iterator[Batch]) -> tuple[bool, bool]:
        """Steps until validation is looked at, a checkpoint is due or the epoch is over: whether it goes on, and whether one is due."""
        due = False
        for batch in batches:
            where = f"step {self.course.step + 1} of {self.total}"
            with rows_told(batch.get("row", ()), where), out_of_memory_told(self.settings, where):
                due = self._step(batch)
            self.course.at += 1
            if self.course.step == self.total:
                return False, due
            if due or (self.looks and self.course.step in self.looks):
                return True, due
        return False, due

    def _rest(self) -> Iterator[Batch]:
        """Batches of the epoch under way that are still to come."""
        if self.course.step == self.total:
            return
        batches = iter(self.training.batches(self.course.epoch) if self.course.epoch else self.first)
        for _ in range(self.course.at):
            next(batches)
        if self.random is not None:  # only now: batches may draw too
            set_random_states(self.random)
            self.random = None
        yield from batches

    def _step(self, batch: Batch) -> bool:
        """One step of the optimisers; True where the first process finds a checkpoint due, and all of them are to write it."""
        import torch

        from compressor.training.tables import measured

        course = self.course
        updating = [each for each in self.learning if each.learner.updates_in(course.step)]
        moment = Moment(course.step, self.total, frozenset(each.learner.name for each in updating), course.latest())
        losses = self._losses(batch, moment)
        due = torch.tensor(float(self.group.rank == 0 and self.checkpoints.due), device=self.ctx.device)
        found = self.group.summed(torch.stack([*losses.values(), due]))
        parameters = [parameter for each in updating for parameter in each.learner.parameters]
        self.group.sum_gradients(parameters)
        norm = self.group.norm(measured(parameters))
        *values, is_due, length = torch.cat([found, norm.reshape(1)]).tolist()  # the one point at which a GPU is waited for
        course.step += 1
        course.add(dict(zip(losses, values, strict=True)))
        self._check_finite({**{f"the loss '{name}'": value for name, value in zip(losses, values, strict=True)}, NORM: length})
        for each in updating:
            each.update(rate(moment.step, self.total, self.settings), shrink=max(1.0, length / self.settings.max_grad_norm))
        self.trained.zero_grad(set_to_none=True)
        course.rows += rows_of(batch)
        course.counted += self.ctx.task.weight(batch)
        if course.step % -(-self.total // WATCHED_POINTS) == 0 or course.step == self.total:
            course.watch(self.training.watch())
        self.ctx.tell(Progress(self.work, course.step, self.total, values=course.latest()))
        return bool(is_due)

    def _losses(self, batch: Batch, moment: Moment) -> dict[str, torch.Tensor]:
        """This process's share of the losses, equal names in all processes; their gradients are left with the parameters."""
        import torch

        total = self._own_losses(batch, moment)
        if self.group.size == 1:
            return total
        names = dict.fromkeys(name for found in self.group.gathered(list(total)) for name in found)
        return {name: total.get(name, torch.zeros((), device=self.ctx.device)) for name in names}

    def _own_losses(self, batch: Batch, moment: Moment) -> dict[str, torch.Tensor]:
        """The losses of this process's part of a batch, without a word to the others: attention is chosen by one process alone."""
        import torch

        total: dict[str, torch.Tensor] = {}
        given = (self.group.rank, self.group.size, self.settings.accumulate, self.ctx.task.weight)
        for part, share in parts(batch, *given, alike=self.sharded):
            losses = {name: share * loss for name, loss in self._computed(part, moment).items()}
            if losses:
                torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            total |= {name: loss.detach().float() + total.get(name, 0.0) for name, loss in losses.items()}
        return total

    def _computed(self, part: Batch, moment: Moment) -> Mapping[str, torch.Tensor]:
        """The pass's own losses, in the training's precision and, on a CPU, by cheaper ways than torch's own."""
        import torch

        from compressor.model.sharding import gathered
        from compressor.training.cheap import Cheap

        device = torch.device(self.ctx.device)
        moved = {name: tensor.to(device) for name, tensor in part.items()}
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"))
            if device.type == "cpu" and not self.settings.compile:
                stack.enter_context(Cheap(rows=self.group.size == 1))
            return gathered((self.trained, *self.training.beside), lambda: apart(self.training.step(moved, moment)))

    def _attention(self) -> str | None:
        """Which implementation to train with, by steps that leave no trace."""
        import torch

        if self.sharded or not is_measured(self.trained, self.settings, self.ctx.device):
            return None if self.settings.attention == "auto" else self.settings.attention
        randoms, buffers = random_states(), {name: buffer.clone() for name, buffer in self.trained.named_buffers()}
        batches = list(itertools.islice(self.training.batches(0), MEASURED_BATCHES))

        def step(batch: Batch) -> None:
            self._own_losses(batch, Moment(0, self.total, frozenset(each.learner.name for each in self.learning)))
            self.trained.zero_grad(set_to_none=True)

        shapes = [{name: list(tensor.shape) for name, tensor in batch.items()} for batch in batches]
        sizes = [list(parameter.shape) for parameter in self.trained.parameters()]
        what = {"batches": shapes, "parameters": sizes, "precision": self.precision, "threads": torch.get_num_threads()}
        settings = self.settings.model_dump(mode="json")
        what |= {name: settings[name] for name in ("accumulate", "dropout")}
        try:
            return fastest(self.trained, [partial(step, batch) for batch in batches], what, self.ctx)
        finally:
            put(self.trained, buffers)
            set_random_states(randoms)

    # -------------------------------------------------------------- what is looked at

    def _check_finite(self, values: Mapping[str, float]) -> None:
        for what, value in values.items():
            if not math.isfinite(value):
                raise self._diverged(f"{what} is {value}", "before that step", learned(self.trained))

    def _diverged(self, what: str, which: str, good: Mapping[str, torch.Tensor]) -> TrainingDiverged:
        settings, kept = self.settings, self.checkpoints.described()
        rescued = self.checkpoints.rescue(good) if good and (self.sharded or self.group.rank == 0) else None
        # all processes come here, with equal losses, and end when it is written
        if place := self.group.gathered(rescued and str(rescued))[0]:
            kept = f"the weights {which} are kept in {place}"
        advice = f"a lower learning_rate (now {settings.learning_rate:g}), a longer warmup (now {settings.warmup:g})"
        return TrainingDiverged(f"{what} at step {self.course.step} of {self.total}: try {advice}, or precision: fp32; {kept}")

    def _validate(self) -> None:
        """Look at validation, once at a step: a training that goes on may stand where it did so."""
        import torch

        course, evaluate = self.course, self.training.evaluate
        if evaluate is None or (course.validation and course.validation[-1][0] == course.step):
            return
        self.trained.eval()
        with averaged(self.learning):
            with torch.compiler.set_stance("force_eager" if self.settings.compile else "default"):
                value = evaluate()
            if self.settings.checkpoint == "best" and (course.best is None or value >= course.best[0]):
                course.best = (value, course.epoch + 1)
                self.best = {name: tensor.detach().clone() for name, tensor in learned(self.trained).items()}
        self.trained.train(self.settings.dropout)
        course.validation.append((float(course.step), value))
        course.seen.append(course.counted)

    # -------------------------------------------------------------- checkpoints

    def _keep(self) -> None:
        """Write down all that the steps to come depend on; the first process does, for the whole group, or each its share."""
        randoms = self.group.gathered(random_states())
        if self.group.rank != 0 and not self.sharded:
            return
        tensors = prefixed("weights", held(learned(self.trained))) | prefixed("best", held(self.best))
        for each in self.learning:
            tensors |= prefixed(f"learner {each.learner.name}", each.tensors())
        values = {"course": self.course.values(seconds=self._seconds()), "random": randoms, "attention": self.attention}
        self.checkpoints.write(values, tensors, step=self.course.step)

    def _restore(self, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        put(self.trained, stripped("weights", tensors))
        best = {name: tensor.to(self.ctx.device) for name, tensor in stripped("best", tensors).items()}
        self.best = alike(learned(self.trained), best)
        for each in self.learning:
            each.load(stripped(f"learner {each.learner.name}", tensors))
        self.course = Course.read(values["course"])
        self.attention = values["attention"]  # a training that goes on keeps its own
        self.random = values["random"][self.group.rank]


NORM = "the norm of the gradients"


def _length(batches: Iterable[Batch]) -> int:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        raise PluginError("batches without a length need `steps`, the number of steps") from None
