"""The study of a second field, tiny: its plan is one that runs, its page says what is there."""

from __future__ import annotations

from itertools import combinations

import pytest

from benchmarks.studies import diffusion_field
from benchmarks.studies.diffusion_field import CELLS, Size, Study, document, plan
from compressor.plan.bound import load_plan
from compressor.tasks.tiny import recordings


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Three classes of tones, in rows of 16 by 16."""
    recordings(tmp_path)
    for name, value in (("CLASSES", 3), ("EDGE", 16), ("WIDTH", 16), ("BLOCKS", 1), ("TEST", 16)):
        monkeypatch.setattr(diffusion_field, name, value)
    sound = {"rate": 2000, "window": 128, "hop": 64, "low": -60, "high": 0}
    monkeypatch.setattr(diffusion_field, "TASK", {**diffusion_field.TASK, "steps": 4, "sound": sound})
    monkeypatch.setattr(
        diffusion_field,
        "data",
        lambda rows: {"files": str(rows), "format": "audiofolder", "split": {"validation": 12, "test": 16}},
    )
    return tmp_path


def test_study_is_one_plan(small):
    import yaml

    path = small / "plan.yaml"
    (small / "dit").mkdir()
    path.write_text(yaml.safe_dump(plan(small / "sounds", small / "dit", Size())))
    bound = load_plan(path)
    assert [step.name for step in bound.passes] == ["finetune", "distill-steps"]
    assert bound.reference == "finetune"
    assert len({(cell.name, cell.sampler, cell.steps) for cell in CELLS}) == len(CELLS)


def test_page_is_of_what_was_run(small):
    study = Study(small / "sounds", small / "work", Size(epochs=1, steps=2))
    study.run()
    page = document(study, small / "page.md")
    assert "| teacher, dpm++2m | 16 | 32 |" in page
    assert "| student, ddim | 4 | 4 |" in page
    assert "--epochs 1 --steps 2" in page
    assert (small / "page.png").is_file()
    assert "| step | distance |" in page
    found = [study.drawn(cell).rows for cell in CELLS]
    assert {each.shape for each in found} == {(16, 1, 16, 16)}
    assert abs(found[0] - found[-1]).max() > 1e-3
    assert all((one != other).any() for one, other in combinations(found, 2)), "each cell has its own sampler and steps"
