"""Quantisation-aware distillation: a student computes with weights and activations on grids while it imitates its teachers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Context, Dialect, Needs, Size
from compressor.contracts.notes import Series
from compressor.model.quantization.grids import WeightBits
from compressor.training.course import TrainingLog, told
from compressor.training.learners import Learner
from compressor.training.loop import Training, train
from passes.distillation.distillation import Distillation, TeacherAgreement, projections
from passes.distillation.teachers import COMPARED_ROWS, held_once, thinned
from passes.quantization.quantize_static import LAYERS_IN_A_BLOCK, SENSITIVITY_ROWS
from passes.quantization_aware.blocks import SHARE
from passes.quantization_aware.mixed import MixedBits
from passes.quantization_aware.scheme import QuantizationScheme
from passes.quantization_aware.widths import RISING, Widths, at_least, planned

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from compressor.contracts import Model
    from passes.distillation.losses import Teacher
    from passes.quantization_aware.placement import Placement

WORK = "distill and quantize"
CLIPS = "clip decay"
"""Name of what pact adds among the losses."""


class DistillAndQuantize(Distillation, QuantizationScheme):
    """Quantisation-aware training and distillation (quantization-aware, QAT, QAD), from int8 down to ternary weights.

    The student starts as the step's input. Its linear layers round their weights, and what they read, at every use, and so do, in 8 bits, its
    convolutions where layers have static steps, and its table of words unless it is tied to a head that stays in float; gradients pass straight
    through. What is trained is what targets run: int8 as
    pairs of QuantizeLinear and DequantizeLinear, fewer bits as MatMulNBits, which makes int8 of activations block by block, or types of GGUF.
    A target without such kernels is refused.
    """

    version: ClassVar[int] = 6
    quantizes: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Kim et al., Understanding and Improving Knowledge Distillation for Quantization-Aware Training of Large Transformer Encoders, 2022, "
        "arXiv:2211.11014; steps: Esser et al., Learned Step Size Quantization, 2020, arXiv:1902.08153; ternary: Li et al., Ternary Weight "
        "Networks, 2016, arXiv:1605.04711; Zhang et al., TernaryBERT, 2020, arXiv:2009.12812; block_wise: Li et al., BRECQ, 2021, arXiv:2102.05426; "
        "smooth: Xiao et al., SmoothQuant, 2023, arXiv:2211.10438; pact: Choi et al., 2018, arXiv:1805.06085"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"teacher": "source", "epochs": 1},
        {"teacher": "source", "epochs": 1, "weights": "ternary", "objectives": {"soft-targets": 1.0, "hidden-states": 1.0}},
    )

    mixed: MixedBits | None = Field(
        None, description="bits by layer under a budget in bytes or latency, chosen by what rounding each layer costs"
    )
    progressive: tuple[WeightBits, ...] = Field(
        (), description="bits that are trained before those of the plan, falling (8, then 4); all stages share the steps evenly"
    )
    block_wise: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="before the training each block learns, on so many rows and in a fifth of its steps, to give what the block in float gives; "
        "states of these rows are kept in memory; 0: no",
    )
    sensitivity: bool = Field(False, description="measure what rounding each layer costs once the training is over")

    @model_validator(mode="after")
    def _quantised_consistently(self) -> Self:
        if self.compile:
            raise ValueError("compile: true is not for layers that round: leave compile out")
        if self.smooth and "attention-output" in self.known_objectives():
            raise ValueError("attention-output looks at what norms give, which smooth scales: leave one of them out")
        if self.mixed is not None and "weights" in self.model_fields_set:
            raise ValueError("nothing would heed weights, as mixed has widths: leave one of them out")
        falling = [RISING.index(each) for each in (*self.progressive, max(self.usual_widths(), key=RISING.index))]
        if self.progressive and falling != sorted(set(falling), reverse=True):
            raise ValueError("progressive names falling bits, all of them more than the layers end with")
        return self

    @override
    def unheeded(self) -> tuple[str, ...]:
        """Bits of all layers too, where a budget chooses them."""
        return (*super().unheeded(), *(("weights",) if self.mixed else ()))

    @override
    def usual_widths(self) -> tuple[WeightBits, ...]:
        """Those that a budget chooses from, or that of the plan."""
        return self.mixed.widths if self.mixed else (self.weights,)

    @override
    def trained_widths(self) -> Iterator[WeightBits]:
        """Those of the stages too."""
        yield from dict.fromkeys((*self.widths(), *self.progressive))

    @override
    def said_by(self, width: WeightBits) -> str:
        """The parameter that has layers of these bits."""
        return "mixed" if self.mixed and width in self.mixed.widths else super().said_by(width)

    @override
    def needs(self) -> Needs:
        """What the objectives need, and the edit."""
        found = super().needs()
        latency = self.mixed.latency if self.mixed else None
        return replace(
            found,
            plugins={**found.plugins, "edit": ("quantize",)},
            targets=(latency.target,) if latency else (),
            workloads=(latency.workload,) if latency else (),
            inside=(*found.inside, *(("features",) if self.block_wise else ())),
        )

    @override
    def check(self, given: Path, origins: Mapping[str, Path]) -> None:
        """Parts of paths that name no layer, too: a layer that the input has the source has."""
        super().check(given, origins)
        if self.exclude or self.layer_bits:
            from compressor.model.model import Model
            from passes.quantization_aware.placement import require_layers

            require_layers(Model.load(given).module, self)

    @override
    def refuses(self, dialect: Dialect) -> Mapping[str, str]:
        """A target whose products do not run as they are simulated; one that runs the torch model simulates all of them."""
        return self.lacks(dialect)

    @override
    def refuses_rows(self, dialect: Dialect, rows: Mapping[str, int]) -> Mapping[str, str]:
        """Groups that do not divide rows, where a format fills none up."""
        return self.lacks_rows(dialect, rows)

    @override
    def work(self, size: Size) -> float:
        """Calibration, epochs of the student, and the teachers' answers."""
        train, validation = size.rows["train"], size.rows["validation"]
        passes, scored = self.passes(train, size.epoch), self.validated(train, size.epoch)
        calibrated = min(self.calibration, size.rows["calibration"]) + validation
        measured = int(self.sensitivity) + (len(self.mixed.widths) if self.mixed else 0)
        looked_at = measured * LAYERS_IN_A_BLOCK * size.blocks * min(SENSITIVITY_ROWS, validation)
        started = (3 / SHARE + 2) if self.block_wise else 0
        student = (
            (3 + started) * passes * train
            + (2 + scored) * validation
            + 2 * min(COMPARED_ROWS, validation)
            + calibrated
            + looked_at
        )
        return student * size.result + self.answers(size, passes)

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """The student with its quantisers, a model of its own.

        Raises:
            UnsupportedModel: a teacher or objective does not fit the student, or it is quantised already.
            TrainingDiverged: a loss is not finite.
        """
        import torch

        from passes.quantization_aware.report import Fidelity, layers_told, sensitivity
        from passes.quantization_aware.smooth import smoothed

        torch.manual_seed(ctx.seed)  # projections that start at random are the same ones when a killed run goes on
        models = {name: ctx.model(name) for name in self.teachers()}
        base = smoothed(model, self, ctx) if self.smooth else model
        placement, widths = self._placed(base, ctx)
        student = self._rounded(base, placement, widths)
        teachers = self.taught_by(student, models, ctx)
        listening = TeacherAgreement(student, models, ctx)
        fidelity = Fidelity(model, student, ctx)
        for each in teachers:
            held_once(each.module, model.module)  # most often it is this step's own input
        student, log = self._stages(student, base, placement, widths, teachers, ctx)
        for note in (*told(log, ctx), *layers_told(student, placement.left), *fidelity.told(student)):
            ctx.note(note)
        if self.sensitivity:
            ctx.note(sensitivity(model, student, ctx))
        listening.tell(student, log.losses)
        return student

    def _placed(self, model: Model, ctx: Context) -> tuple[Placement, Widths]:
        """Where quantisers go, and of how many bits."""
        from passes.quantization_aware.mixed import chosen_widths
        from passes.quantization_aware.placement import placed

        placement = placed(model.copy(), self, ctx)
        if self.mixed is not None:
            return placement, chosen_widths(model, placement, self, self.mixed, ctx)
        paths = [path for alike in placement.alike for path in alike]
        return placement, planned(paths, self.weights, self.layer_bits)

    def _rounded(self, model: Model, placement: Placement, widths: Widths, weights: Model | None = None) -> Model:
        """A copy of the model with quantisers; with the weights of another one that was quantised, where it is given."""
        from passes.quantization_aware.placement import put_in

        student = model.copy()
        if weights is not None:
            known = student.module.state_dict()
            trained = {name: tensor for name, tensor in weights.module.state_dict().items() if name in known}
            student.module.load_state_dict(trained)
        put_in(student, placement, self, widths)
        return student

    def _stages(
        self, student: Model, model: Model, placement: Placement, widths: Widths, teachers: Sequence[Teacher], ctx: Context
    ) -> tuple[Model, TrainingLog]:
        """Train at falling bits, each stage from the weights of the one before and with steps found anew; the first block by block."""
        from passes.quantization_aware.blocks import BlockTraining, start_by_blocks

        steps, before = self._steps_in_all(model, ctx), None
        for number, floor in enumerate((*self.progressive, None)):
            if self.progressive:
                now = widths if floor is None else at_least(widths, floor)
                student = before = self._rounded(model, placement, now, before)
            if not number and self.block_wise:
                start_by_blocks(student, model, BlockTraining(self, steps, self.block_wise, self.step_rate), ctx)
            log = self._trained(student, teachers, ctx, number, steps)
            curves = {name: thinned(curve) for name, curve in log.losses.items()}
            stage = f", {floor} bits or more" if floor is not None else ""
            ctx.note(Series(title=f"Losses by weight{stage} ({log.precision})", x="step", y="loss", curves=curves))
        return student, log

    def _steps_in_all(self, model: Model, ctx: Context) -> int:
        """Of all stages, as far as anything goes by them."""
        if self.steps or not (self.progressive or self.block_wise):
            return self.steps or 0
        return self.epochs * len(self.batches(model, ctx)(0))  # type: ignore[arg-type]

    def _trained(self, student: Model, teachers: Sequence[Teacher], ctx: Context, number: int, steps: int) -> TrainingLog:
        """One stage, by its number from 0."""
        import torch

        from compressor.model.quantization.layers import quantizers

        learned = tuple(parameter for each in quantizers(student.module) for parameter in each.parameters(recurse=False))
        settings, last = self, number == len(self.progressive)
        if self.progressive:
            share = max(1, steps // (len(self.progressive) + 1))
            settings = self.model_copy(update={"steps": share, "checkpoint": self.checkpoint if last else "last"})
        training = Training(
            torch.nn.ModuleList([student.module, *projections(teachers)]),
            batches=self.batches(student, ctx, stage=number),
            step=lambda batch, moment: {
                **self.losses(student.module, teachers, batch, ctx.task, moment),
                **self._decayed(student),
            },
            settings=settings,
            learners=(Learner("steps", learned, self.step_rate),) if learned else (),
            evaluate=lambda: ctx.evaluate(student, "validation").quality,
            stage=number,
            followed=not last,
        )
        return train(training, ctx, work=WORK if last else f"{WORK}, {self.progressive[number]} bits")

    def _decayed(self, student: Model) -> dict[str, torch.Tensor]:
        """What pact adds to the losses: steps learn from what is cut off alone, which only ever asks for more room."""
        if self.activation_steps != "pact" or not self.clip_decay:
            return {}
        import torch

        from compressor.model.quantization.layers import InputQuantizer, quantizers

        static = [
            each for each in quantizers(student.module) if isinstance(each, InputQuantizer) and each.grid.ranges == "static"
        ]
        if not static:  # a stage, or a choice of bits, with steps for groups alone
            return {}
        return {CLIPS: self.clip_decay * torch.stack([each.reach().square() for each in static]).sum()}

    def _quantise(self, student: Model, ctx: Context) -> dict[str, str]:
        """Put quantisers in and have them start; layers that stay in float, with the reason."""
        from passes.quantization_aware.placement import placed, put_in

        placement = placed(student, self, ctx)
        put_in(student, placement, self)
        return placement.left
