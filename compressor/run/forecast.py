"""From small runs of a plan to what the real one will take: lines through what was measured, read off at the real size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compressor.contracts import Epoch, Size, Task
from compressor.contracts.records import Forecast, ForecastRow, Spent, Stage
from compressor.plan.bound import Bound, BoundStep
from compressor.run.results import PARITY_ROWS

REST = "start, report and export"
FILES = ("lower", "build", "score", "parity")
"""Work on a target's files, told in one row."""


@dataclass(frozen=True)
class ModelSize:
    """Blocks of a model, the parameters in them, their bytes, and the bytes of the whole model.

    A model without blocks that are known counts as one that cannot be cut: all of it is inside.
    """

    blocks: int
    weights: float
    inside: float
    bytes: int

    @classmethod
    def of(cls, layer_bytes: Mapping[str, int], weights: int) -> ModelSize:
        """From bytes by part and the number of parameters, as a `Stage` has them; all parts are of one type of number.

        Where blocks are not known the whole model is one.
        """
        inner = {part: size for part, size in layer_bytes.items() if part.startswith("layer ")}
        whole = sum(layer_bytes.values())
        inside = sum(inner.values()) if inner else whole
        blocks = len({part.split()[1] for part in inner}) or 1
        return cls(blocks, weights * inside / max(whole, 1), inside, whole)

    def times(self, share: float) -> ModelSize:
        """A model of so many times the blocks, each as wide as before."""
        inside = self.inside * share
        return ModelSize(round(self.blocks * share), self.weights * share, inside, round(self.bytes - self.inside + inside))


@dataclass(frozen=True)
class Scale:
    """Rows by split, and sizes by name of a model: `source` and entries of `models:`."""

    rows: Mapping[str, int]
    models: Mapping[str, ModelSize]
    epoch: Epoch | None = None
    """What an epoch of training is made of; None where it is the rows."""

    def epoch_of(self, rows: int) -> Epoch | None:
        """Of so many of the training rows."""
        return self.epoch.times(rows / self.rows["train"]) if self.epoch and rows != self.rows["train"] else self.epoch


@dataclass(frozen=True)
class Trial:
    """A small run of the plan, and what it took."""

    what: str
    """In words."""
    bound: Bound
    """The plan as it was run."""
    scale: Scale
    stages: tuple[Stage, ...]
    spent: tuple[Spent, ...]
    seconds: float
    """Of the whole process, its start included."""
    memory_bytes: int
    """Peak of the process."""
    disk_bytes: int
    """Of the store and the run's folder at the end."""


