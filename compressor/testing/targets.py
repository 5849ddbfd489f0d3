"""What holds for targets: `missing` answers, builds repeat, sessions give what the model gives, facts say what runs."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Artifact, Feed, Missing, Profile, Session, Target, Workload
from compressor.deploy.build import beside, model_files
from compressor.deploy.graphs import describe
from compressor.store.store import digest_of
from compressor.testing.recipes import offers_what_it_takes
from compressor.testing.steps import STEP, variants
from compressor.testing.subject import Subject, Unchecked
from compressor.testing.tiny import TinyRun, run_on, short_lived

if TYPE_CHECKING:
    from numpy.typing import NDArray

MISSING_SECONDS = 2.0
"""What `missing` may take once its imports are done."""
FACTS = ("precision", "device", "threads")
LEAST_COSINE = 0.99
"""Of a session's logits with those of the model in float32; bf16 keeps it easily, a wrong graph does not."""
SHAPES = ((1, 8), (3, 12))


def says_what_is_missing(subject: Subject) -> None:
    """`missing` answers quickly and raises nothing, whatever the parameters and whether or not its packages are there."""
    target: Target = subject.plugin
    for spelled, each in [("", target), *((f" with another {name}", varied) for name, varied in variants(target))]:
        with subject.during(f"missing(){spelled}"):
            each.missing()  # the first call may import the runtime
            start = time.perf_counter()
            answer = each.missing()
            seconds = time.perf_counter() - start
        subject.require(isinstance(answer, Missing), f"missing(){spelled} gives back {answer!r}, expected a Missing")
        subject.require(seconds < MISSING_SECONDS, f"missing(){spelled} takes {seconds:.1f} s; it must be quick")
    for distribution in sorted(set(target.requires) - _of_the_core()):
        with _without(distribution), subject.during(f"missing() without {distribution}"):
            answer = target.missing()
        reason = answer.build or answer.run or ""
        subject.require(distribution in reason, f"requires {distribution}, and without it missing() says {reason or 'nothing'!r}")


def builds_and_runs(subject: Subject) -> None:
    """Two builds of one model give equal outputs, close to the model's own, for any batch and length, and facts of what ran."""
    target: Target = subject.plugin
    missing = target.missing()
    if reason := missing.build or missing.run:
        raise Unchecked(reason)
    run = run_on(target.dialect.format)
    with short_lived() as folder:
        first, second = (_built(subject, run, folder / name) for name in ("first", "second"))
        with subject.during("open"):
            sessions = [target.open(built) for built in (first, second)]
        for batch, length in SHAPES:
            feed = run.task.feeds(run.data.split("test"), run.source.path, Workload(batch=batch, length=length), count=1)[0]
            _check_outputs(subject, run, sessions, feed)
        _check_memory(subject, run, sessions[0])
        _check_facts(subject, sessions[0])
        with subject.during("diagnose"):
            lines = target.diagnose(first)
        subject.require(
            isinstance(lines, tuple) and all(isinstance(line, str) for line in lines), f"diagnose gives back {lines!r}"
        )
        _check_profile(subject, run, first, feed)


def refuses_an_empty_folder(subject: Subject) -> None:
    """Opening a folder that holds no model is refused with a message that names it."""
    target: Target = subject.plugin
    missing = target.missing()
    if reason := missing.run:
        raise Unchecked(reason)
    with short_lived() as folder:
        try:
            target.open(folder)
        except Exception as error:  # a runtime's own error will do
            subject.require(
                folder.name in str(error), f"an empty folder is refused without its name: {type(error).__name__}: {error}"
            )
            return
        subject.require(False, "opens a folder that holds no model")


def _check_profile(subject: Subject, run: TinyRun, built: Path, feed: Feed) -> None:
    target: Target = subject.plugin

    def prepare(session: Session) -> Callable[[], None]:
        def call() -> None:
            run.task.call(session, feed, Workload())

        return call

    with subject.during("profile()"):
        found = target.profile(built, prepare, calls=2)
    if found is not None:
        subject.require(
            isinstance(found, Profile) and bool(found.operators), f"profile gives back {found!r:.200}, expected operators or None"
        )


