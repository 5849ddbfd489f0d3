"""Models are lowered by a process beside the run where that pays, into the store, and the run finds them there."""

from __future__ import annotations

import time
from dataclasses import replace

import psutil
import pytest

from compressor.contracts.records import Stage
from compressor.run import ahead
from compressor.run.ahead import lowered_ahead
from compressor.run.state import StageState
from compressor.store.store import Store
from compressor.testing.tiny import ready_target, tiny_run

SECONDS = 600


@pytest.fixture
def builder(tmp_path):
    return replace(tiny_run().builder, store=Store(tmp_path / "store"))


def state(weights):
    return StageState(tiny_run().source, "torch", Stage(name="source", step="source", weights=weights))


def processes():
    return [each for each in psutil.Process().children() if "compressor.run.ahead" in told(each)]


def told(process):
    """Its command line; nothing of one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_what_was_lowered_beside_the_run_is_found(builder, monkeypatch):
    monkeypatch.setattr(ahead, "FEWEST", 1)
    monkeypatch.setattr(ahead, "usable_cores", lambda: 2)
    target, here = ready_target("onnxruntime"), state(ahead.LEAST_WEIGHTS)
    assert not builder.is_lowered(here.made, "torch", target)
    with lowered_ahead(builder, target, [here]):
        (process,) = processes()
        psutil.wait_procs([process], timeout=SECONDS)
    assert builder.is_lowered(here.made, "torch", target)
    assert builder.lower(here.made, "torch", target.dialect.format, target).found
    with lowered_ahead(builder, target, [here]):
        assert not processes(), "all is there"


@pytest.mark.parametrize(("count", "weights", "cores"), [(2, 10**9, 8), (9, 1000, 8), (9, 10**9, 1)])
def test_few_or_small_models_and_one_core_are_no_reason_for_a_process(builder, monkeypatch, count, weights, cores):
    monkeypatch.setattr(ahead, "usable_cores", lambda: cores)
    with lowered_ahead(builder, ready_target("onnxruntime"), [state(weights)] * count):
        assert not processes()
    assert not builder.store.root.exists()


def test_process_ends_with_the_context(builder, monkeypatch):
    monkeypatch.setattr(ahead, "usable_cores", lambda: 2)
    with lowered_ahead(builder, ready_target("onnxruntime"), [state(10**9)] * 3):
        assert len(processes()) == 1
    assert not processes()


def test_process_that_fails_alone_is_told_of(builder, monkeypatch):
    monkeypatch.setattr(ahead, "FEWEST", 1)
    monkeypatch.setattr(ahead, "usable_cores", lambda: 2)
    monkeypatch.setattr(ahead, "_job", lambda *_: {})
    heard = []
    with lowered_ahead(builder, ready_target("onnxruntime"), [state(ahead.LEAST_WEIGHTS)], heard.append):
        (process,) = processes()
        until = time.monotonic() + SECONDS
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:  # its end is left to whoever started it
            time.sleep(0.1)
    assert heard == ["lowering models ahead of the run ended with exit code 1: KeyError: 'parent'"]
