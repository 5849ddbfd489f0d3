"""Demos without a browser: what is chosen and refused, how times are told, processes of models, hosted folders, the end of a server."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from demo_pages import TARGET, example_says, serving
from furnished import told

from compressor.errors import MissingDependency, StoreError, UnsupportedModel
from compressor.plan.bound import load_plan
from compressor.report import write_report
from compressor.report.findings import Findings, speed_up
from compressor.run.comparison import Run
from compressor.tasks.data import load_data
from demos import of_export
from demos.command import check_address
from demos.of_run import choose, labels, subject
from demos.pages import panel_of
from demos.rows import Differing, Rows, as_folder, as_jsonl
from demos.side import wording
from demos.side.bounds import refused
from demos.side.meter import ROUNDS, Reading, Timed, measured, reading, with_interval
from demos.side.panel import compared, side_by_side
from demos.side.process import Answer, Block, Command, Refused, Side
from demos.side.subject import Subject
from demos.space import write_space

FAKE = """
import json, sys, time
from demos.side.worker import serve
class Model:
    def facts(self): return {"device": "CPU"}
    def inputs(self, given):
        if given == "die": sys.exit("out of memory, say")
        if given == "wrong": raise ValueError("it holds no token")
        return given
    def outputs(self, feed): return feed
    def read(self, found): return {"text": found.upper()}
    def written(self, found, most=None): return iter([found[:n] for n in range(1, len(found) + 1)]) if found.startswith("go") else None
def opened():
    time.sleep(float(sys.argv[1]))
    return Model()
