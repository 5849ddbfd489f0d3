"""What lies beside a built model: written and read back, in the form of earlier versions too."""

from __future__ import annotations

import json

import numpy as np
import pytest

from compressor.contracts import Graph, Port
from compressor.deploy.graphs import TASK_FILE, describe, graphs_of, task_of
from compressor.errors import PluginError, StoreError
from compressor.testing.tiny import tiny_run

IDS = Port("input_ids", "int64", ("batch", "length"))
LOGITS = Port("logits", "float32", ("batch", 7))
PAST = Port("past", "float32", ("batch", 2, "past", 4))
PRESENT = Port("present", "float32", ("batch", 2, "present", 4))


def test_task_and_graphs_come_back_as_they_were(tmp_path):
    run = tiny_run()
    for name, content in run.model().files.items():
        (tmp_path / name).write_bytes(content)
    describe(tmp_path, run.task, run.task_name, ("a", "b"))
    assert task_of(tmp_path) == run.task
    assert graphs_of(tmp_path) == run.task.graphs(run.source.path)


def test_a_folder_of_an_earlier_version_has_one_graph_without_state(tmp_path):
    ports = {"inputs": [vars(IDS)], "outputs": [vars(LOGITS)]}
    (tmp_path / TASK_FILE).write_text(json.dumps({"task": "text-classification", "parameters": {}, "labels": [], **ports}))
    assert graphs_of(tmp_path) == (Graph(inputs=(IDS,), outputs=(LOGITS,)),)
    assert task_of(tmp_path).max_length == 128


def test_a_bare_graph_has_no_known_ports(tmp_path):
    assert graphs_of(tmp_path) == (Graph(),)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", StoreError),
        ("[]", StoreError),
        ("{}", StoreError),
        ('{"task": "no-such", "parameters": {}, "inputs": []}', PluginError),
    ],
)
def test_what_is_malformed_is_told(tmp_path, text, error):
    (tmp_path / TASK_FILE).write_text(text)
    with pytest.raises(error):
        task_of(tmp_path)
    with pytest.raises(StoreError):
        graphs_of(tmp_path)


def test_a_state_is_no_input_or_output_of_a_caller_and_is_empty_at_first():
    graph = Graph(inputs=(IDS, PAST), outputs=(LOGITS, PRESENT), state=(("present", "past"),))
    assert (graph.fed, graph.given) == ((IDS,), (LOGITS,))
    first = graph.first_state({"input_ids": np.zeros((3, 5), np.int64)})
    assert {name: (array.shape, array.dtype.name) for name, array in first.items()} == {"past": ((3, 2, 0, 4), "float32")}
    assert Graph(inputs=(IDS,), outputs=(LOGITS,)).first_state({"input_ids": np.zeros((3, 5), np.int64)}) == {}
