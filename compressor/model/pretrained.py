"""A classifier from a model folder: with the head it has where that fits the data's labels, else with a fresh one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.errors import SourceError
from compressor.model.configurations import config_in, nothing_fetched


def load_classifier(auto: Any, source: Path, labels: Sequence[str], *, seed: int) -> tuple[Any, tuple[str, ...]]:
    """The model in `source` in float32 and eval mode, its classes named and ordered as `labels`; and parameters that were drawn.

    Args:
        auto: the class of transformers that picks the architecture, as `AutoModelForSequenceClassification`.
        source: a folder in Hugging Face layout with safetensors.
        labels: the data's labels, in order.
        seed: of a fresh head; torch's own generator is left as it was.

    Raises:
        SourceError: the folder cannot be read, has a head for other labels, or lacks weights of the model itself.
    """
    config = config_in(source)
    order = _order(auto, config, source, labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}
    module, found = from_folder(auto, source, config, seed=seed, ignore_mismatched_sizes=True)  # told below, with the names
    for name, has, expected in sorted(found["mismatched_keys"]):
        raise SourceError(f"{source}: {name} is {list(has)} in the weights and {list(expected)} by config.json")
    _check_complete(module, sorted(found["missing_keys"]), source, headed=order is not None)
    if order is not None and order != sorted(order):
        _reorder(module, order, source)
    return module.eval(), tuple(sorted(found["missing_keys"]))


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


def from_folder(auto: Any, source: Path, config: Any, *, seed: int = 0, **more: Any) -> tuple[Any, Mapping[str, Any]]:
    """What a class of transformers reads from a folder, in float32, and what it found missing; random states stay as they were.

    Args:
        auto: the class, or one that picks it by the configuration.
        source: a folder with safetensors.
        config: what `config_in` gave: the folder's own could name code on a hub.
        seed: of the weights that are missing.
        more: further arguments of `from_pretrained`.

    Raises:
        SourceError: the folder cannot be read.
    """
    import torch

    given = {"trust_remote_code": False, "local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    try:
        with torch.random.fork_rng(devices=[]), quiet(), nothing_fetched():
            torch.manual_seed(seed)
            module, found = auto.from_pretrained(source, config=config, dtype=torch.float32, **given, **more)
            return module, found
    except Exception as error:  # what a malformed folder makes the library raise can be anything
        raise SourceError(f"{source} cannot be read as a model: {told(error)}") from error


def told(error: Exception) -> str:
    """An error of a library in one line of bounded length."""
    text = textwrap.shorten(str(error), width=300, placeholder=" ...")
    return text if isinstance(error, OSError | ValueError | RuntimeError) else f"{type(error).__name__}: {text}"


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


def _order(auto: Any, config: Any, source: Path, labels: Sequence[str]) -> list[int] | None:
    """For each label of the data the row of the trained head, or None where there is no such head."""
    kinds = (auto.__name__.removeprefix("AutoModel"), "ForSequenceClassification")  # what HuBERT and wav2vec 2.0 call theirs
    if not any(name.endswith(kinds) for name in config.architectures or ()):
        return None
    names = [config.id2label[number] for number in sorted(config.id2label)]
    if names == [f"LABEL_{number}" for number in range(len(names))]:
        names = [name.removeprefix("LABEL_") for name in names]
    if sorted(names) != sorted(labels):
        raise SourceError(
            f"{source} classifies {_some(names)}, the data has {_some(labels)}: not the same labels; rename those of the data, "
            "or take the model without its head"
        )
    return [names.index(name) for name in labels]


def _some(names: Sequence[str]) -> str:
    return f"{sorted(names)[:5]}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"


def _check_complete(module: Any, missing: Sequence[str], source: Path, *, headed: bool) -> None:
    """A fresh head is drawn, and a fresh pooler below it; anything else that is not in the file must not be made up."""
    if lacking := [name for name in missing if headed or not _of_head(name, _trunk(module))]:
        raise SourceError(
            f"{source} lacks {len(lacking)} weights of {type(module).__name__}: "
            f"{', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}"
        )


def _trunk(module: Any) -> str:
    """The child that holds the model itself; a few classes do not call it by the prefix of their family."""
    if hasattr(module, module.base_model_prefix):
        return str(module.base_model_prefix)
    sizes = {str(name): sum(each.numel() for each in child.parameters()) for name, child in module.named_children()}
    return str(max(sizes, key=lambda name: sizes[name]))


def _of_head(name: str, trunk: str) -> bool:
    """Whether a parameter stands beside the trunk, or in the pooler that ends it."""
    return not name.startswith(f"{trunk}.") or "pooler" in name.split(".")


def _reorder(module: Any, order: Sequence[int], source: Path) -> None:
    """Put the classes of a trained head into the data's order."""
    import torch

    prefix = f"{module.base_model_prefix}."
    heads = [
        each
        for name, each in module.named_modules()
        if isinstance(each, torch.nn.Linear) and not name.startswith(prefix) and each.out_features == len(order)
    ]
    if not heads:
        raise SourceError(
            f"{source} names its classes in another order than the data, and its head does not end in a linear layer"
        )
    with torch.no_grad():
        for tensor in heads[-1].parameters():
            tensor.copy_(tensor[list(order)])
