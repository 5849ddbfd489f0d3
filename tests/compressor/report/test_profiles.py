"""Why a file is not faster, as the page and the Markdown say it."""

import pytest

from compressor.report import profiles
from compressor.report.findings import Findings
from compressor.report.html import page
from compressor.report.markdown import document


@pytest.fixture
def row(report):
    (found,) = Findings(report).profiles
    return found


def test_kinds_are_told_costliest_first_and_small_ones_together(row):
    found = profiles.by_kind(row)
    assert [each.name for each in found] == ["MatMulIntegerToFloat", "LayerNormalization", "MatMul", "2 other kinds"]
    assert [round(each.share, 3) for each in found] == [0.5, 0.3, 0.195, 0.005]
    assert sum(each.count for each in found) == len(row.operators)


def test_efficiency_is_the_share_of_the_peak_of_its_numbers(row):
    products = profiles.by_kind(row)
    assert products[0].efficiency == pytest.approx(2e8 / 8e11 / 1e-3)
    assert products[1].efficiency is None
    assert products[2].efficiency == pytest.approx(2e7 / 2e11 / 0.39e-3)


def test_blocks_are_told_in_the_order_they_run(row):
    assert [each.name for each in profiles.by_block(row)] == ["encoder.0", "encoder.1"]


def test_three_costliest_have_what_would_take_them_away(row):
    first, second, third = profiles.why_not_faster(row)
    assert first.startswith("1 MatMulIntegerToFloat in int8: 50.0")
    assert "25.0" in first
    assert "layers, heads, neurons" in first
    assert "LayerNormalization" in second
    assert "fewer layers" in second
    assert "in int8 their bound is 4.00" in third


def test_bound_is_told_with_the_doubt_of_a_busy_machine(row):
    said = profiles.bound_words(row)
    assert "0.350\N{NO-BREAK SPACE}ms" in said
    assert "20.0\N{NO-BREAK SPACE}%" in said
    assert "may be too low" in said
    still = row.model_copy(update={"peaks": row.peaks.model_copy(update={"load": 0.0})})
    assert "may be too low" not in profiles.bound_words(still)


def test_call_that_beats_its_bound_is_not_told_a_share_of_it(row):
    said = profiles.bound_words(row.model_copy(update={"call_ms": 0.1}))
    assert "faster than what was counted on" in said
    assert "The least" not in said
    assert "%" not in said.partition(profiles.BEATEN)[0]


def test_page_and_document_say_why_not_faster_and_who_has_no_profile(report):
    html, text = page(report), document(report)
    for made in (html, text):
        assert "Why not faster" in made
        assert "MatMulIntegerToFloat" in made
        assert "final@openvino" in made
        assert "has no profile: its runtime has no profiler" in made
        assert "source@onnxruntime has no profile" not in made
        assert "<script>document" not in made


def test_nothing_is_said_where_nothing_was_profiled(report):
    none = report.model_copy(update={"probes": report.probes[:2]})
    assert "## Why not faster" not in document(none)
