"""What pictures are measured by: features with the network that tells them, so that different ones are never held against each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.contracts.notes import Record
from compressor.contracts.quality import Metric
from compressor.errors import NotComparable, SourceError, UnsupportedModel
from compressor.store.store import sha256_of
from compressor.tasks.image_processors import completed, resized
from compressor.tasks.preprocessing import CONFIG, PREPROCESSOR, of_image, settings_at

if TYPE_CHECKING:
    from numpy.typing import NDArray

FOLDER_VERSION = 1
"""Raised when equal folders give other features."""
AT_ONCE = 64
SHOWN = 12


class Space(Record):
    """A network whose features are looked at."""

    name: str
    digest: str
    """sha256 over all that decides what it tells of a picture."""
    width: int
    """Features of a picture."""
    accuracy: Metric | None = None
    """Of a classifier, on rows that it did not learn from: how much its features know of these pictures."""

    def __str__(self) -> str:
        """What a report says of it."""
        known = f", right on {self.accuracy.value:.1%} of {self.accuracy.n} held-out rows" if self.accuracy else ""
        return f"{self.name} {self.digest[:SHOWN]}{known}"


@dataclass(frozen=True)
class Features:
    """Features of pictures, in their order."""

    rows: NDArray[np.float32]
    """`[n, width]`."""
    space: Space


def same_space(*features: Features) -> Space:
    """The network that all of them are of.

    Raises:
        NotComparable: they are of several.
    """
    return one_of([each.space for each in features])


def one_of(spaces: Sequence[Space]) -> Space:
    """The network that figures were measured by.

    Raises:
        NotComparable: there are several; two of them are named.
    """
    first = spaces[0]
    for other in spaces[1:]:
        if other.digest != first.digest:
            raise NotComparable(f"measured by {first}, and by {other}: figures of different networks say nothing of each other")
    return first


def as_bytes(pictures: NDArray[Any]) -> NDArray[np.uint8]:
    """Pictures `[n, C, H, W]` as files hold them: of numbers, -1 is black, 1 is white, and what lies beyond is cut off.

    Raises:
        ValueError: they are of another shape, of channels that no file has, or hold NaN or infinite numbers.
    """
    if pictures.ndim != 4 or pictures.shape[1] not in (1, 3) or not pictures.size:
        raise ValueError(f"pictures are {list(pictures.shape)}, expected [n, 1 or 3 channels, height, width]")
    if pictures.dtype == np.uint8:
        return pictures
    if pictures.dtype.kind != "f":
        raise ValueError(f"pictures are {pictures.dtype}, expected bytes, or numbers from -1 to 1")
    if not (finite := np.isfinite(pictures).reshape(len(pictures), -1).all(axis=1)).all():
        raise ValueError(
            f"{int((~finite).sum())} of {len(pictures)} pictures hold NaN or infinite pixels (first: {int(finite.argmin())})"
        )
    return ((pictures.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)


class FolderFeatures:
    """Features by a vision transformer in a local folder, DINOv2 say: what its class token says after the last norm.

    Args:
        source: the folder, in the layout of transformers. Nothing in it is executed, and nothing is fetched.
        size: edge in pixels that pictures are brought to, a multiple of its patches; None for its own.

    Raises:
        SourceError: the folder cannot be read, or its image processor does not come to that size.
        UnsupportedModel: it has no class token.
    """

    def __init__(self, source: Path, *, size: int | None = None) -> None:
        from compressor.model.pretrained import load_encoder
        from compressor.model.sources import weight_files

        self._module = load_encoder(source)
        if getattr(getattr(self._module, "embeddings", None), "cls_token", None) is None:
            raise UnsupportedModel(
                f"{source} is a {type(self._module).__name__}, which has no class token: take DINOv2, or another such"
            )
        patch = self._module.config.patch_size
        if size is not None and size % patch:
            raise SourceError(f"size {size} is no multiple of the patches of {source}, {patch} pixels wide")
        self._steps = _steps(source, size)
        files = {path.name: sha256_of(path) for path in (*weight_files(source), source / CONFIG)}
        told = json.dumps({"files": files, "steps": self._steps, "version": FOLDER_VERSION}, sort_keys=True)
        name = str(self._module.config.model_type)
        self.space = Space(
            name=name, digest=hashlib.sha256(told.encode()).hexdigest(), width=int(self._module.config.hidden_size)
        )

    def of(self, pictures: NDArray[Any]) -> Features:
        """Features of pictures `[n, C, H, W]`, bytes or numbers from -1 to 1, as of files that hold them.

        Raises:
            ValueError: see `as_bytes`.
        """
        import torch

        from compressor.tasks.inputs.image import pixels_of_image

        given, found = as_bytes(pictures), []
        with torch.inference_mode():
            for at in range(0, len(given), AT_ONCE):
                pixels = np.stack([pixels_of_image(_picture(each), self._steps) for each in given[at : at + AT_ONCE]])
                found.append(self._module(pixel_values=torch.from_numpy(pixels)).last_hidden_state[:, 0].numpy())
        return Features(np.concatenate(found), self.space)


def _steps(source: Path, size: int | None) -> Any:
    """What is done to a picture before the network sees it, by the folder's image processor."""
    try:
        settings = completed(settings_at(source / PREPROCESSOR, "image_processor") or {}, settings_at(source / CONFIG) or {})
        return of_image(resized(settings, size) if size else settings, source)["steps"]
    except ValueError as error:
        raise SourceError(f"{source}: {error}") from error


def _picture(values: NDArray[np.uint8]) -> Any:
    from PIL import Image

    return Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0))
