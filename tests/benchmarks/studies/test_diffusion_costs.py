"""What a step of a method costs: it is held against passes that are really made, and the page tells the slowest."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as PictureColumn
from PIL import Image

from benchmarks.studies import diffusion_costs
from benchmarks.studies.diffusion_cells import Absent, Book
from benchmarks.studies.diffusion_plans import ASKED, METHODS, SIZE
from benchmarks.studies.qat_costs import STEPS
from compressor.model import Model
from compressor.model.dit import DiT
from compressor.tasks.generation.description import FILE, Description
from compressor.tasks.generation.samplers import Sampling


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A file of tests with enough rows to train on."""
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    rows = []
    for number in range(diffusion_costs.ROWS + 700):
        file = io.BytesIO()
        Image.fromarray(draw.integers(0, 255, (SIZE, SIZE), dtype=np.uint8)).save(file, "png")
        rows.append({"image": {"bytes": file.getvalue(), "path": None}, "label": number % 10})
    Dataset.from_list(rows).cast_column("image", PictureColumn()).to_parquet(folder / "test.parquet")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_steps_and_passes_of_a_method_are_measured(method, pictures, tmp_path):
    torch.manual_seed(0)
    model = Model.wrap(DiT(SIZE, 1, 10, patch=14, width=16, blocks=2, heads=2))
    model.files[FILE] = Description(
        shape=(1, SIZE, SIZE), classes=10, empty=10, sampling=Sampling(steps=4, guidance=1.5)
    ).written()
    model.save(tmp_path / "teacher")
    found = diffusion_costs.measured(method, pictures, tmp_path / "teacher")
    assert len(found["seconds"]) == STEPS
    assert min(found["seconds"]) > 0
    assert found["learned"] > found["told"] > 0


def test_what_a_step_must_do_is_counted_as_trainings_are():
    """A pass back as two forward: the floor is what the method asks of the network."""
    for method in METHODS:
        asked = 7 if method == "progressive" else ASKED[method]  # its first training, which is the one that is measured
        assert diffusion_costs.floor(method, {"learned": 3.0, "told": 1.0}) == pytest.approx(asked)


def test_the_slowest_method_decides(tmp_path):
    book = Book(tmp_path, tmp_path, run=False)
    with pytest.raises(Absent):
        diffusion_costs.cells(book)
    turn = {"learned": 3.0, "told": 1.0, "peak": 5e8}
    found = {"shortcut": [{**turn, "seconds": [each]} for each in (5.0, 5.1, 5.2)], "boot": [{**turn, "seconds": [6.9]}]}
    lines = list(diffusion_costs.section(found))
    assert "| shortcut | 3 | 5.10 [5.00, 5.20] | 5.00 [5.00, 5.00] | 1.02 [1.00, 1.04] | 500 |" in lines
    assert lines[-1] == "Expected: at most 1.10 times; the slowest of these takes 1.15, others were not measured."
    every = {method: [{**turn, "seconds": [1.02 * diffusion_costs.floor(method, turn)]}] for method in METHODS}
    assert list(diffusion_costs.section(every))[-1] == "Expected: at most 1.10 times; the slowest takes 1.02: reached."
    slow = {**every, "boot": found["boot"]}
    assert list(diffusion_costs.section(slow))[-1] == "Expected: at most 1.10 times; the slowest takes 1.15: **not reached**."
