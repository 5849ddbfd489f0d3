"""Checkpoints: whole or not at all, read back to the bit, passed over with a word where they are damaged or another's."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from compressor.errors import CompressorError
from compressor.training.checkpoint import FORMAT, INDEX, INTERVAL, Checkpoints, identity_of, random_states, set_random_states

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(True), "c": torch.arange(4, dtype=torch.bfloat16)[::2]}


def checkpoints(folder, told=None, identity="this"):
    return Checkpoints(folder, identity, (told if told is not None else []).append)


def test_checkpoint_is_read_back_to_the_bit_and_leaves_nothing_beside_it(tmp_path):
    for step in (1, 2):
        checkpoints(tmp_path).write({"step": step, "x": 0.1}, TENSORS, step=step)
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX, "step-2.safetensors"]
    values, tensors = checkpoints(tmp_path).read()
    assert values == {"step": 2, "x": 0.1}
    assert all(torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


def test_nothing_is_read_and_nothing_is_said_where_there_is_no_checkpoint(tmp_path):
    told = []
    assert checkpoints(tmp_path / "none", told).read() is None
    assert told == []


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: flip(folder / "step-7.safetensors", -1), "is damaged (the digest of step-7.safetensors does not match)"),
        (lambda folder: (folder / "step-7.safetensors").unlink(), "is damaged ([Errno 2]"),
        (lambda folder: (folder / INDEX).write_text("{"), "is damaged (Expecting"),
        (lambda folder: (folder / INDEX).write_text("[]"), "is damaged ("),
        (lambda folder: (folder / INDEX).write_bytes(b"\xff\xfe"), "is damaged ("),
        (
            lambda folder: (folder / INDEX).write_text(
                json.dumps({"format": FORMAT, "identity": "this", "file": "../x", "sha256": ""})
            ),
            "is damaged ([Errno 2]",
        ),
    ],
)
def test_damaged_checkpoint_is_passed_over_with_a_word(tmp_path, damage, said):
    checkpoints(tmp_path).write({}, TENSORS, step=7)
    damage(tmp_path)
    told = []
    assert checkpoints(tmp_path, told).read() is None
    (message,) = told
    assert said in message.text
    assert message.text.endswith("training starts at its beginning")


def test_checkpoint_of_another_training_is_passed_over_with_a_word(tmp_path):
    checkpoints(tmp_path, identity="other").write({}, TENSORS, step=7)
    told = []
    assert checkpoints(tmp_path, told).read() is None
    assert told[0].text == f"{tmp_path / INDEX} belongs to another training: this one starts at its beginning"


def test_checkpoint_that_cannot_be_written_is_said_and_the_one_before_stays(tmp_path):
    told = []
    made = checkpoints(tmp_path, told)
    made.write({}, TENSORS, step=7)
    (tmp_path / "step-8.safetensors").mkdir()  # in the way of the rename
    (tmp_path / "step-8.safetensors" / "file").touch()
    made.write({}, TENSORS, step=8)
    assert told[0].text.startswith("no checkpoint at step 8 (")
    assert "step 7 is kept" in made.described()
    assert checkpoints(tmp_path).read() is not None


def test_next_checkpoint_is_due_by_the_clock_and_later_where_writing_takes_long(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("compressor.training.checkpoint.time.monotonic", lambda: now[0])
    monkeypatch.setattr("compressor.training.checkpoint.Checkpoints._write", lambda *_: now.__setitem__(0, now[0] + 10))
    made = checkpoints(tmp_path)
    now[0] += 59
    assert not made.due
    now[0] += 1
    assert made.due
    made.write({}, {}, step=1)  # took 10 s, which is to be at most 2 % of the time
    now[0] += 499
    assert not made.due
    now[0] += 1
    assert made.due


def test_interval_is_taken_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(INTERVAL, "0")
    assert checkpoints(tmp_path).due
    for wrong in ("soon", "nan", "-1", "inf", ""):
        monkeypatch.setenv(INTERVAL, wrong)
        with pytest.raises(CompressorError, match=f"COMPRESSOR_CHECKPOINT_SECONDS is '{wrong}', expected a number of seconds"):
            checkpoints(tmp_path)


def test_random_states_go_on_where_they_were_after_a_trip_through_json():
    def draw():
        return [random.gauss(0, 1), np.random.standard_normal(), torch.randn(()).item()]

    draw()  # a normal generator keeps half of what it drew
    states = json.loads(json.dumps(random_states()))
    expected = [draw() for _ in range(3)]
    draw()
    set_random_states(states)
    assert [draw() for _ in range(3)] == expected


def test_identity_changes_with_values_names_types_shapes_and_contents():
    one = {"a": torch.zeros(2, 3)}
    others = [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": torch.ones(2, 3)},
    ]
    assert identity_of({"x": 1}, one) == identity_of({"x": 1}, {"a": torch.zeros(2, 3)})
    assert len({identity_of({"x": 1}, one), identity_of({"x": 2}, one), *(identity_of({"x": 1}, each) for each in others)}) == 6


@pytest.mark.parametrize("theirs", [True, False])
def test_shares_are_read_by_all_processes_or_by_none(tmp_path, theirs):
    class Pair:
        rank = 0

        @staticmethod
        def gathered(value):
            return [value, theirs if isinstance(value, bool) else value]

    told = []
    kept = Checkpoints(tmp_path, "a", told.append, Pair())
    kept.write({"step": 3}, {"weight": torch.ones(2)}, step=3)
    found = Checkpoints(tmp_path, "a", told.append, Pair())
    assert (found.read() is not None) is theirs
    assert ("another process cannot read its share" in str(told)) is not theirs
    assert ("step 3" in found.described()) is theirs
