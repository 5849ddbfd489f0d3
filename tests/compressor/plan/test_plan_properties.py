"""Whatever a plan file holds, it is a plan or a list of faults: never a traceback, never a hang, and as the schema says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_files import SECONDS_A_PLAN, loaded

from compressor.errors import PlanError
from compressor.plan import composition
from compressor.plan.bound import Bound
from compressor.plan.schema import plan_schema
from compressor.plan.yaml_source import write_yaml

TIMES = int(os.environ.get("PLAN_CASES_TIMES", "1"))
"""How many times as many cases are drawn; the long test draws `MORE` times as many."""
MORE = 20
CASES: list[int] = []

SCHEMA = plan_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

PLANS = (
    {
        "name": "small",
        "model": {"folder": "model"},
        "task": {"text-classification": {"max_length": 16}},
        "data": {"files": "rows.csv"},
        "passes": ["finetune"],
        "targets": ["torch"],
    },
    {
        "version": 1,
        "seed": 3,
        "model": {"installed": "some_package", "path": "model", "sha256": "0123456789ab"},
        "models": {"big": {"hub": "org/name", "revision": "main"}},
        "task": "image-classification",
        "data": {"hub": "org/set", "split": {"validation": 0.2, "test": 40}, "limit": {"train": 9}, "deduplicate": False},
        "reference": "distill",
        "passes": [
            {"finetune": {"epochs": 2, "checkpoint": "last"}},
            {"distill": {"teacher": ["big", "finetune"], "objectives": {"soft-targets": 1, "hidden-states": {"weight": 0.5}}}},
            {"prune-structure": {"keep": {"heads": 0.5, "neurons": 0.5}}, "name": "slim", "gate": {"max_drop": 3}},
            {"quantize-static": None, "only": ["ort"]},
        ],
        "targets": [{"onnxruntime": {"threads": 2}, "name": "ort"}, "torch"],
        "probes": [{"latency": {"batch": [1, 8], "length": [128]}}, "memory"],
        "accept": [
            {"target": "ort", "against": "torch", "min_speedup": 1.5, "batch": 8, "judged_by": "bound", "on_fail": "warn"}
        ],
    },
)

# What is asked of a plan beyond the schema. A fault of any other kind in a plan that meets the schema is a gap in the schema.
BEYOND_SCHEMA = {
    "a section that every plan has, its own or an included one": r"(missing|empty); (say where|name what|a plan has)",
    "files and folders that are there": r"no such (file|folder|file or folder): |cannot read ",
    "includes": r"an include in a circle|the file (is empty|holds )|more than \d+ files are included",
    "lengths of what counts tokens": r"needs a length: its tokens are counted",
    "tasks whose rows are texts to go on with": r"looks at tokens that models write|counts tokens, and the task",
    "lengths of what a task reads": r"less than one frame",
    "encodings": r"expected an encoding that Python knows",
    "names that are known": r"makes no '|no (step|target|model|step or model) is named ",
    "names that are free": r"a (step|target|probe) of this name stands on line|a name of its own in every run|also an entry of models",
    "objectives that are installed and take their parameters": r"no objective named |passes\.[\w-]+\.objectives\.[\w-]+\.\w+: no such parameter",
    "order": r"comes (later|after)|of this step itself|works below torch|works on |quantises (what|one graph)|"
    r"(cuts matrices|changes the model) that ",
    "gates that can be judged": r"max_drop cannot be judged|a limit on speed or latency needs|is not measured; probes measure",
    "one source": r"expected one of |expected 'path' \(all rows\)|'\w+' goes with ",
    "splits that add up": r"take [\d.e+]+ of the rows|is a fraction below 1 or a whole number",
    "a limit in each gate": r"no limit given|'metric' says what 'max_drop' is about",
    "metrics that the task has": r"has no metric |scores no classes",
    "a loss and logits to learn from": r"needs a loss of the task's own|learns from answers, and those of the task|takes outputs for logits",
    "inputs that repeat": r"draws its inputs anew in every epoch",
    "two columns": r"content and label are both column|several columns of labels go with",
    "what a pass asks of its parameters together": r"give exactly one of|names a kind twice|keep speaks of|layers go beside|"
    r"a latency budget needs either|layers needs init|cache_teacher keeps no attention maps|compile: true hides |"
    r"a training counts \w+ or \w+|\w+ needs a length|"
    r"units names a kind twice|latency is known by heads|widths says all|attention-maps needs heads to look at|"
    r"init: [\w-]+ needs layers|teacher names one twice|nothing to learn|found -[\d.]+, expected 0 or more|"
    r"expected one of speedup|input should be |nothing would heed |compile: true is not for |ternary weights have steps|is not symmetric has steps",
    "what passes and processes of diffusion ask of their parameters together": r"steps are given most first|progressive halves|"
    r"shortcut knows steps|are not learned: raise levels|is of .*: leave it out|where guidance is folded|the first is the least|"
    r"nothing but noise is left at|expected less than sigma_max|blocks run$|constant has one|cannot be compiled then|boot (draws|reads|has)|"
    r"each loss is named once|goes back over steps|that there is not with",
    "rows where there is no data": r"the plan has no data",
    "what quantisation asks of its parameters together": r"mixed needs either|widths names one twice|which smooth scales|"
    r"progressive names falling bits|nothing is rotated|has kernels with ranges",
    "kernels of what a pass makes": r"for which .* ha(s|ve) no kernels",
    "columns of a language model's rows": r"prompt and completion are|rows are texts, prompts",
    "whole numbers without a point, which JSON does not tell apart": r"found -?[\d.e+]+\.0|found -?[\d.]+e\+\d+",
}
KNOWN = re.compile("|".join(f"(?:{pattern})" for pattern in BEYOND_SCHEMA.values()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    (folder / "model").mkdir()
    (folder / "rows.csv").write_text("text,label\na,b\n")
    (folder / "more.yaml").write_text("seed: 1\n")
    return folder


@contextmanager
def kept() -> Iterator[list[Any]]:
    """What is read of each file inside, the plan's first, None where it is not readable; reading it again takes a quarter of a case."""
    found, read = [], composition.read_yaml

    def reading(*given: Any, **named: Any) -> Any:
        found.append(None)
        at = len(found) - 1
        found[at] = read(*given, **named)
        return found[at]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition, "read_yaml", reading)
        yield found


