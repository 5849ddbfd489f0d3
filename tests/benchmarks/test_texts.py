"""What models write, looked at: perplexity by place, loops, numbers that are not finite, right answers, draft models."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.generated_texts import GeneratedTexts
from benchmarks.stability import Stability
from benchmarks.texts import Texts, Written, loops, share, written
from compressor.contracts import Candidate, Workload
from compressor.contracts.records import OtherRecord
from compressor.deploy.build import Builder
from compressor.run.results import verdicts_of_probes
from compressor.store import Store
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.language.prompts import ANSWER, answers_in
from compressor.tasks.tiny import language_model
from targets.eager import EagerTorch

TEXTS = ("word1 red word2 blue word3 green", "a word and another one, and more of them: " * 2, "word7", "red word4 blue")


class Heard:
    """A bench that only hears what is told."""

    def __init__(self):
        self.told = []

    def tell(self, event):
        self.told.append(event)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    language_model(root / "source")
    return root


@pytest.fixture(scope="module")
def candidate(place):
    """Builds the model, changed, for eager torch."""
    task, target = CausalLM(max_length=48), EagerTorch()

    def build(stage, change=lambda module: None) -> Candidate:
        model = task.load(place / "source", None, seed=0)
        with torch.no_grad():
            change(model.module)
        store = Store(place / f"store-{stage}")
        made = store.obtain({"stage": stage}, lambda out: model.save(out) or {})
        builder = Builder(store, task, "causal-lm", (), {})
        lowered = builder.lower(made, "torch", target.dialect.format, target)
        return builder.build(lowered, stage=stage, name="pytorch", target=target, out=place / stage)[0]

    return build


@pytest.fixture(scope="module")
def source(candidate):
    return candidate("source")


def feeds(probe, files, rows=None, **task):
    found = datasets.Dataset.from_dict(rows or {"text": list(TEXTS)})
    return {each: CausalLM(max_length=48, **task).feeds(found, files, each, count=16) for each in probe.workloads()}


def looked(probe, *candidates, **given):
    record = probe.measure(candidates, feeds(probe, candidates[0].built, **given), Heard(), seed=0)
    assert OtherRecord.model_validate_json(record.model_dump_json()) == record
    return record


# ------------------------------------------------------------------ stability


def test_perplexity_by_place_is_that_of_whole_passes(source, place):
    curve, table, summed = looked(Stability(buckets=2, prompts=0), source).notes
    task, nats = CausalLM(max_length=48), {}
    module = task.load(place / "source", None, seed=0).module.requires_grad_(False)
    for feed in feeds(Stability(), source.built)[Workload()]:
        ids = torch.from_numpy(feed["input_ids"][:, feed["attention_mask"][0] != 0])
        for at, cost in enumerate(torch.nn.functional.cross_entropy(module(ids).logits[0, :-1], ids[0, 1:], reduction="none")):
            nats.setdefault(at, []).append(float(cost))
    half = -(-len(nats) // 2)
    for row, places in zip(table.rows, (range(half), range(half, len(nats))), strict=True):
        own = [cost for at in places for cost in nats[at]]
        assert row[1] == f"{places[0] + 2} to {min(places[0] + half, len(nats)) + 1}"
        assert row[2:] == (len(own), pytest.approx(np.exp(np.mean(own)), rel=1e-4))
    assert [value for _, value in curve.curves["source@pytorch"]] == pytest.approx([row[3] for row in table.rows], abs=1e-3)
    assert summed.rows == (("source@pytorch", 0, None, None, 0),)


def test_a_model_that_says_one_thing_loops_after_every_prompt(source, candidate):
    stuck = candidate("stuck", lambda module: module.model.norm.weight.zero_())  # says token 0
    probe = Stability(prompts=4, prompt=5, steps=20)
    assert looked(probe, source, stuck).notes[-1].rows[1][:4] == ("stuck@pytorch", 4, share(0, 4), share(4, 4)), (
        "which ends a text"
    )
    (stuck.built / "generation_config.json").write_text('{"eos_token_id": [1]}')
    rows = looked(probe, source, stuck).notes[-1].rows
    assert rows[1][:4] == ("stuck@pytorch", 4, share(4, 4), share(0, 4))
    assert rows[0][2] != rows[1][2]


def test_numbers_that_are_not_finite_fail_whatever_a_plan_accepts_by(source, candidate):
    probe = Stability(prompts=2, prompt=4, steps=6)
    token = int(feeds(probe, source.built)[Workload()][0]["input_ids"][0, 5])
    broken = candidate("broken", lambda module: module.model.embed_tokens.weight[token].fill_(float("nan")))
    record = looked(probe, source, broken)
    assert record.not_finite["source@pytorch"] == 0
    assert record.not_finite["broken@pytorch"] > 0
    (verdict,) = verdicts_of_probes([record])
    assert (verdict.gate, verdict.candidate, verdict.quantity, verdict.outcome) == (
        "stability",
        "broken@pytorch",
        "finite",
        "not met",
    )


def test_a_text_that_is_too_short_for_a_length_is_not_told_again(source):
    probe, rows = Stability(length=40, prompts=0, buckets=2), {"text": ["word1 red"] * 1 + ["word2 b"]}
    *_, remark = looked(probe, source, rows=rows).notes
    tokens = sum(len(each.ids) for each in CausalLM()._documents(datasets.Dataset.from_dict(rows), source.built))
    assert remark.text == f"Test has {tokens} tokens for a row of 40: nothing is said of places beyond."
    whole = looked(probe, source, rows={"text": [" ".join(f"word{n} red" for n in range(30))]}).notes
    assert [note.kind for note in whole] == ["series", "table", "table"]


def test_of_other_tasks_only_outputs_are_looked_at():
    assert Stability().suited((Workload(),)).workloads() == (Workload(),)
    own = CausalLM().workloads()
    assert [each.kind for each in Stability().suited(own).workloads()] == ["forward", "generate"]


# ------------------------------------------------------------------ loops


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.lists(st.integers(10, 19), max_size=8), st.integers(3, 6))
def test_a_piece_that_comes_again_and_again_at_the_end_is_a_loop(piece, before, times):
    assert loops([*before, *piece * times]) or len(piece) * times < 12
    assert not loops([*piece * times, *range(100, 112)])


def test_a_text_that_says_nothing_again_does_not_loop():
    assert not loops(list(range(100)))
    assert not loops([1] * 11)
    assert loops([1] * 12)
    assert not loops([])


def test_pieces_that_stood_before_are_counted():
    assert Written((), (1, 2, 3, 4, 1, 2, 3, 4), False, None).repeated == pytest.approx(1 / 5)
    assert Written((), (1, 2), False, None).repeated == 0


def test_a_share_has_the_interval_of_its_score():
    assert share(3, 16) == "18.8% (6.6% to 43.0%)"  # Wilson
    assert share(0, 10) == "0.0% (0.0% to 27.8%)"
    assert share(0, 0) == "none"


# ------------------------------------------------------------------ texts


ASKED = {"prompt": ["word1 red", "word2", "word3 blue green"], "completion": [" word2", " blue and more", " a"]}
COLUMNS = {"prompt": "prompt", "completion": "completion"}


def test_prompts_are_those_of_the_rows_with_their_answers(source):
    probe = GeneratedTexts(prompts=32, steps=6)
    (found, *_) = feeds(probe, source.built, ASKED, **COLUMNS)[probe.workloads()[0]]
    documents = CausalLM(max_length=48, **COLUMNS)._documents(datasets.Dataset.from_dict(ASKED), source.built)
    starts = [int(each.counted.argmax()) for each in documents]
    whole = [tuple(each.ids[start:].tolist()) for start, each in zip(starts, documents, strict=True)]
    assert answers_in(found, ()) == whole[:2]
    assert answers_in(found, (whole[0][-1],))[0] == whole[0][:-1]
    assert found["attention_mask"].sum(axis=1).tolist() == starts[:2]


def test_right_answers_are_counted_as_texts(source, candidate):
    probe = GeneratedTexts(prompts=3, steps=6, shown=1)
    asked = feeds(probe, source.built, ASKED, **COLUMNS)
    (workload,) = probe.workloads()
    made = written(source.runtime.open(source.built), asked[workload], 6, (), most=3)
    assert isinstance(made, Texts)
    assert len(made.all) == 3
    assert len(written(source.runtime.open(source.built), asked[workload], 6, (), most=2).all) == 2
    asked[workload][0][ANSWER] = np.array([made.all[0].tokens])
    record = probe.measure((source,), asked, Heard(), seed=0)
    (row,) = record.notes[0].rows
    assert dict(zip(record.notes[0].columns, row, strict=True))["right answers"] == share(1, 3)
    other = looked(probe, source, candidate("noisy", noise), rows=ASKED, **COLUMNS).notes
    assert other[0].columns[-1] == "same tokens as source@pytorch"
    assert other[0].rows[0][-1] is None
    assert not other[0].rows[1][-1].startswith("100.0%")
    assert [row[0] for row in other[-1].rows] == ["source@pytorch", "noisy@pytorch"]


def noise(module):
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter += 0.15 * parameter.std() * torch.randn_like(parameter)


def test_tokens_are_drawn_by_the_seed(source):
    probe = GeneratedTexts(prompts=3, steps=8, sampling={"temperature": 1.5})
    once, again, other = (
        probe.measure((source,), feeds(probe, source.built), Heard(), seed=seed).notes[-1].rows for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


def test_a_draft_model_is_timed_beside_the_model_alone(source, candidate):
    def final(each):
        return Candidate("final@pytorch", "final", "pytorch", each.runtime, each.built, each.task)

    probe = GeneratedTexts(prompts=2, steps=8, draft={"ahead": 3}, shown=0)
    raced = looked(probe, source, final(source)).notes[-1]
    found = dict(zip(raced.columns, raced.rows[0], strict=True))
    assert found["accepted"] == "100.0%"
    assert 1 < found["tokens a call"] <= 4
    assert found["tokens/s alone"] > 0
    worse = looked(probe, source, final(candidate("worse", noise))).notes[-1]
    assert 1 <= worse.rows[0][2] < found["tokens a call"]
    lacking = looked(GeneratedTexts(prompts=2, steps=4, draft={"stage": "cut"}), source, final(source)).notes[-1]
    assert lacking.text.startswith("No speculative decoding on pytorch, which has no model 'cut' (there are source, final; ")
    other = looked(GeneratedTexts(prompts=2, steps=4, draft={"of": "final", "stage": "source"}), source, final(source)).notes[-1]
    assert other.rows[0][:2] == ("final@pytorch", "source@pytorch")
