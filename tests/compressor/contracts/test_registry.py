"""Plug-ins found by entry points: what is there, and what is said of those that are broken."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from families import ALL
from transformers import DebertaV2Config, DebertaV2Model, ErnieConfig, ErnieModel
from typer.testing import CliRunner

from compressor.cli import app
from compressor.contracts import Pass, registry
from compressor.errors import PluginError, UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.model.model import Model
from compressor.plan.schema import plan_schema

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 16}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution that offers plug-ins."""

    def installed(name, group, *lines, version="2.0"):
        info = tmp_path / name / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n" + "\n".join(lines))
        monkeypatch.syspath_prepend(str(tmp_path / name))
        return tmp_path / name

    return installed


def test_built_in_plugins_come_in_by_entry_points():
    assert {"finetune", "distill", "prune-structure", "quantize-static"} <= set(registry.names("pass"))
    assert {"pytorch", "onnxruntime", "openvino"} <= set(registry.names("target"))
    assert registry.distribution("pass", "finetune").startswith("compressor-toolchain ")


def test_third_party_plugin_is_found_beside_the_built_in_ones(toys):
    assert {"toy-train", "finetune"} <= set(registry.names("pass"))
    assert issubclass(registry.load("pass", "toy-train"), Pass)
    assert registry.distribution("pass", "toy-train") == "toys 1.0"


def test_names_are_gone_when_the_search_path_changes():
    assert "toy-train" not in registry.names("pass")


