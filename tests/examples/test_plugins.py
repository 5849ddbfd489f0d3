"""The example distribution of a third party: installed as a stranger would, run from the command line, held to its contracts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from furnished import told

from compressor.report import read_report
from compressor.testing import checks
from compressor.testing.tiny import tiny_run

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plugins"
TINY = (
    "model={folder: pretrained}",
    "task={text-classification: {max_length: 16}}",
    "data={files: rows.jsonl, split: {validation: 12, test: 12}, calibration: 8}",
    "reference=source",
    "passes.finetune.epochs=1",
    "passes.low-rank.energy=0.5",
    "passes.distill.epochs=1",
    "probes=[memory: {calls: 2}]",
)
"""The example's plan, laid over with a tiny model and its rows."""


PLAN_OF_ONE = """
model: {folder: pretrained}
task: {text-classification: {max_length: 16}}
data: {files: rows.jsonl, split: {validation: 12, test: 12}, calibration: 8}
reference: source
passes:
  - round-weights: {levels: 15}
targets: [torch]
probes: []
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example distribution."""
    source = tmp_path_factory.mktemp("source") / "plugins"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    return install(source, tmp_path_factory.mktemp("installed"))


def install(source, folder):
    """Build a distribution to a wheel and unpack it into a folder; pip's own switches keep it from the network."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-index", "--no-build-isolation", "--target", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def command(installed, folder, *arguments):
    path = os.pathsep.join([str(installed), str(ROOT)])
    """A module of Python in a process of its own, which has the installed distribution."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def told_beside(installed, folder, *arguments):
    """The command line in this process, which has the installed distribution meanwhile, as its own processes do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(installed))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(installed), str(ROOT)]))
        return told(folder, *arguments)


@pytest.fixture(scope="module")
def ran(installed, tmp_path_factory):
    """The example's plan run from the command line."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(tiny_run().folder / "pretrained", folder / "pretrained")
    shutil.copyfile(tiny_run().folder / "rows.jsonl", folder / "rows.jsonl")
    shutil.copyfile(EXAMPLE / "plan.yaml", folder / "plan.yaml")
    settings = [part for setting in TINY for part in ("--set", setting)]
    done = command(installed, folder, "compressor.cli", "run", "plan.yaml", "--store", "store", "--out", "run", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_plan_of_all_four_plugins_runs_from_the_command_line(ran):
    report = read_report(ran / "run")
    stages = {stage.name: stage for stage in report.stages}
    assert list(stages) == ["source", "finetune", "low-rank", "distill"]
    assert stages["low-rank"].weights < stages["finetune"].weights
    assert any("two matrices of rank" in edit for edit in stages["distill"].edits)
    losses = next(note for note in stages["distill"].notes if note.title.startswith("Losses"))
    assert set(losses.curves) == {"correlation", "soft-targets"}
    candidates = {candidate.id: candidate for candidate in report.candidates}
    final = candidates["final@onnxruntime-ahead"]
    assert final.facts["precision"] == "fp32"
    assert final.parity.max_abs < 1e-3
    assert [file.name for file in final.files] == ["model.onnx"]


def test_exported_folder_of_a_third_partys_target_works_without_this_project(installed, ran):
    exported = told_beside(installed, ran, "export", "run", "exported", "--target", "onnxruntime-ahead")
    assert exported.returncode == 0, exported.stdout + exported.stderr
    example = [sys.executable, "-I", "example.py", "red word1 word2"]
    done = subprocess.run(example, cwd=ran / "exported", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert any(label in done.stdout for label in ("red", "green", "blue"))


def test_misspelt_parameter_of_a_third_partys_plugin_is_told_with_its_line(installed, ran):
    misspelt = ran / "misspelt.yaml"
    misspelt.write_text((EXAMPLE / "plan.yaml").read_text().replace("energy:", "enregy:"))
    done = told_beside(installed, ran, "check", "misspelt.yaml")
    assert done.returncode == 2
    assert "passes.low-rank.enregy: no such parameter (did you mean 'energy'?)" in done.stderr


def test_its_own_test_file_collects_a_check_of_each_contract(installed, tmp_path):
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    done = command(installed, tmp_path, "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout
    assert "test_plugin_keeps_its_contract[target onnxruntime-ahead builds and runs]" in done.stdout
    assert "test_plugin_keeps_its_contract[format onnx-half lowers to equal bytes]" in done.stdout
    assert "test_plugin_keeps_its_contract[anatomy megatron-bert cuts what it says]" in done.stdout


def test_plugin_written_by_the_readmes_words_alone_keeps_its_contract(tmp_path, monkeypatch):
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Write a plug-in")[2].partition("\n## ")[0]
    blocks = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", section, re.DOTALL | re.MULTILINE)
    (_, code), (_, project), (_, test) = [(kind, textwrap.dedent(text)) for kind, text in blocks]
    (tmp_path / "source" / "my_plugins").mkdir(parents=True)
    (tmp_path / "source" / "my_plugins" / "round_weights.py").write_text(code)
    (tmp_path / "source" / "pyproject.toml").write_text(project)
    monkeypatch.syspath_prepend(str(install(tmp_path / "source", tmp_path / "installed")))
    written = {}
    exec(compile(test, "README.md", "exec"), written)
    (parameters,) = written["test_plugin_keeps_its_contract"].pytestmark
    for check in parameters.args[1]:
        written["test_plugin_keeps_its_contract"](check)
    assert {check.name for check in parameters.args[1]} == {"round-weights"}
    shutil.copytree(tiny_run().folder, tmp_path / "run", dirs_exist_ok=True)
    (tmp_path / "run" / "plan.yaml").write_text(PLAN_OF_ONE)
    ran = told_beside(tmp_path / "installed", tmp_path / "run", "run", "plan.yaml", "--store", "store", "--out", "out")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (stage,) = [stage for stage in read_report(tmp_path / "run" / "out").stages if stage.name == "round-weights"]
    assert stage.parameters["levels"] == 15
    explained = told_beside(tmp_path / "installed", tmp_path, "explain", "round-weights").stdout
    assert "steps between zero and the largest weight" in explained


def test_each_plugin_keeps_its_contract(installed, monkeypatch):
    monkeypatch.syspath_prepend(str(installed))
    found = checks("example-plugins")
    assert {check.kind for check in found} == {"pass", "edit", "objective", "target", "format", "anatomy"}
    for check in found:
        check()
