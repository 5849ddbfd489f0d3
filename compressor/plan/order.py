"""Formats and the order of passes: a model only goes down, and its tensors are quantised once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from compressor.contracts import Dialect, Pass
from compressor.contracts.registry import TORCH, format_for, load, lowering
from compressor.errors import Fault, PluginError, did_you_mean
from compressor.plan.draft import Draft, Drafted
from compressor.plan.lineage import Link, inherited


def order_faults(draft: Draft) -> Iterator[Fault]:
    """Passes that have no place on the way to a target, that would have to climb, that quantise twice, or cut what is quantised."""
    yield from _targets(draft)
    yield from _places(draft)
    yield from _order(draft)
    yield from _quantized_twice(draft)
    yield from _quantized_before(draft)
    yield from _after_the_last(draft)
    yield from _several_graphs(draft)
    yield from _lost(draft)


def works(names: Iterable[str]) -> str:
    """How a message names an order that works."""
    return f"an order that works: {', '.join(names)}"


def _targets(draft: Draft) -> Iterator[Fault]:
    """Targets whose format nobody can get down to."""
    dialects = draft.dialects()
    for target in draft.targets:
        try:
            lowering(dialects[target.name].format if target.name in dialects else TORCH)
        except PluginError as error:
            yield target.fault(str(error))


def _places(draft: Draft) -> Iterator[Fault]:
    targets = {target.name for target in draft.targets}
    for step in draft.steps:
        for name in step.keys.only or ():
            if name not in targets:
                yield step.fault(f"no target is named '{name}'{did_you_mean(name, targets)}", "only")
        if step.trunk and step.keys.only:
            yield step.fault(f"'{step.name}' works on the torch model, once for all targets; leave `only` out", "only")
        if step.below and step.keys.start:
            yield step.fault(f"'{step.name}' works below torch, on what the torch passes end with; leave `from` out", "from")
        if step.below:
            yield from _unfit(draft, step)
        yield from _refused(draft, step)


def _unfit(draft: Draft, step: Drafted) -> Iterator[Fault]:
    unfit = [name for name, dialect in draft.acts_on(step).items() if _format(step, dialect) is None]
    fit = [name for name, dialect in draft.dialects().items() if _format(step, dialect) is not None]
    if not unfit:
        return
    formats = ", ".join(f"'{name}' ({draft.dialects()[name].format})" for name in unfit)
    advice = f"write `only: [{', '.join(fit)}]` beside it" if fit else "no target of this plan can take it; leave it out"
    yield step.fault(f"works on {' or '.join(step.accepts)} and has no place on the way to {formats}; {advice}")


def _refused(draft: Draft, step: Drafted) -> Iterator[Fault]:
    """What a step asks for and a target has not, told where the parameter stands."""
    if not isinstance(step.step, Pass):
        return
    for name, dialect in draft.acts_on(step).items():
        if not step.below or _format(step, dialect) is not None:
            for parameter, reason in step.step.refuses(dialect).items():
                yield step.at_parameter(parameter, f"target '{name}': {reason}")


def _format(step: Drafted, dialect: Dialect) -> str | None:
    try:
        return format_for(step.accepts, dialect)
    except PluginError:  # told at the target
        return step.accepts[0]


def _depth(step: Drafted, dialect: Dialect) -> int:
    """How far below torch a step works: 1 for the first format, and so on; 1 too where it has no place on the way, which is told."""
    try:
        way = lowering(dialect.format)
    except PluginError:
        return 1
    form = _format(step, dialect)
    return way.index(form) + 1 if form in way else 1


def _order(draft: Draft) -> Iterator[Fault]:
    """A model only goes down: the first step of each that would have to climb is a fault."""
    for index, step in enumerate(draft.steps):
        if not step.known:
            continue
        before = draft.steps[:index]
        blocking = next((other for other in before if _must_follow(draft, other, step)), None)
        if blocking:
            formats = " or ".join(step.accepts)
            yield step.fault(
                f"works on {formats} and comes after '{blocking.name}', which is below that; {works(_sorted(draft))}"
            )


def _must_follow(draft: Draft, first: Drafted, second: Drafted) -> bool:
    """True if `first` leaves some target's model on a lower format than `second` takes."""
    if second.trunk:
        return first.below
    on = draft.acts_on(second)
    return first.below and any(
        _depth(first, dialect) > _depth(second, dialect) for name, dialect in draft.acts_on(first).items() if name in on
    )


