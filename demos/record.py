"""Screenshots of a page, made by a browser without a window: light, dark and narrow, for documents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.errors import MissingDependency

WIDE, NARROW = {"width": 1100, "height": 1000}, {"width": 390, "height": 900}
ANSWERED = "#meter .how"
"""Is there once both models have answered and were timed."""
SECONDS = 120
FLAGS = ("--no-sandbox", "--disable-quic", "--disable-gpu")
BROWSERS = ("chromium", "google-chrome", "chromium-browser")


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium of this machine, driven by Playwright.

    Raises:
        MissingDependency: one of them is not here.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise MissingDependency("screenshots need playwright: pip install playwright") from error
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise MissingDependency(f"screenshots need one of {', '.join(BROWSERS)} on the PATH")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield opened
        finally:
            opened.close()


def record_page(address: str, out: Path) -> Iterator[Path]:
    """Write a picture of each tab, and of the first one in dark and on a narrow screen, with the first example answered.

    Raises:
        MissingDependency: there is no browser, or nothing that drives one.
    """
    out.mkdir(parents=True, exist_ok=True)
    with browser() as opened:
        for name, look in (
            ("light", {"viewport": WIDE}),
            ("dark", {"viewport": WIDE, "color_scheme": "dark"}),
            ("narrow", {"viewport": NARROW}),
        ):
            page = opened.new_page(**look)
            page.goto(address)
            answered(page)
            yield _shot(page, out / f"try-{name}.png")
            if name != "light":
                continue
            for tab in page.get_by_role("tab").all()[1:]:
                words = "-".join(tab.inner_text().lower().split())
                tab.click()
                page.wait_for_timeout(500)
                yield _shot(page, out / f"{words}.png")


def answered(page: Any) -> None:
    """Have the models answer the first example, or a text where there is none."""
    page.wait_for_selector("#compare")
    if page.locator("#examples").count():
        page.locator("#examples input").click()
        page.get_by_role("option").first.click()
        page.wait_for_timeout(500)
    else:
        for box in page.locator("textarea").all():
            box.fill("The match ended in a draw.")
    page.locator("#compare").click()
    page.wait_for_selector(ANSWERED, timeout=1000 * SECONDS)


def _shot(page: Any, path: Path) -> Path:
    page.screenshot(path=str(path), full_page=True)
    return path
