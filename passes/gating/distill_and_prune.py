"""Distillation joined with structured pruning: gates learn which units go while the student learns from its teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Context, Needs, Size
from compressor.contracts.notes import Series
from compressor.model.anatomy import anatomy_of
from compressor.training.course import TrainingLog, told
from compressor.training.learners import Learner
from compressor.training.loop import Moment, Training, train
from compressor.training.settings import TrainingSettings
from passes.distillation.distillation import Distillation, TeacherAgreement, projections
from passes.distillation.losses import unabridged
from passes.distillation.teachers import COMPARED_ROWS, thinned
from passes.pruning.latency_budget import LatencyBudget

if TYPE_CHECKING:
    from compressor.contracts import Model
    from passes.distillation.losses import Teacher
    from passes.gating.budgets import Goal
    from passes.gating.constraint import SizeConstraint
    from passes.gating.gating import Gating

Start = Literal["importance", "open", "paper"]
Unit = Literal["heads", "neurons", "channels", "attention", "feed-forward"]
CONSTRAINT = "constraint"
TOKENS = 128
TRAVEL = 70.0
"""How far log alpha can go in a training, at the peak rate all the way: some 10 times what turning a gate needs."""
LEAST_RATE = 0.02
LINEAR, QUADRATIC = 0.3, 100.0
"""Rates of the multipliers in rates of the gates. The official code has 1 for both: over some hundred steps the linear one then
winds up and the sparsity swings about its target; a stiff quadratic one holds it there from the first steps on."""


class DistillAndPrune(Distillation):
    """Train a student that loses heads, neurons, channels or sub-layers while it imitates its teachers, then train what is left.

    The student starts as the step's input. In the first stage every unit has a gate, and multipliers hold the expected size to the
    budget. Then what is off is cut away, the rest of each mask folded into the weights, and the second stage distils without gates;
    `checkpoint` chooses among its epochs.
    """

    version: ClassVar[int] = 5
    paper: ClassVar[str] = (
        "Peng et al., DPHuBERT, 2023, arXiv:2305.17651; gates: Louizos et al., L0 regularization, 2018, arXiv:1712.01312; "
        "constraint: Wang, Wohlwend and Lei, 2020, arXiv:1910.04732"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"teacher": "source", "sparsity": 0.5, "round_to": 8},)

    units: tuple[Unit, ...] = Field(("heads", "neurons"), min_length=1, description="what may go; whole sub-layers are units too")
    sparsity: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the parameters of the blocks, and of gated convolutions, that goes; embeddings do not count",
    )
    macs: float | None = Field(None, gt=0, lt=1, description="fraction of their multiply-accumulates that stays")
    latency: LatencyBudget | None = Field(None, description="a latency to reach, measured on a target of the plan")
    tokens: int = Field(
        TOKENS,
        ge=1,
        description="length of a row when multiply-accumulates are counted: tokens, patches or frames (50 a second of sound)",
    )
    start: Start = Field(
        "importance",
        description="where gates start: by what each head and neuron adds, all open, or neurons half closed as in DPHuBERT's recipe",
    )
    ramp: float = Field(0.6, ge=0, le=1, description="share of the first stage in which the sparsity asked for rises from 0")
    gate_rate: float | None = Field(
        None, gt=0, description="peak learning rate of gates and multipliers; by the number of steps unless given"
    )
    round_to: int = Field(16, ge=1, description="feed-forward widths and channels become multiples of this")
    min_heads: int = Field(0, ge=0, description="heads that stay in every block")
    recovery_epochs: int | None = Field(
        None, ge=0, description="epochs of the second stage; half as many as the first has unless given"
    )
    recovery_rate: float | None = Field(
        None, gt=0, lt=1, description="learning rate of the second stage; half of the first one's unless given"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.units)) < len(self.units):
            raise ValueError(f"units names a kind twice: {', '.join(self.units)}")
        budgets = [name for name in ("sparsity", "macs", "latency") if getattr(self, name) is not None]
        if len(budgets) != 1:
            raise ValueError(f"give exactly one of sparsity, macs and latency, found {' and '.join(budgets) or 'none'}")
        if self.latency is not None and (others := set(self.units) - {"heads", "neurons"}):
            raise ValueError(f"latency is known by heads and neurons: leave {', '.join(sorted(others))} out of units")
        if self.compile:
            raise ValueError("compile: true hides the gates: leave compile out")
        maps = [name for name, each in self.known_objectives().items() if each.weight and each.looks_at() == "maps"]
        if maps and ("attention" in self.units or ("heads" in self.units and not self.min_heads)):
            raise ValueError(f"{maps[0]} needs heads to look at: give min_heads, 1 or more, and leave attention out of units")
        unheard = {
            "recovery_rate, as recovery_epochs is 0": self.recovery_rate is not None and self.recovery_epochs == 0,
            "tokens, as macs is not given": self.tokens != TOKENS and self.macs is None,
            "min_heads, as neither heads nor attention may go": self.min_heads > 0
            and not {"heads", "attention"} & set(self.units),
        }
        if told := [name for name, ignored in unheard.items() if ignored]:
            raise ValueError(f"nothing would heed {told[0]}: leave it out")
        return self

    @override
    def needs(self) -> Needs:
        """What the objectives need, what has gates, and the clock of a latency budget."""
        found = super().needs()
        return replace(
            found,
            targets=(self.latency.target,) if self.latency else (),
            workloads=(self.latency.workload,) if self.latency else (),
            plugins={**found.plugins, "edit": ("keep-heads", "keep-neurons", "keep-channels")},
            inside=(*found.inside, *self.units),
        )

    @override
    def shortened(self) -> Mapping[str, int | None]:
        """One epoch in each stage that there is."""
        return {
            **super().shortened(),
            **({} if self.recovery_epochs is None else {"recovery_epochs": min(1, self.recovery_epochs)}),
        }

    @override
    def work(self, size: Size) -> float:
        """Epochs of the whole student, epochs of what is left of it, and the teachers' answers in both."""
        train, validation = size.rows["train"], size.rows["validation"]
        compared, stages = min(COMPARED_ROWS, validation), (self, *([self._second()] if self.recovery_epochs != 0 else []))
        seen = [each.passes(train, size.epoch) for each in stages]
        rows = [3 * seen[at] * train + each.validated(train, size.epoch) * validation for at, each in enumerate(stages)]
        student = (rows[0] + compared) * size.weights + (sum(rows[1:]) + compared) * size.result
        return student + self.answers(size, sum(seen))

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """The pruned and trained student, a model of its own.

        Raises:
            UnsupportedModel: a teacher or objective does not fit the student, or it has no such units.
            TrainingDiverged: a loss is not finite.
            CompressorError: the budget cannot be reached.
        """
        import torch

        from passes.gating.budgets import cut
        from passes.gating.constraint import SizeConstraint
        from passes.gating.gating import DROPS, Gating
        from passes.gating.initialisation import OPEN, start_by_importance

        torch.manual_seed(ctx.seed)  # gates and projections are the same ones when a killed run goes on
        student = model.copy()
        models = {name: ctx.model(name) for name in self.teachers()}
        teachers = self.taught_by(student, models, ctx)
        listening = TeacherAgreement(student, models, ctx)
        anatomy = anatomy_of(student.module)
        gating = Gating(anatomy, self.units, drops=DROPS if self.start == "paper" else OPEN)
        goal = self._goal(student, gating, ctx)
        goal.check(gating)
        if self.start == "importance":
            start_by_importance(gating, student, goal.formula, ctx)
        constraint = SizeConstraint(gating, goal.trained_by, sparsity=goal.share, ramp=self.ramp)
        first = self._joint(student, teachers, gating, constraint, ctx)
        small = cut(student, gating, goal, ctx)
        second = self._recovered(small, teachers, ctx) if self.recovery_epochs != 0 else None
        self._show(first, second, ctx)
        listening.tell(small, {name: curve for name, curve in first.losses.items() if name != CONSTRAINT})
        return small

    # -------------------------------------------------------------- stage one

    def _joint(
        self, student: Model, teachers: Sequence[Teacher], gating: Gating, constraint: SizeConstraint, ctx: Context
    ) -> TrainingLog:
        """Train weights, projections, gates and multipliers together."""
        import torch

        batches = self.batches(student, ctx)
        steps = self.steps or self.epochs * len(batches(0))  # type: ignore[arg-type]
        rate = self.gate_rate or max(LEAST_RATE, TRAVEL / steps)
        module = student.module

        def step(batch: Any, moment: Moment) -> dict[str, torch.Tensor]:
            gating.train()  # also where dropout is off
            with unabridged(module):
                found = self.losses(module, teachers, batch, ctx.task, moment)
            gating.check_seen()
            return {**found, CONSTRAINT: constraint.loss(moment.done)}

        training = Training(
            torch.nn.ModuleList([module, *projections(teachers), gating, constraint]),
            batches=batches,
            step=step,
            settings=self.model_copy(update={"checkpoint": "last"}),
            learners=(
                Learner("gates", tuple(gating.parameters()), rate),
                Learner("linear multiplier", (constraint.linear,), LINEAR * rate, maximize=True),
                Learner("quadratic multiplier", (constraint.quadratic,), QUADRATIC * rate, maximize=True),
            ),
            evaluate=lambda: ctx.evaluate(student, "validation").quality,
            watch=constraint.watched,
            may_rise=True,
            followed=True,
        )
        with gating.attached(module):
            return train(training, ctx, work="distill and prune")

    def _goal(self, student: Model, gating: Gating, ctx: Context) -> Goal:
        from passes.gating import budgets as goals

        limits = goals.Limits(
            multiples={"neurons": self.round_to, "channels": self.round_to},
            least={
                "heads": max(self.min_heads, int("attention" in gating.anatomy.row.without)),
                "channels": self.round_to,
                "attention": min(1, self.min_heads),
            },
        )
        if self.latency is not None:
            return goals.latency_goal(student, gating, limits, budget=self.latency, ctx=ctx)
        if self.macs is not None:
            return goals.macs_goal(student, gating, limits, macs=self.macs, tokens=self.tokens)
        assert self.sparsity is not None
        return goals.size_goal(student, gating, limits, sparsity=self.sparsity)

    # -------------------------------------------------------------- stage two

    def _second(self) -> TrainingSettings:
        """Settings of the second stage."""
        epochs = self.recovery_epochs if self.recovery_epochs is not None else -(-self.epochs // 2)
        steps = -(-self.steps // 2) if self.steps and self.recovery_epochs is None else None
        rate = self.recovery_rate or self.learning_rate / 2
        return self.model_copy(update={"epochs": max(1, epochs), "steps": steps, "learning_rate": rate})

    def _recovered(self, small: Model, teachers: Sequence[Teacher], ctx: Context) -> TrainingLog:
        """Distil into what is left, with the projections of the first stage."""
        import torch

        training = Training(
            torch.nn.ModuleList([small.module, *projections(teachers)]),
            batches=self.batches(small, ctx, stage=1),
            step=lambda batch, moment: self.losses(small.module, teachers, batch, ctx.task, moment),
            settings=self._second(),
            evaluate=lambda: ctx.evaluate(small, "validation").quality,
            stage=1,
        )
        return train(training, ctx, work="distill")

    # -------------------------------------------------------------- report

    def _show(self, first: TrainingLog, second: TrainingLog | None, ctx: Context) -> None:
        for stage, log in (("first stage", first), ("second stage", second)):
            if log is not None:
                curves = {name: thinned(curve) for name, curve in log.losses.items()}
                ctx.note(Series(title=f"Losses by weight, {stage} ({log.precision})", x="step", y="loss", curves=curves))
                for note in told(log, ctx, title=f"Validation, {stage}"):
                    ctx.note(note)
        watched = dict(first.watched)
        sparsity = {"expected sparsity": watched.pop("expected sparsity")}
        multipliers = {name: watched.pop(name) for name in ("linear multiplier", "quadratic multiplier")}
        ctx.note(Series(title="Sparsity", x="step", y="share that goes", curves=sparsity))
        ctx.note(Series(title="Multipliers", x="step", y="multiplier", curves=multipliers))
        for kind in self.units:
            shares = {
                name.removeprefix(f"{kind} of "): curve for name, curve in watched.items() if name.startswith(f"{kind} of ")
            }
            ctx.note(Series(title=f"Share of {kind} expected to stay", x="step", y="share", curves=shares))
