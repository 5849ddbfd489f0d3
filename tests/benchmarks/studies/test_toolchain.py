"""The benchmark of the toolchain itself, on sizes that take no time."""

from __future__ import annotations

import sys

import pytest

from benchmarks.studies import toolchain
from benchmarks.studies.toolchain import PEAK, TINY, main, peak_of, store_overhead, training_share, write_plan
from compressor.plan.bound import load_plan


def test_store_overhead_has_a_row_for_putting_and_finding_each_size():
    rows = list(store_overhead((1, 2), rounds=3))
    assert [row.what for row in rows] == ["store: put 1 MiB", "store: find 1 MiB", "store: put 2 MiB", "store: find 2 MiB"]
    assert all(" ms (" in row.value for row in rows)


def test_training_share_is_what_forward_backward_and_optimiser_leave(monkeypatch):
    monkeypatch.setattr(toolchain, "TOKENS", 16)
    (row,) = training_share((("tiny", TINY),))
    shares = [float(part.split()[1].rstrip("%")) for part in row.how.split(";")[0].split(", ")]
    assert [part.split()[0] for part in row.how.split(";")[0].split(", ")] == ["forward", "backward", "optimiser"]
    assert float(row.value.rstrip("%")) == pytest.approx(100 - sum(shares), abs=2)
    assert 0 < float(row.value.rstrip("%")) < 100


def test_training_share_leaves_the_classes_it_watches_as_they_were(monkeypatch, tmp_path):
    import torch
    from transformers import BertForSequenceClassification

    monkeypatch.setattr(toolchain, "TOKENS", 16)
    before = torch.Tensor.backward, torch.optim.AdamW.step
    list(training_share((("tiny", TINY),)))
    assert (torch.Tensor.backward, torch.optim.AdamW.step) == before
    assert "__call__" not in BertForSequenceClassification.__dict__


def test_plan_of_the_benchmark_is_sound(tmp_path):
    plan = write_plan(tmp_path, passes=[{"prune-structure": {"keep": 0.5}}], hidden_size=16)
    assert [step.name for step in load_plan(plan).passes] == ["prune-structure"]


def test_peak_is_that_of_the_command_itself():
    small = peak_of([sys.executable, "-c", PEAK, "list", "passes"])
    large = peak_of([sys.executable, "-c", f"hoard = bytearray(200 << 20)\n{PEAK}", "list", "passes"])
    assert 180 << 20 < large - small < 220 << 20


def test_peak_of_a_command_that_fails_says_what_it_said():
    with pytest.raises(RuntimeError, match="no-such-command"):
        peak_of([sys.executable, "-c", PEAK, "no-such-command"])


def test_page_has_the_machine_and_a_row_for_each_measure(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(toolchain.MEASURES, "store", lambda: store_overhead((1,), rounds=3))
    assert main(["--only", "store", "--out", str(tmp_path / "results" / "toolchain.md")]) == 0
    page = (tmp_path / "results" / "toolchain.md").read_text()
    assert page.startswith("# What the toolchain costs\n")
    assert " cores, " in page
    assert page.count("\n| store: ") == capsys.readouterr().out.count("store: ") == 2


def test_an_earlier_version_is_timed_beside_this_one(tmp_path, monkeypatch, capsys):
    asked = []

    def start():
        asked.append(toolchain._command("--help")[0])
        yield toolchain.Row("start", f"{len(asked)} s", "how")

    monkeypatch.setitem(toolchain.MEASURES, "start", start)
    assert main(["--only", "start", "--before", "abc123", "/other/python", "--out", str(tmp_path / "page.md")]) == 0
    assert asked == ["/other/python", sys.executable]
    assert "start: 1 s -> 2 s (how)" in capsys.readouterr().out
    page = (tmp_path / "page.md").read_text()
    assert "`before` is commit abc123" in page
    assert page.endswith("| what | before | value | how |\n|---|---|---|---|\n| start | 1 s | 2 s | how |\n")


def test_time_until_a_line_is_less_than_that_of_the_whole():
    code = "import time; print('report: write'); time.sleep(0.3)"
    built, whole = toolchain._until("report: write", [sys.executable, "-c", code])
    assert 0 < built < whole - 0.25


def test_process_that_fails_or_never_says_the_line_has_no_time():
    for code in ("print('report: write'); raise SystemExit(3)", "print('something else')"):
        with pytest.raises(RuntimeError, match="ended with"):
            toolchain._until("report: write", [sys.executable, "-c", code])
