"""Scores of a language model: what each document's tokens cost, found window by window and never kept as logits."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed, Session
from compressor.contracts.failing import told_by_row
from compressor.contracts.model import CONFIG
from compressor.tasks.language.cache import IDS, KEPT, LOGITS, MASK
from compressor.tasks.language.documents import Window
from compressor.tasks.language.fidelity import LOOKED_AT, NONE, likeliest, looked_at
from compressor.tasks.language.likelihood import IGNORED, costs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TARGETS, BYTES, LOOKED = "targets", "bytes", "looked"
MOST_LOGIT_BYTES = 256 * 2**20
"""Of the logits that one call gives back."""
MOST_ROWS = 8
SUMS = ("cost", "tokens", "right", "bytes")
"""What is summed over the tokens of a document."""


def fed(ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Feed:
    """One call on whole rows `[B, T]`, the logits of all their tokens wanted."""
    import numpy as np

    return {IDS: ids, MASK: mask, KEPT: np.arange(ids.shape[1], dtype=np.int64)}


def padded(rows: Sequence[NDArray[Any]], *, width: int = 2) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids and mask of rows of several lengths, `[B, T]` each; padding, which nothing sees, is token 0 on the right."""
    import numpy as np

    width = max(width, *(len(row) for row in rows))
    ids, mask = (np.zeros((len(rows), width), dtype=np.int64) for _ in range(2))
    for at, row in enumerate(rows):
        ids[at, : len(row)], mask[at, : len(row)] = row, 1
    return ids, mask


