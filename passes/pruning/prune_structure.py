"""Structured pruning: remove the heads, feed-forward neurons or layers that matter least until a budget is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Context, Needs, Pass, Recipe, Size, Wish
from compressor.contracts.anatomy import Anatomy, Units
from compressor.contracts.notes import Bars, Remark, Table
from compressor.contracts.read_again import ReadAgain
from compressor.errors import CompressorError, UnsupportedModel
from compressor.model.anatomy import anatomy_of
from passes.pruning import ranking as removal
from passes.pruning.costs import Site, macs_cost, saved, weights_cost
from passes.pruning.importance import Importance, Scores, data_scores, magnitude_scores, random_scores, some_batches
from passes.pruning.latency_budget import LatencyBudget, Share, prune_to_latency
from passes.pruning.ranking import Cost, Kind, Ladder

if TYPE_CHECKING:
    from compressor.contracts import Model

RUNGS = {2.0: 0.75, 5.0: 0.5}
"""The share of heads and neurons that `init` keeps, by what may be lost from there on: points that such cuts are worth trying for."""

BESIDE_WIDTHS = ("units", "scope", "round_to", "min_heads")
"""What widths leave nothing to say of."""


class PruneStructure(ReadAgain, Pass):
    """Remove attention heads, feed-forward neurons or whole layers, the least important first, until a budget is met."""

    version: ClassVar[int] = 2
    renamed: ClassVar[Mapping[str, str]] = {"what": "units"}
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    paper: ClassVar[str] = (
        "taylor: Michel et al., Are Sixteen Heads Really Better than One?, 2019, arXiv:1905.10650, and Molchanov et al., "
        "Importance Estimation for Neural Network Pruning, 2019, arXiv:1906.10771; layers by activation: Men et al., ShortGPT, "
        "2024, arXiv:2403.03853; latency tables: after Shen et al., HALP, 2021, arXiv:2110.10811"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"keep": 0.5, "round_to": 8},)

    units: tuple[Kind, ...] = Field(("heads", "neurons"), min_length=1, description="what may be removed")
    importance: Importance = Field("taylor", description="taylor and activation look at training rows")
    scope: Literal["global", "layer"] = Field("global", description="rank over all blocks, or keep the same share in each")
    keep: Share | dict[Kind, Share] | None = Field(
        None, description="share of what may be removed that stays, by parameters; or a share by kind of unit"
    )
    parameters: float | None = Field(None, gt=0, description="parameters of the whole model: a fraction below 1, or their number")
    macs: Share | None = Field(None, description="fraction of the blocks' multiply-accumulates")
    latency: LatencyBudget | None = Field(None, description="a latency to reach, measured on a target of the plan")
    widths: dict[Literal["heads", "neurons"], tuple[Annotated[int, Field(ge=0)], ...]] | None = Field(
        None, min_length=1, description="how many units stay, by kind and block: another model's shape, say"
    )
    tokens: int = Field(128, ge=1, description="length of a row when multiply-accumulates are counted: tokens, patches or frames")
    round_to: int = Field(16, ge=1, description="feed-forward widths become multiples of this")
    min_heads: int = Field(1, ge=0, description="heads that stay in every block")
    rows: int = Field(512, ge=1, description="training rows that importance is estimated on")
    batch_size: int = Field(16, ge=1, description="rows a step while importance is estimated")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [name for name in ("keep", "parameters", "macs", "latency", "widths") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of keep, parameters, macs, latency and widths, found {' and '.join(given) or 'none'}"
            )
        if self.widths is not None and (beside := self.model_fields_set & set(BESIDE_WIDTHS)):
            raise ValueError(f"widths says all: leave {', '.join(sorted(beside))} out")
        if len(set(self.units)) < len(self.units):
            raise ValueError(f"units names a kind twice: {', '.join(self.units)}")
        if isinstance(self.keep, dict):
            if "units" in self.model_fields_set and set(self.keep) != set(self.units):
                raise ValueError(f"keep speaks of {', '.join(self.keep)} and units of {', '.join(self.units)}; leave `units` out")
        elif "layers" in self.units and len(self.units) > 1:
            raise ValueError("layers go beside heads or neurons only with a share of each: keep: {layers: 0.5, heads: 0.5}")
        if self.parameters is not None and 1 <= self.parameters != int(self.parameters):
            raise ValueError(f"parameters is a fraction below 1 or a whole number, found {self.parameters}")
        return self

    @override
    def unheeded(self) -> tuple[str, ...]:
        """Units where widths or shares name them, and what bounds them where widths say all."""
        if self.widths is not None:
            return BESIDE_WIDTHS
        return ("units",) if isinstance(self.keep, dict) and set(self.keep) != set(self.units) else ()

    @classmethod
    @override
    def recipe(cls, wish: Wish) -> Recipe | None:
        """Some heads and neurons may go where much may be lost; by gradients where the task has a loss."""
        least = max((drop for drop in RUNGS if drop <= wish.max_drop), default=None)
        units = [kind for kind in ("heads", "neurons") if wish.without is not None and kind not in wish.without]
        if least is None or not units:
            return None
        chosen = {} if len(units) == 2 else {"units": units}
        importance = {} if wish.task.trainable else {"importance": "activation"}
        why = f"{RUNGS[least]:.0%} of the {' and '.join(units)} stay, those that matter most; from {least:g} points on that is worth a try"
        return Recipe({"keep": RUNGS[least], **chosen, **importance}, why, role="shrink")

    @override
    def needs(self) -> Needs:
        """The units that may go with their edits, the clock of a latency budget, and for Taylor importance the task's loss."""
        return Needs(
            targets=(self.latency.target,) if self.latency else (),
            workloads=(self.latency.workload,) if self.latency else (),
            plugins={"edit": ("keep-heads", "keep-neurons", "keep-blocks")},
            loss=self.importance == "taylor",
            inside=tuple(kind for kinds in self._rounds() for kind in kinds),
        )

    @override
    def work(self, size: Size) -> float:
        """Passes over the rows that importance is estimated on, three with gradients."""
        passes = {"taylor": 3, "activation": 1}.get(self.importance, 0)
        return (1 + passes * min(self.rows, size.rows["train"])) * size.weights

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """A smaller copy of `model`.

        Raises:
            UnsupportedModel: the model has no such units.
            CompressorError: the budget cannot be met.
        """
        pruned = model.copy()
        for kinds in self._rounds():
            pruned = self._round(pruned, kinds, ctx)
        return pruned

    def _rounds(self) -> tuple[tuple[Kind, ...], ...]:
        """Layers go first: what is left is then looked at anew."""
        kinds = tuple(self.widths or (self.keep if isinstance(self.keep, dict) else self.units))
        layers = tuple(kind for kind in kinds if kind == "layers")
        others = tuple(kind for kind in kinds if kind != "layers")
        return tuple(each for each in (layers, others) if each)

    def _round(self, model: Model, kinds: tuple[Kind, ...], ctx: Context) -> Model:
        anatomy = anatomy_of(model.module)
        for kind in kinds:
            if not anatomy.units((kind,)):
                raise UnsupportedModel(f"this {anatomy.family} model has no {kind} to remove")
        scores = self._scores(model, anatomy, kinds, ctx)
        ladders = tuple(self._ladder(units, values) for units, values in scores.items())
        site = Site(model, anatomy, ladders, ctx)
        if self.latency:
            taken, pruned = prune_to_latency(site, self.latency, self._shed)
        else:
            taken = self._to_size(site)
            pruned = site.pruned(taken)
        _tell(site, taken, pruned, scores)
        return pruned

    def _ladder(self, units: Units, scores: Sequence[float]) -> Ladder:
        assert units.kind in ("heads", "neurons", "layers")
        kind: Kind = units.kind
        if self.widths is not None:
            return removal.ladder(kind, units.where, scores, least=0)
        round_to = self.round_to if kind == "neurons" else 1
        return removal.ladder(kind, units.where, scores, round_to=round_to, least=self.min_heads if kind == "heads" else 1)

    # -------------------------------------------------------------- importance

    def _scores(self, model: Model, anatomy: Anatomy, kinds: Sequence[Kind], ctx: Context) -> Scores:
        if self.importance == "random":
            return random_scores(anatomy, kinds, seed=ctx.seed)
        if self.importance == "magnitude":
            return magnitude_scores(model.module, anatomy, kinds)
        module: Any = model.copy().module
        module.to(ctx.device).eval().requires_grad_(self.importance == "taylor")
        batches = some_batches(model, ctx, rows=self.rows, batch_size=self.batch_size)
        return data_scores(module, anatomy, kinds, importance=self.importance, task=ctx.task, batches=batches)

    # -------------------------------------------------------------- budgets

    def _to_size(self, site: Site) -> tuple[int, ...]:
        """Rungs to take so that `keep`, `parameters`, `macs` or `widths` is met."""
        module, anatomy, ladders = site.model.module, site.anatomy, site.ladders
        if self.widths is not None:
            return _to_widths(ladders, self.widths)
        weights = weights_cost(module, anatomy)
        if self.keep is not None:
            return self._to_share(ladders, weights, self.keep)
        if self.macs is not None:
            cost = macs_cost(module, anatomy, tokens=self.tokens)
            everything = [self._ladder(units, [0.0] * units.count) for units in anatomy.units(("heads", "neurons"))]
            before = removal.total(everything, cost, [0] * len(everything))
            return self._to_limit(ladders, cost, before=before, limit=self.macs * before, unit="multiply-accumulates")
        assert self.parameters is not None
        limit = self.parameters * site.model.weights if self.parameters < 1 else self.parameters
        return self._to_limit(ladders, weights, before=site.model.weights, limit=limit, unit="parameters")

    def _to_share(self, ladders: Sequence[Ladder], cost: Cost, keep: float | Mapping[Kind, float]) -> tuple[int, ...]:
        """Rungs to take so that the share that stays is as near to `keep` as the ladders allow."""
        if isinstance(keep, Mapping):
            by_kind = {kind: [each for each in ladders if each.kind == kind] for kind in keep}
            rungs = {kind: iter(self._to_share(mine, cost, keep[kind])) for kind, mine in by_kind.items() if mine}
            return tuple(next(rungs[each.kind]) for each in ladders)
        if self.scope == "layer" or ladders[0].kind == "layers":
            return removal.share(ladders, keep)
        before = removal.total(ladders, cost, [0] * len(ladders))
        return removal.shed(ladders, cost, (1 - keep) * before, nearest=True)

    def _to_limit(self, ladders: Sequence[Ladder], cost: Cost, *, before: float, limit: float, unit: str) -> tuple[int, ...]:
        taken = self._shed(ladders, cost, before - limit)
        after = before - saved(ladders, cost, taken)
        if after > limit * (1 + 1e-9):
            raise CompressorError(
                f"{unit} cannot come down to {limit:,.0f}: {before:,.0f} now, {after:,.0f} with all gone that may go "
                f"({', '.join(dict.fromkeys(each.kind for each in ladders))}); raise the budget or lower min_heads or round_to"
            )
        return taken

    def _shed(self, ladders: Sequence[Ladder], cost: Cost, excess: float) -> tuple[int, ...]:
        return (removal.shed if self.scope == "global" else removal.uniform)(ladders, cost, excess)


