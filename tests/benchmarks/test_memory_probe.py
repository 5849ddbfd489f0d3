"""Peak memory of candidates whose appetite is known."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.memory import Memory
from compressor.contracts import Candidate, Progress, Workload
from compressor.deploy.bench import ProcessBench

STAND_INS = Path(__file__).parents[1] / "stand_ins"


@pytest.fixture
def sleeping(monkeypatch):
    """The module of stand-in targets, importable here and in the workers."""
    monkeypatch.syspath_prepend(str(STAND_INS))
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    import sleeping

    return sleeping


def test_memory_tells_the_difference_that_the_candidates_make(sleeping, tmp_path):
    heard = []
    probe = Memory(batch=(2,), length=(16,), calls=4)
    candidates = [
        Candidate(f"{stage}@s", stage=stage, target="s", runtime=sleeping.Sleeping(ms=0, mebibytes=mebibytes), built=tmp_path)
        for stage, mebibytes in [("source", 40), ("final", 10)]
    ]
    with ProcessBench(tmp_path / "bench", tell=heard.append) as bench:
        record = probe.measure(candidates, {Workload(batch=2, length=16): [{"x": np.zeros(1)}]}, bench, seed=0)
    source, final = record.rows
    assert (source.candidate, source.batch, source.length) == ("source@s", 2, 16)
    assert source.peak_bytes - final.peak_bytes == pytest.approx(4 * 30 << 20, rel=0.1)
    assert heard == [Progress("memory", done, 2, unit="processes") for done in (1, 2)]


def test_memory_asks_for_natural_lengths_when_none_is_given():
    assert Memory(batch=(1, 8)).workloads() == (Workload(batch=1), Workload(batch=8))
