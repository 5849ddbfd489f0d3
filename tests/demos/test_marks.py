"""Rows that are downloaded keep what their files mark them with."""

from __future__ import annotations

import json

import pytest

from compressor.run.comparison import Run
from demos.of_run import choose, labels
from demos.rows import Differing, Rows, as_jsonl


@pytest.mark.parametrize("name", ["text", "pair", "number", "labels", "language"])
def test_rows_that_are_downloaded_have_the_columns_of_their_files(name, runs, tmp_path):
    run = Run.read(runs(name))
    chosen = choose(run, None)
    rows = Rows.read(run, chosen.before.id, chosen.after.id, labels(chosen.built(chosen.after)), tmp_path)
    files = [json.loads(line) for line in (runs(name).parent / "rows.jsonl").read_text().splitlines()]
    number = len(rows.data.split("test"))
    written = as_jsonl(rows, [Differing(row, "", "", "one", "another", "broken") for row in range(number)])
    for line in map(json.loads, written.splitlines()):
        assert (line.pop("before"), line.pop("compressed")) == ("one", "another")
        assert any(_same(line, each) for each in files), line


def _same(line, other):
    return {key: sorted(set(each)) if isinstance(each, list) else each for key, each in line.items()} == {
        key: sorted(set(each)) if isinstance(each, list) else each for key, each in other.items()
    }