TARGET = (*STEP, offers_what_it_takes, says_what_is_missing, builds_and_runs, refuses_an_empty_folder)


def _built(subject: Subject, run: TinyRun, out: Path) -> Path:
    target: Target = subject.plugin
    lowered = run.lowered(target)
    before = digest_of(lowered.path)
    out.mkdir(parents=True)
    with subject.during("build"):
        workloads = tuple(Workload(batch=batch, length=length) for batch, length in SHAPES)
        graphs = run.task.graphs(lowered.path)
        target.build(Artifact(target.dialect.format, lowered.path), out, graphs=graphs, workloads=workloads)
    subject.require(digest_of(lowered.path) == before, "build writes into its source; write into `out` only")
    subject.require((out / target.file).is_file(), f"build writes no {target.file}, which `file` names")
    names = {path.relative_to(out).as_posix() for path in model_files(out, lowered.path, main=target.file)}
    subject.require(target.file in names, f"its file {target.file} is not counted as the model's: {sorted(names)}")
    beside(lowered.path, out)
    describe(out, run.task, run.task_name, run.data.labels)
    return out


def _check_outputs(subject: Subject, run: TinyRun, sessions: Sequence[Session], feed: Feed) -> None:
    import numpy as np

    from compressor.deploy.session import eager

    given = {name: array.copy() for name, array in feed.items()}
    with subject.during("run"):
        first, second = (session.run(feed)[0] for session in sessions)
    subject.require(all(np.array_equal(feed[name], given[name]) for name in given), "run changes its inputs")
    exact = eager(run.task, run.model(), "cpu")(feed)
    for port in run.task.outputs():
        subject.require(port.name in first, f"run gives back {sorted(first)}, expected '{port.name}'")
        ours, expected = first[port.name], exact[port.name]
        subject.require(ours.shape == expected.shape, f"'{port.name}' has the shape {ours.shape}, expected {expected.shape}")
        subject.require(np.array_equal(ours, second[port.name]), f"two builds of one model give other values of '{port.name}'")
        cosine = _cosine(ours, expected)
        subject.require(
            cosine >= LEAST_COSINE,
            f"'{port.name}' is not what the model computes: cosine {cosine:.4f} for inputs of {_shapes(feed)}",
        )


def _check_memory(subject: Subject, run: TinyRun, session: Session) -> None:
    """What a session gave stays as it is when it is called again."""
    import numpy as np

    feeds = run.task.feeds(run.data.split("test"), run.source.path, Workload(batch=2, length=8), count=2)
    outputs = session.run(feeds[0])[0]
    kept = {name: array.copy() for name, array in outputs.items()}
    session.run(feeds[1])
    subject.require(
        all(np.array_equal(outputs[name], kept[name]) for name in kept),
        "a second run overwrites the outputs of the first; copy them",
    )


def _check_facts(subject: Subject, session: Session) -> None:
    with subject.during("facts"):
        facts = session.facts()
    for name in FACTS:
        subject.require(bool(facts.get(name)) and isinstance(facts[name], str), f"facts do not say '{name}' as text: {facts}")
    subject.require(facts["threads"].isdecimal() and int(facts["threads"]) > 0, f"facts say threads: {facts['threads']!r}")


def _cosine(first: NDArray[Any], second: NDArray[Any]) -> float:
    import numpy as np

    a, b = (np.asarray(array, dtype=np.float64).ravel() for array in (first, second))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _shapes(feed: Feed) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in feed.items())


def _of_the_core() -> set[str]:
    """Distributions that are there wherever this project is."""
    lines = (line for line in requires("compressor-toolchain") or () if "extra ==" not in line)
    return {re.split("[^A-Za-z0-9._-]", line)[0] for line in lines}


@contextmanager
def _without(distribution: str) -> Iterator[None]:
    """The modules of a distribution as if they were not installed, for code that imports them now."""
    tops = {name for name, owners in packages_distributions().items() if distribution in owners}
    hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops}
    sys.modules.update(dict.fromkeys((*tops, *hidden)))  # type: ignore[arg-type]  # None: not to be found
    try:
        yield
    finally:
        for name in tops:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
