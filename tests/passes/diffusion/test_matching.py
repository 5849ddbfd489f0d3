"""Distribution matching: its gradient, whose noise is whose, turns of its networks, and points on a circle in one step and four."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from circle import COSINE, FLOW, copied, drawn, off, points, shaken
from pydantic import ValidationError
from torch import nn

from compressor.errors import UnsupportedModel
from compressor.model.depths import ScheduleDepth
from compressor.model.dit import DiT
from passes.diffusion.denoiser import Denoiser
from passes.diffusion.matching import Matching, MatchingSettings, frozen, judge_of, middle_of, watched

LINE = FLOW.model_copy(update={"shape": (1, 1, 1)})
COUNT = 4096


class Normal(nn.Module):
    """The exact velocity of normal rows: what a perfectly trained network tells."""

    def __init__(self, mean, deviation):
        super().__init__()
        self.mean, self.deviation = (nn.Parameter(torch.tensor(each)) for each in (mean, deviation))

    def forward(self, sample, time, label, span=None):
        t = (time / 1000)[:, None, None, None]
        kept = self.deviation**2 * (1 - t)
        row = self.mean + kept / ((1 - t) * kept + t**2) * (sample - (1 - t) * self.mean)
        return (sample - row) / t


class Affine(nn.Module):
    """A student of normal rows: noise, shifted and stretched."""

    def __init__(self, mean, deviation):
        super().__init__()
        self.mean, self.deviation = (nn.Parameter(torch.tensor(each)) for each in (mean, deviation))

    def forward(self, sample, time, label, span=None):
        return sample - (self.mean + self.deviation * sample)  # at t = 1 its row is mean + deviation * noise


def normal(mean, deviation):
    return Denoiser(Normal(mean, deviation), LINE)


def of_line(teacher, fake):
    return Matching(teacher, teacher, fake, None, (1,))


def gradients(teacher, fake, made):
    t = 0.05 + 0.9 * torch.rand(len(made), dtype=torch.float64)
    return of_line(teacher, fake).pull(made, torch.zeros(len(made), dtype=torch.long), t)


def test_gradient_is_zero_where_the_student_draws_as_its_teacher():
    made = 1.5 + 0.4 * torch.randn(COUNT, 1, 1, 1)
    pull = gradients(normal(1.5, 0.4), normal(1.5, 0.4), made)
    assert torch.equal(pull, torch.zeros_like(pull))


def test_gradient_leads_the_mean_towards_the_teacher():
    """A row is moved against it: down where the student's mean is too high, up where it is too low."""
    for mean, sign in ((2.0, 1.0), (1.0, -1.0)):
        made = mean + 0.4 * torch.randn(COUNT, 1, 1, 1)
        pull = gradients(normal(1.5, 0.4), normal(mean, 0.4), made)
        assert (pull.sign() == sign).all()


def test_gradient_leads_the_deviation_towards_the_teacher():
    """Rows that lie too close to the mean are moved apart, others together."""
    for deviation, sign in ((0.2, -1.0), (0.8, 1.0)):
        made = 1.5 + deviation * torch.randn(COUNT, 1, 1, 1)
        pull = gradients(normal(1.5, 0.4), normal(1.5, deviation), made)
        assert (pull * (made - 1.5)).mean() * sign > 0


def test_the_student_that_the_loss_ends_at_draws_as_its_teacher():
    """With a fake network that always knows the student exactly."""
    teacher, student = normal(1.5, 0.4), Denoiser(Affine(-0.5, 1.3), LINE)
    optimiser = torch.optim.Adam(student.module.parameters(), 0.02)
    how = MatchingSettings(times="steps", aligned=(), gan=0.0)
    rows, label = torch.zeros(512, 1, 1, 1), torch.zeros(512, dtype=torch.long)
    for _ in range(400):
        fake = Denoiser(Normal(student.module.mean.item(), student.module.deviation.item()), LINE)
        at = torch.rand(512, dtype=torch.float64)
        matching = Matching(teacher, student, fake, None, (1,), how.model_copy(update={"aligned": ("matching",)}))
        optimiser.zero_grad()
        matching.losses(rows, label, at, generator=True)["matching"].backward()
        optimiser.step()
    assert student.module.mean.item() == pytest.approx(1.5, abs=0.06)
    assert abs(student.module.deviation.item()) == pytest.approx(0.4, abs=0.06)


# ------------------------------------------------------------------ whose noise, whose gradients


