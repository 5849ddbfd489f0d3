"""How a state grows is read off the names of axes, and an input may have a default."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from compressor.contracts import Graph, Growth, Port
from compressor.contracts.graph import graph_from
from compressor.deploy.cache import Line, grown

GRAPH = Graph(
    inputs=(
        Port("ids", "int64", ("batch", "length")),
        Port("mask", "int64", ("batch", "total")),
        Port("at", "int64", ("kept",), default=(-1,)),
        Port("past", "float32", ("batch", 2, "past", 8)),
    ),
    outputs=(Port("logits", "float32", ("batch", "kept", 5)), Port("present", "float32", ("batch", 2, "total", 8))),
    state=(("present", "past"),),
)


def feed(total: int, length: int):
    return {"ids": np.zeros((1, length), np.int64), "mask": np.ones((1, total), np.int64)}


def test_a_state_grows_along_the_axis_whose_name_changes():
    assert GRAPH.growth == Growth(2, ("mask", 1), ("ids", 1))
    assert GRAPH.growth.lengths(feed(7, 3)) == (4, 7)


def test_nothing_grows_where_no_input_says_how_long_the_state_is():
    without = replace(GRAPH, inputs=tuple(port for port in GRAPH.inputs if port.name != "mask"))
    same = replace(GRAPH, outputs=(Port("present", "float32", ("batch", 2, "past", 8)),))
    assert [without.growth, same.growth, Graph().growth] == [None, None, None]


def test_a_feed_is_completed_by_defaults_and_holds_nothing_else():
    found = GRAPH.completed({**feed(2, 2), "stray": np.zeros(1)})
    assert set(found) == {"ids", "mask", "at"}
    assert found["at"].tolist() == [-1]
    assert GRAPH.completed({"at": np.array([3])})["at"].tolist() == [3]


def test_defaults_go_round_through_json_and_older_graphs_have_none():
    values = json.loads(json.dumps(asdict(GRAPH)))
    assert graph_from(values) == GRAPH
    for port in values["inputs"]:
        del port["default"]
    assert [port.default for port in graph_from(values).inputs] == [()] * 4


@pytest.mark.parametrize("name", ["../model", "/model", "a/b", "..", ""])
def test_name_of_a_graph_leads_nowhere_else(name):
    """It is read from files that may not be ours, and becomes the name of a file."""
    values = json.loads(json.dumps(asdict(GRAPH)))
    with pytest.raises(ValueError, match="is no name of a graph"):
        graph_from({**values, "name": name})


def test_a_line_is_free_beyond_a_position_while_nobody_holds_a_later_one():
    line = Line("place")
    first = line.wrote(4)
    later = line.wrote(6)
    assert not line.free_from(first.length)
    assert line.free_from(later.length)
    cut = later.cut(5)
    del later
    assert (line.free_from(4), line.free_from(5), line.written) == (False, True, 6)
    with pytest.raises(ValueError, match="a state of 5 cannot be cut to 6"):
        cut.cut(6)
    del cut
    assert line.free_from(4)
    assert grown(GRAPH.growth, feed(6, 2), first) == 6
    with pytest.raises(ValueError, match="mask of 6 tokens, 3 of them new, does not fit a state of 4"):
        grown(GRAPH.growth, feed(6, 3), first)
