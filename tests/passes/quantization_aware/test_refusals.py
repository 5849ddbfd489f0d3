"""What cannot be deployed as it is trained is refused before anything is trained."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from rounded_students import assert_alike, deployed, outputs, step, trained

from compressor.contracts import Dialect, Scheme
from targets.llama_cpp import LlamaCpp
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

GROUPED = {"weights": 8, "granularity": "group"}
"""llama.cpp has such products of its own weights: 8 bits, a step for 32 inputs, activations of 8 bits."""


@pytest.mark.parametrize("given", [{}, GROUPED, {"weights": 4}, {"ranges": "dynamic"}])
def test_targets_whose_files_hold_no_quantisers_are_refused(given):
    assert "made without it" in step(**given).refuses(LlamaCpp.dialect)["weights"]
    assert step(**given).refuses(OnnxRuntime.dialect) == {}


def test_schemes_of_a_format_without_quantisers_count_for_nothing():
    group = Scheme("int8", "int8", "group", 32, dynamic=True)
    assert step(**GROUPED).refuses(Dialect(format="gguf", schemes=(group,)))
    assert not step(**GROUPED).refuses(Dialect(format="onnx", schemes=(group,)))


def test_weights_with_zero_points_are_refused_where_rows_have_a_step_each():
    for given in ({"granularity": "channel"}, {"granularity": "tensor"}, {}):
        with pytest.raises(ValidationError, match="symmetric_weights: false has kernels"):
            step(symmetric_weights=False, ranges="dynamic", **given)
    step(symmetric_weights=False, weights=4)
    step(symmetric_weights=False)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_weights_with_zero_points_are_deployed_as_trained(granularity, tmp_path):
    model, _ = trained(tmp_path, epochs=1, symmetric_weights=False, granularity=granularity)
    for target in (OnnxRuntime(), OpenVino()):
        assert_alike(deployed(model, target, tmp_path)[0], outputs(model))
