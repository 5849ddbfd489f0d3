"""A language model in few bits: cells are kept, the distance from a grid is measured, and the page claims no more than was run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.studies import lm_bits, lm_grid
from benchmarks.studies.lm_bits_cells import METHODS, REFERENCE, SEEDS, Absent, Book, Cell, cell_of, plan
from benchmarks.studies.lm_bits_files import DOCUMENTS, EIGHT, Files, faster
from benchmarks.studies.lm_bits_page import Asked, Page, bits, candidates, command, goal, lacking, table
from benchmarks.studies.lm_runtimes import LENGTH, ROUNDS, STEPS, excerpts
from compressor.contracts import Evaluation, Workload
from compressor.contracts.records import Interval, LatencyRecord
from compressor.plan.bound import load_plan
from compressor.plan.yaml_source import write_yaml
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.tiny import language_model

APART = lm_grid.Apart(210, 0, 106_168_320, 0.038, 1.4e-5, 0.038)


# ------------------------------------------------------------------ the grid of the source


def runs(seed: int, rows: int = 8, width: int = 64) -> torch.Tensor:
    """A matrix on a grid of 16 values for each 32 weights, whose ends are both there, with scales in float16."""
    draw = torch.Generator().manual_seed(seed)
    whole = torch.randint(0, 16, (rows * width // 32, 32), generator=draw)
    whole[:, 0], whole[:, 1] = 0, 15
    step = torch.rand(len(whole), 1, generator=draw).add(0.1).half().float()
    least = -8 * step + torch.randn(len(whole), 1, generator=draw).half().float()
    return (whole * step + least).reshape(rows, width)


def folder(path: Path, **tensors: torch.Tensor) -> Path:
    path.mkdir()
    save_file(tensors, path / lm_grid.FILE)
    return path


def test_distance_from_the_grid_is_what_was_planted(tmp_path):
    before = runs(0)
    least, step = lm_grid.on_grid(before)
    moved = before + (0.25 * step.float()).expand(-1, 32).reshape(before.shape)
    moved[0, 2] += step[0, 0].float()  # to where another value is nearest, which of the greatest there is none
    place = lm_grid._runs(before)[0, 2].sub(least[0, 0]).div(step[0, 0]).round()
    name = "model.layers.0.q.weight"
    source = folder(tmp_path / "source", **{name: before, "model.embed_tokens.weight": before.clone()})
    found = lm_grid.Apart.read(
        lm_grid.apart(source, folder(tmp_path / "tuned", **{name: moved, "model.embed_tokens.weight": before}))
    )
    assert (found.matrices, found.others, found.weights) == (1, 0, before.numel())
    assert found.moved == pytest.approx(((0.0625 * (before.numel() - 1) + 1.5625) / before.numel()) ** 0.5, rel=1e-3)
    assert found.elsewhere == pytest.approx((place < 15) / before.numel())
    assert found.off >= 0.25 - 1e-3


def test_weights_that_lie_on_no_grid_are_said_to(tmp_path):
    drawn = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    source = folder(tmp_path / "source", **{"model.layers.0.q.weight": drawn})
    found = lm_grid.Apart.read(lm_grid.apart(source, source))
    assert (found.matrices, found.others) == (0, 1)
    assert "cannot be said" in " ".join(lm_grid.told(found))


# ------------------------------------------------------------------ cells


@pytest.fixture
def texts(tmp_path):
    made = tmp_path / "texts"
    made.mkdir()
    for split, count in (("train", 6), ("validation", 6), ("test", 30)):
        rows = (
            {"text": f"{corpus} {split} {number} " * 30, "corpus": corpus}
            for corpus in ("brown", "bbc")
            for number in range(count)
        )
        (made / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return made


@pytest.fixture
def book(tmp_path, texts):
    language_model(tmp_path / "model")
    return Book(tmp_path / "work", tmp_path / "model", texts, excerpts(texts, tmp_path / "excerpts", documents=2), run=False)


@pytest.mark.parametrize("method", [name for name, how in METHODS.items() if not how.beside])
def test_every_cell_is_a_plan_that_the_project_takes(book, tmp_path, method):
    made = plan(Cell(method, 0, 4), book.model, book.texts, book.excerpts)
    (tmp_path / "plan.yaml").write_text(write_yaml(made), encoding="utf-8")
    bound = load_plan(tmp_path / "plan.yaml")
    assert [each.name for each in bound.targets] == [METHODS[method].target]


def test_names_of_cells_come_back_and_those_without_a_seed_have_none():
    assert Cell("ort-w4", 2).name == "ort-w4"
    cell = Cell("ort-w4-qad", 2, 60)
    assert cell_of(cell.name) == cell
    assert cell.timed_as == Cell("ort-w4-qad", 0, 60).name
    assert [bits(name) for name in (cell.name, "ort-w4-gptq-128", REFERENCE, EIGHT)] == [4, 4, 32, 8]
    assert all(METHODS[how.beside].target == how.target for how in METHODS.values() if how.beside)


def test_cells_that_are_not_there_are_left_out_of_a_page(book):
    cells = lm_bits.cells(Asked(seeds=(0, 1), steps=4))
    assert len(cells) == len({each.name for each in cells}) == len(METHODS) + 1
    assert list(book.made(cells)) == []
    with pytest.raises(Absent):
        book.one(cells[0])


def test_texts_that_are_scored_are_told_apart_by_their_corpus(book):
    files = Files(book, (), 1)
    assert len(files.rows()) == 2 * DOCUMENTS
    assert all(text.startswith(corpus) for text, corpus in files._texts)


# ------------------------------------------------------------------ the page


def evaluation(cost: float) -> Evaluation:
    """Of twelve documents, of 50 tokens each that cost about so many nats."""
    rows = np.linspace(-0.2, 0.2, 12)
    outputs = {"nats": cost + rows, "tokens": np.full(12, 50.0), "right": np.full(12, 20.0), "bytes": np.full(12, 200.0)}
    words = {"words": np.zeros((12, 2, 3), np.int32), "logs": np.full((12, 2, 3), -1.0, np.float32)}
    return CausalLM().score({**outputs, **words}, {}, split="test")


@dataclass(frozen=True)
class Kept:
    """A file as a page reads it."""

    name: str
    task: CausalLM = field(default_factory=CausalLM)

    @property
    def parts(self) -> dict[str, int]:
        return {"weights": 3 * 2**20}


KINDS = (Workload(kind="prefill", length=LENGTH), Workload(kind="decode", length=LENGTH, steps=STEPS))


def record(ms: dict[str, float], noise: float = 0.0) -> LatencyRecord:
    """Times of prompts and of decoding of files, the same in every round but for what the machine did to all of them."""
    rows = [
        {
            "candidate": f"final@{name}",
            "workload": kind,
            "n": ROUNDS,
            "median_ms": each,
            "interval": Interval(low=0.98 * each, high=1.02 * each, method="bootstrap"),
            "throughput_per_s": 1.0,
            "unit": "tokens",
            "load_s": 1.0,
            "first_call_ms": 1.0,
            "warm_up_calls": 1,
            "rounds_ms": tuple(each * (1 + 0.1 * at) for at in range(ROUNDS)),
            "samples_ms": ((each,),) * ROUNDS,
        }
        for name, each in ms.items()
        for kind in KINDS
    ]
    same = {
        "ratio": 1.0,
        "interval": Interval(low=0.99, high=1.01, method="bootstrap"),
        "limit": 0.15,
        "passed": True,
        "attempts": 1,
    }
    controls = [{"workload": kind, **same, "noise": noise} for kind in KINDS]
    given = {"rows": rows, "ratios": (), "controls": controls, "load_before": 0.1, "load_after": 0.1}
    return LatencyRecord.model_validate({"probe": "latency", **given, "protocol": {"parameters": {"rounds": ROUNDS}}})


NATS = {"genai-int4": 3.5, EIGHT: 3.0, REFERENCE: 3.0, "ort-w8": 3.005, "ort-w4": 3.15, "ort-w4-qad-60-0": 3.01}
MS = {"genai-int4": 10.0, EIGHT: 20.0, REFERENCE: 60.0, "ort-w8": 15.0, "ort-w4": 7.0, "ort-w4-qad-60-0": 7.5}


def page(ms: dict[str, float] | None, nats: dict[str, float] = NATS) -> Page:
    whole = {name: evaluation(cost) for name, cost in nats.items()}
    scores = {name: dict.fromkeys(("", "brown", "bbc"), each) for name, each in whole.items()}
    timed = ms and {
        "latency": record(ms).model_dump(mode="json"),
        "bandwidth": {"before": [2e10], "after": [2e10]},
        "operators": {"ort-w4": {"MatMulNBits": 0.005}},
    }
    return Page(Asked(), APART, (), tuple(Kept(name) for name in nats), scores, timed)


def test_a_ratio_is_that_of_the_same_rounds_and_no_narrower_than_what_processes_differ_by():
    steady = faster(record(MS), "ort-w4", "genai-int4")
    assert steady.value == pytest.approx(10 / 7)
    assert steady.interval.low < 10 / 7 < steady.interval.high
    noisy = faster(record(MS, noise=0.2), "ort-w4", "genai-int4")
    assert noisy.interval.low < steady.interval.low / 1.1


def test_the_goal_needs_speed_and_quality_of_one_file():
    reached = candidates(page(MS))[0]
    assert reached.name == "ort-w4-qad-60-0"
    assert reached.reaches
    assert reached.least == pytest.approx(10 / 7.5)
    assert "Reached; " in " ".join(goal(page(MS)))
    slow = page({**MS, "ort-w4-qad-60-0": 9.0})
    assert "**Not reached**" in " ".join(goal(slow))
    assert candidates(slow)[0].name == "ort-w4-qad-60-0", "the quick one loses too much"
    assert "The quickest of ours. ONNX Runtime, W4 rounded" in " ".join(goal(slow))
    lossy = page(MS, {**NATS, "ort-w4-qad-60-0": 3.1})
    assert "**Not reached**" in " ".join(goal(lossy))


def test_the_goal_is_held_against_the_fastest_of_four_bits_and_against_eight():
    found = candidates(page({**MS, "nncf-int4": 5.0}, {**NATS, "nncf-int4": 3.4}))[0]
    assert set(found.rivals) == {"nncf-int4", EIGHT}
    assert not found.reaches


def test_without_times_of_the_peers_nothing_is_judged():
    for ms in (None, {name: each for name, each in MS.items() if name != EIGHT}):
        assert "**Not judged**" in " ".join(goal(page(ms)))


def test_what_was_not_run_is_said_first():
    said = " ".join(lacking(page(None)))
    assert said.startswith("**Not all of it was run: ")
    for lack in (
        "no score of ONNX Runtime, W4 AWQ",
        "no score of llama.cpp, its own, Q4_K_M",
        "1 of 3 seeds",
        "no times were taken",
    ):
        assert lack in said
    without = {name: each for name, each in MS.items() if name != "ort-w8"}
    assert "ONNX Runtime, W8, groups of 128 was not timed" in " ".join(lacking(page(without)))


def test_a_row_says_what_a_file_loses_and_how_fast_it_is():
    rows = {line.split(" | ")[1]: line for line in table(page(MS, {**NATS, "ort-w4-gptq": 3.1}))}
    assert f"{1e3 * STEPS / 7:.1f} [" in rows["W4 GPTQ, groups of 64"]
    assert rows["W4 GPTQ, groups of 64"].endswith("* |"), "timed as another one"
    assert "+16.18 [+16.18, +16.18]" in rows["W4 rounded, groups of 64"]
    assert f"{1e3 * STEPS / 7:.1f} [" in rows["W4 rounded, groups of 64"]
    assert "ONNX Runtime GenAI (peer)" in rows["4 bits, groups of 32"]
    assert rows["fp32"].count("|  |") == 1, "the model in float is what the change is of"


def test_the_command_says_what_is_not_the_usual():
    assert command(Asked()).endswith("--tuned FOLDER --threads 2")
    assert " --steps 9 --seeds 1 " in command(Asked(seeds=(0,), steps=9))
    assert [each.seed for each in lm_bits.cells(Asked(seeds=SEEDS)) if each.how.trains] == list(SEEDS)
