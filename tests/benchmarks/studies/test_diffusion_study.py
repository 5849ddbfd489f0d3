"""The study of fewer steps: cells are drawn from equal noise and kept, and the page claims no more than was run."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset

from benchmarks.studies import diffusion_adaptive, diffusion_int8, diffusion_times
from benchmarks.studies.diffusion_beyond import (
    aligned,
    by_dino,
    fewer_blocks,
    guidance,
    looked_at,
    over_seeds,
    where_needed,
    without_data,
)
from benchmarks.studies.diffusion_cells import Absent, Book, opened, rows_of
from benchmarks.studies.diffusion_goals import goals, spread
from benchmarks.studies.diffusion_page import in_int8, lacking, table
from benchmarks.studies.diffusion_plans import (
    AGAIN,
    METHODS,
    THEN,
    UNALIGNED,
    Size,
    guided,
    layered,
    students,
    teachers,
    timed_student,
)
from benchmarks.studies.diffusion_scores import Plan, Study, fewest
from compressor.model import Model
from compressor.model.dit import DiT
from compressor.tasks.generated.classifier import Rows, learned
from compressor.tasks.generation.description import FILE, Description, described
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.generation.judging import JUDGE
from compressor.tasks.generation.samplers import Sampling
from compressor.tasks.inputs.sampling import adapted
from compressor.tasks.inputs.sampling import drawn as drawn_by
from compressor.tasks.reading import column_of
from compressor.testing.tiny import run_of

DRAWN, REAL, WIDTH = 600, 1200, 128


def test_pictures_are_those_of_the_task_by_any_sampler(tmp_path):
    """In the model's own steps what a run scores; in others, others, of the same noise."""
    run = run_of("image-generation", ImageGeneration(steps=3, guidance=2.0))
    folder, rows = run.source.path, run.data.split("test")
    how = described(folder)
    wanted = run.context(tmp_path).evaluate(run.model(), "test").outputs["pictures"]

    def drawn(how, numbers=None):
        return rows_of(how, opened(folder, how), how.known(column_of(rows, "label")), numbers)

    np.testing.assert_allclose(drawn(how), wanted, atol=1e-5)
    np.testing.assert_allclose(drawn(how, range(2, 5)), wanted[2:5], atol=1e-5)
    other = drawn(how.model_copy(update={"sampling": Sampling(sampler="ddim", steps=1)}))
    assert other.shape == wanted.shape
    assert np.abs(other - wanted).max() > 1e-3


@pytest.fixture(scope="module")
def judge():
    draw, labels = np.random.default_rng(0), np.arange(200) % 10
    return learned(
        Rows(draw.integers(0, 255, (200, 1, 8, 8), dtype=np.uint8), labels),
        Rows(np.zeros((1, 1, 8, 8), np.uint8), labels[:1]),
        classes=10,
    )


@pytest.fixture
def study(tmp_path, judge):
    """Cells whose pictures are as far from real ones as the test says: the teacher's are as real, in few steps they are not."""
    book = Book(tmp_path, tmp_path, Size(drawn=DRAWN, many=DRAWN), run=False)
    labels = (np.arange(2 * REAL) % 10).astype(np.int64)
    book.__dict__["rows"] = Dataset.from_dict({"label": labels.tolist()})
    files = book.model("teacher-0")
    files.mkdir(parents=True)
    (files / JUDGE).write_bytes(judge.written())
    draw = np.random.default_rng(1)
    noise = draw.standard_normal((DRAWN, WIDTH)).astype(np.float32)
    (tmp_path / "drawn").mkdir()

    def kept(name, features, told):
        np.savez(
            tmp_path / "drawn" / f"{name}-{DRAWN}.npz", features=features, told=told, first=np.zeros((DRAWN, 1, 2, 2), np.float32)
        )

    real = draw.standard_normal((DRAWN + REAL, WIDTH)).astype(np.float32)
    kept("real", real, np.concatenate([labels[:DRAWN], labels[REAL:]]))
    for cell in teachers():
        kept(cell.name, noise + (0 if cell.evaluations >= 30 else 0.5), labels[:DRAWN])
    for method, off in (("shortcut", 0.0), ("progressive", 1.0)):
        for cell in students(method, 0):
            kept(cell.name, noise + off, labels[:DRAWN] if cell.sampling.steps > 1 else (labels[:DRAWN] + 1) % 10)
    return Study(book, Plan(3, 1, tuple(METHODS)))


