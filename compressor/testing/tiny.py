"""A tiny model with its data, and the context that a pass sees of a run: everything that checks need, made in a second."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Event, Feed, Target, Task, Workload, registry
from compressor.contracts.data import Data
from compressor.contracts.registry import lowering
from compressor.deploy.build import Builder
from compressor.errors import PluginError, UnsupportedModel
from compressor.model.pretrained import quiet
from compressor.plan.specs import DataSpec
from compressor.store.store import Store, StoredResult
from compressor.tasks.audio_classification import AudioClassification
from compressor.tasks.data import load_data
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.tiny import LABELS, MELS, PIXELS, SIZES, TEXT, denoiser, shaken
from compressor.testing.subject import Unchecked

if TYPE_CHECKING:
    from compressor.model.model import Model
    from compressor.run.context import StepContext


@dataclass(frozen=True)
class TinyRun:
    """A run of a tiny model: task, rows, source model and store. Two blocks of 4 heads and 64 neurons; three classes."""

    task: Task
    task_name: str
    data: Data
    source: StoredResult
    store: Store
    folder: Path
    """Holds `pretrained/`, a model in Hugging Face layout without a head, and the rows: `rows.jsonl`, `images/` or `sounds/`."""

    def model(self) -> Model:
        """A fresh copy of the source model."""
        from compressor.model.model import Model

        return Model.load(self.source.path)

    @property
    def builder(self) -> Builder:
        return Builder(self.store, self.task, self.task_name, self.data.labels, {})

    def lowered(self, target: Target, form: str | None = None) -> StoredResult:
        """The source model on a target's format, or on `format` where that is given."""
        return self.builder.lower(self.source, "torch", form or target.dialect.format, target)

    def context(
        self,
        folder: Path,
        *,
        target: Target | None = None,
        others: tuple[str, ...] = (),
        models: Callable[[str], Model] | None = None,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> StepContext:
        """What a pass sees: in the trunk, or in the branch of `target`; `others` are names of targets that it may measure on."""
        from compressor.run.context import StepContext

        return StepContext(
            task=self.task,
            data=self.data,
            seed=0,
            metric=self.task.metric,
            device="cpu",
            folder=folder,
            dialect=target.own_dialect() if target else None,
            target=target,
            targets={name: ready_target("torch") for name in others},
            store=self.store,
            builder=self.builder,
            models=models or (lambda _: self.model()),
            listener=tell,
        )


@cache
def tiny_run() -> TinyRun:
    """Text classification by a tiny BERT."""
    return run_of(registry.name_of("task", TextClassification), TextClassification(max_length=16))


@cache
def run_on(form: str) -> TinyRun:
    """A run of a model that has a format's form.

    Raises:
        Unchecked: the task that the format is tried on brings no tiny model.
    """
    formats = [registry.load("format", name) for name in lowering(form)]
    named = next((each.tried_on for each in formats if each.tried_on is not None), None)
    return run_for(named)


@cache
def run_for(task: str | None) -> TinyRun:
    """A run of the task that a plug-in names to be tried on; text classification where it names none.

    Raises:
        Unchecked: the task brings no tiny model.
    """
    if task is None:
        return tiny_run()
    kind = registry.load("task", task)
    return run_of(task, kind.model_validate(dict(kind.examples[0])))


@cache
def _audio_run() -> TinyRun:
    return run_of(registry.name_of("task", AudioClassification), AudioClassification(seconds=0.5))


def tiny_model(family: str) -> Model:
    """A fresh copy of the tiny model that edits are tried on: `bert`, `hubert`, `whisper` or `dit`."""
    import transformers

    from compressor.model.model import Model

    if family == "dit":
        return Model.wrap(denoiser())
    if family != "whisper":
        return {"bert": tiny_run, "hubert": _audio_run}[family]().model()
    names: dict[str, Any] = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    encoder = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    sizes: dict[str, Any] = {
        **encoder,
        "num_mel_bins": MELS,
        "max_source_positions": 10,
        "vocab_size": 16,
        "num_labels": len(LABELS),
    }
    config = transformers.WhisperConfig(**sizes, **names, suppress_tokens=None, begin_suppress_tokens=None)
    return Model.wrap(shaken(lambda: transformers.WhisperForAudioClassification(config)))


def tiny_feed(family: str) -> Feed:
    """Inputs for a tiny model once an edit was tried on it."""
    import numpy as np

    if family == "dit":
        wave = np.sin(np.arange(2 * 3 * PIXELS * PIXELS, dtype=np.float32)).reshape(2, 3, PIXELS, PIXELS)
        times = np.array([900, 20], dtype=np.float32)
        return {"sample": wave, "time": times, "span": times / 2, "label": np.array([0, 2])}
    run = _audio_run() if family == "hubert" else tiny_run()
    if family == "whisper":
        return {"input_features": np.sin(np.arange(2 * MELS * 12, dtype=np.float32)).reshape(2, MELS, 12)}
    return run.task.feeds(run.data.split("test"), run.source.path, Workload(batch=4), count=1)[0]


def run_of(name: str, task: Task) -> TinyRun:
    """A run of any task on text, images or sounds.

    Raises:
        Unchecked: the task brings no tiny model.
    """
    folder = scratch()
    return run_in(folder, name, task, furnish(folder, task))


def run_in(folder: Path, name: str, task: Task, rows: DataSpec) -> TinyRun:
    """A run in a folder that `furnish` filled."""
    data = task.encoded(load_data(rows, columns=task.columns(), seed=0, folder=folder))
    store = Store(folder / "store")

    def make(out: Path) -> dict[str, Any]:
        task.load(folder / "pretrained", data, seed=0).save(out)
        return {}

    return TinyRun(task, name, data, store.obtain({"step": "source"}, make), store, folder)


def furnish(folder: Path, task: Task) -> DataSpec:
    """Write `pretrained/`, a random model, and rows for a task into a folder; say where the rows are.

    Raises:
        Unchecked: the task brings no tiny model.
    """
    try:
        with quiet():
            return DataSpec.model_validate(task.tiny(folder))
    except UnsupportedModel as error:
        raise Unchecked(str(error)) from error


def stranger() -> Model:
    """A model of a family that no built-in anatomy row fits, with the tokenizer of `tiny_run`."""
    import transformers

    from compressor.model.model import Model

    sizes: dict[str, Any] = {**SIZES, **TEXT, "num_labels": len(LABELS)}
    config = transformers.DebertaV2Config(**sizes)
    return Model.wrap(shaken(lambda: transformers.DebertaV2ForSequenceClassification(config)), tiny_run().model().files)


def ready_target(form: str) -> Target:
    """An installed target that can build and run here, with its default parameters: on a format, else below it.

    Raises:
        Unchecked: there is none.
    """
    reasons = []
    below: list[Target] = []
    for name in registry.names("target"):
        try:
            kind: type[Target] = registry.load("target", name)
            if form not in (kind.dialect.format, *lowering(kind.dialect.format)):
                continue
            missing = kind().missing()
        except (PluginError, ValueError):  # broken, which its own checks tell, or in need of parameters
            continue
        if reason := missing.build or missing.run:
            reasons.append(f"{name}: {reason}")
        elif kind.dialect.format == form:
            return kind()
        else:
            below.append(kind())
    if below:
        return below[0]
    raise Unchecked(f"no target on the format '{form}' or below it is ready here{': ' if reasons else ''}{'; '.join(reasons)}")


def scratch() -> Path:
    """A folder that is gone when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="compressor-testing-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def short_lived() -> Iterator[Path]:
    """A folder that is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="compressor-testing-") as folder:
        yield Path(folder)
