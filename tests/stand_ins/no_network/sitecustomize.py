"""Put on PYTHONPATH, this is run by every Python process as it starts: none gets at the network, and who asks is written down.

An audit hook hears what any Python code asks of the sockets below it. What native code asks, the kernel counts (`COUNTERS`).
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path

ASKED = frozenset(
    {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
)


def refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event not in ASKED or (arguments and getattr(arguments[0], "family", None) == socket.AF_UNIX):
        return
    asked = f"{event} {arguments[-1] if event == 'socket.connect' else arguments}"
    with Path(os.environ["NETWORK_LOG"]).open("a", encoding="utf-8") as log:
        log.write(f"{asked}\n{''.join(traceback.format_stack(limit=12))}\n")
    raise ConnectionRefusedError(f"no network here: {asked}")


sys.addaudithook(refuse)
