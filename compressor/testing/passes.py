"""What holds for passes: equal input gives equal bytes, results are saved and loaded to the bit, strangers are refused in words."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from compressor.contracts import Artifact, Feed, Pass, Target, Workload
from compressor.deploy.build import of_model
from compressor.store.store import StoredResult, digest_of, sha256_of
from compressor.testing.recipes import offers_what_it_takes
from compressor.testing.steps import STEP
from compressor.testing.subject import Subject, Unchecked
from compressor.testing.tiny import TinyRun, ready_target, run_for, run_on, short_lived, stranger, tiny_run


def gives_equal_bytes(subject: Subject) -> None:
    """The same pass on the same model gives the same files, whatever the random state of the process; they run as saved."""
    step: Pass = subject.plugin
    with short_lived() as folder:
        if "torch" in step.accepts:
            _check_on_torch(subject, folder)
            return
        for form in step.accepts:
            _check_below_torch(subject, form, folder / form)


def refuses_strangers(subject: Subject) -> None:
    """A model of a family that nothing here knows is worked on, or refused with an error that names it."""
    from compressor.model.model import Model

    step: Pass = subject.plugin
    if "torch" not in step.accepts:
        raise Unchecked("a graph below torch has no family")
    with short_lived() as folder, subject.refusing("a model of an unknown family", naming=("deberta",)):
        ctx = tiny_run().context(folder, others=step.needs().targets, models=lambda _: stranger())
        result = step.apply(stranger(), ctx)
        subject.require(isinstance(result, Model), f"gives back {type(result).__name__}, expected a Model")


PASS = (*STEP, offers_what_it_takes, gives_equal_bytes, refuses_strangers)


def _check_on_torch(subject: Subject, folder: Path) -> None:
    import numpy as np

    from compressor.deploy.session import eager
    from compressor.model.model import Model

    run = run_for(subject.plugin.tried_on)
    applied = [_on_torch(subject, run, folder / str(number), seed=number) for number in (1, 2)]
    _require_equal(subject, *(each for _, each in applied))
    model, saved = applied[0]
    with subject.during("loading what it saved"):
        loaded = Model.load(saved)
        loaded.save(folder / "again")
    _require_equal(subject, saved, folder / "again", what="saving, loading and saving again")
    feed = _feeds(run, run.source.path)[0]
    before, after = (eager(run.task, each, "cpu")(feed)["logits"] for each in (model, loaded))
    subject.require(bool(np.isfinite(after).all()), "the model it gives back has outputs that are not finite")
    subject.require(np.array_equal(before, after), "the model it gives back computes something else once it is saved and loaded")


def _on_torch(subject: Subject, run: TinyRun, folder: Path, *, seed: int) -> tuple[Any, Path]:
    from compressor.model.model import Model

    step: Pass = subject.plugin
    _unsettle(seed)
    (folder / "scratch").mkdir(parents=True)
    with subject.during("apply on a tiny model"):
        model = step.apply(run.model(), run.context(folder / "scratch", others=step.needs().targets))
    subject.require(isinstance(model, Model), f"gives back {type(model).__name__}, expected a Model")
    unnamed = {edit.kind for edit in model.edits} - {
        *(edit.kind for edit in run.model().edits),
        *step.needs().plugins.get("edit", ()),
    }
    subject.require(not unnamed, f"makes edits that its `plugins()` does not name: {', '.join(sorted(unnamed))}")
    with subject.during("saving what it gives back"):
        model.save(folder / "saved")
    return model, folder / "saved"


def _check_below_torch(subject: Subject, form: str, folder: Path) -> None:
    import numpy as np

    from compressor.deploy.session import opened

    run, target = run_on(form), ready_target(form)
    parent = run.lowered(target, form)
    first, second = (_below_torch(subject, run, parent, form, target, folder / str(seed), seed=seed) for seed in (1, 2))
    _require_equal(subject, first, second)
    lacking = [name for name in _side_files(parent.path) if not (first / name).is_file()]
    subject.require(not lacking, f"loses files beside the graph: {', '.join(lacking)}")
    with subject.during(f"running what it gives back on the format '{form}'"):
        made = StoredResult("", digest_of(first), first, {}, 0.0, found=False)
        lowered = run.builder.lower(made, form, target.dialect.format, target)
        candidate, _ = run.builder.build(lowered, stage="final", name="checked", target=target, out=folder / "built")
        feed = _feeds(run, candidate.built)[0]
        outputs = opened(run.task, target, candidate.built)(feed)
    for port in run.task.outputs():
        subject.require(port.name in outputs, f"the graph it gives back lacks the output '{port.name}'")
        subject.require(bool(np.isfinite(outputs[port.name]).all()), f"output '{port.name}' is not finite after it")


def _below_torch(
    subject: Subject, run: TinyRun, parent: StoredResult, form: str, target: Target, folder: Path, *, seed: int
) -> Path:
    _unsettle(seed)
    given, work = folder / "given", folder / "work"
    shutil.copytree(parent.path, given)  # what lies in the store is not put at risk
    work.mkdir()
    before = given.stat().st_mtime_ns
    with subject.during(f"apply on the format '{form}'"):
        result = subject.plugin.apply(Artifact(form, given), run.context(work, target=target))
    subject.require(isinstance(result, Artifact), f"gives back {type(result).__name__}, expected an Artifact")
    subject.require(result.format == form, f"was given a model on '{form}' and gives back one on '{result.format}'")
    inside = result.path.resolve().is_relative_to(work.resolve())
    subject.require(inside, f"writes to {result.path}; its place is under ctx.folder")
    untouched = digest_of(given) == parent.digest and given.stat().st_mtime_ns == before
    subject.require(untouched, f"writes into its input on '{form}', if only for a while; write under ctx.folder")
    return Path(result.path)


def _feeds(run: TinyRun, files: Path) -> list[Feed]:
    return list(run.task.feeds(run.data.split("test"), files, Workload(batch=4), count=1))


def _unsettle(seed: int) -> None:
    """Another state of every generator that a pass might draw from without seeding it."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _require_equal(subject: Subject, first: Path, second: Path, *, what: str = "applying it twice to the same model") -> None:
    names = sorted(
        {path.relative_to(folder).as_posix() for folder in (first, second) for path in folder.rglob("*") if path.is_file()}
    )
    differing = [name for name in names if not _same(first / name, second / name)]
    subject.require(
        not differing,
        f"{what} gives other bytes in {', '.join(differing)}; draw from ctx.seed only, and keep no state in the pass",
    )


def _same(first: Path, second: Path) -> bool:
    return first.is_file() and second.is_file() and sha256_of(first) == sha256_of(second)


def _side_files(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return [name for name in names if not of_model(name)]
