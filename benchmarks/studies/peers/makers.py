"""What each tool makes of a fine-tuned model: `python makers.py NAME MODEL CALIBRATION OUT`, in an environment that has the tool.

MODEL is a folder that transformers opens, CALIBRATION an archive of rows (`INDEX/INPUT`), OUT a folder that is there. Each maker follows its
tool's own guide for a transformer on a processor with VNNI.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OPSET = 20


def folder(model: Path, _: Path, out: Path) -> None:
    """The folder as it is."""
    shutil.copytree(model, out, dirs_exist_ok=True)


def onnx_export(model: Path, _: Path, out: Path) -> None:
    """torch's exporter."""
    import torch

    module, example = loaded(model), _example()
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    torch.onnx.export(
        module, (), kwargs=example, f=str(out / "model.onnx"), dynamo=True, dynamic_shapes=dict.fromkeys(example, axes),
        input_names=list(example), output_names=["logits"], opset_version=OPSET, external_data=False,
    )  # fmt: skip


def onnxruntime_dynamic(model: Path, calibration: Path, out: Path) -> None:
    """ONNX Runtime's fusions for BERT, then `quantize_dynamic`, as its guide for BERT has it."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    fused = _fused(model, calibration, out)
    quantize_dynamic(fused, out / "model.onnx", weight_type=QuantType.QInt8, per_channel=True)
    fused.unlink()


def onnxruntime_static(model: Path, calibration: Path, out: Path) -> None:
    """`quant_pre_process`, then `quantize_static` in QDQ with activations and weights in 8 signed bits."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnx_export(model, calibration, out)
    prepared = out / "prepared.onnx"
    quant_pre_process(out / "model.onnx", prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared, out / "model.onnx", _reader(calibration), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
    )  # fmt: skip
    prepared.unlink()


def optimum_dynamic(model: Path, calibration: Path, out: Path) -> None:
    """`ORTQuantizer` with `AutoQuantizationConfig.avx512_vnni`, dynamic."""
    _by_optimum(model, calibration, out, static=False)


def optimum_static(model: Path, calibration: Path, out: Path) -> None:
    """`ORTQuantizer` with `AutoQuantizationConfig.avx512_vnni`, static."""
    _by_optimum(model, calibration, out, static=True)


def openvino_conversion(model: Path, _: Path, out: Path) -> None:
    """`openvino.convert_model` of the module."""
    import openvino

    openvino.save_model(_converted(model), str(out / "openvino_model.xml"), compress_to_fp16=False)


def nncf_static(model: Path, calibration: Path, out: Path) -> None:
    """`nncf.quantize` for a transformer, saved as OpenVINO saves unless told otherwise: what is not int8 in float16."""
    import nncf
    import openvino

    rows = [{name: row[name] for name in INPUTS} for row in rows_of(calibration)]
    made = nncf.quantize(_converted(model), nncf.Dataset(rows), subset_size=len(rows), model_type=nncf.ModelType.TRANSFORMER)
    openvino.save_model(made, str(out / "openvino_model.xml"))


def neural_compressor_onnx(model: Path, calibration: Path, out: Path) -> None:
    """Neural Compressor's quantiser of ONNX, static, its default settings."""
    from onnx_neural_compressor.quantization import QuantFormat, quantize
    from onnx_neural_compressor.quantization.config import StaticQuantConfig

    onnx_export(model, calibration, out)
    exported = out / "model.onnx"
    exported.rename(out / "exported.onnx")
    settings = StaticQuantConfig(_reader(calibration), quant_format=QuantFormat.QOperator)
    quantize(str(out / "exported.onnx"), str(exported), settings)
    (out / "exported.onnx").unlink()


def neural_compressor_torch(model: Path, calibration: Path, out: Path) -> None:
    """Neural Compressor's static quantisation of an exported torch program."""
    import torch
    from neural_compressor.torch.export import export
    from neural_compressor.torch.quantization import convert, get_default_static_config, prepare

    example = _example()
    axes = {0: torch.export.Dim("batch", max=512), 1: torch.export.Dim("length", max=512)}
    exported = export(logits_of(loaded(model)), tuple(example.values()), dynamic_shapes=(axes,) * len(example))
    prepared = prepare(exported, get_default_static_config())
    for row in rows_of(calibration):
        prepared(*(torch.as_tensor(row[name]) for name in INPUTS))
    made = convert(prepared)
    traced = torch.export.export(made, tuple(example.values()), dynamic_shapes=(axes,) * len(example))
    torch.export.save(traced, out / "model.pt2")


