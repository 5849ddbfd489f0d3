"""Configurations that others wrote: which of their fields could have a library run or fetch what does not lie in the folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from compressor.contracts.model import CONFIG
from compressor.errors import MissingDependency, SourceError
from compressor.foreign import told
from compressor.model.meta import BUILDING_ERRORS
from compressor.model.sources import gguf_in, read_json

LEFT_OUT = {
    "*attn_implementation*": "a kernel in a repository of the hub, which is code",
    "*experts_implementation*": "a kernel in a repository of the hub, which is code",
    "kernel_config": "kernels in repositories of the hub",
    "use_kernels": "kernels in repositories of the hub",
    "auto_map": "classes in files of the folder, or of a repository of the hub",
    "custom_pipelines": "a class in a file of the folder",
    "custom_generate": "a file of a repository of the hub that generates",
    "trust_remote_code": "leave to run the files of a folder",
    "*name_or_path": "a repository of the hub, which some classes ask for further files",
}
"""Fields, as patterns, that say nothing of a model's architecture: it is read as if they were not there."""
REFUSED = {
    "quantization_config": "weights that another library has packed; some are unpacked by kernels of the hub. Take the model as it was before, and "
    "quantise it by a pass of the plan",
    "compression_config": "weights that another library has packed. Take the model as it was before, and quantise it by a pass of the plan",
    "backbone": "a model of the hub or of timm that is no part of this folder. Take one whose `backbone_config` describes it",
    "use_pretrained_backbone": "weights of a model of the hub or of timm. Take one that holds all its weights",
    "architecture": "a model of the hub, for timm to fetch. Take one that transformers itself defines",
}
"""Fields whose model would be another one without them, where they are not empty; and what to do."""
COUNTS = ("layer", "layers", "blocks", "depth", "depths", "experts", "groups", "stages")
"""How fields end by which parts are built one after another: it takes as long as the number says, whatever the weights hold."""
MOST_PARTS = 2000
MOST_DEEP = 100
"""Objects and lists inside of each other."""
DIVISORS = (
    "num_attention_heads",
    "num_key_value_heads",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "n_head",
    "n_heads",
)
"""Counts that widths are divided by."""
HANDED_OUT = ("return_dict", "output_attentions", "output_hidden_states")
"""How a model hands out what it computes, which whoever calls it says."""
SIZES = ("size", "dim", "embeddings", "positions", "embd", "inner", "d_model", "d_ff")
"""How fields end by which matrices are made: a model is built before its weights are seen to be smaller."""
MOST_WIDE = 2**24
PLACES = "position_embedding_type"
TIMM = ("architecture",)
"""Those that may name a network of timm itself, but none with a colon, as in `hf-hub:somebody/model`."""
OWN_TYPE = "compressor-"
"""How the model types begin of exports that only this program opens."""
NAMES_OF_CLASSES = ("id2label", "label2id")
"""Mappings whose keys are labels and no fields."""


