"""A run as a page's subject: the model that quality is held against and the compressed one, each built for one target."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.cli_plans import shipped_of
from compressor.contracts.records import Candidate, Report
from compressor.deploy.graphs import graphs_of, task_of
from compressor.errors import CompressorError, MissingDependency, StoreError
from compressor.export import check_files
from compressor.export.witnesses import asked, few, read_rows
from compressor.files import json_in
from compressor.report import WITNESSES, wording
from compressor.report.findings import Findings, speed_up
from compressor.run.comparison import Run
from compressor.store.checksums import check_below
from demos.by_task import command
from demos.rows import Rows
from demos.side.process import Side
from demos.side.subject import Example, Subject

BEFORE, AFTER = "Before", "Compressed"
SHOWN = 80
"""Characters of a row in a list."""
PROMPT = 200
"""Characters of a row that a model is asked to go on with."""
MOST_CLASSES = 10_000


@dataclass(frozen=True)
class Chosen:
    """What of a run is shown: a target, and the candidates before and after."""

    run: Run
    target: str
    before: Candidate | None
    after: Candidate
    missing: dict[str, str]
    """Other targets that this machine or the run lacks, and why."""

    def built(self, candidate: Candidate) -> Path:
        """The folder of a candidate's files."""
        return self.run.folder / "artifacts" / candidate.id


def choose(run: Run, target: str | None) -> Chosen:
    """The target that is shown: the one asked for, else the one that is exported, of those that run here.

    Raises:
        StoreError: the run has no such target, or kept no compressed model.
        MissingDependency: this machine lacks it.
    """
    names = list(dict.fromkeys(each.target for each in run.report.candidates if each.stage == "final"))
    missing = dict(run.report.missing) | {name: why for name in names if (why := _lacks(run, name))}
    here = [name for name in names if name not in missing]
    others = f"; of its targets this machine runs {', '.join(here)}: --target {here[0]}" if here else ""
    if target and target in missing:
        raise MissingDependency(f"target {target}: {missing[target]}{others}")
    if target and target not in names:
        raise StoreError(f"{run.folder} has no target '{target}'{others}")
    if not here:
        told = "; ".join(f"{name}: {why}" for name, why in missing.items()) or "it has no compressed model"
        raise StoreError(f"{run.folder} cannot be shown here: {told}")
    name = target or shipped_of(run.report, here)
    return Chosen(run, name, _before(run, name), run.candidates[f"final@{name}"], missing)


def _lacks(run: Run, target: str) -> str:
    """Why a target cannot be shown here; empty where it can."""
    if not run.candidates[f"final@{target}"].files:
        return run.candidates[f"final@{target}"].not_measured or "it was not built"
    try:
        return run.target(target).missing().run or ""
    except CompressorError as error:
        return str(error)


def _before(run: Run, target: str) -> Candidate | None:
    """The model that quality is held against, built for a target; else the source; None where neither was kept."""
    names = (f"{run.report.reference}@{target}", f"source@{target}")
    found = [run.candidates[name] for name in names if name in run.candidates and run.candidates[name].files]
    return next((each for each in found if (run.folder / "artifacts" / each.id).is_dir()), None)


def subject(chosen: Chosen, rows: Rows) -> Subject:
    """Both models in processes of their own, which begin to load now.

    Raises:
        StoreError: a file is not the one that was measured.
        UnsupportedModel: the task takes nothing from users.
    """
    kept = [each for each in (chosen.before, chosen.after) if each is not None]
    for each in kept:
        check_files(chosen.built(each), each)
        check_below(chosen.run.folder, f"artifacts/{each.id}")
    task, report = task_of(chosen.built(chosen.after)), chosen.run.report
    how = task.deployment(chosen.built(chosen.after), graphs_of(chosen.built(chosen.after))[0].fed)
    target = chosen.run.target(chosen.target)
    names = [BEFORE, AFTER][-len(kept) :]
    sides = [
        Side(name, command(task_of(chosen.built(each)), target, chosen.built(each), labels(chosen.built(each))))
        for name, each in zip(names, kept, strict=True)
    ]
    known = labels(chosen.built(chosen.after))
    return Subject(
        title=report.name,
        kind=how.kind if how.draws is None else "seed",
        classes=() if how.draws is None else drawn_classes(how.draws, known),
        sides=sides,
        about=[_about(each) for each in kept],
        texts=task.columns().content if how.pair else ("text",) if how.generates is None else ("prompt",),
        generates=how.generates is not None,
        examples=() if how.draws else tuple(_examples(rows, chosen.run, generates=how.generates is not None)),
        note=_note(chosen),
        reported=_reported(report, chosen.after),
        check=checks(how.kind),
    )


