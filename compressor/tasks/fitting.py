"""Whether a model takes what a tokenizer makes of texts: found when rows are first read, and named by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compressor.errors import SourceError
from compressor.tasks.tokenization import Tokenization

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRAINED_WITH = "take the tokenizer that the model was trained with"


def check_tokens(
    rows: Sequence[Mapping[str, NDArray[np.int32]]], module: Any, tokenizer: Tokenization, place: Callable[[int], str]
) -> None:
    """Refuse a text of which there is no token, or one that the model has no embedding for.

    Args:
        rows: by input, numbers of each text.
        module: a model of transformers.
        tokenizer: what made them.
        place: where a row stands.

    Raises:
        SourceError: there is one; its place is named.
    """
    known, kinds = _embeddings(module), getattr(module.config, "type_vocab_size", None)
    for at, row in enumerate(rows):
        ids, types = row["input_ids"], row.get("token_type_ids")
        if not len(ids):
            raise SourceError(f"{place(at)}: the tokenizer makes no token of it, and a model takes one or more: leave it out")
        if known is not None and int(ids.max()) >= known:
            first = int(ids[ids >= known][0])
            what = f"token {first} ('{tokenizer.token(first)}') of it, and the model has embeddings of 0 to {known - 1} only"
            raise SourceError(f"{place(at)}: the tokenizer makes {what}: {TRAINED_WITH}")
        if kinds and types is not None and int(types.max()) >= kinds:
            what = f"says kind {int(types.max())} of text in it, and the model knows 0 to {kinds - 1} only"
            raise SourceError(f"{place(at)}: the tokenizer {what}: {TRAINED_WITH}")


def _embeddings(module: Any) -> int | None:
    """How many tokens a model has an embedding for; None where it has no such table, as one that reads letters."""
    try:
        found = module.get_input_embeddings().weight
    except (NotImplementedError, AttributeError):
        return None
    return int(found.shape[0])


def tried_first(rows: Sequence[Mapping[str, NDArray[np.int32]]], tokenizer: Tokenization) -> list[int]:
    """Of texts with a token or more the longest, and one with more special tokens in it: they are tried in one batch.

    Some models count such tokens, and want as many of them in each text.
    """
    import numpy as np

    special = np.asarray(sorted(tokenizer.special), dtype=np.int32)
    longest = max(range(len(rows)), key=lambda at: len(rows[at]["input_ids"]))
    found = np.isin(np.concatenate([row["input_ids"] for row in rows]), special)
    counts = np.add.reduceat(found.astype(np.int64), np.cumsum([0, *(len(row["input_ids"]) for row in rows[:-1])]))
    oddest = int(counts.argmax())
    return [longest] if counts[oddest] <= counts[longest] else sorted((longest, oddest))
