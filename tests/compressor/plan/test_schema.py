"""The JSON Schema of a plan: what editors complete from."""

from __future__ import annotations

import copy
from pathlib import Path

import jsonschema
import pytest

from compressor.contracts import registry
from compressor.plan.schema import plan_schema
from compressor.plan.yaml_source import read_yaml

QUICKSTART = Path(__file__).parents[3] / "plans" / "quickstart.yaml"


@pytest.fixture(scope="module")
def schema():
    return plan_schema()


@pytest.fixture(scope="module")
def check(schema):
    return jsonschema.Draft202012Validator(schema).is_valid


@pytest.fixture
def plan():
    return copy.deepcopy(read_yaml(QUICKSTART.read_bytes(), "quickstart.yaml")[0].plain())


def test_schema_is_a_schema(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_quickstart_meets_the_schema(check, plan):
    assert check(plan)


def test_bare_names_meet_the_schema(check, plan):
    plan["passes"] = ["finetune", {"fold": None, "name": "tidy", "only": ["onnxruntime"]}]
    plan["data"]["files"] = ["a.csv", "b.csv"]
    plan["include"] = "shared.yaml"
    assert check(plan)


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan.update(sed=1),
        lambda plan: plan["model"].update(pth="x"),
        lambda plan: plan["data"].update(deduplicat=True),
        lambda plan: plan["data"]["files"].update(layout="flat"),
        lambda plan: plan["task"]["text-classification"].update(max_lenght=1),
        lambda plan: plan["passes"][0]["finetune"].update(epoch=1),
        lambda plan: plan["passes"][1]["gate"].update(max_drp=1),
        lambda plan: plan["passes"][1].update(gates={}),
        lambda plan: plan["passes"].append({"finetun": {}}),
        lambda plan: plan["passes"].append({"finetune": {}, "distill": {}}),
        lambda plan: plan["passes"].append({"name": "nothing"}),
        lambda plan: plan["targets"].append("onxruntime"),
        lambda plan: plan["probes"].append({"latency": {"batches": [1]}}),
        lambda plan: plan["accept"][0].update(target=3),
        lambda plan: plan.update(seed="0"),
        lambda plan: plan.update(stages="some"),
    ],
)
def test_mistake_does_not_meet_the_schema(check, plan, change):
    change(plan)
    assert not check(plan)


def test_every_plugin_is_in_the_schema(schema):
    passes = schema["properties"]["passes"]["items"]["anyOf"]
    need_parameters = {"distill", "distill-and-prune"}
    assert set(registry.names("pass")) == set(passes[0]["enum"]) | need_parameters <= set(passes[1]["properties"])
    assert not need_parameters & set(passes[0]["enum"]), "they need a teacher"


def test_keys_are_described(schema):
    assert schema["properties"]["seed"]["description"] == "Seed of everything that is drawn."
    assert all(each.get("description") for each in schema["$defs"]["DataSpec"]["properties"].values())
