"""What exports spare is spared in them alone."""

from __future__ import annotations

import gc

import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry

from compressor.deploy.onnx import _cheaply


def fails(before):
    with _cheaply():
        assert not gc.isenabled()
        assert vars(ONNXRegistry)["from_torchlib"] is not before
        raise ZeroDivisionError


@pytest.mark.parametrize("collects", [True, False])
def test_exporter_and_collector_are_left_as_they_were_though_an_export_fails(collects):
    before = vars(ONNXRegistry)["from_torchlib"]
    (gc.enable if collects else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError):
            fails(before)
        assert gc.isenabled() is collects
        assert vars(ONNXRegistry)["from_torchlib"] is before
    finally:
        gc.enable()


def test_table_of_operators_is_made_once_for_an_opset():
    made = []
    for opset in (20, 20, 21):
        with _cheaply():
            made.append(ONNXRegistry().from_torchlib(opset_version=opset))
    assert made[0] is made[1]
    assert [table.opset_version for table in made] == [20, 20, 21]
