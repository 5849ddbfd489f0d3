"""Int8 weights and activations with ranges from calibration rows, by the quantiser that the target runs well."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from compressor.contracts import Artifact, Context, Dialect, Feed, Needs, Pass, Progress, Recipe, Scheme, Size, Task, Wish
from compressor.contracts.statistics import paired, scale_of
from passes.quantization.levels import notes_of
from passes.quantization.quantizers.bits import Bits, sums_bytes_fast, weight_bits
from passes.quantization.quantizers.layers import Several
from passes.quantization.quantizers.weight_layers import PathPart
from passes.side_files import MAIN, carry_side_files, graphs_in

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressor.contracts import Evaluation
    from passes.quantization.quantizers.layers import Quantized, Written

SENSITIVITY_ROWS = 64
LAYERS_IN_A_BLOCK = 6
"""Quantised layers in a block of a transformer."""
STRICT = 1.0
"""Points: where no more may be lost, `init` has costly layers restored."""
CALIBRATION_PASSES = 3
"""How much longer a row takes that ranges are read from."""
LEVEL_PASSES = 2 * CALIBRATION_PASSES + 3
"""Beside them, where ranges are held against those of each level: ranges of each row, the level's own, and what three graphs give."""


class QuantizeStatic(Pass):
    """Post-training static quantisation (PTQ, W8A8): ONNX Runtime's own quantiser on ONNX, NNCF's on OpenVINO's representation."""

    version: ClassVar[int] = 9
    each_graph: ClassVar[bool] = True
    accepts: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "openvino")
    quantizes: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("onnx",)
    paper: ClassVar[str] = (
        "Jacob et al., Quantization and Training of Neural Networks for Integer-Only Inference, 2018, arXiv:1712.05877; "
        "smoothing on OpenVINO: Xiao et al., SmoothQuant, 2023, arXiv:2211.10438"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"calibration": 4},)

    weights: Bits = Field(
        default="auto",
        description="Bits of weights, stored as int8; auto: 8, or 7 where the processor lacks VNNI and sums of 8 overflow.",
    )
    activations: Literal["auto", 8] = Field(
        default="auto",
        description="Bits of activations; auto: 8, or float in OpenVINO on processors without VNNI, where it has no fast int8 products.",
    )
    calibration: int = Field(default=128, ge=1, description="Rows of the calibration split to take ranges from.")
    embeddings: bool = Field(default=True, description="Quantise embedding tables too (on ONNX; NNCF always does).")
    per_channel: bool = Field(
        default=True, description="One scale for each output channel of a weight (on ONNX; NNCF always does)."
    )
    exclude: tuple[PathPart, ...] = Field(default=(), description="Layers whose module path contains one of these stay in float.")
    sensitivity: bool = Field(
        default=False,
        description="Measure what quantising each layer costs; done without asking where max_drop needs to know it.",
    )
    levels: bool = Field(
        default=True,
        description="Of a network that is called at many levels of noise: measure which layers' ranges move with the level, and what one scale for "
        "all levels costs against scales of each level's own; it changes nothing of what is made.",
    )
    max_drop: float | None = Field(
        default=None,
        ge=0,
        description="What may be lost on validation, in points, or in per cent where the metric is no fraction; the costliest layers "
        "are restored until it holds.",
    )

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe | None:
        """Int8 always; where little may be lost, the layers that cost too much stay in float."""
        why = "int8 weights and activations"
        if wish.max_drop > STRICT:
            return Recipe({}, why, role="quantize")
        return Recipe(
            {"max_drop": wish.max_drop}, f"{why}; what costs more than that on validation rows stays in float", role="quantize"
        )

    def needs(self) -> Needs:
        """Rows to calibrate by."""
        return Needs(calls=True)

    def refuses(self, dialect: Dialect) -> Mapping[str, str]:
        """A target that says of pairs of Q and DQ that it brings them back to float: slower than the model that was."""
        wanted = Scheme("int8", "int8", "channel" if self.per_channel else "tensor")
        floats = any(each.runs(wanted) and not each.kernels and each.activations != "fp32" for each in dialect.schemes)
        lacks = dialect.lacks(wanted) if floats else ""
        return {"": f"as the plan sets it up {lacks}; leave the step out, or the target's parameters"} if lacks else {}

    def work(self, size: Size) -> float:
        """Forward passes: calibration, which writes every range, and levels; for each layer's sensitivity a few rows; what `max_drop` compares."""
        each = CALIBRATION_PASSES + (LEVEL_PASSES if self.levels and size.levels else 0)
        calibration = each * min(self.calibration, size.rows["calibration"])
        measured = self.sensitivity or self.max_drop is not None  # at most: where nothing is to be restored they are not
        sensitivity = LAYERS_IN_A_BLOCK * size.blocks * min(SENSITIVITY_ROWS, size.rows["validation"]) if measured else 0
        compared = 2 * size.rows["validation"] if self.max_drop is not None else 0
        return (calibration + (sensitivity + compared) * size.scored) * size.weights

    def apply(self, model: Artifact, ctx: Context) -> Artifact:
        """Calibrate, quantise, restore layers where `max_drop` asks for it, measure sensitivities where they are asked or needed."""
        out = carry_side_files(model.path, ctx.folder / "quantized", several=True)
        if self.activations == "auto" and model.format == "openvino" and not sums_bytes_fast():
            return self._weights_only(model, out, ctx)
        search = _Search(self, self._quantized(model, ctx), model, ctx)
        restored = search.restored() if self.max_drop is not None else ()
        if self.sensitivity or restored:
            search.show(restored)
        search.quantized.write(out, restored)
        return Artifact(model.format, out)

    def _weights_only(self, model: Artifact, out: Path, ctx: Context) -> Artifact:
        from compressor.contracts.notes import Remark
        from passes.quantization.quantizers import nncf

        for name in graphs_in(model.path):
            nncf.compress_weights(model.path / f"{name}.xml", out / f"{name}.xml", self.exclude, named=name == MAIN)
        ctx.note(
            Remark(
                text="Activations stay in float: this processor has no VNNI, and OpenVINO's int8 products without it are slower than "
                "float. NNCF compressed weights and embeddings to int8; calibration, sensitivity and max_drop have no part "
                "in that. `activations: 8` quantises activations all the same."
            )
        )
        return Artifact(model.format, out)

    def _quantized(self, model: Artifact, ctx: Context) -> Written:
        """Each graph by rows that it is asked for."""
        names, found = graphs_in(model.path), dict[str, "Quantized"]()
        for name in names:
            which = {} if name == MAIN else {"graph": name}
            rows = ctx.feeds(model, "calibration", limit=self.calibration, **which)
            quantized = partial(self._graph, model, name, ctx, one_of_several=len(names) > 1)
            found[name] = quantized(rows)
            for note in notes_of(found[name], quantized, rows, ctx.task, name if len(names) > 1 else "") if self.levels else ():
                ctx.note(note)
        return Several(found) if len(names) > 1 else found[MAIN]

    def _graph(self, model: Artifact, name: str, ctx: Context, rows: Sequence[Feed], *, one_of_several: bool) -> Quantized:
        bits, named = weight_bits(self.weights, ctx), name == MAIN
        if model.format == "openvino":
            from passes.quantization.quantizers import nncf

            file = model.path / f"{name}.xml"
            return nncf.quantize_static(file, rows, bits=bits, exclude=self.exclude, one_of_several=one_of_several, named=named)
        from passes.quantization.quantizers import onnxruntime

        return onnxruntime.quantize_static(
            model.path / f"{name}.onnx",
            rows,
            named=named,
            bits=bits,
            per_channel=self.per_channel,
            embeddings=self.embeddings,
            exclude=self.exclude,
            signed=ctx.dialect is not None and ctx.dialect.activations == "signed",
            symmetric=ctx.dialect is not None and ctx.dialect.symmetric_activations,
        )