def line(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value at `at` of the line through `(x, value)` points, one or two.

    A value that does not rise from the first point to the second is noise around a constant; a line that starts below zero is
    taken through zero instead. With one x only, values are proportional to it.
    """
    (low, below), (high, above) = min(points), max(points)
    mean = sum(value for _, value in points) / len(points)
    if low == high:
        return mean * at / low if low else mean
    slope = (above - below) / (high - low)
    if slope <= 0:
        return mean
    if below < slope * low:
        return above * at / high
    return above + slope * (at - high)


def extrapolated(bound: Bound, whole: Scale, trials: Sequence[Trial]) -> tuple[ForecastRow, ...]:
    """A row for each step, each target's files and each probe, and one for all else; the first trial is the complete one."""
    first, real = trials[0].spent, _Yardstick(bound, whole.rows, _grown(bound, whole, trials[-1]), whole.epoch)
    rehearsed: dict[str, float] = {}
    expected: dict[str, float] = {}
    for piece in {_key(spent): spent for spent in first}.values():
        points = [
            (_Yardstick(trial.bound, trial.scale.rows, _stages(trial), trial.scale.epoch).work(piece), seconds)
            for trial in trials
            if (seconds := _seconds(trial.spent, piece)) is not None
        ]
        label, took = label_of(piece), points[0][1]
        is_probe = piece.work == "probe"
        found = _probe_seconds(bound, piece.of, took, first) if is_probe else line(points, real.work(piece))
        rehearsed[label] = rehearsed.get(label, 0.0) + took
        expected[label] = expected.get(label, 0.0) + found
    rest = max(0.0, trials[0].seconds - sum(spent.seconds for spent in first))
    rows = [*((label, rehearsed[label], expected[label]) for label in rehearsed), (REST, rest, rest)]
    return tuple(ForecastRow(step=label, rehearsed_seconds=round(took, 1), seconds=round(s, 1)) for label, took, s in rows)


def forecast(bound: Bound, whole: Scale, trials: Sequence[Trial], *, rehearsal_seconds: float) -> Forecast:
    """What the whole run will take, from its trials; the first of them is the complete one."""
    rows = extrapolated(bound, whole, trials)
    at = [float(_bytes(trial.scale)) for trial in trials]
    memory, disk = ([float(getattr(trial, name)) for trial in trials] for name in ("memory_bytes", "disk_bytes"))
    return Forecast(
        name=bound.name,
        rows=rows,
        seconds=round(sum(row.seconds for row in rows), 1),
        memory_bytes=round(line(list(zip(at, memory, strict=True)), _bytes(whole))),
        disk_bytes=round(line(list(zip(at, disk, strict=True)), _bytes(whole))),
        rehearsal_seconds=round(rehearsal_seconds, 1),
        trials=tuple(trial.what for trial in trials),
    )


def label_of(spent: Spent) -> str:
    """The row of a table that a piece of work belongs to."""
    where = f"@{spent.target}" if spent.target else ""
    if spent.work in FILES:
        return f"files for {spent.target}"
    return {"data": "rows", "probe": f"measure {spent.of}"}.get(spent.work, f"{spent.of}{where}")


@dataclass(frozen=True)
class _Yardstick:
    """How much work each piece of a run is, at one scale."""

    bound: Bound
    rows: Mapping[str, int]
    sizes: Mapping[str, ModelSize]
    """Of the source, the entries of `models:` and every stage on the torch model."""
    epoch: Epoch | None

    def work(self, piece: Spent) -> float:
        """In a unit of its own for each kind of work; 1 for what depends on neither rows nor sizes."""
        size = self._size(piece.of)
        if piece.work == "step":
            return self._step(next(step for step in self.bound.passes if step.name == piece.of))
        by_rows = {
            "evaluate": self.rows["validation"],
            "score": self.rows["test"],
            "parity": min(PARITY_ROWS, self.rows["test"]),
            "load": 1,
            "lower": 1,
            "build": 1,
        }
        return by_rows[piece.work] * size.weights if piece.work in by_rows else 1.0

    def _size(self, stage: str) -> ModelSize:
        """Of a stage below torch, the size of the model it was made from."""
        return self.sizes.get(stage) or self.sizes[_last(self.bound)]

    def _step(self, step: BoundStep) -> float:
        given = self.sizes[_parents(self.bound)[step.name]]
        return step.step.work(
            Size(
                rows=self.rows,
                blocks=given.blocks,
                weights=given.weights,
                result=self._size(step.name).weights,
                teachers=sum(self.sizes[name].weights for name in step.step.needs().teachers),
                epoch=self.epoch,
                scored=self.bound.task.passes_to_score(),
                levels=type(self.bound.task).level is not Task.level,
            )
        )


def _key(spent: Spent) -> tuple[str, str, str | None]:
    return spent.work, spent.of, spent.target


def _seconds(all_spent: Sequence[Spent], piece: Spent) -> float | None:
    """What all such pieces of a run took together; None where it has none."""
    found = [spent.seconds for spent in all_spent if _key(spent) == _key(piece)]
    return sum(found) if found else None


def _probe_seconds(bound: Bound, name: str, took: float, spent: Sequence[Spent]) -> float:
    """Over as many files as were built in the rehearsal."""
    probe = next(each.probe for each in bound.probes if each.name == name)
    return probe.expected_over(probe.shortened(), took, [each.of for each in spent if each.work == "build"])


def _parents(bound: Bound) -> dict[str, str]:
    """What each step starts from; in a branch the last model of the trunk."""
    parents, current = {}, "source"
    for step in bound.passes:
        parents[step.name] = step.start or current if step.trunk else _last(bound)
        current = step.name if step.trunk else current
    return parents


def _last(bound: Bound) -> str:
    """The last model of the trunk."""
    return next((step.name for step in reversed(bound.passes) if step.trunk), "source")


def _stages(trial: Trial) -> dict[str, ModelSize]:
    """Sizes of all torch models of a trial."""
    trunk = {stage.name: ModelSize.of(stage.layer_bytes, stage.weights or 0) for stage in trial.stages if stage.target is None}
    return {**trial.scale.models, **trunk}


def _grown(bound: Bound, whole: Scale, trial: Trial) -> dict[str, ModelSize]:
    """Sizes as they will be: every stage grows as the model does that it comes from."""
    parents, sizes = _parents(bound), _stages(trial)

    def share(name: str) -> float:
        if name in whole.models:
            return whole.models[name].weights / trial.scale.models[name].weights
        return share(parents[name])

    return {name: size.times(share(name)) for name, size in sizes.items()}


def _bytes(scale: Scale) -> int:
    return sum(model.bytes for model in scale.models.values())