serve(opened)
"""


@pytest.fixture
def side(tmp_path):
    """A process that answers with capitals, as the worker of models does; `delay` is what it takes to load."""
    made = []

    def start(delay=0.0, name="Compressed"):
        path = tmp_path / "model.py"
        path.write_text(FAKE)
        made.append(Side(name, Command((sys.executable, str(path), str(delay)), 1)))
        return made[-1]

    yield start
    for each in made:
        each.close()


def shown(*sides, **more):
    return Subject("a page", "text", sides, ["about"] * len(sides), **more)


# ------------------------------------------------------------------ what is installed


def test_lock_has_the_gradio_that_the_extra_asks_for():
    assert importlib.metadata.version("gradio").split(".")[0] == "6"
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text()
    assert f"gradio=={importlib.metadata.version('gradio')}\n" in lock
    assert re.search(r"^pillow==12\.", lock, flags=re.MULTILINE)


def test_without_gradio_the_command_says_what_to_install(monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "gradio" else found(name, *rest))
    done = told(tmp_path, "demo", ".")
    assert (done.returncode, "pip install 'compressor-toolchain[demo]'" in done.stderr) == (MissingDependency.exit_code, True)


def test_other_commands_do_not_import_it():
    code = "import sys, compressor.cli; print([each for each in sys.modules if each.split('.')[0] in ('demos', 'gradio')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--host", "0.0.0.0"], "say who may use it by --auth USER:PASSWORD"),
        (["--host", "192.168.1.5"], "others can reach 192.168.1.5"),
        (["--host", "127.0.0.1"], "is no run, no export, and holds no run"),
        (["--host", "::1"], "is no run, no export, and holds no run"),
        (["--host", "localhost"], "is no run, no export, and holds no run"),
        (["--auth", "nobody"], "expected USER:PASSWORD"),
        ([], "is no run, no export, and holds no run"),
    ],
)
def test_command_refuses(words, why, tmp_path):
    done = told(tmp_path, "demo", ".", *words)
    assert done.returncode == 2 or "no run" in why
    assert why in " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stderr).split())


def test_a_target_that_is_not_here_says_why_and_names_others(runs, tmp_path):
    run = Run.read(runs("text"))
    with pytest.raises(
        StoreError, match=rf"has no target 'tensorrt'; of its targets this machine runs {TARGET}: --target {TARGET}"
    ):
        choose(run, "tensorrt")
    missing = Run(run.folder, run.report.model_copy(update={"missing": {"cuda": "no CUDA device"}}))
    with pytest.raises(MissingDependency, match=f"target cuda: no CUDA device; of its targets this machine runs {TARGET}"):
        choose(missing, "cuda")
    assert choose(missing, None).missing == {"cuda": "no CUDA device"}


def test_a_run_that_kept_nothing_before_compression_is_shown_alone(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs("text"), folder)
    for name in ("finetune", "source"):
        shutil.rmtree(folder / "artifacts" / f"{name}@{TARGET}")
    write_report(read_report_of(folder), folder)
    chosen = choose(Run.read(folder), None)
    rows = Rows.read(chosen.run, "", chosen.after.id, labels(chosen.built(chosen.after)), tmp_path)
    made = subject(chosen, rows)
    try:
        assert made.names == ("Compressed",)
        assert "the compressed one is shown alone" in made.note
        *_, last = compared(made, "word1 red")
        assert "told" in last[1]
        assert len(last) == 4
    finally:
        made.close()


def read_report_of(folder):
    from compressor.contracts.records import Report

    return Report.model_validate_json((folder / "report.json").read_text())


def test_an_altered_model_is_not_shown(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs("pair"), folder)
    with (folder / "artifacts" / f"final@{TARGET}" / "model.onnx").open("ab") as file:
        file.write(b"x")
    chosen = choose(Run.read(folder), None)
    rows = Rows.read(chosen.run, f"source@{TARGET}", chosen.after.id, [], tmp_path)
    with pytest.raises(StoreError, match="is not the file that was measured"):
        subject(chosen, rows)


@pytest.mark.parametrize(
    ("kind", "given", "why"),
    [
        ("text", "", "Type a text first."),
        ("text", ["a", " "], "Type both texts first."),
        ("text", "a" * 20_001, "20,001 characters"),
        ("image", None, "Choose a picture"),
        ("audio", None, "Choose a sound"),
        ("text", "a", ""),
    ],
)
def test_bounds_say_why(kind, given, why):
    found = refused(kind, given)
    assert found == why or (why and why in found)


def test_an_address_that_cannot_be_listened_at_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StoreError, match=f"127.0.0.1, port {port}, cannot be listened at"):
            check_address("127.0.0.1", port)
    with pytest.raises(StoreError, match="cannot be listened at"):
        check_address("203.0.113.9", None)


# ------------------------------------------------------------------ rows


def test_rows_that_were_downloaded_are_read_by_a_plan(runs, tmp_path):
    run = Run.read(runs("text"))
    chosen = choose(run, None)
    rows = Rows.read(run, chosen.before.id, chosen.after.id, labels(chosen.built(chosen.after)), tmp_path)
    assert rows.why_not == ""
    assert [each.row for each in rows.differing] == [
        each.row for each in run.report.disagreements if each.candidate == chosen.after.id
    ]
    (tmp_path / "kept.jsonl").write_text(as_jsonl(rows, rows.differing), encoding="utf-8")
    plan = (
        (runs("text").parent / "plan.yaml")
        .read_text()
        .replace("files: rows.jsonl", "files: {train: rows.jsonl, test: kept.jsonl}")
    )
    plan = re.sub(r"  split:.*?(?=  calibration)", "  split: {validation: 12}\n", plan, flags=re.DOTALL)
    shutil.copytree(runs("text").parent / "pretrained", tmp_path / "pretrained")
    train = [
        line
        for line in (runs("text").parent / "rows.jsonl").read_text().splitlines()
        if line not in _lines(tmp_path / "kept.jsonl")
    ]
    kept = {json.loads(line)["text"] for line in _lines(tmp_path / "kept.jsonl")}
    (tmp_path / "rows.jsonl").write_text("".join(f"{line}\n" for line in train if json.loads(line)["text"] not in kept))
    (tmp_path / "plan.yaml").write_text(plan)
    bound = load_plan(tmp_path / "plan.yaml")
    data = load_data(bound.data, columns=bound.task.columns(), seed=0, folder=bound.folder)
    assert sorted(data.split("test")["text"]) == sorted(kept)


def _lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_pictures_that_were_downloaded_are_read_by_a_plan(runs, tmp_path):
    run = Run.read(runs("image"))
    chosen = choose(run, None)
    rows = Rows.read(run, chosen.before.id, chosen.after.id, labels(chosen.built(chosen.after)), tmp_path)
    kept = (0, 2, 5)
    as_folder(rows, [Differing(row, "", "", "red", "blue", "broken") for row in kept], _made(tmp_path / "kept" / "test"))
    as_folder(
        rows,
        [Differing(row, "", "", "red", "blue", "broken") for row in range(12) if row not in kept],
        _made(tmp_path / "kept" / "train"),
    )
    plan = (
        (runs("image").parent / "plan.yaml")
        .read_text()
        .replace("files: images", "files: {train: kept/train, test: kept/test}")
        .replace("    test: 12\n", "")
    )
    (tmp_path / "plan.yaml").write_text(
        plan.replace("validation: 12", "validation: 3").replace("calibration: 8", "calibration: 2")
    )
    shutil.copytree(runs("image").parent / "pretrained", tmp_path / "pretrained")
    bound = load_plan(tmp_path / "plan.yaml")
    data = load_data(bound.data, columns=bound.task.columns(), seed=0, folder=bound.folder)
    assert [str(label) for label in spelled(data.split("test"))] == [rows.marks(row)["label"] for row in kept]


def spelled(split):
    """Labels of rows by their names."""
    return [getattr(split.features["label"], "int2str", str)(label) for label in split["label"]]


def _made(folder):
    folder.mkdir(parents=True)
    return folder


def test_rows_to_try_are_telling_ones(runs, tmp_path):
    run = Run.read(runs("text"))
    chosen = choose(run, None)
    rows = Rows.read(run, chosen.before.id, chosen.after.id, labels(chosen.built(chosen.after)), tmp_path)
    offered = list(rows.telling())
    differ = [row for words, row in offered if words.startswith("they differ")]
    assert set(differ) <= {each.row for each in rows.differing}
    assert [words.partition(",")[0] for words, _ in offered] == ["they differ"] * len(differ) + ["both agree"] * (
        len(offered) - len(differ)
    )
    doubted = [row for words, row in offered if words.endswith("is not sure")]
    sure = {row: each.after for row, each in zip(doubted, rows.sure(doubted), strict=True)}
    differing = {each.row for each in rows.differing}
    others = rows.sure([row for row in range(len(rows.data.split("test"))) if row not in {*differing, *doubted}])
    assert sorted(sure.values()) == list(sure.values())
    assert max(sure.values()) <= min(each.after for each in others)
    assert not differing & {row for words, row in offered if words.startswith("both agree")}


def test_rows_that_are_gone_are_told_by_the_report(runs, tmp_path):
    folder = tmp_path / "place"
    shutil.copytree(runs("text").parent, folder)
    (folder / "rows.jsonl").write_text('{"text": "another", "label": "red"}\n' * 2)
    report = read_report_of(folder / "run").model_copy(update={"command": f"compressor run {folder / 'plan.yaml'}"})
    write_report(report, folder / "run")
    run = Run.read(folder / "run")
    chosen = choose(run, None)
    rows = Rows.read(run, chosen.before.id, chosen.after.id, labels(chosen.built(chosen.after)), tmp_path)
    assert rows.data is None
    assert rows.why_not
    assert [each.row for each in rows.differing] == [each.row for each in run.report.disagreements]


# ------------------------------------------------------------------ the meter


def test_interval_holds_the_ratio_that_rounds_scatter_about():
    found = with_interval([2.0, 2.1, 1.9, 2.05, 1.95, 2.0, 2.0], 0.02)
    assert found.low < 2.0 < found.high
    assert found.high / found.low < 1.12
    still = with_interval([2.0] * ROUNDS, 0.02)
    assert (still.low, still.high) == (pytest.approx(2 / 1.02), pytest.approx(2 * 1.02))


class Ready:
    threads = 1

    def __init__(self, device="CPU"):
        self.facts = {"device": device}


def test_a_meter_says_when_others_had_the_processor():
    quiet = [[Block((0.010, 0.010), 0.010)] * ROUNDS, [Block((0.005, 0.005), 0.005)] * ROUNDS]
    found = reading(quiet, 2, [Ready(), Ready()])
    assert (found.lost, found.ratio.median) == (0.0, pytest.approx(2.0))
    assert "Rough" not in wording.meter(["Before", "Compressed"], found, "")
    loud = [[Block((0.010, 0.010), 0.004)] * ROUNDS, quiet[1]]
    told = wording.meter(["Before", "Compressed"], reading(loud, 2, [Ready(), Ready()]), "")
    assert "Rough" in told
    assert "undecided" in told
    assert "faster" not in told
    assert reading(loud, 2, [Ready("CUDA"), Ready()]).lost == 0.0


@pytest.mark.parametrize(
    ("ratio", "said", "ends"),
    [
        (Timed(2.0, 1.9, 2.1), "2.00 times faster", "1.90 to 2.10"),
        (Timed(0.5, 0.49, 0.51), "2.00 times slower", "1.96 to 2.04"),
        (Timed(1.01, 0.98, 1.03), "no difference that can be measured", "between 1.02 times slower and 1.03 times faster"),
    ],
)
def test_speed_is_told_only_where_its_interval_leaves_one_out(ratio, said, ends):
    assert wording.speed(ratio) == said
    told = wording.meter(["Before", "Compressed"], Reading(1, 1, (ratio, ratio), ratio, 0.0), "")
    assert f"<dd>{said}</dd><small>{ends}</small>" in told
    assert "times as fast" not in told


def test_meter_times_both_sides_in_turn(side):
    found = measured([side(name="Before"), side()], "red")
    assert isinstance(found, Reading)
    assert len(found.seconds) == 2
    assert found.ratio.low < found.ratio.median < found.ratio.high


@pytest.mark.long
def test_meter_agrees_with_the_report_on_a_machine_that_is_still(runs, tmp_path):
    chosen = choose(Run.read(runs("text")), None)
    rows = Rows.read(chosen.run, chosen.before.id, chosen.after.id, labels(chosen.built(chosen.after)), tmp_path)
    made = subject(chosen, rows)
    try:
        assert all(side.is_loaded() for side in made.sides)
        found = measured(made.sides, rows.content(0))
    finally:
        made.close()
    said = speed_up(Findings(chosen.run.report).row(chosen.after)).interval
    assert found.lost < wording.ROUGH, "the machine is not still"
    assert found.ratio.low <= said.high
    assert said.low <= found.ratio.high


@pytest.mark.long
def test_a_page_is_there_within_five_seconds_on_a_machine_that_is_still(runs, tmp_path):
    with serving(runs("text"), log=tmp_path / "asked.txt") as served:
        assert float(re.search(r"there after ([\d.]+) s", served.said)[1]) < 5


# ------------------------------------------------------------------ answers in words


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (Answer("red"), Answer("red"), "Both say red."),
        (Answer("<b>"), Answer("red"), "Before says &lt;b&gt;, Compressed says red."),
        (Answer("1.5", number=1.5), Answer("1.502", number=1.502), "They are 0.002 apart."),
        (Answer("", vector=(1.0, 0.0)), Answer("", vector=(0.0, 1.0)), "cosine of 0.0000"),
        (Answer("one two", tokens=2), Answer("one four", tokens=2), "They write the same for 4 characters"),
    ],
)
def test_agreement_is_told_in_words(before, after, said):
    assert said in wording.agreement(("Before", "Compressed"), (before, after))


def test_foreign_text_is_escaped_in_cards():
    card = wording.card(Answer("<script>", 0.5, (("<img>", 0.5),)))
    assert "<script>" not in card
    assert "<img>" not in card


# ------------------------------------------------------------------ processes of models


def test_a_model_that_is_slow_to_load_says_for_how_long(side):
    slow = side(1.5)
    states = [each[0] for each in compared(shown(slow), "red")]
    assert any(re.search(r"Compressed is loading: \d s so far", state) for state in states)
    assert states[-1] == ""


def test_an_input_that_the_model_refuses_ends_nothing(side):
    model = side()
    *_, last = compared(shown(model), "wrong")
    assert "it holds no token" in last[0]
    pid = model.pid
    assert [each.text for each in model.answer("red")] == ["RED"]
    assert model.pid == pid


def test_a_process_that_ended_says_its_last_words_and_is_started_anew(side):
    model = side()
    with pytest.raises(Refused, match="the process of the Compressed model ended: out of memory, say"):
        list(model.answer("die"))
    assert [each.text for each in model.answer("red")] == ["RED"]


def test_tokens_that_nobody_waits_for_are_not_anothers_answer(side):
    model = side()
    first = model.answer("gone")
    assert next(first).text == "g"
    first.close()
    assert [each.text for each in model.answer("red")] == ["RED"]


def test_models_end_with_whoever_started_them(tmp_path):
    (tmp_path / "model.py").write_text(FAKE)
    starter = f"""
