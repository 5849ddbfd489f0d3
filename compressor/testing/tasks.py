"""What holds for tasks: seeded heads, batches of every row, feeds as the ports say, scores that belong to their rows."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from compressor.contracts import Batch, Feed, Port, Task, Want, Workload, registry
from compressor.model.anatomy import anatomy_or_bare
from compressor.store.store import digest_of
from compressor.testing.steps import STEP
from compressor.testing.subject import Subject, Unchecked
from compressor.testing.tiny import TinyRun, run_of, short_lived

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_SIZE = 8


def loads_by_its_seed(subject: Subject) -> None:
    """A source without a head gets one that the seed decides: equal seeds give equal files, other seeds other ones."""
    run = _run(subject)
    if not run.data.labels or not run.task.gives_logits():
        raise Unchecked("it has no head to draw")
    with short_lived() as folder:
        for name, seed in (("first", 1), ("second", 1), ("third", 2)):
            with subject.during("load"):
                run.task.load(run.folder / "pretrained", run.data, seed=seed).save(folder / name)
        digests = {name: digest_of(folder / name) for name in ("first", "second", "third")}
    subject.require(digests["first"] == digests["second"], "loading twice with one seed gives other bytes")
    subject.require(digests["first"] != digests["third"], "another seed gives the same fresh head")


def gives_batches_of_every_row(subject: Subject) -> None:
    """Batches have a length, and labels where rows have them, hold each row once by its number in `row`, and are shuffled by their seed alone.

    Where several rows are put into one, `row` has all their numbers, filled up with -1.
    """
    run = _run(subject)
    rows = run.data.split("train")

    def numbers(seed: int | None) -> list[int]:
        with subject.during("batches"):
            batches = run.task.batches(rows, run.source.path, batch_size=BATCH_SIZE, shuffle_seed=seed)
            made = list(batches)
            subject.require(len(batches) == len(made), f"batches say they are {len(batches)} and are {len(made)}")  # type: ignore[arg-type]
        for name in ("labels", "row") if run.data.labels else ("row",):
            subject.require(all(name in batch for batch in made), f"batches lack '{name}'")
        return [int(number) for batch in made for number in batch["row"].flatten() if number >= 0]

    subject.require(numbers(None) == list(range(len(rows))), "unshuffled batches are not the rows in their order")
    subject.require(sorted(numbers(1)) == list(range(len(rows))), "a shuffled epoch does not hold each row once")
    subject.require(numbers(1) == numbers(1), "one seed shuffles in two ways")
    subject.require(numbers(1) != numbers(2), "two seeds shuffle in one way")


def gives_feeds_as_its_ports_say(subject: Subject) -> None:
    """`example` and `feeds` give what `inputs` announces: names, types and fixed axes, in the batch size asked for."""
    run = _run(subject)
    ports = run.task.inputs(run.source.path)
    subject.require(ports == run.task.inputs(run.model()), "inputs differ between a model and its folder")
    with subject.during("graphs"):
        graphs = run.task.graphs(run.source.path)
    subject.require(graphs == run.task.graphs(run.model()), "graphs differ between a model and its folder")
    for graph in graphs:
        with subject.during(f"example of {graph.name}"):
            example = run.task.example(run.source.path, graph, batch=2, length=8)
        _check_feed(subject, f"example of {graph.name}", graph.inputs, example, batch=2)
    for batch in (1, 3):
        with subject.during("feeds"):
            feeds = run.task.feeds(run.data.split("test"), run.source.path, Workload(batch=batch), count=2)
        subject.require(len(feeds) == 2, f"feeds gives {len(feeds)} of the 2 that were asked for")
        for feed in feeds:
            _check_feed(subject, "feeds", ports, feed, batch=batch)


def trains(subject: Subject) -> None:
    """The loss is one finite number that every batch has a gradient of, and inner features are captured block by block."""
    import torch

    run = _run(subject)
    if not run.task.trainable:
        raise Unchecked("it has no loss of its own")
    module: Any = run.model().module
    batch = _batch(run)
    with subject.during("forward and loss"):
        loss: Any = run.task.loss(run.task.forward(module.train(), batch), batch)
        loss.backward()
    subject.require(loss.ndim == 0 and bool(torch.isfinite(loss)), f"the loss is {loss!r}, expected one finite number")
    learned = [parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) for parameter in module.parameters()]
    subject.require(any(learned), "no parameter has a gradient of the loss")
    anatomy = anatomy_or_bare(module)
    blocks = tuple(block.id for block in anatomy.blocks)
    if not blocks:
        return  # a model that no anatomy row fits has no features to hand out
    maps = () if "attention maps" in anatomy.row.without else blocks
    with subject.during("forward with inner features"), torch.no_grad():
        outputs = run.task.forward(module.eval(), batch, Want(hidden_states=blocks, attention_maps=maps))
    for what, found, wanted, rank in (
        ("hidden states", outputs.hidden_states, blocks, 3),
        ("attention maps", outputs.attention_maps, maps, 4),
    ):
        subject.require(set(found) == set(wanted), f"{what} were wanted of {len(wanted)} blocks and given of {sorted(found)}")
        subject.require(all(tensor.ndim == rank for tensor in found.values()), f"{what} do not have {rank} axes")


def scores_rows_in_their_order(subject: Subject) -> None:
    """Every measure has a score with n; outputs and gains belong to their rows, and the main measure has an interval where rows add to it."""
    import numpy as np

    from compressor.deploy.session import eager

    run = _run(subject)
    rows = run.data.split("test")
    predict = eager(run.task, run.model(), "cpu")
    with subject.during("score"):
        evaluation = run.task.evaluate(predict, rows, run.source.path, split="test")
    main, measures = evaluation.scores.main, {measure.name: measure for measure in run.task.measures()}
    subject.require(main.name == run.task.metric, f"its main score is '{main.name}', its first measure '{run.task.metric}'")
    for metric in evaluation.scores.metrics:
        measure = measures.pop(metric.name, None)
        subject.require(measure is not None, f"it scores '{metric.name}', which is none of its measures")
        same = measure is not None and (metric.better, metric.drop) == (measure.better, measure.drop)
        subject.require(same, f"the score '{metric.name}' is not as its measure has it: {metric.better}, {metric.drop}")
    subject.require(not measures, f"it has no score for {', '.join(measures)}")
    known = main.interval is not None or main.name not in evaluation.gains
    subject.require(main.n == len(rows) and known, f"the main score says n {main.n} and {main.interval}")
    arrays = {**evaluation.outputs, **evaluation.gains}
    subject.require(all(len(array) == len(rows) for array in arrays.values()), "not one output and one gain for each row")
    for name, gains in evaluation.gains.items():
        mean, value = float(np.average(gains, weights=evaluation.weights)), evaluation.scores.of(name).value
        fraction = evaluation.scores.of(name).drop == "points"
        subject.require(not fraction or abs(mean - value) < 1e-9, f"gains of '{name}' have the mean {mean}, its score is {value}")
    for number in (0, len(rows) // 2, len(rows) - 1) if run.task.gives_logits() else ():  # a probe cannot be fitted on one row
        with subject.during("score of one row"):
            alone = run.task.predicted(predict, rows.select([number]), run.source.path)
        for name, array in evaluation.outputs.items():
            close = np.allclose(alone[name][0], array[number], rtol=1e-3, atol=1e-4)
            subject.require(close, f"outputs['{name}'][{number}] is not what row {number} gives by itself")


TASK = (
    *STEP,
    loads_by_its_seed,
    gives_batches_of_every_row,
    gives_feeds_as_its_ports_say,
    trains,
    scores_rows_in_their_order,
)


def _run(subject: Subject) -> TinyRun:
    return _cached_run(subject.name, subject.plugin.model_dump_json())


@cache
def _cached_run(name: str, parameters: str) -> TinyRun:
    task: Task = registry.load("task", name).model_validate_json(parameters)
    return run_of(name, task)


def _batch(run: TinyRun) -> Batch:
    return next(iter(run.task.batches(run.data.split("train"), run.source.path, batch_size=BATCH_SIZE)))


def _check_feed(subject: Subject, what: str, ports: tuple[Port, ...], feed: Feed, *, batch: int) -> None:
    named = {port.name: port for port in ports}
    subject.require(set(feed) == set(named), f"{what} gives {sorted(feed)}, inputs announces {sorted(named)}")
    for name, array in feed.items():
        port = named[name]
        subject.require(str(array.dtype) == port.dtype, f"{what}: '{name}' is {array.dtype}, announced as {port.dtype}")
        subject.require(_fits(array, port), f"{what}: '{name}' has the shape {array.shape}, announced as {port.axes}")
        of_rows = port.axes[:1] == ports[0].axes[:1]
        subject.require(not of_rows or len(array) == batch, f"{what}: '{name}' has {len(array)} rows, asked for {batch}")


def _fits(array: NDArray[Any], port: Port) -> bool:
    return array.ndim == len(port.axes) and all(
        isinstance(axis, str) or axis == size for axis, size in zip(port.axes, array.shape, strict=True)
    )
