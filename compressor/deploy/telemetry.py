"""Keeps libraries quiet: none reports use, and none draws over what the command line shows."""

from __future__ import annotations

import logging
import os
import sys

SWITCHES = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # `datasets` counts even the reading of a local file, at a server of its own
    "OPENVINO_TELEMETRY_OPT_OUT": "1",
    "USE_HUB_KERNELS": "NO",  # where `kernels` is installed, transformers fetches code for some of its layers
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime reports each session from release 1.29 on, from machine code
}
"""Environment variables that keep libraries from reporting use, and from fetching code."""


def quiet() -> None:
    """Keep libraries from drawing over the progress bars and from telling anybody anything; to be called before any is imported."""
    for name, value in {**SWITCHES, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}.items():
        os.environ.setdefault(name, value)
    for name in ("torch.onnx", "nncf", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)


def silence() -> None:
    """Keep OpenVINO and NNCF from reporting use; to be called before either is imported.

    Both fall back to a silent stand-in when `openvino_telemetry` cannot be imported, which this makes it look like.
    """
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # the import system's own mark for "not there"
