import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from furnished import rows, told, write_model, write_rows

from compressor.deploy.telemetry import SWITCHES

PLAN = """
name: tiny
model: {folder: model}
task:
  text-classification: {max_length: 16}
data: {files: rows.jsonl, split: {validation: 12, test: 16}, calibration: 8}
reference: finetune
stages: quality
passes:
  - finetune: {epochs: 1, precision: fp32}
  - prune-structure: {keep: 0.5, rows: 16, round_to: 8}
  - distill: {teacher: finetune, epochs: 1, precision: fp32}
  - fold:
    only: [onnxruntime]
  - quantize-static: {calibration: 4, sensitivity: true}
targets:
  - onnxruntime: {}
  - openvino: {}
  - onnxruntime: {provider: cuda}
    name: cuda
probes:
  - latency: {length: [16], rounds: 5, seconds: 0.2, warm_up_seconds: 0.02, controls: 1, control_limit: 0.9}
  - memory
accept:
  - {target: onnxruntime, max_drop: 100, max_size: 0.6}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random BERT, its tokenizer, rows that it can learn, and a plan."""
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder)
    write_rows(folder / "rows.jsonl", rows())
    (folder / "plan.yaml").write_text(PLAN)
    return folder


NO_NETWORK = Path(__file__).parents[2] / "stand_ins" / "no_network"
APART = ("unshare", "--net", "--map-root-user")
"""A command under it has a network of its own that leads nowhere, and in which the kernel counts what is sent nevertheless."""
COUNTED = 'code=0; "$@" || code=$?; cat /proc/net/snmp > counters; cat /proc/net/snmp6 > counters6; exit $code'


def permitted():
    return shutil.which("unshare") is not None and subprocess.run([*APART, "true"], capture_output=True).returncode == 0


def command(folder, *arguments, before=()):
    """Runs the command line with the network refused to all its processes; `network.log` says who asked."""
    ours = ("HF_", *SWITCHES)
    told = {name: value for name, value in os.environ.items() if not name.startswith(ours)}  # as a user has it
    path = os.pathsep.join([str(NO_NETWORK), *filter(None, [told.get("PYTHONPATH")])])
    return subprocess.run(
        [*before, sys.executable, "-m", "compressor.cli", *arguments],
        cwd=folder,
        env={**told, "PYTHONPATH": path, "NETWORK_LOG": str(folder / "network.log")},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


@pytest.fixture(scope="module")
def ran(folder):
    before = (*APART, "sh", "-c", COUNTED, "sh") if permitted() else ()
    return command(folder, "run", "plan.yaml", "--store", "store", "--out", "first", "--export", "exported", before=before)


def counters(folder):
    """What the kernel counted of a run: packets sent, and those that found no way out."""
    lines = [line.split() for line in (folder / "counters").read_text().splitlines()]
    pairs = zip(lines[::2], lines[1::2], strict=True)
    found = {
        f"{names[0]}{name}": int(value) for names, values in pairs for name, value in zip(names[1:], values[1:], strict=True)
    }
    found |= {name: int(value) for name, value in (line.split() for line in (folder / "counters6").read_text().splitlines())}
    wanted = ("Ip:OutRequests", "Ip:OutNoRoutes", "Tcp:ActiveOpens", "Udp:OutDatagrams", "Ip6OutNoRoutes", "Udp6OutDatagrams")
    return {name: found[name] for name in wanted if name in found}


def test_no_process_of_a_run_asks_for_the_network(folder, ran):
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not (folder / "network.log").exists(), (folder / "network.log").read_text()


def test_kernel_counts_no_packet_of_a_run(folder, ran):
    if not permitted():
        pytest.skip("no network of its own is permitted here (unshare --net)")
    assert counters(folder) == dict.fromkeys(counters(folder), 0)
    ask = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9))"
    subprocess.run([*APART, "sh", "-c", COUNTED, "sh", sys.executable, "-c", ask], cwd=folder, capture_output=True, check=False)
    assert counters(folder)["Ip:OutNoRoutes"] == 1, "the kernel counts what is asked for"


def test_plan_that_names_a_hub_asks_for_it(folder):
    asked = command(folder, "check", "plan.yaml", "--store", "none", "--set", "model={hub: nobody/nothing}")
    log = folder / "network.log"
    assert asked.returncode == 1
    assert asked.stderr.splitlines()[-1].startswith("hub model 'nobody/nothing' (revision main) cannot be fetched")
    assert "huggingface.co" in log.read_text()
    log.unlink()


