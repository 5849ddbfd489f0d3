import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from benchmarks.studies import generated_rows
from benchmarks.studies.generated_rows import CHANGES, SETTINGS, Setting, counted, main, truth


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures whose class is the brightness of a corner."""
    place, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, n in (("train", 400), ("test", 1300)):
        labels = np.arange(n) % 10
        pictures = draw.integers(0, 40, (n, 8, 8), dtype=np.uint8)
        pictures[:, :4, :4] += (20 * labels).astype(np.uint8)[:, None, None]
        rows = {"image": [{"bytes": _png(each)} for each in pictures], "label": [f"class {label}" for label in labels]}
        pyarrow.parquet.write_table(pyarrow.table(rows), place / f"{name}.parquet")
    return place


def _png(picture):
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def test_the_page_tells_every_setting_and_change_and_goes_on_where_it_was_cut(folder, tmp_path, monkeypatch):
    settings = [
        next(each for each in SETTINGS if each.between == kind) for kind in ("distance", "difference", "neighbours", "copies")
    ]
    monkeypatch.setattr(generated_rows, "SETTINGS", settings)
    monkeypatch.setattr(generated_rows, "HALF", 600)
    given = ["--draws", "3", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "page.md"), "--fashion-mnist", str(folder)]
    assert main(given) == 0
    page = (tmp_path / "page.md").read_text()
    assert page.count("| 3 |") == 3 + 3 + 4 + 1
    assert all(f"| {name} | " in page for name in CHANGES)
    found = json.loads((tmp_path / "work" / "pictures.json").read_text())
    blurred, same = (found["changes"][name]["quality"]["metrics"][0]["value"] for name in ("noise of 20 of 255", "nothing"))
    assert blurred > same
    monkeypatch.setattr(generated_rows, "counted", lambda *_: pytest.fail("drawn again"))
    monkeypatch.setattr(generated_rows, "changed", lambda *_: pytest.fail("measured again"))
    assert main(given) == 0
    assert (tmp_path / "page.md").read_text() == page


def test_known_truths_are_those_of_the_means():
    setting = Setting(4, 300, 300, 0.4, 0.8)
    found = counted(setting, 40)["figures"]["Frechet"]
    assert found["known"]
    assert found["mean"] == pytest.approx(truth(setting, "Frechet"), abs=4 * found["deviation"] / 40**0.5)
    assert truth(Setting(4, 9, 9, 0.3, 0.9, "difference"), "Frechet") == pytest.approx(
        4 * (0.3**2 + 0.1**2) - 4 * (0.1**2 + 0.05**2)
    )
    assert truth(Setting(4, 9, 9, 0, 1, "neighbours"), "recall") is None
