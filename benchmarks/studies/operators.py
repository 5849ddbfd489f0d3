"""Remakes `docs/results/operators.md`: what rewrites of graphs gain on the quickstart's file, what was tried and gains nothing, what is left.

    python -m benchmarks.studies.operators --work runs/operators

The student is trained by the plan unless the store has it (`make quickstart` leaves it there); all else takes about five minutes on a machine
that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.latency import Latency
from benchmarks.profile import Profile
from benchmarks.studies import operator_forms as forms
from benchmarks.studies.pages import controls, machine_lines
from compressor.api import build_plan, read_report, run
from compressor.contracts import Artifact, Candidate, Evaluation, Event, Message, Progress, Target, Task, Workload, registry
from compressor.contracts.records import LatencyRecord, ProfileRecord, ProfileRow, Report, Stage
from compressor.deploy.bench import ProcessBench
from compressor.deploy.session import opened
from compressor.plan.bound import Bound, load_plan
from compressor.report import profiles, wording
from compressor.report.markdown import table
from compressor.run.ground import Ground, load_model
from compressor.store.place import open_store
from compressor.store.store import FILES, Store, StoredResult, digest_of

PLAN = Path("plans/quickstart.yaml")
OUT = Path("docs/results/operators.md")
BATCHES, LENGTH = (1, 8), 128
SECONDS = 60.0
"""For each runtime and batch."""
NOW, BEFORE = "now", "before"
LEFT_OUT = {"rows": "unread rows alone", "rows-keys": "unread rows, keys of padding", NOW: "all"}
GROUPS: dict[str, dict[str, type[Target]]] = {
    "onnxruntime": {
        NOW: forms.Now,
        BEFORE: forms.Before,
        "rows": forms.RowsAlone,
        "rows-keys": forms.RowsAndKeys,
        **{each.__name__: each for each in forms.TRIED if issubclass(each, forms.OnnxRuntime)},
    },
    "openvino": {
        NOW: forms.NowInOpenVino,
        BEFORE: forms.BeforeInOpenVino,
        **{each.__name__: each for each in forms.TRIED if issubclass(each, forms.OpenVino)},
    },
}


@dataclass(frozen=True)
class Shop:
    """What files are made from."""

    ground: Ground
    student: StoredResult
    work: Path
    batches: tuple[int, ...] = BATCHES
    length: int | None = LENGTH

    def feeds(self, batch: int) -> Sequence[Any]:
        """Test rows."""
        return self.ground.feeds(Workload(batch=batch, length=self.length), self.student.path)

    def quantised(self, target: Target) -> Path:
        """The student in int8 for a target, lowered by its dialect; kept while the study runs, as several targets share one."""
        made, form = self.ground.builder.lower(self.student, "torch", target.dialect.format, target), target.dialect.format
        folder = self.work / "quantised" / made.digest[:16]
        if not (folder / "quantized").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            ctx = self.ground.context(folder, lambda _: load_model(self.student.path), runtime=target)
            registry.load("pass", "quantize-static")().apply(Artifact(form, made.path), ctx)
        return folder / "quantized"

    def candidate(self, name: str, runtime: str, kind: type[Target]) -> Candidate:
        """A file in one form."""
        target = kind()
        path = self.quantised(target)
        made = StoredResult("", digest_of(path), path, {}, 0.0, found=False)
        out = self.work / "built" / f"{name}@{runtime}"
        return self.ground.builder.build(made, stage=name, name=runtime, target=target, out=out)[0]

    def scored(self, candidate: Candidate) -> Evaluation:
        """On test rows."""
        task, rows = self.ground.bound.task, self.ground.data.split("test")
        return task.evaluate(opened(task, candidate.runtime, candidate.built), rows, candidate.built, split="test")


@dataclass(frozen=True)
class Found:
    """What was measured of the forms on one runtime."""

    runtime: str
    latency: LatencyRecord
    profiles: ProfileRecord
    failed: dict[str, str]

    @property
    def batches(self) -> tuple[int, ...]:
        """That it was timed at."""
        return tuple(sorted({each.batch for each in self.latency.rows}))

    def profile(self, name: str, batch: int) -> ProfileRow:
        """Of a form."""
        return next(each for each in self.profiles.rows if each.candidate == f"{name}@{self.runtime}" and each.batch == batch)

    def ms(self, name: str, batch: int) -> str:
        """Median, of a form."""
        row = next(each for each in self.latency.rows if each.candidate == f"{name}@{self.runtime}" and each.batch == batch)
        return f"{row.median_ms:.3f}"

    def over_now(self, name: str, batch: int) -> tuple[float, float, float]:
        """How many times as fast a form is as what is deployed, with its interval."""
        ratio = next(each for each in self.latency.ratios if each.of == f"{name}@{self.runtime}" and each.batch == batch)
        return ratio.value, ratio.interval.low, ratio.interval.high


def trained(bound: Bound, work: Path, store: Store) -> tuple[Report, Stage]:
    """The plan run without probes, and its last step before quantisation."""
    plan: dict[str, Any] = yaml.safe_load(bound.text)
    plan.pop("accept", None)
    plan |= {"probes": [], "stages": "quality"}
    folder = work / "run"
    if not (folder / "report.json").is_file():
        run(build_plan(plan, folder=bound.folder), store=store.root, out=folder, tell=told)
    report = read_report(folder)
    return report, [each for each in report.stages if each.target is None][-1]


def measured(
    shop: Shop, runtime: str, kinds: Mapping[str, type[Target]], seconds: float, watched: Sequence[str] = (NOW, BEFORE)
) -> Found:
    """All forms of a runtime, interleaved, and some of them profiled; what cannot be built or run is said."""
    made, failed = dict[str, Candidate](), dict[str, str]()
    for name, kind in kinds.items():
        try:
            made[name] = shop.candidate(name, runtime, kind)
            shop.ground.bound.task.call(kind().open(made[name].built), shop.feeds(1)[0], Workload())
        except Exception as error:  # libraries raise what they like; a form that was tried and fails is a row of the page
            if kind not in (*forms.TRIED, *forms.ELSEWHERE):
                raise
            made.pop(name, None)
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:150]}"
    grid = {"batch": shop.batches, **({} if shop.length is None else {"length": (shop.length,)})}
    probe = Latency(**grid, seconds=seconds * len(shop.batches), control_limit=0.15)
    watching = Profile(**grid, of="all")
    fed = {workload: shop.feeds(workload.batch) for workload in probe.workloads()}
    with ProcessBench(shop.work / "bench", tell=told, store=shop.ground.store) as bench:
        latency = probe.measure(list(made.values()), fed, bench, seed=0)
        profiled = watching.measure([made[name] for name in watched], fed, bench, seed=0)
    return Found(runtime, latency, profiled, failed)


def told(event: Event) -> None:
    """Progress on one line."""
    if isinstance(event, Progress):
        sys.stderr.write(f"\r{event.work}: {event.done} of {event.total} {event.unit} ")
    elif isinstance(event, Message):
        sys.stderr.write(f"{event.text}\n")
    sys.stderr.flush()


def compared(shop: Shop, runtime: str, kinds: Mapping[str, type[Target]]) -> tuple[str, ...]:
    """Before and now on test rows."""
    before, now = (shop.scored(shop.candidate(name, runtime, kinds[name])) for name in (BEFORE, NOW))
    return answers(shop.ground.bound.task, runtime, before, now)


# ------------------------------------------------------------------ the page


def document(report: Report, found: Sequence[Found], answers: Sequence[Sequence[str]]) -> str:
    """All tables, with what they were measured on."""
    lines = [
        "# Operators: what rewrites of graphs gain",
        "",
        "`python -m benchmarks.studies.operators --work FOLDER` remakes this page. The quickstart's student in int8, one thread,",
        f"{LENGTH} tokens; forms of a runtime run interleaved, each in a process of its own, with 95 % intervals. `before` goes without the",
        "rewrites of graphs that a dialect may leave out; `now` is what is deployed. Speech, pictures, further texts, fixed sizes and widths:",
        "[operators-others](operators-others.md).",
        "",
        *machine_lines(report),
        f"- {peaks(found[0])}",
        f"- {controls([each.latency for each in found])}",
        "",
        "## Before and after",
        "",
        *before_and_after(found),
        "## The same answers",
        "",
        *quality(answers),
        "## Rewrite by rewrite, in ONNX Runtime",
        "",
        *steps(found[0]),
        "## Tried, and not deployed",
        "",
        "Speed-up over what is deployed; what stays within its interval of 1, or gives other numbers, is left out of what is deployed.",
        "",
        *tried(found, GROUPS),
        "## What is left",
        "",
        *left(found),
    ]
    return "\n".join(lines).rstrip() + "\n"


def peaks(found: Found) -> str:
    """Of the machine."""
    return (
        profiles.peaks_words(found.profile(NOW, 1)).rstrip(".")
        + f"; load by others when they were measured {found.profile(NOW, 1).peaks.load:.0%}."
    )


def before_and_after(found: Sequence[Found]) -> Iterator[str]:
    """Times, speed-ups, shares of the peak."""
    rows = []
    for each in found:
        for batch in each.batches:
            value, low, high = each.over_now(BEFORE, batch)
            now, before = each.profile(NOW, batch), each.profile(BEFORE, batch)
            rows.append(
                (
                    each.runtime,
                    batch,
                    each.ms(BEFORE, batch),
                    each.ms(NOW, batch),
                    f"{1 / value:.2f}x [{1 / high:.2f}, {1 / low:.2f}]",
                    share(before, float(each.ms(BEFORE, batch)), before),
                    share(now, float(each.ms(NOW, batch)), now),
                    share(now, float(each.ms(NOW, batch)), before),
                )
            )
    columns = ("runtime", "batch", "before, ms", "now, ms", "speed-up", "of the int8 peak, before", "now", "now, by all rows")
    yield from table(columns, rows, numbers=range(1, 8))
    yield "A share is what all products of the call would take at the int8 peak, over what the call takes; `by all rows` counts products too that"
    yield "are no longer computed."
    yield ""


def share(row: ProfileRow, ms: float, of: ProfileRow) -> str:
    """Of the int8 peak that a call reaches which takes so long, by the operations of a profile."""
    return f"{sum(each.operations for each in of.operators) / row.peaks.of('int8') / (ms / 1e3):.1%}"


def answers(task: Task, runtime: str, before: Evaluation, now: Evaluation) -> tuple[str, ...]:
    """Accuracy before and after on the same rows, how often they agree, and how far outputs are apart."""
    change = task.compare(now, before, metric=now.scores.metric, name=BEFORE, seed=0)
    mine, theirs = (task.predictions(one.outputs) for one in (now, before))
    same = "-" if mine is None or theirs is None else f"{np.mean(np.asarray(mine) == np.asarray(theirs)):.2%}"
    main = now.scores.main
    apart = max(float(np.abs(now.outputs[name] - before.outputs[name]).max()) for name in now.outputs)
    between = f"{wording.moved(change)} ({wording.moved_between(change)})"
    return (runtime, str(main.n), f"{before.scores.main.value:.4f}", f"{main.value:.4f}", between, same, f"{apart:.3f}")


LAST_BLOCK = "Ranges of the last block are calibrated on the rows that it computes, so its integers differ; of float graphs outputs are the same."


def quality(rows: Sequence[Sequence[str]], why: str = LAST_BLOCK) -> Iterator[str]:
    """A line a runtime, and why outputs differ."""
    columns = ("runtime", "test rows", "before", "now", "difference", "same answer", "largest difference of outputs")
    yield from table(columns, rows, numbers=range(1, 7))
    yield why
    yield ""


def steps(found: Found) -> Iterator[str]:
    """Each rewrite on top of those before it."""
    names = {BEFORE: "none", **LEFT_OUT}
    rows = [
        (text, *(found.ms(name, batch) for batch in BATCHES), *(over_before(found, name, batch) for batch in BATCHES))
        for name, text in names.items()
    ]
    columns = ("rewrites", *(f"batch {batch}, ms" for batch in BATCHES), *(f"batch {batch}, over none" for batch in BATCHES))
    yield from table(columns, rows, numbers=range(1, 5))


def over_before(found: Found, name: str, batch: int) -> str:
    """Of medians."""
    return f"{float(found.ms(BEFORE, batch)) / float(found.ms(name, batch)):.2f}x"


def tried(found: Sequence[Found], groups: Mapping[str, Mapping[str, type[Target]]]) -> Iterator[str]:
    """What is not deployed, by runtime."""
    rows, batches = list[tuple[str, ...]](), found[0].batches
    for each in found:
        for name, kind in groups[each.runtime].items():
            if kind not in (*forms.TRIED, *forms.ELSEWHERE):
                continue
            what = (kind.__doc__ or "").splitlines()[0].rstrip(".")
            if name in each.failed:
                rows.append((each.runtime, what, f"fails: {each.failed[name]}", *[""] * (len(batches) - 1)))
                continue
            values = [each.over_now(name, batch) for batch in batches]
            rows.append((each.runtime, what, *(f"{value:.2f}x [{low:.2f}, {high:.2f}]" for value, low, high in values)))
    yield from table(("runtime", "what", *(f"batch {batch}" for batch in batches)), rows, numbers=range(2, 2 + len(batches)))


def left(found: Sequence[Found]) -> Iterator[str]:
    """Profiles of what is deployed, at batch 1."""
    for each in found:
        row = each.profile(NOW, 1)
        yield f"{each.runtime}: {profiles.bound_words(row)}"
        yield ""
        yield from (f"{place}. {line}" for place, line in enumerate(profiles.why_not_faster(row), start=1))
        yield ""
        costs = [
            (
                cost.name,
                cost.numbers or "-",
                cost.count,
                wording.milliseconds(cost.ms),
                wording.percent(cost.share),
                wording.percent(cost.efficiency),
            )
            for cost in profiles.by_kind(row)
        ]
        yield from table(("operator", "in", "how many", "time", "share", "of the peak"), costs, numbers=range(2, 6))


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run and of what is built")
    parser.add_argument("--store", type=Path, help="where trained models are looked for; the user's own store unless given")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each runtime and batch")
    parser.add_argument("--out", type=Path, default=OUT, help="the page")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="laid over the plan, for a trial")
    asked = parser.parse_args()
    work = asked.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    bound = load_plan(PLAN, settings=asked.set)
    store = open_store(asked.store, plan=bound.name)
    report, stage = trained(bound, work, store)
    ground = Ground(bound, store, told)
    shop = Shop(ground, StoredResult(stage.key, stage.digest, store.entry(stage.key) / FILES, {}, 0.0, found=True), work)
    with store.running():
        found = [measured(shop, runtime, kinds, asked.seconds) for runtime, kinds in GROUPS.items()]
        same = [compared(shop, runtime, GROUPS[runtime]) for runtime in GROUPS]
    kept = {
        each.runtime: {"latency": each.latency.model_dump(mode="json"), "profiles": each.profiles.model_dump(mode="json")}
        for each in found
    }
    (work / "measured.json").write_text(json.dumps(kept), encoding="utf-8")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(document(report, found, same), encoding="utf-8")
    sys.stdout.write(f"{asked.out}\n")


if __name__ == "__main__":
    main()
