"""Exports opened by loaders of the ecosystem: `python -m benchmarks.studies.loaders runs/loaders --optimum-onnx PYTHON --optimum-intel PYTHON`.

Tiny models of each task are trained for a moment, pruned to unequal layers, quantised and exported; each export is opened by the class
that optimum or transformers has for its task, in the environment of the Python that is given, and what it makes of the rows that the run
kept is held against what the run made of them. Writes docs/results/loaders.md. Runs and exports that lie in the folder serve again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compressor.api import build_plan, run
from compressor.contracts import registry
from compressor.export import export
from compressor.export.witnesses import ARRAYS, read_answers, read_rows
from compressor.report import WITNESSES, read_report
from compressor.store.checksums import SUMS
from compressor.testing.tiny import furnish

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "loaders.md"
LOADING = Path(__file__).with_name("loading.py")
FEW = 8
"""Rows of each export that are held against the run."""


SHOWN = 160
"""Characters of an error."""


@dataclass(frozen=True)
class Subject:
    """A task with the loaders that the ecosystem has for it."""

    name: str
    task: str
    parameters: Mapping[str, Any]
    loader: str
    """What the classes of optimum are called after `ORTModelFor` and `OVModelFor`."""
    pipeline: str


TEXTS = ("SequenceClassification", "text-classification")
SUBJECTS = (
    Subject("text", "text-classification", {"max_length": 16}, *TEXTS),
    Subject("pairs", "text-classification", {"text": ["one", "other"], "max_length": 24}, *TEXTS),
    Subject("several labels", "text-classification", {"multi_label": True, "label": "labels", "max_length": 16}, *TEXTS),
    Subject("number", "text-regression", {"max_length": 16}, *TEXTS),
    Subject("image", "image-classification", {}, "ImageClassification", "image-classification"),
    Subject("sound", "audio-classification", {"seconds": 0.5}, "AudioClassification", "audio-classification"),
)
TARGETS = ("onnxruntime", "openvino", "pytorch")
FINETUNE = {"finetune": {"epochs": 3, "learning_rate": 0.003, "precision": "fp32"}}
STEPS: Mapping[str, Mapping[str, Any]] = {
    "pruned": {"prune-structure": {"keep": 0.6, "round_to": 4}},
    "int8": {"quantize-static": {}},
}
"""What is done after fine-tuning, by what is written of it."""
LIBRARIES = {"onnxruntime": "optimum.onnxruntime.ORTModelFor", "openvino": "optimum.intel.OVModelFor"}


@dataclass(frozen=True)
class Try:
    """An export and what should open it."""

    subject: str
    model: str
    """`fp32`, `pruned` or `int8`."""
    target: str
    job: Mapping[str, Any]


def made(folder: Path, subject: Subject) -> Iterator[Try]:
    """Run the plans of a task, export what they built, and say how each should open."""
    place = folder / subject.name.replace(" ", "-")
    place.mkdir(parents=True, exist_ok=True)
    rows = furnish(place, registry.load("task", subject.task)(**subject.parameters)).model_dump(exclude_defaults=True)
    for name, step in STEPS.items():
        targets = [target for target in TARGETS if target != "pytorch" or name != "int8"]
        values = {
            "model": {"folder": "pretrained"},
            "task": {subject.task: subject.parameters},
            "data": rows,
            "reference": "finetune",
            "passes": [FINETUNE, step],
            "targets": targets,
        }
        out = place / f"run-{name}"
        if not (out / "report.json").is_file():  # else it was made by an earlier call
            run(build_plan(values, folder=place), store=place / "store", out=out)
        for target in targets:
            stages = {"fp32": "finetune", name: "final"} if name == "pruned" else {name: "final"}
            for model, stage in stages.items():
                yield Try(subject.name, model, target, _job(out, subject, target, stage, place / f"{model}-{target}"))


def _job(folder: Path, subject: Subject, target: str, stage: str, out: Path) -> dict[str, Any]:
    """Export a candidate; what opens it, and the rows that it is held against."""
    if not (out / SUMS).is_file():
        export(folder, target, out, stage=stage)
    candidate = next(each for each in read_report(folder).candidates if each.id == f"{stage}@{target}")
    kept = folder / WITNESSES
    answers = {each.row: each for each in read_answers(kept / candidate.id)}
    given = [each for each in read_rows(kept) if each.row in answers][:FEW]
    spec = json.loads((out / "spec.json").read_text(encoding="utf-8"))
    opens = {"pipeline": subject.pipeline} if target == "pytorch" else {"class": LIBRARIES[target] + subject.loader}
    files = [{**asdict(each), "file": str(kept / each.file) if each.file else ""} for each in given]
    return {
        **opens,
        "export": str(out.absolute()),
        "arrays": str((kept / candidate.id / ARRAYS).absolute()),
        "rows": [{**file, **asdict(answers[file["row"]])} for file in files],
        "kind": "image" if "image" in subject.task else "audio" if "audio" in subject.task else "text",
        "preprocessing": spec["preprocessing"],
        "settings": spec["settings"],
        "threshold": spec.get("threshold"),
        "number": subject.task == "text-regression",
    }


def opened(python: Path, tries: Sequence[Try], scratch: Path) -> dict[str, Any]:
    """What came of the jobs in the environment of a Python."""
    jobs = json.dumps([each.job for each in tries])
    done = subprocess.run(
        [python, "-I", str(LOADING), str(scratch)], input=jobs, text=True, check=False, stdout=subprocess.DEVNULL
    )
    if done.returncode:
        raise SystemExit(f"{python} cannot open anything (code {done.returncode}): see above")
    found: dict[str, Any] = json.loads(scratch.read_text(encoding="utf-8"))
    return found


# ------------------------------------------------------------------ the page


def line(each: Try, found: Mapping[str, Any]) -> str:
    """A row of the table."""
    loader = f"`pipeline({each.job['pipeline']!r})`" if "pipeline" in each.job else f"`{each.job['class'].rsplit('.', 1)[1]}`"
    start = f"| {each.subject} | {each.model} | {each.target} | {loader} |"
    if "error" in found:
        return f"{start} no | | | {textwrap.shorten(found['error'].replace('|', '/'), SHOWN)} |"
    rows = found["rows"]
    inputs = f"{found['inputs']} of {rows}" if "inputs" in found else ""
    gap = f"{found['gap']:.1g}" if "gap" in found else ""
    labels = "" if each.job["number"] else f"{found['labels']} of {rows}"
    return f"{start} yes | {inputs} | {gap} | {labels} |"


def page(tries: Sequence[Try], results: Mapping[str, Mapping[str, Any]], texts: str) -> str:
    """The page in Markdown."""
    lines = [texts, "", "| environment | packages |", "| --- | --- |"]
    for target, found in results.items():
        lines.append(f"| {target} | {', '.join(f'{name} {number}' for name, number in found['versions'].items())} |")
    lines += ["", "| task | model | export | opened by | opens | equal inputs | largest difference of outputs | equal labels |"]
    lines += ["| --- | --- | --- | --- | --- | --- | ---: | --- |"]
    at = {target: iter(found["results"]) for target, found in results.items()}
    lines += [line(each, next(at[each.target])) for each in tries]
    return "\n".join([*lines, NOTES]) + "\n"


HEAD = """# Exports opened by the ecosystem's loaders

