"""Distillation of a model that draws in many steps into one that draws in few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Batch, Context, Needs, Recipe, Size, Wish
from compressor.contracts.notes import Remark
from compressor.errors import UnsupportedModel
from compressor.tasks.generation.description import FILE, OURS, Description, described, draws
from compressor.tasks.generation.samplers import Sampler, Sampling
from passes.diffusion.bootstrap import finest
from passes.diffusion.matching import MatchingSettings, middle_of
from passes.diffusion.students import Course, DistillDrawing, built, check_alike, check_unlabelled

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model
    from compressor.training.course import TrainingLog
    from compressor.training.loop import Moment
    from passes.diffusion.bootstrap import Bootstrap, Pair
    from passes.diffusion.denoiser import Denoiser

    Method = Bootstrap | Literal["dmd"]

SAMPLERS: Mapping[Method, Sampler] = {
    "progressive": "ddim",
    "shortcut": "ddim",
    "consistency": "consistency",
    "meanflow": "ddim",
    "boot": "ddim",
    "dmd": "consistency",
}
TOLD_SPANS = ("shortcut", "meanflow", "boot")
HEEDED: Mapping[str, tuple[Method, ...]] = {
    "levels": ("consistency", "shortcut", "boot"),
    "share": ("shortcut", "meanflow"),
    "matching": ("dmd",),
}
"""Parameters that only some methods have a use for."""
PROCESSES, PREDICTIONS = ("flow", "cosine"), ("flow", "v")
TELL_SPAN = "tell-span"
STUDENT = "student"
FOLDED = 1.0
"""Guidance of a network that tells at once what a guided one does."""


class DistillSteps(DistillDrawing):
    """Train a student, which starts from the step's input model, to draw in few steps what a teacher draws in many."""

    version: ClassVar[int] = 5
    paper: ClassVar[str] = (
        "progressive: Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, 2022, arXiv:2202.00512; shortcut: Frans et "
        "al., One Step Diffusion via Shortcut Models, 2024, arXiv:2410.12557; consistency: Song et al., Consistency Models, 2023, "
        "arXiv:2303.01469; meanflow: Geng et al., Mean Flows for One-step Generative Modeling, 2025, arXiv:2505.13447; dmd: Yin et al., Improved "
        "Distribution Matching Distillation for Fast Image Synthesis, 2024, arXiv:2405.14867, with the noise of Novack et al., Presto!, 2024, "
        "arXiv:2410.05167; guidance: Meng et al., On Distillation of Guided Diffusion Models, 2023, arXiv:2210.03142"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {
            "teacher": "source",
            "method": method,
            **({"to": [1], "steps": 2} if method == "boot" else {"to": [2], "epochs": 1}),
            "batch_size": 12,
            "precision": "fp32",
            "validations": 1,
            **({"matching": {"fake_updates": 1}} if method == "dmd" else {}),
        }
        for method in SAMPLERS
    )

    method: Literal["progressive", "shortcut", "consistency", "meanflow", "boot", "dmd"] = Field(
        "progressive",
        description="what a student's step is to equal: two of the teacher's, halving again and again; two of its own, of any length; a step to the "
        "end; the mean of velocities by their derivative (flow only); of boot, which draws in 1 and reads no rows, a shorter one from noise and one "
        "of the teacher; dmd: its rows are to be distributed as the teacher's",
    )
    to: tuple[Annotated[int, Field(ge=1, le=1000)], ...] = Field(
        (4,),
        min_length=1,
        description="steps that the student draws in, most first, each of them a model of its own, `STEP.steps-8` say, the last one the step's; "
        "progressive halves from one to the next and trains each anew, the first by twice as many steps (DDIM) of the teacher",
    )
    guidance: Literal["folded", "kept"] = Field(
        "folded",
        description="folded: the student tells at once what its guided teacher tells by two evaluations; kept: it goes on being guided",
    )
    scale: float | None = Field(
        None, ge=0, le=100, description="at which the teacher is guided where that is folded; its own unless given"
    )
    levels: int = Field(
        64,
        ge=2,
        le=1000,
        description="of consistency: even steps of the teacher that it is learned along; of shortcut: so many of the finest step are 1, or the "
        "next power of 2; of boot: steps of the teacher from noise to the end",
    )
    share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="of the rows of shortcut and meanflow: how many learn longer steps; the others learn from the teacher alone",
    )
    matching: MatchingSettings = Field(MatchingSettings(), description="of dmd: how distributions are matched")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if any(later >= earlier for earlier, later in pairwise(self.to)):
            raise ValueError(f"to: {list(self.to)}: steps are given most first, each once")
        if self.method == "progressive" and any(2 * later != earlier for earlier, later in pairwise(self.to)):
            raise ValueError(f"to: {list(self.to)}: progressive halves the steps from one to the next")
        if self.method == "shortcut" and (odd := next((each for each in self.to if each & (each - 1)), None)):
            raise ValueError(f"to: {odd}: shortcut knows steps of 1, 2, 4, 8 and so on, as their halves are halved again")
        if self.method == "shortcut" and self.to[0] > finest(self.levels):
            raise ValueError(f"to: {self.to[0]}: steps shorter than 1 / {finest(self.levels)} are not learned: raise levels")
        for name, methods in HEEDED.items():
            if self.method not in methods and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of {_listed(methods)}, not of {self.method}: leave it out")
        if self.method == "boot":
            self._check_boot()
        if self.method == "dmd" and self.compile:
            raise ValueError("compile: dmd looks into its fake network, which cannot be compiled then: leave it out")
        if self.scale is not None and self.guidance == "kept":
            raise ValueError("scale is what a teacher is guided by where guidance is folded: leave it out")
        return self

    def _check_boot(self) -> None:
        if self.to != (1,):
            raise ValueError(f"to: {list(self.to)}: boot draws in one step: say to: [1]")
        if self.steps is None:
            raise ValueError("boot reads no rows, so there are no epochs to count: say steps, and leave epochs out")
        if self.guidance == "kept":
            raise ValueError("guidance: boot has no rows without a label to learn from: it is folded")

    @classmethod
    @override
    def recipe(cls, wish: Wish) -> Recipe | None:
        """For models that draw: `shortcut`, which kept class accuracy in 8 and 4 steps, of a network that can be told a span; else `progressive`."""
        if not draws(wish.config):
            return None
        method = "shortcut" if wish.config.keys() >= OURS else "progressive"
        given = {"teacher": wish.reference, "method": method, "to": [8, 4]}
        why = f"draw in 8 and 4 steps what {wish.reference} draws in more; the last is what goes on, and both are in the report"
        return Recipe({**given, "epochs": 2, "batch_size": 128, "ema": 0.99}, why, role="shorten")

    @override
    def needs(self) -> Needs:
        """A teacher; of all counts but the last a model beside the step's own."""
        edits = {"edit": (TELL_SPAN,)} if self.method in TOLD_SPANS else {}
        return Needs(
            teachers=(self.teacher,),
            machine=self.attention == "auto",
            plugins=edits,
            products=tuple(f"steps-{count}" for count in self.to[:-1]),
            rows=self.method != "boot",
            teaches="long steps",
            own_lessons=True,
        )

    @override
    def edit_of(self, student: Description) -> str | None:
        """An embedding of spans, where the method needs them."""
        return TELL_SPAN if self.method in TOLD_SPANS and not student.spans else None

    @override
    def check(self, given: Path, origins: Mapping[str, Path]) -> None:
        """Models that draw alike; the network of a teacher that is judged has a middle."""
        super().check(given, origins)
        if self.method == "dmd" and self.matching.gan and (fake := built(origins[self.teacher])):
            middle_of(fake)

    @override
    def check_drawing(self, mine: Description, theirs: Description) -> None:
        """By one process that steps are defined of."""
        check_alike(mine, theirs, self.teacher)
        if self.scale not in (None, 1.0) and theirs.empty is None:
            raise UnsupportedModel(
                f"scale: {self.scale:g}: teacher {self.teacher} has no label that says nothing, so it cannot be guided"
            )
        if self.guidance == "kept":
            check_unlabelled(mine, theirs, self.teacher)
            if mine.scales:
                raise UnsupportedModel(
                    "guidance: the model is told how far it is guided and takes one evaluation: leave `kept` out"
                )
        process = mine.process
        if process.kind not in PROCESSES or process.prediction not in PREDICTIONS:
            raise UnsupportedModel(
                f"steps are learned on processes {' and '.join(PROCESSES)} of networks that tell {' or '.join(PREDICTIONS)}, and the model is of "
                f"{process.kind} and tells {process.prediction}"
            )
        if self.method == "meanflow" and (process.kind, process.prediction) != ("flow", "flow"):
            raise UnsupportedModel(
                f"meanflow needs the process and the prediction flow, found {process.kind} and {process.prediction}"
            )

    @override
    def work(self, size: Size) -> float:
        """Of a row passes of student and teacher, a backward one counted as two; validation rows take a pass for each step."""
        train, validation = size.rows["train"], size.rows["validation"]
        counts = self.to if self.method == "progressive" else self.to[-1:]
        learned = len(counts) * self.passes(train, size.epoch) * train
        scored = self.validated(train, size.epoch) * validation * sum(counts)
        mine, theirs = self.matching.passes(self.to) if self.method == "dmd" else (3.0, 2.0)
        return (mine * learned + scored) * size.result + theirs * learned * size.teachers

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """The student of the last count.

        Raises:
            UnsupportedModel: the models do not draw, or by a process of which steps are not defined.
            TrainingDiverged: the loss is not finite.
        """
        teacher = ctx.model(self.teacher)
        self.check_models(model, teacher)
        scale = FOLDED if self.guidance == "kept" else self.scale
        spans = {"spans": True} if self.method in TOLD_SPANS else {}
        student = self.begun(model, ctx.seed, lambda how: how.model_copy(update=spans))
        if self.method != "progressive":
            self._train(student, teacher, ctx, count=self.to[-1], steps=self.levels, scale=scale)
            for count in self.to[:-1]:
                ctx.produce(f"steps-{count}", self._sampled(student.copy(), count))
            return student
        for stage, count in enumerate(self.to):
            self._train(student, teacher, ctx, count=count, steps=count, scale=scale, stage=stage, followed=count != self.to[-1])
            if count != self.to[-1]:
                teacher, scale = student.copy(), FOLDED
                ctx.produce(f"steps-{count}", teacher)
        return student

    def _sampled(self, model: Model, count: int) -> Model:
        """The model, set to draw in so many steps; a guidance that is folded is none any more."""
        how = described(model)
        guidance = how.sampling.guidance if self.guidance == "kept" else FOLDED
        sampling = Sampling(sampler=SAMPLERS[self.method], steps=count, guidance=guidance)
        model.files[FILE] = how.model_copy(update={"sampling": sampling, "stepped": True}).written()
        return model

    def _train(
        self,
        student: Model,
        teacher: Model,
        ctx: Context,
        *,
        count: int,
        steps: int,
        scale: float | None,
        stage: int = 0,
        followed: bool = False,
    ) -> None:
        """One training, of the student in place; `steps` are those of `Pair`."""
        from passes.diffusion.bootstrap import Pair
        from passes.diffusion.denoiser import Denoiser

        self._sampled(student, count)
        taught = described(teacher)
        guided = taught.sampling.guidance if scale is None else scale
        teacher.module.to(ctx.device).train(False).requires_grad_(False)
        pair = Denoiser(teacher.module, taught, guided), Denoiser(student.module, described(student))
        is_matched = self.method == "dmd"
        course = self._matching(*pair, teacher, ctx) if is_matched else self._bootstrap(Pair(*pair, steps, share=self.share), ctx)
        to = f"{count} steps"
        log = self.taught(student, teacher, ctx, course, work=f"distill-to-{count}", to=to, stage=stage, followed=followed)
        if is_matched:
            ctx.note(self._turns(log))

    def _turns(self, log: TrainingLog) -> Remark:
        """How many steps the student made: none where the training ends before its first turn."""
        made, others = (len(log.losses.get(name, ())) for name in ("matching", "fake"))
        text = f"Of {made + others} steps the student made {made}, the fake network {others}."
        nothing = f" The student learned nothing: its first is step {len(self.matching.rhythm)}."
        return Remark(text=text + ("" if made else nothing))

    def _bootstrap(self, pair: Pair, ctx: Context) -> Course:
        from compressor.training.learners import averaging
        from passes.diffusion.bootstrap import Imagined

        method = self.method
        assert method != "dmd"

        def step(batch: Batch, _: Moment) -> dict[str, torch.Tensor]:
            return {method: pair.loss(method, batch["clean"], self._labels(batch))}

        imagined = Imagined(pair.student.how, self.batch_size, ctx.seed)
        return Course(
            pair.student.module,
            step,
            averaging(pair.student.module, self, self.ema),
            batches=None if self.needs().rows else lambda _: imagined,
        )

    def _matching(self, teacher: Denoiser, student: Denoiser, fresh: Model, ctx: Context) -> Course:
        """A fake network that begins as the teacher, and its judge, learn in turns with the student."""
        import torch

        from compressor.training.learners import Learner
        from passes.diffusion.denoiser import Denoiser
        from passes.diffusion.matching import Matching, judge_of, trained_at

        module = fresh.copy().module.requires_grad_(True)
        fake = Denoiser(module, teacher.how, teacher.guidance if teacher.how.scales else FOLDED)
        torch.manual_seed(ctx.seed)  # the judge is the same one when a killed run goes on
        judge = judge_of(fake) if self.matching.gan else None
        matching = Matching(teacher, student, fake, judge, self.to, self.matching)
        beside = torch.nn.ModuleList([module] if judge is None else [module, judge])
        rhythm, rates = self.matching.rhythm, (self.learning_rate, self.weight_decay)
        of_student, of_fake = (tuple(each.parameters()) for each in (student.module, beside))

        def step(batch: Batch, moment: Moment) -> dict[str, torch.Tensor]:
            return matching.losses(batch["clean"], self._labels(batch), trained_at(batch), generator=STUDENT in moment.updates)

        return Course(
            torch.nn.ModuleList([student.module, beside]),
            step,
            (
                Learner(STUDENT, of_student, *rates, updates=rhythm, ema=self.ema),
                Learner("fake", of_fake, *rates, updates=tuple(not each for each in rhythm)),
            ),
            may_rise=True,
        )

    def _labels(self, batch: Batch) -> torch.Tensor:
        """Labels of rows: some left out where the student goes on being guided."""
        return batch["label"] if self.guidance == "kept" else batch["labels"]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
