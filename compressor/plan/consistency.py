"""What the parts of a plan ask of each other: names they mention, gates that can be judged, and the order of the passes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from compressor.contracts import Pass, Probe, Task, registry
from compressor.contracts.registry import TORCH
from compressor.errors import Fault, PluginError, did_you_mean
from compressor.plan.draft import Draft, Drafted
from compressor.plan.order import order_faults, quantizes, works
from compressor.plan.specs import NAME, Accept, Limits
from compressor.plan.validation import validated
from compressor.plan.yaml_source import Located

RESERVED = ("source", "final")
"""Names of stages that every run has."""


def faults_of(draft: Draft) -> Iterator[Fault]:
    """Everything that makes the parts of a plan not fit together."""
    yield from _names(draft)
    yield from order_faults(draft)
    for index, step in enumerate(draft.steps):
        yield from _mentions(draft, step, index)
    for probe in draft.probes:
        yield from _lengths(draft, probe)
        yield from _stages(draft, probe)
        if draft.task and isinstance(probe.step, Probe) and probe.step.of_tokens and draft.task.counts != "tokens":
            yield probe.fault(f"looks at tokens that models write, and the task '{draft.task_name}' counts rows: leave it out")
    yield from _reference(draft)
    yield from _metrics(draft)
    yield from _limits(draft)
    yield from _without_data(draft)


# ------------------------------------------------------------------ names


def _names(draft: Draft) -> Iterator[Fault]:
    yield from _twice(draft.steps, "step")
    yield from _twice(draft.targets, "target")
    yield from _twice(draft.probes, "probe")
    for step in draft.steps:
        if step.name in RESERVED:
            yield step.fault(f"'{step.name}' is a name of its own in every run; give the step another with `name:`")
        if step.name in draft.models:
            yield step.fault(f"'{step.name}' is also an entry of models; give the step another name with `name:`")
    for name, at in draft.models.items():
        if not re.fullmatch(NAME, name):
            yield at.fault(
                "models", f"{name!r} is no name: expected letters, digits, '-' and '_', at most 64, a letter or digit first"
            )
        if name in RESERVED:
            yield at.fault(f"models.{name}", f"'{name}' is a name of its own in every run; take another")


def _twice(entries: Sequence[Drafted], what: str) -> Iterator[Fault]:
    first: dict[str, Drafted] = {}
    for each in entries:
        if each.name in first:
            line = first[each.name].entry.beside.line
            yield each.fault(f"a {what} of this name stands on line {line} already; give one of them another with `name:`")
        first.setdefault(each.name, each)


# ------------------------------------------------------------------ names that parameters mention


def _mentions(draft: Draft, step: Drafted, index: int) -> Iterator[Fault]:
    needs = step.needs()
    if step.keys.start:
        what = _unusable(draft, step.keys.start, index)
        if what:
            yield step.fault(what, "from")
    if isinstance(step.step, Pass) and draft.task is not None:
        if needs.loss and not draft.task.trainable:
            yield step.fault(f"needs a loss of the task's own, and '{draft.task_name}' has none: {_without_loss(step)}")
        if needs.logits and not draft.task.gives_logits():
            yield step.fault(
                f"takes outputs for logits of classes, and the task '{draft.task_name}' gives none: {_without_loss(step)}"
            )
        if needs.imitates and draft.task.imitated() is None:
            yield step.fault(
                f"learns from answers, and those of the task '{draft.task_name}' are none to imitate: {_without_loss(step)}"
            )
        if needs.tokens and draft.task.counts != "tokens":
            yield step.fault(f"counts tokens, and the task '{draft.task_name}' counts rows: give epochs or steps", "tokens")
        yield from _goes_on(step, draft.task, draft.task_name)
        if needs.repeats and not draft.task.repeats():
            yield step.fault(
                f"keeps what teachers answer to a row, and the task '{draft.task_name}' draws its inputs anew in every epoch: "
                "leave cache_teacher out, or the task's crop"
            )
        yield from _idle(step, draft.task, draft.task_name)
    yield from _lengths(draft, step)
    for name in needs.teachers:
        what = _unusable(draft, name, index)
        if what:
            yield step.mention(name, what)
    targets, dialects = {target.name for target in draft.targets}, draft.dialects()
    for name in needs.targets:
        if name not in targets:
            yield step.mention(name, f"no target is named '{name}'{did_you_mean(name, targets)}")
        elif quantizes(step) and name in dialects and dialects[name].format == TORCH:
            yield step.mention(
                name, f"times what it quantises on '{name}', which computes it in float: name a target with kernels"
            )


def _lengths(draft: Draft, step: Drafted) -> Iterator[Fault]:
    """Rows are timed at lengths that the task has."""
    if draft.task is not None:
        timed = step.step.workloads() if isinstance(step.step, Probe) else step.needs().workloads
        lengths = dict.fromkeys(each.length for each in timed if each.length is not None)
        yield from (step.fault(f"length {why}") for length in lengths if (why := draft.task.refuses(length)))


def _stages(draft: Draft, probe: Drafted) -> Iterator[Fault]:
    """Steps that a probe looks at are there."""
    if isinstance(probe.step, Probe):
        made = [step for step in draft.steps if not step.below]
        known = (
            *RESERVED,
            *(name for step in made for name in (step.name, *(f"{step.name}.{each}" for each in step.needs().products))),
        )
        for name in (name for name in probe.step.stages() if name not in known):
            yield probe.mention(name, f"no step is named '{name}'{did_you_mean(name, known)}")


def _without_loss(step: Drafted) -> str:
    parameters = step.kind.model_fields if step.kind else {}
    if "objectives" in parameters:
        return "name objectives that look inside, as layer-to-layer, and no task_loss"
    return "say importance: activation" if "importance" in parameters else "leave it out"


def _goes_on(step: Drafted, task: Task, task_name: str) -> Iterator[Fault]:
    """Tokens are timed one after the other where models make some."""
    offered = {"forward", *(each.kind for each in task.workloads())}
    for each in step.needs().workloads:
        if each.kind in ("prefill", "decode") and each.kind not in offered:
            yield step.fault(f"times {each.kind}, and models of the task '{task_name}' go on with nothing: leave kind out")


def _idle(step: Drafted, task: Task, task_name: str) -> Iterator[Fault]:
    """Parameters of objectives that do nothing for this task."""
    names = step.needs().plugins.get("objective", ())
    for path, key, value in step.entry.parameters.walk(step.entry.where):
        if key in names and isinstance(value.data, dict):
            try:
                objective, _ = validated(registry.load("objective", key), value, path, what="parameter")
            except PluginError:  # told with the plug-ins of the step
                continue
            for name in objective.idle(task) if objective else ():
                yield value.data[name].fault(f"{path}.{name}", f"does nothing for the task '{task_name}': leave it out")


def plugin_faults(step: Drafted) -> Iterator[Fault]:
    """Faults in the names and parameters of the plug-ins that a pass's parameters speak of, such as objectives."""
    for kind, names in step.needs().plugins.items():
        for name in names:
            try:
                plugin = registry.load(kind, name)
            except PluginError as error:
                yield step.mention(name, str(error))
                continue
            for path, key, value in step.entry.parameters.walk(step.entry.where):
                if key == name and isinstance(value.data, dict):
                    yield from validated(plugin, value, path, what="parameter")[1]


