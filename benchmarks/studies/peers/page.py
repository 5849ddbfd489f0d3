"""The page of what other tools make of the same model."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.statistics import EFFECT_FLOOR, ratio_with_interval, widened
from benchmarks.studies.pages import controls, machine_lines
from benchmarks.studies.peers.environments import PINNED
from benchmarks.studies.peers.forms import FORMS, NNCF, NNCF_BF16, OURS, OURS_BF16, REFERENCE, Form, rival_of
from benchmarks.studies.peers.makers import MAKERS
from compressor.contracts.records import LatencyRecord, LatencyRow, ProfileRow, Report
from compressor.report import profiles, wording
from compressor.report.markdown import table

if TYPE_CHECKING:
    from benchmarks.studies.peers.shop import Cell, Shop

HEAD = """# Other tools on the same model

`python -m benchmarks.studies.peers --work FOLDER` remakes this page. The quickstart's fine-tuned model, whole: 6 layers, 384 wide, nothing
pruned. Each tool quantises it with the plan's 128 calibration rows, or exports or compiles it in fp32. All forms of a cell run interleaved,
each in a process of its own that is given the same arrays in the same way; {length} tokens; 95 % intervals. Accuracy is of the very files that
were timed."""
NOTES = """* Files of ONNX Runtime and OpenVINO are opened by the same code as ours: all optimisations on, one stream, what is not int8 in fp32
  (`int8`) or in what OpenVINO chooses by itself (`int8, else bf16`).
* Models of torch are opened by torch's own functions in the measuring process, with weights frozen (`TORCHINDUCTOR_FREEZING=1`); compilation is
  before what is timed, for the batch and length of the cell alone, where files of ONNX Runtime and OpenVINO take any. Their answers are those
  of the same functions uncompiled.
* ONNX Runtime's static quantiser takes by its defaults softmax, GELU, transposes and reshapes too: 548 conversions stand in its file, 315 in that
  of optimum. Neural Compressor's quantiser of ONNX is of 2024, and what it makes of this model by its defaults answers wrongly.
