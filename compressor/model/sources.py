"""Where a source model lies: a folder, a file of an installed package, or a repository of the hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from compressor.contracts.model import BLUEPRINT, CONFIG, WEIGHTS
from compressor.contracts.records import stays_inside
from compressor.errors import SourceError
from compressor.files import MOST_BYTES, json_in, plain_file
from compressor.foreign import told
from compressor.plan.paths import SNAPSHOTS, Place, near_path
from compressor.plan.specs import ModelSource

PIPELINE = "model_index.json"
"""Names the components of a pipeline, each a folder of its own."""
ADAPTER = "adapter_config.json"
OTHERS = {
    ".onnx": "an exported model",
    ".xml": "an exported model",
    ".tflite": "an exported model",
    ".h5": "a model of TensorFlow",
    ".keras": "a model of Keras",
    ".pb": "a model of TensorFlow",
    ".ot": "a model of rust-bert",
    ".mlpackage": "an exported model",
    ".msgpack": "a model of Flax",
}
"""Files of models that are not read, by suffix."""
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
WEIGHT_SUFFIX = ".safetensors"
GGUF = "*.gguf"
"""Models of llama.cpp: configuration, tokenizer and weights in one file, which is read as data."""
WEIGHT, FLOATS = ".weight", ("F64", "F32", "F16", "BF16")
"""How names of weights end, and the types that they may have."""
BIAS, BIAS_AXES = ".bias", 1
"""How names of biases end, which are rows of numbers; families keep masks of more axes under that name."""
READ_SUFFIXES = (WEIGHT_SUFFIX, ".json", ".txt", ".model", ".jinja")
"""Files of a source model folder that are read."""
MOST_FILES = 20_000
"""In a model's folder and those in it."""
READ_BYTES = 2**24
HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "LICENSE*", "README.md")


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
    """The local folder of a model, all of it plain files that lie there; an installed package is found, never imported.

    Raises:
        SourceError: it is not there, no model, or something in it is a link out of it, no file, or too large to be what it is named.
    """
    if source.hub:
        path = _from_hub(source.hub, source.revision)
    elif source.installed:
        path = inside_package(source.installed, source.path)
    else:
        path = folder / str(source.folder)
    if not path.is_dir():
        raise SourceError(f"{path}: no such folder{near_path(path) if source.folder else ''}")
    if what := _no_model(path):
        raise SourceError(f"{path} is {what}")
    _check_files(path)
    return path


def _check_files(folder: Path) -> None:
    """Whatever reads a model's folder later finds no link out of it, no pipe, and no file that would fill the memory."""
    for path in Place(folder).files(MOST_FILES):
        if path.suffix not in READ_SUFFIXES:
            continue
        try:
            size = plain_file(path)
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from error
        if path.suffix != WEIGHT_SUFFIX and size > MOST_BYTES:
            raise SourceError(
                f"{path} has {size / 1e6:.0f} MB; at most {MOST_BYTES / 1e6:.0f} are read of a file beside the weights"
            )


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
    files = weight_files(path)
    if not files:
        pickled = next((each for pattern in PICKLED for each in sorted(path.rglob(pattern)) if not _is_of_openvino(each)), None)
        if pickled:
            raise SourceError(
                f"{pickled} is a pickle, which could run code when it is read: convert it where you trust it, with "
                "`from_pretrained(...)` followed by `save_pretrained(...)`, which writes safetensors"
            )
        if what := _other_model(path):
            raise SourceError(f"{path} is {what}")
        raise SourceError(
            f"{path} holds no {WEIGHTS}: is it a model folder in Hugging Face layout? Of a hub's model only safetensors are fetched; "
            "one that has pickles only has to be converted where you trust it"
        )
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


def check_tensors(folder: Path, parameters: Collection[str] = ()) -> None:
    """Refuse a model's weights that end early, or are packed into whole numbers or 8 bits: without what unpacks them they are others.

    Args:
        folder: the model's.
        parameters: what it learns that is not known by the end of its name, with or without the names of what stands around it.

    Raises:
        SourceError: they are.
    """
    places = dict[str, Path]()
    for path in weight_files(folder):
        found = tensors_in(path) if path.suffix == WEIGHT_SUFFIX else {}
        if other := next((name for name in found if name in places and not _same(name, path, places[name])), None):
            raise SourceError(
                f"{path} and {places[other].name} both hold '{other}', with other values: take out the file that is wrong"
            )
        places |= dict.fromkeys(found, path)
        others = {name: each for name, each in found.items() if each.get("dtype") not in FLOATS}
        packed = [name for name, each in others.items() if _is_learned(name, each) or _is_one_of(name, parameters)]
        if packed:
            kind = found[packed[0]].get("dtype")
            raise SourceError(
                f"{path} holds {len(packed)} weights of type {kind} ('{packed[0]}'), which somebody has packed: name the folder of "
                "the model before that, in float32, float16 or bfloat16"
            )