def test_run_accepts_and_writes_report_and_export(folder, ran):
    from compressor.report import read_report

    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = read_report(folder / "first")
    assert report.outcome == "accepted"
    assert [stage.name for stage in report.stages if stage.target is None] == ["source", "finetune", "prune-structure", "distill"]
    assert {"source@onnxruntime", "final@onnxruntime", "final@openvino"} <= {candidate.id for candidate in report.candidates}
    assert report.missing["cuda"]
    assert (folder / "exported" / "example.py").is_file()
    assert (folder / "first" / "report.html").stat().st_size > 10_000


def test_scratch_of_a_step_is_gone_once_its_result_is_stored(folder, ran):
    assert list((folder / "store" / "results").iterdir())
    assert list((folder / "store" / "scratch").iterdir()) == []


def test_report_numbers_belong_to_the_files_in_the_run_folder(folder, ran):
    from compressor.report import read_report
    from compressor.store.store import sha256_of

    for candidate in read_report(folder / "first").candidates:
        assert candidate.not_measured or candidate.files
        for file in candidate.files:
            assert sha256_of(folder / "first" / "artifacts" / candidate.id / file.name) == file.sha256


def test_a_target_that_is_missing_shows_its_reason_and_no_number(folder, ran):
    from compressor.report import read_report

    report = read_report(folder / "first")
    cuda = [candidate for candidate in report.candidates if candidate.target == "cuda"]
    assert cuda
    assert all(candidate.not_measured and candidate.scores is None and not candidate.bytes for candidate in cuda)


def test_second_run_finds_every_step_and_gives_equal_files(folder, ran):
    from compressor.report import read_report

    again = told(folder, "run", "plan.yaml", "--store", "store", "--out", "second")
    assert again.returncode == 0, again.stdout + again.stderr
    first, second = read_report(folder / "first"), read_report(folder / "second")
    assert all(stage.found for stage in second.stages)
    assert [stage.digest for stage in first.stages] == [stage.digest for stage in second.stages]
    assert [each.files for each in first.candidates] == [each.files for each in second.candidates]


def test_gate_that_is_not_met_stops_the_run_with_exit_code_3(folder, ran):
    stopped = told(
        folder,
        "run",
        "plan.yaml",
        "--store",
        "store",
        "--out",
        "stopped",
        "--set",
        "passes.distill.gate={max_size: 0.01}",
    )
    assert stopped.returncode == 3, stopped.stdout + stopped.stderr
    assert "passes.distill.gate: max_size 1.0\N{NO-BREAK SPACE}% is not met" in stopped.stderr
    assert json.loads((folder / "stopped" / "report.json").read_text())["outcome"] == "stopped"


def test_accept_that_is_not_met_gives_exit_code_3(folder, ran):
    missed = told(
        folder,
        "run",
        "plan.yaml",
        "--store",
        "store",
        "--out",
        "missed",
        "--set",
        "accept=[{target: onnxruntime, max_size: 0.01}]",
        "--set",
        "probes=[]",
    )
    assert missed.returncode == 3, missed.stdout + missed.stderr
    assert json.loads((folder / "missed" / "report.json").read_text())["outcome"] == "not accepted"


def test_check_says_what_is_found_and_what_is_missing(folder, ran):
    checked = told(folder, "check", "plan.yaml", "--store", "store")
    assert checked.returncode == 0, checked.stderr
    assert "finetune: found in the store" in checked.stdout
    assert "cuda: this onnxruntime has no CUDAExecutionProvider" in checked.stdout
    taught = ("--set", "models={big: {folder: model}}", "--set", "passes.distill.teacher=big")
    assert "big: found in the store" in told(folder, "check", "plan.yaml", "--store", "store", *taught).stdout


def test_fault_in_a_plan_gives_exit_code_2_with_line_and_near_name(folder):
    (folder / "typo.yaml").write_text(PLAN.replace("keep: 0.5", "kepe: 0.5"))
    found = told(folder, "run", "typo.yaml")
    assert found.returncode == 2
    assert "typo.yaml:11: passes.prune-structure.kepe" in found.stderr
    assert "did you mean 'keep'?" in found.stderr
