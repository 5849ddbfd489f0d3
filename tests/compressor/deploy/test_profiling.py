"""Blocks and families by name, sessions that count, and the machine's peaks."""

import numpy as np
import pytest

from compressor.contracts.profiles import Peaks
from compressor.deploy.peaks import best, measured, peaks_of
from compressor.deploy.profiling import CountedSession, blocks, family_of
from compressor.store.store import Store
from compressor.testing.stand_in import BagOfTokens


def test_operators_without_a_path_belong_to_the_next_that_has_one_and_the_last_to_the_last():
    names = [
        "quantized",
        "bert.encoder.layer.0.attention.self.query/MatMul_1",
        "node_MultiHeadAttention_7",
        "graph/Shape_2",
        "bert.encoder.layer.0.output.dense/MatMul_2",
        "fused classifier/Gemm_3",
        "logits_cast",
    ]
    attention, output = "bert.encoder.layer.0.attention", "bert.encoder.layer.0.output"
    assert blocks(names) == [attention, attention, output, output, output, "classifier", "classifier"]


def test_operators_of_a_graph_without_paths_belong_to_the_rest():
    assert blocks(["a", "graph/b"]) == ["other", "other"]


def test_family_is_the_one_that_lists_the_kind():
    table = {"product": ("MatMul",), "norm": ("MVN",)}
    assert [family_of(kind, table) for kind in ("MVN", "MatMul", "Where")] == ["norm", "product", "other"]


def test_counted_session_counts_runs_and_knows_shapes(tmp_path):
    target = BagOfTokens()
    target.build(None, tmp_path)
    session = CountedSession(target.open(tmp_path))
    for length in (4, 6):
        session.run({"input_ids": np.zeros((2, length), np.int64)})
    assert session.runs["model"] == 2
    assert session.shapes["model"] == {"input_ids": (2, 6)}
    assert session.facts()["precision"] == "fp64"


def test_best_is_the_fastest_of_all_calls():
    waits = iter([0.02, 0.0, 0.02])

    def call():
        np.linalg.norm(np.ones(10))
        import time

        time.sleep(next(waits, 0.02))

    assert best(call, seconds=0.0) < 0.01


def test_measured_peaks_are_those_of_a_processor():
    found = measured(1)
    assert 1e9 < found.operations_per_s["fp32"] < 1e13
    assert 1e8 < found.bytes_per_s < 1e13
    assert found.threads == 1


@pytest.mark.parametrize(("load", "kept"), [(0.02, True), (0.8, False)])
def test_peaks_are_kept_where_the_machine_was_still(tmp_path, load, kept):
    store = Store(tmp_path / "store")
    first = peaks_of(1, store, lambda: load)
    assert isinstance(first, Peaks)
    assert first.load == load
    again = peaks_of(1, store, lambda: 0.5)
    assert (again == first) == kept
