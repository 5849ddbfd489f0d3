"""Training by several processes: one result, written once, with the losses and the quality of one process."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from furnished import rows, write_model, write_rows
from typer.testing import CliRunner

from compressor.cli import app
from compressor.contracts import Message, Progress
from compressor.errors import MissingDependency, TrainingDiverged, UnsupportedModel, WorkerFailed
from compressor.plan.bound import load_plan
from compressor.report import read_report
from compressor.run.pipeline import run_plan
from compressor.run.preflight import check_sharded
from compressor.run.trainer import _check_alike, line_of
from compressor.store.store import Store
from compressor.tasks.tiny import documents, language_model
from compressor.training import launch
from compressor.training.checkpoint import INTERVAL
from compressor.training.launch import Job, Processes, train_apart
from compressor.training.meeting import meet

PLAN = """
name: tiny
model: {folder: model}
task:
  text-classification: {max_length: 16}
data: {files: rows.jsonl, split: {validation: 12, test: 16}, calibration: 8}
stages: quality
passes:
  - distill:
      {teacher: source, objectives: {soft-targets: 0.1}, task_loss: 1.0, epochs: 6, batch_size: 5, learning_rate: 0.01, precision: fp32}
targets:
  - torch
"""
STEPS = 42
FIRST = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random BERT without dropout, which each process would draw for itself, its tokenizer, rows and a plan."""
    folder = tmp_path_factory.mktemp("tiny")
    write_model(folder, ("blue", "red"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    write_rows(folder / "rows.jsonl", rows())
    (folder / "plan.yaml").write_text(PLAN)
    return folder


def ran(folder, name, processes, *, plan="plan.yaml", step="distill"):
    told = []
    bound = load_plan(folder / plan)
    out = folder / "runs" / name
    report = run_plan(bound, store=Store(folder / name), folder=out, command="", tell=told.append, processes=processes)
    return next(stage for stage in report.stages if stage.name == step), told


@pytest.fixture(scope="module")
def alone(folder):
    return ran(folder, "alone", Processes())


@pytest.fixture(scope="module")
def watched(folder):
    """A training step of two processes; what all processes listened on meanwhile, and the log of what they unpickled."""
    log = folder / "watched.log"
    with pytest.MonkeyPatch.context() as patch, Listening() as listening:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "watched"))
        patch.setenv("WATCHED_LOG", str(log))
        found = ran(folder, "together", Processes(each=2))
    return found, listening, log


@pytest.fixture(scope="module")
def together(watched):
    return watched[0]


class Listening:
    """Watches what this process and all below it listen on over TCP, from start to end; several looks a second."""

    def __init__(self):
        self.seen, self.looks, self.done = set(), 0, threading.Event()
        self.before = set(sockets())
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def watch(self):
        while not self.done.wait(0.005):
            self.looks += 1
            new = set(sockets()) - self.before  # of anybody on this machine
            if new - {(address, inode) for _, address, inode in self.seen}:
                ours = {inode: pid for pid in family() for inode in inodes(pid)}
                self.seen |= {(ours[inode], address, inode) for address, inode in new if inode in ours}


def sockets():
    """Address and inode of every TCP socket of this machine that is listened on."""
    for table, length in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                words = [bytes.fromhex(fields[1][at : at + 8])[::-1] for at in range(0, length, 8)]
                yield ipaddress.ip_address(b"".join(words)), fields[9]


def family():
    """Numbers of this process and all below it."""
    return [os.getpid(), *(each.pid for each in psutil.Process().children(recursive=True))]


def inodes(pid):
    """Of the sockets that a process holds."""
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if (held := str(path.readlink())).startswith("socket:["):
                    yield held[8:-1]


