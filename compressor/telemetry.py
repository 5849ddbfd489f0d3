"""Keeps OpenVINO and NNCF from reporting use: both fall back to a silent stand-in when their telemetry package cannot be imported."""

from __future__ import annotations

import sys


def silence() -> None:
    """Make `openvino_telemetry` look absent to whatever is imported afterwards; to be called before openvino or nncf."""
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # the import system's own mark for "not there"
