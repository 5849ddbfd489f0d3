"""What people meet beside one run's page: a camera and a microphone, others who wait, exports, galleries of runs, screenshots, plug-ins."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from demo_pages import compared, example_says, filled, make_run, serving, told, visiting
from PIL import Image
from playwright.sync_api import expect

from compressor.errors import UnsupportedModel
from demos.space import write_space

# ------------------------------------------------------------------ a camera and a microphone


def given_file(page, shown):
    """What a panel holds: a file that the browser has uploaded."""
    return Path(unquote(page.locator(shown).first.get_attribute("src").partition("file=")[2]))


def test_a_picture_that_is_taken_is_answered_as_by_the_example(visit, exports):
    page = visit("image")
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('[data-testid=webcam-video]')?.videoWidth > 0")  # it shows something to take
    page.get_by_label("capture photo").click()
    filled(page)
    taken = given_file(page, "[data-testid=image] img, .image-frame img, .image-container img")
    compared(page)
    assert told(page, "Compressed") == example_says(exports("image"), str(taken))


def test_a_sound_that_is_recorded_is_answered_as_by_the_example(visit, exports):
    page = visit("audio")
    page.get_by_label("Record audio").click()
    page.get_by_role("button", name="Record", exact=True).click()
    stop = page.get_by_role("button", name="Stop", exact=True)
    stop.wait_for()
    page.wait_for_timeout(500)  # of sound
    with page.expect_response(re.compile("/upload")) as sent:
        stop.click()
    page.get_by_label("Play", exact=True).wait_for()
    (recorded,) = sent.value.json()
    compared(page)
    assert told(page, "Compressed") == example_says(exports("audio"), recorded)


# ------------------------------------------------------------------ others


def test_whoever_waits_for_others_sees_the_place(visit):
    pages = [visit("text") for _ in range(3)]
    for number, page in enumerate(pages):
        page.get_by_label("Text", exact=True).fill(f"word{number} red")
    for page in pages:
        page.locator("#compare").click()
    expect(pages[2].locator("#status")).to_contain_text(re.compile(r"queue: \d/\d"))
    for page in pages:
        page.wait_for_selector("#meter .how")


def test_an_upload_goes_with_the_last_tab_that_has_it(browser, runs, tmp_path):
    picture = min((runs("image").parent / "images" / "red").glob("*.png"))
    with serving(runs("image"), log=tmp_path / "asked.txt") as served:
        tabs = [visiting(browser, served.address) for _ in range(2)]
        for tab in tabs:
            page = tab.__enter__()
            with page.expect_response(re.compile("/run/predict")):  # the page is told whose it is
                page.locator("input[type=file]").first.set_input_files(str(picture))
        uploads = tmp_path / "asked.tmp"
        (lies,) = uploads.glob(f"compressor-demo-*/uploads/*/{picture.name}")
        tabs[0].__exit__(None, None, None)
        time.sleep(1)
        assert lies.is_file(), "somebody else has it still"
        tabs[1].__exit__(None, None, None)
        deadline = time.monotonic() + 60
        while lies.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)


# ------------------------------------------------------------------ an export


def test_an_export_is_shown_alone_and_answers_as_its_example(browser, exports, tmp_path):
    folder = exports("text")
    with serving(folder, log=tmp_path / "asked.txt") as served, visiting(browser, served.address) as page:
        assert "there is no source to set beside it" in page.locator(".note p").inner_text()
        page.get_by_label("Text", exact=True).fill("word1 red word2")
        compared(page)
        assert told(page, "Compressed") == example_says(folder, "word1 red word2")
        assert page.locator("#meter dd").count() == 1, "a time, and no ratio"
        page.get_by_role("tab", name="What it is").click()
        sums = [line.split("  ", 1) for line in (folder / "SHA256SUMS").read_text().splitlines()]
        page.get_by_text(sums[0][0]).wait_for()
        shown = page.locator("body").inner_text()
        assert all(f"{name}\t{digest}" in shown for digest, name in sums)


# ------------------------------------------------------------------ a folder of runs


@pytest.fixture(scope="module")
def several(runs, tmp_path_factory):
    """Two runs, and one whose report cannot be read."""
    folder = tmp_path_factory.mktemp("several")
    shutil.copytree(runs("text"), folder / "first")
    shutil.copytree(runs("image"), folder / "later" / "second")
    (folder / "hurt").mkdir()
    (folder / "hurt" / "report.json").write_text("{}")
    return folder


def test_runs_are_filtered_opened_and_compared(browser, several, exports, tmp_path):
    with serving(several, log=tmp_path / "asked.txt") as served, visiting(browser, served.address, "#runs table") as page:
        rows = page.locator("#runs th[scope=row]")
        assert rows.all_inner_texts() == ["first", "hurt", "later/second"]
        assert "damaged" in page.locator("#runs").inner_text()
        page.get_by_label("Filter").fill("seco multi")
        expect(page.locator("#runs")).to_contain_text("No such run.")
        page.get_by_label("Filter").fill("second")
        expect(rows).to_have_text(["later/second"])
        page.get_by_role("tab", name="Compare two").click()
        for label, name in (("One run", "first"), ("Another run", "later/second")):
            page.get_by_label(label, exact=True).click()
            page.get_by_role("option", name=name, exact=True).click()
            expect(page.get_by_role("option")).to_have_count(0)  # the list is closed before the next one opens
        expect(page.locator("#comparison")).to_contain_text("What differs between the runs")
        page.get_by_role("tab", name="Runs", exact=True).click()
        page.get_by_label("Open a run").click()
        page.get_by_role("option", name="first", exact=True).click()
        page.get_by_label("Text", exact=True).fill("word1 red word2")
        compared(page)
        assert told(page, "Compressed") == example_says(exports("text"), "word1 red word2")
        page.get_by_role("tab", name="Where they differ").click()
        page.wait_for_selector("#rows input")


def test_screenshots_are_taken_of_a_folder_and_of_each_run_of_it(several, tmp_path, browser):
    folder = shutil.copytree(several, tmp_path / "runs", ignore=shutil.ignore_patterns("first"))
    command = [sys.executable, "-m", "compressor.cli", "demo", str(folder), "--record", "shots"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    looks = {"try-light.png", "try-dark.png", "try-narrow.png", "where-they-differ.png", "what-happened.png"}
    gallery = {"runs-light.png", "runs-dark.png", "runs-narrow.png", "compare-two.png"}
    made = {path.relative_to(tmp_path / "shots").as_posix() for path in (tmp_path / "shots").rglob("*.png")}
    assert made == gallery | {f"later/second/{each}" for each in looks}
    assert re.search(r"hurt: .*report\.json", done.stdout)
    light, dark, narrow = (
        shot(tmp_path / "shots" / "later" / "second" / f"try-{look}.png") for look in ("light", "dark", "narrow")
    )
    assert (light.width, narrow.width) == (1100, 390)
    assert light.getpixel((2, 2)) > 200 > 60 > dark.getpixel((2, 2))


def shot(path):
    with Image.open(path) as found:
        return found.convert("L")


# ------------------------------------------------------------------ plug-ins

TASK = '''
from compressor.contracts import Deployment, Prediction
from compressor.tasks.text_classification import TextClassification

class Moods(TextClassification):
    """Says nothing of how it is fed: it makes inputs of a text, or of a file that holds one."""

    def deployment(self, files, inputs):
        return Deployment("arrays")

    def feed(self, content, files):
        with open(content) if content.endswith(".txt") else nullcontext(StringIO(content)) as file:
            return super().feed(file.read(), files)

    def tell(self, outputs, labels):
        return tuple(Prediction(f"in a {each.text} mood", each.confidence) for each in super().tell(outputs, labels))

from contextlib import nullcontext
from io import StringIO
'''


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A folder in which a distribution is installed that brings a task; its processes find it too."""
    folder = tmp_path / "site"
    (folder / "acme_moods-1.0.dist-info").mkdir(parents=True)
    (folder / "acme_moods-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-moods\nVersion: 1.0\n")
    (folder / "acme_moods-1.0.dist-info" / "entry_points.txt").write_text("[compressor.task]\nmoods = acme_moods:Moods\n")
    (folder / "acme_moods.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_a_plugin_that_feeds_and_tells_has_a_page_and_is_not_hosted(plugins, browser, tmp_path):
    (tmp_path / "moods").mkdir()
    run = make_run("moods", tmp_path / "moods", max_length=16)
    with serving(run, log=tmp_path / "asked.txt", plugins=plugins) as served, visiting(browser, served.address) as page:
        page.get_by_label("Text", exact=True).fill("word1 red word2")
        compared(page)
        said = told(page, "Compressed")
        assert re.fullmatch("in a (red|green|blue) mood", said)
        page.get_by_label("Text", exact=True).fill("")
        with page.expect_response(re.compile("/upload")):
            page.locator("input[type=file]").set_input_files(
                {"name": "a.txt", "mimeType": "text/plain", "buffer": b"word1 red word2"}
            )
        page.locator("[aria-label='a.txt']").wait_for()
        compared(page)
        assert told(page, "Compressed") == said
    with pytest.raises(UnsupportedModel, match="of task moods cannot be hosted: no description says how it is fed"):
        write_space(run, None, tmp_path / "space")
