"""Students of a language model and how each learns: cells of a method, a learning rate, a number of tokens and a seed, all kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.studies.lm_lab import ROW, Ground, Learned, Step, Watch, kept, learn, source
from compressor.contracts import registry
from compressor.errors import TrainingDiverged

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Batch, Model
    from compressor.training.loop import Moment

LABELS, ON_POLICY, MORE = "labels", "on-policy", "more"
"""The language model's own loss; texts that the student writes; and the same training as before, which on-policy is held against."""
SOFT: Mapping[str, Any] = {"temperature": 1.0}
OBJECTIVES: Mapping[str, Mapping[str, Any] | None] = {
    LABELS: None,
    "forward KL": {"soft-targets": SOFT},
    "skewed KL": {"soft-targets": {**SOFT, "divergence": "skewed"}},
    "TAID": {"interpolated-targets": 1.0},
}
WRITTEN: Mapping[str, Any] = {"by": "student", "share": 0.5, "prompt": 32, "tokens": 64}
WARMUP = 0.05
TESTED = 96
"""Windows of test documents that a student is scored on."""
IMPORTANCE_ROWS = 24
"""Documents that the importance of heads and neurons is estimated on."""


@dataclass(frozen=True)
class Cell:
    """One training."""

    method: str
    layers: int
    rate: float
    tokens: int
    seed: int
    shape: str = "depth"
    """`depth`: evenly spaced layers; `width`: all layers, with as few heads and neurons as make the same size."""
    start: str = ""
    """Name of the cell whose student it goes on from; empty for the teacher's own weights."""
    objectives: str = ""
    """Of a cell that goes on: the method whose objectives it keeps."""

    @property
    def name(self) -> str:
        """Of its folder."""
        parts = (self.method, self.shape, str(self.layers), f"{self.rate:g}", str(self.tokens), str(self.seed))
        return "-".join(parts).replace(" ", "-") + ("-after" if self.start else "")

    @property
    def taught(self) -> Mapping[str, Any] | None:
        """Objectives; None for the labels."""
        return OBJECTIVES[self.objectives or self.method]


@dataclass(frozen=True)
class Student:
    """What a cell came to."""

    learned: Learned
    test: float
    """Nats that a token of the test documents costs."""
    weights: int


class Absent(Exception):
    """A cell that is not there."""


@dataclass
class Book:
    """All cells of a study: those that lie in its folder, and those that are made now; says how many remain."""

    model: Path
    ground: Ground
    folder: Path
    planned: int = 0
    """Tokens of all cells of the study, as far as they are known."""
    train: bool = True
    """Whether cells that are not there are trained."""
    _done: dict[str, int] = field(default_factory=dict)
    _seconds: float = 0.0
    _fresh: int = 0

    def student(self, cell: Cell, *, keep: bool = False) -> Student:
        """Of a cell; with `keep` its weights stay, for a later cell or study.

        Raises:
            Absent: it is not there, and nothing is to be trained.
            TrainingDiverged: it does, which is kept too.
        """
        place = self.folder / cell.name
        if keep and not (place / "model").is_dir() and self.train:
            (place / "cell.json").unlink(missing_ok=True)  # the same training once more, to the same weights
        if not (place / "cell.json").is_file():
            self._say(cell)
        found = kept(place / "cell.json", lambda: self._told(cell, place, keep))
        if "diverged" in found:
            raise TrainingDiverged(found["diverged"])
        made = Student(Learned.read(found["learned"]), found["test"], found["weights"])
        if cell.name not in self._done:
            self._done[cell.name] = made.learned.tokens
            self._seconds, self._fresh = self._seconds + made.learned.seconds, self._fresh + made.learned.tokens
        return made

    def _say(self, cell: Cell) -> None:
        if not self.train:
            raise Absent(cell.name)
        left = max(self.planned - sum(self._done.values()), cell.tokens)
        pace = f", about {left * self._seconds / self._fresh / 60:.0f} minutes" if self._fresh else ""
        sys.stderr.write(f"{cell.name}: trained now; {left:,} tokens of {self.planned:,} remain{pace}\n")

    def _told(self, cell: Cell, place: Path, keep: bool) -> dict[str, Any]:
        try:
            return asdict(self._trained(cell, place, keep))
        except TrainingDiverged as error:
            return {"diverged": str(error)}

    def _trained(self, cell: Cell, place: Path, keep: bool) -> Student:
        import torch

        torch.manual_seed(cell.seed)
        watch = Watch(place, self.ground.task, cell.seed, rows=self.ground.rows("train"))
        student = self._begun(cell, watch)
        settings = {"learning_rate": cell.rate, "warmup": WARMUP}
        step, beside = self._lessons(cell, student, settings, watch)
        learned = learn(student, self.ground, watch, settings, tokens=cell.tokens, step=step, beside=beside)
        watch.clear()
        if keep:
            student.save(place / "model")
        test = self.ground.loss(student.module, "bf16", split="test", count=TESTED)
        return Student(learned, test, student.weights)

    def _begun(self, cell: Cell, watch: Watch) -> Model:
        if cell.start:
            return source(self.folder / cell.start / "model")
        student = source(self.model)
        shallow = passed("take-layers", {"layers": cell.layers, "which": "uniform"}, student, watch)
        if cell.shape == "depth":
            return shallow
        given = {"parameters": shallow.weights, "importance": "activation", "rows": IMPORTANCE_ROWS, "batch_size": 4}
        narrow = passed("prune-structure", given, student, watch)
        narrow.module.requires_grad_(True)
        return narrow

    def _lessons(
        self, cell: Cell, student: Model, settings: Mapping[str, Any], watch: Watch
    ) -> tuple[Step | None, list[torch.nn.Module]]:
        """Losses of a step, by the teacher where there is one; and what is trained beside the student."""
        if cell.taught is None:
            return None, []
        chosen: Any = registry.load("pass", "distill")
        more = {"generate": WRITTEN} if cell.method == ON_POLICY else {}
        given = {"teacher": "source", "objectives": cell.taught, "cache_teacher": False if not more else None, **more}
        distill = chosen.model_validate({**settings, **given})
        teachers = distill.taught_by(student, {"source": source(self.model)}, watch)

        def step(batch: Batch, moment: Moment) -> Mapping[str, torch.Tensor]:
            found: Mapping[str, torch.Tensor] = distill._learned(student, teachers, batch, watch, moment)
            return found

        return step, [lesson.projections for each in teachers for lesson in each.lessons if lesson.projections is not None]


def passed(name: str, given: Mapping[str, Any], model: Model, watch: Watch) -> Model:
    """What a pass makes of a model."""
    chosen: Any = registry.load("pass", name)
    made: Model = chosen.model_validate(given).apply(model, watch)
    return made


def best_rate(book: Book, rates: tuple[float, ...], at: Callable[[float], Cell]) -> float:
    """The learning rate whose trial ends with the least held-out loss; a rate that diverges is none."""
    found: dict[float, float] = {}
    for rate in rates:
        try:
            found[rate] = book.student(at(rate)).learned.end
        except TrainingDiverged as error:
            sys.stderr.write(f"{at(rate).name}: {error}\n")
    if not found:
        raise SystemExit(f"{at(rates[0]).name}: every one of the rates {', '.join(f'{rate:g}' for rate in rates)} diverges")
    return min(found, key=lambda rate: found[rate])


def whole(tokens: float, points: int, rows: int) -> int:
    """Tokens that make whole steps in every tenth."""
    each = ROW * rows * points
    return max(1, round(tokens / each)) * each
