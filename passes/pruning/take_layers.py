"""Take some layers of a model, by their place alone: a smaller one to train, which begins with what the larger one knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field
from typing_extensions import override

from compressor.contracts import Context, Needs, Pass
from compressor.contracts.notes import Remark
from compressor.errors import UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.edits import KeepBlocks
from passes.objectives.layer_maps import ids, spread

if TYPE_CHECKING:
    from compressor.contracts import Model

Which: TypeAlias = Literal["first", "last", "uniform", "both-ends"]


def places(which: Which, count: int, total: int) -> tuple[int, ...]:
    """Numbers of `count` layers out of `total`: the first or last ones, evenly spaced ones that end with the last, or of both ends, of
    the first one more where the count is odd.

    Raises:
        UnsupportedModel: there are fewer.
    """
    if count > total:
        raise UnsupportedModel(f"the student is to take {count} layers of a model that has {total}")
    if which == "uniform":
        return spread(count, total)
    head = {"first": count, "last": 0, "both-ends": -(-count // 2)}[which]
    return (*range(head), *range(total - count + head, total))


def take(model: Model, which: Which, count: int) -> tuple[int, ...]:
    """Cut a model down to some of its layers, and tell which.

    Raises:
        UnsupportedModel: it has fewer, or none that are known.
    """
    blocks = ids(anatomy_of(model.module))
    chosen = places(which, count, len(blocks))
    model.apply(KeepBlocks(blocks=tuple(blocks[at] for at in chosen)))
    return chosen


class TakeLayers(Pass):
    """Keep some layers by their place, without measuring; train the model afterwards."""

    paper: ClassVar[str] = (
        "Sanh et al., DistilBERT, 2019, arXiv:1910.01108 (every other layer); Sajjad et al., On the Effect of Dropping Layers of "
        "Pre-trained Transformer Models, 2020, arXiv:2004.03844"
    )
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"layers": 1},)

    layers: int = Field(ge=1, description="how many are kept")
    which: Which = Field("uniform", description="the first, the last, evenly spaced ones, or those of both ends")

    @override
    def needs(self) -> Needs:
        """Layers, and the edit that keeps some."""
        return Needs(plugins={"edit": ("keep-blocks",)}, inside=("layers",))

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """A model of fewer layers.

        Raises:
            UnsupportedModel: it has fewer than are to be kept.
        """
        kept = model.copy()
        chosen = take(kept, self.which, self.layers)
        ctx.note(Remark(text=f"Layers {', '.join(map(str, chosen))} are kept, counted from 0."))
        return kept
