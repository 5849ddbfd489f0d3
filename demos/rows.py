"""Rows of a run's test split: those on which two models differ, and those that are telling to try."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Task
from compressor.contracts.records import Disagreement
from compressor.errors import CompressorError
from compressor.run.comparison import Run

if TYPE_CHECKING:
    from compressor.contracts import Data, Evaluation

TEST = "test"
KINDS = {"broken": "compression made it wrong", "mended": "compression made it right", "both wrong": "both are wrong"}
"""What reports call a row on which two models differ, and in words."""
DEGREES = {"worse": "compression made it worse", "better": "compression made it better"}
"""The same of rows that are not right or wrong."""
LOOKED_AT = 2000
"""Rows among which the least confident are looked for."""
MOST_BY_DEGREE = 100


@dataclass(frozen=True)
class Differing:
    """A test row on which both models differ."""

    row: int
    text: str
    label: str
    before: str
    after: str
    kind: str


@dataclass(frozen=True)
class Sure:
    """How confident both models are of a row; None where they tell no probability."""

    before: float | None = None
    after: float | None = None


@dataclass(frozen=True)
class Rows:
    """The test rows of a run, as far as they are still there."""

    task: Task
    labels: Sequence[str]
    data: Data | None
    """None where the files of the rows are not there any more, or are others."""
    why_not: str
    before: Evaluation | None
    after: Evaluation | None
    reported: Sequence[Disagreement]
    """What the report lists, which holds the first of them."""
    media: Path
    """Takes pictures and sounds that lie in no file of their own."""

    @classmethod
    def read(cls, run: Run, before: str, after: str, labels: Sequence[str], media: Path) -> Rows:
        """The rows behind two candidates of a run; raises nothing where they are gone, and says why."""
        task = run.task()
        held, final = (run.candidates.get(name) for name in (before, after))
        outputs = [run.evaluation(each) if each else None for each in (held, final)]
        data, why = _data(run)
        reported = [each for each in run.report.disagreements if each.candidate == after]
        return cls(task, labels, data, why, outputs[0], outputs[1], reported, media)

    @cached_property
    def differing(self) -> Sequence[Differing]:
        """All rows on which both differ; those that the report lists where no more is known.

        Where rows are not right or wrong, those of which the main measure changed most.
        """
        if self.data is None or self.before is None or self.after is None:
            return [_differing(each, each.text) for each in self.reported]
        if not self.classified:
            return self._by_degree(self.before, self.after)
        found = self.task.disagreements(self.after, self.before, self.data.split(TEST), self.labels, name="")
        return [_differing(each, each.text or self.data.place(TEST, each.row)) for each in found]

    @property
    def classified(self) -> bool:
        """Whether rows are told to be something, so that they can be right or wrong."""
        return type(self.task).disagreements is not Task.disagreements

    @property
    def kinds(self) -> Mapping[str, str]:
        """What rows that differ can be, in words."""
        return DEGREES if any(each.kind in DEGREES for each in self.differing) else KINDS

    def _by_degree(self, before: Evaluation, after: Evaluation) -> list[Differing]:
        """By what each row adds to the main measure, or the first that rows add to, the largest change first; none where there is none."""
        import numpy as np

        metric = next(
            (name for name in (after.scores.metric, *after.gains) if name in after.gains and name in before.gains), None
        )
        if metric is None:
            return []
        moved, told = after.gains[metric] - before.gains[metric], [self._answers(each, metric) for each in (before, after)]
        order = np.argsort(-np.abs(moved), kind="stable")[:MOST_BY_DEGREE]
        return [
            Differing(
                row=row,
                text=self._text(row),
                label=self._label(row),
                before=told[0](row),
                after=told[1](row),
                kind="worse" if moved[row] < 0 else "better",
            )
            for row in map(int, order)
            if moved[row]
        ]

    def _answers(self, of: Evaluation, metric: str) -> Callable[[int], str]:
        """What a model says of a row: the number that it tells, else what the row adds to the measure."""
        told = [each.text for each in self.task.tell(of.outputs, self.labels)] if self.task.imitated() == "numbers" else []
        return lambda row: told[row] if told else f"{metric} {of.gains[metric][row]:.4g}"

    def _text(self, row: int) -> str:
        given = self.content(row)
        return " / ".join(given) if isinstance(given, list) else str(given or "")

    def _label(self, row: int) -> str:
        return ", ".join(map(str, self.marks(row).values()))

    def marks(self, row: int) -> dict[str, Any]:
        """What a row of the data is marked with, by column, spelled as its files have it; empty where it has only content."""
        from compressor.tasks.multi_label import TARGETS

        columns, split = self.task.columns(), self.data.split(TEST) if self.data is not None else None
        names = [name for name in (columns.label, *columns.kept) if name]
        if split is None or not names:
            return {}
        cells = split.select_columns([name for name in (*names, TARGETS) if name in split.column_names])[row]
        on = dict(zip(self.labels, cells.pop(TARGETS, ()), strict=False))
        spelled = {name: getattr(split.features[name], "int2str", lambda cell: cell)(cell) for name, cell in cells.items()}
        sets = {name: [label for label, bit in on.items() if bit] for name in columns.sets if name not in cells}
        return {**spelled, **sets, **{name: on[name] for name in names if name in on and name not in spelled}}

    def sure(self, rows: Sequence[int]) -> list[Sure]:
        """How confident both models are of each of these rows."""
        both = [self._told(each, rows) for each in (self.before, self.after)]
        return [Sure(*pair) for pair in zip(*both, strict=True)]

    def _told(self, of: Evaluation | None, rows: Sequence[int]) -> list[float | None]:
        if of is None or not self.classified or not rows:
            return [None] * len(rows)
        told = self.task.tell({name: array[list(rows)] for name, array in of.outputs.items()}, self.labels)
        return [each.confidence for each in told]

    def content(self, row: int) -> Any:
        """What a user would have of a row: a text, a list of texts or the path of a file; None where it is gone."""
        if self.data is None:
            found = next((each for each in self.reported if each.row == row), None)
            return found.text if found and len(self.task.columns().content) == 1 else None
        from compressor.tasks.media import is_file_cell, undecoded

        cells = next(undecoded(self.data.split(TEST).select([row]).select_columns(list(self.task.columns().content))))
        values = list(cells.values())
        if any(map(is_file_cell, values)):
            return self._file(row, values[0])
        if not all(isinstance(value, str) for value in values):
            return None
        return values[0] if len(values) == 1 else values

    def _file(self, row: int, cell: Mapping[str, Any]) -> str:
        """A file of its own for a picture or sound, under a name that says which row it is."""
        from compressor.tasks.media import content_of

        path = self.media / f"row-{row}{Path(cell['path'] or '').suffix.lower()}"
        if not path.exists():
            path.write_bytes(content_of(cell))
        return str(path)

    def telling(self) -> Iterator[tuple[str, int]]:
        """Rows to try, with what is telling of each: differences first, then those that the compressed model is least sure of, then others."""
        seen = {each.row for each in self.differing}
        for kind, words in self.kinds.items():
            for each in [each for each in self.differing if each.kind == kind][:3]:
                yield f"they differ, {words}", each.row
        for words, row in self._alike():
            if row not in seen:
                seen.add(row)
                yield words, row

    def _alike(self) -> Iterator[tuple[str, int]]:
        """Rows on which both agree: the least confident, and one of each class."""
        if self.after is None or self.data is None or not self.classified:
            return
        rows = range(min(LOOKED_AT, len(self.data.split(TEST))))
        told = self.task.predictions(self.after.outputs)
        if told is None:
            return
        confident = self._told(self.after, rows)
        ranked = sorted((share, row) for share, row in zip(confident, rows, strict=True) if share is not None)
        yield from (("both agree, the compressed model is not sure", row) for _, row in ranked[:4])
        if told.ndim == 1:
            first = {str(label): row for label, row in reversed(list(zip(told, rows, strict=False)))}
            yield from (("both agree", row) for row in list(first.values())[:5])


def _data(run: Run) -> tuple[Data | None, str]:
    """The run's rows, read anew by its plan, where they are the same; else None, and why."""
    from compressor.plan.bound import read_plan
    from compressor.tasks.data import load_data

    why = ""
    for folder in _starts(run):
        try:
            bound = read_plan(run.report.plan, folder=folder)
            if bound.data is None:
                return None, "the plan of the run has no rows"
            data = load_data(bound.data, columns=bound.task.columns(), seed=bound.seed, folder=bound.folder)
            data = bound.task.encoded(data)
        except (CompressorError, OSError) as error:
            why = why or f"the rows of the run cannot be read here: {str(error).splitlines()[0]}"
            continue
        if data.record.digest == run.report.data.digest or data.digest == run.report.data.digest:
            return data, ""
        why = "the rows that lie there now are not those of the run"
    return None, why