def _sorted(draft: Draft) -> list[str]:
    """The steps' names with torch first, then format by format."""

    def depth(step: Drafted) -> int:
        return max((_depth(step, dialect) for dialect in draft.acts_on(step).values()), default=1) if step.below else 0

    return [step.name for step in sorted(draft.steps, key=depth)]


def _quantized_twice(draft: Draft) -> Iterator[Fault]:
    quantizing = [step for step in draft.steps if quantizes(step)]
    for index, step in enumerate(quantizing):
        for other in quantizing[:index]:
            both = [name for name in draft.acts_on(step) if name in draft.acts_on(other)]
            if both:
                yield step.fault(
                    f"quantises what '{other.name}' has quantised already for {', '.join(both)}; "
                    "leave one of them out, or give each its own targets with `only:`"
                )
                break


def _quantized_before(draft: Draft) -> Iterator[Fault]:
    """Matrices that hold the steps of their quantisers keep rows and columns, and learn by themselves: what else is done comes before."""
    trunk = [step for step in draft.steps if step.trunk]
    origins = inherited(Link(step.name, step.keys.start, quantizes(step)) for step in trunk)
    for step in trunk:
        if (origin := origins.get(step.name)) is None:
            continue
        if _cuts(step):
            yield step.fault(f"cuts matrices that '{origin}' has quantised; put '{step.name}' before '{origin}'")
        for parameter, why in step.needs().floats.items():
            advice = f"leave {parameter} out, or put it before" if parameter else f"put '{step.name}' before '{origin}'"
            yield step.at_parameter(parameter, f"{why}, and '{origin}' has quantised them: {advice}")


def _after_the_last(draft: Draft) -> Iterator[Fault]:
    """Steps that would change a model which has to stay as it is."""
    reasons = {step.name: step.kind.comes_last for step in draft.steps if step.kind and issubclass(step.kind, Pass)}
    before = ""
    for step in draft.steps:
        start = (step.keys.start if step.trunk else None) or before
        if step.known and (why := reasons.get(start)):
            yield step.fault(f"changes the model that '{start}' made, and {why}: put '{start}' last")
        before = step.name if step.trunk else before


def _several_graphs(draft: Draft) -> Iterator[Fault]:
    """Quantisers of one graph, below a torch model that becomes several."""
    why = {step.name: step.needs().graphs for step in draft.steps if step.trunk}
    links = [Link(step.name, step.keys.start, bool(why[step.name])) for step in draft.steps if step.trunk]
    origin = inherited([*links, Link("", None, marks=False)]).get("")
    for step in draft.steps:
        if origin and step.below and quantizes(step) and not _of_each_graph(step):
            yield step.fault(
                f"quantises one graph, and what '{origin}' made becomes several, {why[origin]}: leave one of both steps out"
            )


def _lost(draft: Draft) -> Iterator[Fault]:
    """Trainings on rows of a model that was taught what rows do not say."""
    trunk = [step for step in draft.steps if step.trunk]
    taught = {step.name: step.needs().teaches for step in trunk}
    origins = inherited(Link(step.name, step.keys.start, bool(taught[step.name])) for step in trunk)
    for step in trunk:
        if (origin := origins.get(step.name)) and _trains(step) and not step.needs().own_lessons:
            taken = step.kind is not None and "teacher" in step.kind.model_fields and not step.needs().teachers
            advice = f"put it before '{origin}'{', or name that as teacher' if taken else ''}"
            yield step.fault(
                f"trains on rows, which say nothing of the {taught[origin]} that '{origin}' has taught: they would be lost; {advice}"
            )


def _trains(step: Drafted) -> bool:
    return step.kind is not None and issubclass(step.kind, Pass) and step.kind.trains


def _of_each_graph(step: Drafted) -> bool:
    return step.kind is not None and issubclass(step.kind, Pass) and step.kind.each_graph


def quantizes(step: Drafted) -> bool:
    """Whether what a step makes is quantised."""
    return step.kind is not None and issubclass(step.kind, Pass) and step.kind.quantizes


def _cuts(step: Drafted) -> bool:
    """Whether a step takes rows or columns out of matrices."""
    try:
        return any(load("edit", name).cuts for name in step.needs().plugins.get("edit", ()))
    except PluginError:  # told with the step
        return False
