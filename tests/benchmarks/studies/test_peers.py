"""The study of other tools: who is compared with whom, what is kept, and why a tool is left out. Files are made by the study itself."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.peers import page
from benchmarks.studies.peers.environments import PINNED, Environments, Skipped, told
from benchmarks.studies.peers.forms import FORMS, NNCF, OURS, OURS_ORT, QUICK, REFERENCE, TorchCompiled, rival_of
from benchmarks.studies.peers.makers import MAKERS, rows_of
from benchmarks.studies.peers.shop import Cell, Shop
from compressor.contracts.records import Control, Interval, LatencyRecord, LatencyRow, Workload
from compressor.deploy.bench import write_feeds

AT = Workload(batch=1, length=128)
AROUND = Interval(low=1.0, high=1.0, level=0.95, method="")


def row(form, rounds_ms):
    return LatencyRow(
        candidate=f"{form.name}@here", workload=AT, n=len(rounds_ms), median_ms=float(np.median(rounds_ms)), interval=AROUND,
        throughput_per_s=1.0, unit="rows", load_s=0.1, first_call_ms=1.0, warm_up_calls=1, rounds_ms=tuple(rounds_ms), samples_ms=((1.0,),),
    )  # fmt: skip


def record(noise=0.0, **rounds_ms):
    named = {form.name.replace("-", "_"): form for form in FORMS}
    control = Control(workload=AT, ratio=1.0, interval=AROUND, limit=0.15, passed=True, attempts=1, noise=noise)
    rows = tuple(row(named[name], times) for name, times in rounds_ms.items())
    return LatencyRecord(probe="latency", rows=rows, ratios=(), controls=(control,), load_before=0.0, load_after=0.0, protocol={})


def shop(folder):
    return Shop(None, None, folder, 128, lambda event: None)  # nothing is made here


def test_forms_have_names_of_their_own_makers_and_environments_that_there_are():
    assert len({form.name for form in FORMS}) == len(FORMS)
    assert {form.maker for form in FORMS if not form.ours} <= set(MAKERS)
    assert {form.environment for form in FORMS if form.environment} == set(PINNED)
    assert all("==" in each for pinned in PINNED.values() for each in pinned)
    assert FORMS[0] == OURS, "what controls are of comes first"
    assert {OURS, NNCF, REFERENCE} <= set(QUICK)


def test_ours_of_the_same_runtime_is_the_rival():
    named = {form.name: form for form in FORMS}
    assert rival_of(named["optimum-static"]) == OURS_ORT
    assert rival_of(NNCF) == rival_of(named["torchao"]) == OURS


def test_cells_time_compiled_models_apart_and_ours_in_both():
    plain, compiled = (Cell(1, 8, each).of(FORMS) for each in (False, True))
    assert plain[0] == compiled[0] == OURS
    assert set(plain) | set(compiled) == set(FORMS)
    assert set(plain) & set(compiled) == {OURS}
    assert all(issubclass(form.kind, TorchCompiled) for form in compiled[1:])


def test_ratio_is_by_rounds_and_no_closer_than_processes_of_one_model_are():
    found = record(ours_openvino=[2.0, 4.0, 2.0, 2.0, 2.0], nncf=[3.0, 6.0, 3.0, 3.0, 3.0])
    assert page.faster(found, OURS, NNCF) == pytest.approx((1.5, 1.5 / 1.02, 1.5 * 1.02))
    noisy = record(0.2, ours_openvino=[2.0] * 5, nncf=[3.0] * 5)
    assert page.faster(noisy, OURS, NNCF) == pytest.approx((1.5, 1.25, 1.8))
    assert page.spelled([noisy], OURS, NNCF) == "1.50x [1.25, 1.80]"
    assert page.spelled([noisy], OURS, REFERENCE) == "not timed"


def test_times_of_both_series_stand_in_one_column():
    times = {
        Cell(1, 1): record(ours_openvino=[2.0], torch=[9.0]),
        Cell(1, 1, compiled=True): record(ours_openvino=[2.5], torch_compile=[7.0]),
    }
    forms = [form for form in FORMS if form.name in ("ours-openvino", "torch", "torch-compile", "nncf")]
    lines = list(page.milliseconds(forms, times))
    assert "threads 1, batch 1" in lines[0]
    cells = {line.split(" | ")[0].strip("| "): line.rstrip(" |").split(" | ")[-1] for line in lines[2:] if line}
    assert cells == {"ours-openvino": "2.00", "torch": "9.00", "torch-compile": "7.00", "nncf": "not timed"}


def test_cell_is_measured_again_where_forms_differ_and_kept_where_they_do_not(tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(Shop, "_timed", lambda self, forms, cell, seconds: timed.append((forms, cell)) or there)
    there, cell, other = record(ours_openvino=[2.0], nncf=[3.0]), Cell(2, 8), Cell(1, 1)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "threads-2-batch-8.json").write_text(there.model_dump_json())
    shop(tmp_path).times([OURS, NNCF], [cell, other], seconds=1.0)
    assert timed == [((OURS, NNCF), other)]
    assert list(shop(tmp_path).kept([cell, other, Cell(1, 8)])) == [cell, other]
    shop(tmp_path).times([OURS, NNCF, REFERENCE], [cell], seconds=1.0)
    assert timed[1:] == [((OURS, NNCF, REFERENCE), cell)]


def test_tool_that_fails_is_left_out_by_name_and_ours_is_not(tmp_path, capsys):
    def tried(form):
        if form == NNCF:
            raise Skipped("pip cannot install it: no wheel")
        if form == REFERENCE:
            raise RuntimeError("first line\n\nlast line")

    found = shop(tmp_path)
    assert found.usable([OURS, NNCF, REFERENCE], tried) == (OURS,)
    assert found.skipped == {"nncf": "pip cannot install it: no wheel", "torch": "transformers fails: RuntimeError: last line"}
    assert "nncf is left out: pip cannot install it: no wheel" in capsys.readouterr().err
    assert any("NNCF (`nncf`): pip cannot install it: no wheel" in line for line in page.left_out(found))
    with pytest.raises(ZeroDivisionError):
        found.usable([OURS], lambda _: 1 / 0)


def test_command_that_fails_says_the_last_line_that_it_said():
    with pytest.raises(Skipped, match=r"^no file: ValueError: too new$"):
        told([sys.executable, "-c", "raise ValueError('too new')"], "no file")


def test_packages_come_before_those_installed(tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit(f'mine at {__name__}')")
    with pytest.raises(Skipped, match="mine at numpy"):
        told([sys.executable, "-c", "import numpy"], "no file", (str(tmp_path),))


def test_environment_that_is_complete_is_not_made_again(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "complete").touch()
    assert Environments(tmp_path).of("torch") == (str(tmp_path / "torch"),)
    assert Environments(tmp_path).of("") == ()


def test_rows_for_ranges_are_read_as_they_were_written(tmp_path):
    given = [{"input_ids": np.full((1, 3), number), "attention_mask": np.ones((1, 3))} for number in range(12)]
    write_feeds(tmp_path / "rows.npz", given)
    assert [int(each["input_ids"][0, 0]) for each in rows_of(Path(tmp_path / "rows.npz"))] == list(range(12))