def test_the_page_tells_what_is_as_good_and_what_is_not(study):
    found = study.there()
    assert len(found) == 15 + 8
    assert fewest(study, found).evaluations == 30
    lines = list(table(study, found))
    assert len(lines) == 2 + 1 + len(found)
    told = {tuple(line.split(" | ")[:2]): line for line in lines}
    assert all(f"| {DRAWN} |" in line for line in lines[2:])
    assert "**+" in told["| progressive, seed 0", "4"]
    assert "**" not in told["| shortcut, seed 0", "4"]
    said = "\n".join(goals(study, found))
    assert (
        "a point of accuracy below: shortcut in 8 (1 of 1), shortcut in 4 (1 of 1), shortcut in 2 (1 of 1)." in said
    )  # in 1 its classes are wrong
    assert "not decided" in said
    assert "- 2: shortcut, farther than the teacher in 50 steps by +0 [+0, +0], +0.0 points of accuracy, 50 times fewer" in said
    assert "and 15.0 times fewer than heun in 8; progressive is farther by **+" in said


def test_the_page_says_what_was_not_run(study):
    (line,) = lacking(study, study.there())
    assert "shortcut: 2 of 3 seeds; consistency: 3 of 3 seeds" in line
    assert "2 of 3 teachers, so their spread over seeds is not known" in line
    with pytest.raises(Absent):
        study.book.found(next(students("meanflow", 0)))
    for path in (study.book.folder / "drawn").glob("teacher-0-heun-*.npz"):
        path.unlink()
    assert "the teacher by heun 25, heun 13, heun 8, heun 4, heun 2" in next(lacking(study, study.there()))


MANY = 900


def test_more_pictures_are_drawn_beside_those_that_are_there(study):
    """Where they are, distances are of all of them, differences of those that both have; sections of fewer look at the first."""
    book = Book(study.book.folder, study.book.pictures, Size(drawn=DRAWN, many=MANY), run=False)
    book.__dict__["rows"] = study.book.rows
    plan, teacher = study.plan, next(teachers())
    few, wide = Study(book, plan), Study(book, plan, many=True)
    assert not wide.wide
    assert len(wide.of(teacher).told) == DRAWN
    drawn, rows = [], np.random.default_rng(2).standard_normal((MANY, WIDTH)).astype(np.float32)
    book.run = True
    book._drawn = lambda cell, numbers: drawn.append((cell, numbers)) or rows[numbers]
    book.seen = lambda shown: {"features": shown, "told": np.zeros(len(shown), np.int64), "first": shown}
    book.left = lambda: ""
    real = few.book.real()
    held, labels = real.features.rows[DRAWN:], np.asarray(book.known)
    told = np.concatenate([labels[:MANY], labels[REAL:]])
    np.savez(book.place("real", MANY), features=np.concatenate([rows, held]), told=told, first=real.first)
    wide = Study(book, plan, many=True)
    others = [cell for cell in plan.wide() if cell.kind == "teacher"]
    assert [len(wide.of(cell).told) for cell in others] == [MANY] * 3
    assert drawn == [(cell, range(DRAWN, MANY)) for cell in others]
    np.testing.assert_array_equal(wide.of(teacher).features.rows[:DRAWN], few.of(teacher).features.rows)
    np.testing.assert_array_equal(wide.of(teacher).features.rows[DRAWN:], rows[DRAWN:])
    assert len(few.of(teacher).told) == DRAWN
    book.run = False
    wide = Study(book, plan, many=True)
    assert {cell.kind for cell in wide.wide} == {"teacher"}
    assert (wide.distance(teacher).n, few.distance(teacher).n) == (MANY, DRAWN)
    assert wide.few.distance(teacher) == few.distance(teacher)
    student = next(students("shortcut", 0))
    assert wide.farther(student, teacher) == few.farther(student, teacher)
    short = next(lacking(wide, wide.there()))
    assert f"{MANY} pictures of shortcut, progressive" in short or f"{MANY} pictures of progressive, shortcut" in short
    book.place(others[1].name, MANY).unlink()
    assert not Study(book, plan, many=True).wide, "all of a kind or none"


