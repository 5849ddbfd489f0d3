"""Looking after a store: what is in it, whether it is whole, and what may go."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import StoreError, did_you_mean
from compressor.files import json_in
from compressor.store.locks import taken_at, tried
from compressor.store.store import ENTRY, USED, DamagedEntry, Store, discard, read_entry, remove

UNFINISHED = "(unfinished)"
SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Kept:
    """A result in the store, or what an unfinished step has written so far."""

    key: str
    step: str
    """What made it (`finetune`, `lower`), or `(unfinished)`."""
    made: str
    """When, as ISO 8601 in UTC; empty where that is not known."""
    used_seconds: float
    """When it was last used, in seconds since the epoch."""
    bytes: int
    seconds: float
    """Seconds it took to make."""
    plans: tuple[str, ...]
    """Names of the plans whose runs used it."""
    path: Path


@dataclass(frozen=True)
class Verified:
    """What checking every result gave."""

    whole: int
    damaged: dict[Path, str]
    """What is wrong, by folder."""
    busy: int
    """Results that a run was making or checking at that moment."""


def survey(store: Store) -> tuple[Kept, ...]:
    """Everything in the store, least recently used first; read from the entries, which are not verified."""
    results = [_result(folder) for folder in _folders(store)]
    unfinished = [_unfinished(folder) for folder in sorted((store.root / "scratch").glob("*"))]
    return tuple(sorted((each for each in (*results, *unfinished) if each), key=lambda kept: (kept.used_seconds, kept.key)))


def verify(store: Store) -> Verified:
    """Check every result against its digest; a damaged one is made again when a run wants it.

    Raises:
        StoreError: a newer version of this program wrote a result.
    """
    whole, busy, damaged = 0, 0, dict[Path, str]()
    for folder in _folders(store):
        with tried(store.lock(folder.name), work="verifying") as ours:
            if not ours:
                busy += 1
                continue
            try:
                read_entry(folder)
                whole += 1
            except DamagedEntry as damage:
                damaged[folder] = str(damage)
    return Verified(whole, damaged, busy)


def prune(
    store: Store,
    *,
    older_than_seconds: float | None = None,
    to_bytes: int | None = None,
    plan: str | None = None,
    dry_run: bool = False,
) -> tuple[Kept, ...]:
    """Remove what was not used for a time, what only one plan used, or the least recently used until the rest fits.

    Several conditions narrow one another. Nothing that a living run has used is touched, nor what a step is being made from.

    Args:
        older_than_seconds: only what was last used longer ago than this.
        to_bytes: stop as soon as the whole store is no larger than this.
        plan: only what runs of the plan of this name used, and those of no other plan.
        dry_run: remove nothing.

    Returns:
        What was removed, or would be.
    """
    with store.running():
        spared_from = min(taken_at(store.root / "runs")) / 1e9  # the oldest living run's start
        kept = survey(store)
        left, gone = sum(each.bytes for each in kept), []
        for each in kept:
            if to_bytes is not None and left <= to_bytes:
                break
            if plan is not None and each.plans != (plan,):
                continue
            if older_than_seconds is not None and each.used_seconds > time.time() - older_than_seconds:
                continue
            if each.used_seconds < spared_from and (dry_run or _removed(store, each, spared_from)):
                gone.append(each)
                left -= each.bytes
        return tuple(gone)


def check_plan(store: Store, plan: str) -> None:
    """Refuse the name of a plan by which no result is known.

    Raises:
        StoreError: there is none of it; the message has a near name.
    """
    known = {name for each in survey(store) for name in each.plans}
    if plan not in known:
        raise StoreError(f"no result in {store.root} was used by a plan named '{plan}'{did_you_mean(plan, known)}")


def seconds_of(text: str) -> float:
    """Seconds of a span of time: `45m`, `12h`, `30d`, `2w`.

    Raises:
        StoreError: it is no span of time.
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([mhdw])", text.strip())
    if not found:
        raise StoreError(f"'{text}' is no span of time: write 45m, 12h, 30d or 2w")
    return float(found[1]) * SECONDS[found[2]]


def bytes_of(text: str) -> int:
    """Bytes of a size: `5GB`, `500MB`, `1.5GiB`, `0B`.

    Raises:
        StoreError: it is no size.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]?i?B)", text.strip(), re.IGNORECASE)
    if not found:
        raise StoreError(f"'{text}' is no size: write 5GB, 500MB or 1.5GiB")
    return int(float(found[1]) * BYTES[found[2].upper()])


def _folders(store: Store) -> Iterator[Path]:
    yield from sorted((store.root / "results").glob("??/*"))


def _result(folder: Path) -> Kept | None:
    try:
        used = (
            {path.name: path.lstat().st_mtime_ns / 1e9 for path in (folder / USED).iterdir()} if (folder / USED).is_dir() else {}
        )
        step, made, seconds = _noted(folder)
        return Kept(
            key=folder.name,
            step=step,
            made=made,
            used_seconds=max(used.values(), default=folder.lstat().st_mtime_ns / 1e9),
            bytes=_bytes(folder),
            seconds=seconds,
            plans=tuple(sorted(used)),
            path=folder,
        )
    except FileNotFoundError:  # removed meanwhile
        return None


def _noted(folder: Path) -> tuple[str, str, float]:
    try:
        entry = json_in(folder / ENTRY)
        return str(entry["parts"].get("step", "remembered")), str(entry["made"]), float(entry["seconds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "(damaged)", "", 0.0


def _unfinished(folder: Path) -> Kept | None:
    try:
        used = max(path.lstat().st_mtime_ns / 1e9 for path in (folder, *folder.rglob("*")))
        return Kept(folder.name, UNFINISHED, "", used, _bytes(folder), 0.0, (), folder)
    except FileNotFoundError:
        return None


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()) if not folder.is_symlink() else 0


def _removed(store: Store, kept: Kept, spared_from: float) -> bool:
    """Remove it under its lock, unless it is in use after all."""
    with tried(store.lock(kept.key), work="pruning") as ours:
        if not ours:
            return False
        now = _unfinished(kept.path) if kept.step == UNFINISHED else _result(kept.path)
        if now is None or now.used_seconds >= spared_from:
            return False
        (remove if kept.step == UNFINISHED else discard)(kept.path)
        return True
