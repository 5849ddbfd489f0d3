"""Pages of runs clicked through in Chromium: each task's panel, the rows that differ, how it looks, what strangers upload."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from demo_pages import MILLISECONDS, TASKS, answered, compared, example_draws, example_says, filled, told, trouble, upload
from PIL import Image
from playwright.sync_api import expect

from compressor.report import read_report
from demos.record import DRAWN

TEXTS = {
    "text": {"Text": "word1 red word2"},
    "pair": {"Premise": "word1 red", "Hypothesis": "word2 blue"},
    "labels": {"Text": "word1 red word2"},
    "number": {"First": "word1 red", "Second": "word2 blue"},
    "language": {"Prompt": "word1 red word2"},
}
FILES = {"image": "images/red/*.png", "audio": "sounds/red/*.wav", "features": "sounds/red/*.wav"}
CLASS, SEED = 2, 5
"""Of a picture that is drawn."""
HOSTILE = "<img src=x onerror=\"document.title='taken over'\"><script>document.title='taken over'</script> ${document.title='taken over'} red"


def give(page, name, root):
    """Put the input of a task into its panel, and what the example of its export is called with."""
    if name in FILES:
        path = min((root / FILES[name]).parent.glob(Path(FILES[name]).name))
        upload(page, path)
        return [str(path)]
    if name == "drawing":
        page.get_by_label("Class", exact=True).click()
        page.get_by_role("option").nth(CLASS).click()
        page.get_by_label("Seed", exact=True).fill(str(SEED))
        return []
    for label, text in TEXTS[name].items():
        page.get_by_label(label, exact=True).fill(text)
    return list(TEXTS[name].values())


def drawn(page):
    source = page.locator("#answer-Compressed img.drawn").get_attribute("src")
    with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) as picture:
        return np.asarray(picture, dtype=int)


def assert_timed(page):
    """Both were timed, and it is said whether they agree."""
    times = page.locator("#meter dd").all_inner_texts()
    assert len(times) == 3
    assert all(re.fullmatch(r"[\d.]+ ms", each) for each in times[:2])
    assert re.search(r"faster|slower|no difference|undecided", times[2])
    assert re.search("Agreement|Difference", page.locator("#agreement").inner_text())


# ------------------------------------------------------------------ side by side


@pytest.mark.parametrize("name", TASKS)
def test_answer_of_each_panel_is_that_of_the_exported_example(name, visit, runs, exports):
    page = visit(name)
    words = give(page, name, runs(name).parent)
    compared(page)
    if name == "drawing":
        apart = np.abs(drawn(page) - example_draws(exports(name), CLASS, SEED))
        assert apart.max() <= 1
        assert "levels apart, on average" in page.locator("#agreement").inner_text()
        assert_timed(page)
        return
    said, shown = example_says(exports(name), *words), told(page, "Compressed")
    if name == "features":
        vector = np.array(json.loads(said))
        assert shown == f"{len(vector)} features of length {np.linalg.norm(vector):.4g}"
        assert "cosine of 0.9" in page.locator("#agreement").inner_text()
    elif name == "language":
        (prompt,) = words
        expected = said.removeprefix(prompt)
        assert " ".join(shown.split()) == " ".join(expected.split())
    else:
        assert shown == said
    assert_timed(page)


def test_tokens_stream_one_column_after_the_other(visit, pages):
    page = visit("language")
    page.evaluate(
        "() => { window.seen = []; new MutationObserver(() => window.seen.push(["
        "...['Before', 'Compressed'].map(side => document.querySelector(`#answer-${side} .told`)?.innerText.length ?? 0)]))"
        ".observe(document.querySelector('#answers'), {subtree: true, childList: true, characterData: true}); }"
    )
    page.get_by_label("Prompt").fill("word1 red")
    compared(page)
    before, after = zip(*page.evaluate("window.seen"), strict=True)
    assert len(set(before)) > 5, "it grew"
    assert len(set(after)) > 5
    first = next(at for at, length in enumerate(after) if length)
    assert len(set(before[first:])) == 1, "the second column begins when the first one is whole"


def test_examples_of_the_test_set_fill_the_panel(visit, runs):
    page = visit("text")
    page.locator("#examples input").click()
    page.get_by_role("option").first.wait_for()
    options = page.get_by_role("option").all_inner_texts()
    assert "they differ" in options[0]
    assert any(option.startswith("both agree") for option in options)
    page.get_by_role("option").first.click()
    filled(page)
    rows = [json.loads(line)["text"] for line in (runs("text").parent / "rows.jsonl").read_text().splitlines()]
    assert page.locator("#input-0 textarea").input_value() in rows
    page = visit("image")
    page.locator("#examples input").click()
    page.get_by_role("option").first.click()
    filled(page)
    compared(page)


def test_page_stands_with_the_report_of_the_run(visit, runs):
    page = visit("text")
    page.get_by_label("Text", exact=True).fill("word1 red")
    compared(page)
    assert "The report of the run has" in page.locator("#meter").inner_text()
    page.get_by_role("tab", name="What happened").click()
    page.wait_for_selector("[data-chart=trade-off]")
    text = page.locator("body").inner_text()
    report = read_report(runs("text"))
    for candidate in report.candidates:
        if candidate.id in (f"finetune@{candidate.target}", f"final@{candidate.target}"):
            assert all(file.sha256 in text for file in candidate.files)
    assert report.outcome in text
    assert report.machine.processor in text
    assert page.locator("[data-chart^=waterfall]").count() == 1
    assert page.locator("[data-chart=trade-off]").count() == 1
    with page.expect_download() as download:
        page.get_by_role("button", name="Download report.json").click()
    assert json.loads(Path(download.value.path()).read_text())["name"] == report.name
    page.get_by_role("button", name="Make the export").click()
    with page.expect_download(timeout=MILLISECONDS) as download:
        page.get_by_role("button", name="Download the export").click(timeout=MILLISECONDS)
    with zipfile.ZipFile(download.value.path()) as made:
        assert {"model.onnx", "example.py", "SHA256SUMS", "LICENSES.md"} <= set(made.namelist())


# ------------------------------------------------------------------ where they differ


def test_rows_that_differ_are_those_of_the_report(visit, runs, tmp_path):
    listed = [each for each in read_report(runs("text")).disagreements if each.candidate.startswith("final@")]
    assert len(listed) > 1
    page = visit("text")
    page.get_by_role("tab", name="Where they differ").click()
    page.wait_for_selector("#rows input")
    lines = page.locator("#rows label").all_inner_texts()
    assert [int(re.match(r"Row (\d+)", line)[1]) for line in lines] == [each.row for each in listed]
    for line, each in zip(lines, listed, strict=True):
        assert re.search(rf"truly {each.label}: {each.reference} \([\d.]+ %\) → {each.final} \([\d.]+ %\)", line)
    kind = listed[0].kind
    words = {"broken": "made it wrong", "mended": "made it right", "both wrong": "Both are wrong"}[kind]
    page.locator("#kind label", has_text=words).click()
    expect(page.locator("#rows input")).to_have_count(sum(each.kind == kind for each in listed))
    page.get_by_label("True class").click()
    page.get_by_role("option", name=listed[0].label, exact=True).click()
    expect(page.locator("#rows input")).to_have_count(sum((each.kind, each.label) == (kind, listed[0].label) for each in listed))
    page.locator("#rows input").first.check()
    page.wait_for_selector("#download-rows >> text=the 1 chosen")
    with page.expect_download() as download:
        page.locator("#download-rows").click()
    rows = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert [(row["label"], row["before"], row["compressed"]) for row in rows] == [
        (listed[0].label, listed[0].reference, listed[0].final)
    ]
    page.get_by_role("button", name="Try the first chosen row").click()
    page.wait_for_function("document.querySelector('#input-0 textarea').value.length > 0")
    assert page.locator("#input-0 textarea").input_value() == rows[0]["text"]


def test_rows_without_classes_are_listed_by_how_much_they_changed(visit):
    page = visit("language")
    page.get_by_role("tab", name="Where they differ").click()
    page.wait_for_selector("#rows input")
    assert re.search(r"perplexity -?[\d.e+-]+ → perplexity", page.locator("#rows label").first.inner_text())


# ------------------------------------------------------------------ how it looks, and for whom


@pytest.mark.parametrize("tab", ["Try it", "Where they differ", "What happened"])
def test_page_fits_a_phone(tab, visit):
    page = visit("text", viewport={"width": 390, "height": 800})
    menu = page.get_by_role("tab", name=tab)
    menu.click()
    page.locator("[role=tabpanel]:visible").first.wait_for()
    expect(menu).to_have_attribute("aria-selected", "true")
    page.evaluate(DRAWN)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_dark_is_dark_and_light_is_light(visit):
    look = "getComputedStyle(document.body).backgroundColor"
    dark, light = (visit("text", color_scheme=scheme).evaluate(look) for scheme in ("dark", "light"))
    assert max(map(int, re.findall(r"\d+", dark)[:3])) < 60
    assert min(map(int, re.findall(r"\d+", light)[:3])) > 200


def test_page_is_used_by_keyboard_alone(visit):
    page = visit("text")

    def reach(matches, most=30):
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate(f"(() => {{ const at = document.activeElement; return {matches}; }})()"):
                return
        raise AssertionError(f"not reached: {matches}")

    reach("at.tagName === 'TEXTAREA'")
    page.keyboard.type("word1 red")
    reach("at.id === 'compare'")  # past the list of examples, which is no choice of one
    page.keyboard.press("Enter")
    answered(page)
    assert page.locator("#input-0 textarea").input_value() == "word1 red"
    page.keyboard.press("Home")
    page.evaluate("document.activeElement.blur()")
    reach("at.getAttribute('role') === 'tab'")
    page.get_by_role("tab", name="Where they differ").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#rows input")
    reach("at.type === 'checkbox'", 60)
    page.keyboard.press("Space")
    page.wait_for_selector("#download-rows >> text=the 1 chosen")


def test_what_changes_is_announced_and_every_field_has_a_name(visit):
    page = visit("text")
    assert page.locator("#status[aria-live=polite]").count() == 1
    assert page.locator("#answer-Compressed[aria-live=polite]").count() == 1
    nameless = page.evaluate(
        "[...document.querySelectorAll('textarea, input:not([type=hidden])')].filter(each => each.offsetParent && "
        "!each.labels?.length && !each.ariaLabel && !each.closest('label')).map(each => each.outerHTML)"
    )
    assert nameless == []


# ------------------------------------------------------------------ what people do


def test_empty_input_is_said_and_nothing_is_asked(visit):
    assert trouble(visit("text")) == "Type a text first."
    assert trouble(visit("image")) == "Choose a picture, or take one."
    page = visit("pair")
    page.get_by_label("Premise").fill("word1")
    assert trouble(page) == "Type both texts first."


@pytest.mark.parametrize("seed", ["", "-1", "2147483648"])
def test_a_seed_that_is_none_is_refused_with_the_reason(seed, visit):
    page = visit("drawing")
    page.get_by_label("Seed", exact=True).fill(seed)
    assert "Choose a class, and a whole number from 0 to 2,147,483,647 as seed." in trouble(page)


def test_html_in_a_text_is_shown_as_text(visit):
    page = visit("text")
    title = page.title()
    page.get_by_label("Text", exact=True).fill(HOSTILE)
    compared(page)
    page.wait_for_timeout(300)
    assert page.title() == title


def test_a_text_too_long_is_refused(visit):
    page = visit("text")
    page.get_by_label("Text", exact=True).fill("red " * 6000)
    assert re.search(r"24,000 characters; at most 20,000", trouble(page))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb():
    """A PNG of a few kB whose pixels would fill 2.5 GB."""
    width = height = 50_000
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def zipped():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("a.txt", "no picture")
    return made.getvalue()


SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>document.title='taken over'</script></svg>"
PLAIN, DEEP = io.BytesIO(), io.BytesIO()
Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(PLAIN, "PNG")
Image.fromarray(np.zeros((16, 16), dtype=np.uint16)).save(DEEP, "PNG")


@pytest.mark.parametrize(
    ("name", "kind", "content", "why"),
    [
        ("bomb.png", "image/png", bomb(), "too many pixels"),
        ("zip.png", "image/png", zipped(), "no picture that can be read"),
        ("script.svg", "image/svg+xml", SVG, "no picture that can be read"),
        ("cut.png", "image/png", PLAIN.getvalue()[:300], "cannot be read as an image|no picture that can be read"),
        ("deep.png", "image/png", DEEP.getvalue(), "more than 8 bits a channel"),
        ("empty.png", "image/png", b"", "file is empty|Choose a picture"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_hostile_picture_is_refused_with_the_reason(name, kind, content, why, visit, pages):
    page = visit("image")
    title, resident = page.title(), psutil.Process(pages("image").process.pid).memory_info().rss
    upload(page, {"name": name, "mimeType": kind, "buffer": content})
    assert re.search(why, trouble(page))
    assert page.title() == title
    assert psutil.Process(pages("image").process.pid).memory_info().rss - resident < 300e6


def test_a_sound_of_ten_minutes_is_refused(visit, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(600 * 2000), 2000)
    page = visit("audio")
    upload(page, path)
    assert "lasts 600 s; at most 60 s" in trouble(page)


def test_a_file_beyond_the_bytes_is_refused_by_the_server(pages):
    import urllib.error
    import urllib.request

    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + bytes(22 * 2**20) + b"\r\n--x--\r\n"
    address = f"{pages('image').address}gradio_api/upload"
    request = urllib.request.Request(address, body, {"Content-Type": "multipart/form-data; boundary=x"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 413
    refused.value.close()


def test_ten_users_at_once_are_all_answered(pages, exports):
    from gradio_client import Client

    expected = {text: example_says(exports("text"), text) for text in ("word1 red", "blue word7", "green word3 word3")}

    def ask(number):
        text = list(expected)[number % 3]
        client = Client(pages("text").address, verbose=False)
        _, _, compressed, _, meter = client.predict(text, api_name="/compare")
        client.close()
        return expected[text] in compressed and "Medians" in meter

    with ThreadPoolExecutor(10) as users:
        assert all(users.map(ask, range(10)))


def test_neither_server_nor_models_reached_beyond_loopback(pages, visit):
    """By their own sockets, watched and blocked in each process; what the browser asks is held in `visit`."""
    visit("text")
    for name in ("text", "image", "language"):
        served = pages(name)
        assert not served.log.exists() or served.log.read_text() == ""
        tree = [psutil.Process(served.process.pid), *psutil.Process(served.process.pid).children(recursive=True)]
        held = [each for process in tree for each in process.net_connections(kind="inet")]
        assert {each.laddr.ip for each in held} <= {"127.0.0.1"}
        assert {each.raddr.ip for each in held if each.raddr} <= {"127.0.0.1"}
