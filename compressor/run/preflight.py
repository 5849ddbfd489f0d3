"""What is refused once the models of a plan are there and before its first step runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path

from compressor.contracts import Data, InputSizes, Task, Workload, registry
from compressor.contracts.anatomy import Insides
from compressor.errors import SourceError, UnsupportedModel
from compressor.model.anatomy import refusal
from compressor.model.sources import shapes_in
from compressor.plan.bound import Bound, BoundStep
from compressor.plan.lineage import Link, inherited
from compressor.training.checkpoint import interval
from compressor.training.launch import Processes

FEATURES = ("features", "attention maps")
NEWLY_INITIALISED = "whose classification head is newly initialised: fine-tune it first"


def check_steps(
    bound: Bound, folders: Mapping[str, Path], newly_initialised: Iterable[str], insides: Callable[[str], Insides]
) -> None:
    """Refuse steps that cannot work, and qualities that would be held against a model that knows nothing.

    Args:
        bound: the plan.
        folders: of `source` and of every entry of `models:`, as they were loaded.
        drawn: those of them whose head was drawn at random.
        insides: of one of them by its name; asked for only where a step looks inside.

    Raises:
        CompressorError: what a step itself finds.
        UnsupportedModel: a step works on parts that are not known of its model, learns from the logits of a head that knows
            nothing, a limit is held against it, or rows are to be timed at a length that the model does not take.
    """
    origins, untrained = dict(folders), set(newly_initialised)
    for name, folder in folders.items():
        check_rows_of_weights(bound, name, folder)
    check_environment(bound)
    _check_insides(bound, folders, insides)
    current = "source"
    for step in (step for step in bound.passes if step.trunk):
        start = step.start or current
        needs = step.step.needs()
        step.step.check(origins[start], origins)
        _check_taught(bound, step, origins[start])
        _check_teachers(step, untrained)
        origins |= dict.fromkeys(made_by(step), origins[start])
        current = step.name
        learns = step.step.trains and (needs.loss or needs.logits or needs.imitates)
        if start in untrained and not learns:
            untrained |= {*made_by(step)}
    limits = (*(step.gate for step in bound.passes if step.gate), *bound.accept)
    if bound.reference in untrained and (limit := next((each.drop_limit for each in limits if each.drop_limit), None)):
        raise UnsupportedModel(
            f"{limit} is held against {bound.reference}, {NEWLY_INITIALISED}, and name that step as `reference`"
        )
    check_lengths(bound, folders["source"])


def check_rows_of_weights(bound: Bound, name: str, folder: Path) -> None:
    """Refuse steps for a target that takes no rows as long as those of the model in a folder, as far as its files say them.

    What follows a step that cuts rows or columns is passed over.

    Raises:
        UnsupportedModel: there is one.
    """
    rows = {path.removesuffix(".weight"): shape[-1] for path, shape in shapes_in(folder).items() if len(shape) == 2}
    for step in _descended(bound, name, uncut=True):
        for target in bound.targets:
            for parameter, why in step.step.refuses_rows(target.target.own_dialect(), rows).items():
                raise UnsupportedModel(f"{step.name}: {parameter}: target '{target.name}': {name} has {why}")


def check_taught(bound: Bound, name: str, folder: Path) -> None:
    """Refuse trainings on rows of what a model, `source` or an entry of `models:`, was taught that rows do not say.

    Raises:
        UnsupportedModel: there is one.
    """
    for step in _descended(bound, name):
        _check_taught(bound, step, folder)


def _descended(bound: Bound, name: str, *, uncut: bool = False) -> Iterator[BoundStep]:
    """Steps of the trunk that start from a model of the plan or what was made of it; `uncut`: while no step could cut rows or columns."""
    made, current = {name}, "source"
    for step in (step for step in bound.passes if step.trunk):
        start, current = step.start or current, step.name
        if start in made:
            yield step
            if not (uncut and any(registry.load("edit", each).cuts for each in step.step.needs().plugins.get("edit", ()))):
                made |= {*made_by(step)}


def _check_taught(bound: Bound, step: BoundStep, origin: Path) -> None:
    if step.step.trains and not step.step.needs().own_lessons and (what := bound.task.beyond_rows(origin)):
        raise UnsupportedModel(
            f"{step.name} trains on rows, which say nothing of the {what} that the model was taught: they would be lost"
        )


def check_sharded(bound: Bound, processes: Processes) -> None:
    """Refuse to spread parameters where that cannot be.

    Raises:
        UnsupportedModel: there is one process, or a step that trains needs the model whole in each of them: for what it does, or because
            its input is quantised.
    """
    if not processes.sharded:
        return
    if processes.size < 2:
        raise UnsupportedModel("parameters are spread over processes, and there is one: give --processes 2 or more")
    quantized = inherited(Link(each.name, each.start, each.step.quantizes) for each in bound.passes if each.trunk)
    for step in bound.passes:
        origin = quantized.get(step.name)
        why = step.step.needs_whole() or (f"'{origin}' has quantised its layers, each with steps of its own" if origin else "")
        if step.step.trains and why:
            raise UnsupportedModel(f"{step.name} cannot be trained with --sharded: {why}")


def check_environment(bound: Bound) -> None:
    """Refuse what the environment says where a step would meet it hours later.

    Raises:
        CompressorError: it is none of what is expected.
    """
    if any(step.step.trains for step in bound.passes):
        interval()


def check_lengths(bound: Bound, folder: Path) -> None:
    """Refuse rows that are to be timed at a length that the model in a folder, or a target, does not take, and sizes that its files cannot have.

    Raises:
        UnsupportedModel: there are some.
    """
    for name, workload in _timed(bound):
        if workload.kind != Workload().kind and type(bound.task).call is Task.call:
            raise UnsupportedModel(
                f"{name}: a call of {bound.task_name} is one pass, it has no '{workload.kind}': leave `kinds` out"
            )
        if workload.length is not None and (why := bound.task.refuses(workload.length, folder)):
            raise UnsupportedModel(f"{name}: length {why}")
        for target in bound.targets:
            if why := target.target.refuses(workload):
                raise UnsupportedModel(f"{name}: target {target.name} {why}")
    for target in bound.targets:
        if target.target.takes() and (why := target.target.refuses_graphs(bound.task.graphs(folder))):
            raise UnsupportedModel(f"target {target.name}: {why}")


def check_rows_fit(bound: Bound, sizes: InputSizes | None) -> None:
    """Refuse rows that are longer than files of a target take: they would be met when its file is scored, after all training.

    Raises:
        UnsupportedModel: there are some.
    """
    if sizes is None or sizes.timed is None:
        return
    longest = Workload(length=int(min(sizes.most, sizes.limit)))
    for target in bound.targets:
        if why := target.target.refuses(longest):
            cut = f"; {sizes.parameter} cuts them" if sizes.parameter else ""
            raise UnsupportedModel(f"target {target.name} {why}, as long as the longest of the {sizes.of}{cut}")


def check_batches(bound: Bound, data: Data, folder: Path) -> None:
    """Refuse batches to be timed for which there are too few rows, before anything is trained: probes time those of test, steps those of
    train.

    Raises:
        SourceError: there are some.
    """
    probes = ("test", [workload for each in bound.probes for workload in each.probe.workloads()])
    steps = ("train", [workload for step in bound.passes for workload in step.step.needs().workloads])
    for split, timed in (probes, steps):
        for workload in dict.fromkeys(each for each in timed if each.batch > 1):
            bound.task.feeds(data.split(split), folder, workload, count=1)


def check_lowered(bound: Bound, folders: Mapping[str, Path], data: Data | None = None) -> None:
    """Refuse steps below torch that can do nothing with what the trunk comes to, before anything is trained.

    Args:
        bound: the plan.
        folders: of `source` and entries of `models:`, as far as they are loaded.
        data: rows, where they are read: by them a task says whether there is anything to calibrate by.

    Raises:
        UnsupportedModel: a quantiser of one graph is left with several, or a step with nothing to calibrate by.
    """
    folder = folders.get(_lowered_from(bound))
    if folder is None:
        return
    for step in (step for step in bound.passes if not step.trunk):
        of_one = step.step.quantizes and not step.step.each_graph
        if of_one and len(graphs := [graph.name for graph in bound.task.graphs(folder)]) > 1:
            raise UnsupportedModel(
                f"{step.name} quantises one graph, and the model has {len(graphs)} ({', '.join(graphs)}): take one that quantises each"
            )
        if data is not None and step.step.needs().calls and type(bound.task).calls is not Task.calls:
            try:
                bound.task.calls(data.split("calibration"), folder, count=1)
            except UnsupportedModel as error:
                raise UnsupportedModel(f"{step.name}: {error}") from error


def _lowered_from(bound: Bound) -> str:
    """Which model of the plan, `source` or an entry of `models:`, the one that is lowered comes from."""
    origins, current = {name: name for name in ("source", *bound.models)}, "source"
    for step in (step for step in bound.passes if step.trunk):
        origins |= dict.fromkeys(made_by(step), origins[step.start or current])
        current = step.name
    return origins[current]


def check_batch_sizes(bound: Bound, rows: Mapping[str, int]) -> None:
    """The same by the numbers of rows of each split alone, before a model is loaded.

    Raises:
        SourceError: there are some.
    """
    timed = [(each.name, "test", each.probe.workloads()) for each in bound.probes]
    timed += [(step.name, "train", tuple(step.step.needs().workloads)) for step in bound.passes]
    for name, split, workloads in timed:
        most = max((workload.batch for workload in workloads), default=1)
        if most > rows[split] and not bound.task.repeats_rows:
            raise SourceError(f"{name}: {rows[split]} rows of {split} are too few for one batch of {most}")


def _check_insides(bound: Bound, names: Iterable[str], insides: Callable[[str], Insides]) -> None:
    """Refuse models that steps look into and no row fits, and parts of which a row says that they cannot be worked on."""
    needs = worked_on(bound, names)
    for name in dict.fromkeys(name for name, _ in needs):
        found, wanted = insides(name), {step: parts for (model, step), parts in needs.items() if model == name}
        if not found.known:
            who = "; ".join(f"{step} works on {' and '.join(parts)}" for step, parts in wanted.items())
            raise UnsupportedModel(f"{name}: {refusal(found.family)} ({who}; steps that look at nothing inside take any model)")
        for step, parts in wanted.items():
            if part := next((part for part in parts if part in found.without), None):
                raise UnsupportedModel(f"{step} works on {part}, and {name} is of family {found.family}: {found.without[part]}")


def worked_on(bound: Bound, names: Iterable[str]) -> dict[tuple[str, str], tuple[str, ...]]:
    """What each step works on of which model, by the names of model and step: features are its teachers' too."""
    origins, current, needs = {name: name for name in names}, "source", dict[tuple[str, str], tuple[str, ...]]()
    for step in (step for step in bound.passes if step.trunk):
        parts = step.step.needs().inside
        origins |= dict.fromkeys(made_by(step), origins[step.start or current])
        current = step.name
        seen = tuple(part for part in parts if part in FEATURES)
        read = step.step.needs().teachers if seen else ()
        found = {origins[step.name]: parts} | {origins[name]: seen for name in read if origins[name] != origins[step.name]}
        needs |= {(name, step.name): each for name, each in found.items() if each}
    return needs


def made_by(step: BoundStep) -> tuple[str, ...]:
    """Names of the models that a step makes, its own first."""
    return (step.name, *(f"{step.name}.{name}" for name in step.step.needs().products))


def _check_teachers(step: BoundStep, untrained: Set[str]) -> None:
    for name in step.step.needs().logits_of:
        if name in untrained:
            raise UnsupportedModel(f"{step.name} learns from the answers of {name}, {NEWLY_INITIALISED}")


def _timed(bound: Bound) -> Iterator[tuple[str, Workload]]:
    """Who times which workloads."""
    timed = {
        **{step.name: step.step.needs().workloads for step in bound.passes},
        **{each.name: each.probe.workloads() for each in bound.probes},
    }
    yield from ((name, workload) for name, found in timed.items() for workload in found)