class Cost(NamedTuple):
    """What quantising a layer adds to the difference from float: the mean over rows, and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class _Search:
    """What each layer costs, and which are worth restoring."""

    step: QuantizeStatic
    quantized: Written
    model: Artifact
    ctx: Context

    def written(self, left_in_float: Collection[str]) -> Artifact:
        """The quantised graph, some layers left as they were."""
        folder = carry_side_files(self.model.path, self.ctx.folder / "tried", several=True)
        self.quantized.write(folder, left_in_float)
        return Artifact(self.model.format, folder)

    @cached_property
    def sensitivities(self) -> dict[str, Cost]:
        """By layer: how much difference from the float graph goes away when it alone stays in float."""
        import numpy as np

        exact, layers = self._outputs(self.model), self.quantized.layers
        apart, _ = difference_by(self.ctx.task)
        whole = apart(exact, self._outputs(self.written(())))
        costs = {}
        for done, layer in enumerate(layers, start=1):
            other = apart(exact, self._outputs(self.written((layer,))))
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by a verdict, not warned of
                gone = whole - other
                costs[layer] = Cost(*paired(gone, None, self.ctx.seed, binary=False)[:3])
            self.ctx.tell(Progress("sensitivity", done, len(layers), "layers"))
        return costs

    def restored(self) -> tuple[str, ...]:
        """The costliest layers, as many as `max_drop` asks for; what they cost is measured where that is more than none."""
        if self._lost(()) <= self._most:
            return ()
        worst = sorted(self.sensitivities, key=lambda layer: -self.sensitivities[layer].mean)
        return next(
            (left for left in (tuple(worst[:n]) for n in range(1, len(worst))) if self._lost(left) <= self._most), tuple(worst)
        )

    @property
    def _most(self) -> float:
        assert self.step.max_drop is not None
        return self.step.max_drop

    def _lost(self, left_in_float: Collection[str]) -> float:
        """On validation, in the unit of `max_drop`."""
        exact, found = self._exact, self.ctx.evaluate(self.written(left_in_float), "validation")
        return scale_of(exact.scores.main) * (exact.quality - found.quality)

    @cached_property
    def _exact(self) -> Evaluation:
        return self.ctx.evaluate(self.model, "validation")

    def show(self, restored: tuple[str, ...]) -> None:
        from compressor.contracts.notes import Bars

        self.ctx.note(
            Bars(
                title=f"Sensitivity: difference from float that quantising each layer adds ({SENSITIVITY_ROWS} validation rows)",
                unit=difference_by(self.ctx.task)[1],
                values={layer: cost.mean for layer, cost in self.sensitivities.items()},
                intervals={layer: (cost.low, cost.high) for layer, cost in self.sensitivities.items()},
                marked=restored,
                mark="restored to float" if restored else "",
            )
        )

    def _outputs(self, model: Artifact) -> NDArray[np.float32]:
        return self.ctx.outputs(model, "validation", limit=SENSITIVITY_ROWS)


def difference_by(task: Task) -> tuple[Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]], str]:
    """What tells how far the outputs of each row are from those of the float graph, and its unit."""
    return (divergence, "KL") if task.gives_logits() else (square_difference, "mean square difference")


def square_difference(exact: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean square difference of each row's outputs that are no distribution over classes: numbers, features, logits of many labels."""
    import numpy as np

    found: NDArray[np.float64] = np.square(exact.astype(np.float64) - other).reshape(len(exact), -1).mean(-1)
    return found


def divergence(exact: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(exact || other) of each row's logits of classes that exclude each other."""
    import numpy as np
    from scipy.special import log_softmax

    p: NDArray[np.float64] = log_softmax(exact, axis=-1)
    q: NDArray[np.float64] = log_softmax(other, axis=-1)
    found: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(-1).reshape(len(exact), -1).mean(-1)
    return found
