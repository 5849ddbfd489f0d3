"""What studies of trained language models share: texts of two corpora, a training with its held-out curve, cells that are kept.

Texts are the Brown corpus and BBC news, as folders with `train.jsonl` and `test.jsonl`, a document a line in the field `text`. Documents are
split before anything is cut or packed: every tenth training document is held out.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

from compressor.contracts import Batch, Event, Progress
from compressor.contracts.model import BLUEPRINT
from compressor.store.disk import put
from compressor.tasks.language.causal_lm import CausalLM
from compressor.training.loop import Moment, Training, train
from compressor.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

    from compressor.contracts import Model
    from compressor.contracts.notes import Note
    from compressor.tasks.language.packing import PackedBatches

Step: TypeAlias = "Callable[[Batch, Moment], Mapping[str, torch.Tensor]]"
ROW = 256
"""Tokens of a training row."""
BATCH = 4
"""Rows of a step."""
HELD_EVERY = 10
"""Of so many training documents one is held out."""
HELD = 32
"""Windows of held-out documents that a point of a curve is the loss of."""
AT_ONCE = 8
"""Windows of a forward pass."""
POINTS = 10
"""Of a curve, evenly over its tokens, beside the one before the training."""
TOLD_SECONDS = 30.0
WORK = "training"
"""What a training's checkpoints are named by."""
CORPORA = ("brown", "bbc")


def prepared(sources: Mapping[str, Path], folder: Path) -> Path:
    """`train.jsonl`, `validation.jsonl` and `test.jsonl` in a folder, each document with its `corpus`, unless they are there."""
    if not (folder / "test.jsonl").is_file():
        rows: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
        for corpus, source in sources.items():
            for at, text in enumerate(texts(source / "train.jsonl")):
                rows["train" if (at + 1) % HELD_EVERY else "validation"].append({"text": text, "corpus": corpus})
            rows["test"] += [{"text": text, "corpus": corpus} for text in texts(source / "test.jsonl")]
        folder.mkdir(parents=True, exist_ok=True)
        for split, found in rows.items():
            put(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in found))
    return folder


def texts(path: Path) -> Iterator[str]:
    """Of a file, in its order."""
    return (str(json.loads(line)["text"]) for line in path.read_text(encoding="utf-8").splitlines())