def test_two_processes_give_the_losses_and_the_quality_of_one(alone, together):
    one, two = (stage.notes[0].curves for stage, _ in (alone, together))
    assert list(one) == list(two) == ["soft-targets", "task"]
    for name in one:
        assert len(two[name]) == STEPS
        assert [loss for _, loss in two[name]][:FIRST] == pytest.approx([loss for _, loss in one[name]][:FIRST], abs=1e-4)
    one, two = alone[0], together[0]
    assert two.scores.main.value == one.scores.main.value > 0.9
    assert two.key != one.key  # the number of processes can change the last bits


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's table of sockets is read")
def test_processes_of_one_machine_listen_on_loopback_alone(watched):
    _, listening, log = watched
    started = {int(line.split()[0]) for line in log.read_text().splitlines() if line.endswith(" begun")}
    listeners = {pid for pid, _, _ in listening.seen}
    assert listeners  # gloo has one for each process: what is looked for can be seen
    assert listeners <= started
    assert [str(address) for _, address, _ in listening.seen if not address.is_loopback] == []


def test_a_listener_on_all_addresses_is_seen():
    with Listening() as listening, socket.create_server(("0.0.0.0", 0)):
        deadline = time.monotonic() + 10
        while not listening.seen and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [(pid, address.is_unspecified) for pid, address, _ in listening.seen] == [(os.getpid(), True)]


def test_processes_of_a_group_unpickle_nothing(watched):
    said = [line.split(maxsplit=1)[1] for line in watched[2].read_text().splitlines()]
    assert said.count("begun") >= 2
    assert [each for each in said if each != "begun"] == []


def test_gates_of_two_processes_are_learned_and_cut_as_those_of_one(folder):
    given = (
        "teacher: source, objectives: {layer-to-layer: 1.0}, sparsity: 0.5, epochs: 4, recovery_epochs: 1, learning_rate: 0.01"
    )
    passes = f"passes:\n  - distill-and-prune:\n      {{{given}, batch_size: 6, precision: fp32, round_to: 8}}\ntargets:"
    (folder / "joint.yaml").write_text(re.sub(r"passes:.*targets:", passes, PLAN, flags=re.DOTALL))
    stages = [
        ran(folder, f"joint-{count}", Processes(each=count), plan="joint.yaml", step="distill-and-prune")[0] for count in (1, 2)
    ]
    ends = [
        next(note for note in stage.notes if getattr(note, "title", "") == "Sparsity").curves["expected sparsity"][-1][1]
        for stage in stages
    ]
    assert ends == pytest.approx([0.5, 0.5], abs=0.05)
    left = [
        [row[-1] for row in next(note for note in stage.notes if getattr(note, "title", "") == "What is left").rows]
        for stage in stages
    ]
    assert left[0] == pytest.approx(left[1], abs=16)
    assert 0 < sum(left[0]) < 2 * (4 + 64)


@pytest.mark.parametrize(
    "how",
    [
        "weights: 4",
        "weights: 4, progressive: [8], block_wise: 4",
        "granularity: group, block_wise: 4, mixed: {widths: [8, 4], bytes: 1119000}",
    ],
)
def test_quantised_student_of_two_processes_has_the_losses_of_one(folder, how, request):
    given = f"teacher: source, {how}, objectives: {{soft-targets: 1.0, hidden-states: 1.0}}, epochs: 2, batch_size: 6"
    passes = f"passes:\n  - distill-and-quantize: {{{given}, precision: fp32}}\ntargets:"
    (folder / "quantised.yaml").write_text(re.sub(r"passes:.*targets:", passes, PLAN, flags=re.DOTALL))
    name = request.node.callspec.id
    one, two = (
        ran(folder, f"quantised-{count}-{name}", Processes(each=count), plan="quantised.yaml", step="distill-and-quantize")[0]
        for count in (1, 2)
    )
    first, second = ([note.curves for note in stage.notes if getattr(note, "kind", "") == "series"] for stage in (one, two))
    assert [list(curves) for curves in first] == [list(curves) for curves in second]
    assert any("soft-targets" in curves for curves in first)
    for before, after in zip(first, second, strict=True):
        for name in before:
            assert [loss for _, loss in after[name]] == pytest.approx([loss for _, loss in before[name]], abs=1e-4)
    tables = ([note for note in stage.notes if getattr(note, "kind", "") == "table"] for stage in (one, two))
    chosen = [[(row[:2]) for note in each if note.title.startswith("Bits chosen") for row in note.rows] for each in tables]
    assert chosen[0] == chosen[1]
    assert ({bits for _, bits in chosen[0]} == {"8", "4"}) == ("mixed" in how)


