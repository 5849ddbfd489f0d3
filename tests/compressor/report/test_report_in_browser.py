"""The page in a real browser: what is drawn, whether it fits, and whether it can be read in light and dark."""

from __future__ import annotations

import html as html_text
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from compressor.contracts.records import LatencyRecord, Report
from compressor.report.html import page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, google-chrome or chromium-browser on the PATH")

LOOK = Path(__file__).with_name("look.js")
SCHEMES = {"dark": 0, "light": 1}
NARROWEST = 500
"""Pixels of a browser's window; a narrower page is shown in a frame."""
PHONE = """<!doctype html><body><iframe width="{width}" height="2000" srcdoc="{page}"></iframe><script>
const watch = setInterval(() => {{
  const seen = document.querySelector("iframe").contentDocument.getElementById("seen");
  if (seen) {{ clearInterval(watch); document.body.append(seen); }}
}}, 100);
</script></body>"""
OPENED = "document.querySelectorAll('details').forEach((each) => { each.open = true; });"


def look(text: str, folder: Path, *, scheme: str = "light", width: int = 1280) -> dict:
    """Open the page and return what `look.js` saw; the policy that forbids scripts is lifted in this copy alone."""
    copy, lifted = re.subn(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", text)
    assert lifted == 1
    file = folder / "page.html"
    painted = f"{OPENED} setTimeout(() => {{{LOOK.read_text()}}}, 300);"  # what was closed too
    script = LOOK.read_text() if width >= NARROWEST else painted
    whole = copy.replace("</body>", f"<script>{script}</script></body>")
    file.write_text(whole if width >= NARROWEST else PHONE.format(width=width, page=html_text.escape(whole)), encoding="utf-8")
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--no-first-run",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}",
        f"--window-size={max(width, NARROWEST)},2000",
        "--virtual-time-budget=2000",
        "--dump-dom",
        file.as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r'<pre id="seen">(.*?)</pre>', shown, flags=re.DOTALL)
    assert found, shown[-2000:]
    return json.loads(html_text.unescape(found[1]))


@pytest.fixture(scope="module", params=["light", "dark"])
def seen(request, report, tmp_path_factory):
    return request.param, look(page(report), tmp_path_factory.mktemp(request.param), scheme=request.param)


def long_named(report: Report) -> Report:
    """The report with a step, a metric, targets and layers of names longer than anyone would like."""
    text = report.model_dump_json()
    for name in ("prune-structure", "onnxruntime", "encoder.layer.0.feed_forward"):
        text = text.replace(name, f"{name}-with-a-name-that-goes-on-and-on-for-far-too-long")
    return Report.model_validate_json(text.replace('"accuracy"', '"accuracy of the harder half of all rows by their weight"'))


def test_answer_table_is_drawn_above_the_first_section(seen, report):
    _, found = seen
    table = found["tables"][0]
    assert table["top"] < found["first_section_top"]
    assert [row["candidate"] for row in table["rows"]] == [
        "final@onnxruntime",
        "source@onnxruntime",
        "final@openvino",
        "source@openvino",
    ]
    assert all(row["height"] > 20 and row["width"] > 600 for row in table["rows"])
    assert "4.35" in table["rows"][0]["text"]


def test_every_chart_is_drawn(seen):
    _, found = seen
    charts = {chart["name"]: chart for chart in found["charts"]}
    assert {"waterfall-onnxruntime", "trade-off", "distribution-1-128", "throughput", "layers-openvino"} <= set(charts)
    for chart in charts.values():
        assert chart["width"] > 500, chart["name"]
        assert chart["height"] > 100, chart["name"]
        assert chart["texts"] > 4, chart["name"]
        assert chart["marks"] > 2, chart["name"]


def test_chart_texts_neither_overlap_nor_leave_the_chart(seen):
    _, found = seen
    assert [
        (chart["name"], chart["clipped"], chart["overlaps"]) for chart in found["charts"] if chart["clipped"] or chart["overlaps"]
    ] == []


def test_every_text_and_mark_can_be_read(seen):
    scheme, found = seen
    assert (found["background_luminance"] < 0.05) == (scheme == "dark")
    assert found["texts_checked"] > 500
    assert found["faint_texts"] == []
    assert found["marks_checked"] > 100
    assert found["faint_marks"] == []


def test_page_can_be_read_on_a_phone(report, tmp_path):
    found = look(page(report), tmp_path, width=420)
    assert found["page_width"] <= found["window_width"] <= 420
    scrolled = found["scrolled"]
    assert sum(each["hidden"] > 40 for each in scrolled) > 10
    assert [each for each in scrolled if ("scroll" in each["hint"]) != (each["hidden"] > 0)] == []
    assert [each for each in scrolled if each["kept"] and each["kept"] > 1] == [], "names stay where they are"
    assert min(chart["smallest_text"] for chart in found["charts"]) > 10, "pixels of a line"
    assert found["faint_texts"] == []


@pytest.mark.parametrize("width", [1280, 500])
def test_page_fits_the_window_when_names_are_long(report, tmp_path, width):
    found = look(page(long_named(report)), tmp_path, width=width)
    assert found["page_width"] <= found["window_width"]
    assert [
        (chart["name"], chart["clipped"], chart["overlaps"]) for chart in found["charts"] if chart["clipped"] or chart["overlaps"]
    ] == []


def test_labels_stay_apart_when_points_coincide(report, tmp_path):
    latency = next(record for record in report.probes if isinstance(record, LatencyRecord))
    rows = tuple(row.model_copy(update={"median_ms": 10.0, "interval": None or latency.rows[0].interval}) for row in latency.rows)
    crowded = report.model_copy(update={"probes": (latency.model_copy(update={"rows": rows}),), "stages": ()})
    found = look(page(crowded), tmp_path)
    chart = next(chart for chart in found["charts"] if chart["name"] == "trade-off")
    assert (chart["clipped"], chart["overlaps"]) == ([], [])


def test_colours_can_be_chosen_without_script(report, tmp_path):
    chosen = (
        page(report).replace('id="theme-auto" checked', 'id="theme-auto"').replace('id="theme-dark"', 'id="theme-dark" checked')
    )
    assert look(chosen, tmp_path, scheme="light")["background_luminance"] < 0.05
