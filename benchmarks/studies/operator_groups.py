"""Which forms of which models `benchmarks.studies.operators_others` times beside one another."""

from __future__ import annotations

from benchmarks.studies import operator_forms as forms
from benchmarks.studies.operators import BEFORE, NOW
from compressor.contracts import Target

RUNTIMES = ("onnxruntime", "openvino")
LEFT_OUT = {
    "NoBiases": "joined biases",
    "NoMasks": "empty masks",
    "NoScales": "folded scales",
    "NoWindows": "windows as products",
}
AS_THEY_ARE: dict[str, dict[str, type[Target]]] = {
    "onnxruntime": {
        NOW: forms.Now,
        BEFORE: forms.Before,
        **{each.__name__: each for each in (forms.NoBiases, forms.NoWindows)},
        **{each.__name__: each for each in (forms.FastGelu, forms.OneProduct, forms.SkipNorms, forms.OptimizerOfTransformers)},
    },
    "openvino": {
        NOW: forms.NowInOpenVino,
        BEFORE: forms.BeforeInOpenVino,
        **{each.__name__: each for each in (forms.NoWindowsInOpenVino, forms.Bf16, forms.Pinned, forms.ForThroughput)},
    },
}
GROUPS: dict[str, dict[str, dict[str, type[Target]]]] = {
    "speech": {
        "onnxruntime": {**AS_THEY_ARE["onnxruntime"], "FixedSound": forms.FixedSound},
        "openvino": {**AS_THEY_ARE["openvino"], "FixedSoundInOpenVino": forms.FixedSoundInOpenVino},
    },
    "pictures": {
        "onnxruntime": {
            **AS_THEY_ARE["onnxruntime"],
            **{each.__name__: each for each in (forms.NoMasks, forms.NoScales, forms.FixedPicture)},
        },
        "openvino": {**AS_THEY_ARE["openvino"], "FixedPictureInOpenVino": forms.FixedPictureInOpenVino},
    },
    "bbc": {
        "onnxruntime": {NOW: forms.Now, BEFORE: forms.Before, "Fixed": forms.Fixed},
        "openvino": {NOW: forms.NowInOpenVino, BEFORE: forms.BeforeInOpenVino, "FixedInOpenVino": forms.FixedInOpenVino},
    },
}
TEXTS: dict[str, tuple[type[Target], type[Target]]] = {
    "onnxruntime": (forms.Before, forms.Now),
    "openvino": (forms.BeforeInOpenVino, forms.NowInOpenVino),
}
