"""Where the store lies that a user has without naming one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from compressor.store.store import NO_PLAN, Store


def open_store(path: Path | None, *, plan: str | None = None, tell: Callable[[str], None] = lambda _: None) -> Store:
    """The store at `path`, or the user's own at `$XDG_CACHE_HOME/compressor`.

    Raises:
        StoreError: another folder is there.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    opened = Store(path or cache / "compressor", plan=plan or NO_PLAN, tell=tell)
    opened.check()
    return opened
