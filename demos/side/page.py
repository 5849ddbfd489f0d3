"""A page: how it looks, what it may do, and where it listens."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demos.side.bounds import MOST_BYTES
from demos.side.uploads import Uploads

LOOPBACK = "127.0.0.1"
UPLOADS_KEPT_SECONDS = 3600
LOOKED_AFTER_SECONDS = 600
MOST_WAITING = 64
"""Requests that wait for their turn; more are told to come again."""
SWITCHES = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
"""Nothing is reported to anybody."""
ANNOUNCED = "() => document.querySelectorAll('.live:not(.live .live)').forEach(each => each.setAttribute('aria-live', 'polite'))"
"""Screen readers read out what changes there."""
LAUNCH: dict[str, Any] = {
    "share": False,
    "prevent_thread_lock": True,
    "quiet": True,
    "show_error": True,
    "max_file_size": MOST_BYTES,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
    "enable_monitoring": False,
    "run_history": False,
    "footer_links": [],
    "js": ANNOUNCED,
}
"""No door but the page: whatever the environment says of shares, other servers and tools."""
STYLE = Path(__file__).with_name("page.css")
SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
MONO = ["ui-monospace", "Menlo", "Noto Sans Mono", "monospace"]
"""Fonts that lie on the machine: none is asked for elsewhere."""


@contextmanager
def uploads() -> Iterator[Path]:
    """A folder for files of the page; beside it lies what users upload, of which the old goes. Both are gone when the page is, whatever
    ends it: a process that is told to end, or whose terminal was closed, leaves them no more than Ctrl-C does."""
    os.environ.update(SWITCHES)  # gradio reads them when it is imported
    for number in _ends():
        signal.signal(number, _exit)
    with tempfile.TemporaryDirectory(prefix="compressor-demo-") as folder:
        uploaded, own = Path(folder, "uploads"), Path(folder, "own")
        uploaded.mkdir()
        own.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(uploaded)
        yield own


@contextmanager
def served(
    title: str,
    draw: Callable[[], None],
    *,
    host: str = LOOPBACK,
    port: int | None = None,
    auth: tuple[str, str] | None = None,
) -> Iterator[str]:
    """Serve the page that `draw` fills, until the block ends.

    Args:
        title: of the page.
        draw: adds what is on it.
        host: the address it listens at.
        port: None for a free one.
        auth: a user's name and password, where others reach it.

    Yields:
        Its address.
    """
    import gradio as gr
    import safehttpx
    from starlette.middleware import Middleware

    from demos.side.panel import closed

    safehttpx.async_validate_url = _nowhere  # all that gradio would fetch for whoever names an address passes here
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(LOOKED_AFTER_SECONDS, UPLOADS_KEPT_SECONDS)) as blocks:
        draw()
        blocks.unload(closed)
    blocks.queue(default_concurrency_limit=1, max_size=MOST_WAITING)
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        auth=auth,
        app_kwargs={"middleware": [Middleware(Uploads, given=lambda: blocks.upload_file_set)]},
        **LAUNCH,
        theme=gr.themes.Default(primary_hue="blue", font=SANS, font_mono=MONO),
        css=STYLE.read_text(encoding="utf-8"),
    )
    try:
        yield address
    finally:
        blocks.close(verbose=False)


async def _nowhere(host: str) -> str:
    """Refuse an address before anybody is asked where it is."""
    raise ValueError(f"nothing is fetched from {host[:80]}: upload a file")


def heading(title: str, text: str) -> None:
    """What the page opens with."""
    from html import escape

    from demos.side.panel import html

    html(f"<h1>{escape(title)}</h1><p>{escape(text)}</p>", elem_classes="head")


def await_end() -> None:
    """Wait for Ctrl-C, or to be told to end."""
    ended = threading.Event()
    for number in (signal.SIGINT, *_ends()):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


def _ends() -> list[signal.Signals]:
    """Signals that end a process at once unless it hears them; `nohup` has it live on when its terminal is closed."""
    named = (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP"))
    return [each for each in named if each is not None and signal.getsignal(each) is not signal.SIG_IGN]


def _exit(number: int, _: object) -> None:
    raise SystemExit(128 + number)
