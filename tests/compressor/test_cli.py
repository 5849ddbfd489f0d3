import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf", "gradio", "datasets", "numpy")


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "compressor.cli", *arguments], capture_output=True, text=True, check=False)


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
    assert any(line.split()[0] == name for line in command("list", kind).stdout.splitlines())


def test_explain_shows_parameters():
    shown = command("explain", "prune-structure").stdout
    assert "importance" in shown
    assert "compressor-toolchain" in shown


def test_explain_shows_values_and_what_a_parameter_is_made_of():
    lines = command("explain", "distill-and-prune").stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("  latency = None"))
    assert lines[at + 1].startswith("    target = (required)")
    assert lines[at + 2].startswith("    ratio = None")
    assert any("one of heads, neurons, channels, attention, feed-forward" in line for line in lines)
    assert "    groups = None  Rows of one group" in command("explain", "audio-features").stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [("keep-heads", "Keep these attention heads"), ("bert", "Reads models of type bert."), ("onnxruntime", "own operators")],
)
def test_explain_knows_every_kind(name, said):
    assert said in command("explain", name).stdout


def test_explain_suggests_a_near_name_when_it_is_unknown():
    found = command("explain", "distil")
    assert found.returncode == 2
    assert "did you mean 'distill'?" in found.stderr


def test_schema_is_json_with_the_passes():
    assert "prune-structure" in json.dumps(json.loads(command("schema").stdout))


def test_doctor_says_what_each_target_and_extra_lacks():
    lines = command("doctor").stdout.splitlines()
    assert "target onnxruntime: ready" in lines
    assert "extra openvino: installed" in lines
    assert any(line.startswith("extra gpu: lacks onnxruntime-gpu==") and "compressor-toolchain[gpu]" in line for line in lines)
