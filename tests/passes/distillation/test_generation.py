"""Batches that models write: reproducible, without gradients, the same with and without a cache, and drawn as they should be."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from compressor.contracts import registry  # noqa: F401 - plug-ins are found by it
from compressor.errors import UnsupportedModel
from compressor.model import Model
from compressor.model.sampling import continued, drawn, uniforms
from compressor.tasks.tiny import language_model
from passes.distillation.distill import Distill
from passes.distillation.generation import Generation, ends_of

IGNORED = -100


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    import transformers

    found = []
    for name, layers in (("student", 1), ("teacher", 2)):
        folder = tmp_path_factory.mktemp(name)
        language_model(folder, num_hidden_layers=layers, attention_dropout=0.3)
        found.append(transformers.AutoModelForCausalLM.from_pretrained(folder).train())
    return found


@pytest.fixture
def batch():
    """Two documents in the first row, a prompt of three tokens with its answer in the second."""
    ids = torch.randint(5, 90, (2, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, [0, 7]], labels[1, :3], labels[1, 10:] = IGNORED, IGNORED, IGNORED
    positions = torch.tensor([[*range(7), *range(5)], [*range(10), 0, 1]])
    mask = torch.tensor([[1] * 12, [1] * 10 + [0] * 2])
    rows = torch.tensor([[4, 9], [5, -1]])
    return {"input_ids": ids, "labels": labels, "position_ids": positions, "attention_mask": mask, "row": rows}


def plain_choice(logits, uniform, temperature, top_p):
    """One row, by a walk through the probabilities."""
    order = logits.argsort(descending=True).tolist()
    shares = torch.softmax(logits.double() / temperature, -1)
    kept, total = [], 0.0
    for token in order:
        if total >= top_p:
            break
        kept.append(token)
        total += shares[token].item()
    walked = 0.0
    for token in kept:
        walked += shares[token].item()
        if walked > uniform * total:
            return token
    return kept[-1]


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 0.6), (2.0, 0.05)])
def test_tokens_are_drawn_by_their_probabilities(temperature, top_p):
    logits = 2 * torch.randn(50, 11, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(1)).double()
    found = drawn(logits, uniform, temperature=temperature, top_p=top_p).tolist()
    assert found == [plain_choice(*each, temperature, top_p) for each in zip(logits, uniform.tolist(), strict=True)]


def test_drawn_tokens_come_as_often_as_they_are_probable():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    uniform = uniforms(3, range(20_000), 1, torch.device("cpu"))[:, 0]
    counts = torch.bincount(drawn(logits.expand(20_000, -1), uniform), minlength=4) / 20_000
    torch.testing.assert_close(counts, logits.softmax(-1), atol=0.012, rtol=0)  # 3.4 standard errors
    assert drawn(logits[None], uniform[:1], temperature=0).item() == 0


def test_what_is_written_with_a_cache_is_what_whole_passes_write(models):
    student = models[0]
    prompts = [torch.tensor([7, 8, 9, 10]), torch.tensor([11, 12])]
    ids = torch.stack([prompts[0], torch.cat((torch.zeros(2, dtype=torch.long), prompts[1]))])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    found = continued([student], ids, mask, count=6, choose=lambda _, logits: logits[0].argmax(-1))
    assert student.training, "as it was before"
    student.eval()
    for prompt, made in zip(prompts, found, strict=True):
        whole = prompt
        for _ in range(6):
            with torch.no_grad():
                whole = torch.cat((whole, student(whole[None]).logits[0, -1:].argmax(-1)))
        assert made.tolist() == whole[len(prompt) :].tolist()
    student.train()


@pytest.mark.parametrize("by", ["student", "teacher", "both"])
def test_rows_are_written_after_their_beginnings_and_the_same_again(by, models, batch):
    given = Generation(by=by, prompt=4, tokens=5)
    made, again, later = (given.written(batch, *models, seed=1, step=step) for step in (2, 2, 3))
    assert all(torch.equal(tensor, again[name]) for name, tensor in made.items())
    assert not torch.equal(made["input_ids"], later["input_ids"])
    for row, length in enumerate((4, 3)):
        assert made["input_ids"][row, :length].tolist() == batch["input_ids"][row, :length].tolist()
        counted = made["labels"][row] >= 0
        assert counted.nonzero()[0] == length
        assert torch.equal(made["labels"][row][counted], made["input_ids"][row][counted])
        assert int(made["attention_mask"][row].sum()) == length + int(counted.sum())
    assert made["row"].tolist() == [4, 5]
    assert not any(tensor.requires_grad for tensor in made.values())
    assert all(each.grad is None for model in models for each in model.parameters())


def test_a_batch_in_parts_is_written_as_in_one(models, batch):
    given = Generation(prompt=4, tokens=5)
    whole = given.written(batch, *models, seed=1, step=2)
    for row in range(2):
        part = given.written({name: tensor[row : row + 1] for name, tensor in batch.items()}, *models, seed=1, step=2)
        size = int(part["attention_mask"].sum())
        assert part["input_ids"][0, :size].tolist() == whole["input_ids"][row, :size].tolist()


def test_nothing_is_written_after_the_end_of_a_text(models, batch):
    first = Generation(prompt=4, tokens=5, temperature=0).written(batch, *models, seed=1, step=2)
    ends = [2, int(first["input_ids"][0, 5])]
    made = Generation(prompt=4, tokens=5, temperature=0).written(batch, *models, seed=1, step=2, ends=ends)
    assert int((made["labels"][0] >= 0).sum()) == 2
    assert made["position_ids"][0, 6:].tolist() == list(range(made["input_ids"].shape[1] - 6))


def test_no_more_tokens_are_made_once_all_rows_are_over(models):
    ids, asked = torch.tensor([[7, 8], [9, 10]]), []

    def choose(at, logits):
        asked.append(at)
        return torch.tensor([3, 5 - at])

    made = continued(models[:1], ids, torch.ones_like(ids), count=9, choose=choose, ends=(3,))
    assert made.tolist() == [[3, 3, 3], [5, 4, 3]]
    assert asked == [0, 1, 2]
    assert continued(models[:1], ids, torch.ones_like(ids), count=2, choose=choose).shape == (2, 2)


def test_a_text_ends_as_what_lies_beside_the_model_says(models):
    model = Model.wrap(models[0])
    assert ends_of(model) == (models[0].config.eos_token_id,)
    model.files["generation_config.json"] = b'{"eos_token_id": [7, 9]}'
    assert ends_of(model) == (7, 9)
    model.files["generation_config.json"] = b'{"temperature": 0.6}'
    assert ends_of(model) == (models[0].config.eos_token_id,)


def test_of_both_the_students_tokens_stand_among_the_teachers_likeliest(models, batch):
    words = models[0].config.vocab_size
    mine, theirs, every, one = (
        Generation(prompt=4, tokens=6, **given).written(batch, *models, seed=1, step=2)["input_ids"]
        for given in (
            {"by": "student"},
            {"by": "teacher", "temperature": 0},
            {"by": "both", "accepted": words},
            {"by": "both", "accepted": 1, "teacher_temperature": 0},
        )
    )
    assert torch.equal(every, mine), "with all accepted it is the student's own"
    assert torch.equal(one, theirs), "with one accepted it is the teacher's likeliest"
    assert not torch.equal(mine, theirs)


def test_steps_train_on_what_is_written_as_often_as_share_says():
    due = [Generation(share=0.3).due(seed=5, step=step) for step in range(2000)]
    assert sum(due) / 2000 == pytest.approx(0.3, abs=0.035)
    assert due == [Generation(share=0.3).due(seed=5, step=step) for step in range(2000)]
    assert all(Generation(share=1).due(seed=5, step=step) for step in range(20))


def test_batches_of_other_tasks_and_kept_answers_are_refused(models):
    with pytest.raises(UnsupportedModel, match="these have no labels, position_ids"):
        Generation().written({"input_ids": torch.ones(1, 3)}, *models, seed=0, step=0)
    with pytest.raises(ValidationError, match="generate trains on others: leave cache_teacher out"):
        Distill(teacher="source", generate={}, cache_teacher=True)
    with pytest.raises(ValidationError, match="by student has no labels to learn from"):
        Distill(teacher="source", generate={}, objectives={"soft-targets": 0.0}, task_loss=1.0)
    with pytest.raises(ValidationError, match="by both takes one teacher, and there are 2"):
        Distill(teacher={"one": 0.5, "two": 0.5}, generate={"by": "both"})
    assert Distill(teacher="source").needs().repeats
    assert not Distill(teacher="source", generate={}).needs().repeats