def _same(name: str, *paths: Path) -> bool:
    """Whether files hold one tensor."""
    found = set()
    for path in paths:
        tensor, digest = tensors_in(path)[name], hashlib.sha256()
        start, end = tensor["data_offsets"]
        with path.open("rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little") + start)
            for at in range(start, end, READ_BYTES):  # a table of words may be larger than memory
                digest.update(file.read(min(READ_BYTES, end - at)))
        found.add((str(tensor["dtype"]), tuple(tensor["shape"]), digest.digest()))
    return len(found) == 1


def unread_weights(folder: Path) -> list[str]:
    """Names of files of weights beside those that are read, as an older save leaves them."""
    read = set(weight_files(folder))
    return sorted(path.name for path in folder.glob(f"*{WEIGHT_SUFFIX}") if path not in read) if read else []


def _is_learned(name: str, tensor: Mapping[str, Any]) -> bool:
    return name.endswith(WEIGHT) or (name.endswith(BIAS) and len(tensor.get("shape", ())) == BIAS_AXES)


def _is_one_of(name: str, parameters: Collection[str]) -> bool:
    return any(name == each or name.endswith(f".{each}") or each.endswith(f".{name}") for each in parameters)


def _no_model(folder: Path) -> str | None:
    """What a folder is that is easily taken for a model's, and what to do about it; None where it may be one."""
    whole = any((folder / f"{WEIGHTS}{end}").is_file() for end in ("", ".index.json"))
    if (folder / ADAPTER).is_file() and (not whole or any(folder.glob("adapter_model.*"))):
        base = _field(folder / ADAPTER, "base_model_name_or_path")
        alone = f"a PEFT adapter{f' of {base}' if base else ''}, not a model"
        return (
            f"{'a model with a PEFT adapter beside it, which would be left out' if whole else alone}: merge it where you trained it "
            "(`merge_and_unload()`, then `save_pretrained`, and the tokenizer beside it) and name that folder"
        )
    if (folder / CONFIG).is_file() or (folder / PIPELINE).is_file():
        method = _field(folder / CONFIG, "quantization_config")
        if isinstance(method, dict):
            how = method.get("quant_method", "some method")
            return f"quantised already, by {how}: name the folder of the model before that, in float32, float16 or bfloat16"
        return None
    if kept := sorted(each.parent for each in folder.glob(f"{SNAPSHOTS}/*/{CONFIG}")):
        return f"a repository in the hub's cache: name the model in it, {kept[-1]}"
    inner = sorted(each.parent for each in folder.glob(f"*/{CONFIG}"))
    if (folder / "modules.json").is_file() and inner:
        return f"a folder of sentence-transformers: its model lies in {inner[0].name}/, name that"
    if inner:
        newest = max(inner, key=lambda each: (int("".join(filter(str.isdecimal, each.name)) or 0), each.name))
        return f"no model itself, but holds {_counted(inner)}: name the one you mean, as {newest}"
    if any(folder.glob(GGUF)):
        return None
    return _other_model(folder)


def _other_model(folder: Path) -> str | None:
    """What a model is that no library here reads, by its files."""
    if found := next((each for end in OTHERS for each in sorted(folder.glob(f"*{end}"))), None):
        return f"{OTHERS[found.suffix]} ({found.name}): name the folder of the model that it was made from, in the layout of transformers"
    return None


def _is_of_openvino(path: Path) -> bool:
    """Whether a file of bytes holds the weights of a model of OpenVINO, which stand beside its graph and are no pickle."""
    return path.with_suffix(".xml").is_file()


def _counted(folders: list[Path]) -> str:
    return f"{', '.join(each.name for each in folders[:3])}{f' and {len(folders) - 3} more' if len(folders) > 3 else ''}"