def torchao_dynamic(model: Path, _: Path, out: Path) -> None:
    """torchao's int8 weights with activations quantised as they come."""
    import torch

    torch.save(by_torchao(loaded(model)).state_dict(), out / "model.pt")


def by_torchao(module: Any) -> Any:
    """A module with its linear layers quantised, not compiled."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(module, Int8DynamicActivationInt8WeightConfig())
    return module


MAKERS: Mapping[str, Callable[[Path, Path, Path], None]] = {
    each.__name__.replace("_", "-"): each
    for each in (
        folder, onnx_export, onnxruntime_dynamic, onnxruntime_static, optimum_dynamic, optimum_static, openvino_conversion, nncf_static,
        neural_compressor_onnx, neural_compressor_torch, torchao_dynamic,
    )
}  # fmt: skip


# ------------------------------------------------------------------ what they share


def rows_of(archive: Path) -> list[dict[str, Any]]:
    """Rows with their inputs, `[1, length]` each."""
    import numpy as np

    found: dict[int, dict[str, Any]] = {}
    with np.load(archive, allow_pickle=False) as arrays:
        for key in arrays.files:
            number, _, name = key.partition("/")
            found.setdefault(int(number), {})[name] = arrays[key]
    return [found[number] for number in sorted(found)]


def loaded(model: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(model).eval()


def logits_of(module: Any) -> Any:
    """A module that gives the tensor alone."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.module(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits

    return Logits()


def _example() -> dict[str, Any]:
    import torch

    ids = torch.ones(2, 16, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def _converted(model: Path) -> Any:
    """By name and output as the files made here have them."""
    import openvino

    converted = openvino.convert_model(loaded(model), example_input=_example())
    converted.outputs[0].get_tensor().set_names({"logits"})
    return converted


def _fused(model: Path, calibration: Path, out: Path) -> Path:
    from onnxruntime.transformers.optimizer import optimize_model

    onnx_export(model, calibration, out)
    fused = optimize_model(str(out / "model.onnx"), model_type="bert", opt_level=1, use_gpu=False)
    fused.save_model_to_file(str(out / "fused.onnx"))
    return out / "fused.onnx"


def _by_optimum(model: Path, calibration: Path, out: Path, *, static: bool) -> None:
    sys.modules["diffusers"] = None  # type: ignore[assignment] # the one installed here wants a newer hub, and optimum opens it where it is there

    from datasets import Dataset
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig

    exported = out / "exported"
    ORTModelForSequenceClassification.from_pretrained(model, export=True).save_pretrained(exported)
    quantizer = ORTQuantizer.from_pretrained(exported)
    settings = AutoQuantizationConfig.avx512_vnni(is_static=static, per_channel=True)
    ranges = None
    if static:
        rows = [{name: row[name][0].tolist() for name in INPUTS} for row in rows_of(calibration)]
        data = Dataset.from_list(rows)
        ranges = quantizer.fit(
            dataset=data,
            calibration_config=AutoCalibrationConfig.minmax(data),
            operators_to_quantize=settings.operators_to_quantize,
        )
    quantizer.quantize(save_dir=out, quantization_config=settings, calibration_tensors_range=ranges)
    (out / "model_quantized.onnx").rename(out / "model.onnx")
    shutil.rmtree(exported)


def _reader(calibration: Path) -> Any:
    """Rows one after the other, then None, as ONNX Runtime's quantisers take them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Rows(CalibrationDataReader):  # type: ignore[misc] # the library has no types
        def __init__(self) -> None:
            self.rewind()

        def get_next(self) -> dict[str, Any] | None:
            return next(self._rows, None)

        def rewind(self) -> None:
            self._rows: Iterator[dict[str, Any]] = ({name: row[name] for name in INPUTS} for row in rows_of(calibration))

    return Rows()


def _main() -> None:
    name, model, calibration, out = sys.argv[1:]
    MAKERS[name](Path(model), Path(calibration), Path(out))


if __name__ == "__main__":
    _main()