import sys, time
from demos.side.process import Command, Side
side = Side("x", Command((sys.executable, {str(tmp_path / "model.py")!r}, "0"), 1))
side.is_loaded()
print(side.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        process.kill()
    gone(pid)


def gone(*pids):
    deadline = time.monotonic() + 20
    while alive := [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)


WAITS = """
import sys, time
from demos.side.page import await_end, uploads
with uploads() as own:
    (own.parent / "uploads" / "a.png").touch()
    print(own.parent, flush=True)
    await_end() if sys.argv[1] == "served" else time.sleep(60)
"""


@pytest.mark.parametrize("when", ["starting", "served"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_uploads_are_gone_with_a_server_that_is_told_to_end(number, when):
    with subprocess.Popen([sys.executable, "-c", WAITS, when], stdout=subprocess.PIPE, text=True) as process:
        folder = Path(process.stdout.readline().strip())
        assert (folder / "uploads" / "a.png").exists()
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(30) == (0 if when == "served" else 128 + number)
    assert not folder.exists()


def test_a_server_lives_on_when_its_terminal_is_closed_under_nohup():
    with subprocess.Popen(["nohup", sys.executable, "-c", WAITS, "served"], stdout=subprocess.PIPE, text=True) as process:
        folder = Path(process.stdout.readline().strip())
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not folder.exists()


def test_ctrl_c_leaves_no_process_and_no_upload(runs, tmp_path):
    with serving(runs("text"), log=tmp_path / "asked.txt") as served:
        tree = [each.pid for each in psutil.Process(served.process.pid).children(recursive=True)]
        assert len(tree) >= 2
        assert re.search(r"there after [\d.]+ s; its models load meanwhile", served.said)
        assert list((tmp_path / "asked.tmp").glob("compressor-demo-*")) != []
        with urllib.request.urlopen(served.address) as answer:
            assert answer.status == 200
        assert served.end() == 0
        gone(*tree)
    assert list((tmp_path / "asked.tmp").glob("compressor-demo-*")) == []


def test_others_are_asked_who_they_are(runs, tmp_path):
    with serving(runs("text"), "--host", "0.0.0.0", "--auth", "ada:secret", log=tmp_path / "asked.txt") as served:
        assert f"whoever reaches {served.address} and knows the password can use the models, read test rows" in served.said
        with pytest.raises(urllib.error.HTTPError) as refused_:
            urllib.request.urlopen(f"{served.address}config")
        assert refused_.value.code == 401
        refused_.value.close()


# ------------------------------------------------------------------ exports


def test_an_example_is_written_anew_from_what_a_specification_says(exports):
    for name in ("text", "pair", "labels", "number", "image", "audio", "features", "language"):
        folder = exports(name)
        assert of_export.example(of_export.deployed_of(folder)) == (folder / "example.py").read_text(), name


def test_an_example_that_is_not_ours_is_not_run(exports, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exports("text"), folder)
    (folder / "example.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + (folder / "example.py").read_text())
    _sealed(folder)
    made = of_export.subject(folder, tmp_path)
    try:
        assert "it is not run, and ours is" in made.note
        (answer,) = made.sides[0].answer("word1 red word2")
        assert answer.text == example_says(exports("text"), "word1 red word2")
    finally:
        made.close()
    assert not (tmp_path / "ran").exists()


def _sealed(folder):
    from compressor.store.checksums import SUMS, names_in, sums_text
    from compressor.store.store import sha256_of

    (folder / SUMS).unlink(missing_ok=True)
    (folder / SUMS).write_text(sums_text({name: sha256_of(folder / name) for name in names_in(folder)}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("settings", {"x = 1; import os #": "y"}),
        ("settings", {"graph_optimization_level": "ORT_ENABLE_ALL\nimport os"}),
        ("runtime", "another"),
        ("takes", "code"),
        ("graphs", [{"name": "model", "inputs": [{"name": "a", "dtype": "x", "axes": []}], "outputs": [], "file": "a"}]),
    ],
)
def test_a_specification_cannot_put_code_into_the_example(field, value, exports, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exports("text"), folder)
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps(spec | {field: value}))
    _sealed(folder)
    with pytest.raises(StoreError, match=r"spec\.json cannot be read"):
        of_export.subject(folder, tmp_path)


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/hostname", "absent.onnx"])
def test_a_specification_names_files_of_its_export_alone(file, exports, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exports("text"), folder)
    (tmp_path / "model.onnx").touch()
    spec = json.loads((folder / "spec.json").read_text())
    spec["graphs"][0]["file"] = file
    (folder / "spec.json").write_text(json.dumps(spec))
    with pytest.raises(StoreError, match="is no file of the export"):
        of_export.deployed_of(folder)


def test_an_altered_export_is_refused(exports, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(exports("text"), folder)
    (folder / "labels.json").write_text('["a", "b", "c"]')
    with pytest.raises(StoreError, match=r"labels\.json is not the file that was written"):
        of_export.subject(folder, tmp_path)


# ------------------------------------------------------------------ hosted folders

ALONE = """
import sys, runpy
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("compressor", "passes", "targets", "benchmarks"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Barred())
sys.path.insert(0, sys.argv[1])
runpy.run_path(sys.argv[1] + "/app.py", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["text", "image"])
def test_a_hosted_demo_needs_nothing_of_this_project(name, runs, exports, tmp_path):
    from gradio_client import Client, handle_file

    folder = write_space(runs(name), None, tmp_path / "space")
    wanted = (folder / "requirements.txt").read_text()
    assert f"gradio=={importlib.metadata.version('gradio')}\n" in wanted
    assert "compressor" not in wanted
    (tmp_path / "alone.py").write_text(ALONE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO")}
    command = [sys.executable, "-P", str(tmp_path / "alone.py"), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            address = process.stdout.readline().strip()
            picture = str(min((runs("image").parent / "images" / "red").glob("*.png")))
            given = "word1 red word2" if name == "text" else picture
            client = Client(address, verbose=False)
            found = client.predict(given if name == "text" else handle_file(given), api_name="/compare")
            client.close()
            assert f">{example_says(exports(name), given)}<" in found[2]
        finally:
            process.terminate()


def test_a_task_whose_feed_no_description_says_is_refused_by_name(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("demos.space.export", lambda run, target, out, **_: shutil.copytree(made, out))
    made = tmp_path / "made"
    made.mkdir()
    (made / "spec.json").write_text(json.dumps({"task": "drawing"}))
    with pytest.raises(UnsupportedModel, match=r"of task drawing cannot be hosted: its export has no example"):
        write_space(runs("text"), None, tmp_path / "space")


# ------------------------------------------------------------------ plug-ins


def test_a_plugin_brings_a_panel_of_its_own(tmp_path, monkeypatch):
    place = tmp_path / "panels-1.0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text("Metadata-Version: 2.1\nName: panels\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text("[compressor.demo]\nmy-task = my_panels:draw\n")
    (tmp_path / "my_panels.py").write_text("def draw(subject):\n    return [], lambda given: []\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert panel_of("my-task").__name__ == "draw"
    assert panel_of("text-classification") is side_by_side