Made on {date} by `python -m benchmarks.studies.loaders FOLDER --optimum-onnx PYTHON --optimum-intel PYTHON`. Tiny models of each task are trained
for a moment, pruned to layers of unequal sizes, quantised, and exported. Each export is opened by the class that its `spec.json` names, in an
environment that has not this program; inputs are made by `AutoTokenizer`, `AutoImageProcessor` or `AutoFeatureExtractor` of what lies in the
export, and held, as the outputs and the labels, against what the run made of the same rows. Pipelines of transformers are given what a user has,
and their labels are held.

optimum-onnx and optimum-intel ask for different releases of optimum and of transformers, so each has an environment of its own."""
NOTES = """
What the table says:

* Inputs are equal where they are equal to the bit; differences of outputs are shares of the largest output, or of 1 where all are smaller.
* Classes of optimum pad nothing and cut nothing by themselves: give the tokenizer `truncation=True`, which cuts at the run's length by the
  export's `model_max_length`.
* `OVModelFor...` computes in what OpenVINO chooses for the processor (bf16 on some) unless it is given `ov_config`, which README and `spec.json`
  state.
* `AutoImageProcessor` of transformers 5.5 is there with torchvision only. Readers by Pillow (`ViTImageProcessorPil`, or `use_fast=False` in releases
  without such classes) have the run's arithmetic, and are what was used here.
* Pictures that stand upright by their EXIF tag alone are to be turned before `AutoImageProcessor` gets them; pipelines of transformers do that.
* A pipeline cuts no sound: give it the first `samples` that `preprocessing` in `spec.json` states, as here.
* A threshold that was chosen for several labels is in `spec.json`; a pipeline gives the probability of each label (`top_k=None`) and no decision.
* `ORTModelFor...` and `OVModelFor...` take no model type that their release of transformers does not know.
* Pruned torch models whose layers have sizes of their own are opened with `compressor.model.Model.load`. Configurations of transformers 5.23 take
  a `per_layer_config`, which is written beside such a model where it says all of its structure (widths, and heads where the family's
  configuration has a size of heads). Only the classes of a few families, Gemma 4 among them, build by it there: those of BERT, RoBERTa, ViT and
  HuBERT refuse sizes that vary, those of DistilBERT, Whisper and DINOv2 pass over some of them, and none knows a layer without an attention. So
  the model type of such an export is one that no library knows: refused by name, not filled with random weights."""


def main() -> None:
    """Run, export, open, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--optimum-onnx", type=Path, required=True, metavar="PYTHON")
    parser.add_argument("--optimum-intel", type=Path, required=True, metavar="PYTHON")
    parser.add_argument("--only", nargs="*", default=[each.name for each in SUBJECTS], metavar="TASK")
    given = parser.parse_args()
    tries: list[Try] = []
    for subject in SUBJECTS:
        if subject.name in given.only:
            tries += made(given.folder, subject)
    pythons = dict(zip(TARGETS, (given.optimum_onnx, given.optimum_intel, Path(sys.executable)), strict=True))
    results = {
        target: opened(python, [each for each in tries if each.target == target], given.folder / f"{target}.json")
        for target, python in pythons.items()
    }
    text = page(tries, results, HEAD.format(date=datetime.now(UTC).date()))
    print(text)  # noqa: T201 - a study's page
    if len(given.only) == len(SUBJECTS):
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