def _starts(run: Run) -> list[Path]:
    """Where relative paths of the plan may start: the plan's own folder as the run was started, the working folder, the run's."""
    words = shlex.split(run.report.command) if run.report.command else []
    plans = [Path(word).parent for word in words if word.endswith((".yaml", ".yml"))]
    return list(dict.fromkeys([*plans, Path(), run.folder]))


def _differing(of: Disagreement, text: str) -> Differing:
    return Differing(of.row, text, of.label, of.reference, of.final, of.kind)


def as_jsonl(rows: Rows, chosen: Sequence[Differing]) -> str:
    """Chosen rows as a table that `data: files:` of a plan reads: content, label, and what both models say."""
    columns = rows.task.columns()
    lines = []
    for each in chosen:
        content = rows.content(each.row)
        texts = [content] if isinstance(content, str) else content
        named = dict(zip(columns.content, texts, strict=True)) if texts else {columns.content[0]: each.text}
        lines.append(
            _line({**named, **(rows.marks(each.row) if rows.data is not None else {columns.label or "label": each.label})}, each)
        )
    return "".join(lines)


def as_folder(rows: Rows, chosen: Sequence[Differing], folder: Path) -> None:
    """The same of pictures and sounds: files, and a table beside them that says what they are."""
    lines = []
    for each in chosen:
        path = Path(str(rows.content(each.row)))
        shutil.copyfile(path, folder / path.name)
        lines.append(_line({"file_name": path.name, **rows.marks(each.row)}, each))
    (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def _line(values: Mapping[str, Any], each: Differing) -> str:
    return json.dumps({**values, "before": each.before, "compressed": each.after}, ensure_ascii=False) + "\n"
