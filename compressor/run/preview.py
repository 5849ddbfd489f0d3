"""What a plan would do and cost, step by step, without doing it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compressor.contracts import Epoch, InputSizes
from compressor.contracts.notes import Record
from compressor.contracts.records import DataRecord
from compressor.deploy.machine import device
from compressor.foreign import one_line
from compressor.model.sources import located
from compressor.plan.bound import Bound, BoundStep
from compressor.run.allowance import allowances
from compressor.run.context import of_step
from compressor.run.facts import Reading, Rows, examined, files_digest, rows_of, sizes_of_rows
from compressor.run.keys import Keys
from compressor.run.pace import Pace
from compressor.run.preflight import (
    check_batch_sizes,
    check_environment,
    check_lowered,
    check_rows_fit,
    check_rows_of_weights,
    check_sharded,
    check_taught,
)
from compressor.store.store import Store, StoredResult
from compressor.training.launch import ALONE, Processes
from compressor.training.settings import TrainingSettings

SHOWN = 10
"""Classes that a line lists."""
UNKNOWN = "how long is not known on this machine, `compressor rehearse` measures it"


class Line(Record):
    """A line as it is printed, `about: says`; of a notice `about` is its place in the plan."""

    about: str
    says: str = ""

    def __str__(self) -> str:
        """The line: a line end in it, as of a label, is written as its escape."""
        return one_line(f"{self.about}: {self.says}" if self.says else self.about)


class ModelPreview(Record):
    """A model of the plan."""

    name: str
    """`source`, or an entry of `models:`."""
    found: bool
    """Whether the store has it, as the task loads it."""
    says: tuple[str, ...]
    """What the task tells of it: whose head it is."""


class StepPreview(Record):
    """A step of the plan."""

    name: str
    plugin: str
    found: bool | None
    """Whether the store has its result; None where that shows only when its branch is lowered."""
    formats: dict[str, str]
    """The format that it works on, by target; empty for a step on the torch model."""
    products: tuple[str, ...]
    """Further models that it makes."""
    rows: int | None = None
    """That it trains on, 0 where it reads none; None where it does not train."""
    packed: int | None = None
    """What an epoch of these is made of, where that is other rows: several in one, or parts of long ones."""
    estimated: bool = False
    """Whether those, and so the steps, are known from a part of the rows."""
    epochs: int | None = None
    tokens: int | None = None
    """To learn from, where that is the budget."""
    batch_size: int | None = None
    steps: int | None = None
    """Of the optimiser, in all."""
    seconds: float | None = None
    """About how long a training takes, by earlier ones on this machine, or guessed; None where nothing is known."""
    guessed: bool = False
    """Whether that rests on the model's size and the machine's speed alone."""


class TargetPreview(Record):
    """A target of the plan."""

    name: str
    plugin: str
    missing: str
    """What this machine lacks for it; empty where it is ready."""
    takes: str = ""
    """The only sizes of inputs that its files take; empty where they take any."""


class Preview(Record):
    """What `check` says; `lines` is all of it as it is printed."""

    plan: str
    notices: tuple[str, ...]
    """Old names in the plan."""
    data: DataRecord
    """Splits with rows and classes, what was removed, findings."""
    inputs: InputSizes | None
    """How large rows are, and what the model takes of them; None where the task does not say."""
    models: tuple[ModelPreview, ...]
    allowances: tuple[str, ...]
    """What the family of each model allows."""
    steps: tuple[StepPreview, ...]
    targets: tuple[TargetPreview, ...]
    lines: tuple[Line, ...] = ()


def preview(bound: Bound, store: Store, processes: Processes = ALONE) -> Iterator[str]:
    """The lines of `previewed`."""
    return map(str, previewed(bound, store, processes).lines)


def previewed(bound: Bound, store: Store, processes: Processes = ALONE) -> Preview:
    """What would run, what is found in the store, what it is made of and about what it costs.

    Raises:
        CompressorError: rows or models cannot be read, or do not go together.
    """
    check_sharded(bound, processes)
    check_environment(bound)
    reading = Reading(bound)
    rows = rows_of(bound, store, reading)
    counts = {split.name: split.rows for split in rows.record.splits}
    check_batch_sizes(bound, counts)
    sizes = sizes_of_rows(bound, store, reading)
    check_rows_fit(bound, sizes)
    keys = Keys(bound, rows.digest, rows.labels, device(), processes.size, sharded=processes.sharded)
    digests: dict[str, str | None] = {}
    models = tuple(_models(bound, store, keys, rows, digests))
    pace = Pace(bound, store, counts, sizes, processes)
    found = Preview(
        plan=bound.name,
        notices=bound.notices,
        data=rows.record,
        inputs=sizes,
        models=models,
        allowances=tuple(allowances(bound)),
        steps=tuple(_steps(bound, store, keys, digests, pace)),
        targets=tuple(_targets(bound)),
    )
    return found.model_copy(update={"lines": tuple(_lines(found, rows))})


# ------------------------------------------------------------------ models, steps, targets


def _models(bound: Bound, store: Store, keys: Keys, rows: Rows, digests: dict[str, str | None]) -> Iterator[ModelPreview]:
    """Also writes down the digest of each, as far as the store has it."""
    for name, source in {"source": bound.model, **bound.models}.items():
        made = store.find(keys.source(files_digest(source, bound.folder, store)))
        digests[name] = made.digest if made else None
        if made:
            check_lowered(bound, {name: made.path})
        folder = located(source, bound.folder)
        check_taught(bound, name, folder)
        check_rows_of_weights(bound, name, folder)
        yield ModelPreview(name=name, found=made is not None, says=tuple(examined(source, bound, rows.labels, store)))


def _steps(bound: Bound, store: Store, keys: Keys, digests: dict[str, str | None], pace: Pace) -> Iterator[StepPreview]:
    current = "source"
    for step in bound.passes:
        found = None
        if step.trunk:
            parent = digests.get(step.start or current)
            teachers = {name: digests.get(name) for name in step.step.needs().teachers}
            if parent and all(teachers.values()):
                found = store.find(keys.step(step, parent, {name: digest or "" for name, digest in teachers.items()}, None))
            digests |= _digests(step, found)
            current = step.name
        yield _step(step, found, pace)


def _step(step: BoundStep, found: StoredResult | None, pace: Pace) -> StepPreview:
    given: object = step.step
    settings = given if isinstance(given, TrainingSettings) else None
    rows, epoch = pace.rows["train"] if step.step.needs().rows else 0, pace.sizes.epoch if pace.sizes else None
    trained = {} if settings is None else _trained(settings, rows, epoch)
    seconds = None if settings is None else pace.expected_seconds(step)
    guess = pace.guessed_seconds(step, trained["steps"]) if settings is not None and seconds is None else None
    return StepPreview(
        name=step.name,
        plugin=step.plugin,
        found=found is not None if step.trunk else None,
        formats=dict(step.formats),
        products=tuple(f"{step.name}.{name}" for name in step.step.needs().products),
        seconds=guess if seconds is None else seconds,
        guessed=guess is not None,
        **trained,
    )


def _trained(settings: TrainingSettings, rows: int, epoch: Epoch | None) -> dict[str, Any]:
    """How much a training is."""
    return {
        "rows": rows,
        "packed": epoch.rows if epoch else None,
        "estimated": epoch is not None and epoch.estimated and settings.steps is None,
        "epochs": settings.epochs if settings.steps is None and settings.budget is None else None,
        "tokens": settings.budget,
        "batch_size": settings.batch_size,
        "steps": settings.steps_of(rows, epoch),
    }


def _digests(step: BoundStep, found: StoredResult | None) -> dict[str, str | None]:
    """Digests of the models that a step made, by name; None where they are not known."""
    products = step.step.needs().products
    if found is None or not products:
        return dict.fromkeys((step.name, *(f"{step.name}.{name}" for name in products)), found.digest if found else None)
    return {step.name: of_step(found).digest, **{f"{step.name}.{name}": of_step(found, name).digest for name in products}}


def _targets(bound: Bound) -> Iterator[TargetPreview]:
    for target in bound.targets:
        missing = target.target.missing()
        told = missing.build or missing.run or ""
        yield TargetPreview(name=target.name, plugin=target.plugin, missing=told, takes=target.target.takes())


# ------------------------------------------------------------------ lines


def _lines(found: Preview, rows: Rows) -> Iterator[Line]:
    yield from map(_split, found.notices)
    yield from _of_rows(found, rows)
    for model in found.models:
        yield Line(about=model.name, says="found in the store" if model.found else "to be loaded")
        yield from (Line(about=model.name, says=line) for line in model.says)
    yield from map(_split, found.allowances)
    for step in found.steps:
        yield Line(about=step.name, says=_told(step))
    for target in found.targets:
        only = f"; its files take {target.takes} and no longer inputs" if target.takes else ""
        yield Line(about=target.name, says=f"{target.missing or 'ready'}{only}")


def _split(line: str) -> Line:
    about, _, says = line.partition(": ")
    return Line(about=about, says=says)


def _of_rows(found: Preview, rows: Rows) -> Iterator[Line]:
    if not found.data.real:
        yield from (Line(about="data", says=finding) for finding in found.data.findings)
        return
    splits = ", ".join(f"{split.rows} {split.name}" for split in found.data.splits)
    removed = ", ".join(f"{count} {why}" for why, count in found.data.removed.items())
    yield Line(about="data", says=f"{splits}{f'; removed: {removed}' if removed else ''}")
    yield from (Line(about="data", says=finding) for finding in found.data.findings)
    train = next(split for split in found.data.splits if split.name == "train")
    if train.classes:
        yield Line(about="classes", says=_classes(train.classes, train.rows))
    if rows.lengths:
        least, middle, most = rows.lengths
        yield Line(about="lengths", says=f"{least} to {most} characters, median {middle}")
    if found.inputs:
        yield Line(about="inputs", says=str(found.inputs))


def _classes(counts: dict[str, int], rows: int) -> str:
    """Rows of train by class, the most common first; what always telling that one would be right on."""
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    shown = ordered if len(ordered) <= SHOWN else [*ordered[: SHOWN - 1], ordered[-1]]
    left = f" ({len(ordered) - SHOWN} between)" if len(ordered) > SHOWN else ""
    return (
        f"{', '.join(f'{name} {count}' for name, count in shown)}{left}; '{ordered[0][0]}' is {ordered[0][1] / rows:.0%} of train"
    )


def _told(step: StepPreview) -> str:
    if step.found is None:
        where = ", ".join(f"{form} for {name}" for name, form in step.formats.items())
        return f"to be looked up when its branch is lowered ({where})"
    further = f", makes {' and '.join(step.products)} too" if step.products else ""
    if step.found:
        return f"found in the store{further}"
    return f"to be run{further}{f'; {_training(step)}' if step.rows is not None else ''}"


def _training(step: StepPreview) -> str:
    epochs = f"{step.epochs} epochs of " if step.epochs and step.epochs > 1 else "1 epoch of " if step.epochs else ""
    epochs = epochs if step.tokens is None else f"{step.tokens:,} tokens of "
    about = "about " if step.estimated else ""
    rows = f"{step.rows or 'no'} rows" + (
        f" in {about}{step.packed} of the model's" if step.packed not in (None, step.rows) else ""
    )
    steps = "as many steps as that takes" if step.steps is None else f"{about}{step.steps} steps"
    by = (
        "a guess by the model's size, `compressor rehearse` measures it"
        if step.guessed
        else "by earlier trainings on this machine"
    )
    took = UNKNOWN if step.seconds is None else f"about {_time(step.seconds)}{',' if step.guessed else ''} {by}"
    return f"{epochs}{rows}, {step.batch_size} a step: {steps}; {took}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