def config_in(folder: Path) -> Any:
    """The configuration in a folder, without the fields by which something could be run or fetched.

    Raises:
        SourceError: it cannot be read, is of a model type that transformers does not know, or has a field that is refused.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    single = gguf_in(folder)
    values = harmless(_gguf(single) if single else read_json(folder / CONFIG), single or folder / CONFIG)
    _check_names(values, folder / CONFIG)
    model_type = str(values.get("model_type", ""))
    if model_type not in CONFIG_MAPPING:
        if model_type.startswith(OWN_TYPE):
            raise SourceError(
                f"{folder} was exported by this program with layers of widths of their own, which no configuration of transformers can say: "
                "name the model that it was made from"
            )
        found = f"its model type '{model_type}' is none of" if model_type else f"its {CONFIG} names no `model_type` of"
        raise SourceError(f"{folder} cannot be read as a model: {found} transformers {transformers.__version__}")
    try:
        with nothing_fetched():
            config = CONFIG_MAPPING[model_type].from_dict(values)
    except (*BUILDING_ERRORS, OSError, StrictDataclassError) as error:
        raise SourceError(f"{folder} cannot be read as a model: {told(error)}") from error
    _check_places(values, config, folder / CONFIG)
    return config


def _check_places(values: Mapping[str, Any], config: Any, where: Path) -> None:
    """Refuse a way of telling places of tokens that the library had once, and passes over now."""
    kind = values.get(PLACES)
    if kind not in (None, "absolute") and PLACES not in type(config)().to_dict():
        raise SourceError(
            f"{where}: {PLACES} is {kind!r:.40}, which transformers does not compute for model type '{config.model_type}': it would take "
            "absolute positions instead"
        )


def _gguf(path: Path) -> dict[str, Any]:
    """The configuration in a file of llama.cpp, as transformers spells it.

    Raises:
        SourceError: it cannot be read, or is of a kind that transformers does not know.
        MissingDependency: the package that reads it is not installed.
    """
    from importlib.util import find_spec

    import transformers.modeling_gguf_pytorch_utils as library

    if find_spec("gguf") is None:
        raise MissingDependency(
            f"{path} is read by the package gguf, which is not installed: pip install 'compressor-toolchain[llm]'"
        )
    try:
        read: Any = library.load_gguf_checkpoint
        return dict(read(str(path))["config"])
    except Exception as error:  # what a malformed file makes the library raise can be anything
        raise SourceError(f"{path} cannot be read as a model of llama.cpp: {told(error)}") from error


def _check_names(values: Mapping[str, Any], where: Path) -> None:
    """Names of classes are objects, one of numbers, or the library fails without saying on what."""
    for name in NAMES_OF_CLASSES:
        named = values.get(name) or {}
        if not isinstance(named, Mapping):
            raise SourceError(f'{where}: {name} is {named!r:.60}, expected an object, as {{"0": "first", "1": "second"}}')
    strange = next((key for key in values.get(NAMES_OF_CLASSES[0]) or {} if not str(key).isdecimal()), None)
    if strange is not None:
        raise SourceError(f"{where}: id2label has {strange!r:.40} where the number of a class stands: it is the wrong way round")


def harmless(config: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The configuration without the fields by which something could be run or fetched, at any depth.

    Raises:
        SourceError: it has a field that is refused, counts more parts than are built, or is nested too deep; `where` says whose it is.
    """
    return _harmless(config, where, 0)


def _harmless(config: Mapping[str, Any], where: object, depth: int) -> dict[str, Any]:
    for name, value in config.items():
        many = _most(value)
        if name.endswith(COUNTS) and many > MOST_PARTS:
            raise SourceError(f"{where}: {name} is {many}; no model of more than {MOST_PARTS} parts of a kind is built")
        if name in DIVISORS and isinstance(value, int) and value < 1:
            raise SourceError(f"{where}: {name} is {value}, expected 1 or more")
        if name.endswith(SIZES) and many > MOST_WIDE:
            raise SourceError(f"{where}: {name} is {many}; no model with a side of more than {MOST_WIDE} is built")
    for name in config:
        if (what := REFUSED.get(name)) and config[name] and not (name in TIMM and ":" not in str(config[name])):
            raise SourceError(f"{where}: {name} names {what}")
    left_out = (*LEFT_OUT, *HANDED_OUT)
    kept = {name: value for name, value in config.items() if not any(fnmatchcase(name, pattern) for pattern in left_out)}
    return {name: value if name in NAMES_OF_CLASSES else _inside(value, where, depth + 1) for name, value in kept.items()}


def _inside(value: Any, where: object, depth: int) -> Any:
    if depth > MOST_DEEP:  # of our own: libraries raise the interpreter's limit while they work
        raise SourceError(f"{where} is nested too deep to be a configuration")
    if isinstance(value, list):
        return [_inside(each, where, depth + 1) for each in value]
    return _harmless(value, where, depth) if isinstance(value, Mapping) else value


def _most(value: Any) -> int:
    """The largest whole number of a field, or of a list of them."""
    each = value if isinstance(value, list) else [value]
    return max((number for number in each if isinstance(number, int)), default=0)


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """While a library reads or builds a model the hub's client refuses every request, whatever the library wants to ask for."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