def _unusable(draft: Draft, name: str, index: int) -> str | None:
    """Why the step at `index` cannot read the model `name`; None if it can."""
    if name == "source" or name in draft.models:
        return None
    steps = {step.name: step for step in draft.steps}
    own, _, product = name.partition(".")
    if product and own in steps and product not in steps[own].needs().products:
        return f"step '{own}' makes no '{product}'{did_you_mean(product, steps[own].needs().products)}"
    earlier = [each for step in draft.steps[:index] if not step.below for each in (step.name, *_products(step))]
    if name in earlier:
        return None
    mine = draft.steps[index].name
    if own == mine:
        return f"'{name}' is of this step itself; expected a step before it{_listed(['source', *draft.models, *earlier])}"
    if own not in steps:
        return f"no step or model is named '{name}'{did_you_mean(name, ['source', *draft.models, *earlier])}"
    if steps[own].below:
        return f"'{name}' works below torch, where there is no model to learn from or start with"
    moved = [other for other in steps if other != mine]
    moved.insert(moved.index(own) + 1, mine)
    return f"step '{own}' comes later; {works(moved)}"


def _products(step: Drafted) -> tuple[str, ...]:
    """Further models of a step, as other steps name them."""
    return tuple(f"{step.name}.{name}" for name in step.needs().products)


def _listed(names: Iterable[str]) -> str:
    return f" ({', '.join(names)})"


def _reference(draft: Draft) -> Iterator[Fault]:
    if draft.reference == "source":
        return
    steps = {step.name: step for step in reversed(draft.steps)}
    step = steps.get(draft.reference)
    if step is None:
        near = did_you_mean(draft.reference, ["source", *(name for name in steps if not steps[name].below)])
        yield draft.reference_at.fault("reference", f"no step is named '{draft.reference}'{near}")
    elif step.below:
        yield draft.reference_at.fault("reference", f"'{draft.reference}' works below torch; the reference is a torch model")
    else:
        names = [each.name for each in draft.steps]
        for early in draft.steps[: names.index(draft.reference) + 1]:
            if limit := early.keys.gate and early.keys.gate.drop_limit:
                later = "is the reference itself" if early is step else f"comes before the reference '{draft.reference}'"
                yield early.fault(f"{limit} cannot be judged: the step {later}", "gate")