# ------------------------------------------------------------------ parameters spread over processes

SPREAD = """
name: spread
model: {folder: language}
task:
  causal-lm: {max_length: 24}
data: {files: rows.jsonl, split: {validation: 12, test: 16}, calibration: 8}
stages: quality
passes:
  - distill:
      {teacher: source, init: uniform, layers: 1, objectives: {soft-targets: {weight: 0.5, temperature: 1.0}, hidden-states: 0.1}, task_loss: 1.0,
       cache_teacher: false, epochs: 3, batch_size: 6, accumulate: 2, learning_rate: 0.01, precision: fp32}
targets:
  - torch
"""


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    """A tiny random Llama whose head is its table of words, texts and a plan."""
    folder = tmp_path_factory.mktemp("language")
    language_model(folder / "language", num_hidden_layers=2, tie_word_embeddings=True)
    documents(folder, ("text",))
    (folder / "spread.yaml").write_text(SPREAD)
    return folder


@pytest.fixture(scope="module")
def spread(language):
    """A distillation whose student and teacher are spread over two processes, what was listened on, and what was unpickled."""
    log = language / "spread.log"
    with pytest.MonkeyPatch.context() as patch, Listening() as listening:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "watched"))
        patch.setenv("WATCHED_LOG", str(log))
        stage, _ = ran(language, "spread", Processes(each=2, sharded=True), plan="spread.yaml")
    return stage, listening, log


def test_spread_student_and_teacher_give_the_losses_and_the_quality_of_one_process(language, spread):
    (language / "held.yaml").write_text(SPREAD.replace("accumulate: 2", "accumulate: 4"))  # the same parts
    one, _ = ran(language, "held", Processes(), plan="held.yaml")
    two = spread[0]
    curves = [stage.notes[0].curves for stage in (one, two)]
    assert list(curves[0]) == list(curves[1]) == ["soft-targets", "hidden-states", "task"]
    for name, curve in curves[0].items():
        assert [loss for _, loss in curves[1][name]] == pytest.approx([loss for _, loss in curve], abs=1e-4)
    assert two.scores.main.value == pytest.approx(one.scores.main.value, rel=1e-4)
    assert two.key != one.key
    (said,) = [note.text for note in two.notes if "spread over" in getattr(note, "text", "")]
    assert float(re.search(r"\((.*)%\)", said)[1]) == pytest.approx(50, abs=2)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's table of sockets is read")
def test_processes_that_share_parameters_listen_on_loopback_alone_and_unpickle_nothing(spread):
    _, listening, log = spread
    said = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines()]
    assert said.count("begun") >= 2
    assert [each for each in said if each != "begun"] == []
    assert listening.seen
    assert [str(address) for _, address, _ in listening.seen if not address.is_loopback] == []


@pytest.mark.parametrize(
    ("settings", "each", "said"),
    [
        (("passes.distill.lora={}",), 2, "distill cannot be trained with --sharded: lora puts matrices beside layers"),
        (("passes.distill.compile=true", "passes.distill.objectives={}"), 2, "compile: true compiles layers"),
        (("passes.distill.generate={}",), 2, "generate writes texts of other lengths in each process"),
        ((), 1, "there is one: give --processes 2 or more"),
    ],
)
def test_what_cannot_be_spread_is_refused_before_anything_runs(language, settings, each, said):
    bound = load_plan(language / "spread.yaml", settings=settings)
    with pytest.raises(UnsupportedModel, match=re.escape(said)):
        check_sharded(bound, Processes(each=each, sharded=True))
    check_sharded(bound, Processes(each=each))


def test_progress_of_several_processes_is_told_once(alone, together):
    one, two = (
        [event.done for event in told if isinstance(event, Progress) and event.work == "distill"] for _, told in (alone, together)
    )
    assert one == two == list(range(1, STEPS + 1))


