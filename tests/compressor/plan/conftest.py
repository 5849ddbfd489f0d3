"""A sound plan, and what is said once texts in it are replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_plan import SOUND

from compressor.errors import PlanError
from compressor.plan.bound import load_plan


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(folder):
    def load(text, *settings):
        (folder / "plan.yaml").write_text(text)
        return load_plan(Path("plan.yaml"), settings=settings)

    return load


@pytest.fixture
def faults(load):
    """Faults of the sound plan after replacing texts, as lines."""

    def faults(*replacements, settings=()):
        text = SOUND
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new, 1)
        with pytest.raises(PlanError) as caught:
            load(text, *settings)
        return str(caught.value).splitlines()

    return faults
