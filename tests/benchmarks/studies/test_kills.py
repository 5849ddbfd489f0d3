"""Random kills: what they aim at and how they tell equal ends from others; the long version is run by hand."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.studies.kills import Phase, Subject, Tally, document, drawn, killed, phase_of

PHASES = tuple(Phase(name, 1.0 + number) for number, name in enumerate(("data", "finetune", "build for a", "report", "export")))


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("data: read and split\n", "data"),
        ("source: load the model\n", "source"),
        ("finetune: start\n", "finetune"),
        ("quantize-static for onnxruntime: start\n", "quantize-static for onnxruntime"),
        ("openvino: lower, build, score on test\n", "build for openvino"),
        ("latency: measure 5 candidates\n", "measuring: latency"),
        ("report: write\n", "report"),
        ("report: runs/kills/campaign/run/report.html\n", "export"),
        ("finetune: found in the store, accuracy 0.9 on validation\n", None),
        ("accept[0] final@onnxruntime: max_drop 1: 0: met\n", None),
    ],
)
def test_phase_of_knows_the_lines_that_open_a_phase(line, phase):
    assert phase_of(line) == phase


def test_drawn_takes_what_was_hit_least_in_the_order_of_the_plan():
    hits = Counter({"data": 9, "finetune": 9, "build for a": 1, "report": 9})
    assert [phase.name for phase in drawn(PHASES, hits, 2, rng=random.Random(0))] == ["build for a", "export"]
    many = [phase.name for phase in drawn(PHASES, hits, 12, rng=random.Random(0))]
    assert set(many) == {phase.name for phase in PHASES}
    assert many == sorted(many, key=[phase.name for phase in PHASES].index)


def test_a_real_run_is_killed_in_the_phase_that_was_asked_for(tmp_path):
    plan = tmp_path / "plan.yaml"
    shutil.copytree(Path(__file__).parents[3] / "plans", tmp_path, dirs_exist_ok=True)
    (tmp_path / "quickstart.yaml").rename(plan)
    assert killed(Subject(plan, ()), tmp_path, (Phase("of the store", 0.0), Phase("data", 0.0)), rng=random.Random(0)) == "data"
    assert not (tmp_path / "run" / "report.json").exists()
    assert (tmp_path / "run" / "plan.yaml").is_file()


def test_a_run_that_ends_by_itself_is_no_kill(tmp_path):
    (tmp_path / "plan.yaml").write_text("passes: 3")
    assert killed(Subject(tmp_path / "plan.yaml", ()), tmp_path, (Phase("data", 9.0),), rng=random.Random(0)) is None


def test_document_counts_kills_and_names_what_differed():
    tally = Tally(Counter({"data": 5, "finetune": 7}), campaigns=2, unequal=["campaign 2: stage finetune"])
    text = document(Subject(Path("plans/quickstart.yaml"), ("seed=1",)), PHASES, tally, seed=3)
    assert "12 kills by SIGKILL in 2 campaigns" in text
    assert "In 1 of 2, the sha256" in text
    assert "| finetune | 2.0 | 7 |" in text
    assert "- campaign 2: stage finetune" in text
    assert "`--set seed=1`" in text
    assert "seed 3" in text
