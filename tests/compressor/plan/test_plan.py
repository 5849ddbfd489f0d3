"""Plans: what is read of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from toy_plan import SOUND

from compressor.errors import PlanError
from compressor.plan.bound import load_plan
from compressor.plan.yaml_source import read_yaml

pytestmark = pytest.mark.usefixtures("toys")

QUICKSTART = Path(__file__).parents[3] / "plans" / "quickstart.yaml"


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