def scored_feeds(windows: Sequence[Window], files: Path) -> tuple[list[Feed], list[int]]:
    """Windows as feeds with the tokens that are to be told, those of like lengths together; and the row of each in turn.

    A feed has no more rows, and wants no more logits at a time, than make `MOST_LOGIT_BYTES`.
    """
    most = max(1, MOST_LOGIT_BYTES // (4 * _vocabulary(files)))
    order = sorted(range(len(windows)), key=lambda number: len(windows[number].document.ids))
    looked = _looked(windows)
    feeds, rows = list[Feed](), list[int]()
    start = 0
    while start < len(order):
        count, room = 1, min(MOST_ROWS, len(order) - start)
        while count < room and (count + 1) * len(windows[order[start + count]].document.ids) <= most:
            count += 1
        numbers, start = order[start : start + count], start + count
        chosen = [windows[number] for number in numbers]
        feeds.append({**_feed(chosen, most // count), LOOKED: padded([looked[number] for number in numbers])[0][:, 1:]})
        rows += [each.row for each in chosen]
    return feeds, rows


def _looked(windows: Sequence[Window]) -> list[NDArray[np.bool_]]:
    """Which tokens of each window are looked at; windows of a document follow each other."""
    totals, before = Counter[int](), Counter[int]()
    for each in windows:
        totals[each.row] += int(each.document.counted.sum())
    found = []
    for each in windows:
        found.append(looked_at(each.document.counted, before[each.row], totals[each.row]))
        before[each.row] += int(each.document.counted.sum())
    return found


def _vocabulary(files: Path) -> int:
    return int(json.loads((files / CONFIG).read_text(encoding="utf-8"))["vocab_size"])


def _feed(chosen: Sequence[Window], at_once: int) -> Feed:
    import numpy as np

    ids, mask = padded([each.document.ids for each in chosen])
    told, _ = padded([np.where(each.document.counted, each.document.ids, IGNORED) for each in chosen])
    targets = np.where(mask == 1, told, IGNORED)[:, 1:]
    sizes = np.array([each.document.bytes for each in chosen], dtype=np.int64)
    return {**fed(ids, mask), KEPT: np.arange(min(at_once, ids.shape[1]), dtype=np.int64), TARGETS: targets, BYTES: sizes}


def scored(session: Session, feed: Feed) -> Feed:
    """What the tokens of each row cost, how many they are, and how many were the most probable: `[B]` each; and of those that are
    looked at the likeliest words, `[tokens, words]`, with the row that each is of, `owner`.

    A row goes in by parts of as many tokens as there are places whose logits are wanted, each part with the cache of those before.
    """
    import numpy as np

    ids, mask, targets, at_once = feed[IDS], feed[MASK], feed[TARGETS], len(feed[KEPT])
    cost, right = np.zeros(len(ids)), np.zeros(len(ids))
    kept: list[tuple[NDArray[Any], ...]] = []
    for start, end, logits in in_parts(session, ids[:, : targets.shape[1]], mask, at_once):
        counted = targets[:, start:end] != IGNORED
        each, hit = costs(logits[counted], targets[:, start:end][counted])
        owner = np.nonzero(counted)[0]
        np.add.at(cost, owner, each)
        np.add.at(right, owner, hit)
        looked = feed[LOOKED][:, start:end] != 0
        kept.append((*likeliest(logits[looked]), np.nonzero(looked)[0]))
    words, logs, owners = (np.concatenate(each) for each in zip(*kept, strict=True))
    tokens = (targets != IGNORED).sum(axis=1).astype(np.float64)
    return {"cost": cost, "right": right, "tokens": tokens, "words": words, "logs": logs, "owner": owners}


def in_parts(
    session: Session, ids: NDArray[Any], mask: NDArray[Any], at_once: int
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Logits of all tokens of rows `[B, T]`, so many tokens at a time, each part with the cache of those before: first and last place of
    a part, and its logits `[B, part, V]`."""
    import numpy as np

    state: object | None = None
    for start in range(0, ids.shape[1], at_once):
        end = min(start + at_once, ids.shape[1])
        part = {IDS: ids[:, start:end], MASK: mask[:, :end], KEPT: np.arange(end - start, dtype=np.int64)}
        found, state = session.run(part, state=state)
        yield start, end, found[LOGITS]


def collected(predict: Callable[[Feed], Feed], feeds: Sequence[Feed], order: Sequence[int]) -> Feed:
    """Of each document, over all its windows: `nats` that a token costs in the mean, `tokens` that count, those that were the most
    probable (`right`) and the `bytes` that they spell, `[documents]`; `words` and their `logs` of tokens that are looked at,
    `[documents, LOOKED_AT, words]`.
    """
    import numpy as np

    sums = {name: np.zeros(1 + max(order)) for name in SUMS}
    kept: dict[int, list[tuple[NDArray[Any], ...]]] = defaultdict(list)
    at = 0
    for feed in feeds:
        rows = list(order[at : at + len(feed[IDS])])
        at += len(rows)
        found = {**told_by_row(predict, feed, rows), BYTES: feed[BYTES]}
        for name in SUMS:
            np.add.at(sums[name], rows, found[name])
        for words, logs, owner in zip(found["words"], found["logs"], found["owner"], strict=True):
            kept[rows[int(owner)]].append((words, logs))
    whole = {name: sums[name].astype(np.int64) for name in SUMS if name != "cost"}
    return {"nats": sums["cost"] / np.maximum(sums["tokens"], 1), **whole, **_looked_up(kept, len(sums["cost"]))}


def _looked_up(kept: Mapping[int, Sequence[tuple[NDArray[Any], ...]]], documents: int) -> Feed:
    """Likeliest words by document; where it has fewer tokens than are looked at, none."""
    import numpy as np

    count = max((len(words) for each in kept.values() for words, _ in each), default=1)
    words = np.full((documents, LOOKED_AT, count), NONE, dtype=np.int32)
    logs = np.full(words.shape, NONE, dtype=np.float32)
    for row, found in kept.items():
        words[row, : len(found)], logs[row, : len(found)] = (np.stack(each) for each in zip(*found, strict=True))
    return {"words": words, "logs": logs}


def last_logits(predict: Callable[[Feed], Feed], feeds: Sequence[Feed], order: Sequence[int]) -> NDArray[np.float32]:
    """Logits after the newest token of the first window of each document, `[documents, V]`."""
    import numpy as np

    found: dict[int, NDArray[np.float32]] = {}
    at = 0
    for feed in feeds:
        rows = list(order[at : at + len(feed[IDS])])
        at += len(rows)
        for number, row in enumerate(rows):
            if row not in found:
                last = int(feed[MASK][number].sum())
                alone = fed(feed[IDS][number : number + 1, :last], feed[MASK][number : number + 1, :last])
                newest = {**alone, KEPT: np.array([last - 1], dtype=np.int64)}
                found[row] = told_by_row(predict, newest, [row])[LOGITS][0, -1].astype(np.float32)
    return np.stack([found[row] for row in sorted(found)])
