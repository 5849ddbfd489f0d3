"""A plan as text, with comments that say what was seen and why it says what it says."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compressor.errors import UnsupportedModel
from compressor.foreign import one_line
from compressor.plan.yaml_source import write_yaml

if TYPE_CHECKING:
    from compressor.proposal.ladder import Entry, Ladder
    from compressor.proposal.looked import Looked

WIDTH = 110
SHOWN = 8
"""Labels that a comment lists."""
MOST_TOLD = 1000
"""Characters of a comment."""


def written(command: str, name: str, looked: Looked, ladder: Ladder) -> str:
    """The plan of what was seen.

    Raises:
        UnsupportedModel: no pass makes the model smaller for what may be lost.
    """
    passes = ladder.passes()
    if all(each.recipe.role == "train" for each in passes):
        named = ", ".join(each.name for each in ladder.targets)
        raise UnsupportedModel(f"no pass that is installed makes this model smaller on {named}: take another target")
    why = "the model as it came" if looked.trained else "the model with its head trained"
    parts = (
        _comments(f"Written by `{command}`. `compressor check` says what it does and costs, `compressor run` runs it,")
        + _comments("`compressor explain plan` says what else a plan can say."),
        _block("name", name),
        _model(looked),
        _task(looked),
        _data(looked),
        f"{_block('reference', ladder.reference).rstrip()}  # quality is held against {why}\n",
        _entries("passes", passes),
        *_further(ladder),
        _entries("targets", ladder.targets)
        + "".join(_comments(f"not here: {name}: {why}", indent="  ") for name, why in ladder.absent()),
        _entries("probes", ladder.probes) if ladder.probes else "",
        _accept(looked, ladder),
    )
    return "\n".join(filter(None, parts))


def summary(looked: Looked, ladder: Ladder) -> Iterator[str]:
    """What was seen and is proposed, for the terminal."""
    yield f"model: {'; '.join(_of_model(looked))}"
    yield f"task: {looked.task_name}: {looked.why}"
    yield f"data: {_counts(looked)}"
    for note in (*looked.data.record.findings, *looked.notes):
        yield f"data: {note}"
    yield f"passes: {', '.join(each.name for each in ladder.passes())}"
    yield f"targets: {', '.join(each.name for each in ladder.targets)}"


def _of_model(looked: Looked) -> list[str]:
    kind = str(looked.config.get("model_type", "")) or "a model"
    return [f"{kind}: {line}" for line in looked.examined] or [kind]


def _model(looked: Looked) -> str:
    return _comments(*_of_model(looked)) + _block("model", dict(looked.model))


def _task(looked: Looked) -> str:
    others = [f"fits too: {', '.join(looked.others)} (--task)"] if looked.others else []
    sizes = [str(looked.sizes)] if looked.sizes else []
    return _comments(looked.why, *sizes, *others) + _block("task", {looked.task_name: dict(looked.parameters)})


def _counts(looked: Looked) -> str:
    rows = {each.name: each.rows for each in looked.data.record.splits}
    return f"{looked.rows.told}: {', '.join(f'{rows[name]} {name}' for name in ('train', 'validation', 'test'))}"


def _data(looked: Looked) -> str:
    classes = next(each.classes for each in looked.data.record.splits if each.name == "train")
    shown = ", ".join(f"{name} {count}" for name, count in list(classes.items())[:SHOWN])
    more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
    told = [_counts(looked), *([f"in train: {shown}{more}"] if classes else [])]
    return _comments(*told, *looked.data.record.findings, *looked.notes) + _block("data", dict(looked.data_spec))


def _entries(section: str, entries: Sequence[Entry]) -> str:
    """A section of plug-ins, each below the reason that it is there for."""
    found = f"{section}:\n"
    for entry in entries:
        found += _comments(entry.recipe.why, indent="  ") if entry.recipe.why else ""
        found += textwrap.indent(write_yaml([entry.plain], compact=not isinstance(entry.plain, str)), "  ")
    return found


def _further(ladder: Ladder) -> Iterator[str]:
    """Rungs above, to be taken by hand or by `--max-drop`."""
    for drop, entries in ladder.further():
        shown = _entries("passes", [replace(each, recipe=replace(each.recipe, why="")) for each in entries])
        head = _comments(f"Where {drop:g} points may be lost (--max-drop {drop:g}), init proposes:")
        yield head + textwrap.indent(shown, "# ")


def _accept(looked: Looked, ladder: Ladder) -> str:
    rows = next(each.rows for each in looked.data.record.splits if each.name == "test")
    measure = looked.task.measures()[0]
    points = measure.drop == "points"
    row = f"; one of {rows} test rows is {100 / rows:.2g} points" if points else ""
    head = _comments(f"max_drop is in {'points' if points else 'per cent'} of {measure.name} against {ladder.reference}{row}")
    asked = [{"target": each.name, "max_drop": ladder.wish.max_drop} for each in ladder.targets]
    return head + "accept:\n" + textwrap.indent(write_yaml(asked, compact=True), "  ")


def _block(key: str, value: Any) -> str:
    return write_yaml({key: value}, compact=not isinstance(value, str))


def _comments(*lines: str, indent: str = "") -> str:
    """Text, of anybody, as lines of a comment."""
    short = (one_line(line if len(line) <= MOST_TOLD else f"{line[:MOST_TOLD]} ...") for line in lines)
    found = [part for line in short for part in textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False)]
    return "".join(f"{indent}# {part}\n" for part in found)
