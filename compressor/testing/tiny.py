"""A tiny model with its data, and the context that a pass sees of a run: everything that checks need, made in a second."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Event, Feed, Target, Task, Workload, registry
from compressor.contracts.registry import lowering
from compressor.contracts.task import Data
from compressor.deploy.build import Builder
from compressor.errors import PluginError
from compressor.model.pretrained import quiet
from compressor.plan.specs import DataSpec
from compressor.store.store import Made, Store
from compressor.tasks.data import load_data
from compressor.testing.subject import Unchecked

if TYPE_CHECKING:
    from compressor.model.model import Model
    from compressor.run.context import StepContext

LABELS = ("blue", "green", "red")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *LABELS, *(f"word{number}" for number in range(40)))
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT: dict[str, Any] = {"vocab_size": 128, "max_position_embeddings": 40}
PIXELS, PATCH = 16, 8
SAMPLING_RATE = 2000
MELS = 8
ROWS = 48
SPREAD = 0.2
"""Standard deviation added to every parameter, so that biases and norms differ from their first values too."""


@dataclass(frozen=True)
class TinyRun:
    """A run of a tiny model: task, rows, source model and store. Two blocks of 4 heads and 64 neurons; three classes."""

    task: Task
    task_name: str
    data: Data
    source: Made
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

    def lowered(self, target: Target, form: str | None = None) -> Made:
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
            dialect=target.dialect if target else None,
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
    return run_of("text-classification", registry.load("task", "text-classification")(max_length=16))


@cache
def _audio_run() -> TinyRun:
    return run_of("audio-classification", registry.load("task", "audio-classification")(seconds=0.5))


def tiny_model(family: str) -> Model:
    """A fresh copy of the tiny model that edits are tried on: `bert`, `hubert` or `whisper`."""
    import transformers

    from compressor.model.model import Model

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

    run = _audio_run() if family == "hubert" else tiny_run()
    if family == "whisper":
        return {"input_features": np.sin(np.arange(2 * MELS * 12, dtype=np.float32)).reshape(2, MELS, 12)}
    return run.task.feeds(run.data.split("test"), run.source.path, Workload(batch=4), count=1)[0]


def run_of(name: str, task: Task) -> TinyRun:
    """A run of any task on text, images or sounds.

    Raises:
        Unchecked: there is no tiny model for the task's modality.
    """
    folder = scratch()
    return run_in(folder, name, task, furnish(folder, task))


def run_in(folder: Path, name: str, task: Task, rows: DataSpec) -> TinyRun:
    """A run in a folder that `furnish` filled."""
    data = load_data(rows, columns=task.columns(), seed=0, folder=folder)
    store = Store(folder / "store")

    def make(out: Path) -> dict[str, Any]:
        task.load(folder / "pretrained", data, seed=0).save(out)
        return {}

    return TinyRun(task, name, data, store.obtain({"step": "source"}, make), store, folder)


def furnish(folder: Path, task: Task, **sizes: int) -> DataSpec:
    """Write `pretrained/`, a random model without a head, and rows for a task into a folder; say where the rows are.

    Args:
        sizes: fields of the model's configuration where it should not be tiny.

    Raises:
        Unchecked: there is no model for the task's modality.
    """
    makers = {"text": (_text_model, _texts), "image": (_image_model, _images), "audio": (_audio_model, _sounds)}
    if task.modality not in makers:
        raise Unchecked(f"there is no tiny model for {task.modality} yet")
    make_model, make_rows = makers[task.modality]
    with quiet():
        make_model(folder / "pretrained", {**SIZES, **sizes})
    return make_rows(folder, task)


def stranger() -> Model:
    """A model of a family that no built-in anatomy row fits, with the tokenizer of `tiny_run`."""
    import transformers

    from compressor.model.model import Model

    sizes: dict[str, Any] = {**SIZES, **TEXT, "num_labels": len(LABELS)}
    config = transformers.DebertaV2Config(**sizes)
    return Model.wrap(shaken(lambda: transformers.DebertaV2ForSequenceClassification(config)), tiny_run().model().files)


def shaken(make: Callable[[], Any]) -> Any:
    """A module with every parameter drawn at random, always the same; the caller's random state stays as it was."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = make()
        module.train(False)
        for parameter in module.parameters():
            parameter.add_(SPREAD * torch.randn_like(parameter))
    return module


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


# ------------------------------------------------------------------ models and rows


def _text_model(folder: Path, sizes: Mapping[str, Any]) -> None:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer: Any = transformers.PreTrainedTokenizerFast
    tokenizer(tokenizer_object=words, model_input_names=inputs, **names).save_pretrained(folder)
    module: Any = shaken(lambda: transformers.BertModel(transformers.BertConfig(**{**TEXT, **sizes})))
    module.save_pretrained(folder)


def _texts(root: Path, task: Task) -> DataSpec:
    """Texts of 1 to 12 words with the name of their label among them."""
    (text, *_), label = task.columns().content, task.columns().label or "label"
    rows = []
    for number in range(ROWS):
        words = [f"word{(7 * number + 3 * at) % 40}" for at in range(number % 12)]
        words.insert(number % (len(words) + 1), LABELS[number % 3])
        rows.append({text: f"{' '.join(words)} word{number % 40}", label: LABELS[number % 3]})
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return _spec({"files": "rows.jsonl"})


def _image_model(folder: Path, sizes: Mapping[str, Any]) -> None:
    import transformers

    config = transformers.ViTConfig(**{"image_size": PIXELS, "patch_size": PATCH, **sizes})
    module: Any = shaken(lambda: transformers.ViTModel(config))
    module.save_pretrained(folder)


def _images(root: Path, task: Task) -> DataSpec:  # noqa: ARG001 - a folder of images names its columns itself
    """Images of noise with their label's colour channel raised."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(ROWS):
        pixels = rng.integers(0, 128, (PIXELS, PIXELS, 3), dtype=np.uint8)
        pixels[..., number % 3] += 100
        path = root / "images" / LABELS[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return _spec({"files": "images", "format": "imagefolder"})


def _audio_model(folder: Path, sizes: Mapping[str, Any]) -> None:
    import transformers

    convolutions = {"conv_dim": (16, 16), "conv_stride": (8, 4), "conv_kernel": (16, 8)}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = transformers.HubertConfig(**{**convolutions, **positions, "classifier_proj_size": 8, **sizes})
    module: Any = shaken(lambda: transformers.HubertModel(config))
    module.save_pretrained(folder)
    extractor: Any = transformers.Wav2Vec2FeatureExtractor
    extractor(sampling_rate=SAMPLING_RATE).save_pretrained(folder)


def _sounds(root: Path, task: Task) -> DataSpec:  # noqa: ARG001 - a folder of sounds names its columns itself
    """Tones in noise, of their label's pitch."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    for number in range(ROWS):
        tone = np.sin(np.arange(SAMPLING_RATE // 2 + 40 * number) * 0.1 * (1 + number % 3))
        path = root / "sounds" / LABELS[number % 3] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, (tone + 0.1 * rng.standard_normal(tone.shape)) * 0.5, SAMPLING_RATE)
    return _spec({"files": "sounds", "format": "audiofolder"})


def _spec(source: dict[str, str]) -> DataSpec:
    return DataSpec.model_validate({**source, "split": {"validation": 12, "test": 12}, "calibration": 8})