def agrees(folder: Path, text: str) -> None:
    """What is taken meets the schema; what meets the schema is taken, or refused for a reason that no schema can state."""
    with kept() as read:
        outcome = loaded(folder, text)
    if not read or read[0] is None:
        assert isinstance(outcome, PlanError)
        return
    value, faults = read[0]

    def meets() -> bool:
        return not faults and isinstance(value.data, dict) and VALIDATOR.is_valid(value.plain())

    if isinstance(outcome, Bound):
        assert meets(), [error.message for error in VALIDATOR.iter_errors(value.plain())]
        return
    strange = [str(fault) for fault in outcome.faults if not (KNOWN.search(fault.what) or ".objectives." in fault.where)]
    assert not (strange and meets()), strange


def often(cases: int):
    CASES.append(cases * TIMES)
    return settings(
        max_examples=cases * TIMES,
        deadline=timedelta(seconds=2 * SECONDS_A_PLAN),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
        derandomize=True,
        database=None,
    )


# ------------------------------------------------------------------ valid plans, changed

WORDS = st.sampled_from(
    [
        "",
        "x",
        "torch",
        "source",
        "final",
        "finetune",
        "big",
        "epochs",
        "none",
        "null",
        "true",
        "1",
        "1e3",
        "../x",
        "a/b",
        "é",
        "a\n",
        "\x85",
        "'",
    ]
)
NUMBERS = st.sampled_from([0, 1, -1, 2, 7, 0.5, 1.0, -0.0, 1e-9, 1e300, 2**31, 2**63, 2**64, 10**40, 0.1 + 0.2])
JUNK = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """All paths into a value, its own first."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def keys_of(schema) -> list[str]:
    """All names that the schema knows."""
    found = list(schema.get("properties", {})) if isinstance(schema.get("properties"), dict) else []
    inner = [
        each for value in schema.values() for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)
    ]
    return sorted({*found, *(key for each in inner for key in keys_of(each))})


KEYS = keys_of(SCHEMA)


@st.composite
def changed(draw):
    """A valid plan with one to three changes somewhere: a value, a key more, a key less, a key of another place."""
    plan = json.loads(json.dumps(draw(st.sampled_from(PLANS))))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([path for path in places(plan) if path]) if plan else st.just(("name",)))
        at = plan
        for step in way:
            at = at[step]
        kind = draw(st.sampled_from(["value", "value", "remove", "add", "rename", "wrap"]))
        if kind == "value":
            at[last] = draw(JUNK)
        elif kind == "remove":
            del at[last]
        elif kind == "wrap":
            at[last] = [at[last]]
        elif kind == "add" and isinstance(at, dict):
            at[draw(st.sampled_from(KEYS) | WORDS)] = draw(JUNK)
        elif isinstance(at, dict):
            at[draw(st.sampled_from(KEYS) | WORDS)] = at.pop(last)
        else:
            at.insert(last, draw(JUNK))
    return plan


@often(700)
@given(plan=changed())
def test_changed_plan_is_taken_or_refused_as_the_schema_says(folder, plan):
    agrees(folder, json.dumps(plan))


# ------------------------------------------------------------------ plans drawn from the schema itself


@st.composite
def meeting(draw, schema, depth=0):
    """A value that meets a schema, or nearly: bounds and patterns are kept where they are simple."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return draw(st.sampled_from(schema["enum"]))
    if "anyOf" in schema:
        return draw(meeting(draw(st.sampled_from(schema["anyOf"])), depth))
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = draw(st.sampled_from(kind))
    if kind == "string" and "oneOf" in schema:
        return draw(meeting(draw(st.sampled_from(schema["oneOf"])), depth))
    if kind == "object":
        return draw(mapping(schema, depth))
    if kind == "array":
        least, most = schema.get("minItems", 0), schema.get("maxItems", 2)
        return [
            draw(meeting(schema.get("items", {}), depth + 1)) for _ in range(draw(st.integers(least, max(least, min(most, 2)))))
        ]
    if kind in ("integer", "number"):
        low = schema.get(
            "minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema) * (1 if kind == "integer" else 0.25)
        )
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 3))
        return draw(
            st.integers(int(low), max(int(low), min(int(high), int(low) + 3)))
            if kind == "integer"
            else st.sampled_from([low, min(low + 0.5, high)])
        )
    if kind == "boolean":
        return draw(st.booleans())
    if kind == "string":
        return draw(st.sampled_from(["torch", "finetune", "source", "model", "rows.csv", "a", "0123456789ab"]))
    return None