@dataclass(frozen=True)
class Ground:
    """The rows of a study, and the files beside the model that say how they are read."""

    folder: Path
    """Of the three splits."""
    files: Path
    task: CausalLM = field(default_factory=lambda: CausalLM(max_length=ROW))
    _windows: dict[tuple[str, int], list[Batch]] = field(default_factory=dict)

    def rows(self, split: str) -> Dataset:
        """Documents."""
        from datasets import Dataset

        return Dataset.from_list([{"text": text} for text in texts(self.folder / f"{split}.jsonl")])

    @cached_property
    def _train(self) -> Dataset:
        return self.rows("train")

    def epoch(self, seed: int) -> PackedBatches:
        """All training rows, in an order by the seed."""
        made: Any = self.task.batches(self._train, self.files, batch_size=BATCH, shuffle_seed=seed)
        return made  # type: ignore[no-any-return]

    def windows(self, split: str, count: int) -> list[Batch]:
        """Windows spread evenly over all documents of a split, the same ones always."""
        if (split, count) not in self._windows:
            made: Any = self.task.batches(self.rows(split), self.files, batch_size=1)
            chosen = [rows for (rows,) in made.groups[:: max(1, len(made.groups) // count)][:count]]
            together = [chosen[at : at + AT_ONCE] for at in range(0, len(chosen), AT_ONCE)]
            self._windows[split, count] = list(replace(made, groups=together))
        return self._windows[split, count]

    def loss(self, module: torch.nn.Module, precision: str, *, split: str = "validation", count: int = HELD) -> float:
        """Nats that a token of a split costs, by some windows of it."""
        import torch

        module.eval()
        cost = tokens = 0.0
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            for batch in self.windows(split, count):
                weight = self.task.weight(batch)
                cost += weight * float(self.task.loss(self.task.forward(module, batch), batch))
                tokens += weight
        return cost / tokens


@dataclass
class Watch:
    """The context of a training: says how long it still takes."""

    folder: Path
    task: CausalLM
    seed: int
    rows: Any = ()
    device: str = "cpu"
    dialect: None = None
    _begun: tuple[float, int] | None = None
    _told: float = 0.0

    @property
    def data(self) -> Any:
        """Training rows alone."""
        return SimpleNamespace(split=lambda _name: self.rows)

    def tell(self, event: Event) -> None:
        """Of all steps some, with the time that remains at the pace so far."""
        if not isinstance(event, Progress):
            sys.stderr.write(f"{event}\n")
            return
        now = time.monotonic()
        self._begun = self._begun or (now, event.done)
        (began, first), done = self._begun, event.done
        if done > first and (now - self._told > TOLD_SECONDS or done == event.total):
            left = (now - began) / (done - first) * (event.total - done)
            losses = "".join(f", {name} {value:.3f}" for name, value in event.values.items())
            sys.stderr.write(f"{self.folder.name}: step {done} of {event.total}{losses}; {left / 60:.1f} minutes remain\n")
            self._told = now

    def note(self, note: Note) -> None:
        """Notes are not kept."""

    def clear(self) -> None:
        """Without the checkpoint of a training that is over."""
        shutil.rmtree(self.folder / f"training-{WORK}", ignore_errors=True)


@dataclass(frozen=True)
class Learned:
    """What a training came to."""

    tokens: int
    seconds: float
    held: tuple[tuple[int, float], ...]
    """Tokens that were trained on, and nats that a held-out token costs then; the first point is from before the training."""
    losses: Mapping[str, tuple[tuple[float, float], ...]]
    """By name, of each step."""

    @property
    def tokens_per_second(self) -> float:
        """Of training, with what the curve took."""
        return self.tokens / self.seconds

    @property
    def end(self) -> float:
        """Held-out loss at the end."""
        return self.held[-1][1]

    @property
    def fall(self) -> float:
        """Share of the held-out loss that went over the last fifth of the tokens: how far from level the curve ends."""
        before = self.held[-1 - len(self.held) // 5][1]
        return (before - self.end) / before

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Learned:
        """From JSON."""
        losses = {name: tuple((at, value) for at, value in curve) for name, curve in values["losses"].items()}
        return cls(values["tokens"], values["seconds"], tuple((at, value) for at, value in values["held"]), losses)


def learn(
    model: Model,
    ground: Ground,
    watch: Watch,
    settings: Mapping[str, Any],
    *,
    tokens: int,
    step: Step | None = None,
    beside: Sequence[torch.nn.Module] = (),
) -> Learned:
    """Train in place on so many tokens, by the loss of the labels unless `step` says otherwise; goes on from its checkpoint.

    An epoch of the loop is a tenth of the tokens, each of other rows; none is seen twice.
    """
    import torch

    epoch = ground.epoch(watch.seed)
    each = max(1, tokens // (BATCH * ROW * POINTS))
    if each * POINTS > len(epoch):
        raise SystemExit(f"{tokens:,} tokens are more than the training rows have: {len(epoch) * BATCH * ROW:,}")
    known = TrainingSettings.model_validate(
        {"precision": "bf16", "attention": "sdpa", "checkpoint": "last", "batch_size": BATCH, **settings, "epochs": POINTS}
    )
    module = model.module
    before = ground.loss(module, known.precision)
    made = train(
        Training(
            torch.nn.ModuleList([module, *beside]),
            lambda number: replace(epoch, groups=epoch.groups[number * each : (number + 1) * each]),
            step or (lambda batch, _: {"task": ground.task.loss(ground.task.forward(module, batch), batch)}),
            known,
            evaluate=lambda: -ground.loss(module, known.precision),
        ),
        watch,  # type: ignore[arg-type]
        work=WORK,
    )
    of_step = BATCH * ROW
    curve = ((0, before), *((round(at) * of_step, -value) for at, value in made.validation))
    return Learned(each * POINTS * of_step, made.seconds, curve, made.losses)


def kept(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """A cell: what lies in a file as JSON, else what is made now and put there, whole or not at all."""
    if not path.is_file():
        made = json.dumps(make(), indent=1) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, made)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def source(folder: Path) -> Model:
    """The language model in a folder, in float32."""
    from compressor.model import Model as Made
    from compressor.tasks.language.sources import load

    return Made.load(folder) if (folder / BLUEPRINT).is_file() else load(folder, ROW, chats=False)
