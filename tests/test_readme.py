"""What README.md shows is so: its plan is taken, its message is the one that is said, its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from compressor.contracts import InputSizes
from compressor.errors import PlanError
from compressor.plan.bound import load_plan
from compressor.run.preview import ModelPreview, Preview, StepPreview, TargetPreview

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(re.search(r"```yaml\n(.*?)```", README, flags=re.DOTALL)[1])
    return path


def test_plan_is_taken(plan):
    assert [step.name for step in load_plan(plan).passes] == ["finetune", "prune-structure", "distill", "quantize-static"]


def test_message_is_what_a_typo_gives(plan):
    plan.write_text(plan.read_text().replace("teacher: finetune, epochs: 4", "teacher: finetune, epoch: 4"))
    with pytest.raises(PlanError) as said:
        load_plan(plan)
    assert f"`{said.value}`".replace(str(plan), "plan.yaml") in README


def test_plan_that_distils_and_prunes_is_shown_as_it_is_shipped():
    (part,) = [block for block in re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL) if "distill-and-prune:" in block]
    assert part in (ROOT / "plans" / "joint-speech.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [path.name for path in (ROOT / "plans").glob("*.yaml")])
def test_plan_that_is_shipped_is_taken(tmp_path, name):
    for folder in ("whisper-tiny.en", "clips/train", "clips/test", "dit", "fashion-mnist"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("train", "test"):
        (tmp_path / "fashion-mnist" / f"{file}.parquet").touch()
    path = tmp_path / name
    path.write_text((ROOT / "plans" / name).read_text(encoding="utf-8"))
    assert load_plan(path).passes[-1].name == ("finetune" if name.startswith("diffusion") else "quantize-static")


@pytest.mark.parametrize(
    "page",
    [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/plugins/README.md")]
    + sorted((ROOT / "docs").rglob("*.md")),
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_relative_links_lead_to_a_file_and_a_heading_that_are_there(page):
    links = re.findall(r"\]\(([^)\s#:]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8"))
    places = [(page.parent / link if link else page, heading) for link, heading in links if link or heading]
    assert [str(path) for path, _ in places if not path.exists()] == []
    assert [f"{path}#{heading}" for path, heading in places if heading and heading not in headings(path)] == []


def test_modules_that_pages_run_are_there():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"python -m ([a-z_]\w*(?:\.\w+)*)", page.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert [name for name in sorted(named) if importlib.util.find_spec(name) is None] == []


def headings(page):
    """Those of a page as GitHub names them in links."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in found}


@pytest.mark.parametrize("record", [Preview, InputSizes, StepPreview, TargetPreview, ModelPreview])
def test_page_of_plans_names_every_field_of_what_check_says(record):
    page = (ROOT / "docs" / "plans.md").read_text(encoding="utf-8")
    assert [name for name in record.model_fields if f"`{name}`" not in page] == []
