"""Before and after: sizes by layer, F1 by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.contracts.records import Candidate, ClassScore
from compressor.report import wording
from compressor.report.axes import beside
from compressor.report.drawing import (
    ACCENT,
    INK,
    MUTED,
    PAPER,
    SECOND,
    SECOND_SOFT,
    Chart,
    bare,
    draw,
)
from compressor.report.findings import Findings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 30
MOST_LAYERS = 60


@dataclass(frozen=True)
class Sizes:
    """Bytes by part of a model, under the name of its stage."""

    name: str
    bytes: Mapping[str, int]


def layers(findings: Findings, target: str) -> Chart | None:
    """Bytes by part of the model, before and after: of what is deployed, where the built files say it, else of the torch model."""
    return _deployed(findings, target) or _of_torch(findings, target)


def _deployed(findings: Findings, target: str) -> Chart | None:
    final = findings.candidates.get(f"final@{target}")
    others = [each for each in findings.report.candidates if each.target == target and each is not final and each.layer_bytes]
    if final is None or not final.layer_bytes or not others:
        return None
    before, after = Sizes(others[0].stage, others[0].layer_bytes), Sizes(final.stage, final.layer_bytes)
    caption = f"Bytes of the weights of each part in the files of {others[0].id} and {final.id}, which have "
    caption += f"{wording.size(others[0].bytes)} and {wording.size(final.bytes)} in all."
    return _drawn(target, before, after, title=f"Deployed on {target}, by layer", caption=caption)


def _of_torch(findings: Findings, target: str) -> Chart | None:
    stages = [
        stage
        for stage in findings.report.stages
        if stage.target in (None, target) and stage.layer_bytes and not stage.rolled_back
    ]
    if len(stages) < 2:
        return None
    before, after = (Sizes(stage.name, stage.layer_bytes) for stage in (stages[0], stages[-1]))
    return _drawn(
        target,
        before,
        after,
        title=f"Torch model by layer, before it is built for {target}",
        caption=_of_the_torch_model(findings, target, before.name, after.name),
    )


def _drawn(target: str, before: Sizes, after: Sizes, *, title: str, caption: str) -> Chart:
    names = list(dict.fromkeys((*before.bytes, *after.bytes)))
    shown = names if len(names) <= MOST_LAYERS else sorted(names, key=lambda name: -before.bytes.get(name, 0))[:MOST_LAYERS]
    caption += f" The {len(shown)} largest of {len(names)} parts." if len(shown) < len(names) else ""
    return draw(
        f"layers-{target}",
        lambda figure: _paint_layers(figure, before, after, shown),
        title=title,
        caption=caption,
        height_inches=1.0 + 0.32 * len(shown),
    )


def _paint_layers(figure: Figure, before: Sizes, after: Sizes, shown: Sequence[str]) -> None:
    axes = figure.subplots()
    bare(axes, grid="x")
    places = range(len(shown))
    olds, news = ([sizes.bytes.get(name, 0) / 1e6 for name in shown] for sizes in (before, after))
    hollow = {"color": SECOND_SOFT, "edgecolor": SECOND, "hatch": "////", "lw": 0.7, "label": before.name}
    axes.barh([place - 0.19 for place in places], olds, 0.36, **hollow)  # type: ignore[arg-type]
    axes.barh([place + 0.19 for place in places], news, 0.36, color=ACCENT, edgecolor=ACCENT, lw=0.7, label=after.name)
    _annotated(axes, olds, news)
    axes.set_yticks(places, [wording.shortened(name, 40) for name in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlabel("MB")
    figure.legend(loc="outside upper left", ncols=2)


def _annotated(axes: Axes, olds: Sequence[float], news: Sequence[float]) -> None:
    for place, (old, new) in enumerate(zip(olds, news, strict=True)):
        axes.annotate(
            f"{wording.significant(old)} → {wording.significant(new)}",
            (max(old, new), place),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=MUTED,
            fontsize=7.5,
        )


def _of_the_torch_model(findings: Findings, target: str, before: str, after: str) -> str:
    candidate = findings.candidates.get(f"final@{target}")
    deployed = f" What {target} deploys has {wording.size(candidate.bytes)} in all." if candidate and candidate.bytes else ""
    return f"Bytes of each part of the torch model after {before} and after {after}.{deployed}"


def classes(reference: Candidate, final: Candidate) -> Chart | None:
    """F1 of each class, reference and final."""
    if reference.scores is None or final.scores is None:
        return None
    old = {score.label: score for score in reference.scores.per_class}
    pairs = [(old[score.label], score) for score in final.scores.per_class if score.label in old]
    if not pairs:
        return None
    shown = sorted(pairs, key=lambda pair: pair[1].f1 - pair[0].f1)[:MOST_CLASSES]
    left_out = f" The {len(shown)} classes that lost most of {len(pairs)}." if len(shown) < len(pairs) else ""
    return draw(
        f"classes-{final.target}",
        lambda figure: _paint_classes(
            figure, shown, names=(reference.id if reference.target != final.target else reference.stage, final.stage)
        ),
        title=f"Change by class, {final.target}",
        caption=f"F1 on test of {reference.stage} (hollow) and {final.stage} (filled); the most lost first.{left_out}",
        height_inches=0.95 + 0.3 * len(shown),
    )


def _paint_classes(figure: Figure, pairs: Sequence[tuple[ClassScore, ClassScore]], *, names: tuple[str, str]) -> None:
    axes = figure.subplots()
    bare(axes, grid="x")
    places = range(len(pairs))
    for place, (old, new) in enumerate(pairs):
        worse = new.f1 < old.f1
        axes.plot(
            [100 * old.f1, 100 * new.f1],
            [place, place],
            color=SECOND if worse else ACCENT,
            ls=":" if worse else "-",
            lw=2,
            zorder=1,
        )
        moved = wording.points(100 * (new.f1 - old.f1), unit=False)
        beside(axes, place, f"{100 * old.f1:.1f} → {100 * new.f1:.1f}  {moved}  n = {new.n}", INK)
    axes.plot([100 * old.f1 for old, _ in pairs], places, "o", color=SECOND, mfc=PAPER, mew=1.4, ms=7, label=names[0])
    axes.plot([100 * new.f1 for _, new in pairs], places, "o", color=ACCENT, ms=4.5, label=names[1])
    axes.set_yticks(places, [wording.shortened(new.label, 34) for _, new in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlabel("F1 in %")
    figure.legend(loc="outside upper left", ncols=2)
