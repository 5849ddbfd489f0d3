"""The files beside a model (tokenizer, image processor) put where a task can read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compressor.deploy.build import beside

if TYPE_CHECKING:
    from compressor.contracts import Model


def write_side_files(model: Model, folder: Path) -> Path:
    """Write the files that `model` carries, without weights, into `folder`."""
    model.save_files(folder)
    return folder


def carry_side_files(source: Path, folder: Path) -> Path:
    """Copy what lies beside a graph into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    beside(source, folder)
    return folder
