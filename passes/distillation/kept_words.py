"""Of a language model's answers the likeliest words, and how probable all others are together: what is kept of a teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Batch, LikeliestLogits, TokenLogits
from compressor.contracts.notes import Remark
from compressor.model.token_losses import chunks
from passes.distillation.kept_tokens import KeptTokens, TokenWriter, windows

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

SHORT = 2**16
"""Vocabularies up to this have numbers of two bytes."""


@dataclass(frozen=True)
class KeptWords:
    """The likeliest words of every token of the training rows."""

    words: KeptTokens
    """Their numbers, the likeliest first."""
    logs: KeptTokens
    """Their log-probabilities, and last that of all others together."""
    vocabulary: int
    others: float
    """The mean probability of all others together."""

    def of(self, batch: Batch, tokens: int, device: torch.device) -> LikeliestLogits:
        """The answers to a batch of so many tokens a row."""
        import torch

        rows = windows(batch)
        words = torch.from_numpy(self.words.of(rows, tokens).astype("int64")).to(device)
        logs = torch.from_numpy(self.logs.of(rows, tokens)).to(device)
        return LikeliestLogits(words, logs[..., :-1], logs[..., -1], self.vocabulary)

    def paired(self, theirs: Iterable[Batch], mine: Iterable[Batch]) -> KeptWords:
        """The same for a student of another tokenizer: what counts of a document is paired by its place, as far as both have some.

        Args:
            theirs: the batches that these answers were given to.
            mine: the same rows as the student reads them, not shuffled either.
        """
        order, starts = pairing(theirs, mine)
        words, logs = (replace(each, order=order, starts=starts) for each in (self.words, self.logs))
        return replace(self, words=words, logs=logs)

    @property
    def remark(self) -> Remark:
        """What was kept, and what that leaves out."""
        kept, size = self.words.values.shape[1], self.words.values.nbytes + self.logs.values.nbytes
        return Remark(
            text=f"Of each token the {kept} likeliest of {self.vocabulary:,} words are kept ({size / 2**20:,.0f} MiB). All others have "
            f"{self.others:.2%} of the probability: a KL is too small by what both models differ in among those, weighted by that."
        )


class WordWriter:
    """Writes the likeliest words of tokens, batch by batch in the order of the rows."""

    def __init__(self, folder: Path, count: int, *, half: bool) -> None:
        self._folder, self._count, self._half = folder, count, half
        self._words: TokenWriter | None = None
        self._logs = TokenWriter(folder / "logs", "float16" if half else "float32")
        self._vocabulary, self._others, self._tokens = 0, 0.0, 0

    def add(self, logits: TokenLogits, mask: torch.Tensor | None) -> None:
        """Append what a batch answers, of each row its valid tokens, which come first."""
        import torch

        shape, self._vocabulary = logits.states.shape[:-1], logits.weight.shape[0]
        if self._words is None:
            self._words = TokenWriter(self._folder / "words", "uint16" if self._vocabulary <= SHORT else "int32")
        every = torch.arange(shape.numel(), device=logits.device)
        found = [likeliest(logits.at(tokens), self._count) for tokens in chunks(logits, every)]
        words, logs = (torch.cat(each).reshape(*shape, -1) for each in zip(*found, strict=True))
        valid = torch.ones(shape, dtype=torch.bool, device=logits.device) if mask is None else mask.bool()
        self._others += float(logs[..., -1].exp()[valid].sum())
        self._tokens += int(valid.sum())
        self._words.add(words, mask)
        self._logs.add(logs, mask)

    def kept(self) -> KeptWords:
        """What was written."""
        assert self._words is not None
        return KeptWords(self._words.kept(), self._logs.kept(), self._vocabulary, self._others / max(1, self._tokens))


def pairing(theirs: Iterable[Batch], mine: Iterable[Batch]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each token that the student reads the number of the teacher's token that tells as much of the document, -1 where none does; and
    where the student's rows begin: `[tokens]`, `[rows + 1]`."""
    import numpy as np

    held: dict[int, list[int]] = {}
    for row, start, counted in _counted(theirs):
        held.setdefault(row, []).extend((start + counted.nonzero()[0]).tolist())
    order, starts, seen = list[Any](), [0], dict.fromkeys(held, 0)
    for row, start, counted in _counted(mine):
        places, first = held.get(row, []), seen.get(row, 0)
        found = np.full(len(counted), -1, dtype=np.int64)
        told = counted.nonzero()[0][: max(0, len(places) - first)]
        found[told] = places[first : first + len(told)]
        seen[row] = first + int(counted.sum())
        order.append(found)
        starts.append(start + len(counted))
    return np.concatenate(order), np.asarray(starts, dtype=np.int64)


def _counted(batches: Iterable[Batch]) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Of each row of batches the number of its document, where it begins in all tokens, and which of its tokens tell one that counts."""
    import numpy as np

    start = 0
    for batch in batches:
        columns = (batch[name].numpy() for name in ("row", "labels", "attention_mask"))
        for row, labels, mask in zip(*columns, strict=True):
            length = int(mask.sum())
            yield int(row), start, np.append(labels[1:length] >= 0, False)
            start += length


def likeliest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest words `[n, count]` of logits `[n, words]`, and their log-probabilities with that of all others: `[n, count + 1]`."""
    import torch

    logs = logits.log_softmax(dim=-1)
    best = logs.topk(min(count, logs.shape[-1]), dim=-1)
    others = logs.scatter(-1, best.indices, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return best.indices, torch.cat((best.values, others), dim=-1)