def drawn_classes(draws: Mapping[str, Any], known: Sequence[str]) -> list[str]:
    """Names of the classes that pictures are drawn of; of a model that knows none, one.

    Raises:
        StoreError: they are more than a page offers.
    """
    count = max(1, int(draws["classes"]))
    if count > MOST_CLASSES:
        raise StoreError(f"{count} classes are more than a page offers: {MOST_CLASSES}")
    return list(known) if len(known) == count else [f"class {number}" for number in range(count)]


def labels(built: Path) -> list[str]:
    """The classes that a built model tells."""
    found: list[str] = json_in(built / "task.json")["labels"]
    return found


def _about(candidate: Candidate) -> str:
    step = "" if candidate.stage == "final" else f"step {candidate.stage}, "
    return f"{step}{candidate.target}, {candidate.facts.get('precision', '')}, {wording.size(candidate.bytes)}"


def _note(chosen: Chosen) -> str:
    alone = (
        ""
        if chosen.before
        else f"The run kept no model before compression for {chosen.target}: the compressed one is shown alone. "
    )
    lacking = "; ".join(f"{name}, {why}" for name, why in chosen.missing.items())
    return alone + (f"Targets that cannot be shown here: {lacking}." if lacking else "")


def _reported(report: Report, after: Candidate) -> str:
    """The ratio at one row, as the report has it."""
    findings = Findings(report)
    for workload in findings.workloads:
        ratio = speed_up(findings.row(after, workload))
        if ratio and workload.batch == 1:
            ends = wording.interval(ratio.interval, wording.factor)
            return f"{wording.factor(ratio.value)} ({ends}) against {ratio.to} at {workload}"
    return ""


def checks(kind: str) -> Callable[[Any], str]:
    """The checks that rows of a run go through too, as reasons for a person."""

    def check(given: Any) -> str:
        from compressor.tasks.media import check_image, check_sound

        try:
            if isinstance(given, Path) and kind in ("image", "audio"):
                (check_image if kind == "image" else check_sound)(given.read_bytes(), "This file")
        except CompressorError as error:
            return str(error)
        return ""

    return check


def _examples(rows: Rows, run: Run, *, generates: bool) -> list[Example]:
    """Telling rows; where the files of the rows are gone those that the run kept to prove exports by."""
    found = [] if generates else [(words, row, rows.content(row)) for words, row in rows.telling()]
    made = [Example(_named(rows, words, row, given), given) for words, row, given in found if given is not None]
    if made:
        return made
    folder = run.folder / WITNESSES
    if not folder.is_dir():
        return []
    check_below(run.folder, WITNESSES)
    kept = few(read_rows(folder)) if generates else read_rows(folder)
    for each in kept:
        given: Any = asked(each) if generates else each.text
        if each.file:
            given = str(shutil.copyfile(folder / each.file, rows.media / each.file))
        if given and generates:
            given = _cut(given)
        if given:
            made.append(Example(f"row {each.row} of test: {_short(given)}", given))
    return made


def _named(rows: Rows, words: str, row: int, given: Any) -> str:
    about = next(
        (
            f"{each.before} → {each.after}{f', truly {each.label}' if each.label else ''}: "
            for each in rows.differing
            if each.row == row
        ),
        "",
    )
    shown = Path(given).name if isinstance(given, str) and Path(given).parent == rows.media else _short(given)
    return f"{words}: {about}{shown}"


def _short(given: Any) -> str:
    text = " / ".join(given) if isinstance(given, list) else str(given)
    return wording.shortened(" ".join(text.split()), SHOWN)


def _cut(text: str) -> str:
    """The beginning of a text, up to a word's end."""
    return text if len(text) <= PROMPT else text[:PROMPT].rsplit(maxsplit=1)[0]
