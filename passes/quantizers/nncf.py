"""NNCF's quantisers on OpenVINO's representation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressor.contracts import Feed


def quantize_static(path: Path, out: Path, feeds: Sequence[Feed], *, transformer: bool = True) -> None:
    """Post-training quantisation of weights, embeddings and activations, calibrated on `feeds`."""
    import nncf

    model = _read(path)
    names = {name for port in model.inputs for name in port.get_names()}
    rows = [{name: array for name, array in feed.items() if name in names} for feed in feeds]
    quantized = nncf.quantize(
        model, nncf.Dataset(rows), subset_size=len(rows), model_type=nncf.ModelType.TRANSFORMER if transformer else None
    )
    _write(quantized, out)


def compress_weights(path: Path, out: Path) -> None:
    """Weights in int8; activations stay in float."""
    import nncf

    _write(nncf.compress_weights(_read(path), mode=nncf.CompressWeightsMode.INT8_ASYM), out)


def _read(path: Path) -> Any:
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    return openvino.Core().read_model(str(path))


def _write(model: Any, out: Path) -> None:
    import openvino

    openvino.save_model(model, str(out), compress_to_fp16=False)