def _metrics(draft: Draft) -> Iterator[Fault]:
    """Metrics that the task does not have."""
    if draft.task is None:
        return
    known = [measure.name for measure in draft.task.measures()]

    def unknown(name: str) -> str:
        return f"the task '{draft.task_name}' has no metric '{name}'{did_you_mean(name, known)}"

    if draft.metric is not None and draft.metric not in known and draft.metric_at is not None:
        yield draft.metric_at.fault("metric", unknown(draft.metric))
    for step in draft.steps:
        if step.keys.gate and step.keys.gate.metric and step.keys.gate.metric not in known:
            yield step.fault(unknown(step.keys.gate.metric), "gate")
        elif step.keys.gate and (what := _more_than_all(draft, draft.task, step.keys.gate)):
            yield step.fault(what, "gate")
        if step.keys.gate and (what := _no_classes(draft, draft.task, step.keys.gate)):
            yield step.fault(what, "gate")
    for where, at, accept in draft.accept:
        if accept and accept.metric and accept.metric not in known:
            yield at.items()["metric"].fault(f"{where}.metric", unknown(accept.metric))
        elif accept and (what := _more_than_all(draft, draft.task, accept)):
            yield at.items()["max_drop"].fault(f"{where}.max_drop", what)
        if accept and (what := _no_classes(draft, draft.task, accept)):
            yield at.items()["max_class_drop"].fault(f"{where}.max_class_drop", what)


def _no_classes(draft: Draft, task: Task, limits: Limits) -> str | None:
    if limits.max_class_drop is None or task.scores_classes():
        return None
    return f"the task '{draft.task_name}' scores no classes, which max_class_drop is about: limit max_drop"


def _more_than_all(draft: Draft, task: Task, limits: Limits) -> str | None:
    """A fraction has 100 points to lose; what is counted in per cent has no end, and no distance has one."""
    name = limits.metric or draft.metric or task.metric
    ends = {measure.name for measure in task.measures() if measure.drop == "points" and measure.better == "higher"}
    if (limits.max_drop or 0) <= 100 or name not in ends:
        return None
    return f"max_drop {limits.max_drop:g} allows to lose more than all of '{name}', which has 100 points; give at most 100"


# ------------------------------------------------------------------ gates


def _limits(draft: Draft) -> Iterator[Fault]:
    targets = {target.name for target in draft.targets}
    for step in draft.steps:
        if step.keys.gate and not _timed(draft, step.keys.gate):
            yield step.fault(_no_clock(), "gate")
    for where, at, accept in draft.accept:
        if accept is None:
            continue
        for key, name in (("target", accept.target), ("against", accept.against)):
            if name is not None and name not in targets:
                what = f"no target is named '{name}'{did_you_mean(name, targets)}"
                yield at.items().get(key, at).fault(f"{where}.{key}", what)
        if not _timed(draft, accept):
            yield at.fault(where, _no_clock())
        yield from _workload(draft, where, at, accept)


def _without_data(draft: Draft) -> Iterator[Fault]:
    """A plan may have no data where no step reads rows and nothing is held against them."""
    if draft.without_data is None:
        return
    reading = [step for step in draft.steps if step.needs().rows]
    if len(reading) == len(draft.steps) or (draft.task and not draft.task.imagines):
        yield draft.without_data.fault("data", "missing; say where the rows come from: `files:` or `hub:`")
        return
    for step in reading:
        if step.step is not None:
            yield step.fault("reads rows, and the plan has no data: say where they come from below `data:`")
    judged = "cannot be judged: the plan has no data, so quality is not scored"
    for step in draft.steps:
        if step.keys.gate and (limit := step.keys.gate.drop_limit):
            yield step.fault(f"{limit} {judged}", "gate")
    for where, at, accept in draft.accept:
        if accept and (limit := accept.drop_limit):
            yield at.fault(where, f"{limit} {judged}")


def _no_clock() -> str:
    named = next((f"`- {name}`" for name in registry.latency_probes()), "a probe that measures latency")
    return f"a limit on speed or latency needs a measurement; add {named} to probes"


def _timed(draft: Draft, limits: Limits) -> bool:
    return not limits.timed or any(map(_measures_latency, draft.probes))


def _measures_latency(probe: Drafted) -> bool:
    return probe.kind is not None and issubclass(probe.kind, Probe) and probe.kind.measures_latency


def _workload(draft: Draft, where: str, at: Located, accept: Accept) -> Iterator[Fault]:
    """The workload a limit speaks of is measured."""
    probes = [probe.step for probe in draft.probes if _measures_latency(probe)]
    if not (accept.timed and probes) or not all(isinstance(probe, Probe) for probe in probes):
        return
    workloads = [workload for probe in probes if isinstance(probe, Probe) for workload in probe.workloads()]
    if not any(map(accept.fits, workloads)):
        wanted = {key: value for key in ("workload", "batch", "length") if (value := getattr(accept, key)) is not None}
        key = next(iter(wanted))
        spelled = " ".join(f"{name} {value}" for name, value in wanted.items())
        measured = "; ".join(map(str, workloads))
        yield at.items().get(key, at).fault(f"{where}.{key}", f"{spelled} is not measured; probes measure {measured}")
