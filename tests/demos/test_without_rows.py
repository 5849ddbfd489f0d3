"""The page of a run whose plan has no rows: pictures are drawn side by side, and no row can differ."""

from __future__ import annotations

from demo_pages import serving, visiting

from compressor.plan.bound import load_plan
from compressor.run.pipeline import run_plan
from compressor.store.store import Store
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.judging import JUDGE, ROWS
from compressor.testing.tiny import run_of

PLAN = """name: blind
model: {folder: pretrained}
task: {image-generation: {steps: 2}}
passes:
  - distill-steps: {teacher: source, method: boot, to: [1], steps: 1, batch_size: 4, precision: fp32, attention: sdpa, levels: 2}
targets:
  - onnxruntime
"""


def test_page_of_a_run_without_rows_draws_and_says_why_nothing_differs(browser, tmp_path):
    model = run_of("image-generation", ImageGeneration(steps=2)).model()
    for name in (JUDGE, ROWS):
        model.files.pop(name)
    model.save(tmp_path / "pretrained")
    (tmp_path / "plan.yaml").write_text(PLAN, encoding="utf-8")
    bound = load_plan(tmp_path / "plan.yaml")
    run_plan(bound, store=Store(tmp_path / "store"), folder=tmp_path / "run", command="", tell=lambda _: None)
    with serving(tmp_path / "run", log=tmp_path / "asked.txt") as served, visiting(browser, served.address) as page:
        page.locator("#compare").click()
        page.wait_for_selector("#answer-Compressed img.drawn", timeout=60_000)
        page.get_by_role("tab", name="Where they differ").click()
        page.wait_for_selector("text=the plan of the run has no rows")
