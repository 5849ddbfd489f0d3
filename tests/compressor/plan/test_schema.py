"""The JSON Schema of a plan: what editors complete from."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import create_model

from compressor.contracts import registry
from compressor.plan.bound import load_plan
from compressor.plan.examples import example_of, whole
from compressor.plan.schema import PARTS, plan_schema
from compressor.plan.yaml_source import read_yaml, write_yaml

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
    entry, alone = schema["properties"]["passes"]["anyOf"][0]["items"]["anyOf"]
    need_parameters = {
        "adaptive",
        "distill",
        "distill-and-prune",
        "distill-and-quantize",
        "distill-guidance",
        "distill-steps",
        "take-layers",
    }
    named = {each["const"] for each in alone["oneOf"]}
    assert set(registry.names("pass")) == named | need_parameters <= set(entry["properties"])
    assert not need_parameters & named, "they need a teacher, or a number"


def test_keys_are_described(schema):
    assert schema["properties"]["seed"]["description"] == "Seed of everything that is drawn."
    assert all(each.get("description") for each in schema["$defs"]["DataSpec"]["properties"].values())


# ------------------------------------------------------------------ what editors make of it


def fields(schema):
    """All keys with their schemas, wherever they stand."""
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if key == "properties":
            yield from value.items()
        if key != "defaultSnippets":
            yield from (found for inner in (value if isinstance(value, list) else [value]) for found in fields(inner))


def numbers(field):
    """The parts of a field that are numbers."""
    for part in (field, *field.get("anyOf", ()), *([field["items"]] if isinstance(field.get("items"), dict) else ())):
        if part.get("type") in ("number", "integer") and "const" not in part:
            yield part


def test_every_key_has_a_description(schema):
    assert {name for name, field in fields(schema) if not field.get("description")} == set()


def test_every_number_has_a_range(schema):
    bounds = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}
    assert {name for name, field in fields(schema) for part in numbers(field) if not bounds & part.keys()} == set()


def test_what_an_editor_writes_down_for_a_key_is_valid(schema):
    begun = 0
    for name, field in fields(schema):
        if "default" in field:
            assert field["default"] is not None, f"{name}: null is no choice"
            jsonschema.Draft202012Validator({**field, "$defs": schema["$defs"]}).validate(field["default"])
        for body in [each["body"] for each in field.get("defaultSnippets", ())]:
            begun += 1
            jsonschema.Draft202012Validator({**field, "$defs": schema["$defs"]}).validate(body)
    assert begun > 40


def test_plugin_that_needs_parameters_begins_with_them_and_any_other_alone(schema):
    entry, alone = schema["properties"]["passes"]["anyOf"][0]["items"]["anyOf"]
    assert entry["properties"]["distill"]["defaultSnippets"][0]["body"] == {"teacher": "source"}
    assert {"const": "finetune", "description": entry["properties"]["finetune"]["description"]} in alone["oneOf"]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_key_has_an_example_that_is_valid(part):
    for name, field in part.model_fields.items():
        key = field.alias or name
        example = example_of(part, key)
        assert example is not None, f"{part.__name__}.{key} lacks an example in compressor/plan/examples.yaml"
        create_model("One", **{name: (field.annotation, field)}).model_validate_json(json.dumps({key: example}))


def test_example_plan_is_valid(check, tmp_path):
    for name in ("my-model", "my-teacher"):
        (tmp_path / name).mkdir()
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    plan = {key: value for key, value in whole().items() if key != "include"}
    assert check(whole())
    (tmp_path / "plan.yaml").write_text(write_yaml(plan))
    assert load_plan(tmp_path / "plan.yaml").passes[0].plugin == "finetune"


# ------------------------------------------------------------------ plug-ins within parameters of others


@pytest.mark.parametrize("name", registry.names("objective"))
def test_every_objective_is_completed_with_its_parameters(schema, check, plan, name):
    field = schema["$defs"]["Distill"]["properties"]["objectives"]
    described = field["properties"][name]
    assert described["description"]
    reference = next(each["$ref"] for each in described["anyOf"] if "$ref" in each).rpartition("/")[2]
    assert set(schema["$defs"][reference]["properties"]) == set(registry.load("objective", name).model_fields)

    def met(given):
        plan["passes"][2] = {"distill": {"teacher": "source", "objectives": {name: given}}}
        return check(plan)

    (snippet,) = described["defaultSnippets"]
    assert met(snippet["body"])
    assert met(0.5)
    assert met({"weight": 2.0})
    assert not met(-1)
    assert not met({"wait": 2.0})


def test_objective_that_is_not_installed_does_not_meet_the_schema(check, plan):
    plan["passes"][2] = {"distill": {"teacher": "source", "objectives": {"soft-target": 1.0}}}
    assert not check(plan)
