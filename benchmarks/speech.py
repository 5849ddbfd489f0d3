"""Remakes `docs/results/speech.md`: one encoder of speech brought to a quarter of its layers' parameters in five ways.

    python -m benchmarks.speech MODEL RECORDINGS

MODEL is a folder of Whisper-tiny, RECORDINGS the folder `recordings` of the Free Spoken Digit Dataset (`7_jackson_32.wav` is take 32
of jackson saying seven). What ran before is read from `runs/speech`; remove that folder to measure everything anew. Some two hours on
two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import ablation
from benchmarks.pages import differences, machine_lines, mean_and_interval
from compressor.anatomy import anatomy_of
from compressor.cli_store import open_store
from compressor.contracts import Want
from compressor.data import load_data
from compressor.model import Model
from compressor.plan import load_plan
from compressor.records import LatencyRecord, Remark, Report, Table
from compressor.report.findings import Findings
from compressor.tasks.speech import Speech
from compressor.tasks.speech import right as probe_right

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

RUNS = Path("runs/speech")
OUT = Path("docs/results/speech.md")
TEST_TAKES = 15
"""Takes of each speaker and digit that are tested on: 900 of 3,000 recordings."""
SEEDS = (0, 1, 2)
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
FIRST, SECOND = 4, 2
"""Epochs of both stages; the others have as many steps in one."""
LAYER_PARAMETERS = 7_096_320
BUDGET = LAYER_PARAMETERS // 4
REST = 8_208_384 - LAYER_PARAMETERS
"""Parameters outside of the layers, which stay."""
EQUAL = {"heads": [2] * 4, "neurons": [316] * 4}
"""Equal widths that make just the parameters that joint's and pruning's widths come to."""
TAUGHT = [2, 4]
LENGTHS = {"1 s": 16_000, "5 s": 80_000}
RATIOS = (0.5, 0.3)
RATED = ("joint", "pruned", "uniform", "one-layer")
PROBES = {
    "digit": {"label": "digit", "groups": "speaker"},
    "speaker": {"label": "speaker"},
    "digit-10": {"label": "digit", "groups": "speaker", "shots": 10},
    "speaker-10": {"label": "speaker", "shots": 10},
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    method: str
    seed: int
    rate: float
    epochs: int = FIRST + SECOND
    widths: Mapping[str, Sequence[int]] | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.method}-{self.epochs}-{self.rate:g}-{self.seed}"


def prepared(recordings: Path, folder: Path) -> Path:
    """The recordings as an audiofolder with the columns digit and speaker, unless it is there."""
    if not (folder / "train" / "metadata.jsonl").is_file():
        rows: dict[str, list[str]] = {"train": [], "test": []}
        for path in sorted(recordings.glob("*.wav")):
            digit, speaker, take = path.stem.split("_")
            split = "test" if int(take) < TEST_TAKES else "train"
            (folder / split).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / split / path.name)
            rows[split].append(json.dumps({"file_name": path.name, "digit": digit, "speaker": speaker}) + "\n")
        for split, lines in rows.items():
            (folder / split / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def passes(cell: Cell) -> Iterator[dict[str, Any]]:
    """Steps of a cell; all imitate the same layers through projections of their own, with the same rows in the same order."""
    common = {"teacher": "source", "learning_rate": cell.rate, "cache_teacher": True, "keep": "last"}
    if cell.method == "joint":
        stages = {"epochs": FIRST, "recovery_epochs": SECOND, "sparsity": 0.75}
        yield {"distill-and-prune": {**common, **stages, "objectives": imitation(TAUGHT)}}
        return
    if cell.method == "uniform":
        yield {"prune-structure": {"widths": EQUAL, "importance": "activation"}}
    elif cell.method == "pruned":
        yield {"prune-structure": {"parameters": REST + BUDGET, "importance": "activation", "min_heads": 0, "scope": "global"}}
    elif cell.method == "random":
        yield {"prune-structure": {"widths": cell.widths, "importance": "random"}}
    cut = {"init": "first", "layers": 1} if cell.method == "one-layer" else {}
    layers: Any = {1: TAUGHT} if cut else TAUGHT
    yield {"distill": {**common, **cut, "epochs": cell.epochs, "objectives": imitation(layers)}}


def imitation(layers: Any) -> dict[str, Any]:
    """What all students learn."""
    return {"layer-to-layer": {"layers": layers, "projection": "own"}}


def plan(cell: Cell, model: Path, data: Path) -> dict[str, Any]:
    """The plan of a cell."""
    return {
        "name": f"speech-{cell.method}",
        "seed": cell.seed,
        "model": {"folder": str(model.resolve())},
        "task": {"speech": {"seconds": 1.0, "probes": PROBES}},
        "data": {
            "files": {split: str((data / split).resolve()) for split in ("train", "test")},
            "format": "audiofolder",
            "split": {"validation": 300},
            "calibration": 64,
        },
        "reference": "source",
        "stages": "quality",
        "passes": list(passes(cell)),
        "targets": [{"onnxruntime": {"threads": 2}}],
        "probes": ["memory"],
    }


def widths(report: Report) -> dict[str, list[int]]:
    """What joint training left, by kind and block."""
    found: dict[str, list[int]] = {"heads": [], "neurons": []}
    notes = [note for stage in report.stages for note in stage.notes]
    for row in next(note for note in notes if isinstance(note, Table) and note.title == "What is left").rows:
        found[str(row[1])].append(int(str(row[-1])))
    return found


def validation(report: Report, stage: int = -1) -> float:
    """The mean of the probes on validation rows, after training or after another stage."""
    scores = report.stages[stage].scores
    assert scores is not None
    return scores.main.value


@dataclass(frozen=True)
class Ground:
    """Rows in a random order, and what the teacher makes of them."""

    task: Speech
    rows: Dataset
    teacher: list[NDArray[np.float32]]

    @classmethod
    def of(cls, task: Speech, rows: Dataset, teacher: Path) -> Ground:
        """The rows mixed, the teacher run over them."""
        mixed = rows.select(np.random.default_rng(0).permutation(len(rows)).tolist())
        return cls(task, mixed, states(task, teacher, mixed))


@dataclass
class Lab:
    """Runs cells, each once."""

    model: Path
    data: Path
    runs: Path
    found: dict[str, list[float]] = field(default_factory=dict)
    """Feature errors by cell and split."""

    def run(self, cell: Cell) -> Report:
        """The report of a cell."""
        return ablation.run(plan(cell, self.model, self.data), self.runs / cell.name)

    def timed(self, cell: Cell) -> Report:
        """The report of a cell that is quantised too and timed on both targets."""
        laid = plan(cell, self.model, self.data)
        steps = [*laid["passes"], {"quantize-static": None}]
        targets = [{"onnxruntime": {"threads": 1}}, {"openvino": {"threads": 1}}]
        probes = [{"latency": {"batch": [1], "length": list(LENGTHS.values()), "seconds": 60}}]
        whole = {**laid, "stages": "all", "passes": steps, "targets": targets, "probes": probes}
        return ablation.run(whole, self.runs / f"timed-{cell.name}")

    def budgeted(self, target: str, ratio: float, rate: float) -> Report:
        """The report of a short joint training to a latency on a target."""
        laid = plan(Cell("joint", SEEDS[0], rate), self.model, self.data)
        step = dict(laid["passes"][0]["distill-and-prune"], epochs=2, recovery_epochs=1, sparsity=None)
        step["latency"] = {"target": target, "ratio": ratio, "length": LENGTHS["1 s"]}
        probes = [{"latency": {"batch": [1], "length": [LENGTHS["1 s"]], "seconds": 60}}]
        whole = {**laid, "passes": [{"distill-and-prune": step}], "targets": [{target: {"threads": 1}}], "probes": probes}
        return ablation.run(whole, self.runs / f"budget-{target}-{ratio:g}")

    def student(self, cell: Cell) -> Path:
        """The folder of the trained model of a cell."""
        return open_store(None).entry(self.run(cell).stages[-1].key) / "files"

    @cached_property
    def grounds(self) -> dict[str, Ground]:
        """Rows of validation and test with the teacher's states."""
        first = Cell("joint", SEEDS[0], RATES[0])
        folder = open_store(None).entry(self.run(first).stages[0].key) / "files"
        bound = load_plan(self.runs / first.name / "plan.yaml")
        assert isinstance(bound.task, Speech)
        data = load_data(bound.data, columns=bound.task.columns(), seed=bound.seed, folder=bound.folder)
        return {split: Ground.of(bound.task, data.split(split), folder) for split in ("validation", "test")}

    def errors(self, cell: Cell, split: str) -> list[float]:
        """Feature errors of a cell by layer of the teacher, in percent."""
        key = f"{cell.name} on {split}"
        if key not in self.found:
            ground = self.grounds[split]
            mine = states(ground.task, self.student(cell), ground.rows)
            self.found[key] = [100 * each for each in feature_errors(mine, ground.teacher, fitted_on=len(ground.rows) // 2)]
        return self.found[key]

    def best_rate(self, method: str) -> float:
        """The learning rate whose student has the least feature errors on validation rows, by seed 0."""
        return min(RATES, key=lambda rate: float(np.mean(self.errors(Cell(method, SEEDS[0], rate), "validation"))))


def cells(lab: Lab) -> Iterator[Cell]:
    """All cells, in the order in which a page can be made of them."""
    rates = {method: lab.best_rate(method) for method in RATED}
    for seed in SEEDS:
        joint = Cell("joint", seed, rates["joint"])
        yield joint
        yield from (Cell(method, seed, rates[method]) for method in ("pruned", "uniform", "one-layer"))
        yield Cell("random", seed, rates["joint"], widths=widths(lab.run(joint)))
    for method in RATED[1:]:
        epochs = as_long(lab, method, rates)
        yield from (Cell(method, seed, rates[method], epochs) for seed in SEEDS)


def as_long(lab: Lab, method: str, rates: Mapping[str, float]) -> int:
    """Epochs that a method gets through in the time that joint takes, by what both took for equal steps with the last seed."""
    took = {each: seconds(lab.run(Cell(each, SEEDS[-1], rates[each]))) for each in ("joint", method)}
    return round((FIRST + SECOND) * took["joint"] / took[method])


def seconds(report: Report) -> float:
    """That the steps took, scoring after each epoch included."""
    return sum(stage.seconds for stage in report.stages[1:])


# ------------------------------------------------------------------ features


def states(task: Speech, folder: Path, rows: Dataset) -> list[NDArray[np.float32]]:
    """What leaves each block, `[rows, frames, features]`."""
    import torch

    module = Model.load(folder).module
    want = Want(tuple(block.id for block in anatomy_of(module).blocks))
    with torch.no_grad():
        found = [task.forward(module, batch, want).hidden_states for batch in task.batches(rows, folder, batch_size=30)]
    return [np.concatenate([each[block].numpy() for each in found]) for block in want.hidden_states]


def feature_errors(
    student: Sequence[NDArray[np.float32]], teacher: Sequence[NDArray[np.float32]], *, fitted_on: int
) -> list[float]:
    """By layer of the teacher, the share of its variance that the best linear map from the student's layer misses on unseen rows.

    The student's layer is the one of the same number, or its last. The map is fitted on the first rows by ridge regression.
    """
    errors = []
    for at, target in enumerate(teacher):
        mine = student[min(at, len(student) - 1)]
        learned, asked = (flat(mine[:fitted_on]), flat(target[:fitted_on])), (flat(mine[fitted_on:]), flat(target[fitted_on:]))
        squares = learned[0].T @ learned[0]
        ridge = 1e-4 * np.trace(squares) / len(squares) * np.eye(len(squares))
        weights = np.linalg.solve(squares + ridge, learned[0].T @ learned[1])
        mean = learned[1].mean(axis=0)
        errors.append(float(np.square(asked[0] @ weights - asked[1]).sum() / np.square(asked[1] - mean).sum()))
    return errors


def flat(states: NDArray[np.float32]) -> NDArray[np.float64]:
    """Frames `[rows * frames, features + 1]`, the last feature 1."""
    frames = states.reshape(-1, states.shape[-1]).astype(np.float64)
    return np.concatenate([frames, np.ones((len(frames), 1))], axis=1)


def probes_by_layer(task: Speech, teacher: Sequence[NDArray[np.float32]], rows: Dataset) -> dict[str, list[float]]:
    """By probe, its accuracy on the mean over frames of what leaves each block of the teacher."""
    return {
        name: [float(probe_right(layer.mean(axis=1), rows, probe, name).mean()) for layer in teacher]
        for name, probe in task.probes.items()
    }


# ------------------------------------------------------------------ the page


def probes(report: Report, stage: str) -> dict[str, float]:
    """Accuracy of each probe on test rows in percent."""
    scores = next(each.scores for each in report.candidates if each.stage == stage and each.scores)
    return {metric.name.removesuffix(" probe"): 100 * metric.value for metric in scores.metrics[1:]}


TITLES = {
    "one-layer": "one layer, distilled",
    "uniform": "equal widths, distilled",
    "pruned": "pruned, then distilled",
    "random": "joint's widths, random units",
    "joint": "joint",
}
TEACHER = "teacher"


@dataclass(frozen=True)
class Row:
    """What one cell ended with."""

    epochs: int
    parameters: int
    """Of the blocks."""
    seconds: float
    """That its steps took."""
    errors: Sequence[float]
    """Feature errors by layer of the teacher, in percent."""
    probes: Mapping[str, float]


def row(lab: Lab, cell: Cell) -> Row:
    """Measured on the test rows."""
    report = lab.run(cell)
    weights = report.stages[-1].weights or 0
    return Row(cell.epochs, weights - REST, seconds(report), lab.errors(cell, "test"), probes(report, "final"))


def took(rows: Sequence[Row]) -> str:
    """Seconds with the last seed."""
    return f"{rows[-1].seconds:.0f} s"


def table(rows: Mapping[str, Sequence[Row]], source: Mapping[str, float]) -> Iterator[str]:
    """A line a method: means over seeds with intervals."""
    names = list(source)
    yield f"| | layer parameters | feature error, % of variance, layer 1 / 2 / 3 / 4 | {' | '.join(names)} |"
    yield f"| --- | ---: | ---: |{' ---: |' * len(names)}"
    yield f"| {TEACHER} | {LAYER_PARAMETERS:,} | 0 | {' | '.join(f'{source[name]:.2f}' for name in names)} |"
    for method, found in rows.items():
        errors = " / ".join(f"{np.mean([each.errors[at] for each in found]):.1f}" for at in range(len(found[0].errors)))
        cells = " | ".join(mean_and_interval([each.probes[name] for each in found]) for name in names)
        yield f"| {TITLES[method]} | {np.mean([each.parameters for each in found]):,.0f} | {errors} | {cells} |"
    yield ""


def paired(rows: Mapping[str, Sequence[Row]], others: Mapping[str, Sequence[Row]], names: Sequence[str]) -> Iterator[str]:
    """Joint minus each of the others, seed by seed."""
    yield f"| joint minus | feature error, layer 4 | {' | '.join(names)} |"
    yield f"| --- | ---: |{' ---: |' * len(names)}"
    mine = rows["joint"]
    for method, found in others.items():
        error = differences([each.errors[-1] for each in mine], [each.errors[-1] for each in found])
        cells = [differences([each.probes[name] for each in mine], [each.probes[name] for each in found]) for name in names]
        yield f"| {TITLES[method]} | {error} | {' | '.join(cells)} |"
    yield ""


def latencies(reports: Mapping[str, Report]) -> Iterator[str]:
    """A line a method: medians by target, precision and length; the ratio is to the teacher in ONNX Runtime, in fp32."""
    yield "| | target | precision | 1 s, ms | against the teacher in ONNX Runtime, fp32 | 5 s, ms | against it |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for method, report in reports.items():
        findings = Findings(report)
        (latency,) = (probe for probe in report.probes if isinstance(probe, LatencyRecord))
        trained = [stage.name for stage in report.stages if stage.target is None][-1]
        stages = {TEACHER: ("source", "fp32"), TITLES[method]: (trained, "fp32"), f"{TITLES[method]}, int8": ("final", "int8")}
        for title, (stage, precision) in stages.items():
            if title == TEACHER and method != "joint":
                continue
            for target in findings.targets:
                cells = [timed(latency, f"{stage}@{target}", length) for length in LENGTHS.values()]
                yield f"| {title} | {target} | {precision} | {' | '.join(cells)} |"
    yield ""


def timed(latency: LatencyRecord, candidate: str, length: int) -> str:
    """Median and ratio to the teacher."""
    found = next((each for each in latency.rows if each.candidate == candidate and each.length == length), None)
    if found is None:
        return "- | -"
    ratio = next((each for each in latency.ratios if each.of == candidate and each.length == length), None)
    against = f"{ratio.value:.2f}x [{ratio.interval.low:.2f}, {ratio.interval.high:.2f}]" if ratio else "1"
    return f"{found.median_ms:.2f} | {against}"


def budget_table(lab: Lab, rate: float) -> Iterator[str]:
    """What was asked for, what the step measured, and what the run's probe did afterwards."""
    yield "| target | asked for | by the table | measured by the step | measured by the probe |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for target in ("onnxruntime", "openvino"):
        for asked in RATIOS:
            report = lab.budgeted(target, asked, rate)
            text = next(n.text for n in report.stages[-1].notes if isinstance(n, Remark) and n.text.startswith("Latency on"))
            predicted, measured, before = (float(found) for found in re.findall(r"([\d.]+(?:e-?\d+)?) ms", text)[:3])
            (latency,) = (probe for probe in report.probes if isinstance(probe, LatencyRecord))
            (ratio,) = (each for each in latency.ratios if each.of == f"final@{target}")
            low, high = 1 / ratio.interval.high, 1 / ratio.interval.low
            yield (
                f"| {target} | {asked:.2f} | {predicted / before:.3f} | {measured / before:.3f} | {1 / ratio.value:.3f} "
                f"[{low:.3f}, {high:.3f}] |"
            )
    yield ""


def rate_table(lab: Lab) -> Iterator[str]:
    """Mean feature error and mean of the probes on validation rows, by learning rate."""
    yield f"| | {' | '.join(f'{rate:g}' for rate in RATES)} |"
    yield f"| --- |{' ---: |' * len(RATES)}"
    for method in RATED:
        found = [Cell(method, SEEDS[0], rate) for rate in RATES]
        errors = [float(np.mean(lab.errors(cell, "validation"))) for cell in found]
        shown = [f"**{error:.2f}**" if error == min(errors) else f"{error:.2f}" for error in errors]
        cells = (f"{error}, {100 * validation(lab.run(cell)):.2f}" for error, cell in zip(shown, found, strict=True))
        yield f"| {TITLES[method]} | {' | '.join(cells)} |"
    yield ""


def document(lab: Lab) -> str:
    """The page."""
    made = list(cells(lab))
    first = lab.run(made[0])
    ground = lab.grounds["test"]
    equal_steps: dict[str, list[Row]] = {method: [] for method in TITLES}
    equal_time: dict[str, list[Row]] = {method: [] for method in RATED[1:]}
    for number, cell in enumerate(made):
        kept = equal_steps if number < len(SEEDS) * len(TITLES) else equal_time
        kept[cell.method].append(row(lab, cell))
    source = probes(first, "source")
    rows = {split.name: split.rows for split in first.data.splits}
    long = [f"{TITLES[method]}: {found[0].epochs} epochs, {took(found)}" for method, found in equal_time.items()]
    quantised = {method: lab.timed(next(cell for cell in made if cell.method == method)) for method in TITLES}
    layers = probes_by_layer(ground.task, ground.teacher, ground.rows)
    return "\n".join(
        [
            "# Joint distillation and pruning of an encoder of speech: what was measured",
            "",
            "`python -m benchmarks.speech MODEL RECORDINGS` remakes this page.",
            "",
            *machine_lines(first),
            f"- Model: the encoder of Whisper-tiny, {LAYER_PARAMETERS:,} parameters in four layers; {BUDGET:,} are to stay, one layer's worth.",
            "- Data: Free Spoken Digit Dataset (CC BY-SA 4.0), sounds of 1 s; training on "
            f"{rows['train']:,} without labels, validation on {rows['validation']:,},",
            f"  test on {rows['test']:,}, takes 0 to {TEST_TAKES - 1} of each speaker and digit.",
            "- Probes: logistic regression on the mean over frames of the frozen encoder's output. `digit`: three folds, two of six",
            "  speakers held out in each; `speaker`: five folds over clips; `-10`: fitted on ten clips of each class.",
            "- Feature error: what the best linear map from a student's layer misses of the teacher's, on clips that it was not fitted on.",
            f"- Intervals: Student's t over seeds {', '.join(map(str, SEEDS))}, 95 %; bold where a difference leaves out 0.",
            "",
            "## Equal steps",
            "",
            f"{FIRST + SECOND} epochs each, of batches of 16 in the same order: joint's two stages count as {FIRST} and {SECOND}.",
            "",
            *table(equal_steps, source),
            *paired(equal_steps, {name: each for name, each in equal_steps.items() if name != "joint"}, list(source)),
            "## Equal time",
            "",
            f"The others train about as long as joint does, which takes {took(equal_steps['joint'])}, scoring after each epoch",
            f"included. {'; '.join(long)} (seed {SEEDS[-1]}). Random units are no way to make a model, and left out.",
            "",
            *table({**equal_time, "joint": equal_steps["joint"]}, source),
            *paired(equal_steps, equal_time, list(source)),
            "## Learning rates",
            "",
            "Mean feature error over layers and mean of the probes, both on validation rows, seed 0. The rate of the least error is taken",
            f"for all seeds; random units take joint's. (The probes of the teacher there are {100 * validation(first, 0):.2f}.)",
            "",
            *rate_table(lab),
            "## What the teacher's layers tell",
            "",
            "The same probes on each layer of the teacher, in percent. (The encoder's output is its last layer behind a norm.)",
            "",
            f"| layer | {' | '.join(layers)} |",
            f"| --- |{' ---: |' * len(layers)}",
            *(
                f"| {at + 1} | {' | '.join(f'{100 * each[at]:.2f}' for each in layers.values())} |"
                for at in range(len(ground.teacher))
            ),
            "",
            "## Budgets of latency",
            "",
            "Joint training for two epochs and one, to a fraction of the teacher's latency at batch 1, 1 s and one thread.",
            "",
            *budget_table(lab, made[0].rate),
            "## Latency",
            "",
            "Students of seed 0, batch 1, one thread, in interleaved rounds with the teacher.",
            "",
            *latencies(quantised),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all cells and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--runs", type=Path, default=RUNS)
    given = parser.parse_args(arguments)
    lab = Lab(given.model, prepared(given.recordings, given.runs / "data"), given.runs)
    for cell in cells(lab):
        lab.run(cell)
    OUT.write_text(document(lab), encoding="utf-8")


if __name__ == "__main__":
    main()
