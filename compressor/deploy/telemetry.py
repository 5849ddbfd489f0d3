"""Keeps libraries quiet: none reports use, and none draws over what the command line shows."""

from __future__ import annotations

import importlib
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


def keep_to_here() -> None:
    """Keep libraries from reporting use and from fetching code, whatever the environment said; to be called before any is imported."""
    os.environ.update(SWITCHES)


def quiet() -> None:
    """The same, and keep them from drawing over the progress bars, unless the environment says that they may."""
    keep_to_here()
    for name, value in (("HF_HUB_DISABLE_PROGRESS_BARS", "1"), ("TRANSFORMERS_VERBOSITY", "error")):
        os.environ.setdefault(name, value)
    for name in ("torch.onnx", "nncf", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)


def silence() -> None:
    """Keep OpenVINO and NNCF from reporting use.

    Both fall back to a silent stand-in when `openvino_telemetry` cannot be imported, which this makes it look like. Where somebody
    has imported it before, as a notebook does with `openvino`, it is told that its user has declined: it then sends and writes nothing.
    """
    if loaded := sys.modules.setdefault("openvino_telemetry", None):  # type: ignore[arg-type] # the import system's mark for "not there"
        checks, senders = (importlib.import_module(f"{loaded.__name__}.utils.{name}") for name in ("opt_in_checker", "sender"))
        checks.OptInChecker.check = lambda *_, **__: checks.ConsentCheckResult.DECLINED
        senders.TelemetrySender.send = lambda *_, **__: None  # who reports already has asked before