def _to_widths(ladders: Sequence[Ladder], widths: Mapping[Literal["heads", "neurons"], Sequence[int]]) -> tuple[int, ...]:
    """Rungs to take so that so many units stay in each block."""
    for kind, counts in widths.items():
        mine = [each for each in ladders if each.kind == kind]
        if len(counts) != len(mine):
            raise CompressorError(f"widths.{kind} has {len(counts)} numbers, the model has {kind} in {len(mine)} blocks")
        for each, count in zip(mine, counts, strict=True):
            if count > each.units:
                raise CompressorError(f"widths.{kind}: {count} are to stay in {each.block}, which has {each.units}")
    left = {kind: iter(counts) for kind, counts in widths.items()}
    return tuple(each.units - next(left[each.kind]) for each in ladders)  # type: ignore[index]


def _tell(site: Site, taken: Sequence[int], pruned: Model, scores: Scores) -> None:
    before, after = site.model.weights, pruned.weights
    left = [each.count(rungs) for each, rungs in zip(site.ladders, taken, strict=True)]
    counts = []
    for kind in dict.fromkeys(each.kind for each in site.ladders):
        mine = [(each.units, count) for each, count in zip(site.ladders, left, strict=True) if each.kind == kind]
        counts.append(f"{sum(count for _, count in mine):,} of {sum(units for units, _ in mine):,} {kind}")
    text = f"Kept {' and '.join(counts)}: {after:,} of {before:,} parameters ({after / before:.1%})."
    site.ctx.note(Remark(text=text))
    site.ctx.note(_widths(site, left))
    for kind in dict.fromkeys(each.kind for each in site.ladders):
        site.ctx.note(_bars(site, kind, taken, scores))


