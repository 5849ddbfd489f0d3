import errno
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import pytest
from furnished import rows, write_model, write_rows
from typer.testing import CliRunner

from compressor.cli import app, main
from compressor.plan.explanation import explained
from compressor.plan.yaml_source import read_yaml
from compressor.run.preview import Preview

PLAN = """
model: {folder: model}
task: {text-classification: {max_length: 16}}
data: {files: rows.jsonl, split: {validation: 12, test: 16}}
passes: [quantize-dynamic]
targets: [onnxruntime]
"""
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf", "gradio", "datasets", "numpy")


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "compressor.cli", *arguments], capture_output=True, text=True, check=False)


def said(*arguments, code=0):
    """What a command prints, in the tests' own process."""
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == code, found.output
    return found.stdout


def test_version_is_that_of_the_distribution():
    assert said("--version") == f"compressor {version('compressor-toolchain')}\n"


def test_shell_completes_commands_and_what_explain_knows():
    def completed(line):
        asked = {"_COMPRESSOR_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()))}
        return CliRunner().invoke(app, [], prog_name="compressor", env=asked).stdout.split()

    assert "explain" in completed("compressor ")
    assert {"distill", "distill-and-prune", "data"} <= {*completed("compressor explain d"), *completed("compressor explain ")}
    assert "--install-completion" in said("--help")


def test_every_command_keeps_libraries_from_fetching_code_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("USE_HUB_KERNELS", "YES")
    CliRunner().invoke(app, ["export", str(tmp_path / "none"), str(tmp_path / "out"), "--target", "onnxruntime"])
    assert os.environ["USE_HUB_KERNELS"] == "NO"


def test_python_interface_keeps_libraries_from_fetching_code_and_imports_none():
    code = (
        f"import os, sys, compressor.api; print(os.environ['USE_HUB_KERNELS'], [name for name in {HEAVY} if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "USE_HUB_KERNELS": "YES"},
    )
    assert ran.stdout == "NO []\n", ran.stderr


@pytest.mark.parametrize("kind", ["passes", "anatomies", "runs"])
def test_list_prints_json_that_says_what_the_lines_say(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = json.loads(said("list", kind, "--json"))
    lines = said("list", kind).splitlines()
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert line.split() == f"{row['name']} {row['about']}".split()


def test_check_prints_json_that_says_what_the_lines_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path, ("blue", "red"))
    write_rows(tmp_path / "rows.jsonl", rows())
    (tmp_path / "plan.yaml").write_text(PLAN)
    asked = ("check", "plan.yaml", "--store", "store")
    found = json.loads(said(*asked, "--json"))
    assert found["plan"] == "plan"
    assert [": ".join(each.values()) for each in found["lines"]] == said(*asked).splitlines()
    assert {"about": "source", "says": "to be loaded"} in found["lines"]
    assert Preview.model_validate(found).model_dump(mode="json") == found
    (train,) = [split for split in found["data"]["splits"] if split["name"] == "train"]
    assert sum(train["classes"].values()) == train["rows"]
    assert found["inputs"]["unit"] == "tokens"
    assert [step["plugin"] for step in found["steps"]]


@pytest.mark.parametrize(
    ("part", "lines"),
    [
        (
            "plan",
            ["seed = 0  Seed of everything that is drawn; at least 0 and less than 4294967296; as 1", "passes = (required)"],
        ),
        ("data", ["calibration = 256  Rows of train that quantisation is calibrated with; at least 1; as", "  layout = files"]),
        ("accept", ["target = (required)  Name of a target of the plan; as", "max_size = None  Greatest share"]),
        ("gate", ["on_fail = stop  End the run", "one of stop, roll back, warn; as"]),
    ],
)
def test_explain_tells_each_key_of_a_part_of_a_plan_with_default_range_and_example(part, lines):
    told = said("explain", part)
    assert all(line in told for line in lines), told
    plan, faults = read_yaml(textwrap.dedent(told.partition("\nexample:\n\n")[2].partition("\n\n")[0]), "example")
    assert not faults
    assert plan.items()


def test_explain_of_a_plugin_ends_with_how_a_plan_names_it():
    assert "example:\n\n    passes:\n    - finetune\n" in said("explain", "finetune")
    assert "learning_rate = 0.0001  Peak learning rate of AdamW; more than 0 and less than 1" in said("explain", "finetune")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from compressor.cli import app; sys.argv = ['compressor', '--help']\n"
        "try: app()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stderr.strip() == "[]"
    assert "quickstart" not in found.stdout
    assert "run" in found.stdout


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("passes", "finetune"),
        ("passes", "quantize-static"),
        ("targets", "openvino"),
        ("probes", "latency"),
        ("tasks", "text-classification"),
        ("objectives", "soft-targets"),
    ],
)
def test_list_names_what_is_installed(kind, name):
    assert any(line.split()[0] == name for line in said("list", kind).splitlines())