def _field(path: Path, name: str) -> Any:
    """A field of a JSON file; None where it cannot be read, which is told when it has to be."""
    try:
        return read_json(path).get(name)
    except SourceError:
        return None


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights: one, an index and those it names, or those of a pipeline's components."""
    weights, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    if weights.is_file():
        return [weights]
    if index.is_file():
        return [index, *_shards(index)]
    if single := gguf_in(folder):
        return [single]
    parts = (folder, *sorted(path for path in folder.iterdir() if path.is_dir()))
    return [path for part in parts for path in sorted(part.glob("*.safetensors")) if path.is_file()]


def gguf_in(folder: Path) -> Path | None:
    """The model of llama.cpp in a folder that has none in another layout; None where there is none.

    Raises:
        SourceError: there are several.
    """
    found = [] if (folder / CONFIG).is_file() else sorted(folder.glob(GGUF))
    if len(found) > 1:
        listed = ", ".join(path.name for path in found[:4])
        raise SourceError(
            f"{folder} holds {len(found)} models of llama.cpp ({listed}): put the one you mean into a folder of its own"
        )
    return found[0] if found else None


def shapes_in(folder: Path) -> dict[str, list[int]]:
    """Shapes of the weights in a folder's safetensors files, by name, read off their headers.

    Raises:
        SourceError: one is no such file, or ends early.
    """
    return {name: list(each["shape"]) for path in folder.glob("*.safetensors") for name, each in tensors_in(path).items()}


def tensors_in(path: Path) -> dict[str, dict[str, Any]]:
    """What the header of a safetensors file says of each tensor: dtype, shape and place.

    Raises:
        SourceError: it is no such file, or ends early.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size) if size <= MOST_BYTES else b""
    try:
        found = {name: each for name, each in json.loads(text).items() if name != "__metadata__"}
        end = 8 + size + max((each["data_offsets"][1] for each in found.values()), default=0)
        if not {type(edge) for each in found.values() for edge in each["shape"]} <= {int}:
            raise TypeError("a shape is of whole numbers")
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise SourceError(f"{path} is no file of safetensors, or is damaged in its first bytes: fetch it again") from error
    if (lacking := end - path.stat().st_size) > 0:
        raise SourceError(f"{path} ends early: {lacking} bytes are missing; fetch it again")
    return found


def holds_weights(folder: Path) -> bool:
    """Whether a folder itself, not those in it, holds weights of some kind: safetensors or pickles."""
    return any(found for pattern in ("*.safetensors", *PICKLED) for found in folder.glob(pattern))


def beside(folder: Path) -> tuple[str, ...]:
    """Names of the files of a folder that lie beside a model: read by somebody, and neither its configuration nor its weights."""
    return tuple(
        path.name
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.suffix in READ_SUFFIXES
        and path.name not in (BLUEPRINT, CONFIG)
        and not path.name.endswith((".safetensors", ".safetensors.index.json"))
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SourceError: the file cannot be read, or holds something else.
    """
    try:
        values = json_in(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SourceError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SourceError(f"{path} holds {type(values).__name__}, expected an object of JSON")
    return values


def _shards(index: Path) -> list[Path]:
    """The files that an index of weights names, all of them in its own folder."""
    try:
        names = sorted(set(json_in(index)["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SourceError(f"{index} is no index of weights: {told(error)}") from error
    for name in names:
        if not (isinstance(name, str) and stays_inside(name) and name.endswith(".safetensors")):
            raise SourceError(f"{index} names {name!r}: expected safetensors files in its own folder")
        if not (index.parent / name).is_file():
            raise SourceError(f"{index.parent / name} is missing, and {index.name} names it")
        Place(index.parent).check(index.parent / name)
    return [index.parent / name for name in names]


def inside_package(package: str, inside: str) -> Path:
    """A path inside an installed package, which is found by its top-level name and never imported.

    Raises:
        SourceError: there is no such package.
    """
    top, *rest = package.split(".")
    try:
        spec = importlib.util.find_spec(top) if top.isidentifier() else None
    except ValueError as error:  # a module that this program made itself, `__main__` first of all
        raise SourceError(f"'{package}' is a part of the running program and no installed package") from error
    if spec is None:
        advice = f": pip install {top.replace('_', '-')}" if top.isidentifier() else ", and that is no name of one"
        raise SourceError(f"package '{package}' is not installed{advice}")
    if not spec.submodule_search_locations:
        raise SourceError(f"'{package}' is a module and no package: it has no folder in which files could lie")
    return Path(next(iter(spec.submodule_search_locations))).joinpath(*rest, inside)