def noise_levels(matching, *, generator):
    """Times at which networks are asked, by network, when all of the teacher's training lies at 0.25."""
    asked = {"teacher": [], "student": [], "fake": []}

    def heard(name, denoiser):
        class Heard(type(denoiser)):
            def told(self, x, t, label, span=None):
                asked[name].append(t)
                return super().told(x, t, label, span)

        return Heard(denoiser.module, denoiser.how)

    parts = {name: heard(name, getattr(matching, name)) for name in asked}
    rows, label = points(32)
    replace(matching, **parts).losses(rows, label, torch.full((32,), 0.25, dtype=torch.float64), generator=generator)
    return asked


@pytest.mark.parametrize("how", [FLOW, COSINE])
def test_noise_is_drawn_as_in_the_teachers_training_where_it_is_aligned(how):
    nets = [shaken(how) for _ in range(3)]
    matching = Matching(*nets, judge_of(nets[2]), (4, 1), MatchingSettings())
    asked = noise_levels(matching, generator=True)
    assert len(set(asked["student"][0].tolist())) == 32  # anywhere between noise and none
    assert [set(each.tolist()) for each in (*asked["teacher"], *asked["fake"])] == [{0.25}] * 3
    asked = noise_levels(matching, generator=False)
    assert [set(each.tolist()) for each in asked["fake"]] == [{0.25}]


def test_noise_that_is_not_aligned_is_drawn_as_for_the_student():
    nets = [shaken() for _ in range(3)]
    how = MatchingSettings(times="steps", aligned=("fake",))
    matching = Matching(*nets, judge_of(nets[2]), (4, 2), how)
    asked = noise_levels(matching, generator=True)
    begins = {0.25, 0.5, 0.75, 1.0}
    assert set(asked["student"][0].tolist()) == begins
    assert set(asked["teacher"][0].tolist()) == {0.25, 0.5, 0.75, 0.98}  # rows are not compared where nothing but noise is left
    asked = noise_levels(matching, generator=False)
    judged, denoised = asked["fake"]
    assert set(judged.tolist()) == begins
    assert set(denoised.tolist()) == {0.25}


def test_each_step_leaves_gradients_with_its_own_networks():
    nets = [shaken() for _ in range(3)]
    judge = judge_of(nets[2])
    nets[0].module.requires_grad_(False)
    matching = Matching(*nets, judge, (1,))
    rows, label = points(16)
    at = torch.rand(16, dtype=torch.float64)

    def with_gradients(generator):
        for each in (*(net.module for net in nets), judge):
            each.zero_grad(set_to_none=True)
        sum(matching.losses(rows, label, at, generator=generator).values()).backward()
        return [any(each.grad is not None for each in part.parameters()) for part in (*(net.module for net in nets), judge)]

    assert with_gradients(generator=True) == [False, True, False, False]
    assert with_gradients(generator=False) == [False, False, True, True]
    assert all(each.requires_grad for each in judge.parameters())


def test_adversarial_loss_leads_rows_to_where_the_judge_sees_real_ones():
    """It passes through the fake network, which learns nothing of it."""
    nets = [shaken() for _ in range(3)]
    judge = judge_of(nets[2])
    one = Matching(*nets, judge, (1,), MatchingSettings(gan=1.0))
    without = replace(one, judge=None)
    found = []
    for matching in (one, without):
        torch.manual_seed(3)
        rows, label = points(16)
        nets[1].module.zero_grad(set_to_none=True)
        losses = matching.losses(rows, label, torch.rand(16, dtype=torch.float64), generator=True)
        sum(losses.values()).backward()
        found.append((set(losses), nets[1].module.head.weight.grad.clone()))
    assert (found[0][0], found[1][0]) == ({"matching", "gan"}, {"matching"})
    assert not torch.allclose(found[0][1], found[1][1])


def test_backward_simulation_starts_where_the_students_own_steps_led(monkeypatch):
    """No real row has a part in it: from noise, a row is found and noised anew until its step begins."""
    student = shaken()
    how = MatchingSettings(times="steps", backward_simulation=True)
    matching = Matching(shaken(), student, shaken(), None, (4,), how)
    rows, label = points(64)
    torch.manual_seed(5)
    first = matching.drawn(rows, label)
    torch.manual_seed(5)
    again = matching.drawn(torch.full_like(rows, 9.0), label)
    assert torch.equal(first, again)
    x, t = matching._led_to(rows, label)
    assert set(t.tolist()) == {1.0, 0.75, 0.5, 0.25}
    assert not x.requires_grad


def test_settings_that_do_not_go_together_are_refused():
    for given, said in (
        ({"aligned": ["gan", "gan"]}, "each loss is named once"),
        ({"backward_simulation": True}, "say times: steps"),
        ({"gan": 0.0, "judge": 0.5}, "judge is the weight of a loss that there is not"),
    ):
        with pytest.raises(ValidationError, match=said):
            MatchingSettings.model_validate(given)


