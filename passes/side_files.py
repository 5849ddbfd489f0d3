"""The files beside a model (tokenizer, image processor) put where a task can read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.deploy.build import beside
from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    from compressor.contracts import Model


INPUT_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "preprocessor_config.json")
"""Files that decide what a model is fed."""
MAIN = "model"
GRAPHS = (".onnx", ".xml")
"""Endings of what is quantised after training."""
FORMS = ("truncation", "padding", "version")
"""Of a tokenizer what changes no token."""


def files_read(folder: Path) -> dict[str, bytes]:
    """The files in a model's folder that decide what it is fed, by name."""
    return {name: (folder / name).read_bytes() for name in INPUT_FILES if (folder / name).is_file()}


def same_words(one: Path, other: Path) -> bool:
    """Whether the tokenizers in two folders make the same tokens of a text, as far as their files show it."""
    mine, theirs = (files_read(folder) for folder in (one, other))
    if INPUT_FILES[0] in mine and INPUT_FILES[0] in theirs:
        first, second = ({**json.loads(each[INPUT_FILES[0]]), **dict.fromkeys(FORMS)} for each in (mine, theirs))
        return bool(first == second)
    return mine == theirs


def write_side_files(model: Model, folder: Path) -> Path:
    """Write what lies beside the main component of `model` into `folder`, for the task to read rows by."""
    model.save_beside(folder)
    return folder


def graphs_in(folder: Path) -> tuple[str, ...]:
    """Names of the graphs in a folder, the main one first."""
    found = sorted(path.stem for kind in GRAPHS for path in folder.glob(f"*{kind}"))
    return tuple(sorted(found, key=lambda name: name != MAIN))


def carry_side_files(source: Path, folder: Path, *, several: bool = False) -> Path:
    """Copy what lies beside a graph into `folder`; beside `several` graphs where whoever asks works on each.

    Raises:
        UnsupportedModel: there are several graphs, and it does not.
    """
    if len(graphs := graphs_in(source)) > 1 and not several:
        raise UnsupportedModel(
            f"the model has several graphs ({', '.join(graphs)}), and this quantiser works on one: quantise a model that runs all of its blocks"
        )
    folder.mkdir(parents=True, exist_ok=True)
    beside(source, folder)
    return folder
