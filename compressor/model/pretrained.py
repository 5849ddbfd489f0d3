"""Models from folders in the layout of transformers, without anything in them being executed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.contracts import registry
from compressor.contracts.model import BLUEPRINT, CONFIG
from compressor.errors import SourceError
from compressor.foreign import told
from compressor.model.configurations import config_in, nothing_fetched
from compressor.model.sources import WEIGHT, check_tensors, gguf_in, read_json


def load_encoder(source: Path) -> Any:
    """The model in `source` without a head, in float32 and eval mode; of one that has a decoder too, the encoder.

    Raises:
        SourceError: the folder cannot be read, or lacks weights.
    """
    from transformers import AutoModel

    module, found = from_folder(AutoModel, source, config_in(source))
    encoder: Any = module.encoder if module.config.is_encoder_decoder else module
    lacking = sorted(name for name in found["missing_keys"] if encoder is module or name.startswith("encoder."))
    if lacking:
        raise SourceError(f"{source} lacks {len(lacking)} weights of {type(encoder).__name__}: {', '.join(lacking[:3])}")
    encoder.train(False)
    return encoder


def from_folder(
    auto: Any, source: Path, config: Any, *, seed: int = 0, other_sizes: bool = False, **more: Any
) -> tuple[Any, Mapping[str, Any]]:
    """What a class of transformers reads from a folder, in float32, and what it found missing; random states stay as they were.

    Args:
        auto: the class, or one that picks it by the configuration.
        source: a folder with safetensors.
        config: what `config_in` gave: the folder's own could name code on a hub.
        seed: of the weights that are missing.
        other_sizes: whether weights of another shape than the configuration says are left to the caller, by `mismatched_keys`.
        more: further arguments of `from_pretrained`.

    Raises:
        SourceError: the folder cannot be read, its weights are packed, or a run changed its model into one that the class does not build.
    """
    import torch

    check_tensors(source)
    given: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True, "output_loading_info": True}
    single = gguf_in(source)
    given |= {"gguf_file": single.name} if single else {"use_safetensors": True}
    given |= {"ignore_mismatched_sizes": True}  # told below, by name: the library writes a table of them that nobody sees
    try:
        with torch.random.fork_rng(devices=[]), quiet(), nothing_fetched():
            torch.manual_seed(seed)
            module, found = auto.from_pretrained(source, config=config, dtype=torch.float32, **given, **more)
    except Exception as error:  # what a malformed folder makes the library raise can be anything
        raise SourceError(f"{source} cannot be read as a model: {told(error)}") from error
    _check_edits(module, found, source)
    if found["mismatched_keys"] and not other_sizes:
        name, has, expected = sorted(found["mismatched_keys"])[0]
        raise SourceError(f"{source}: {name} is {list(has)} in the weights and {list(expected)} by {CONFIG}")
    check_tensors(source, [name for name, _ in module.named_parameters()])
    _check_layers(module, found, source)
    return _unmarked(module) if single else module, found


def _check_edits(module: Any, found: Mapping[str, Any], source: Path) -> None:
    """Refuse what a run wrote where the library would build something else of it: layers that are as wide as each other, or that round nothing.

    Raises:
        SourceError: it would.
    """
    if not (source / BLUEPRINT).is_file():
        return
    try:
        kinds = [str(edit["kind"]) for edit in read_json(source / BLUEPRINT).get("blueprint", {}).get("edits", ())]
    except (AttributeError, KeyError, TypeError) as error:
        raise SourceError(f"{source / BLUEPRINT} holds no blueprint") from error
    lists = {name: len(each) for name, each in module.named_modules() if _is_list(each)}
    told = (*found["missing_keys"], *found["unexpected_keys"], *(name for name, *_ in found["mismatched_keys"]))
    apart = any(_is_in_one_of(name, lists) for name in told)
    if kinds := sorted({kind for kind in kinds if apart or not registry.load("edit", kind).in_weights}):
        raise SourceError(
            f"{source} holds a model that a run changed ({', '.join(kinds)}), which no configuration of its library says: no plan starts from "
            "it. Put further steps into the plan that made it, which finds in the store what it did, or name the model that it was made from"
        )


def _is_list(part: Any) -> bool:
    import torch

    return isinstance(part, torch.nn.ModuleList)


def _check_layers(module: Any, found: Mapping[str, Any], source: Path) -> None:
    """Refuse weights inside of a layer that the library has no place for: it would compute the layer without them.

    Where a layer lacks weights too they are called otherwise, which is told by what is lacking.

    Raises:
        SourceError: there are some.
    """
    lists = {name: len(each) for name, each in module.named_modules() if _is_list(each)}
    inside = sorted(name for name in found["unexpected_keys"] if name.endswith(WEIGHT) and _is_in_one_of(name, lists))
    if inside and not any(_is_in_one_of(name, lists) for name in found["missing_keys"]):
        raise SourceError(
            f"{source} holds {len(inside)} weights inside of layers ({', '.join(inside[:3])}) that {type(module).__name__} of this "
            "transformers has no place for: it would compute something else. Take a model that was saved as such a class, or leave them out"
        )


def _is_in_one_of(name: str, lists: Mapping[str, int]) -> bool:
    """Whether a weight belongs to a layer that is there, by its first number; names may stand with or without the trunk's."""
    parts = name.split(".")
    at = next((number for number, part in enumerate(parts) if part.isdecimal()), None)
    if not at:
        return False
    before = ".".join(parts[:at])
    return any(
        int(parts[at]) < count and (each == before or each.endswith(f".{before}") or before.endswith(f".{each}"))
        for each, count in lists.items()
    )


def _unmarked(module: Any) -> Any:
    """A model whose weights were unpacked when it was read: the library still takes it for a packed one, which cannot be saved."""
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(module).pop(name, None)
    vars(module.config).pop("quantization_config", None)
    return module


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and tables that transformers writes while it loads."""
    from transformers.utils import logging as library_logging

    logging: Any = library_logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