def test_result_of_two_processes_is_written_once_and_found_again(folder, together):
    entries = [json.loads(path.read_text()) for path in (folder / "together" / "results").rglob("entry.json")]
    (entry,) = [entry for entry in entries if entry["parts"]["step"] == "distill"]
    assert (entry["parts"]["processes"], entry["digest"]) == (2, together[0].digest)
    assert list((folder / "together" / "scratch").iterdir()) == list((folder / "together" / "staging").iterdir()) == []
    again, _ = ran(folder, "together", Processes(each=2))
    assert (again.found, again.digest) == (True, together[0].digest)


# ------------------------------------------------------------------ what goes wrong


def test_processes_with_other_versions_are_refused_by_name():
    here = {"Python": "3.11.7", "torch": "2.13.0"}
    _check_alike([here, here])
    with pytest.raises(
        MissingDependency, match=r"^process 1 of the group has torch 2\.12\.0, the machine that runs the plan has torch 2\.13"
    ):
        _check_alike([here, {**here, "torch": "2.12.0"}])
    with pytest.raises(MissingDependency, match="has no onnx, the machine that runs the plan has onnx 1"):
        _check_alike([{**here, "onnx": "1"}, here])


def test_rendezvous_at_no_address_of_this_machine_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        MissingDependency, match=r"^192\.0\.2\.1:29500 cannot be listened on .* an address of the machine that runs the plan"
    ):
        meet("tcp://192.0.2.1:29500", wait_seconds=1)


def job(tmp_path):
    paths = dict.fromkeys(("plan", "folder", "parent", "store", "scratch", "out"), tmp_path)
    return Job(step="distill", data="", teachers={}, **paths)


def child(monkeypatch, code):
    """Have a small program stand where the group of processes is started."""
    monkeypatch.setattr(launch, "_command", lambda *_: [sys.executable, "-c", f"import json, os, sys, time\n{code}"])


def test_error_of_a_process_is_raised_here_with_its_type(tmp_path, monkeypatch):
    child(
        monkeypatch,
        "os.write(1, (json.dumps({'error': 'TrainingDiverged', 'text': 'the loss is nan at step 3'}) + '\\n').encode()); time.sleep(60)",
    )
    started = time.monotonic()
    with pytest.raises(TrainingDiverged, match=r"^the loss is nan at step 3$"):
        train_apart(job(tmp_path), Processes(each=2), [].append)
    assert time.monotonic() - started < 30  # what still ran was ended


def test_process_that_ends_early_is_an_error_with_what_it_said_last(tmp_path, monkeypatch):
    child(monkeypatch, "sys.stderr.write('out of memory\\n'); sys.exit(9)")
    with pytest.raises(WorkerFailed, match=r"distill: a training process ended early \(exit code 9\):\nout of memory"):
        train_apart(job(tmp_path), Processes(each=2), [].append)


def test_notes_of_an_earlier_try_are_not_taken_for_a_result(tmp_path, monkeypatch):
    (tmp_path / launch.NOTES).write_text("[]")
    child(monkeypatch, "pass")
    with pytest.raises(WorkerFailed, match="exit code 0"):
        train_apart(job(tmp_path), Processes(each=2), [].append)


def test_more_processes_than_gpus_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(MissingDependency, match=r"^2 processes need as many GPUs, and this machine has 1$"):
        train_apart(job(tmp_path), Processes(each=2), [].append)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "plan.yaml", "--nodes", "2"), "--nodes 2 needs a rendezvous HOST:PORT, found ''"),
        (("run", "plan.yaml", "--nodes", "2", "--rendezvous", "host"), "--nodes 2 needs a rendezvous HOST:PORT, found 'host'"),
        (("run", "plan.yaml", "--nodes", "2", "--rendezvous", "host:99999"), "found 'host:99999'; ports are 1 to 65535"),
        (("run", "plan.yaml", "--rendezvous", "host:1"), "--rendezvous host:1 is where several machines meet: say how many"),
        (("join", "host:0"), "found 'host:0'; ports are 1 to 65535"),
        (("join", "host:1", "--wait", "nan"), "--wait nan: expected a number of seconds above 0"),
        (("join", "host:1", "--wait", "-1"), "--wait -1: expected a number of seconds above 0"),
        (("join", "host:1", "--nodes", "2", "--node", "2"), "--node 2 is beyond --nodes 2: machines are counted from 0"),
    ],
)
def test_machines_that_cannot_meet_are_refused(folder, monkeypatch, arguments, said):
    monkeypatch.chdir(folder)
    found = CliRunner().invoke(app, [*arguments])
    assert (found.exit_code, said in found.output) == (2, True), found.output


