from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.studies.ablation import WHOLE, variants
from compressor.plan.bound import load_plan

PLAN = Path(__file__).parents[3] / "plans" / "quickstart.yaml"


@pytest.fixture(scope="module")
def plans():
    return {each.name: each.plan for each in variants(load_plan(PLAN))}


def test_there_is_a_variant_for_the_whole_plan_and_for_each_pass_left_out(plans):
    names = [step.name for step in load_plan(PLAN).passes]
    assert list(plans) == [WHOLE, *(f"without {name}" for name in names)]


def test_every_variant_is_a_sound_plan_of_its_own(plans, tmp_path):
    texts = set()
    for name, plan in plans.items():
        path = tmp_path / f"{name.replace(' ', '-')}.yaml"
        path.write_text(yaml.safe_dump(plan, sort_keys=False))
        texts.add(load_plan(path).text)
    assert len(texts) == len(plans)


def test_a_pass_that_others_need_runs_on_the_side(plans):
    left_out = plans["without finetune"]["passes"]
    assert [next(iter(entry)) for entry in left_out] == ["finetune", "prune-structure", "distill", "quantize-static"]
    assert left_out[1]["from"] == "source"


def test_a_pass_that_nothing_needs_is_gone(plans):
    for name in ("prune-structure", "distill", "quantize-static"):
        entries = plans[f"without {name}"]["passes"]
        assert name not in [next(iter(entry)) for entry in entries]
        assert all("from" not in entry for entry in entries)
