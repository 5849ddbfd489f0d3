"""The Python interface: a plan built or loaded, run, read again; and the page that shows it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from furnished import rows, write_model, write_rows
from typer.testing import CliRunner

from compressor import api
from compressor.cli import app
from compressor.contracts import Message
from compressor.errors import PlanError
from compressor.run.listing import runs

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """A folder in which the examples of the page were run, one after another, and the names that they leave."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "given").mkdir()
    write_model(folder / "given", ("blue", "red"))
    (folder / "given" / "model").rename(folder / "my-model")
    write_rows(folder / "rows.jsonl", rows())
    before, names = Path.cwd(), {}
    os.chdir(folder)
    try:
        for code in re.findall(r"```python\n(.+?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(code, PAGE.name, "exec"), names)
    finally:
        os.chdir(before)
    return folder, names


def test_examples_of_the_page_run_and_leave_a_run_and_an_export(worked):
    folder, names = worked
    ran = names["ran"]
    assert ran.report.outcome == "measured"
    assert (folder / ran.folder / "report.html").is_file()
    assert names["report"] == ran.report
    assert (folder / "shipped" / "SHA256SUMS").is_file()
    assert any(isinstance(each, Message) for each in names["heard"])


def test_runs_are_listed_with_how_they_ended(worked, monkeypatch):
    folder, names = worked
    monkeypatch.chdir(folder)
    for name, spoil in (
        ("broken", lambda run: (run / "report.md").write_text("better")),
        ("left", lambda run: (run / "report.json").unlink()),
    ):
        shutil.copytree(names["ran"].folder, Path("runs") / "copies" / name)
        spoil(Path("runs") / "copies" / name)
    found = {Path(row["folder"]).name: row for row in json.loads(CliRunner().invoke(app, ["list", "runs", "--json"]).stdout)}
    assert [found[name]["outcome"] for name in ("broken", "left", names["ran"].folder.name)] == [
        "damaged",
        "unfinished",
        "measured",
    ]
    assert "report.md is not the file that was written" in found["broken"]["answer"]
    assert str(names["ran"].folder) in CliRunner().invoke(app, ["list", "runs"]).stdout
    shown = CliRunner().invoke(app, ["show", str(names["ran"].folder), "--json"])
    assert json.loads(shown.stdout)["outcome"] == "measured"


def test_unfinished_run_is_listed_without_a_write_in_its_folder(tmp_path):
    folder = tmp_path / "name" / "time"
    folder.mkdir(parents=True)
    (folder / "plan.yaml").write_text("name: p\n")
    folder.chmod(0o500)
    before = folder.stat().st_mtime_ns
    assert [ran.outcome for ran in runs(tmp_path)] == ["unfinished"]
    assert folder.stat().st_mtime_ns == before


def test_nothing_of_a_listed_run_acts_upon_the_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "name" / "\x1b[2J\u202etime"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text("{}")
    lines = CliRunner().invoke(app, ["list", "runs"]).stdout
    assert "damaged" in lines
    assert "\\x1b[2J\\u202etime" in lines
    assert not {"\x1b", "\u202e"} & set(lines)
    as_json = CliRunner().invoke(app, ["list", "runs", "--json"]).stdout
    assert json.loads(as_json)[0]["folder"] == "runs/name/\x1b[2J\u202etime"
    assert "\u202e" not in as_json


def test_plan_that_is_built_is_checked_like_one_that_is_loaded(tmp_path):
    with pytest.raises(PlanError, match=r"passes.finetune.epoch: no such parameter \(did you mean 'epochs'\?\)"):
        api.build_plan({"passes": [{"finetune": {"epoch": 1}}]}, folder=tmp_path)


def test_plan_that_is_built_includes_files_of_its_folder_and_faults_call_it_plan(tmp_path):
    (tmp_path / "shared.yaml").write_text("passes: [{finetune: {epoch: 1}}]\n")
    with pytest.raises(PlanError) as refused:
        api.build_plan({"include": "shared.yaml", "seed": "one"}, folder=tmp_path)
    found = {(fault.file, fault.where) for fault in refused.value.faults}
    assert {("plan", "seed"), (str(tmp_path / "shared.yaml"), "passes.finetune.epoch")} <= found


def test_paths_may_be_texts(worked):
    folder, names = worked
    (folder / "plan.yaml").write_text(names["plan"].text)
    assert api.load_plan(str(folder / "plan.yaml"), settings="seed=3").seed == 3
    assert api.read_report(str(folder / names["ran"].folder)) == names["report"]


class Stranger:
    """What no plan file can hold."""


def test_plan_is_built_of_what_notebooks_hold(worked):
    folder, _ = worked
    values = {
        "model": {"folder": Path("my-model")},
        "task": {"text-classification": {"max_length": np.int64(16)}},
        "data": {"files": ("rows.jsonl",), "split": {"validation": np.float64(12.0), "test": 16}},
        "passes": np.array(["quantize-dynamic"]),
        "targets": ["onnxruntime"],
    }
    built = api.build_plan(values, folder=folder)
    assert (built.model.folder, built.task.max_length, built.passes[0].name) == ("my-model", 16, "quantize-dynamic")
    for wrong, told in (
        ({**values, "seed": Stranger()}, "plan:1: seed: found a Stranger, which no plan file can hold"),
        ({**values, "targets": [{"onnxruntime"}]}, r"plan:1: targets\[0\]: found a set"),
        (None, "a plan is a mapping with model"),
    ):
        with pytest.raises(PlanError, match=told):
            api.build_plan(wrong, folder=folder)


def test_page_names_everything_that_the_interface_offers():
    assert all(f"`{name}" in PAGE.read_text() for name in api.__all__)
