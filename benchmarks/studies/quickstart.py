"""Remakes `docs/results/quickstart.md`: `make results`, on a machine that does nothing else.

Runs the quickstart plan, the same trained models timed under more conditions, the plan without each of its passes, and the plan on
20 Newsgroups. What ran before is read from `runs/results`; remove that folder to measure everything anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.studies import ablation, newsgroups
from benchmarks.studies.pages import machine_lines
from compressor.contracts.records import Ratio, Report, Workload
from compressor.plan.bound import load_plan
from compressor.report.findings import Findings

PLAN = Path("plans/quickstart.yaml")
RUNS = Path("runs/results")
OUT = Path("docs/results/quickstart.md")

SECONDS = "probes.latency.seconds"
CONDITIONS = {
    "1 thread": ["targets.onnxruntime.threads=1", "targets.openvino.threads=1"],
    "2 threads": ["targets.onnxruntime.threads=2", "targets.openvino.threads=2"],
}
SHORTER = {"without prune-structure": ["passes.distill.epochs=1"]}
"""The whole model imitates itself well enough after one epoch, and six take twenty minutes."""
LIMITS = {"train": 3000, "validation": 300, "test": 1000}
"""Rows of 20 Newsgroups: with all of them the plan takes two hours on two cores."""


def conditions() -> dict[str, Report]:
    """The plan at batch 1 and 8 with one and two threads; training and quantising happen once."""
    plan = yaml.safe_load(load_plan(PLAN).text) | {"stages": "quality"}
    more = ["probes.latency.batch=[1, 8]", f"{SECONDS}=100"]
    return {name: ablation.run(plan, RUNS / name.replace(" ", "-"), [*threads, *more]) for name, threads in CONDITIONS.items()}


def ablations(whole: Report) -> dict[str, Report]:
    """The plan whole, as it was run before, and without each of its passes."""
    left_out = [each for each in ablation.variants(load_plan(PLAN)) if each.name != ablation.WHOLE]
    return {ablation.WHOLE: whole} | {
        " ".join([each.name, *(f"({setting})" for setting in SHORTER.get(each.name, ()))]): ablation.run(
            each.plan, RUNS / each.name.replace(" ", "-"), SHORTER.get(each.name, ())
        )
        for each in left_out
    }


def harder() -> Report:
    """The plan on 20 Newsgroups; only `data:` differs."""
    plan: dict[str, Any] = yaml.safe_load(load_plan(PLAN).text)
    folder = newsgroups.fetch(RUNS / "20-newsgroups" / "data")
    files = {"train": str((folder / "train.jsonl").resolve()), "test": str((folder / "test.jsonl").resolve())}
    data = {"files": files, "deduplicate": True, "split": {"validation": 0.1}, "limit": LIMITS, "calibration": 256}
    return ablation.run(plan | {"name": "20-newsgroups", "data": data, "stages": "quality"}, RUNS / "20-newsgroups")


def document(timed: Mapping[str, Report], ablated: Mapping[str, Report], newsgroups_run: Report) -> str:
    """All tables, with what they were measured on."""
    whole = ablated[ablation.WHOLE]
    return "\n".join(
        [
            "# Quickstart: what was measured",
            "",
            "`make results` remakes this page. Speed-ups are held against the source model in ONNX Runtime in fp32, optimised as it",
            "optimises by itself (`graph_optimization: all`), with the same threads, lengths and provider; intervals are 95 %.",
            "",
            *machine_lines(whole),
            f"- Seed {whole.seed}.",
            "",
            "## The plan on BBC News",
            "",
            f"Rows: {rows(whole)}. Quality is held against the fine-tuned model.",
            "",
            *speeds(timed),
            "## What each pass contributes",
            "",
            "Batch 1, length 128, one thread. A pass is left out, not its results: `without finetune` prunes the model as published,",
            "and still learns from the fine-tuned one.",
            "",
            ablation.table(ablated),
            "## The same plan on 20 Newsgroups",
            "",
            f"Rows: {rows(newsgroups_run)}, lower-cased and without punctuation as the package has them.",
            "",
            *overtaken(newsgroups_run),
            ablation.table({"20 Newsgroups": newsgroups_run}),
            *plan(whole),
        ]
    )


def speeds(timed: Mapping[str, Report]) -> Iterator[str]:
    """A row for each target, batch and number of threads."""
    yield "| target | threads | batch | quality on test | points | size | source ms | final ms | speed-up | over its own source | A/A |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, report in timed.items():
        findings = Findings(report)
        for target in findings.targets:
            for workload in findings.workloads:
                yield speed(findings, target, workload, threads=name.partition(" ")[0])
    yield ""


def speed(findings: Findings, target: str, workload: Workload, *, threads: str) -> str:
    """One row."""
    candidate = findings.candidates[f"final@{target}"]
    found, baseline = findings.row(candidate, workload), findings.rows[findings.baseline or "", workload]
    control = next(each for each in findings.controls if each.workload == workload)
    assert found.quality
    assert found.latency
    cells = (
        f"{target} ({candidate.facts.get('precision', '')})",
        threads,
        workload.batch,
        f"{found.quality.value:.4f}",
        ablation.points(candidate.difference),
        f"{candidate.bytes / 1e6:.1f} MB",
        f"{baseline.median_ms:.2f}",
        f"{found.latency.median_ms:.2f}",
        spelled(found.against_baseline),
        spelled(found.against_source),
        f"{control.ratio:.3f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def spelled(ratio: Ratio | None) -> str:
    """A ratio with its interval."""
    if ratio is None:
        return "-"
    doubt = ", undecided" if ratio.outcome == "undecided" else ""
    return f"{ratio.value:.2f}x [{ratio.interval.low:.2f}, {ratio.interval.high:.2f}]{doubt}"


def overtaken(report: Report) -> Iterator[str]:
    """What a gain over the reference means, where there is one."""
    gains = [each.difference.change for each in report.candidates if each.stage == "final" and each.difference]
    if gains and min(gains) > 0:
        yield "The reference is fine-tuned for one epoch here too, which is too little for twenty topics: the student, which learns from it"
        yield "and from the labels for six more, overtakes it. What compression costs a model that has learned all it can is not shown by this."
        yield ""


def rows(report: Report) -> str:
    """Rows of each split, and what was removed."""
    splits = ", ".join(f"{split.rows} {split.name}" for split in report.data.splits)
    removed = ", ".join(f"{count} {why}" for why, count in report.data.removed.items() if count)
    return f"{splits}{f' (removed: {removed})' if removed else ''}"


def plan(report: Report) -> Iterator[str]:
    """The plan in full."""
    yield from ("## The plan", "", "```yaml", report.plan.strip(), "```", "")


def main() -> None:
    """Measure what is not measured yet, and write the page."""
    timed = conditions()
    text = document(timed, ablations(timed["1 thread"]), harder())
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{OUT}\n")


if __name__ == "__main__":
    main()
