"""Int8 weights and activations with ranges from calibration rows, by the quantiser that the target runs well."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compressor.contracts import Artifact, Context, Evaluation, Pass, Progress
from passes.side_files import carry_side_files

if TYPE_CHECKING:
    from passes.quantizers.onnxruntime import Calibrated

SENSITIVITY_ROWS = 64


class QuantizeStatic(Pass):
    """Post-training static quantisation: ONNX Runtime's own quantiser on ONNX, NNCF's on OpenVINO's representation."""

    accepts: ClassVar[tuple[str, ...]] = ("onnx", "openvino")
    quantizes: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("onnx",)

    weights: Literal[8] = Field(default=8, description="Bits of weights.")
    activations: Literal[8] = Field(default=8, description="Bits of activations.")
    calibration: int = Field(default=128, ge=1, description="Rows of the calibration split to take ranges from.")
    embeddings: bool = Field(default=True, description="Quantise embedding tables too (on ONNX; NNCF always does).")
    per_channel: bool = Field(
        default=True, description="One scale for each output channel of a weight (on ONNX; NNCF always does)."
    )
    exclude: tuple[str, ...] = Field(
        default=(), description="Layers whose module path contains one of these stay in float (on ONNX)."
    )
    sensitivity: bool = Field(default=True, description="Measure what each layer costs (on ONNX).")
    max_drop: float | None = Field(
        default=None,
        ge=0,
        le=100,
        description="Points that may be lost on validation; the costliest layers are restored until it holds (on ONNX).",
    )

    def apply(self, model: Artifact, ctx: Context) -> Artifact:
        """Calibrate, quantise, measure sensitivities, restore layers where `max_drop` asks for it."""
        out = ctx.folder / "quantized"
        out.mkdir(parents=True, exist_ok=True)
        feeds = ctx.feeds(model, "calibration", limit=self.calibration)
        if model.rung == "openvino":
            from compressor.records import Remark
            from passes.quantizers import nncf

            nncf.quantize_static(model.path / "model.xml", out / "model.xml", feeds)
            ctx.note(
                Remark(
                    text=f"NNCF quantised weights, embeddings and activations from {len(feeds)} rows; "
                    "sensitivities are measured on the ONNX rung only."
                )
            )
        else:
            self._on_onnx(model, out, ctx, feeds)
        return Artifact(model.rung, carry_side_files(model.path, out))

    def _on_onnx(self, model: Artifact, out: Any, ctx: Context, feeds: Any) -> None:
        import onnx

        from passes.quantizers import onnxruntime

        calibrated = onnxruntime.calibrate(model.path / "model.onnx", feeds, exclude=self.exclude)
        search = _Search(self, calibrated, model, ctx)
        costs = search.sensitivities() if self.sensitivity or self.max_drop is not None else {}
        restored = search.restored(costs) if self.max_drop is not None else ()
        if costs:
            search.show(costs, restored)
        onnx.save(search.graph(restored), out / "model.onnx")


@dataclass(frozen=True)
class _Search:
    """What each layer costs, and which are worth restoring."""

    step: QuantizeStatic
    calibrated: Calibrated
    model: Artifact
    ctx: Context

    def graph(self, left_in_float: Iterable[str]) -> Any:
        from passes.quantizers.onnxruntime import quantize_embeddings, quantize_static

        dialect = self.ctx.dialect
        graph = quantize_static(
            self.calibrated,
            left_in_float=left_in_float,
            per_channel=self.step.per_channel,
            signed=dialect is not None and dialect.activations == "signed",
            symmetric=dialect is not None and dialect.symmetric_activations,
        )
        if self.step.embeddings:
            quantize_embeddings(graph)
        return graph

    def evaluate(self, left_in_float: Iterable[str], *, limit: int | None) -> Evaluation:
        import onnx

        folder = carry_side_files(self.model.path, self.ctx.folder / "tried")
        onnx.save(self.graph(left_in_float), folder / "model.onnx")
        return self.ctx.evaluate(Artifact("onnx", folder), "validation", limit=limit)

    def sensitivities(self) -> dict[str, float]:
        """By layer: how much divergence from the float graph goes away when it alone stays in float."""
        exact = self.ctx.evaluate(self.model, "validation", limit=SENSITIVITY_ROWS)
        layers = list(self.calibrated.layers)
        whole = _divergence(exact, self.evaluate((), limit=SENSITIVITY_ROWS))
        costs = {}
        for done, layer in enumerate(layers, start=1):
            costs[layer] = whole - _divergence(exact, self.evaluate((layer,), limit=SENSITIVITY_ROWS))
            self.ctx.tell(Progress("sensitivity", done, len(layers), "layers"))
        return costs

    def restored(self, costs: dict[str, float]) -> tuple[str, ...]:
        """The costliest layers, as many as `max_drop` asks for."""
        assert self.step.max_drop is not None
        exact = self.ctx.evaluate(self.model, "validation").scores.main.value
        worst = sorted(costs, key=lambda layer: -costs[layer])
        for count in range(len(worst) + 1):
            left = tuple(worst[:count])
            if 100 * (exact - self.evaluate(left, limit=None).scores.main.value) <= self.step.max_drop:
                return left
        return tuple(worst)

    def show(self, costs: dict[str, float], restored: tuple[str, ...]) -> None:
        from compressor.records import Bars

        self.ctx.note(
            Bars(
                title=f"Sensitivity: divergence that quantising each layer adds ({SENSITIVITY_ROWS} validation rows)",
                unit="KL",
                values=costs,
                marked=restored,
                mark="restored to float" if restored else "",
            )
        )


def _divergence(exact: Evaluation, other: Evaluation) -> float:
    """Mean KL(exact || other) over rows."""
    from scipy.special import log_softmax

    p, q = log_softmax(exact.outputs, axis=-1), log_softmax(other.outputs, axis=-1)
    return float((_exp(p) * (p - q)).sum(-1).mean())


def _exp(values: Any) -> Any:
    import numpy as np

    return np.exp(values)
