"""A language model goes on with a text: tokens one after the other, by any call that gives logits and takes back its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer


def prompter_of(source: str, how: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `tokenizer.json` is `source`, set to cut nothing and to pad nothing."""
    tokenizer = Tokenizer.from_str(source)
    tokenizer.encode_special_tokens = how["split_special_tokens"]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def prompt_of(tokenizer: Tokenizer, text: str, how: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Inputs of a batch of one: the text with what stands around it, as many of its last tokens as there is room for."""
    ids = tokenizer.encode(how["before"] + text + how["after"], add_special_tokens=False).ids
    row = [*how["begins"], *ids[-(how["max_length"] - len(how["begins"])) :]] or [how["pad_id"]]
    return {
        "input_ids": np.array([row], dtype=np.int64),
        "attention_mask": np.ones((1, len(row)), dtype=np.int64),
        "logits_at": np.array([len(row) - 1], dtype=np.int64),
    }


def padded_left(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask, `[B, T]` each, with all padding moved before the texts: the last token of every row is then its newest."""
    order = np.argsort(mask != 0, axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(mask, order, axis=1)


def begun(step: Callable[..., Any], ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
    """The prompts in one call: logits of the newest token `[B, V]`, the mask, and the state to go on from."""
    ids, mask = padded_left(ids, mask)
    newest = np.array([ids.shape[1] - 1], dtype=np.int64)
    logits, state = step({"input_ids": ids, "attention_mask": mask, "logits_at": newest}, None)
    return logits, mask, state


def continued(
    step: Callable[..., Any],
    start: tuple[np.ndarray, np.ndarray, Any],
    steps: int,
    *,
    choose: Callable[[np.ndarray], np.ndarray],
    ends: Sequence[int] = (),
) -> np.ndarray:
    """Tokens after the prompts, `[B, at most steps]`; a row that has ended repeats its end, and no more are made when all have."""
    logits, mask, state = start
    made: list[np.ndarray] = []
    over = np.zeros(len(logits), dtype=bool)
    only = np.zeros(1, dtype=np.int64)
    while True:
        token = choose(logits)
        if ends:
            token = np.where(over, made[-1][:, 0] if made else token, token)
            over |= np.isin(token, ends)
        made.append(token[:, np.newaxis])
        if len(made) == steps or (ends and over.all()):
            return np.concatenate(made, axis=1)
        mask = np.concatenate([mask, np.ones((len(mask), 1), dtype=mask.dtype)], axis=1)
        logits, state = step({"input_ids": made[-1], "attention_mask": mask, "logits_at": only}, state)


def greedy(logits: np.ndarray) -> np.ndarray:
    """The most probable token of each row, `[B]`."""
    return np.asarray(logits.argmax(axis=-1), dtype=np.int64)


def sampled(logits: np.ndarray, draw: np.random.Generator, how: Mapping[str, Any]) -> np.ndarray:
    """A token of each row drawn by its probability, `[B]`.

    Args:
        logits: `[B, V]`.
        draw: where randomness comes from.
        how: as for `warped`.
    """
    reached = np.cumsum(warped(logits, how), axis=-1)
    places: np.ndarray = (reached <= draw.random((len(logits), 1)) * reached[:, -1:]).sum(axis=-1)
    return places


def warped(logits: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """The distribution that tokens are drawn from, `[B, V]`, each row with a sum of 1.

    Args:
        logits: `[B, V]`.
        how: `temperature` above 0; of the most probable tokens at most `top_k`; as few as hold `top_p` of the probability.
    """
    scaled = logits.astype(np.float64) / how.get("temperature", 1.0)
    order = np.argsort(-scaled, axis=-1, kind="stable")
    ranked = np.take_along_axis(scaled, order, axis=-1)
    shares = np.exp(ranked - ranked[:, :1])
    shares[:, how.get("top_k") or shares.shape[1] :] = 0.0
    shares /= shares.sum(axis=-1, keepdims=True)
    before = np.cumsum(shares, axis=-1) - shares
    shares[before >= how.get("top_p", 1.0)] = 0.0
    shares /= shares.sum(axis=-1, keepdims=True)
    made: np.ndarray = np.empty_like(shares)
    np.put_along_axis(made, order, shares, axis=-1)
    return made
