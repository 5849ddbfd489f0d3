"""What the report says of a quantised student: which layers, in how many bits, and where it departs from the model in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from compressor.contracts import Context, Progress
from compressor.contracts.notes import Bars, Note, Remark, Table
from passes.quantization_aware.maps import LOOKED_AT_ROWS, TOP, Apart, maps_apart

if TYPE_CHECKING:
    from compressor.contracts import Model


def layers_told(student: Model, left: Mapping[str, str]) -> Iterator[Note]:
    """What is quantised how, and what is not and why."""
    from compressor.model.quantization.layers import InputQuantizer, quantized_layers

    kinds = Counter[tuple[str, str]]()
    for layer in quantized_layers(student.module).values():
        inputs = layer.input_quantizer
        read = inputs.grid.told() if isinstance(inputs, InputQuantizer) else "activations float"
        kinds[layer.weight_quantizer.grid.told(), read] += 1
    rows = tuple((count, *told) for told, count in kinds.items())
    yield Table(title="Quantised layers", columns=("layers", "weights", "activations"), rows=rows)
    if left:
        why = Counter(left.values())
        yield Remark(
            text="In float: "
            + "; ".join(f"{count} layers {reason}" for reason, count in why.items())
            + "; norms, biases, positions."
        )


class Fidelity:
    """Where a student departs from the model that it was, before its training and after."""

    def __init__(self, model: Model, student: Model, ctx: Context) -> None:
        """`student` is quantised and not trained yet."""
        self._model, self._ctx = model, ctx
        self._scores = (self._scored(model), self._scored(student))
        self._maps = maps_apart(model, student, ctx)

    def told(self, student: Model) -> Iterator[Note]:
        """Quality on validation in float, once rounded and once trained; divergence of attention maps by layer."""
        scores = (*self._scores, self._scored(student))
        stages = ("input, in float", "quantised, before training", "quantised, trained")
        yield Table(
            title=f"{self._ctx.metric} on validation",
            columns=("model", self._ctx.metric),
            rows=tuple(zip(stages, (round(each, 4) for each in scores), strict=True)),
        )
        if self._maps:
            yield from _attention_told(self._maps, maps_apart(self._model, student, self._ctx))

    def _scored(self, model: Model) -> float:
        """The metric itself: of a perplexity, less is better."""
        return self._ctx.evaluate(model, "validation").scores.main.value


def _attention_told(before: Mapping[str, Apart], trained: Mapping[str, Apart]) -> Iterator[Note]:
    """By layer, and by head of each layer: where attention departs from the input's, and between which values it writes."""
    rows = f"{LOOKED_AT_ROWS} rows at most"
    yield Table(
        title=f"Attention of the input model: its maps, and the {TOP} keys that each token attends to most ({rows})",
        columns=("layer", "KL before training", "KL trained", "keys kept before training", "keys kept trained"),
        rows=tuple(
            (layer, each.divergence, trained[layer].divergence, each.coverage, trained[layer].coverage)
            for layer, each in before.items()
        ),
    )
    most = max(len(each.heads) for each in trained.values())
    yield Table(
        title=f"KL of attention maps from the input's, trained, by layer and head ({rows})",
        columns=("layer", *(f"head {head}" for head in range(most))),
        rows=tuple((layer, *each.heads, *(None,) * (most - len(each.heads))) for layer, each in trained.items()),
    )
    yield Table(
        title=f"Ranges of what attention adds, over valid tokens ({rows})",
        columns=("layer", "least, input", "least, trained", "greatest, input", "greatest, trained"),
        rows=tuple(
            (layer, each.theirs.least, each.mine.least, each.theirs.most, each.mine.most)
            for layer, each in trained.items()
            if each.theirs.least <= each.theirs.most
        ),
    )


def sensitivity(model: Model, student: Model, ctx: Context) -> Note:
    """What rounding each layer adds to the difference from the input, once trained: how much goes away when it alone is in float."""
    import numpy as np

    from compressor.contracts.statistics import paired
    from compressor.model.quantization.layers import in_float, quantized_layers
    from passes.quantization.quantize_static import SENSITIVITY_ROWS, difference_by

    apart, unit = difference_by(ctx.task)
    exact, rounded = (ctx.outputs(each, "validation", limit=SENSITIVITY_ROWS) for each in (model, student))
    whole, values, intervals = apart(exact, rounded), dict[str, float](), dict[str, tuple[float, float]]()
    layers = quantized_layers(student.module)
    for done, (path, layer) in enumerate(layers.items(), start=1):
        with in_float(layer):
            other = apart(exact, ctx.outputs(student, "validation", limit=SENSITIVITY_ROWS))
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told by a verdict, not warned of
            values[path], *interval = paired(whole - other, None, ctx.seed, binary=False)[:3]
        intervals[path] = (interval[0], interval[1])
        ctx.tell(Progress("sensitivity", done, len(layers), "layers"))
    title = f"Sensitivity: difference from the input model that rounding each layer adds ({SENSITIVITY_ROWS} validation rows)"
    return Bars(title=title, unit=unit, values=values, intervals=intervals)
