"""Networks that draw latents: a decoder beside them, which nothing trains, makes rows of those, and its encoder latents of rows."""

from __future__ import annotations

import filecmp
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Event, Progress
from compressor.errors import SourceError, UnsupportedModel
from compressor.model.sources import PIPELINE
from compressor.tasks.media import undecoded

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Model

COMPONENT, KIND = "vae", "AutoencoderKL"
"""What pipelines of diffusers call it, and the class that is read."""
AT_ONCE = 16
"""Rows that are encoded, or decoded to be scored, at a time: a decoder holds maps of many channels in the size of its pictures."""


def decoded_shape(model: Model, shape: tuple[int, int, int], source: Path) -> tuple[int, int, int] | None:
    """Channels, height and width of what the decoder beside a network makes of what that draws; None where there is none.

    Raises:
        SourceError: a pipeline names a decoder, and its weights are not there.
        UnsupportedModel: there are other components beside the network, or the decoder is of another kind, or takes something else.
    """
    others = sorted(set(model.components) - {model.main})
    if not others:
        if _named(model):
            raise SourceError(
                f"{source / PIPELINE} names a `{COMPONENT}`, and {source / COMPONENT} holds no weights: fetch them, or name it as [null, null]"
            )
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
    if not _is_measured(module):
        told = f"{config['scaling_factor']!r:.40} and {config.get('shift_factor')!r:.40}"
        raise UnsupportedModel(
            f"{source}: `{COMPONENT}` scales and shifts latents by {told}, expected a number above 0 and a number"
        )
    times = 2 ** (len(config["block_out_channels"]) - 1)
    return int(config["out_channels"]), times * height, times * width


def _named(model: Model) -> bool:
    """Whether a pipeline's own file names a decoder."""
    try:
        named = json.loads(model.files.get(PIPELINE, b"{}")).get(COMPONENT)
    except (ValueError, AttributeError):
        return False
    return named not in (None, [None, None])


def _is_measured(module: Any) -> bool:
    try:
        scale, shift = _measure(module)
    except (TypeError, ValueError):
        return False
    return 0 < scale < math.inf and math.isfinite(shift)


def same_decoder(one: Path, other: Path) -> bool:
    """Whether what decodes latents in the folders of two models is the same to the last bit, or neither has a decoder."""
    mine, theirs = ({path.name for path in (each / COMPONENT).glob("*")} for each in (one, other))
    return mine == theirs and not any(filecmp.cmpfiles(one / COMPONENT, other / COMPONENT, mine, shallow=False)[1:])


def decoded(module: Any, latents: Any) -> Any:
    """Rows of latents as a network draws them."""
    scale, shift = _measure(module)
    return module.decode(latents / scale + shift).sample


def _measure(module: Any) -> tuple[float, float]:
    """What latents are multiplied with for the network, once the shift is taken off; by the decoder's configuration."""
    return float(module.config["scaling_factor"]), float(module.config.get("shift_factor") or 0.0)


def encoded_once(
    files: Path,
    content: Dataset,
    read: Callable[[Sequence[int]], NDArray[np.float32]],
    tell: Callable[[Event], None] = lambda _: None,
) -> Callable[[Sequence[int]], NDArray[np.float32]]:
    """Latents of rows by their numbers, each the mean that the encoder tells: all are encoded at once and kept beside the model.

    Args:
        files: folder of what lies beside the network, the encoder among it.
        content: what is read, as files that are not decoded.
        read: gives rows by their numbers.
        tell: hears how many are encoded, where they are now.

    Raises:
        SourceError: the encoder is not there.
    """
    import numpy as np

    path = files / f"latents-{_digest(content)[:16]}.npy"
    if not path.is_file():
        from compressor.store.disk import settle

        unfinished = path.with_suffix(f".{os.getpid()}")  # each of several processes that train encodes, and the last one's stays
        _write(unfinished, _encoder_in(files), read, len(content), tell)
        settle(unfinished, path)
    kept = np.load(path, mmap_mode="r", allow_pickle=False)
    return lambda chosen: np.asarray(kept[list(chosen)], dtype=np.float32)


def _write(
    path: Path,
    module: Any,
    read: Callable[[Sequence[int]], NDArray[np.float32]],
    count: int,
    tell: Callable[[Event], None],
) -> None:
    """An array of the latents of so many rows, of which memory never holds more than are encoded at a time."""
    import numpy as np

    found = None
    for at in range(0, count, AT_ONCE):
        part = _encoded(module, read(range(at, min(at + AT_ONCE, count))))
        if found is None:
            found = np.lib.format.open_memmap(path, mode="w+", dtype=part.dtype, shape=(count, *part.shape[1:]))
        found[at : at + len(part)] = part
        tell(Progress("latents", at + len(part), count, "rows"))
    assert found is not None, "a split has rows"
    found.flush()


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
