"""Folders of language models: which kinds are taken, and what is kept beside one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts.model import CONFIG
from compressor.errors import SourceError
from compressor.model.configurations import config_in
from compressor.model.positions import positions
from compressor.model.pretrained import from_folder
from compressor.model.sources import read_json
from compressor.tasks.language.chats import TEMPLATE, the_one
from compressor.tasks.tokenization import check_kept, read_tokenizer, side_files

if TYPE_CHECKING:
    from compressor.contracts import Model

GENERATION = "generation_config.json"
NAMES = ["input_ids", "attention_mask"]
"""Inputs that a tokenizer makes for a language model."""


def load(source: Path, max_length: int, *, chats: bool) -> Model:
    """The model in a folder in float32, its tokenizer, its template, and by which tokens it ends.

    Raises:
        SourceError: the folder is not usable, or holds no language model of a kind that is taken.
    """
    from compressor import model as models

    module = _module(source)
    _check(module, source, max_length)
    return models.Model.wrap(module.eval(), files_of(source, module, chats=chats))


def examine(source: Path, max_length: int, *, chats: bool) -> tuple[str, ...]:
    """What `check` tells of a folder: of its weights only names and shapes are read.

    Raises:
        SourceError: as `load` does.
    """
    module = _module(source, device_map={"": "meta"})
    _check(module, source, max_length)
    files_of(source, module, chats=chats)
    config = module.config
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    tied = ", its output tied to its embeddings" if config.tie_word_embeddings else ""
    return (
        f"language model of {config.num_hidden_layers} layers, {config.num_attention_heads} heads on {groups} of keys and values, "
        f"{config.vocab_size} tokens{tied}",
    )


def _module(source: Path, **more: Any) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = config_in(source)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise SourceError(
            f"{source} holds no language model that tells tokens from those before: model type '{config.model_type}'"
        )
    module, found = from_folder(AutoModelForCausalLM, source, config, **more)
    if lacking := sorted(found["missing_keys"]):
        raise SourceError(f"{source} lacks {len(lacking)} weights of {type(module).__name__}: {', '.join(lacking[:3])}")
    head = module.get_output_embeddings()
    if module.config.tie_word_embeddings and head is not None and head.weight is not module.get_input_embeddings().weight:
        module.config.tie_word_embeddings = (
            False  # its folder says so and holds two: the library keeps both, and others would not
        )
    return module


def _check(module: Any, source: Path, max_length: int) -> None:
    """Refuse models whose cache is another than keys and values of every token, and lengths beyond a model's positions."""
    import inspect

    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    name, config = type(module).__name__, module.config
    taken = inspect.signature(module.forward).parameters
    plain = all(isinstance(layer, DynamicLayer | DynamicSlidingWindowLayer) for layer in DynamicCache(config=config).layers)
    if config.is_encoder_decoder or "logits_to_keep" not in taken or "position_ids" not in taken or not plain:
        raise SourceError(f"{source}: a {name} does not keep a key and a value of each token as decoders do, and is not taken")
    if getattr(config, "is_decoder", None) is False:  # only families that are made for both have the field
        raise SourceError(f"{source}: a {name} sees what comes after each token, and tells no next one")
    most = positions(module)
    if most is not None and max_length > most:
        raise SourceError(f"max_length {max_length} is beyond what {source} has positions for: {most} tokens fit")


def files_of(source: Path, module: Any, *, chats: bool) -> dict[str, bytes]:
    """What lies beside a model: its tokenizer, its template of chats, and how it generates.

    Raises:
        SourceError: one of them cannot be read, or there is no template and rows are chats.
    """
    tokenizer = read_tokenizer(source)
    tokenizer.model_input_names = list(NAMES)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token or tokenizer.convert_ids_to_tokens(0)
    files = side_files(tokenizer, module)
    check_kept(files, tokenizer, source)
    if template := the_one(tokenizer.chat_template):
        files[TEMPLATE] = template.encode()
    elif chats:
        raise SourceError(f"{source} has no chat template ({TEMPLATE}): give the rows as prompt and completion, or as texts")
    files[GENERATION] = (json.dumps({"eos_token_id": ends_of(source, module.config, tokenizer)}) + "\n").encode()
    return files


def ends_of(source: Path, config: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: by `generation_config.json`, else by the configuration, else the tokenizer's end of a text."""
    path = source / GENERATION
    given = read_json(path) if path.is_file() else {}
    for found in (given.get("eos_token_id"), config.eos_token_id, tokenizer.eos_token_id):
        if found is not None:
            ends = found if isinstance(found, list) else [found]
            if strange := next((each for each in ends if not isinstance(each, int)), None):
                raise SourceError(f"{path}: eos_token_id is {strange!r:.40}, expected the number of a token, or a list of them")
            _check_known(ends, source, config)
            return ends
    return []


def _check_known(ends: Sequence[int], source: Path, config: Any) -> None:
    """Refuse an end of texts that the model cannot write, where the folder itself names it and not a default of the library."""
    known, name = config.get_text_config().vocab_size, "eos_token_id"
    beyond = [each for each in ends if not 0 <= each < known]
    said = next((path for path in (source / GENERATION, source / CONFIG) if path.is_file() and name in read_json(path)), None)
    if beyond and said:
        raise SourceError(
            f"{said}: {name} is {beyond[0]}, and the model knows tokens 0 to {known - 1}: its texts would never end"
        )
