"""Run by every Python process as it starts: it reaches no machine but this one, and what asks for another is written down."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

HERE = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "")
NAMES = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
CALLS = frozenset({"socket.connect", "socket.sendto"})


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event in NAMES:
        host = str(arguments[0] or "")
    elif event in CALLS:
        if getattr(arguments[0], "family", None) == socket.AF_UNIX or not isinstance(arguments[-1], tuple):
            return
        host = str(arguments[-1][0])
    else:
        return
    if host.strip("b'") not in HERE:
        with Path(os.environ["NETWORK_LOG"]).open("a", encoding="utf-8") as log:
            log.write(f"{event} {host}\n")
        raise ConnectionRefusedError(f"no network here: {event} {host}")


sys.addaudithook(refuse)