def _widths(site: Site, left: Sequence[int]) -> Table:
    rows = tuple((each.block, each.kind, each.units, count) for each, count in zip(site.ladders, left, strict=True))
    return Table(title="What is left in each block", columns=("block", "kind", "before", "after"), rows=rows)


def _bars(site: Site, kind: Kind, taken: Sequence[int], scores: Scores) -> Bars:
    """Importance of every head or layer, those that went marked; of neurons, which are many, the mean by block."""
    values: dict[str, float] = {}
    gone: list[str] = []
    by_place = {(units.kind, units.where): values for units, values in scores.items()}
    for ladder, rungs in zip(site.ladders, taken, strict=True):
        if ladder.kind != kind:
            continue
        mine, number = by_place[kind, ladder.block], ladder.block.removeprefix(f"{site.anatomy.stack}.")
        if kind == "neurons":
            values[f"layer {number}"] = sum(mine) / len(mine)
            continue
        labels = [f"layer {unit}" if kind == "layers" else f"layer {number} head {unit}" for unit in range(ladder.units)]
        values |= dict(zip(labels, mine, strict=True))
        kept = set(ladder.kept(rungs))
        gone += [label for unit, label in enumerate(labels) if unit not in kept]
    what = "neurons, mean by block" if kind == "neurons" else kind
    return Bars(
        title=f"Importance of {what}", unit="importance", values=values, marked=tuple(gone), mark="removed" if gone else ""
    )