def test_listing_imports_no_plugin():
    code = (
        "import sys; from compressor.contracts import registry; [registry.names(kind) for kind in registry.KINDS];"
        "print([name for name in sys.modules if name.split('.')[0] in ('passes', 'targets', 'benchmarks', 'torch', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_name_is_told_with_a_near_one(toys):
    with pytest.raises(PluginError, match=r"no pass named 'toy-trian' is installed \(did you mean 'toy-train'\?\)"):
        registry.load("pass", "toy-trian")


def test_unknown_kind_is_told_with_a_near_one():
    with pytest.raises(PluginError, match=r"no kind of plug-in named 'pas' \(did you mean 'pass'\?\)"):
        registry.names("pas")


def test_two_distributions_with_one_name_are_told_apart(toys, installed):
    installed("rivals", "compressor.pass", "toy-train = toys:Shrink")
    with pytest.raises(PluginError, match=r"pass 'toy-train' is offered by rivals 2.0 and toys 1.0; uninstall one of them"):
        registry.load("pass", "toy-train")
    with pytest.raises(PluginError, match="offered by"):
        registry.distribution("pass", "toy-train")
    assert issubclass(registry.load("pass", "toy-shrink"), Pass)


def test_missing_module_names_the_distribution(toys):
    with pytest.raises(PluginError, match=r"pass 'toy-broken' of toys 1.0 cannot be imported .*; repair or uninstall toys 1.0"):
        registry.load("pass", "toy-broken")


@pytest.mark.parametrize("body", ["1 / 0", "def (", "raise RuntimeError('no')", "x = 3"])
def test_module_that_fails_is_a_plugin_error(installed, body):
    folder = installed("failing", "compressor.pass", "failing-pass = failing_module:Pass")
    (folder / "failing_module.py").write_text(body)
    sys.modules.pop("failing_module", None)
    with pytest.raises(PluginError, match=r"of failing 2.0 cannot be imported \(failing_module:Pass\): \w+Error"):
        registry.load("pass", "failing-pass")


def test_module_that_ends_the_program_or_prints_does_neither(installed, capsys):
    folder = installed("loud", "compressor.pass", "ends = loud_module:Pass", "prints = printing_module:Pass")
    (folder / "loud_module.py").write_text("raise SystemExit(3)")
    (folder / "printing_module.py").write_text("print('thanks')\nfrom passes.finetune import Finetune as Pass")
    with pytest.raises(PluginError, match=r"of loud 2.0 cannot be imported \(loud_module:Pass\): SystemExit: 3"):
        registry.load("pass", "ends")
    registry.load("pass", "prints")
    assert capsys.readouterr() == ("", "thanks\n"), "what a command prints is its own"


def test_plugin_that_is_broken_hides_no_other(toys, installed):
    installed("halves", "compressor.target", "half = toys:Shrink")
    listed = CliRunner().invoke(app, ["list", "passes"])
    assert listed.exit_code == 0
    lines = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    assert lines["toy-half"].startswith("broken: pass 'toy-half' of toys 1.0 lacks apply")
    assert lines["finetune"].startswith("Train the model on the labels")
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 0
    assert "target half: broken: target 'half' of halves 2.0 is" in told.stdout
    assert "target onnxruntime: ready" in told.stdout
    assert "finetune" in json.dumps(plan_schema())
    assert "toy-half" not in json.dumps(plan_schema())


def test_rows_and_libraries_that_are_broken_hide_no_other(installed):
    folder = installed("cracked", "compressor.anatomy", "a-gone = gone_module:ROW", "a-mapping = mapping_module:ROW")
    (folder / "mapping_module.py").write_text("ROW = {'family': 'bert'}")
    installed("shut", "compressor.library", "a-shut = gone_module:Library")
    model = Model.wrap(ALL["bert"].make(1))  # asks all libraries
    assert anatomy_of(model.module).family == "bert"
    with pytest.raises(
        PluginError, match=r"anatomy 'a-mapping' of cracked 2.0 is dict, expected a row.*repair or uninstall cracked 2.0"
    ):
        registry.load("anatomy", "a-mapping")
    with pytest.raises(UnsupportedModel, match="a-gone and a-mapping cannot be used"):
        anatomy_of(DebertaV2Model(DebertaV2Config(**SMALL)))


def test_row_that_does_not_fit_is_told_with_its_owner(installed):
    folder = installed("askew", "compressor.anatomy", "askew = askew_module:ROW")
    lines = ("from dataclasses import replace", "from compressor.model.families import BERT")
    row = "ROW = replace(BERT, family='askew', model_types=('ernie',), head_size_attribute='head_sise')"
    (folder / "askew_module.py").write_text("\n".join((*lines, row)))
    with pytest.raises(
        PluginError, match=r"anatomy 'askew' does not fit ErnieModel: .*head_sise.*; repair or uninstall askew 2.0"
    ):
        anatomy_of(ErnieModel(ErnieConfig(**SMALL)))


def test_wrong_class_is_a_plugin_error(toys):
    with pytest.raises(PluginError, match=r"toys.NotAPass.*expected a class derived from compressor.contracts.Pass"):
        registry.load("pass", "toy-untyped")


def test_class_of_another_kind_is_a_plugin_error(toys, installed):
    installed("mixed", "compressor.target", "mixed-target = toys:Train")
    with pytest.raises(PluginError, match=r"expected a class derived from compressor.contracts.Target"):
        registry.load("target", "mixed-target")


def test_unfinished_class_says_what_it_lacks(toys):
    with pytest.raises(PluginError, match=r"pass 'toy-half' of toys 1.0 lacks apply"):
        registry.load("pass", "toy-half")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_built_in_plugin_loads(kind):
    assert registry.names(kind) or kind == "network"
    for name in registry.names(kind):
        assert registry.load(kind, name) is not None


def test_what_somebody_elses_plugin_raises_is_told_and_a_fault_of_ones_own_is_raised(monkeypatch):
    def failing(error):
        with registry.told_of_others("pass", "finetune"):
            raise error

    for error in (KeyError("its own"), UnsupportedModel("refused")):
        with pytest.raises(type(error)):
            failing(error)
    monkeypatch.setattr(registry, "OURS", "another")
    with pytest.raises(
        PluginError, match=r"pass 'finetune' fails: KeyError: 'its own'; repair or uninstall compressor-toolchain"
    ):
        failing(KeyError("its own"))
    with pytest.raises(UnsupportedModel, match="refused"):
        failing(UnsupportedModel("refused"))
