"""A run folder that version 1 wrote, by a real run of that program, is read, shown and compared as if this program had written it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compressor.cli import app
from compressor.contracts import Workload
from compressor.contracts.records import REPORT_VERSION, LatencyRecord, MemoryRecord
from compressor.report import read_report
from compressor.report.html import page
from compressor.report.markdown import document
from compressor.report.versions import upgraded
from compressor.run.comparison import compare_runs
from compressor.store.store import sha256_of

FIRST = Path(__file__).parent / "version-1"


@pytest.fixture
def run(tmp_path):
    """A copy of the folder, to change something in."""
    return Path(shutil.copytree(FIRST, tmp_path / "run"))


def test_version_1_is_read_with_everything_that_was_measured():
    raw, report = json.loads((FIRST / "report.json").read_text()), read_report(FIRST)
    assert (raw["version"], report.version) == (1, REPORT_VERSION)
    latency, memory = report.probes
    assert isinstance(latency, LatencyRecord)
    assert isinstance(memory, MemoryRecord)
    assert (latency.probe, memory.probe) == ("latency", "memory")
    for ours, stored in (
        *zip(latency.rows, raw["probes"][0]["rows"], strict=True),
        *zip(latency.ratios, raw["probes"][0]["ratios"], strict=True),
        *zip(latency.controls, raw["probes"][0]["controls"], strict=True),
        *zip(memory.rows, raw["probes"][1]["rows"], strict=True),
    ):
        assert ours.workload == Workload(batch=stored["batch"], length=stored["length"])
    assert [row.median_ms for row in latency.rows] == [row["median_ms"] for row in raw["probes"][0]["rows"]]
    assert {row.unit for row in latency.rows} == {"rows"}


def test_differences_of_version_1_are_those_of_the_main_metric():
    raw, report = json.loads((FIRST / "report.json").read_text()), read_report(FIRST)
    (stored,) = (each["difference"] for each in raw["candidates"] if each["stage"] == "final")
    (final,) = (each for each in report.candidates if each.stage == "final")
    assert final.difference == final.differences[0]
    assert (final.difference.metric, final.difference.unit, final.difference.change) == ("accuracy", "points", stored["points"])
    assert report.stages[0].differences == ()


def test_what_is_of_this_version_is_left_as_it_is():
    values = json.loads(read_report(FIRST).model_dump_json())
    assert upgraded(values) is values


def test_version_1_is_shown(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["show", str(FIRST)])
    assert result.exit_code == 0, result.output
    assert "batch 2, length 16" in result.output


def test_pages_are_made_of_version_1():
    report = read_report(FIRST)
    assert "batch 2, length 16" in document(report)
    assert "batch 2, length 16" in page(report)


def test_version_1_is_compared():
    found = compare_runs(FIRST, FIRST)
    assert found.changes == ()
    assert {each.workload for each in found.times} == {Workload(batch=batch, length=16) for batch in (1, 2)}
    assert {each.candidate for each in found.qualities if each.difference} == {"source@onnxruntime", "final@onnxruntime"}


def test_a_field_that_this_version_does_not_know_is_ignored(run):
    path = run / "report.json"
    before, values = sha256_of(path), json.loads(path.read_text())
    values |= {"of_tomorrow": 1}
    values["probes"][0]["rows"][0] |= {"of_tomorrow": 1}
    path.write_text(json.dumps(values))
    sums = run / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(before, sha256_of(path)))
    assert read_report(run) == read_report(FIRST)
