"""Networks that draw latents: a decoder beside them, which nothing trains, makes rows of those, and its encoder latents of rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import SourceError, UnsupportedModel
from compressor.tasks.media import undecoded

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Model

COMPONENT, KIND = "vae", "AutoencoderKL"
"""What pipelines of diffusers call it, and the class that is read."""
AT_ONCE = 16
"""Rows that are encoded at a time."""


def decoded_shape(model: Model, shape: tuple[int, int, int], source: Path) -> tuple[int, int, int] | None:
    """Channels, height and width of what the decoder beside a network makes of what that draws; None where there is none.

    Raises:
        UnsupportedModel: there are other components beside the network, or the decoder is of another kind, or takes something else.
    """
    others = sorted(set(model.components) - {model.main})
    if not others:
        return None
    if others != [COMPONENT]:
        raise UnsupportedModel(
            f"{source} has several components ({', '.join(model.components)}): a network and a `{COMPONENT}`, which decodes what it draws, are read"
        )
    module = model.component(COMPONENT).module
    if type(module).__name__ != KIND:
        raise UnsupportedModel(f"{source}: `{COMPONENT}` is a {type(module).__name__}, and an {KIND} of diffusers is read")
    config, (channels, height, width) = module.config, shape
    if config["latent_channels"] != channels:
        raise UnsupportedModel(
            f"{source}: the network draws {channels} channels, and its decoder takes latents of {config['latent_channels']}"
        )
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise UnsupportedModel(f"{source}: latents with a mean and a deviation for each channel are not read")
    times = 2 ** (len(config["block_out_channels"]) - 1)
    return int(config["out_channels"]), times * height, times * width


def decoded(module: Any, latents: Any) -> Any:
    """Rows of latents as a network draws them."""
    scale, shift = _measure(module)
    return module.decode(latents / scale + shift).sample


def _measure(module: Any) -> tuple[float, float]:
    """What latents are multiplied with for the network, once the shift is taken off; by the decoder's configuration."""
    return float(module.config["scaling_factor"]), float(module.config.get("shift_factor") or 0.0)


def encoded_once(
    files: Path, content: Dataset, read: Callable[[Sequence[int]], NDArray[np.float32]]
) -> Callable[[Sequence[int]], NDArray[np.float32]]:
    """Latents of rows by their numbers, each the mean that the encoder tells: all are encoded at once and kept beside the model.

    Args:
        files: folder of what lies beside the network, the encoder among it.
        content: what is read, as files that are not decoded.
        read: gives rows by their numbers.

    Raises:
        SourceError: the encoder is not there.
    """
    import numpy as np

    path, count = files / f"latents-{_digest(content)[:16]}.npy", len(content)
    if not path.is_file():
        from compressor.store.disk import settle

        module = _encoder_in(files)
        parts = [_encoded(module, read(range(at, min(at + AT_ONCE, count)))) for at in range(0, count, AT_ONCE)]
        unfinished = path.with_suffix(f".{os.getpid()}")  # each of several processes that train encodes, and the last one's stays
        with unfinished.open("wb") as file:
            np.save(file, np.concatenate(parts))
        settle(unfinished, path)
    kept = np.load(path, mmap_mode="r", allow_pickle=False)
    return lambda chosen: np.asarray(kept[list(chosen)], dtype=np.float32)


def _digest(content: Dataset) -> str:
    """Of files by their paths, of those in tables by what they hold."""
    total = hashlib.sha256()
    for row in undecoded(content):
        for cell in row.values():
            total.update(str(cell["path"]).encode() if cell["bytes"] is None else cell["bytes"])
    return total.hexdigest()


def _encoder_in(files: Path) -> Any:
    from compressor.model.storage import load_module, read_index

    folder = files / COMPONENT
    try:
        return load_module(read_index(folder), folder, "cpu")[0]
    except OSError as error:
        raise SourceError(f"{folder} cannot be read, so that rows cannot be encoded: {error}") from error


def _encoded(module: Any, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    scale, shift = _measure(module)
    with torch.inference_mode():
        found = (module.encode(torch.from_numpy(rows)).latent_dist.mode() - shift) * scale
    told: NDArray[np.float32] = found.numpy()
    return told
