"""What holds for recipes: what `compressor init` writes of a plug-in is taken by it, and says why it is there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from compressor.contracts import Wish
from compressor.contracts.recipe import ROLES
from compressor.tasks.text_classification import TextClassification
from compressor.testing.plans import faults_of, plan_around
from compressor.testing.subject import Subject

ROWS = {"train": 100, "validation": 20, "test": 20, "calibration": 20}


def offers_what_it_takes(subject: Subject) -> None:
    """What it has `init` write, whatever may be lost and whatever the model is, is a plan without fault; a pass says its role."""
    for wish in _wishes():
        with subject.during(f"recipe of {wish.max_drop:g} points"):
            recipe = type(subject.plugin).recipe(wish)
        if recipe is None:
            continue
        found = faults_of(plan_around(subject, recipe.parameters))
        subject.require(not found, f"a plan with its recipe {dict(recipe.parameters)} is refused: {'; '.join(found)}")
        if subject.kind == "pass":
            subject.require(recipe.role in ROLES, f"its recipe has the role {recipe.role!r}, expected one of {', '.join(ROLES)}")
            subject.require(bool(recipe.why), "its recipe does not say why it is there; set `why`")


def _wishes() -> Iterator[Wish]:
    known: tuple[dict[str, str] | None, ...] = (None, {}, {"heads": "they are shared"})
    for max_drop, trained, without, length in product((0.0, 1.0, 10.0), (True, False), known, (None, 16)):
        yield Wish({}, TextClassification(), ROWS, trained, max_drop, "source", without, length, threads=2)
