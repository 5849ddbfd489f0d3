"""Where files are made, scored and timed; what is there from an earlier call is kept."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.latency import Latency
from benchmarks.profile import Profile
from benchmarks.studies.peers import makers
from benchmarks.studies.peers.environments import Environments, Skipped, told
from benchmarks.studies.peers.forms import NNCF, OURS, Form, Torch, TorchCompiled
from compressor.contracts import Artifact, Candidate, Evaluation, Target, registry
from compressor.contracts.records import LatencyRecord, ProfileRecord
from compressor.deploy.bench import ProcessBench, write_feeds
from compressor.deploy.build import MODEL_SUFFIXES, beside
from compressor.deploy.graphs import describe
from compressor.deploy.session import opened
from compressor.errors import WorkerFailed
from compressor.run.ground import Ground, load_model
from compressor.run.results import load_evaluation, save_evaluation
from compressor.store.store import StoredResult, digest_of

FILES = (*MODEL_SUFFIXES, ".onnx_data", ".pt", ".pt2")
ROWS = 128
"""For ranges, the same for all."""
CONTROL_LIMIT = 0.15


@dataclass(frozen=True)
class Cell:
    """Conditions of one interleaved series."""

    threads: int
    batch: int
    compiled: bool = False
    """Models that torch compiles, which takes a minute each, run in a series of their own with ours."""

    def __str__(self) -> str:
        return f"threads {self.threads}, batch {self.batch}{', compiled' if self.compiled else ''}"

    def of(self, forms: Sequence[Form]) -> tuple[Form, ...]:
        """Those that it times; ours comes first."""
        return tuple(form for form in forms if form == OURS or issubclass(form.kind, TorchCompiled) == self.compiled)


@dataclass(frozen=True)
class Shop:
    """A fine-tuned model, and a folder for all that is made of it."""

    ground: Ground
    teacher: StoredResult
    work: Path
    length: int
    say: Callable[[Any], None]
    skipped: dict[str, str] = field(default_factory=dict)

    # -------------------------------------------------------------- files

    def built(self, form: Form) -> Path:
        """The folder of a form's files.

        Raises:
            Skipped: the tool cannot be had or makes nothing, with the reason.
        """
        if form.ours:
            return self._ours(form)
        out = self.work / "made" / form.maker
        if not (out / "task.json").is_file():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            packages = self.environments.of(form.environment)
            command = [sys.executable, makers.__file__, form.maker, str(self.teacher.path), str(self._calibration()), str(out)]
            told(command, f"{form.made_by} makes no file", packages, out)
            self._describe(out)
        return out

    @property
    def environments(self) -> Environments:
        """Of this study."""
        return Environments(self.work / "environments")

    def target(self, form: Form, threads: int) -> Target:
        """What opens a form."""
        given: dict[str, Any] = {"packages": self.environments.of(form.environment)} if issubclass(form.kind, Torch) else {}
        return form.kind(**{"threads": threads, **dict(form.settings), **given})

    def candidate(self, form: Form, threads: int) -> Candidate:
        """A form on so many threads."""
        return Candidate(
            f"{form.name}@here", form.name, "here", self.target(form, threads), self.built(form), self.ground.bound.task
        )

    def bytes_of(self, form: Form) -> int:
        """Of the files that hold the model."""
        return sum(path.stat().st_size for path in self.built(form).iterdir() if path.name.endswith(FILES))

    def _ours(self, form: Form) -> Path:
        target = self.target(form, 1)
        exact = form.numbers == "fp32"
        out = self.work / "made" / f"ours-{target.dialect.format}-{'fp32' if exact else 'int8'}"
        if not (out / "task.json").is_file():
            made = self.ground.builder.lower(self.teacher, "torch", target.dialect.format, target)
            if not exact:
                folder = self.work / "quantised" / made.digest[:16]
                ctx = self.ground.context(folder, lambda _: load_model(self.teacher.path), runtime=target)
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                registry.load("pass", "quantize-static")().apply(Artifact(target.dialect.format, made.path), ctx)
                path = folder / "quantized"
                made = StoredResult("", digest_of(path), path, {}, 0.0, found=False)
            self.ground.builder.build(made, stage="final", name=form.name, target=target, out=out)
        return out

    def _describe(self, out: Path) -> None:
        beside(self.teacher.path, out)
        describe(out, self.ground.bound.task, self.ground.bound.task_name, self.ground.data.labels)

    def _calibration(self) -> Path:
        path = self.work / "calibration.npz"
        if not path.is_file():
            write_feeds(path, self.ground.bound.task.feeds(self.ground.data.split("calibration"), self.teacher.path, count=ROWS))
        return path

    # -------------------------------------------------------------- what is measured

    def scored(self, form: Form) -> Evaluation:
        """The file that is timed, on test rows; what is compiled runs without that, since texts of all lengths would be compiled anew."""
        folder = self.work / "scores" / form.name
        if not (folder / "rows.npz").is_file():
            task, built = self.ground.bound.task, self.built(form)
            target = self.target(form, 1)
            predict = opened(
                task, target.model_copy(update={"compiles": False}) if isinstance(target, TorchCompiled) else target, built
            )
            save_evaluation(task.evaluate(predict, self.ground.data.split("test"), built, split="test"), folder)
        return load_evaluation(folder)

    def usable(self, forms: Sequence[Form], tried: Callable[[Form], object]) -> tuple[Form, ...]:
        """Forms for which something that is tried succeeds; why it does not for others is kept in `skipped`."""
        found = list[Form]()
        for form in forms:
            try:
                tried(form)
                found.append(form)
            except Skipped as reason:
                self.skipped[form.name] = str(reason)
            except Exception as error:  # libraries raise what they like; a tool that fails is a line of the page
                if form.ours:
                    raise
                lines = [line for line in str(error).splitlines() if line.strip()] or [""]
                self.skipped[form.name] = f"{form.made_by} fails: {type(error).__name__}: {lines[-1].strip()[:200]}"
            if form.name in self.skipped:
                sys.stderr.write(f"{form.name} is left out: {self.skipped[form.name]}\n")
        return tuple(found)

    def times(self, forms: Sequence[Form], cells: Sequence[Cell], seconds: float) -> tuple[Form, ...]:
        """One interleaved series for each cell; what is there of the same forms is kept. Gives the forms that run."""
        try:
            self._times(forms, cells, seconds)
        except WorkerFailed as error:
            name = str(error).partition("@")[0]
            if next(form for form in forms if form.name == name).ours:
                raise
            self.skipped[name] = f"it does not run: {str(error).strip().splitlines()[-1].strip()[:200]}"
            return self.times([form for form in forms if form.name != name], cells, seconds)
        return tuple(forms)

    def _times(self, forms: Sequence[Form], cells: Sequence[Cell], seconds: float) -> None:
        timed = {cell: [row.candidate.partition("@")[0] for row in record.rows] for cell, record in self.kept(cells).items()}
        left = [cell for cell in cells if timed.get(cell) != [form.name for form in cell.of(forms)]]
        while left:
            cell = left[0]
            sys.stderr.write(f"{cell}: {len(left)} of {len(cells)} cells remain, about {len(left) * seconds / 60:.0f} minutes\n")
            started = time.monotonic()
            record = self._timed(cell.of(forms), cell, seconds)
            self._place(cell).parent.mkdir(parents=True, exist_ok=True)
            self._place(cell).write_text(record.model_dump_json(), encoding="utf-8")
            left.remove(cell)
            sys.stderr.write(f"\n{cell}: took {time.monotonic() - started:.0f} s\n")

    def kept(self, cells: Sequence[Cell]) -> dict[Cell, LatencyRecord]:
        """Cells that are there."""
        there = [cell for cell in cells if self._place(cell).is_file()]
        return {cell: LatencyRecord.model_validate_json(self._place(cell).read_bytes()) for cell in there}

    def _timed(self, forms: Sequence[Form], cell: Cell, seconds: float) -> LatencyRecord:
        probe = Latency(
            batch=(cell.batch,),
            length=(self.length,),
            seconds=seconds,
            rounds=7,
            controls=2,
            warm_up_seconds=0.5,
            control_limit=CONTROL_LIMIT,
        )
        fed = {each: self.ground.feeds(each, self.teacher.path) for each in probe.workloads()}
        with ProcessBench(self.work / "bench", tell=self.say, store=self.ground.store) as bench:
            return probe.measure([self.candidate(form, cell.threads) for form in forms], fed, bench, seed=0)

    def _place(self, cell: Cell) -> Path:
        return self.work / "cells" / f"{str(cell).replace(', ', '-').replace(' ', '-')}.json"

    def profiles(self) -> ProfileRecord:
        """What our file and NNCF's spend in OpenVINO by operator, one row and one thread."""
        place = self.work / "profiles.json"
        if not place.is_file():
            probe = Profile(batch=(1,), length=(self.length,), of="all")
            fed = {each: self.ground.feeds(each, self.teacher.path) for each in probe.workloads()}
            with ProcessBench(self.work / "bench", tell=self.say, store=self.ground.store) as bench:
                record = probe.measure([self.candidate(form, 1) for form in (OURS, NNCF)], fed, bench, seed=0)
            place.write_text(record.model_dump_json(), encoding="utf-8")
        return ProfileRecord.model_validate_json(place.read_bytes())
