"""How like its teacher a student of speech is: what a linear map from its layers misses of the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressor.contracts import Want
from compressor.model.anatomy import anatomy_of
from compressor.model.model import Model
from compressor.tasks.audio import lengths
from compressor.tasks.audio_features import AudioFeatures
from compressor.tasks.audio_features import right as probe_right

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray


def states(task: AudioFeatures, folder: Path, rows: Dataset) -> list[NDArray[np.float32]]:
    """What leaves each block, `[rows, frames, features]`."""
    import torch

    module = Model.load(folder).module
    want = Want(hidden_states=tuple(block.id for block in anatomy_of(module).blocks))
    with torch.no_grad():
        found = [task.forward(module, batch, want).hidden_states for batch in task.batches(rows, folder, batch_size=30)]
    return [np.concatenate([each[block].numpy() for each in found]) for block in want.of("hidden-state")]


def sounding(task: AudioFeatures, rows: Dataset, frames: int) -> NDArray[np.bool_]:
    """Frames `[rows, frames]` that hold sound: the others are padding up to the task's seconds."""
    ends = np.ceil(frames * np.asarray(lengths(rows, task.audio)) / task.seconds)
    return np.arange(frames) < ends[:, None]


def feature_errors(
    student: Sequence[NDArray[np.float32]],
    teacher: Sequence[NDArray[np.float32]],
    valid: NDArray[np.bool_],
    *,
    fitted_on: int,
) -> list[float]:
    """By layer of the teacher, the share of its variance that the best linear map from the student's layer misses on unseen rows.

    The student's layer is the one of the same number, or its last. The map is fitted on the first rows by ridge regression. Frames
    `valid` of `[rows, frames]` count.
    """
    learned, asked = slice(fitted_on), slice(fitted_on, None)
    errors = []
    for at, target in enumerate(teacher):
        mine = student[min(at, len(student) - 1)]
        x, y = extended(mine[learned][valid[learned]]), target[learned][valid[learned]].astype(np.float64)
        squares = x.T @ x
        ridge = 1e-4 * np.trace(squares) / len(squares) * np.eye(len(squares))
        weights = np.linalg.solve(squares + ridge, x.T @ y)
        wanted = target[asked][valid[asked]].astype(np.float64)
        missed = extended(mine[asked][valid[asked]]) @ weights - wanted
        errors.append(float(np.square(missed).sum() / np.square(wanted - y.mean(axis=0)).sum()))
    return errors


def extended(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """Frames `[frames, features + 1]`, the last feature 1."""
    return np.concatenate([frames.astype(np.float64), np.ones((len(frames), 1))], axis=1)


def probes_by_layer(task: AudioFeatures, teacher: Sequence[NDArray[np.float32]], rows: Dataset) -> dict[str, list[float]]:
    """By probe, its accuracy on the mean over frames of what leaves each block of the teacher."""
    return {
        name: [float(probe_right(layer.mean(axis=1), rows, probe, name).mean()) for layer in teacher]
        for name, probe in task.linear_probes.items()
    }
