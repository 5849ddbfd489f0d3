"""Keeps libraries quiet: none reports use, and none draws over what the command line shows."""

from __future__ import annotations

import logging
import os
import sys


def quiet() -> None:
    """Keep libraries from drawing over the progress bars and from telling anybody anything; to be called before any is imported."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_PROGRESS_BARS", "OPENVINO_TELEMETRY_OPT_OUT"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for name in ("torch.onnx", "nncf", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)


def silence() -> None:
    """Keep OpenVINO and NNCF from reporting use; to be called before either is imported.

    Both fall back to a silent stand-in when `openvino_telemetry` cannot be imported, which this makes it look like.
    """
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # the import system's own mark for "not there"
