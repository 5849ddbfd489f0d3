"""A third party's plug-ins on the search path, found by their entry points."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "toys"))
