"""`compressor demo`: a page that shows a compressed model beside its source; what draws it is found by its entry point."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from compressor.cli_store import say

app = typer.Typer()
GROUP, NAME = "compressor.command", "demo"
"""The entry point of what serves the page."""
MISSING = "a demo needs gradio: pip install 'compressor-toolchain[demo]'"


@app.command()
def demo(
    what: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, an exported folder, or a folder of runs.")],
    target: Annotated[str | None, typer.Option("--target", help="Name of a target of the run; the best accepted one.")] = None,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Where it listens; a free port.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address for others to reach it by; needs --auth.")] = None,
    auth: Annotated[str | None, typer.Option("--auth", metavar="USER:PASSWORD", help="Who may use it.")] = None,
    space: Annotated[Path | None, typer.Option("--space", help="Write a folder for a Gradio host, and serve nothing.")] = None,
    record: Annotated[
        Path | None, typer.Option("--record", help="Write screenshots here, of each run of a folder too, and end.")
    ] = None,
) -> None:
    """Open a page: your own input, both answers, the honest speed, and the rows on which they differ. Ctrl-C ends it."""
    if host and not auth and not is_loopback(host):
        raise typer.BadParameter(f"others can reach {host}: say who may use it by --auth USER:PASSWORD", param_hint="--host")
    user, _, password = (auth or "").partition(":")
    if auth and not (user and password):
        raise typer.BadParameter("expected USER:PASSWORD", param_hint="--auth")
    who = (user, password) if auth else None
    _served()(what, target=target, port=port, host=host, auth=who, space=space, record=record, say=say)


def is_loopback(host: str) -> bool:
    """Whether an address is one that only this machine itself reaches."""
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name, which may lead anywhere
        return host == "localhost"


def _served() -> Any:
    """What serves the page.

    Raises:
        MissingDependency: it, or gradio, is not installed.
    """
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    from compressor.errors import MissingDependency

    found = next(iter(entry_points(group=GROUP, name=NAME)), None)
    if found is None or find_spec("gradio") is None:
        raise MissingDependency(MISSING)
    return found.load()
