"""A model as a function of a feed: run eagerly, or opened on its target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.contracts import Feed, Target, Task

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model


def eager(task: Task, model: Model, device: str) -> Callable[[Feed], Feed]:
    """A model run eagerly in float32, as a function of a feed."""
    import torch

    module: torch.nn.Module = model.module
    module.to(device).train(False)
    names = [port.name for port in task.outputs()]

    def predict(feed: Feed) -> Feed:
        with torch.inference_mode():
            batch = {name: torch.as_tensor(array, device=device) for name, array in feed.items()}
            return {names[0]: task.forward(module, batch).logits.float().cpu().numpy()}

    return predict


def opened(runtime: Target, built: Path) -> Callable[[Feed], Feed]:
    """A built file opened on its target, as a function of a feed."""
    session = runtime.open(built)
    return lambda feed: session.run(feed)[0]
