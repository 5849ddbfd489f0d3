"""Where passes may stand: a model only goes down, on each target's own way, and is quantised once."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest

from compressor.contracts import Dialect, Needs, Pass, Scheme, Target, registry
from compressor.errors import PluginError
from compressor.plan.draft import Draft, Drafted
from compressor.plan.entries import Entry
from compressor.plan.order import order_faults, works
from compressor.plan.specs import StepKeys
from compressor.plan.yaml_source import Located


class Torch(Pass):
    def apply(self, model, ctx):
        return model


class OnGraph(Torch):
    accepts = ("toy-graph",)


class OnBinary(Torch):
    accepts = ("toy-binary",)


class Rounds(Torch):
    accepts = ("toy-graph", "toy-binary")
    quantizes = True


class RoundsBinary(Torch):
    accepts = ("toy-binary",)
    quantizes = True


class RoundsTorch(Torch):
    quantizes = True


class Cuts(Torch):
    def needs(self):
        return Needs(plugins={"edit": ("keep-blocks", "keep-neurons")})


class TakesBlocks(Torch):
    def needs(self):
        return Needs(plugins={"edit": ("keep-blocks",)})


def target(form):
    return type("Runtime", (Target,), {"dialect": Dialect(format=form)})


TARGETS = {"eager": target("torch"), "runtime": target("toy-graph"), "device": target("toy-binary")}


def drafted(section, name, kind, **keys):
    beside = {key: Located(value, "plan.yaml", 90 + len(key)) for key, value in keys.items()}
    parameters = Located({}, "plan.yaml", 80)
    entry = Entry(name, name, f"{section}.{name}", parameters, Located(beside, "plan.yaml", len(name)))
    return Drafted(entry, kind, None, StepKeys.model_validate(keys))


def step(name, kind, **keys):
    return drafted("passes", name, kind, **keys)


def faults(*steps, targets=TARGETS):
    given = [drafted("targets", name, kind) for name, kind in targets.items()]
    draft = Draft(steps, given, (), (), {}, "source", Located({}, "plan.yaml", 1))
    return [f"{each.line} {each.where}: {each.what}" for each in order_faults(draft)]


@pytest.fixture(autouse=True)
def _toys(toys):
    """Formats `toy-graph` below torch and `toy-binary` below that."""


LOWER = {name: TARGETS[name] for name in ("runtime", "device")}


def test_plan_whose_model_only_goes_down_has_no_fault():
    steps = (step("train", Torch), step("tidy", OnGraph, only=("runtime", "device")), step("round", Rounds, only=["runtime"]))
    assert faults(*steps, step("pack", OnBinary, only=["device"]), step("bits", RoundsBinary, only=["device"])) == []
    assert faults() == []


def test_target_whose_format_nobody_makes_is_told_once_and_at_the_target():
    targets = {"far": target("moon"), **LOWER}
    steps = (step("round", Rounds, only=["far"]), step("tidy", OnGraph))
    with pytest.raises(PluginError, match=r"^no format named 'moon' is installed") as raised:
        registry.lowering("moon")
    assert faults(*steps, targets=targets) == [f"3 targets.far: {raised.value}"]


def test_target_that_is_not_known_is_passed_over():
    assert faults(step("tidy", OnGraph), targets={"strange": None, **LOWER}) == []


def test_targets_that_are_not_there_are_told_with_the_nearest_name():
    assert faults(step("tidy", OnGraph, only=["runtme", "device", "x"]), targets=LOWER) == [
        "94 passes.tidy.only: no target is named 'runtme' (did you mean 'runtime'?)",
        "94 passes.tidy.only: no target is named 'x' (known: device, runtime)",
    ]


def test_keys_that_have_no_meaning_in_the_trunk_or_below_it_are_faults():
    assert faults(step("train", Torch, only=["device"])) == [
        "94 passes.train.only: 'train' works on the torch model, once for all targets; leave `only` out"
    ]
    assert faults(step("tidy", OnGraph, **{"from": "source"}), targets=LOWER) == [
        "94 passes.tidy.from: 'tidy' works below torch, on what the torch passes end with; leave `from` out"
    ]
    assert faults(step("train", Torch, **{"from": "source"})) == []


def test_pass_without_a_place_on_the_way_to_a_target_is_told_which_targets_would_do():
    assert faults(step("pack", OnBinary)) == [
        "4 passes.pack: works on toy-binary and has no place on the way to 'eager' (torch), 'runtime' (toy-graph); "
        "write `only: [device]` beside it"
    ]
    assert faults(step("round", Rounds)) == [
        "5 passes.round: works on toy-graph or toy-binary and has no place on the way to 'eager' (torch); "
        "write `only: [runtime, device]` beside it"
    ]
    assert faults(step("pack", OnBinary), targets={"runtime": TARGETS["runtime"]}) == [
        "4 passes.pack: works on toy-binary and has no place on the way to 'runtime' (toy-graph); "
        "no target of this plan can take it; leave it out"
    ]


def test_pass_above_another_of_the_same_target_is_told_an_order_that_works():
    steps = (step("pack", OnBinary, only=["device"]), step("tidy", OnGraph, only=["device"]), step("train", Torch))
    assert faults(*steps) == [
        "4 passes.tidy: works on toy-graph and comes after 'pack', which is below that; an order that works: train, tidy, pack",
        "5 passes.train: works on torch and comes after 'pack', which is below that; an order that works: train, tidy, pack",
    ]


def test_pass_below_torch_comes_after_all_of_the_trunk_though_it_is_of_another_target():
    assert faults(step("tidy", OnGraph, only=["runtime"]), step("train", Torch)) == [
        "5 passes.train: works on torch and comes after 'tidy', which is below that; an order that works: train, tidy"
    ]
    assert faults(step("train", Torch), step("again", Torch), step("tidy", OnGraph, only=["runtime"])) == []


def test_passes_of_different_targets_have_no_order():
    steps = (step("pack", OnBinary, only=["device"]), step("tidy", OnGraph, only=["runtime"]))
    assert faults(*steps) == []
    assert faults(*reversed(steps)) == []


def test_pass_on_either_format_works_on_the_targets_own():
    both = ["runtime", "device"]
    assert faults(step("round", Rounds, only=both), step("tidy", OnGraph, only=["runtime"])) == [], "on one format"
    assert faults(step("round", Rounds, only=both), step("tidy", OnGraph, only=both)) == [
        "4 passes.tidy: works on toy-graph and comes after 'round', which is below that; an order that works: tidy, round"
    ]
    assert faults(step("round", Rounds, only=["device"]), step("pack", OnBinary, only=["device"])) == []


def test_unknown_passes_have_no_place():
    assert faults(step("pack", OnBinary, only=["device"]), step("strange", None), step("tidy", OnGraph, only=["runtime"])) == []


def test_order_that_works_has_the_deepest_format_of_a_pass_and_keeps_the_rest_as_it_was():
    steps = (
        step("round", Rounds, only=["runtime", "device"]),
        step("pack", OnBinary, only=["device"]),
        step("late", Torch),
        step("tidy", OnGraph, only=["runtime"]),
        step("strange", None),
        step("later", Torch),
    )
    order = works(["late", "strange", "later", "tidy", "round", "pack"])
    assert order == "an order that works: late, strange, later, tidy, round, pack"
    assert faults(*steps) == [
        f"4 passes.late: works on torch and comes after 'round', which is below that; {order}",
        f"5 passes.later: works on torch and comes after 'round', which is below that; {order}",
    ]


def test_tensors_are_quantised_once_on_each_target():
    first, second = step("one", Rounds, only=["runtime", "device"]), step("second", RoundsBinary, only=["device"])
    assert faults(first, second, step("third", RoundsBinary, only=["device"])) == [
        "6 passes.second: quantises what 'one' has quantised already for device; "
        "leave one of them out, or give each its own targets with `only:`",
        "5 passes.third: quantises what 'one' has quantised already for device; "
        "leave one of them out, or give each its own targets with `only:`",
    ]
    assert faults(step("one", Rounds, only=["runtime"]), second) == []
    assert faults(step("before", RoundsTorch), step("one", Rounds), targets=LOWER) == [
        "3 passes.one: quantises what 'before' has quantised already for runtime, device; "
        "leave one of them out, or give each its own targets with `only:`"
    ]


class Packs(Torch):
    quantizes = True

    def refuses(self, dialect):
        lacks = "" if dialect.format == "torch" else dialect.lacks(Scheme("int4", "int8", "group", 32, dynamic=True))
        return {"": lacks} if lacks else {}


def test_target_without_kernels_for_what_a_step_makes_is_told_with_those_it_has():
    able = {"schemes": (Scheme("int4", "int8", "group", dynamic=True),)}
    other = {"schemes": (Scheme("int8", "uint8"), Scheme("int4", "int8", "group", 32, dynamic=True, kernels=False))}
    targets = {
        name: type("Runtime", (Target,), {"dialect": Dialect(format="toy-graph", **given)})
        for name, given in {"able": able, "other": other, "bare": {}}.items()
    }
    assert faults(replace(step("pack", Packs), step=Packs()), targets={"able": targets["able"], "eager": TARGETS["eager"]}) == []
    assert faults(replace(step("pack", Packs), step=Packs()), targets=targets) == [
        "4 passes.pack: target 'other': it has no kernels for int4 weights (by group of 32) with dynamic int8 activations: "
        "int8 weights (by channel) with uint8 activations",
        "4 passes.pack: target 'bare': it has no kernels for int4 weights (by group of 32) with dynamic int8 activations: "
        "none of quantised numbers are there",
    ]


class Other(Target):
    quantizes: ClassVar[bool] = True
    accepts: ClassVar[tuple[str, ...]] = ("toy-graph",)


def test_entries_of_another_kind_quantise_nothing():
    assert not any("quantised already" in each for each in faults(step("one", Rounds), step("two", Other), targets=LOWER))


@pytest.mark.parametrize(
    ("targets", "kind"),
    [({}, OnGraph), ({"far": target("moon")}, OnGraph), ({"eager": TARGETS["eager"]}, OnGraph), (LOWER, OnBinary)],
)
def test_order_that_works_begins_with_torch_though_a_step_has_no_place_below_it(targets, kind):
    found = faults(step("lower", kind), step("train", Torch), targets=targets)
    message = "5 passes.train: works on torch and comes after 'lower', which is below that; an order that works: train, lower"
    assert message in found


def test_step_that_cuts_what_is_quantised_is_told_to_stand_before():
    rounds, cuts = step("round", RoundsTorch), step("cut", Cuts)
    fault = "3 passes.cut: cuts matrices that 'round' has quantised; put 'cut' before 'round'"
    assert faults(rounds, cuts) == [fault]
    assert faults(rounds, step("train", Torch), cuts) == [fault], "what is quantised stays so"
    assert faults(cuts, rounds) == []
    assert faults(rounds, step("cut", Cuts, **{"from": "source"})) == []
    assert faults(rounds, step("train", Torch, **{"from": "source"}), step("cut", Cuts, **{"from": "round"})) == [fault]
    assert faults(rounds, step("blocks", TakesBlocks)) == [], "whole blocks can go"


class Closes(Torch):
    comes_last = "what it chose is of the model as it is"


def test_step_that_has_to_come_last_is_followed_by_none():
    """On the torch model or below it; what starts elsewhere leaves its model alone."""
    last, only = step("mend", Closes), {"runtime": TARGETS["runtime"]}
    why = "changes the model that 'mend' made, and what it chose is of the model as it is: put 'mend' last"
    assert faults(last, step("train", Torch)) == [f"5 passes.train: {why}"]
    assert faults(last, step("lower", OnGraph), targets=only) == [f"5 passes.lower: {why}"]
    assert faults(step("train", Torch), last) == []
    assert faults(last, step("train", Torch, **{"from": "source"})) == []
    assert faults(last, step("train", Torch, **{"from": "source"}), step("lower", OnGraph), targets=only) == []


class Splits(Torch):
    def needs(self):
        return Needs(graphs="one for each depth")


def test_quantiser_of_one_graph_is_refused_below_a_model_of_several():
    only, splits, rounds = {"runtime": TARGETS["runtime"]}, step("split", Splits), step("round", Rounds)
    fault = "5 passes.round: quantises one graph, and what 'split' made becomes several, one for each depth: leave one of both steps out"
    assert faults(splits, rounds, targets=only) == [fault]
    assert faults(splits, step("train", Torch), rounds, targets=only) == [fault]
    assert faults(splits, step("train", Torch, **{"from": "source"}), rounds, targets=only) == []
    assert faults(splits, step("lower", OnGraph), targets=only) == []


class Adapts(Torch):
    def needs(self):
        return Needs(floats={"rank": "small matrices are added to layers in float"})


def test_parameter_that_works_on_layers_in_float_is_told_after_what_quantises():
    rounds, adapts = step("round", RoundsTorch), step("adapt", Adapts)
    said = "3 passes.adapt: small matrices are added to layers in float, and 'round' has quantised them: leave rank out, or put it before"
    fault = said.replace("3 ", "5 ", 1)
    assert faults(rounds, adapts) == [fault]
    assert faults(rounds, step("train", Torch), adapts) == [fault]
    assert faults(adapts, rounds) == []
    assert faults(rounds, step("adapt", Adapts, **{"from": "source"})) == []
