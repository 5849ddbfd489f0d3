"""Nothing reports use, whoever imported OpenVINO first."""

from __future__ import annotations

import importlib
import sys

from compressor.deploy.telemetry import silence


def test_openvino_that_was_imported_before_reports_nothing_and_writes_nothing(monkeypatch, tmp_path):
    for name in [each for each in sys.modules if each.partition(".")[0] == "openvino_telemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = importlib.import_module("openvino_telemetry")
    silence()
    about = {"tid": "none", "app_name": "test", "app_version": "1", "backend": "ga4"}
    opened = found.Telemetry(**about, enable_opt_in_dialog=False)
    assert not opened.consent
    assert list(tmp_path.iterdir()) == []
    opened.send_event("test", "test", "test", force_send=True)  # as one that had asked before we were there
    assert (opened.sender.queue_size, list(opened.sender.executor._threads)) == (0, [])
    assert list(tmp_path.iterdir()) == []
