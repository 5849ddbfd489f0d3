"""What a built candidate is worth on test rows, beside its times: scores, parity with the model before it was lowered, and witnesses."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from compressor.contracts import Candidate, Evaluation, Feed, Session, Task
from compressor.contracts.records import Parity
from compressor.deploy.machine import usable_cores
from compressor.deploy.session import predictor
from compressor.export.witnesses import Given, keep_answers, keep_rows
from compressor.report import EVALUATIONS, WITNESSES
from compressor.run.ground import Ground
from compressor.run.results import Scored, save_evaluation
from compressor.run.state import StageState
from compressor.run.verify import parity


@dataclass(frozen=True)
class Scorer:
    """Scores candidates, those of one target one after the other; beside the run, where their sessions allow for it."""

    ground: Ground
    folder: Path
    """Of the run."""

    def start(self, candidate: Candidate, session: Session, against: StageState | None) -> Future[Scored]:
        """Begin to keep what it makes of the rows of an export's proof, and to score it where it is held `against` a torch model."""
        same: Feed = {}
        if against is not None:
            with self.ground.watch.time("parity", candidate.stage, candidate.target):
                same = self.ground.eager_outputs(against.made)
        _ = self._witnesses  # written here, once, before two threads could come to it
        work = partial(self._scored, candidate, self.ground.aside.heeding(session), against, same)
        return self.ground.aside.start(work, lane=self._lane(candidate), here=not candidate.runtime.computes_apart)

    def _lane(self, candidate: Candidate) -> str:
        """Targets compute side by side where each then has the cores that it was given, while the run waits for them."""
        together = sum(each.target.threads for each in self.ground.bound.targets)
        return candidate.target if together <= usable_cores() else ""

    def _scored(self, candidate: Candidate, session: Session, against: StageState | None, same: Feed) -> Scored:
        task = candidate.task or self.ground.bound.task
        with self.ground.watch.time("score", candidate.stage, candidate.target):
            self._witness(task, candidate, session)
            if against is None:
                return Scored()
            if not self.ground.data.real:
                found = self._asked(task, candidate, session, len(next(iter(same.values()))))
                return Scored(None, self._parity(task, found, same, against))
            evaluation = self._evaluated(task, candidate, session)
        first = {name: evaluation.outputs[name][: len(array)] for name, array in same.items()}
        return Scored(evaluation, self._parity(task, first, same, against))

    @staticmethod
    def _parity(task: Task, found: Feed, same: Feed, against: StageState) -> Parity:
        return parity(task, found, same, against=f"{against.stage.name}, eager float32")

    def _asked(self, task: Task, candidate: Candidate, session: Session, count: int) -> Feed:
        """Outputs of the first rows, which nothing is known to hold against."""
        rows = self.ground.data.split("test").select(range(count))
        return task.predicted(predictor(task, session), rows, candidate.built)

    def _evaluated(self, task: Task, candidate: Candidate, session: Session) -> Evaluation:
        bound, rows = self.ground.bound, self.ground.data.split("test")
        evaluation = task.evaluate(predictor(task, session), rows, candidate.built, split="test").held_by(bound.metric)
        save_evaluation(evaluation, self.folder / EVALUATIONS / candidate.id)
        return evaluation

    @cached_property
    def _witnesses(self) -> tuple[Given, ...]:
        """Rows that exports prove themselves on."""
        return keep_rows(self.ground.data.split("test"), self.ground.bound.task.columns(), self.folder / WITNESSES)

    def _witness(self, task: Task, candidate: Candidate, session: Session) -> None:
        """Keep what a built model makes of each of these rows alone."""
        out = self.folder / WITNESSES / candidate.id
        rows, labels = self.ground.data.split("test"), self.ground.data.labels
        keep_answers(task, session, rows, lambda: self._witnesses, labels, built=candidate.built, out=out)