def test_passes_of_a_cycle_are_counted():
    """Five steps of the fake network and its judge, one of the student: the mean of each."""
    mine, theirs = MatchingSettings().passes((4,))
    assert (mine, theirs) == (pytest.approx((5 * 1 + 3) / 6), pytest.approx((5 * 6 + 5) / 6))
    assert MatchingSettings(fake_updates=1, gan=0).passes((1,)) == (2.0, 3.0)


# ------------------------------------------------------------------ the judge


def test_a_judge_sees_the_middle_of_networks():
    denoiser = shaken()
    with watched(denoiser.module) as seen:
        denoiser.told(points(4)[0], torch.full((4,), 0.5), torch.zeros(4, dtype=torch.long))
    assert [each.shape for each in seen] == [(4, 1, 64)]
    assert judge_of(denoiser)(seen[0]).shape == (4, 1)
    with pytest.raises(UnsupportedModel, match="Linear: where its middle is"):
        middle_of(nn.Linear(2, 2))


@pytest.mark.parametrize("keep_last", [0, 1])
def test_a_judge_sees_every_row_where_the_noisier_ones_run_fewer_blocks(keep_last):
    """It looks at a block that all of them run; of others it would see the rows of a part of the batch, real and drawn ones mixed."""
    module = DiT(1, 2, 1, patch=1, width=8, blocks=4, heads=1)
    ScheduleDepth(depths=(4, 2), keep_last=keep_last).apply(module)
    fake = Denoiser(module, FLOW.model_copy(update={"depths": (4, 2)}))
    rows, label = points(16)
    with watched(module) as seen:
        fake.told(rows, torch.linspace(0.05, 0.95, 16, dtype=torch.float64), label)
    assert [each.shape for each in seen] == [(16, 1, 8)]
    matching = Matching(shaken(), shaken(), fake, judge_of(fake), (1,))
    for generator in (False, True):
        losses = matching.losses(rows, label, torch.linspace(0.05, 0.95, 16, dtype=torch.float64), generator=generator)
        assert all(each.isfinite() for each in losses.values())


def test_places_of_a_map_are_scored_like_tokens():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.mid_block = nn.Conv2d(2, 8, 1)

        def forward(self, x):
            return self.mid_block(x)

    net = Net()
    with watched(net) as seen:
        out = net(torch.randn(3, 2, 4, 4))
    assert torch.equal(seen[0], out.flatten(2).transpose(1, 2))


def test_frozen_parameters_learn_again_afterwards():
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)
    with frozen(layer, other):
        assert not any(each.requires_grad for each in layer.parameters())
    assert all(each.requires_grad for each in layer.parameters())
    assert not any(each.requires_grad for each in other.parameters())


# ------------------------------------------------------------------ that it works


def by_consistency(denoiser, noise, steps):
    """Drawn as such a student is: the row that was found is noised anew."""
    x, label = noise, torch.zeros(len(noise), dtype=torch.long)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    with torch.no_grad():
        for here, there in pairwise(times):
            row = denoiser.row(x, here.expand(len(x)), label)
            x = denoiser.noised(row, there.expand(len(x)), torch.randn_like(x))
    return x


def energy(one, other):
    """The energy distance of two sets of points, 0 where they are distributed alike."""

    def apart(x, y):
        return torch.cdist(x.flatten(1), y.flatten(1)).mean()

    return 2 * apart(one, other) - apart(one, one) - apart(other, other)


def test_students_draw_better_than_their_teacher_in_one_step_and_four(taught):
    """By how far points lie from the circle, and how near their distribution is: one training serves both."""
    student, fake = copied(taught), copied(taught)
    judge = judge_of(fake)
    matching = Matching(taught, student, fake, judge, (4, 1))
    both = [*fake.module.parameters(), *judge.parameters()]
    optimisers = [torch.optim.AdamW(each, 1e-3, weight_decay=0) for each in (both, student.module.parameters())]
    for step in range(600):
        rows, label = points()
        is_student = matching.how.rhythm[step % 6]
        losses = matching.losses(rows, label, 1 - torch.rand(len(rows), dtype=torch.float64), generator=is_student)
        for optimiser in optimisers:
            optimiser.zero_grad()
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * (1 - step / 600)
        sum(losses.values()).backward()
        optimisers[is_student].step()
    noise, real = torch.randn(1000, 2, 1, 1), points(1000)[0]
    for steps, times in ((1, 4), (4, 1)):
        mine, theirs = by_consistency(student, noise, steps), drawn(taught, noise, steps)
        assert off(mine) < off(theirs) / times
        assert energy(mine, real) < energy(theirs, real) / times