# ------------------------------------------------------------------ long: minutes, since every process imports all that it needs


def command(folder, *arguments):
    environment = {**os.environ, INTERVAL: "0", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "compressor.cli", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.long
def test_two_machines_give_the_result_of_one_with_two_processes(folder, together):
    rendezvous = f"127.0.0.1:{free_port()}"
    joined = command(folder, "join", rendezvous, "--wait", "60")
    run = command(
        folder, "run", "plan.yaml", "--store", "nodes", "--out", "runs/nodes", "--nodes", "2", "--rendezvous", rendezvous
    )
    said, _ = run.communicate(timeout=1500)
    assert run.returncode == 0, said
    stage = next(stage for stage in read_report(folder / "runs" / "nodes").stages if stage.name == "distill")
    assert (stage.key, stage.digest) == (together[0].key, together[0].digest)
    said, _ = joined.communicate(timeout=600)  # it ends once nobody has come for as long as it waits
    assert joined.returncode == 0, said


def kill(folder, plan, store, *options, checkpoint):
    """Run a plan by two processes and kill it, its processes with it, once there is a file of a checkpoint."""
    run = command(folder, "run", plan, "--store", store, "--out", f"runs/{store}", "--processes", "2", *options)
    while not list((folder / store).glob(f"scratch/*/training-distill/{checkpoint}")):
        assert run.poll() is None, run.stdout.read()
        time.sleep(0.05)
    group = [each.pid for each in psutil.Process(run.pid).children(recursive=True)]
    assert len(group) == 2
    run.send_signal(signal.SIGKILL)
    run.communicate()
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in group if psutil.pid_exists(pid)]


@pytest.mark.long
def test_killed_run_of_two_processes_leaves_none_and_goes_on_to_the_same_result(folder, together):
    kill(folder, "plan.yaml", "killed", checkpoint="step-1?.safetensors")
    stage, told = ran(folder, "killed", Processes(each=2))
    assert stage.digest == together[0].digest
    (said,) = [event.text for event in told if isinstance(event, Message) and "goes on" in event.text]
    assert re.fullmatch(r"distill: goes on at step \d+ of 42", said)


@pytest.mark.long
def test_killed_run_of_spread_parameters_goes_on_to_the_same_result(language, spread):
    kill(language, "spread.yaml", "killed", "--sharded", checkpoint="step-[3-9]-of-1.safetensors")
    stage, told = ran(language, "killed", Processes(each=2, sharded=True), plan="spread.yaml")
    assert stage.digest == spread[0].digest
    (said,) = [event.text for event in told if isinstance(event, Message) and "goes on" in event.text]
    assert re.fullmatch(r"distill: goes on at step \d+ of \d+", said)


@pytest.mark.long
def test_divergence_in_two_processes_is_told_like_that_of_one(folder):
    bound = load_plan(
        folder / "plan.yaml",
        settings=["passes.distill.learning_rate=0.9", "passes.distill.task_loss=1e38"],
    )
    with pytest.raises(TrainingDiverged, match=r"at step [0-9]+ of 42: try a lower learning_rate"):
        run_plan(
            bound,
            store=Store(folder / "nan"),
            folder=folder / "runs" / "nan",
            command="",
            tell=[].append,
            processes=Processes(each=2),
        )
    assert not [path for path in (folder / "nan" / "results").rglob("entry.json") if '"distill"' in path.read_text()]


@pytest.mark.parametrize("text", ["short", "e" * 5000, "\u00e9" * 2000, "\U0001f600" * 2000, '"\n' * 3000])
def test_error_of_a_process_is_a_line_that_a_pipe_keeps_whole(text):
    line = line_of({"error": "SourceError", "text": text})
    assert len(line.encode()) <= 4096
    assert line.endswith("\n")
    told = json.loads(line)["text"]
    assert text.startswith(told)
    assert told == text or len(line) > 4096 - 12
