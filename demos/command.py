"""`compressor demo`: serves the page of a folder until Ctrl-C."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compressor.cli_demo import is_loopback
from compressor.errors import CompressorError, StoreError
from demos.side.page import LOOPBACK, await_end, served, uploads

EXPOSED = (
    "whoever reaches {address} and knows the password can use the models, read test rows and download report and export; "
    "the connection is not encrypted"
)


def check_address(host: str, port: int | None) -> None:
    """Refuse an address before anything is loaded.

    Raises:
        StoreError: it is not this machine's, or another program listens there.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port or 0), family=family).close()
    except OSError as error:
        at = f", port {port}," if port else ""
        raise StoreError(
            f"{host}{at} cannot be listened at: {error.strerror or error}; choose another by --host or --port"
        ) from error


def alive_seconds() -> float:
    """How long this process has been running: what a page takes to be there, as models load in processes of their own."""
    import psutil

    return time.time() - float(psutil.Process().create_time())


def demo(
    what: Path,
    *,
    target: str | None = None,
    port: int | None = None,
    host: str | None = None,
    auth: tuple[str, str] | None = None,
    space: Path | None = None,
    record: Path | None = None,
    say: Callable[[str], Any] = print,
) -> None:
    """Serve the page of a run, of an export or of a folder of runs.

    Args:
        what: the folder.
        target: of a run; the one that is exported unless given.
        port: a free one unless given.
        host: the address it listens at; loopback unless given.
        auth: a user's name and password; asked for where others reach it.
        space: a folder to write for a host of Gradio programs; nothing is served then.
        record: a folder for screenshots of the page, and of a folder of runs for those of each; it is served only for them.
        say: hears where it listens.

    Raises:
        StoreError: the folder is none of these, or something in it was altered.
        MissingDependency: this machine lacks what its models run on, or what takes screenshots.
        UnsupportedModel: a hosted demo cannot feed the models.
    """
    if space:
        from demos.space import write_space

        say(f"{write_space(what, target, space)}: both models and test rows of the run: publish it where both may be")
        return
    if record:
        with uploads() as media:
            for line in recorded(what, target, record, media):
                say(line)
        return
    check_address(host or LOOPBACK, port)
    with ExitStack() as stack:
        media = stack.enter_context(uploads())
        from demos.pages import page_of  # gradio reads the environment, which is set now, when it is imported

        page = page_of(what, target, media, stack)
        address = stack.enter_context(served(page.title, page.draw, host=host or LOOPBACK, port=port, auth=auth))
        if host and not is_loopback(host):
            say(EXPOSED.format(address=address))
        say(f"{page.title}: {address}   (there after {alive_seconds():.1f} s; its models load meanwhile; Ctrl-C ends it)")
        await_end()


def recorded(what: Path, target: str | None, out: Path, media: Path) -> Iterator[str]:
    """Write screenshots of the page of a folder, and of a folder of runs those of each run too, below its name.

    Yields:
        The path of each; for a run that cannot be shown here why.

    Raises:
        MissingDependency: nothing takes screenshots here.
    """
    from demos.pages import page_of, runs_in
    from demos.record import record_page

    with ExitStack() as stack:
        page = page_of(what, target, media, stack)
        address = stack.enter_context(served(page.title, page.draw))
        yield from map(str, record_page(address, out))
    for name, folder in runs_in(what).items():
        with TemporaryDirectory(dir=media) as own:
            try:
                yield from recorded(folder, target, out / name, Path(own))
            except CompressorError as error:
                yield f"{name}: {error}"
