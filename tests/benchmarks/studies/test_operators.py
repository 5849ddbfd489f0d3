"""The studies of operators: products that are timed, how sizes are grouped, and what is kept when a study is cut."""

from __future__ import annotations

import argparse

import numpy as np
import onnxruntime
import pytest

from benchmarks.studies import operator_forms as forms
from benchmarks.studies import operator_sizes as sizes
from benchmarks.studies import operators_others as others
from benchmarks.studies.operators import BEFORE, NOW
from compressor.deploy.integer_products import KIND, join_biases


def test_products_that_are_timed_are_int8_with_biases():
    graph = sizes._products(352)
    x = np.random.default_rng(0).normal(size=(sizes.ROWS, sizes.HIDDEN)).astype(np.float32)

    def run(made):
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"x": x})[0]

    before = run(graph)
    join_biases(graph)
    assert [node.op_type for node in graph.graph.node].count(KIND) == 2 * sizes.PAIRS
    np.testing.assert_allclose(run(graph), before, atol=2e-2 * np.abs(before).max())


def test_calls_are_interleaved_and_each_has_all_rounds():
    order = []
    found = sizes.interleaved({name: lambda name=name: order.append(name) for name in "ab"})
    assert [len(each) for each in found.values()] == [sizes.ROUNDS] * 2
    assert list(found) == ["a", "b"]
    assert "".join(order).count("ab") > 3, "one after the other"


def test_widths_are_grouped_by_what_divides_them():
    time = {str(width): [width / 100 * (2 if width % 8 else 1)] for width in sizes.WIDTHS}
    rows = [line.split("|") for line in sizes.by_multiple({"a": time}) if line.startswith("|")][2:]
    assert [row[1].strip() for row in rows] == ["4", "8", "16", "32"]
    assert sum(len(row[2].split(",")) for row in rows) == len(sizes.WIDTHS)
    odd, *even = (float(row[3]) for row in rows)
    assert all(odd == pytest.approx(2 * each, rel=1e-2) for each in even)


def test_what_was_measured_is_not_measured_again(tmp_path):
    study, made = others.Study(argparse.Namespace(work=tmp_path)), []
    for _ in range(2):
        assert study.kept("part", lambda: made.append(1) or {"a": [1, 2]}) == {"a": [1, 2]}
    assert made == [1]
    with pytest.raises(ZeroDivisionError):
        study.kept("cut", lambda: 1 // 0)
    assert [each.name for each in tmp_path.iterdir()] == ["part.json"]


def test_every_part_has_what_its_tables_ask_for():
    for part, runtimes in others.GROUPS.items():
        for runtime, kinds in runtimes.items():
            assert {NOW, BEFORE} <= set(kinds), (part, runtime)
            assert sum(kind in forms.FIXED for kind in kinds.values()) == 1, (part, runtime)


def test_forms_differ_in_the_rewrites_that_they_name_and_attention_is_fused_in_all():
    rewrites = {
        kind: set(forms.ALL) - set(kind.dialect.leaves) for kind in (forms.Before, forms.RowsAlone, forms.RowsAndKeys, forms.Now)
    }
    assert list(rewrites.values()) == [set(), {"unread rows"}, {"unread rows", "keys of padding"}, set(forms.ALL)]
    assert not any("fused operators" in kind.dialect.leaves for kind in rewrites)
