"""A model that answers NaN is never accepted: argmax of NaN is class 0, and would pass as an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from furnished import rows, write_model, write_rows
from safetensors.torch import load_file, save_file

from compressor.contracts.records import Scores
from compressor.plan.bound import load_plan
from compressor.run.pipeline import run_plan
from compressor.run.verify import finite
from compressor.store.store import Store
from compressor.tasks.multi_label import TARGETS
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.text_regression import TextRegression


class _Rows(TextClassification):
    """Rows that are fed by their numbers: no tokenizer has a part in this."""

    def scored_feeds(self, rows, files):
        return [{"row": np.arange(len(rows))}], range(len(rows))


LABELS = {"labels": np.eye(8, 3, dtype=np.int64), "names": np.asarray(["a", "b", "c"])}
CLASSES = {"labels": np.arange(8) % 3, "names": np.asarray(["a", "b", "c"])}
TASKS = [(_Rows(), 3, CLASSES), (_Rows(multi_label=True), 3, LABELS), (TextRegression(), 1, {"numbers": np.arange(8.0)})]
PLAN = """
model: {folder: model}
task: {text-classification: {max_length: 16}}
data: {files: rows.jsonl, split: {validation: 12, test: 16}, calibration: 8}
passes:
  - ternarise: {}
    gate: {max_size: 10, on_fail: warn}
targets: [pytorch]
metric: MACRO-f1
accept:
  - {target: pytorch, max_drop: 100, metric: Accuracy}
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Of a model whose logits overflow, which a run must not accept."""
    folder = tmp_path_factory.mktemp("nan")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "stand_ins" / "diffusion"))
        write_model(folder, ("blue", "red"))
        weights = load_file(folder / "model" / "model.safetensors")
        weights["bert.pooler.dense.bias"][:] = 10.0
        weights["classifier.weight"][:] = 3e38  # finite, and too large for what it is multiplied with
        save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})
        write_rows(folder / "rows.jsonl", rows())
        (folder / "plan.yaml").write_text(PLAN)
        bound = load_plan(folder / "plan.yaml")
        return run_plan(bound, store=Store(folder / "store"), folder=folder / "run", command="", tell=lambda _: None)


def test_run_of_a_model_that_answers_nan_is_not_accepted_and_names_the_rows(report):
    assert (report.outcome, report.exit_code) == ("not accepted", 3)
    found = {verdict.candidate: verdict for verdict in report.verdicts if verdict.quantity == "finite"}
    assert set(found) == {"source@pytorch", "final@pytorch"}
    assert all(verdict.value == 16 and "test rows 0, 1, 2" in verdict.why for verdict in found.values())


def test_gate_of_a_step_that_answers_nan_is_not_met(report):
    (stage,) = (stage for stage in report.stages if stage.name == "ternarise")
    assert [(verdict.quantity, verdict.outcome) for verdict in stage.verdicts] == [("finite", "not met"), ("max_size", "met")]


def test_metric_is_known_in_any_case_and_spelled_as_the_task_does(report):
    (candidate,) = (each for each in report.candidates if each.stage == "final")
    assert candidate.scores.metric == "macro-F1"
    assert [verdict.metric for verdict in report.verdicts if verdict.quantity == "max_drop"] == ["accuracy"]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("some", [True, False])
@pytest.mark.parametrize(("task", "width", "truth"), TASKS, ids=["classes", "multi-label", "regression"])
def test_tasks_score_what_is_not_finite_and_a_verdict_tells_it(task, width, truth, some, broken):
    sound = np.random.default_rng(0).normal(size=(8, width)).astype(np.float32)
    outputs = sound.copy()
    outputs[3 if some else slice(None)] = broken
    rows = Dataset.from_dict({TARGETS: truth["labels"]} if "labels" in truth else {"label": truth["numbers"]})
    decided = task.decided(lambda feed: {"logits": outputs[feed["row"]]}, rows, Path())
    candidate, reference = (decided.score({"logits": each}, truth, split="test") for each in (outputs, sound))
    assert len(decided.tell(candidate.outputs, ["a", "b", "c"])) == 8
    (verdict,) = finite(candidate, None, gate="accept[0]", candidate="final@pytorch")
    assert (verdict.outcome, verdict.value) == ("not met", 1 if some else 8)
    for measure in task.measures():
        task.compare(candidate, reference, metric=measure.name, name="source", seed=0)
    assert Scores.model_validate_json(candidate.scores.model_dump_json()).main.n == 8
