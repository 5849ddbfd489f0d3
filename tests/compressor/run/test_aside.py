"""Work beside the run's own thread: begun in order, waited for before anything is timed, ended with the run."""

import threading

import numpy as np
import pytest

from compressor.run.aside import Aside


def test_work_goes_on_beside_and_is_done_in_order():
    order, gate = [], threading.Event()
    with Aside() as aside:
        first = aside.start(lambda: gate.wait(10) and order.append("first"))
        second = aside.start(lambda: order.append("second"))
        assert not order, "the thread that asks goes on"
        gate.set()
        aside.settle()
        assert order == ["first", "second"]
        assert first.done()
        assert second.done()


def test_lanes_go_on_side_by_side():
    meet = threading.Barrier(2, timeout=10)
    with Aside() as aside:
        one, other = aside.start(meet.wait, lane="one"), aside.start(meet.wait, lane="other")
        aside.settle()
        assert {one.result(), other.result()} == {0, 1}


def test_work_that_has_to_be_done_here_is():
    with Aside() as aside:
        assert aside.start(threading.current_thread, here=True).result() is threading.current_thread()
        assert aside.start(threading.current_thread).result() is not threading.current_thread()


def test_failure_is_told_at_the_next_turn():
    def fails():
        raise ValueError("no rows")

    with Aside() as aside:
        failed = aside.start(fails)
        with pytest.raises(ValueError, match="no rows"):
            failed.result()
        with pytest.raises(ValueError, match="no rows"):
            aside.start(lambda: None)
        with pytest.raises(ValueError, match="no rows"):
            aside.settle()


def test_run_that_ends_waits_for_one_call_at_most():
    calls, begun, go_on = [], threading.Event(), threading.Event()
    aside = Aside()

    class Slow:
        def run(self, feed, *, graph="model", state=None):
            calls.append(feed)
            begun.set()
            go_on.wait(10)
            return feed, state

        def cut(self, state, length, *, graph="model"):
            return state

        def facts(self):
            return {}

    def score():
        heeded = aside.heeding(Slow())
        for number in range(1000):
            heeded.run({"x": np.asarray(number)})

    with aside:
        scoring, never = aside.start(score), aside.start(calls.clear)
        begun.wait(10)
        threading.Timer(0.05, go_on.set).start()
    assert len(calls) == 1
    assert scoring.exception() is not None
    assert never.cancelled()
