"""What pydantic finds, said in the words of a plan."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from compressor.plan.validation import notices, validated
from compressor.plan.yaml_source import read_yaml


class Budget(BaseModel):
    model_config = ConfigDict(extra="forbid")
    target: str = Field(description="Name of a target.")
    share: float = 0.5


class Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kinds: tuple[Literal["heads", "neurons"], ...] = Field(default=("heads",), min_length=1)
    shares: dict[Literal["heads", "neurons"], float] | float = 1.0
    budget: Budget | None = None
    schedule: str = Field(default="linear", pattern="^[a-z]+$")
    steps: int = Field(default=1, ge=1, le=10)
    shuffle: bool = True


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("{steps: 3, shares: 2, kinds: [neurons]}", []),
        ("null", []),
        ("{steps: '3'}", ["p:1: step.steps: found '3', expected a whole number"]),
        ("{steps: true}", ["p:1: step.steps: found true, expected a whole number"]),
        ("{steps: 11}", ["p:1: step.steps: found 11, expected a number less than or equal to 10"]),
        ("{shuffle: yes}", ["p:1: step.shuffle: found 'yes', expected true or false"]),
        ("{schedule: 3}", ["p:1: step.schedule: found 3, expected text (put it in quotes)"]),
        ("{schedule: A}", ["p:1: step.schedule: found 'A', expected text to match pattern '^[a-z]+$'"]),
        ("{kinds: heads}", ["p:1: step.kinds: found 'heads', expected a list"]),
        ("{kinds: []}", ["p:1: step.kinds: found an empty list, expected a list of at least 1 item"]),
        ("{kinds: [hads]}", ["p:1: step.kinds[0]: found 'hads', expected 'heads' or 'neurons' (did you mean 'heads'?)"]),
        ("{shares: x}", ["p:1: step.shares: found 'x', expected a mapping or a number"]),
        ("{shares: {heads: x}}", ["p:1: step.shares.heads: found 'x', expected a number"]),
        ("{shares: {head: 1}}", ["p:1: step.shares.head: found 'head', expected 'heads' or 'neurons' (did you mean 'heads'?)"]),
        ("budget:\n  share: 1", ["p:1: step.budget.target: missing; expected name of a target."]),
        ("budget:\n  target: a\n  shar: 1", ["p:3: step.budget.shar: no such parameter (did you mean 'share'?)"]),
        (
            "[1]",
            [
                "p:1: step: found a list, expected a mapping of parameters (known: budget, kinds, schedule, shares, shuffle, steps)"
            ],
        ),
    ],
)
def test_fault_says_what_was_found_and_expected(text, faults):
    value, found = validated(Parameters, read_yaml(text, "p")[0], "step", what="parameter")
    assert [str(fault) for fault in found] == faults
    assert bool(faults) or value is not None


def test_value_is_read_without_the_fields_at_fault():
    value, faults = validated(Parameters, read_yaml("{steps: 3, shuffle: 1, stps: 2}", "p")[0], "step")
    assert len(faults) == 2
    assert (value.steps, value.shuffle) == (3, True)


# ------------------------------------------------------------------ old names


class Renamed(Parameters):
    renamed: ClassVar = {"count": "steps"}


class Further(Renamed):
    renamed: ClassVar = {"mixed": "shuffle"}


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        (Renamed, "count: 3", ["p:1: step.count is called steps now; the old name will go"]),
        (Renamed, "steps: 3", []),
        (
            Further,
            "count: 3\nmixed: false",
            [
                "p:1: step.count is called steps now; the old name will go",
                "p:2: step.mixed is called shuffle now; the old name will go",
            ],
        ),
    ],
)
def test_old_name_of_a_parameter_goes_on_working_with_a_notice(kind, text, told):
    located = read_yaml(text, "p")[0]
    value, faults = validated(kind, located, "step", what="parameter")
    assert (value.steps, value.shuffle, faults) == (3, "mixed" not in text, ())
    assert list(notices(kind, located, "step")) == told


def test_fault_at_an_old_name_is_told_at_its_line():
    _, (fault,) = validated(Renamed, read_yaml("shuffle: true\ncount: 11", "p")[0], "step", what="parameter")
    assert str(fault) == "p:2: step.steps: found 11, expected a number less than or equal to 10"


def test_old_and_new_name_together_are_a_fault():
    _, (fault,) = validated(Renamed, read_yaml("{count: 3, steps: 4}", "p")[0], "step", what="parameter")
    assert str(fault) == "p:1: step.count: is the old name of steps, which is given too: leave count out"


def test_name_that_is_old_for_another_kind_is_none_here():
    _, (fault,) = validated(Parameters, read_yaml("count: 3", "p")[0], "step", what="parameter")
    assert "no such parameter" in str(fault)
