"""What `compressor init` writes for a model that draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.contracts import Recipe, Seen
from compressor.contracts.recipe import ColumnKind
from compressor.tasks import guesses
from compressor.tasks.generation.description import draws

TRAINING: Mapping[str, Any] = {
    "epochs": 5,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "weight_decay": 0,
    "ema": 0.995,
    "checkpoint": "last",
    "validations": 1,
}
"""Of a network that knows nothing yet, as in `plans/diffusion-teacher.yaml`."""


def proposed(seen: Seen, *, of: ColumnKind = "picture", parameter: str = "image") -> Recipe | None:
    """Columns of pictures, or of sounds, and of classes, where the model's configuration is of one that draws, or the user names the task.

    Args:
        seen: what is there.
        of: what the column holds.
        parameter: of the task, which names that column.
    """
    if not (draws(seen.config) or seen.asked) or (content := guesses.content(seen, of, of)) is None:
        return None
    if (label := guesses.classes(seen, (content[0],))) is None:
        return None
    return Recipe({parameter: content[0], "label": label[0]}, f"the model draws; {content[1]}; {label[1]}", rank=-1)