* Pruning and distillation are left out for all: what they gain is on [the quickstart's page](quickstart.md)."""


def document(report: Report, shop: Shop, forms: Sequence[Form], times: Mapping[Cell, LatencyRecord]) -> str:
    """All tables, with what they were measured on."""
    lines = [
        *HEAD.format(length=shop.length).splitlines(),
        "",
        *machine_lines(report),
        *(f"- Environment `{name}`: {', '.join(pinned)}." for name, pinned in PINNED.items() if _used(name, forms)),
        f"- {controls(list(times.values()))}",
        "",
        "## Files and their answers",
        "",
        *answers(shop, forms),
        "## Times",
        "",
        "Milliseconds of a call, median of rounds.",
        "",
        *milliseconds(forms, times),
        "## How many times as fast is what is made here",
        "",
        "Our int8 file over each form in the same run: for ONNX Runtime our file in ONNX Runtime, else our file in OpenVINO.",
        "",
        *ratios(forms, times),
        "## NNCF's file and ours, in OpenVINO",
        "",
        *beside_nncf(shop, forms, times),
        "## How files were made",
        "",
        *made(forms),
        *left_out(shop),
        *NOTES.splitlines(),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _used(environment: str, forms: Sequence[Form]) -> bool:
    return any(each.environment == environment for each in forms)


def answers(shop: Shop, forms: Sequence[Form]) -> Iterator[str]:
    """Size, accuracy, and how often the answer is that of the model as it was trained."""
    reference, task, rows = shop.scored(REFERENCE), shop.ground.bound.task, []
    theirs = task.predictions(reference.outputs)
    for form in forms:
        found = shop.scored(form)
        main = found.scores.main
        change = task.compare(found, reference, metric=found.scores.metric, name="torch", seed=0)
        same = np.mean(np.asarray(task.predictions(found.outputs)) == np.asarray(theirs))
        between = "" if form == REFERENCE else f"{wording.moved(change)} ({wording.moved_between(change)})"
        accuracy = f"{main.value:.4f}" + (f" [{main.interval.low:.4f}, {main.interval.high:.4f}]" if main.interval else "")
        rows.append(
            (
                form.name,
                form.made_by,
                form.runs_in,
                form.numbers,
                f"{shop.bytes_of(form) / 1e6:.1f} MB",
                accuracy,
                between,
                f"{same:.2%}",
            )
        )
    columns = (
        "form",
        "made by",
        "runs in",
        "numbers",
        "size",
        f"{reference.scores.metric}, {reference.scores.main.n} test rows",
        "over torch",
        "same answer",
    )
    yield from table(columns, rows, numbers=range(4, 8))


def row_of(record: LatencyRecord, form: Form) -> LatencyRow | None:
    """A form's times in a cell; None where it was not in it."""
    return next((each for each in record.rows if each.candidate.partition("@")[0] == form.name), None)


def together(times: Mapping[Cell, LatencyRecord]) -> dict[str, list[LatencyRecord]]:
    """Series of the same threads and batch; a form is looked for in the first."""
    found: dict[str, list[LatencyRecord]] = {}
    for cell, record in times.items():
        found.setdefault(str(replace(cell, compiled=False)), []).append(record)
    return found


def milliseconds(forms: Sequence[Form], times: Mapping[Cell, LatencyRecord]) -> Iterator[str]:
    """A row for each form, a column for each cell."""
    columns, rows = together(times), []
    for form in forms:
        found = [next(filter(None, (row_of(record, form) for record in records)), None) for records in columns.values()]
        rows.append(
            (form.name, form.runs_in, form.numbers, *("not timed" if row is None else f"{row.median_ms:.2f}" for row in found))
        )
    yield from table(("form", "runs in", "numbers", *columns), rows, numbers=range(3, 3 + len(columns)))


def faster(record: LatencyRecord, ours: Form, theirs: Form) -> tuple[float, float, float] | None:
    """How many times as fast ours is, with an interval no narrower than what processes of one model differ by; None if not of one series."""
    mine, other = row_of(record, ours), row_of(record, theirs)
    if mine is None or other is None:
        return None
    value, rounds = ratio_with_interval(other.rounds_ms, mine.rounds_ms, seed=0)
    found = widened(value, rounds, by=math.log1p(max(EFFECT_FLOOR, *(each.noise for each in record.controls))))
    return value, found.low, found.high


def spelled(records: Sequence[LatencyRecord], ours: Form, theirs: Form) -> str:
    """A ratio with its interval, of the series that has both."""
    found = next(filter(None, (faster(record, ours, theirs) for record in records)), None)
    if found is None:
        return "not timed"
    value, low, high = found
    return f"{value:.2f}x [{low:.2f}, {high:.2f}]"


def ratios(forms: Sequence[Form], times: Mapping[Cell, LatencyRecord]) -> Iterator[str]:
    """Ours over every other form."""
    columns = together(times)
    rows = [
        (form.name, rival_of(form).name, *(spelled(records, rival_of(form), form) for records in columns.values()))
        for form in forms
        if rival_of(form) != form
    ]
    yield from table(("over", "ours", *columns), rows, numbers=range(2, 2 + len(columns)))


def beside_nncf(shop: Shop, forms: Sequence[Form], times: Mapping[Cell, LatencyRecord]) -> Iterator[str]:
    """Ratios, and what either spends by operator."""
    if NNCF not in forms:
        yield from ("NNCF is left out.", "")
        return
    for words, mine, other in (("int8", OURS, NNCF), ("int8, else bf16", OURS_BF16, NNCF_BF16)):
        pairs = [f"{name}: {spelled(records, mine, other)}" for name, records in together(times).items()]
        yield f"* Ours over NNCF's, {words}: {'; '.join(pairs)}."
    yield ""
    rows = {row.candidate.partition("@")[0]: row for row in shop.profiles().rows}
    ours, theirs = rows[OURS.name], rows[NNCF.name]
    yield f"{profiles.peaks_words(ours)}"
    yield ""
    for words, row in (("Ours", ours), ("NNCF's", theirs)):
        yield f"{words}: {profiles.bound_words(row)}"
        yield ""
    yield from costs(ours, theirs)


def costs(ours: ProfileRow, theirs: ProfileRow) -> Iterator[str]:
    """By kind of operator: time of both, and the least that ours could take at the machine's peak."""
    mine = {(each.name, each.numbers): each for each in profiles.by_kind(ours)}
    other = {(each.name, each.numbers): each for each in profiles.by_kind(theirs)}
    rows = []
    for key in dict.fromkeys([*mine, *other]):
        a, b = mine.get(key), other.get(key)
        least = f"{a.ms * a.efficiency:.3f} ms" if a and a.efficiency else "-"
        rows.append(
            (
                key[0], key[1] or "-", a.count if a else 0, wording.milliseconds(a.ms) if a else "-", b.count if b else 0,
                wording.milliseconds(b.ms) if b else "-", wording.percent(a.efficiency) if a else "-", least,
            )
        )  # fmt: skip
    columns = (
        "operator",
        "in",
        "ours: how many",
        "ours: time",
        "NNCF: how many",
        "NNCF: time",
        "ours: of the peak",
        "ours: least time",
    )
    yield from table(columns, rows, numbers=range(2, 8))


def made(forms: Sequence[Form]) -> Iterator[str]:
    """By each maker's own words."""
    for name in dict.fromkeys(form.maker for form in forms if form.maker):
        yield f"* `{name}`: {(inspect.getdoc(MAKERS[name]) or '').splitlines()[0]}"
    yield "* Made here: the plan's own `quantize-static` behind `finetune`, with all rewrites of graphs."
    yield ""


def left_out(shop: Shop) -> Iterator[str]:
    """Tools that could not be had."""
    if shop.skipped:
        yield from ("## Left out", "")
        yield from (
            f"* {next(form for form in FORMS if form.name == name).made_by} (`{name}`): {why}"
            for name, why in shop.skipped.items()
        )
        yield ""
