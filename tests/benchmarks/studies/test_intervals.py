"""What the study of intervals counts, in few draws: verdicts under planted noise, and coverage of paired differences."""

from __future__ import annotations

import pytest

from benchmarks.studies.intervals import document
from benchmarks.studies.paired import SETTINGS, Coverage, coverage
from benchmarks.studies.planted import NOISES, Found, found_under

DRAWS = 20


@pytest.mark.parametrize("noise", ["quiet", "bad places"])
def test_verdicts_on_planted_differences_are_hardly_ever_false(noise):
    found = found_under(NOISES[noise], draws=DRAWS, seed=5, seconds=2)
    assert sum(one.false_met + one.false_not_met for one in found.values()) <= 0.05 * 2 * DRAWS * len(found)
    assert sum(one.covered for one in found.values()) >= 0.93 * DRAWS * len(found)
    assert all(one.slower == 0 for planted, one in found.items() if planted >= 0.1)
    assert found[0.5].faster >= 0.8 * DRAWS


def test_ten_per_cent_are_seen_on_a_quiet_machine():
    found = found_under(NOISES["quiet"], draws=20, seed=6, seconds=2)
    assert found[0.10].faster >= 0.8 * 20
    assert found[0.0].faster + found[0.0].slower <= 2


@pytest.mark.parametrize(
    "name",
    [
        "accuracy-some-200",
        "macro-F1-few-50",
        "macro-F1-some-200",
        "normal-30",
        "sparse-30",
        "Spearman-apart-50",
        "micro-F1-skew-50",
    ],
)
def test_intervals_of_differences_hold_the_truth_about_as_often_as_they_say(name):
    found = coverage(SETTINGS[name], draws=100, seed=7)
    assert found.covered >= 0.88 * found.draws  # 0.95, less three standard deviations of so few draws


def test_page_holds_every_count():
    planted = {"quiet": {0.1: Found(draws=200, covered=190, faster=180, false_met=4, disturbed=20)}}
    lines = document(planted, {"normal-30": Coverage(draws=2000, covered=1900, differing=60000)}).splitlines()
    assert "| 10% | 95.0 % | 90.0 % | 0.0 % | 2.0 % | 0.0 % | 10.0 % | 200 |" in lines
    assert "| unbounded, normal | 30 | 30.0 | 95.0 % | 2000 |" in lines


def test_page_says_what_was_not_drawn():
    timed = {name: dict[float, Found]() for name in NOISES}
    (told,) = (line for line in document(timed, {}).splitlines() if "Not drawn yet" in line)
    assert f"{SETTINGS['normal-30'].words} of 30 rows" in told
    assert NOISES["quiet"].words not in told
    assert "Not drawn yet" not in document(timed, {name: Coverage(draws=1) for name in SETTINGS})