def test_explain_shows_parameters():
    shown = said("explain", "prune-structure")
    assert "importance" in shown
    assert "compressor-toolchain" in shown


def test_explain_shows_values_and_what_a_parameter_is_made_of():
    lines = said("explain", "distill-and-prune").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  latency = None"))
    assert lines[at + 1].startswith("    target = (required)")
    assert lines[at + 2].startswith("    ratio = None")
    assert any("one of heads, neurons, channels, attention, feed-forward" in line for line in lines)
    assert "    groups = None  Rows of one group" in said("explain", "audio-features")


@pytest.mark.parametrize(
    ("name", "text"),
    [("keep-heads", "Keep these attention heads"), ("bert", "Reads models of type bert."), ("onnxruntime", "own operators")],
)
def test_explain_knows_every_kind(name, text):
    assert text in said("explain", name)


def test_explain_suggests_a_near_name_when_it_is_unknown():
    found = command("explain", "distil")
    assert found.returncode == 2
    assert "did you mean 'distill'?" in found.stderr


@pytest.mark.parametrize("word", ["QAT", "qad", "quantization-aware"])
def test_explain_finds_what_is_known_by_another_name(word):
    told = said("explain", word)
    assert told.startswith(f"nothing is named '{word}'; these speak of it:")
    assert "distill-and-quantize (pass)" in told


@pytest.fixture
def typed(monkeypatch):
    """A function that runs `compressor WORDS` in this process with what it prints going to a stream; its exit code."""

    def type_in(stdout, *words):
        monkeypatch.setattr(sys, "argv", ["compressor", *words])
        monkeypatch.setattr(sys, "stdout", stdout)
        handler = signal.getsignal(signal.SIGINT)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGINT, handler)
        return ended.value.code

    return type_in


FORMER_RUN = str(Path(__file__).parent / "report" / "version-1")


def test_terminal_that_cannot_show_a_character_is_told_its_number(typed):
    shown = io.BytesIO()
    stream = io.TextIOWrapper(shown, encoding="ascii")
    assert typed(stream, "show", FORMER_RUN) == 0
    stream.flush()
    assert b"\\xa0%" in shown.getvalue()


def test_what_cannot_be_written_is_an_error_in_one_line(typed, capsys):
    class Full(io.StringIO):
        def write(self, _text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert typed(Full(), "show", FORMER_RUN) == 1
    assert capsys.readouterr().err == "what is told cannot be written: No space left on device\n"


def test_argument_that_is_not_utf_8_is_refused(typed, capsys):
    assert typed(sys.stdout, "show", "runs/caf\udce9") == 2
    assert capsys.readouterr().err.startswith("runs/caf\\udce9 is not UTF-8, and would be written into files that are")


@pytest.mark.parametrize(("name", "more"), [("passes", "; `compressor list passes` names what may stand there"), ("seed", "")])
def test_explain_of_a_key_of_a_plan_says_where_it_is_told(name, more):
    with pytest.raises(LookupError) as found:
        list(explained(name))
    assert str(found.value.args[0]) == f"'{name}' is a key of a plan: `compressor explain plan` tells it{more}"


@pytest.mark.parametrize(
    ("name", "where"), [("data.files", "data"), ("accept.max_drop", "accept"), ("finetune.epochs", "finetune")]
)
def test_explain_of_a_key_with_what_it_stands_in_says_where_it_is_told(name, where):
    with pytest.raises(
        LookupError, match=f"'{name.partition('.')[2]}' would be a key of {where}: see `compressor explain {where}`"
    ):
        list(explained(name))


def test_schema_is_json_with_the_passes():
    assert "prune-structure" in json.dumps(json.loads(said("schema")))


def test_doctor_says_what_each_target_and_extra_lacks():
    lines = said("doctor").splitlines()
    assert "target onnxruntime: ready" in lines
    assert "extra openvino: installed" in lines
    assert any(line.startswith("extra gpu: lacks onnxruntime-gpu==") and "compressor-toolchain[gpu]" in line for line in lines)
