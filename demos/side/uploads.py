"""What users upload: it goes with the tab that gave it, and is bounded in bytes over all users."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from demos.side.bounds import MOST_BYTES

MOST_TOGETHER = 500 * 2**20
"""Bytes of all files that users have here at a time."""
AROUND = 2**16
"""Bytes that a form has beside its file, at most."""
HEARD_OUT = 64 * 2**20
"""Bytes of a refused upload that are read and dropped: browsers show an answer only once they have sent everything."""
ROUTE = "/upload"
NAME = "demos.uploads"
"""Under which requests lead to the `Uploads` of their page."""
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Uploads:
    """Stands before a page: refuses an upload, before any of it is kept, where it or all together would be too many bytes."""

    def __init__(self, app: App, given: Callable[[], Iterable[str]]) -> None:
        """Stand before `app`, whose users gave the files at the paths `given`."""
        self._app = app
        self._given = given
        self._coming = 0
        """Bytes of forms that are being read."""
        self._tabs: dict[Path, set[str]] = {}
        """Those that have a file: what two of them gave alike lies at one path."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        scope[NAME] = self
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith(ROUTE):
            await self._app(scope, receive, send)
            return
        heads = dict(scope["headers"])
        # what comes in chunks may be longer than it says
        length = b"" if b"transfer-encoding" in heads else heads.get(b"content-length", b"")
        size = int(length) if length.isdigit() else MOST_BYTES + AROUND
        if size > MOST_BYTES + AROUND:
            await _refuse(receive, send, size, 413, f"at most {MOST_BYTES / 2**20:.0f} MB are taken here")
        elif not length.isdigit():
            await _refuse(receive, send, size, 411, "an upload says how long it is")
        elif self._coming + size + sum(map(_size, list(self._given()))) > MOST_TOGETHER:
            await _refuse(receive, send, size, 507, "there is no room for more files now: come again in a while")
        else:
            self._coming += size
            try:
                await self._app(scope, receive, send)
            finally:
                self._coming -= size

    def keep(self, path: Path, tab: str) -> None:
        """A tab has a file."""
        self._tabs.setdefault(path, set()).add(tab)

    def leave(self, tab: str) -> None:
        """A tab was closed: files that no other one has are deleted."""
        for path, tabs in list(self._tabs.items()):
            tabs.discard(tab)
            if not tabs:
                self._tabs.pop(path, None)
                with suppress(OSError):
                    path.unlink()


def _size(path: str) -> int:
    """Of a file; 0 where it was deleted."""
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


async def _refuse(receive: Receive, send: Send, size: int, status: int, why: str) -> None:
    """Answer; who sends far too much is not heard out, and sees the connection end."""
    more, heard = size <= HEARD_OUT, 0
    while more and heard <= HEARD_OUT:
        message = await receive()
        heard += len(message.get("body", b""))
        more = bool(message.get("more_body"))
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": why.encode()})
