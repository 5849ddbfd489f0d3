"""Quantisation-aware distillation: a student computes with weights and activations on grids while it imitates its teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator
from typing_extensions import override

from compressor.contracts import Context, Dialect, Needs, Size
from compressor.contracts.notes import Series
from compressor.contracts.registry import TORCH, lowering
from compressor.model.quantization.grids import InputGrid, WeightGrid, scheme_of
from compressor.model.quantization.quantize import Quantize
from compressor.training.course import TrainingLog, told
from compressor.training.learners import Learner
from compressor.training.loop import Training, train
from passes.distillation.distillation import Distillation, TeacherAgreement, projections
from passes.distillation.teachers import COMPARED_ROWS, held_once, thinned
from passes.quantization.quantize_static import LAYERS_IN_A_BLOCK, SENSITIVITY_ROWS
from passes.quantization.quantizers.weight_layers import require_named

if TYPE_CHECKING:
    from compressor.contracts import Model
    from passes.distillation.losses import Teacher
    from passes.quantization_aware.passing import Passing

GROUP: Literal[32] = 32
CALIBRATION = 128
CALIBRATED_BATCH = 16
STEP_RATE = 1e-3
WRITTEN = "onnx"
"""The format in which quantisers become what runtimes have kernels for."""
FEW = (2, 3, 4, "ternary")
"""Bits of weights that have kernels with a step for a group of inputs only."""


class DistillAndQuantize(Distillation):
    """Quantisation-aware training and distillation (quantization-aware, QAT, QAD), from int8 down to ternary weights.

    The student starts as the step's input. Its linear layers round their weights, and what they read, at every use, and so does its table of
    words unless it is tied to a head that stays in float; gradients pass straight through. What is trained is what targets run: int8 as
    pairs of QuantizeLinear and DequantizeLinear, fewer bits as MatMulNBits, which makes int8 of activations block by block. A target
    without such kernels is refused.
    """

    version: ClassVar[int] = 1
    quantizes: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Kim et al., Understanding and Improving Knowledge Distillation for Quantization-Aware Training of Large Transformer Encoders, 2022, "
        "arXiv:2211.11014; steps: Esser et al., Learned Step Size Quantization, 2020, arXiv:1902.08153; ternary: Li et al., Ternary Weight "
        "Networks, 2016, arXiv:1605.04711; Zhang et al., TernaryBERT, 2020, arXiv:2009.12812"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"teacher": "source", "epochs": 1},
        {"teacher": "source", "epochs": 1, "weights": "ternary", "objectives": {"soft-targets": 1.0, "hidden-states": 1.0}},
    )

    weights: Literal["ternary", 2, 3, 4, 7, 8] = Field(
        8,
        description="bits of weights; below 8 they are stored in 2 or 4 bits (3 as 4, ternary as 2); 7 is for processors without VNNI",
    )
    activations: Literal["none", 4, 8, 16] = Field(
        8, description="bits of what layers read; none leaves it in float; only 8 bits have kernels"
    )
    embeddings: Literal["none", 8] = Field(
        8, description="bits of the table of words, a step for each row; none leaves it in float"
    )
    granularity: Literal["auto", "tensor", "channel", "group"] = Field(
        "auto",
        description="what has a step of its own: a matrix, an output, a group of inputs; auto: channel, below 7 bits group",
    )
    group: Literal[32, 64, 128] = Field(
        GROUP,
        description="inputs in a group; OpenVINO makes int8 of activations in groups of 32 only, ONNX Runtime in all of these",
    )
    ranges: Literal["auto", "static", "dynamic"] = Field(
        "auto",
        description="static: steps of activations are found on calibration rows and learned; dynamic: each row (a token), or each group of it, "
        "has its own at run time; auto: static, dynamic for groups",
    )
    step_sizes: Literal["auto", "max", "mean", "learned"] = Field(
        "auto",
        description="steps of weights: by the greatest magnitude, by means (TWN), or learned (LSQ); auto: max, mean for ternary, "
        "learned for 2 to 4 bits",
    )
    symmetric_weights: bool = Field(
        True,
        description="0 is in the middle of the grid of weights; false needs step_sizes: max, and ranges: static unless steps are for groups",
    )
    symmetric_activations: bool = Field(True, description="0 is in the middle of the grid of static activations")
    calibration: int = Field(
        128, ge=1, le=100_000, description="rows of the calibration split on which steps of activations start"
    )
    step_rate: float = Field(STEP_RATE, gt=0, lt=1, description="peak learning rate of the logarithms of learned steps")
    head: bool = Field(False, description="quantise the layers of the task's head too")
    exclude: tuple[str, ...] = Field((), description="layers whose path contains one of these stay in float")
    sensitivity: bool = Field(False, description="measure what rounding each layer costs once the training is over")

    @model_validator(mode="after")
    def _quantised_consistently(self) -> Self:
        if self.compile:
            raise ValueError("compile: true is not for layers that round: leave compile out")
        unheard = {
            "group, as no step is for a group": self.group != GROUP and self._by != "group",
            "ranges, as activations stay in float": self.ranges != "auto" and self.activations == "none",
            "symmetric_activations, as they have no static grid": not self.symmetric_activations
            and (self.activations == "none" or self._found_at_run_time),
            "calibration, as nothing is static": self.calibration != CALIBRATION and not self._static,
            "step_rate, as no step is learned": self.step_rate != STEP_RATE and not self._static and self._steps != "learned",
        }
        if told := [name for name, ignored in unheard.items() if ignored]:
            raise ValueError(f"nothing would heed {told[0]}: leave it out")
        if not self.symmetric_weights and self._found_at_run_time and self._by != "group" and self.activations != "none":
            raise ValueError("symmetric_weights: false has kernels with ranges: static or with a step for a group only")
        try:
            self.weight_grid()
        except ValidationError as error:
            raise ValueError("; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())) from None
        return self

    @property
    def _by(self) -> Literal["tensor", "channel", "group"]:
        if self.granularity != "auto":
            return self.granularity
        return "group" if self.weights in FEW else "channel"

    @property
    def _found_at_run_time(self) -> bool:
        return self.ranges == "dynamic" or (self.ranges == "auto" and self._by == "group")

    @property
    def _static(self) -> bool:
        return self.activations != "none" and not self._found_at_run_time

    @property
    def _steps(self) -> Literal["max", "mean", "learned"]:
        if self.step_sizes != "auto":
            return self.step_sizes
        if self.weights == "ternary":
            return "mean"
        return "learned" if self.weights in FEW and self.symmetric_weights else "max"

    def weight_grid(self) -> WeightGrid:
        """The grid of the weights of linear layers."""
        group = self.group if self._by == "group" else None
        return WeightGrid(
            bits=self.weights, granularity=self._by, group=group, steps=self._steps, symmetric=self.symmetric_weights
        )

    def input_grid(self) -> InputGrid | None:
        """The grid of what they read; None leaves it in float."""
        if self.activations == "none":
            return None
        if not self._found_at_run_time:
            return InputGrid(bits=self.activations, symmetric=self.symmetric_activations)
        return InputGrid(bits=self.activations, ranges="dynamic", block=self.group if self._by == "group" else None)

    @override
    def needs(self) -> Needs:
        """What the objectives need, and the edit."""
        found = super().needs()
        return replace(found, plugins={**found.plugins, "edit": ("quantize",)})

    @override
    def refuses(self, dialect: Dialect) -> Mapping[str, str]:
        """A target whose products do not run as they are simulated; one that runs the torch model simulates all of them."""
        if dialect.format == TORCH:
            return {}
        if WRITTEN not in lowering(dialect.format):
            return {
                "weights": f"quantisers are written out on the way over '{WRITTEN}', and '{dialect.format}' is made without it"
            }
        lacks = dialect.lacks(scheme_of(self.weight_grid(), self.input_grid()))
        return {"weights": lacks} if lacks else {}

    @override
    def work(self, size: Size) -> float:
        """Calibration, epochs of the student, and the teachers' answers."""
        train, validation = size.rows["train"], size.rows["validation"]
        passes, scored = self.passes(train, size.epoch), self.validated(train, size.epoch)
        calibrated = min(self.calibration, size.rows["calibration"]) + validation
        looked_at = LAYERS_IN_A_BLOCK * size.blocks * min(SENSITIVITY_ROWS, validation) if self.sensitivity else 0
        student = 3 * passes * train + (2 + scored) * validation + 2 * min(COMPARED_ROWS, validation) + calibrated + looked_at
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

        torch.manual_seed(ctx.seed)  # projections that start at random are the same ones when a killed run goes on
        student = model.copy()
        models = {name: ctx.model(name) for name in self.teachers()}
        left = self._quantise(student, ctx)
        teachers = self.taught_by(student, models, ctx)
        listening = TeacherAgreement(student, models, ctx)
        fidelity = Fidelity(model, student, ctx)
        for each in teachers:
            held_once(each.module, model.module)  # most often it is this step's own input
        log = self._trained(student, teachers, ctx)
        curves = {name: thinned(curve) for name, curve in log.losses.items()}
        ctx.note(Series(title=f"Losses by weight ({log.precision})", x="step", y="loss", curves=curves))
        for note in (*told(log, ctx), *layers_told(student, left), *fidelity.told(student)):
            ctx.note(note)
        if self.sensitivity:
            ctx.note(sensitivity(model, student, ctx))
        listening.tell(student, log.losses)
        return student

    def _trained(self, student: Model, teachers: Sequence[Teacher], ctx: Context) -> TrainingLog:
        import torch

        from compressor.model.quantization.layers import quantizers

        steps = tuple(parameter for each in quantizers(student.module) for parameter in each.parameters(recurse=False))
        training = Training(
            torch.nn.ModuleList([student.module, *projections(teachers)]),
            batches=self.batches(student, ctx, first_seed=ctx.seed),
            step=lambda batch, moment: self.losses(student.module, teachers, batch, ctx.task, moment),
            settings=self,
            learners=(Learner("steps", steps, self.step_rate),) if steps else (),
            evaluate=lambda: ctx.evaluate(student, "validation").quality,
        )
        return train(training, ctx, work="distill and quantize")

    # -------------------------------------------------------------- quantisers

    def _quantise(self, student: Model, ctx: Context) -> dict[str, str]:
        """Put quantisers in and have them start; layers that stay in float, with the reason."""
        from compressor.errors import UnsupportedModel
        from passes.quantization_aware.choice import linear_layers, table_of

        chosen, left = linear_layers(student.module, head=self.head, exclude=self.exclude)
        table, unfit = table_of(student.module, self.exclude)
        require_named(self.exclude, (*chosen, *left, *unfit, *((table,) if table else ())))
        if self.embeddings == "none":
            table, unfit = None, {}
        left |= unfit
        found = self._passing(student, chosen, ctx)
        self._called(student, chosen, found, left)
        table = self._tied(student, found, table, left)
        if not found.alike:
            raise UnsupportedModel(f"no layer of this model can be quantised ({len(left)} stay in float)")
        if table is not None:
            student.apply(Quantize(layers=((table,),), weights=WeightGrid(bits=8)))
        student.apply(Quantize(layers=found.alike, weights=self.weight_grid(), inputs=self.input_grid()))
        self._start(student, found)
        return left

    def _called(self, student: Model, chosen: Sequence[str], found: Passing, left: dict[str, str]) -> None:
        """Layers whose weights others read stay in float: nothing would round there.

        Raises:
            UnsupportedModel: the head is one of them, and the plan asks for it.
        """
        from compressor.errors import UnsupportedModel
        from passes.quantization_aware.choice import trunk_of

        missed, trunk = [path for path in chosen if path not in found.first], trunk_of(student.module)
        heads = [path for path in missed if trunk and not path.startswith(f"{trunk}.")]
        if self.head and heads and found.put_off:
            raise UnsupportedModel(
                f"head: true: logits of this task are computed from the weight of '{heads[0]}' itself, a few tokens at a time, and "
                "nothing would be rounded there: leave head out"
            )
        left |= dict.fromkeys(missed, "not called as a module")

    def _tied(self, student: Model, found: Passing, table: str | None, left: dict[str, str]) -> str | None:
        """The table, unless it is one matrix with layers that cannot be on one grid with it: a step for each row is one for each output.

        Those are taken out of what was found.
        """
        from passes.quantization_aware.choice import tied_to

        readers = tied_to(student.module, table) if table is not None else ()
        if not readers or (set(readers) <= set(found.first) and self._by == "channel" and self.weights in (7, 8)):
            return table
        left |= dict.fromkeys((str(table), *readers), "of one matrix for words and head")
        found.leave(readers)
        return None

    def _passing(self, student: Model, paths: Sequence[str], ctx: Context) -> Passing:
        from passes.quantization_aware.passing import passing
        from passes.side_files import write_side_files

        rows = ctx.data.split("calibration")
        rows = rows.select(range(min(self.calibration, len(rows))))
        files = write_side_files(student, ctx.folder / "files")
        module = student.module.to(ctx.device).eval()
        return passing(module, paths, ctx.task.batches(rows, files, batch_size=CALIBRATED_BATCH), ctx.task, ctx.device)

    @staticmethod
    def _start(student: Model, found: Passing) -> None:
        from compressor.model.quantization.layers import InputQuantizer, quantized_layers

        for path, layer in quantized_layers(student.module).items():
            if not layer.borrows:
                layer.weight_quantizer.start(layer.weight)
            if isinstance(layer.input_quantizer, InputQuantizer):
                seen = found.ranges[path]
                layer.input_quantizer.start(seen.least, seen.most, seen.mean)
