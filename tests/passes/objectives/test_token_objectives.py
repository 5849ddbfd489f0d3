"""Objectives on the answers of language models: identities, limits, and formulas written out; chunks change nothing."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import pad

from compressor.contracts import LikeliestLogits, Outputs, TokenLogits
from compressor.errors import UnsupportedModel
from compressor.model import token_losses
from passes.objectives.adaptive_teaching import AdaptiveTeaching
from passes.objectives.interpolated_targets import InterpolatedTargets
from passes.objectives.query_key_value_relations import QueryKeyValueRelations, relation_loss
from passes.objectives.soft_targets import SoftTargets, kl, soft_target_values
from passes.objectives.sorted_probabilities import SortedProbabilities, sorted_values
from passes.objectives.token_objective import every_token
from passes.objectives.top_k_targets import TopKTargets, top_k_values

WORDS, SHAPE, SIZE = 19, (3, 6), 5
FAMILY = [
    SoftTargets(temperature=1.0),
    SoftTargets(temperature=2.0, divergence="reverse"),
    SoftTargets(temperature=1.0, divergence="skewed"),
    SoftTargets(temperature=1.0, divergence="skewed-reverse"),
    SoftTargets(temperature=1.0, divergence="jensen-shannon", beta=0.3),
    InterpolatedTargets(),
    InterpolatedTargets(temperature=2.0),
    AdaptiveTeaching(),
    SortedProbabilities(),
    TopKTargets(k=4),
]
family = pytest.mark.parametrize("objective", FAMILY, ids=str)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels():
    found = torch.randint(0, WORDS, SHAPE, generator=torch.Generator().manual_seed(4))
    found[0, 3:], found[1, 0] = -100, -100
    return found


def student(seed=0):
    parts = (2 * drawn(seed, *SHAPE, SIZE).requires_grad_(), drawn(seed + 50, WORDS, SIZE).requires_grad_())
    return Outputs(TokenLogits(*parts, labels=labels()))


def plain_probabilities(logits, temperature=1.0):
    return torch.softmax(logits / temperature, -1)


def plain_kl(p, q):
    return (p * (p / q).log()).sum(-1)


def plain(objective, mine, theirs, told):
    """The formula written out, over `[tokens, words]`."""
    if isinstance(objective, SoftTargets):
        t = objective.temperature
        p, q = plain_probabilities(theirs, t), plain_probabilities(mine, t)
        beta, skew = objective.beta, objective.skew
        middle = beta * p + (1 - beta) * q
        found = {
            "forward": lambda: plain_kl(p, q),
            "reverse": lambda: plain_kl(q, p),
            "skewed": lambda: plain_kl(p, skew * p + (1 - skew) * q),
            "skewed-reverse": lambda: plain_kl(q, (1 - skew) * p + skew * q),
            "jensen-shannon": lambda: beta * plain_kl(p, middle) + (1 - beta) * plain_kl(q, middle),
        }[objective.divergence]()
        return (t * t * found).mean()
    p, q = plain_probabilities(theirs), plain_probabilities(mine)
    if isinstance(objective, InterpolatedTargets):
        t = objective.temperature
        target = plain_probabilities(0.6 * mine.detach() + 0.4 * theirs, t)
        return t * t * plain_kl(target, plain_probabilities(mine, t)).mean()
    if isinstance(objective, SortedProbabilities):
        return (p.sort(-1, descending=True).values - q.sort(-1, descending=True).values).abs().sum(-1).mean()
    if isinstance(objective, TopKTargets):
        first = torch.zeros_like(p).scatter(-1, theirs.topk(objective.k).indices, 1.0).bool()
        parts = []
        for each in (p, q):
            top, rest = each[first].view(len(p), -1), each[~first].view(len(p), -1)
            parts.append((torch.cat([top, rest.sum(-1, keepdim=True)], -1), rest / rest.sum(-1, keepdim=True)))
        (p_top, p_rest), (q_top, q_rest) = parts
        return (objective.balance * plain_kl(p_top, q_top) + (1 - objective.balance) * plain_kl(p_rest, q_rest)).mean()
    at = told[:, None]
    sure, easy = p.gather(-1, at)[:, 0], q.gather(-1, at)[:, 0]
    keep = torch.ones_like(p).scatter(-1, at, 0).bool()
    others = plain_kl((p[keep].view(len(p), -1) / (1 - sure)[:, None]), (q[keep].view(len(q), -1) / (1 - easy)[:, None]))
    both = sure * (sure / easy).log() + (1 - sure) * ((1 - sure) / (1 - easy)).log()
    split = (1 - sure) <= (1 - sure).median()
    return 0.2 * others[split].mean() + 0.8 * (both + others)[~split].mean()


@family
def test_each_is_its_formula_with_its_gradients_whatever_the_chunks(objective, monkeypatch):
    monkeypatch.setattr(token_losses, "CHUNK_BYTES", 4 * WORDS * 2)
    mine, theirs, counted = student(), Outputs(TokenLogits(2 * drawn(9, *SHAPE, 4), drawn(10, WORDS, 4))), labels() >= 0
    wanted = plain(objective, mine.main[counted], theirs.main[counted], labels()[counted])
    found = objective.loss(mine, theirs, {})
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)
    learned = (mine.tokens.states, mine.tokens.weight)
    for one, other in zip(torch.autograd.grad(found, learned), torch.autograd.grad(wanted, learned), strict=True):
        torch.testing.assert_close(one, other)


@family
def test_each_is_zero_where_both_are_equal_and_no_padding_changes_it(objective):
    same, other = student(), student(3)
    assert objective.loss(same, Outputs(same.main.detach()), {}).item() == pytest.approx(0, abs=1e-12)
    found = objective.loss(same, other, {}).item()
    assert found > 1e-3
    longer = [Outputs(TokenLogits(pad(each.tokens.states, (0, 0, 0, 4), value=7.0), each.tokens.weight, labels=pad(labels(), (0, 4), value=-1)))
              for each in (same, other)]  # fmt: skip
    assert objective.loss(*longer, {}).item() == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize(
    ("objective", "name", "taken", "refused"),
    [
        (InterpolatedTargets, "rate", (0, 1), (-1e-9, 1.1)),
        (InterpolatedTargets, "start", (0, 1), (-1e-9, 1.1)),
        (InterpolatedTargets, "end", (0.4, 1), (0.3, 1.1)),
        (InterpolatedTargets, "momentum", (0, 0.999), (-1e-9, 1)),
        (InterpolatedTargets, "temperature", (1e-3, 1000), (0, 1001)),
        (SortedProbabilities, "temperature", (1e-3, 1000), (0, 1001)),
        (AdaptiveTeaching, "easy", (0, 1), (-1e-9, 1.1)),
        (QueryKeyValueRelations, "layer", (-1000, 1000), (-1001, 1001)),
        (QueryKeyValueRelations, "heads", (1,), (0,)),
    ],
)
def test_parameters_end_where_they_say(objective, name, taken, refused):
    for value in taken:
        assert getattr(objective(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(ValidationError, match=name if name != "end" else "end|less than"):
            objective(**{name: value})


def test_logits_that_are_there_count_where_the_mask_says_so():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    mine, theirs = drawn(0, 2, 3, WORDS), drawn(1, 2, 3, WORDS)
    found = SortedProbabilities().loss(Outputs(mine, mask=mask), Outputs(theirs), {}).item()
    each = sorted_values(mine.flatten(0, 1), theirs.flatten(0, 1))[mask.flatten().bool()]
    assert found == pytest.approx(each.mean().item())


def test_mixed_divergences_tend_to_the_plain_ones():
    mine, theirs = drawn(0, 7, WORDS), drawn(1, 7, WORDS)

    def values(divergence, **given):
        return soft_target_values(mine, theirs, divergence=divergence, **given)

    forward, reverse = values("forward"), values("reverse")
    near = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(values("jensen-shannon", beta=1e-5) / 1e-5, forward, **near)
    torch.testing.assert_close(values("jensen-shannon", beta=1 - 1e-5) / 1e-5, reverse, **near)
    for divergence, given, wanted in (
        ("jensen-shannon", {"beta": 0}, forward),
        ("jensen-shannon", {"beta": 1}, reverse),
        ("skewed", {"skew": 0}, forward),
        ("skewed-reverse", {"skew": 0}, reverse),
    ):
        torch.testing.assert_close(values(divergence, **given), wanted)
    torch.testing.assert_close(values("skewed", skew=1e-6), forward, **near)
    torch.testing.assert_close(values("skewed-reverse", skew=1e-6), reverse, **near)
    assert (values("jensen-shannon", beta=0.5) <= math.log(2)).all()


# ------------------------------------------------------------------ interpolated targets


def test_the_teachers_share_rises_with_the_training_and_faster_while_the_loss_falls():
    objective = InterpolatedTargets(start=0.4, rate=0.2, momentum=0.5)
    shares = {}
    for name, factor in (("falling", 0.5), ("rising", 2.0)):
        state, loss, found = objective.projections(None, None), None, []
        for step in range(10):
            parts = [float(objective.at(state, step=step, done=step / 20, before=loss)._share) for _ in range(2)]
            assert parts[0] == parts[1], "parts of one step see one share"
            found.append(parts[0])
            loss = 1.0 if loss is None else loss * factor
        shares[name] = found
        assert found[0] == pytest.approx(0.4)
        assert all(0.4 <= before < after <= 1 for before, after in itertools.pairwise(found))
        assert list(state.state_dict()) == ["share", "fall", "loss"], "what a checkpoint keeps"
    assert shares["falling"][-1] > shares["rising"][-1]
    late = objective.at(objective.projections(None, None), step=0, done=0.999, before=None)
    assert float(late._share) == pytest.approx(0.4 + 0.6 * 0.999, rel=1e-5)


def test_a_share_that_falls_is_refused():
    with pytest.raises(ValueError, match=r"end \(0.3\) lies below start \(0.4\)"):
        InterpolatedTargets(end=0.3)


# ------------------------------------------------------------------ other vocabularies


def test_sorted_probabilities_know_no_order_of_words_and_no_words_that_are_never_said():
    mine, order = drawn(0, 4, WORDS), torch.randperm(WORDS, generator=torch.Generator().manual_seed(1))
    assert sorted_values(mine, mine[:, order]).abs().max() < 1e-12
    larger = pad(mine[:, order], (0, 5), value=-torch.inf)
    assert sorted_values(mine, larger).abs().max() < 1e-12
    assert sorted_values(larger, mine).abs().max() < 1e-12
    assert (sorted_values(mine, drawn(2, 4, 30)) > 0).all()


def test_the_mean_of_sorted_probabilities_is_over_tokens_that_have_a_partner():
    mine, theirs = student(), 2 * student(3).main.detach()
    best = theirs.log_softmax(-1).topk(WORDS, dim=-1)
    silent = torch.zeros(SHAPE, dtype=torch.bool)
    silent[1, 3:] = True
    words, rest = (
        best.values.masked_fill(silent[..., None], math.nan),
        torch.full(SHAPE, -torch.inf).masked_fill(silent, math.nan),
    )
    found = SortedProbabilities().loss(mine, Outputs(LikeliestLogits(best.indices, words, rest, WORDS)), {}).item()
    told = (labels() >= 0) & ~silent
    assert found == pytest.approx(sorted_values(mine.main[told], theirs[told]).mean().item(), rel=1e-6)


def test_adaptive_teaching_needs_labels():
    with pytest.raises(UnsupportedModel, match="the task gives none"):
        AdaptiveTeaching().loss(Outputs(drawn(0, 2, 3, WORDS)), Outputs(drawn(1, 2, 3, WORDS)), {})
    rows = {"labels": torch.tensor([0, 1, 2, 1])}
    assert AdaptiveTeaching().loss(Outputs(drawn(0, 4, 3)), Outputs(drawn(1, 4, 3)), rows) > 0


# ------------------------------------------------------------------ the likeliest words


@pytest.mark.parametrize("objective", [each for each in FAMILY if not isinstance(each, SortedProbabilities)], ids=str)
def test_of_the_likeliest_words_a_divergence_is_a_little_too_small(objective):
    mine, theirs = student(), Outputs(3 * student(3).main.detach())
    logs = theirs.main.log_softmax(-1)
    whole = objective.loss(mine, theirs, {}).item()
    errors = []
    for kept in (4, 9, WORDS):
        best = logs.topk(kept, dim=-1)
        rest = logs.exp().scatter(-1, best.indices, 0).sum(-1).log()
        held = Outputs(LikeliestLogits(best.indices, best.values, rest, WORDS))
        errors.append(whole - objective.loss(mine, held, {}).item())
    assert errors[2] == pytest.approx(0, abs=1e-9)
    if not isinstance(objective, AdaptiveTeaching):  # it weighs what is said of other words by no probability of theirs
        assert errors[0] > errors[1] > 0
        assert errors[1] < 0.3 * whole


# ------------------------------------------------------------------ relations


def test_relations_are_a_divergence_of_attention_among_themselves():
    mine, theirs = drawn(0, 2, 4, 6), drawn(1, 2, 4, 12)
    found = relation_loss(mine, theirs, 3).item()
    wanted = []
    for row in range(2):
        for head in range(3):
            sides = [each[row, :, head * size : (head + 1) * size] for each, size in ((theirs, 4), (mine, 2))]
            p, q = (torch.softmax(each @ each.T / math.sqrt(each.shape[1]), -1) for each in sides)
            wanted.append(plain_kl(p, q).mean())
    assert found == pytest.approx(torch.stack(wanted).mean().item())
    assert relation_loss(mine, mine.clone(), 2).item() == 0


def relations(seed, mask=None, sizes=(32, 16, 16)):
    made = Outputs(torch.zeros(2, 2), mask=mask)
    for at, (kind, size) in enumerate(zip(("query", "key", "value"), sizes, strict=True)):
        made = made.having(kind, {"block": drawn(seed + at, 2, 6, size)})
    return made


def test_documents_in_one_row_have_no_relations_and_padding_none():
    mask, positions = torch.ones(2, 6, dtype=torch.long), torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])
    mask[1, 4:] = 0
    objective = QueryKeyValueRelations()
    mine, theirs = relations(0, mask), relations(10, mask, (64, 32, 32))
    before = objective.loss(mine, theirs, {"position_ids": positions}).item()

    def changed(row, at):
        other = mine
        for kind in ("query", "key", "value"):
            states = mine.of(kind)["block"].clone()
            states[row, at] += 5
            other = other.having(kind, {"block": states})
        return objective.loss(other, theirs, {"position_ids": positions}).item()

    assert changed(1, 5) == before
    assert changed(0, 4) != before
    alone = [relations(seed, mask, sizes) for seed, sizes in ((0, (32, 16, 16)), (10, (64, 32, 32)))]
    parts = [
        Outputs(torch.zeros(1, 2), {name: each[:1, cut] for name, each in made.features.items()}, mask[:1, cut])
        for cut in (slice(0, 3), slice(3, 6))
        for made in alone
    ]
    apart = (objective.loss(parts[0], parts[1], {}) + objective.loss(parts[2], parts[3], {})).item() / 2
    first = [Outputs(torch.zeros(1, 2), {name: each[:1] for name, each in made.features.items()}, mask[:1]) for made in alone]
    assert objective.loss(*first, {"position_ids": positions[:1]}).item() == pytest.approx(apart)


def anatomy(*blind):
    """Blocks of two heads of four features, of which some have no attention left."""
    attention = SimpleNamespace(heads=2, head_size=4, key_value_groups=2)
    blocks = {f"layer.{at}": SimpleNamespace(id=f"layer.{at}", attention=None if at in blind else attention) for at in range(3)}
    return SimpleNamespace(blocks=tuple(blocks.values()), block=blocks.__getitem__)


def test_relations_are_of_the_students_last_block_and_the_one_that_is_asked_for():
    mine, theirs = QueryKeyValueRelations(layer=-3).wants(anatomy(0), anatomy())
    assert [(each.kind, each.block) for each in sorted(mine.features, key=str)] == [
        (kind, "layer.2") for kind in ("key", "query", "value")
    ]
    assert {each.block for each in theirs.features} == {"layer.0"}
    for layer in (3, -4):
        with pytest.raises(UnsupportedModel, match=f"layer {layer}: the teacher has 3 blocks, and the student 3"):
            QueryKeyValueRelations(layer=layer).wants(anatomy(), anatomy())
    with pytest.raises(UnsupportedModel, match="the teacher has 3 blocks, and the student 0"):
        QueryKeyValueRelations().wants(SimpleNamespace(blocks=(), block=None), anatomy())
    with pytest.raises(UnsupportedModel, match=r"layer.2 of the student has no attention left"):
        QueryKeyValueRelations().wants(anatomy(2), anatomy())
    with pytest.raises(UnsupportedModel, match="heads: 3 does not divide the 8 features of a query of the student"):
        QueryKeyValueRelations(heads=3).wants(anatomy(), anatomy())


# ------------------------------------------------------------------ the likeliest words, and the rest among themselves


def test_top_k_targets_take_a_divergence_apart():
    """By the chain rule the two parts, the second times the probability of the rest, are the divergence of all words."""
    mine, theirs = drawn(1, 6, 20), drawn(2, 6, 20)
    first, second = (top_k_values(mine, theirs, k=4, balance=balance) for balance in (1.0, 0.0))
    rest = 1 - theirs.softmax(-1).topk(4).values.sum(-1)
    whole = kl(theirs.log_softmax(-1), mine.log_softmax(-1))
    torch.testing.assert_close(first + rest * second, whole, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(top_k_values(mine, theirs, k=4), (first + second) / 2, rtol=1e-10, atol=1e-12)
    assert top_k_values(theirs + 3, theirs, k=4).abs().max() < 1e-12
    torch.testing.assert_close(top_k_values(mine, theirs, k=20, balance=1.0), whole, rtol=1e-10, atol=1e-12)


def test_gradient_of_top_k_targets_is_finite_and_that_of_finite_differences():
    mine, theirs = drawn(3, 2, 9).requires_grad_(), 40 * drawn(4, 2, 9)
    assert torch.autograd.gradcheck(lambda logits: top_k_values(logits, theirs, k=3).sum(), (mine,))


def test_top_k_targets_look_at_a_share_of_the_words_or_at_so_many():
    mine, theirs = drawn(5, 3, 40), drawn(6, 3, 40)
    chunk, teacher = every_token(Outputs(mine), {}), Outputs(theirs)
    torch.testing.assert_close(TopKTargets().values(chunk, teacher), top_k_values(mine, theirs, k=2))
    torch.testing.assert_close(TopKTargets(k=7, balance=0.9).values(chunk, teacher), top_k_values(mine, theirs, k=7, balance=0.9))
