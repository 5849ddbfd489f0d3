"""What the report says of a quantised student: which layers, in how many bits, and where it departs from the model in float."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from compressor.contracts import Context, Progress, Want
from compressor.contracts.notes import Bars, Note, Remark, Table
from compressor.model.anatomy import anatomy_or_bare

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model

LOOKED_AT_ROWS = 64
MAPS = "attention maps"


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
        self._quality = (ctx.evaluate(model, "validation").quality, ctx.evaluate(student, "validation").quality)
        self._maps = self._divergences(student)

    def told(self, student: Model) -> Iterator[Note]:
        """Quality on validation in float, once rounded and once trained; divergence of attention maps by layer."""
        quality = (*self._quality, self._ctx.evaluate(student, "validation").quality)
        stages = ("input, in float", "quantised, before training", "quantised, trained")
        yield Table(
            title=f"{self._ctx.metric} on validation",
            columns=("model", self._ctx.metric),
            rows=tuple(zip(stages, (round(each, 4) for each in quality), strict=True)),
        )
        if self._maps:
            after = self._divergences(student)
            rows = tuple((block, self._maps[block], after[block]) for block in self._maps)
            yield Table(
                title=f"KL of attention maps from the input model ({LOOKED_AT_ROWS} validation rows at most)",
                columns=("layer", "before training", "trained"),
                rows=rows,
            )

    def _divergences(self, student: Model) -> dict[str, float]:
        """By layer, `KL(input || student)` of attention maps: a mean over heads and valid tokens of some validation rows."""
        import torch

        from passes.objectives.attention_maps import attention_map_loss
        from passes.side_files import write_side_files

        ctx, anatomy = self._ctx, anatomy_or_bare(student.module)
        blocks = tuple(block.id for block in anatomy.blocks if block.attention is not None)
        if not blocks or {MAPS, "features"} & set(anatomy.row.without):
            return {}
        rows = ctx.data.split("validation")
        rows = rows.select(range(min(LOOKED_AT_ROWS, len(rows))))
        files, want = write_side_files(student, ctx.folder / "files"), Want(attention_maps=blocks)
        modules = [each.module.to(ctx.device).eval() for each in (self._model, student)]
        sums, tokens = dict.fromkeys(blocks, 0.0), 0.0
        for batch in ctx.task.batches(rows, files, batch_size=16):
            with torch.no_grad():
                theirs, mine = (ctx.task.forward(module, _on(batch, ctx.device), want) for module in modules)
            count = float(mine.mask.sum()) if mine.mask is not None else 1.0
            tokens += count
            for block in blocks:
                pair = mine.attention_maps[block], theirs.attention_maps[block]
                sums[block] += count * float(attention_map_loss(*pair, mine.mask))
        return {block.rpartition(".")[2]: total / max(tokens, 1.0) for block, total in sums.items()}


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


def _on(batch: Mapping[str, torch.Tensor], device: str) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}
