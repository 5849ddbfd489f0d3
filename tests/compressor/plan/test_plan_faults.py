"""What every fault of a plan's keys and types says."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_plan import SOUND

from compressor.errors import PlanError
from compressor.plan.bound import load_plan

pytestmark = pytest.mark.usefixtures("toys")


def test_all_faults_come_at_once_in_file_order(faults):
    lines = faults(
        ("seed: 3", 'seed: "3"'),
        ("max_length: 16", "max_lenght: 16"),
        ("epochs: 2", "epochs: true, temprature: 2"),
        ("toy-shrink:", "toy-shrik:"),
        ("bits: 4", "bits: 4.5"),
        ("threads: 2", "treads: 2"),
        ("max_size: 0.25", "max_sise: 0.25"),
    )
    assert lines == [
        "plan.yaml:1: seed: found '3', expected a whole number",
        "plan.yaml:4: task.toy-task.max_lenght: no such parameter (did you mean 'max_length'?)",
        "plan.yaml:8: passes.toy-train.epochs: found true, expected a whole number",
        "plan.yaml:8: passes.toy-train.temprature: no such parameter (did you mean 'temperature'?)",
        "plan.yaml:9: passes.toy-shrik: no pass named 'toy-shrik' is installed (did you mean 'toy-shrink'?)",
        "plan.yaml:13: passes.toy-round.bits: found 4.5, expected a whole number",
        "plan.yaml:17: targets.toy-runtime.treads: no such parameter (did you mean 'threads'?)",
        "plan.yaml:23: accept[0].max_sise: no such key (did you mean 'max_size'?)",
    ]


CASES = {
    "unknown section": (("seed: 3", "sed: 3"), "plan.yaml:1: sed: no such key of a plan (did you mean 'seed'?)"),
    "unknown target": (
        ("- toy-eager", "- toy-eagre"),
        "plan.yaml:16: targets.toy-eagre: no target named 'toy-eagre' is installed",
    ),
    "unknown probe": (("- toy-clock", "- toy-clok"), "plan.yaml:21: probes.toy-clok: no probe named 'toy-clok' is installed"),
    "unknown task": (
        ("toy-task:", "toy-tsk:"),
        "plan.yaml:4: task: no task named 'toy-tsk' is installed (did you mean 'toy-task'?)",
    ),
    "two tasks": (
        ("max_length: 16}", "max_length: 16}\n  other: {}"),
        "plan.yaml:3: task: found 2 keys, expected one task's name",
    ),
    "unknown objective": (
        ("toy-loss: 1.0", "toy-los: 1.0"),
        "plan.yaml:11: passes.learn.objectives.toy-los: no objective named 'toy-los' is installed (did you mean 'toy-loss'?)",
    ),
    "unknown teacher": (
        ("teacher: toy-train", "teacher: toy-trian"),
        "plan.yaml:11: passes.learn.teacher: no step or model is named 'toy-trian' (did you mean 'toy-train'?)",
    ),
    "own teacher": (
        ("teacher: toy-train", "teacher: learn"),
        "plan.yaml:11: passes.learn.teacher: 'learn' is of this step itself",
    ),
    "branch teacher": (
        ("epochs: 2", "teacher: toy-round"),
        "plan.yaml:8: passes.toy-train.teacher: 'toy-round' works below torch, where there is no model",
    ),
    "later teacher": (
        ("epochs: 2", "teacher: learn"),
        "plan.yaml:8: passes.toy-train.teacher: step 'learn' comes later; "
        "an order that works: toy-shrink, learn, toy-train, toy-round",
    ),
    "unknown start": (
        ("name: learn", "name: learn\n    from: toy-shrnk"),
        "plan.yaml:13: passes.learn.from: no step or model is named",
    ),
    "unknown reference": (
        ("reference: toy-train", "reference: toy-trian"),
        "plan.yaml:6: reference: no step is named 'toy-trian' (did you mean 'toy-train'?)",
    ),
    "branch reference": (
        ("reference: toy-train", "reference: toy-round"),
        "plan.yaml:6: reference: 'toy-round' works below torch",
    ),
    "gate before reference": (
        ("reference: toy-train", "reference: learn"),
        "plan.yaml:10: passes.toy-shrink.gate: max_drop cannot be judged: the step comes before the reference 'learn'",
    ),
    "same name": (
        ("    name: learn\n", ""),
        "plan.yaml:11: passes.toy-train: a step of this name stands on line 8 already; give one of them another with `name:`",
    ),
    "same target": (
        ("toy-runtime: {threads: 2}", "toy-eager: {threads: 2}"),
        "plan.yaml:17: targets.toy-eager: a target of this name",
    ),
    "reserved name": (("name: learn", "name: source"), "plan.yaml:11: passes.source: 'source' is a name of its own in every run"),
    "name of no file": (
        ("name: learn", "name: a/b"),
        "plan.yaml:12: passes.a/b.name: found 'a/b', expected text to match pattern",
    ),
    "model and step of one name": (
        ("seed: 3", "models: {learn: {folder: model}}"),
        "plan.yaml:11: passes.learn: 'learn' is also an entry of models",
    ),
    "missing model folder": (("folder: model", "folder: modle"), "plan.yaml:2: model.folder: no such folder: modle"),
    "missing data": (
        ("files: rows.csv", "files: [rows.csv, row.csv]"),
        "plan.yaml:5: data.files: no such file or folder: row.csv",
    ),
    "two sources": (
        ("folder: model", "folder: model, hub: a/b"),
        "plan.yaml:2: model: expected one of folder, installed, hub; found folder and hub",
    ),
    "no source": (("{files: rows.csv}", "{calibration: 3}"), "plan.yaml:5: data: expected one of files, hub; found none"),
    "empty section": (("{files: rows.csv}", ""), "plan.yaml:5: data: missing; say where the rows come from"),
    "wrong literal": (
        ("files: rows.csv", "files: rows.csv, format: parket"),
        "plan.yaml:5: data.format: found 'parket', expected 'csv', 'json', 'parquet', 'text', 'audiofolder' or 'imagefolder' "
        "(did you mean 'parquet'?)",
    ),
    "number for text": (
        ("folder: model", "folder: model, sha256: 123456789012"),
        "plan.yaml:2: model.sha256: found 123456789012, exp",
    ),
    "gate without limit": (
        ("gate: {max_drop: 5}", "gate: {on_fail: warn}"),
        "plan.yaml:10: passes.toy-shrink.gate: no limit given",
    ),
    "unknown gate key": (
        ("max_drop: 5", "max_drp: 5, max_drop: 1"),
        "plan.yaml:10: passes.toy-shrink.gate.max_drp: no such key (did",
    ),
    "accept's target": (
        ("{target: device", "{target: devise"),
        "plan.yaml:23: accept[0].target: no target is named 'devise' (did you",
    ),
    "accept's baseline": (("max_drop: 1", "against: x, max_drop: 1"), "plan.yaml:23: accept[0].against: no target is named 'x'"),
    "speed without a clock": (("max_drop: 1", "min_speedup: 2"), "plan.yaml:23: accept[0]: a limit on speed or latency needs"),
    "budget's target": (
        ("- toy-shrink:", "- toy-shrink: {budget_on: devic}"),
        "plan.yaml:9: passes.toy-shrink.budget_on: no target is named 'devic' (did you mean 'device'?)",
    ),
    "unknown only": (
        ("only: [toy-runtime", "only: [toy-runtme"),
        "plan.yaml:14: passes.toy-round.only: no target is named 'toy-runtme'",
    ),
    "only in the trunk": (
        ("name: learn", "name: learn\n    only: [device]"),
        "plan.yaml:13: passes.learn.only: 'learn' works on the torch",
    ),
    "start below torch": (
        ("only: [toy-runtime, device]", "from: learn\n    only: [device]"),
        "plan.yaml:14: passes.toy-round.from: ",
    ),
    "no format for it": (
        ("    only: [toy-runtime, device]\n", ""),
        "plan.yaml:13: passes.toy-round: works on toy-graph or toy-binary and has no place on the way to 'toy-eager' (torch); "
        "write `only: [toy-runtime, device]` beside it",
    ),
    "torch after a lower format": (
        ("only: [toy-runtime, device]", "only: [device]\n  - toy-shrink: {}\n    name: late"),
        "plan.yaml:15: passes.late: works on torch and comes after 'toy-round', which is below that; "
        "an order that works: toy-train, toy-shrink, learn, late, toy-round",
    ),
    "graph after binary": (
        ("only: [toy-runtime, device]", "only: [device]\n  - toy-tidy:\n    only: [toy-runtime, device]"),
        "plan.yaml:15: passes.toy-tidy: works on toy-graph and comes after 'toy-round', which is below that; "
        "an order that works: toy-train, toy-shrink, learn, toy-tidy, toy-round",
    ),
    "quantised twice": (
        ("only: [toy-runtime, device]", "only: [toy-runtime, device]\n  - toy-round-too:\n    only: [device]"),
        "plan.yaml:15: passes.toy-round-too: quantises what 'toy-round' has quantised already for device",
    ),
    "parameter beside the pass": (
        ("name: learn", "nmae: learn"),
        "plan.yaml:12: passes.toy-train.nmae: no such key beside 'toy-train' (did you mean 'name'?)",
    ),
    "two passes in one step": (
        ("name: learn", "name: learn\n    toy-shrink: {}"),
        "plan.yaml:13: passes.learn: names two, 'toy-train' and",
    ),
    "no pass in a step": (("toy-shrink:\n", "name: x\n"), "plan.yaml:9: passes.x: names no pass"),
    "step is a list": (
        ("- toy-shrink:\n    gate: {max_drop: 5}", "- [toy-shrink]"),
        "plan.yaml:9: passes[1]: found a list, expected",
    ),
    "parameters are a list": (
        ("{bits: 4}", "[4]"),
        "plan.yaml:13: passes.toy-round: found a list, expected a mapping of parameters",
    ),
    "variant of a union": (
        ("toy-loss: 1.0", "toy-loss: x"),
        "plan.yaml:11: passes.learn.objectives.toy-loss: found 'x', expected a number or a mapping",
    ),
    "inside a union": (
        ("toy-loss: 1.0", "toy-loss: {weight: x}"),
        "plan.yaml:11: passes.learn.objectives.toy-loss.weight: found 'x', expected a number",
    ),
    "objective's parameter": (
        ("toy-loss: 1.0", "toy-loss: {wieght: 1}"),
        "plan.yaml:11: passes.learn.objectives.toy-loss.wieght: no such parameter (did you mean 'weight'?)",
    ),
    "own check": (
        ("- toy-shrink:", "- toy-shrink: {ratio: 0.25, order: random}"),
        "plan.yaml:9: passes.toy-shrink: a quarter at random",
    ),
    "broken check": (
        ("- toy-shrink:", "- toy-raising: {size: 2}"),
        "plan.yaml:9: passes.toy-raising: its check of the parameters broke: Key",
    ),
    "broken plug-in": (
        ("- toy-shrink:", "- toy-broken:"),
        "plan.yaml:9: passes.toy-broken: pass 'toy-broken' of toys 1.0 cannot be imported",
    ),
    "plug-in of the wrong kind": (
        ("- toy-shrink:", "- toy-untyped:"),
        "plan.yaml:9: passes.toy-untyped: pass 'toy-untyped' of toys 1.0 is",
    ),
    "duplicate key": (("seed: 3", "seed: 3\nseed: 4"), "plan.yaml:2: duplicate key 'seed'; it stands on line 1 already"),
    "tag": (("seed: 3", "seed: !!int 3"), "plan.yaml:1: tag tag:yaml.org,2002:int found"),
    "infinite number": (("seed: 3", "seed: .inf"), "plan.yaml:1: .inf found; expected a finite number"),
    "merge key": (("seed: 3", "<<: {seed: 3}"), "plan.yaml:1: merge keys (<<) are not read"),
}


@pytest.mark.parametrize(("replacement", "fault"), CASES.values(), ids=CASES.keys())
def test_fault_is_told_with_its_line(faults, replacement, fault):
    lines = faults(replacement)
    assert any(line.startswith(fault) for line in lines), lines


ALONE = set(CASES) - {
    "parameter beside the pass",
    "no pass in a step",
    "empty section",
    "same target",
    "quantised twice",
    "two passes in one step",
}


@pytest.mark.parametrize("case", sorted(ALONE))
def test_one_mistake_is_told_once(faults, case):
    lines = faults(CASES[case][0])
    assert len(lines) == 1, lines


def test_all_faults_of_one_step_come_at_once(faults):
    lines = faults(
        (
            "{teacher: toy-train, objectives: {toy-loss: 1.0}}",
            "{temprature: 2, epochs: 0, teacher: toy-trian, objectives: {toy-los: 1}}",
        )
    )
    assert [line.split(": ")[1] for line in lines] == [
        "passes.learn.epochs",
        "passes.learn.objectives.toy-los",
        "passes.learn.teacher",
        "passes.learn.temprature",
    ]


@pytest.mark.parametrize("section", ["passes", "targets"])
def test_empty_list_is_a_fault(faults, section):
    start = SOUND.index(f"{section}:")
    end = SOUND.index("targets:" if section == "passes" else "probes:")
    lines = faults((SOUND[start:end], f"{section}: []\n"))
    assert any(f"{section}: empty; a plan has at least one" in line for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "[]",
        "3",
        "a: [",
        "a: b: c",
        "- a\n- b",
        "---\na: 1\n---\nb: 2",
        "&a [*a]",
        "*a",
        "\x00",
        "[" * 5000,
        "? {a: b}\n: c",
    ],
)
def test_text_that_is_no_plan_is_a_fault(load, text):
    with pytest.raises(PlanError) as caught:
        load(text)
    assert all(fault.file == "plan.yaml" and fault.line >= 1 for fault in caught.value.faults)


def test_bytes_that_are_no_text_are_a_fault(folder):
    (folder / "plan.yaml").write_bytes(b"seed: 1\nname: \xff\xfe\n")
    with pytest.raises(PlanError, match=r"plan.yaml:2: byte 0xff is not UTF-8"):
        load_plan(Path("plan.yaml"))


def test_aliases_are_bounded(load):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in ("ab", "bc", "cd", "de", "ef", "fg"))
    with pytest.raises(PlanError, match="more than 20000 values"):
        load(bomb)


def test_missing_plan_file_is_a_fault(folder):
    with pytest.raises(PlanError, match=r"no such file: nowhere.yaml"):
        load_plan(Path("nowhere.yaml"))


def test_exponent_without_a_point_is_a_number(load):
    assert load(SOUND.replace("epochs: 2", "temperature: 1e-4")).passes[0].step.temperature == 1e-4


def test_from_starts_a_side_chain(load):
    bound = load(SOUND.replace("name: learn", "name: learn\n    from: toy-train"))
    assert bound.passes[2].start == "toy-train"


def test_models_are_teachers(load):
    bound = load(SOUND.replace("teacher: toy-train", "teacher: big").replace("seed: 3", "models: {big: {hub: a/b, revision: c}}"))
    assert bound.models["big"].revision == "c"
    assert bound.passes[2].step.needs().teachers == ("big",)
