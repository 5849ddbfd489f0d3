"""The conformance suite: what is built in keeps its contract, and what breaks it is told how."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compressor.contracts import Pass, registry
from compressor.errors import PluginError
from compressor.testing import Nonconformity, check_pass, check_target, checks, targets
from compressor.testing.steps import variants
from compressor.testing.subject import Subject
from compressor.testing.tiny import tiny_run

OURS = checks("compressor-toolchain")


@pytest.fixture
def broken(monkeypatch):
    """A distribution whose plug-ins each break their contract in one way."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "broken"))


@pytest.mark.parametrize("check", OURS, ids=str)
def test_built_in_plugin_keeps_its_contract(check):
    check()


def test_checks_cover_every_installed_plugin():
    assert {(check.kind, check.name) for check in OURS} == {
        (kind, name)
        for kind in registry.KINDS
        for name in registry.names(kind)
        if registry.distribution(kind, name).startswith("compressor-toolchain ")
    }


FAULTS = {
    "pass forgets-its-seed gives equal bytes": "applying it twice to the same model gives other bytes in model.safetensors; draw",
    "pass says-nothing-of-itself is explained": "has no docstring",
    "pass takes-anything refuses unknown parameters": "a plan with the unknown parameter 'strengths' is taken; keep `extra",
    "pass hides-a-parameter round trips": None,
    "pass hides-a-parameter has a key of all it depends on": r"another 'strength' gives the same key \(0.5 or",
    "pass offers-what-it-refuses offers what it takes": r"a plan with its recipe {'strengths': 0.0} is refused: .*no such parameter",
    "pass offers-without-a-role offers what it takes": "its recipe has the role None, expected one of train, shrink, recover",
    "pass is-heavy is light": "checking a plan imports onnx; import inside the functions",
    "pass reaches-in gives equal bytes": "loading what it saved raises SourceError: .*model.safetensors lacks",
    "pass knows-bert-only refuses strangers": "a model of an unknown family raises AttributeError: .*; refuse it with an error of",
    "pass writes-into-its-input gives equal bytes": "its place is under ctx.folder",
    "pass changes-what-it-reads gives equal bytes": "writes into its input on 'onnx', if only for a while; write under ctx.folder",
    "pass gives-no-example is explained": r"does not take its own example {} \(needed: Field required\); set `examples`",
    "pass breaks-on-wrong-values refuses wrong values": "its own check breaks on a wrong value of 'sizes': .*KeyError",
    "target raises-what-is-missing says what is missing": r"missing\(\) raises ModuleNotFoundError",
    "target takes-its-time says what is missing": r"missing\(\) takes 0.2 s; it must be quick",
    "target forgets-what-it-requires says what is missing": r"requires onnxruntime, and without it missing\(\) says 'nothing'",
    "target computes-something-else builds and runs": "'logits' is not what the model computes: cosine -1.0000",
    "target draws-its-outputs builds and runs": "two builds of one model give other values of 'logits'",
    "target gives-its-own-memory builds and runs": "a second run overwrites the outputs of the first; copy them",
    "target keeps-facts-to-itself builds and runs": "facts do not say 'threads' as text",
    "target opens-anything refuses an empty folder": "opens a folder that holds no model",
    "probe measures-the-first measures every candidate": "its record does not speak of final@stand-in",
    "probe wants-no-shape has workloads": r"workloads\(\) is empty",
    "task never-shuffles gives batches of every row": "two seeds shuffle in one way",
    "task mixes-rows-up scores rows in their order": r"outputs\['logits'\]\[\d+\] is not what row \d+ gives by itself",
    "objective never-ends learns nothing from its equal": "a student that equals its teacher has the loss 1, expected 0",
    "objective teaches-nothing learns from another": "its loss has no gradient on the student",
    "objective weighs-itself is a mean": "its loss depends on `weight`",
    "objective counts-padding is a mean": "padding changes the loss from",
    "edit is-called-otherwise is data": "its `kind` is 'is-called-differently': saved models look for the entry point",
    "edit cannot-do-meta changes alike on meta": "apply on a module on meta raises",
    "edit forgets-on-load loads to the bit": "computes something else once it is saved and loaded",
    "edit refuses-anyhow refuses what it does not fit": "refuses a module with AttributeError: .*; raise UnsupportedModel",
    "anatomy ernie-backwards cuts what it says": "removing a feed-forward neuron",
    "target on-counted builds and runs": None,
    "format counts-itself lowers to equal bytes": r"other bytes in calls.txt \(from byte 0: b'1', then b'2'\); try these in turn",
    "format leads-nowhere leads down": "the way down to it raises PluginError: no format named 'nowhere'",
}


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault])
def test_broken_plugin_is_told_what_it_breaks(broken, monkeypatch, name):
    monkeypatch.setattr(targets, "MISSING_SECONDS", 0.1)
    check = next(check for check in checks("broken") if str(check) == name)
    with pytest.raises(Nonconformity, match=FAULTS[name]) as told:
        check()
    assert str(told.value).startswith(f"{check.kind} '{check.name}'")


def test_every_broken_plugin_is_found_out(broken):
    assert {(check.kind, check.name) for check in checks("broken")} == {tuple(name.split()[:2]) for name in FAULTS}


def test_check_of_an_instance_runs_all_checks_of_its_kind(broken):
    import broken

    with pytest.raises(Nonconformity, match="pass 'says-nothing-of-itself': has no docstring"):
        check_pass(broken.SaysNothingOfItself(size=2))
    with pytest.raises(Nonconformity, match="target 'opens-anything': run raises AttributeError"):
        check_target(broken.OpensAnything())


def test_check_of_what_is_not_installed_says_so():
    class Stray(Pass):
        """In no entry point."""

        def apply(self, model, ctx):
            return model

    with pytest.raises(Nonconformity, match=r"Stray stands in no entry point of 'compressor.pass'"):
        check_pass(Stray())


def test_checks_of_a_distribution_without_plugins_say_how_to_offer_some():
    with pytest.raises(Nonconformity, match=r"no plug-in of numpy is installed: its pyproject.toml needs entry points"):
        checks("numpy")


def test_plugin_that_cannot_be_imported_fails_its_checks(toys):
    check = next(check for check in checks("toys", kind="pass") if check.name == "toy-broken")
    with pytest.raises(PluginError, match="cannot be imported"):
        check()


def test_variants_change_one_parameter_each():
    step = registry.load("target", "onnxruntime")()
    found = dict(variants(step))
    assert set(found) == set(type(step).model_fields)
    for name, other in found.items():
        assert {field for field in type(step).model_fields if getattr(other, field) != getattr(step, field)} == {name}


def test_every_check_says_what_it_demands():
    assert all(check.demand.endswith((".", ":")) for check in OURS)


def test_importing_the_suite_imports_nothing_heavy():
    code = "import sys, compressor.testing; print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tiny_run_is_made_once_and_named_by_its_entry_point():
    assert tiny_run() is tiny_run()
    assert str(Subject.of("task", tiny_run().task)) == "task 'text-classification'"
