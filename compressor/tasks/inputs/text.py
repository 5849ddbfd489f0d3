"""Texts become token ids, as a description says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

ENCODED = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""Inputs of text models, and where an encoding has them."""


def tokenizer_of(source: str, how: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `tokenizer.json` is `source`, set to cut as the description says, and to pad where inputs have one length."""
    tokenizer = Tokenizer.from_str(source)
    tokenizer.encode_special_tokens = how["split_special_tokens"]
    tokenizer.enable_truncation(how["max_length"], direction=how["truncation_side"])
    tokenizer.no_padding()
    if how["padded_to"]:
        pad = {"pad_id": how["pad_id"], "pad_type_id": how["pad_type_id"], "pad_token": how["pad_token"]}
        tokenizer.enable_padding(direction=how["padding_side"], length=how["padded_to"], **pad)
    return tokenizer


def encoded(tokenizer: Tokenizer, texts: Sequence[Any], names: Sequence[str]) -> list[dict[str, list[int]]]:
    """The inputs by name of each text, or of each pair of texts."""
    return [{name: getattr(encoding, ENCODED[name]) for name in names} for encoding in tokenizer.encode_batch(list(texts))]
