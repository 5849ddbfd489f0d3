"""Found on PYTHONPATH by every process that a test starts: what it unpickles by name is written down."""

from __future__ import annotations

import os
import sys


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        with open(os.environ["WATCHED_LOG"], "a", encoding="utf-8") as log:  # noqa: PTH123
            log.write(f"{os.getpid()} {'.'.join(map(str, arguments))}\n")


if "WATCHED_LOG" in os.environ:
    with open(os.environ["WATCHED_LOG"], "a", encoding="utf-8") as begun:  # noqa: PTH123
        begun.write(f"{os.getpid()} begun\n")
    sys.addaudithook(_heard)