def put(book, cell, off, *, depths=()):
    """A cell whose pictures lie so far from the teacher's."""
    rows = book.found(next(teachers())).features.rows + np.float32(off)
    first = np.zeros((DRAWN, 1, 2, 2), np.float32)
    np.savez(book.place(cell.name), features=rows, told=book.labels, first=first)
    folder = book.model(cell.run, cell.model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_bytes(Description(shape=(1, 8, 8), classes=10, empty=10, depths=depths).written())


def test_the_page_tells_who_is_inside_the_spread_of_three_teachers(study):
    for seed, off in ((1, 0.01), (2, 0.02)):
        put(study.book, next(teachers(seed)), off)
    several = Study(study.book, Plan(3, 3, tuple(METHODS)))
    found = several.there()
    (line,) = spread(several, found)
    assert line.startswith("Teachers of 3 seeds")
    said = next(goals(several, found))
    assert "not decided" not in said
    assert (
        "at most a point of accuracy below the first teacher: shortcut in 8 (1 of 1), shortcut in 4 (1 of 1), shortcut in 2 (1 of 1); in int8 it"
        in said  # in 1 its classes are wrong
    )
    assert "teachers, so their spread" not in next(lacking(several, found))


def test_sections_say_not_run_of_what_is_not_there(study):
    found = study.there()
    for section in (without_data(study, found), fewer_blocks(study, found), guidance(study, found), by_dino(study, found)):
        assert next(section).startswith("Not run")
    assert list(over_seeds(study, found)) == []


def test_estimates_are_kept_by_their_rows(study):
    """Another look computes nothing; a cell that was made anew has another one."""
    cell = next(teachers())
    first, kept = study.distance(cell), study.book.folder / "estimates"
    made = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert Study(study.book, study.plan).distance(cell) == first
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == made
    put(study.book, cell, 1.0)
    assert study.distance(cell).value > first.value + 1


def test_what_reads_no_rows_is_held_against_what_does(study):
    put(study.book, next(students("boot", 0)), 0.5)
    lines = list(without_data(study, study.there()))
    told = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    assert {"shortcut", "progressive"} <= set(told)
    assert "meanflow" not in told
    assert "**+" in told["shortcut"]  # lies 0.5 nearer
    assert "**-" in told["progressive"]


def test_fewer_blocks_are_counted_and_held_against_their_control(study):
    scheduled, control, whole = (
        *(next(students(f"shortcut{THEN}{each}", 0)) for each in ("presto", "constant")),
        list(students("shortcut", 0))[1],
    )
    for cell, off, depths in ((scheduled, 0.2, (6, 6, 4, 3)), (control, 0.6, ()), (whole, 0.0, ())):
        put(study.book, cell, off, depths=depths)
    first, schedule, constant = [line for line in fewer_blocks(study, study.there()) if line.startswith("| shortcut")]
    assert [line.split(" | ")[1] for line in (first, schedule, constant)] == ["24", "16", "16"]
    assert schedule.split(" | ")[3].startswith("**+")
    assert schedule.split(" | ")[4].startswith("**-")
    assert constant.split(" | ")[4] == ""


def test_fewer_blocks_are_averaged_over_seeds(study):
    """Each against the one of its own seed."""
    for seed in range(3):
        found = dict(zip(AGAIN, layered(seed) if seed else (next(students(each, 0)) for each in AGAIN), strict=True))
        for cell, off in zip((*found.values(), list(students("shortcut", seed))[1]), (0.2, 0.6, 0.0), strict=True):
            put(study.book, cell, off + 0.01 * seed)
    told = [line for line in fewer_blocks(study, study.there()) if line.startswith("- ")]
    assert [line.split(":")[0] for line in told] == [f"- {each.replace(THEN, ', then ')}" for each in AGAIN]
    assert "than with all blocks by **+" in told[0]
    assert "than its control by **-" in told[0]
    assert "its control" not in told[1]
    assert "(3 trainings), than its control" in told[0]


def test_noise_of_dmd_is_compared_seed_by_seed(study):
    assert next(aligned(study, study.there())).startswith("Not run")
    for seed in (0, 1):
        for kind, off in (("dmd", 0.2), (UNALIGNED, 0.4 + 0.01 * seed)):
            put(study.book, [*students(kind, seed)][1], off)
    lines = list(aligned(study, study.there()))
    assert [line.split(" | ")[0] for line in lines[5:7]] == ["| 4", "| 4"]
    assert all("**+" in line.split(" | ")[4] for line in lines[5:7])
    assert lines[-1].startswith("- In 4: not aligned is farther by **+")


def test_guidance_is_compared_at_one_scale(study):
    told = list(guided())[1]
    put(study.book, told, 1.0)  # the teacher in few steps lies at 0.5
    lines = list(guidance(study, study.there()))
    (line,) = (line for line in lines if line.startswith("| 1.5 | 16, 8 |"))
    assert "**+" in line
    assert lines[-1] == "Other scales were not run."


def test_seeds_are_averaged_with_students_interval(study):
    for seed in (1, 2):
        put(study.book, [*students("progressive", seed)][1], 1.0 + 0.01 * seed)
    (line,) = over_seeds(study, study.there())
    assert line.startswith("- progressive in 4: farther than the teacher in 50 steps by **+")
    assert "mean of 3 trainings" in line


def test_another_network_looks_at_the_teacher_and_the_nearest(study):
    found = study.there()
    cells = looked_at(study, found)
    assert [cell.name for cell in cells] == [
        "teacher-0-dpm++2m-50",
        "shortcut-0-ddim-4",
        "progressive-0-ddim-4",
    ]
    seen = study.book.folder / "dinov2-56"
    seen.mkdir()
    for name in ("real", *(cell.name for cell in cells)):
        rows = study.book.real() if name == "real" else study.book.kept(name, dict)
        np.save(seen / f"{name}-{DRAWN}.npy", rows.features.rows)
    lines = list(by_dino(study, found))
    assert lines[-2].split(" | ")[-1] == "+0 [+0, +0] |"
    assert "**+" in lines[-1]


def test_a_share_is_mended_of_what_the_oracle_likes_least(study):
    """At the cost that the policy says; as many by chance are other ones."""
    student = diffusion_adaptive.STUDENTS[0]
    with pytest.raises(Absent):
        diffusion_adaptive.mixed(study.book, student, "regenerate", 0.25)
    liked = -np.arange(1.0, DRAWN + 1)
    (study.book.folder / "oracle").mkdir()
    path = study.book.folder / "oracle" / f"{student.name}-{DRAWN}.json"
    path.write_text(json.dumps({"liked": liked.tolist(), "others": liked.tolist()}))
    found, chance = (diffusion_adaptive.mixed(study.book, student, "regenerate", 0.25, by_chance=each) for each in (False, True))
    alone, teacher = (study.book.found(cell).features.rows for cell in (student, diffusion_adaptive.TEACHER))
    np.testing.assert_array_equal(found.features[: 3 * DRAWN // 4], alone[: 3 * DRAWN // 4])
    np.testing.assert_array_equal(found.features[3 * DRAWN // 4 :], teacher[3 * DRAWN // 4 :])
    assert (found.sent, chance.sent, found.evaluations) == (0.25, 0.25, 4 + 0.25 * 16)
    assert not np.array_equal(found.features, chance.features)
    rows = [line.split(" | ") for line in where_needed(study) if line.startswith("| shortcut")]
    assert [(row[1], row[2], row[4]) for row in rows] == [
        ("regenerate", "0.1", "5.6"),
        ("regenerate", "0.25", "8.0"),
        ("regenerate", "0.5", "12.0"),
        ("regenerate", "0.75", "16.0"),
    ]
    assert all(row[7].startswith("**+") for row in rows)  # the teacher in few steps is farther than the student here
    assert "(shortcut in 4)" in rows[0][7]


def test_refined_pictures_are_those_of_the_policy(tmp_path):
    """Drawn by the pass's own loop with a limit that likes no picture."""
    student, teacher = diffusion_adaptive.STUDENTS[0], diffusion_adaptive.TEACHER
    book = Book(tmp_path, tmp_path, Size(drawn=70, many=70), run=False)
    labels = np.arange(70) % 10
    book.__dict__["rows"] = Dataset.from_dict({"label": labels.tolist()})
    torch.manual_seed(0)
    network = DiT(8, 1, 10, patch=4, width=16, blocks=1, heads=2)
    for each in network.parameters():
        torch.nn.init.normal_(each, std=0.2)
    model = Model.wrap(network)
    for cell in (student, teacher):
        model.files[FILE] = Description(shape=(1, 8, 8), classes=10, empty=10, sampling=cell.sampling).written()
        model.save(book.model(cell.run, cell.model))
    how = book.how(teacher)
    chosen = diffusion_adaptive.policy(how)
    session = opened(book.model(teacher.run), how)
    network_of = partial(_asked, session)
    feed = {**how.feed(np.arange(70), labels, book.how(student).table()), **chosen.arrays()}
    nobody = lambda rows: np.eye(10)[(labels[: len(rows)] + 1) % 10]  # noqa: E731
    wanted, sent = adapted(network_of, network_of, nobody, feed)
    assert sent.all()
    shown = drawn_by(network_of, feed, feed["table"])
    found = diffusion_adaptive.refined(book, shown)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - shown).max() > 0.1


def _asked(session, given):
    given = dict(given)
    given.pop("blocks")
    return session.run({name: given[name] for name in ("sample", "time", "label")})[0]["predicted"]


def test_the_page_tells_what_int8_costs(study):
    assert "8 steps by ONNX Runtime, 8 steps by OpenVINO, 4 steps by ONNX Runtime" in next(lacking(study, study.there()))
    kept = study.book.found(timed_student(4))
    for target, off in (("onnxruntime", 0), ("openvino", 2)):
        path = study.book.place(diffusion_int8.place("int8", target))
        np.savez(path, features=kept.features.rows + np.float32(off), told=study.book.labels, first=kept.first)
    lines = list(in_int8(study))
    assert lines[-2].startswith("| 4 | int8, ONNX Runtime |")
    assert "| +0 [+0, +0] | 100.0% |" in lines[-2]
    assert "**+" in lines[-1]
    assert "shortcut in int8: 8 steps by ONNX Runtime, 8 steps by OpenVINO;" in next(lacking(study, study.there()))
    for target in diffusion_int8.NAMES:
        path = study.book.place(diffusion_int8.place("int8-in-8", target))
        np.savez(path, features=kept.features.rows, told=study.book.labels, first=kept.first)
    assert "int8" not in next(lacking(study, study.there()))
    for seed, off in ((1, 0.01), (2, 0.02)):
        put(study.book, next(teachers(seed)), off)
    several = Study(study.book, Plan(3, 3, tuple(METHODS)))
    said = next(goals(several, several.there()))
    assert "in int8: shortcut in 8 (ONNX Runtime), shortcut in 8 (OpenVINO), shortcut in 4 (ONNX Runtime)." in said


def test_the_page_tells_how_fast_those_are_that_are_inside(study, monkeypatch):
    """By the interval of what was timed; nothing of those that are outside."""
    for seed, off in ((1, 0.01), (2, 0.02)):
        put(study.book, next(teachers(seed)), off)
    for cell in teachers():
        near = cell.sampling.sampler == "dpm++2m" and cell.sampling.steps == 8
        put(study.book, cell, 0.0 if near or cell == next(teachers()) else 0.5)
    ms = {"source": 160.0, "teacher-8": 26.0, "student-8": 14.0, "student-4": 6.0, "student-2": 3.0, "student-1": 2.0}
    rows = [
        SimpleNamespace(candidate=f"{name}@{target}", rounds_ms=(each, 1.01 * each, 0.99 * each))
        for name, each in ms.items()
        for target in diffusion_int8.NAMES
    ]
    monkeypatch.setattr(diffusion_times, "times", lambda _: SimpleNamespace(rows=rows))
    several = Study(study.book, Plan(3, 3, tuple(METHODS)))
    lines = [line for line in goals(several, several.there()) if "ONNX Runtime: " in line]
    assert [line.split(":")[0] for line in lines] == [f"- shortcut in {count}, ONNX Runtime" for count in (2, 4, 8)]
    assert "(15 expected: **not reached**) times as fast as in 50 steps" in lines[2]
    assert "(15 expected: reached)" in lines[1]
    assert "(4 expected: reached) as in 8." in lines[1]
    assert "(4 expected: **not reached**) as in 8." in lines[2]