@st.composite
def mapping(draw, schema, depth):
    known = dict(schema.get("properties", {}))
    needed = set(schema.get("required", ()))
    if "oneOf" in schema:  # one plug-in and what may stand beside it
        choices = [each["required"][0] for each in schema["oneOf"]]
        needed.add(draw(st.sampled_from(choices)))
        known = {key: value for key, value in known.items() if key in needed or key not in choices}
    chosen = {key for key in known if key in needed or draw(st.integers(0, 2 + depth)) == 0}
    made = {key: draw(meeting(known[key], depth + 1)) for key in known if key in chosen}
    if isinstance(schema.get("additionalProperties"), dict):
        made[draw(st.sampled_from(["big", "soft-targets", "x"]))] = draw(meeting(schema["additionalProperties"], depth + 1))
    return made


@often(500)
@given(
    sections=st.fixed_dictionaries(
        {}, optional={key: meeting(value, 1) for key, value in SCHEMA["properties"].items() if key != "include"}
    )
)
def test_plan_drawn_from_the_schema_is_taken_or_refused_for_a_named_reason(folder, sections):
    agrees(folder, json.dumps({**PLANS[0], **sections}))


def test_plans_that_the_others_start_from_are_taken(folder):
    for plan in PLANS:
        assert isinstance(loaded(folder, json.dumps(plan)), Bound)
        assert isinstance(loaded(folder, write_yaml(plan)), Bound)


# ------------------------------------------------------------------ text

TOKENS = st.sampled_from(
    ["\n", "\n  ", ": ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "*b", "!!python/object:os.system ", "!x ", "<<: ", "? ", "| \n", "> \n",
     "# ", "'", '"', "\\x", "%YAML 1.1\n", "---\n", "...\n", "\t", "\0", "\ufeff", "\u2028", "\ud800", "@", "`",
     "=", "~", ".inf", "-.nan", "1:30", "0x", "0o9", "1_0", "seed",
     "model", "passes", "include: plan.yaml", "include: more.yaml", "include: [more.yaml, more.yaml]", "9" * 400, "1e999", "é"]
)  # fmt: skip
LINES = tuple(write_yaml(plan) for plan in PLANS)


@often(1200)
@given(tokens=st.lists(TOKENS | st.text(max_size=6), max_size=25))
def test_random_text_is_a_plan_or_a_fault(folder, tokens):
    agrees(folder, "".join(tokens))


@often(500)
@given(
    text=st.sampled_from(LINES), cuts=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 30), TOKENS), min_size=1, max_size=3)
)
def test_plan_with_text_put_into_it_is_a_plan_or_a_fault(folder, text, cuts):
    for at, length, token in cuts:
        text = text[:at] + token + text[at + length :]
    agrees(folder, text)


@often(300)
@given(content=st.binary(max_size=60))
def test_random_bytes_are_a_plan_or_a_fault(folder, content):
    loaded(folder, content)


@often(300)
@given(path=st.lists(st.sampled_from([*KEYS, "0", "99999999", "", "x"]), max_size=5), value=JUNK)
def test_random_setting_is_taken_or_a_fault(folder, path, value):
    loaded(folder, LINES[1], f"{'.'.join(path)}={json.dumps(value)}")


# ------------------------------------------------------------------ many more


@pytest.mark.long
def test_properties_hold_in_many_more_cases(record_property):
    if TIMES > 1:
        pytest.skip("these are the many cases")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not long", __file__]
    done = subprocess.run(command, env={**os.environ, "PLAN_CASES_TIMES": str(MORE)}, capture_output=True, text=True)
    record_property("cases", MORE * sum(CASES))
    assert done.returncode == 0, done.stdout[-5000:]
