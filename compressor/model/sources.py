"""Where a source model lies: a folder, a file of an installed package, or a repository of the hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.contracts.records import stays_inside
from compressor.errors import SourceError
from compressor.plan.specs import ModelSource

if TYPE_CHECKING:
    pass


WEIGHTS = "model.safetensors"


PICKLED = ("pytorch_model.bin", "model.bin", "pytorch_model.pt", "model.pt", "model.pth")


HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "LICENSE*", "README.md")


def resolve(source: ModelSource, folder: Path) -> Path:
    """The local folder of a model, its weights checked.

    Args:
        source: the plan's `model:`.
        folder: relative paths start here.

    Raises:
        SourceError: it is not there, its weights do not match `sha256`, or it has pickled weights only.
    """
    path = located(source, folder)
    check_weights(path, source.sha256)
    return path


def located(source: ModelSource, folder: Path) -> Path:
    """The local folder of a model, whatever is in it; an installed package is found, never imported.

    Raises:
        SourceError: it is not there.
    """
    if source.hub:
        path = _from_hub(source.hub, source.revision)
    elif source.installed:
        path = inside_package(source.installed, source.path)
    else:
        path = folder / str(source.folder)
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder")
    return path


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES)))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"hub model '{name}' (revision {revision or 'main'}) cannot be fetched: {' '.join(str(error).split())}"
        ) from error


def check_weights(path: Path, sha256: str | None) -> None:
    """Hold the weights in a model folder against a digest.

    Raises:
        SourceError: they do not match, or there are none, or pickles only.
    """
    weights, index = path / WEIGHTS, path / f"{WEIGHTS}.index.json"
    if not weights.is_file() and not index.is_file():
        pickled = next((name for name in PICKLED if (path / name).is_file()), None)
        if pickled:
            raise SourceError(
                f"{path / pickled} is a pickle, which could run code when it is read: convert it where you trust it, with "
                "`from_pretrained(...)` followed by `save_pretrained(...)`, which writes safetensors"
            )
        raise SourceError(
            f"{path} holds no {WEIGHTS}: is it a model folder in Hugging Face layout? Of a hub's model only safetensors are fetched; "
            "one that has pickles only has to be converted where you trust it"
        )
    files = [weights] if weights.is_file() else [index, *_shards(index)]
    if sha256:
        total = hashlib.sha256()
        for each in files:
            with each.open("rb") as file:
                while piece := file.read(2**20):
                    total.update(piece)
        found = total.hexdigest()
        if not found.startswith(sha256):
            several = " and the files it names" if len(files) > 1 else ""
            raise SourceError(f"{files[0]}{several} has sha256 {found[:16]}..., the plan says {sha256}")


def _shards(index: Path) -> list[Path]:
    """The files that an index of weights names, all of them in its own folder."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"{index} is no index of weights: {type(error).__name__}: {error}") from error
    for name in names:
        if not (isinstance(name, str) and stays_inside(name) and name.endswith(".safetensors")):
            raise SourceError(f"{index} names {name!r}: expected safetensors files in its own folder")
        if not (index.parent / name).is_file():
            raise SourceError(f"{index.parent / name} is missing, and {index.name} names it")
    return [index.parent / name for name in names]


def inside_package(package: str, inside: str) -> Path:
    """A path inside an installed package, which is found by its top-level name and never imported.

    Raises:
        SourceError: there is no such package.
    """
    top, *rest = package.split(".")
    spec = importlib.util.find_spec(top) if top else None
    if spec is None or not spec.submodule_search_locations:
        raise SourceError(f"package '{package}' is not installed: pip install {top.replace('_', '-')}")
    return Path(next(iter(spec.submodule_search_locations))).joinpath(*rest, inside)
