"""How often intervals of differences hold the truth: pairs of models drawn from populations whose difference is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from compressor.contracts import Evaluation, Measure
from compressor.contracts.records import Scores
from compressor.contracts.statistics import difference
from compressor.tasks.classification import ACCURACY, MACRO_F1
from compressor.tasks.metrics import by_class
from compressor.tasks.multi_label import MACRO, MICRO
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.text_regression import PEARSON, SPEARMAN, TextRegression

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressor.contracts.records import Difference

Draw: TypeAlias = np.random.Generator
COST = Measure("cost")


@dataclass
class Coverage:
    """What was counted over all draws."""

    draws: int = 0
    covered: int = 0
    differing: int = 0
    """Rows that differ, summed over draws."""


@dataclass(frozen=True)
class Setting:
    """A population of rows and two models on it."""

    words: str
    rows: int
    truth: float
    """Candidate less reference, in points."""
    draw: Callable[[Draw, int], tuple[Difference, int]]
    """What the toolchain says of so many rows, and how many of them differ."""


def coverage(setting: Setting, *, draws: int, seed: int) -> Coverage:
    """Draw rows `draws` times and hold each interval against the truth."""
    found, draw = Coverage(), np.random.default_rng(seed)
    for _ in range(draws):
        said, differing = setting.draw(draw, setting.rows)
        assert said.interval is not None
        found.draws += 1
        found.covered += said.interval.low <= setting.truth <= said.interval.high
        found.differing += differing
    return found


# ------------------------------------------------------------------ rows of one class each


@dataclass(frozen=True)
class Population:
    """Cells of true class, class told by the candidate, and class told by the reference, with their probabilities."""

    classes: int
    cells: NDArray[np.int64]
    """`[cells, 3]`"""
    shares: NDArray[np.float64]

    @classmethod
    def of(cls, weights: tuple[float, ...], *, wrong: float, better: float, worse: float) -> Population:
        """Classes of so many rows; of the reference's answers `wrong` are wrong, of which shares the candidate mends or breaks more."""
        k, cells, shares = len(weights), [], []
        for true, weight in enumerate(np.asarray(weights) / sum(weights)):
            other = (true + 1) % k
            for mine, theirs, share in (
                (true, true, 1.0 - wrong - worse),
                (other, other, wrong - better),
                (true, other, better),
                (other, true, worse),
            ):
                cells.append((true, mine, theirs))
                shares.append(weight * share)
        return cls(k, np.asarray(cells), np.asarray(shares))

    def rows(self, draw: Draw, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """True classes, the candidate's and the reference's, `[n]` each."""
        found = self.cells[draw.choice(len(self.cells), size=n, p=self.shares)]
        return found[:, 0], found[:, 1], found[:, 2]

    def macro_f1(self, told: int) -> float:
        """Macro-F1 of the model whose answers stand in a column of the cells, over the whole population."""
        true, said = self.cells[:, 0], self.cells[:, told]
        each = [
            2 * self.shares[(true == at) & (said == at)].sum() / (self.shares[true == at].sum() + self.shares[said == at].sum())
            for at in range(self.classes)
        ]
        return float(np.mean(each))


def _evaluation(told: NDArray[np.int64], true: NDArray[np.int64], classes: int) -> Evaluation:
    right = (told == true) * 1.0
    metrics = (
        ACCURACY.metric(float(right.mean()), len(true)),
        MACRO_F1.metric(float(by_class(told, true, classes).f1.mean()), len(true)),
    )
    scores = Scores(split="test", metric=ACCURACY.name, metrics=metrics)
    logits = np.eye(classes, dtype=np.float32)[told]
    return Evaluation(scores, {"logits": logits}, {ACCURACY.name: right}, truth={"labels": true})


def _classified(words: str, rows: int, population: Population, metric: str) -> Setting:
    def draw(random: Draw, n: int) -> tuple[Difference, int]:
        true, mine, theirs = population.rows(random, n)
        scored = [_evaluation(each, true, population.classes) for each in (mine, theirs)]
        found = TextClassification().compare(scored[0], scored[1], metric=metric, name="source", seed=0)
        return found, int((mine != theirs).sum())

    cells = population.cells
    gained = (cells[:, 1] == cells[:, 0]) * 1.0 - (cells[:, 2] == cells[:, 0]) * 1.0
    accuracy = float(gained @ population.shares)
    truth = accuracy if metric == "accuracy" else population.macro_f1(1) - population.macro_f1(2)
    return Setting(words, rows, 100 * truth, draw)


# ------------------------------------------------------------------ rows that add any amount


def _unbounded(
    words: str, rows: int, gain: Callable[[Draw, int], NDArray[np.float64]], mean: float, *, weighted: bool
) -> Setting:
    def draw(random: Draw, n: int) -> tuple[Difference, int]:
        gains = gain(random, n)
        weights = random.uniform(5, 60, n) if weighted else None
        scores = Scores(split="test", metric="cost", metrics=(COST.metric(1.0, n),))
        mine, theirs = (Evaluation(scores, {}, {"cost": each}, weights) for each in (gains, 0 * gains))
        found = difference(mine, theirs, metric="cost", name="source", seed=0, changed=None)
        return found, int((gains != 0).sum())

    return Setting(words, rows, 100 * mean, draw)


# ------------------------------------------------------------------ numbers, and labels each by itself


@dataclass(frozen=True)
class Told:
    """Numbers, of unit variance, that two models tell with errors of these sizes which go together so much."""

    words: str
    mine: float
    theirs: float
    together: float
    skewed: bool = False
    """True numbers are drawn from an exponential distribution, else from a normal one."""

    def setting(self, rows: int, metric: str) -> Setting:
        """Spearman's truth holds for normal numbers only."""

        def draw(random: Draw, n: int) -> tuple[Difference, int]:
            true = random.exponential(1.0, n) if self.skewed else random.standard_normal(n)
            first, second = random.standard_normal((2, n))
            other = self.together * first + np.sqrt(1 - self.together**2) * second
            scored = [_numbers(true + spread * error, true) for spread, error in ((self.mine, first), (self.theirs, other))]
            return TextRegression().compare(scored[0], scored[1], metric=metric, name="source", seed=0), n

        linear = 1 / np.sqrt(1 + np.square([self.mine, self.theirs]))
        figures = linear if metric == PEARSON.name else 6 / np.pi * np.arcsin(linear / 2)
        return Setting(f"{metric}, {self.words}", rows, 100 * float(figures[0] - figures[1]), draw)


def _numbers(told: NDArray[np.float64], true: NDArray[np.float64]) -> Evaluation:
    scores = Scores(
        split="test", metric=SPEARMAN.name, metrics=tuple(each.metric(0.0, len(true)) for each in (SPEARMAN, PEARSON))
    )
    return Evaluation(scores, {"logits": told[:, None]}, truth={"numbers": true})


def _labelled(words: str, rows: int, common: tuple[float, ...], wrong: float, differing: float, metric: str) -> Setting:
    """Labels that apply to such shares of rows; the reference is wrong on a share of each, the candidate differs from it on another."""

    def draw(random: Draw, n: int) -> tuple[Difference, int]:
        true, theirs = random.random((n, len(common))) < common, random.random((n, len(common))) < wrong
        mine = theirs ^ (random.random(theirs.shape) < differing)
        scored = [_several(true ^ errors, true) for errors in (mine, theirs)]
        task = TextClassification(multi_label=True)
        return task.compare(scored[0], scored[1], metric=metric, name="source", seed=0), int((mine != theirs).any(1).sum())

    shares = np.asarray(common)
    found = []
    for error in (wrong * (1 - differing) + differing * (1 - wrong), wrong):
        right, said = shares * (1 - error), shares * (1 - error) + (1 - shares) * error
        macro = float((2 * right / (said + shares)).mean())
        found.append(2 * right.sum() / (said + shares).sum() if metric == MICRO.name else macro)
    return Setting(f"{metric} of labels, {words}", rows, 100 * float(found[0] - found[1]), draw)


def _several(told: NDArray[np.bool_], true: NDArray[np.bool_]) -> Evaluation:
    scores = Scores(split="test", metric=MICRO.name, metrics=tuple(each.metric(0.0, len(true)) for each in (MICRO, MACRO)))
    truth = {"labels": true.astype(np.int64), "threshold": np.asarray(0.5)}
    return Evaluation(scores, {"logits": np.where(told, 9.0, -9.0).astype(np.float32)}, truth=truth)


def _without_gains() -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    near, apart = Told("as good, errors alike", 0.3, 0.3, 0.95), Told("one better", 0.5, 0.6, 0.8)
    skewed = Told("one better, skewed numbers", 0.5, 0.8, 0.5, skewed=True)
    common = {"even": (0.3,) * 5, "skew": (0.5, 0.3, 0.15, 0.1, 0.05)}
    for rows in (50, 100, 300):
        for name, told in (("near", near), ("apart", apart), ("skewed", skewed)):
            for metric in (PEARSON.name,) if told.skewed else (PEARSON.name, SPEARMAN.name):
                found[f"{metric}-{name}-{rows}"] = told.setting(rows, metric)
        for name, shares in common.items():
            for metric in (MICRO.name, MACRO.name):
                words = f"{len(shares)} {'equally common' if name == 'even' else 'from half to 5 % of rows'}"
                found[f"{metric}-{name}-{rows}"] = _labelled(words, rows, shares, 0.1, 0.05, metric)
    return found


def _settings() -> dict[str, Setting]:
    even, skew = (1.0,) * 4, (8.0, 3.0, 2.0, 1.0)
    few = Population.of(even, wrong=0.1, better=0.01, worse=0.02)
    some = Population.of(skew, wrong=0.2, better=0.05, worse=0.10)
    many = Population.of(even, wrong=0.3, better=0.15, worse=0.25)
    found: dict[str, Setting] = {}
    for name, population, words in (
        ("few", few, "3 % of rows differ"),
        ("some", some, "15 %, classes 8:3:2:1"),
        ("many", many, "40 %"),
    ):
        for rows in (50, 200, 500):
            for metric in ("accuracy", "macro-F1"):
                found[f"{metric}-{name}-{rows}"] = _classified(f"{metric}, {words}", rows, population, metric)
    for rows in (30, 150):
        found[f"normal-{rows}"] = _unbounded(
            "unbounded, normal", rows, lambda d, n: 0.1 + d.standard_normal(n), 0.1, weighted=False
        )
        found[f"skewed-{rows}"] = _unbounded(
            "unbounded, exponential", rows, lambda d, n: d.exponential(1.0, n), 1.0, weighted=False
        )
        found[f"weighted-{rows}"] = _unbounded(
            "by tokens, exponential", rows, lambda d, n: d.exponential(1.0, n), 1.0, weighted=True
        )
        found[f"sparse-{rows}"] = _unbounded(
            "unbounded, a third of rows differ",
            rows,
            lambda d, n: (d.random(n) < 1 / 3) * (0.3 + d.standard_normal(n)),
            0.1,
            weighted=False,
        )
    return found | _without_gains()


SETTINGS: Mapping[str, Setting] = _settings()
