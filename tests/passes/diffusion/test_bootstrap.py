"""One loss for fewer steps, on points of a plane: what students are held against, and that they come to equal it."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from circle import COSINE, FLOW, copied, drawn, learned, off, points, shaken

from compressor.tasks.generation.samplers import Sampling
from compressor.tasks.inputs.sampling import COLUMNS
from passes.diffusion.bootstrap import METHODS, Imagined, Pair
from passes.diffusion.denoiser import Denoiser


@pytest.mark.parametrize("how", [FLOW, COSINE])
def test_progressive_target_is_the_end_of_two_steps_of_the_teacher(how):
    teacher, student = shaken(how), shaken(how)
    rows, label = points()
    lesson = Pair(teacher, student, 4).lesson("progressive", rows, label)
    to, half = lesson.t - lesson.span, lesson.t - lesson.span / 2
    with torch.no_grad():
        ended = teacher.moved(teacher.moved(lesson.x, lesson.t, half, label), half, to, label)
    assert set((4 * lesson.t).round().tolist()) == {1, 2, 3, 4}

    class Told:
        """A student that has learned it."""

        how = student.how

        def __call__(self, *_):
            return lesson.output

    one = Denoiser(Told(), student.how).moved(lesson.x, lesson.t, to, label)
    torch.testing.assert_close(one, ended, atol=1e-5, rtol=1e-5)


def test_student_equals_two_steps_of_the_teacher_after_one_halving(taught):
    """Eight steps of a teacher become four: points drawn of equal noise are nearly the same, and far nearer than before."""
    student = copied(taught)
    noise = torch.randn(512, 2, 1, 1)
    wanted, before = drawn(taught, noise, 8), drawn(student, noise, 4)
    pair = Pair(taught, student, 4)
    learned(student.module, lambda rows, label: pair.loss("progressive", rows, label), 500, rate=1e-3)
    found = drawn(student, noise, 4)
    apart, untrained = ((each - wanted).square().sum(1).sqrt().mean() for each in (found, before))
    assert apart < 0.05
    assert apart < untrained / 3


def test_row_at_time_zero_is_the_row_itself():
    """The boundary of a consistency model: exact for any weights."""
    for how in (FLOW, COSINE):
        denoiser = shaken(how)
        rows, label = points()
        found = denoiser.row(rows, torch.zeros(len(rows), dtype=torch.float64), label)
        assert torch.equal(found, rows)


def test_consistency_target_is_the_row_found_a_step_later():
    teacher, student = shaken(), shaken()
    rows, label = points()
    lesson = Pair(teacher, student, 8).lesson("consistency", rows, label)
    to = (lesson.t - 1 / 8).clamp(min=0)
    with torch.no_grad():
        nearer = teacher.moved(lesson.x, lesson.t, to, label)
        wanted = student.row(nearer, to, label)
    last = to < 1e-6
    assert last.any()
    torch.testing.assert_close(wanted[last], nearer[last], atol=1e-5, rtol=1e-5)
    levels = student.at(lesson.t)
    skip, gain = (torch.from_numpy(each).float()[:, None, None, None] for each in student.how.process.clean(levels))
    torch.testing.assert_close(skip * lesson.x + gain * lesson.output, wanted, atol=1e-5, rtol=1e-5)


def test_consistency_is_of_steps_to_the_end_where_spans_are_told():
    """By student and sampler alike: one that was a shortcut model before is told them."""
    teacher, student = shaken(), shaken(spans=True)
    rows, label = points()
    lesson = Pair(teacher, student, 8).lesson("consistency", rows, label)
    assert torch.equal(lesson.span, lesson.t)
    to = (lesson.t - 1 / 8).clamp(min=0)
    with torch.no_grad():
        nearer = teacher.moved(lesson.x, lesson.t, to, label)
        wanted = student.row(nearer, to, label, to)
        elsewhere = student.row(nearer, to, label)
    (skip, gain) = (
        torch.from_numpy(each).float()[:, None, None, None] for each in student.how.process.clean(student.at(lesson.t))
    )
    torch.testing.assert_close(skip * lesson.x + gain * lesson.output, wanted, atol=1e-5, rtol=1e-5)
    assert (wanted - elsewhere).abs().max() > 1e-3
    table = Sampling(sampler="consistency", steps=4).table(student.how.process)
    assert table[:, COLUMNS.index("span")].tolist() == table[:, COLUMNS.index("time")].tolist()


def test_consistency_error_falls(taught):
    student = copied(taught)
    pair = Pair(taught, student, 16)

    def error():
        torch.manual_seed(5)
        with torch.no_grad():
            return float(pair.loss("consistency", *points(2048)))

    before = error()
    learned(student.module, lambda rows, label: pair.loss("consistency", rows, label), 300, rate=1e-3)
    assert error() < before / 2


def test_shortcut_target_is_of_its_own_two_steps_or_of_the_teacher():
    teacher, student = shaken(), shaken(spans=True)
    rows, label = points(2000)
    lesson = Pair(teacher, student, 16, share=0.5).lesson("shortcut", rows, label)
    counts = (1 / lesson.span).round()
    assert set(counts.tolist()) == {1, 2, 4, 8, 16}
    with torch.no_grad():
        taught = counts == 16
        velocity = teacher.told(lesson.x, lesson.t, label)
        torch.testing.assert_close(lesson.output[taught], velocity[taught], atol=1e-4, rtol=1e-4)
        to, half = (lesson.t - lesson.span).clamp(min=0), lesson.t - lesson.span / 2
        ended = student.moved(student.moved(lesson.x, lesson.t, half, label), half, to, label)
        mean = (lesson.x - ended) / lesson.span.float()[:, None, None, None]
    torch.testing.assert_close(lesson.output[~taught], mean[~taught], atol=1e-3, rtol=1e-3)
    assert 0.4 < taught.float().mean() < 0.6


def test_meanflow_target_has_the_change_along_the_path():
    """By what is told a little later and a little earlier on it, within the step; without a span it is the teacher's velocity."""
    teacher, student = shaken(), shaken(spans=True)
    rows, label = points(64)
    lesson = Pair(teacher, student, 16, share=0.5).lesson("meanflow", rows, label)
    still = lesson.span == 0
    assert 24 <= still.sum() <= 40
    with torch.no_grad():
        velocity = teacher.told(lesson.x, lesson.t, label)
        torch.testing.assert_close(lesson.output[still], velocity[still], atol=1e-5, rtol=1e-5)
        ends = lesson.t - lesson.span
        later, earlier = (lesson.t + 0.03).clamp(max=1), torch.maximum(lesson.t - 0.03, ends)

        def at(time):
            x = lesson.x + (time - lesson.t).float()[:, None, None, None] * velocity
            return student.module(x, 1000 * time.float(), label, 1000 * (time - ends).float())

        change = (at(later) - at(earlier)) / (later - earlier).float()[:, None, None, None]
    wanted = velocity - lesson.span.float()[:, None, None, None] * change
    torch.testing.assert_close(lesson.output, wanted, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(("method", "times"), [("shortcut", 5), ("meanflow", 3)])
def test_students_draw_better_in_two_steps_than_their_teacher(taught, method, times):
    """By how far points lie from the circle."""
    student = copied(taught, spans=True)
    pair = Pair(taught, student, 16)
    learned(student.module, lambda rows, label: pair.loss(method, rows, label), 500, rate=1e-3)
    noise = torch.randn(512, 2, 1, 1)
    mine, theirs = (off(drawn(each, noise, 2)) for each in (student, taught))
    assert mine < theirs / times


def test_targets_carry_no_gradient():
    teacher, student = shaken(), shaken(spans=True)
    rows, label = points(16)
    for method in METHODS:
        lesson = Pair(teacher, student, 4).lesson(method, rows, label)
        assert not lesson.output.requires_grad
        assert lesson.output.shape == rows.shape
        assert torch.isfinite(lesson.output).all()
        loss = Pair(teacher, student, 4).loss(method, rows, label)
        loss.backward()
        assert any(each.grad is not None for each in student.module.parameters())
        assert all(each.grad is None for each in teacher.module.parameters())


def test_guided_teacher_is_asked_with_and_without_a_label():
    denoiser = shaken()
    rows, label = points(16)
    t = torch.full((16,), 0.5, dtype=torch.float64)
    with torch.no_grad():
        plain, empty = (denoiser.told(rows, t, each) for each in (label, torch.ones_like(label)))
        guided = Denoiser(denoiser.module, FLOW, guidance=2.5).told(rows, t, label)
    torch.testing.assert_close(guided, empty + 2.5 * (plain - empty), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", [FLOW, COSINE])
def test_boot_target_is_a_step_of_the_teacher_from_where_a_shorter_one_ends(how):
    """From noise alone; the first of them is the teacher's own."""
    teacher, student = shaken(how), shaken(how, spans=True)
    rows, label = points(64)
    torch.manual_seed(4)
    lesson = Pair(teacher, student, 8).lesson("boot", rows, label)
    torch.manual_seed(4)
    blank = Pair(teacher, student, 8).lesson("boot", torch.full_like(rows, 7.0), label)
    assert torch.equal(lesson.x, blank.x)
    assert torch.equal(lesson.output, blank.output)
    start = torch.ones(64, dtype=torch.float64)
    assert torch.equal(lesson.t, start)
    assert set((8 * lesson.span).round().tolist()) <= set(range(1, 9))
    to = start - lesson.span
    t = (to + 1 / 8).clamp(max=1)
    with torch.no_grad():
        ended = teacher.moved(student.moved(lesson.x, start, t, label), t, to, label)
        first = teacher.moved(lesson.x, start, to, label)

    class Told:
        """A student that has learned it."""

        def __call__(self, *_, **__):
            return lesson.output

    one = Denoiser(Told(), student.how).moved(lesson.x, start, to, label)
    torch.testing.assert_close(one, ended, atol=1e-4, rtol=1e-4)
    at_first = t == 1
    assert at_first.any()
    torch.testing.assert_close(one[at_first], first[at_first], atol=1e-4, rtol=1e-4)


def test_boot_learns_to_draw_in_one_step_without_a_row(taught):
    """By how far points lie from the circle, and how near they are to what the teacher makes of the same noise in many steps."""
    student = copied(taught, spans=True)
    pair = Pair(taught, student, 16)
    learned(student.module, lambda rows, label: pair.loss("boot", torch.zeros_like(rows), label), 600, rate=1e-3)
    noise = torch.randn(512, 2, 1, 1)
    wanted, mine, theirs = drawn(taught, noise, 16), drawn(student, noise, 1), drawn(taught, noise, 1)
    assert off(mine) < off(theirs) / 4
    apart = [(each - wanted).flatten(1).norm(dim=1).mean() for each in (mine, theirs)]
    assert apart[0] < apart[1] / 3


def test_imagined_batches_are_the_same_for_a_seed_and_hold_all_labels():
    how = FLOW.model_copy(update={"classes": 3, "empty": 3})
    first, again, other = (list(islice(Imagined(how, 8, seed), 20)) for seed in (1, 1, 2))
    assert all(torch.equal(one["labels"], two["labels"]) for one, two in zip(first, again, strict=True))
    assert any(not torch.equal(one["labels"], two["labels"]) for one, two in zip(first, other, strict=True))
    assert set(torch.cat([each["labels"] for each in first]).tolist()) == {0, 1, 2}
    assert first[0]["clean"].shape == (8, 2, 1, 1)
    unlabelled = next(iter(Imagined(how.model_copy(update={"classes": 0, "empty": 5}), 4, 0)))
    assert unlabelled["labels"].tolist() == [5] * 4


@pytest.mark.parametrize(
    ("method", "rows_asked"), [("progressive", 7.0), ("shortcut", 5.0), ("consistency", 6.0), ("meanflow", 5.5)]
)
def test_networks_are_asked_no_more_than_a_method_needs(method, rows_asked):
    """Of a row, with a teacher that is guided and a quarter of the rows that learn longer steps: a backward pass counts as two."""
    teacher, student = shaken(), shaken(spans=method in ("shortcut", "meanflow"))
    asked = []

    def count(module, given):
        asked.append(len(given[0]) * (3 if torch.is_grad_enabled() else 1))

    for each in (teacher, student):
        each.module.register_forward_pre_hook(count)
    rows, label = points(64)
    Pair(Denoiser(teacher.module, FLOW, 1.5), student, 8).loss(method, rows, label).backward()
    assert sum(asked) / len(rows) == rows_asked


@pytest.mark.parametrize("method", ["shortcut", "meanflow"])
@pytest.mark.parametrize("share", [1e-9, 1.0])
def test_all_rows_may_learn_one_kind_of_step(method, share):
    lesson = Pair(shaken(), shaken(spans=True), 8, share=share).lesson(method, *points(16))
    assert torch.isfinite(lesson.output).all()


def test_shares_hold_on_average_in_small_batches():
    pair = Pair(shaken(), shaken(spans=True), 8, share=0.25)
    found = [pair.own(torch.zeros(2)) for _ in range(2000)]
    assert set(found) == {0, 1}
    assert sum(found) / 4000 == pytest.approx(0.25, abs=0.03)
