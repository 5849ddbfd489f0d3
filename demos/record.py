"""Screenshots of a page, made by a browser without a window: light, dark and narrow, for documents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.errors import MissingDependency

WIDE, NARROW = {"width": 1100, "height": 1000}, {"width": 390, "height": 900}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": WIDE},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "narrow": {"viewport": NARROW},
}
ANSWERED = "#meter .how"
"""Is there once both models have answered and were timed."""
REFUSED = "#status .trouble"
GIVEN = """() => [...document.querySelectorAll('textarea')].some(each => each.value)
    || document.querySelector("[aria-label='Remove Image'], [data-testid^='waveform']")"""
"""Is true once a panel holds something."""
DRAWN = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
SECONDS = 120
FLAGS = ("--no-sandbox", "--disable-quic", "--disable-gpu")
BROWSERS = ("chromium", "google-chrome", "chromium-browser")


@contextmanager
def browser(*flags: str) -> Iterator[Any]:
    """Chromium of this machine, driven by Playwright; `flags` are further ones of its command line.

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
        opened = driver.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield opened
        finally:
            opened.close()


def record_page(address: str, out: Path) -> Iterator[Path]:
    """Write a picture of each tab, and of the first one in dark and on a narrow screen; with the first example answered, or two runs compared.

    Raises:
        MissingDependency: there is no browser, or nothing that drives one.
    """
    out.mkdir(parents=True, exist_ok=True)
    with browser() as opened:
        for name, look in LOOKS.items():
            page = opened.new_page(**look)
            page.set_default_timeout(1000 * SECONDS)
            page.goto(address)
            page.wait_for_selector("#compare, #runs")
            several = page.locator("#runs").count() > 0
            if not several:
                answered(page)
            yield _shot(page, out / f"{'runs' if several else 'try'}-{name}.png")
            if name == "light":
                yield from _tabs(page, out)
            page.close()


def _tabs(page: Any, out: Path) -> Iterator[Path]:
    """All but the first."""
    for tab in page.get_by_role("tab").all()[1:]:
        words = "-".join(tab.inner_text().lower().split())
        tab.click()
        page.locator("[role=tabpanel]:visible").first.wait_for()
        if words == "compare-two":
            _compare(page)
        yield _shot(page, out / f"{words}.png")


def _compare(page: Any) -> None:
    """Have the first two runs of a gallery compared, where there are two."""
    for number, label in enumerate(("One run", "Another run")):
        page.get_by_label(label, exact=True).click()
        options = page.get_by_role("option")
        options.first.wait_for()
        options.nth(min(number, options.count() - 1)).click()
    page.locator("#comparison h3, #comparison .trouble").first.wait_for()


def answered(page: Any) -> None:
    """Have the models answer the first example, or a text where there is none; a panel of files that has none says what it takes."""
    if page.locator("#examples").count():
        page.locator("#examples input").click()
        page.get_by_role("option").first.click()
        page.wait_for_function(GIVEN)
    else:
        for box in page.locator("textarea").all():
            box.fill("The match ended in a draw.")
    page.locator("#compare").click()
    page.wait_for_selector(f"{ANSWERED}, {REFUSED}")


def _shot(page: Any, path: Path) -> Path:
    page.evaluate(DRAWN)
    page.screenshot(path=str(path), full_page=True)
    return path
