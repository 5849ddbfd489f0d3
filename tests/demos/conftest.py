"""Runs of tiny models, made once when a test first asks for one, and a browser."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from demo_pages import MILLISECONDS, TARGET, make_run, serving, visiting

from compressor.export import export

DEVICES = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
"""A camera and a microphone that nobody has to allow."""


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The folder of a run by the name of its kind of task."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            made[name] = make_run(name, tmp_path_factory.mktemp(name))
        return made[name]

    return run


@pytest.fixture(scope="session")
def exports(runs):
    """The export of a run's compressed model, by the name of its kind of task."""

    def made(name: str) -> Path:
        out = runs(name).parent / "export"
        return out if out.exists() else export(runs(name), TARGET, out)

    return made


@pytest.fixture(scope="session")
def browser():
    from demos.record import BROWSERS
    from demos.record import browser as opened

    if not any(map(shutil.which, BROWSERS)):  # CI ends before its tests then
        pytest.skip(f"none of {', '.join(BROWSERS)} on the PATH")
    from playwright.sync_api import expect

    expect.set_options(timeout=MILLISECONDS)
    with opened(*DEVICES) as found:
        yield found


@pytest.fixture(scope="module")
def pages(runs, tmp_path_factory):
    """The page of a run, served once for all tests of a file."""
    folder = tmp_path_factory.mktemp("asked")
    with ExitStack() as stack:
        open_ = {}

        def page(name):
            if name not in open_:
                open_[name] = stack.enter_context(serving(runs(name), log=folder / f"{name}.txt"))
            return open_[name]

        yield page


@pytest.fixture
def visit(browser, pages):
    """A tab of the browser on the page of a run, by the name of its kind of task."""
    with ExitStack() as stack:
        yield lambda name, **look: stack.enter_context(visiting(browser, pages(name).address, **look))
