"""Language modelling: each token of a text told from those before it, in documents, completions of prompts, or chats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compressor.contracts import (
    Batch,
    Columns,
    Data,
    Deployment,
    Evaluation,
    Feed,
    Graph,
    InputSizes,
    Measure,
    Outputs,
    Port,
    Prediction,
    Recipe,
    Seen,
    Session,
    Task,
    Want,
    Witnessed,
    Workload,
    sizes_of,
)
from compressor.contracts.recipe import spread
from compressor.contracts.records import Difference
from compressor.errors import SourceError
from compressor.tasks.batches import alike, grouped
from compressor.tasks.language import decoding, likelihood, people
from compressor.tasks.language.cache import INPUTS, LOGITS, OUTPUTS, answered, example_of, graph_of
from compressor.tasks.language.columns import Content
from compressor.tasks.language.documents import Document, Window, documents_of, windows_of
from compressor.tasks.language.packing import PackedBatches, epoch_of, packed
from compressor.tasks.language.prompts import prompt_feeds
from compressor.tasks.language.scoring import collected, fed, last_logits, padded, scored, scored_feeds
from compressor.tasks.reading import values_of

if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Model

LONGEST = 2**17
"""Tokens that `max_length` may ask for."""
TIMED_LENGTH, TIMED_STEPS = 128, 32
"""What is timed by itself: so many tokens of a prompt, and so many after it."""
MEASURED = 2000
"""Rows of each split whose size is measured."""
SPLITS = ("train", "validation", "test")
LENGTH_SPREAD = 2.0
"""Tokens by which lengths are blurred before windows of like lengths are batched."""
FED = ("input_ids", "position_ids")


class CausalLM(Task):
    """Texts, prompts with completions or chats, by a transformers model that tells each token from those before it."""

    repeats_rows: ClassVar[bool] = True
    counts: ClassVar[Literal["rows", "tokens"]] = "tokens"
    requires: ClassVar[tuple[str, ...]] = ("tokenizers",)
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"max_length": 64},)

    text: str | None = Field(default=None, description="Column of the texts; `text` where no other column is named.")
    prompt: str | None = Field(default=None, description="Column of what is asked, which is read and not learned.")
    completion: str | None = Field(default=None, description="Column of what follows the prompt: the loss and scores are of it.")
    messages: str | None = Field(
        default=None,
        description="Column of chats, lists of {role, content}: written by the model's own template, the assistant's turns count.",
    )
    max_length: int = Field(
        default=512,
        ge=4,
        le=LONGEST,
        description="Most tokens that a model is given at a time; a longer text is read in parts, of a longer prompt the end.",
    )
    packing: bool = Field(default=True, description="Train on several documents in one row, none of which sees another.")
    end: bool = Field(
        default=True, description="Put the token that ends a text after each: it is learned and scored like others."
    )

    @model_validator(mode="after")
    def _reads_one_way(self) -> Self:
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion are named together")
        if sum(each is not None for each in (self.text, self.prompt, self.messages)) > 1:
            raise ValueError("rows are texts, prompts with completions, or messages: name the columns of one of the three")
        if self.prompt is not None and self.prompt == self.completion:
            raise ValueError(f"prompt and completion are both column '{self.prompt}'")
        return self

    @property
    def content(self) -> Content:
        """Which columns hold what."""
        if self.messages is not None:
            return Content(messages=self.messages)
        if self.prompt is not None and self.completion is not None:
            return Content(prompt=self.prompt, completion=self.completion)
        return Content(text=self.text or "text")

    def measures(self) -> tuple[Measure, ...]:
        """Perplexity, bits per byte (which models of other tokenizers are compared by), next-token accuracy."""
        return likelihood.MEASURES

    def columns(self) -> Columns:
        """Texts, prompt and completion, or messages."""
        return Columns(self.content.columns)

    def scores_classes(self) -> bool:
        """Tokens are no classes of rows."""
        return False

    def workloads(self) -> tuple[Workload, ...]:
        """A prompt, and single tokens after it."""
        length = min(TIMED_LENGTH, self.max_length)
        return (Workload(kind="prefill", length=length), Workload(kind="decode", length=length, steps=TIMED_STEPS))

    # -------------------------------------------------------------- rows

    def encoded(self, data: Data) -> Data:
        """Rows as they are: their columns hold what they should."""
        content = self.content
        for name, rows in data.splits.items():
            for column in content.columns:
                for at, value in enumerate(values_of(rows, column)):
                    content.check(value, f"{data.place(name, at)}: column '{column}'")
        return data

    def sizes(self, data: Data, files: Path) -> InputSizes:
        """Tokens of each document."""
        from compressor.model.positions import positions_in
        from compressor.tasks.tokenization import tokenization

        rows = {name: data.split(name) for name in SPLITS}
        some = {name: split.select(spread(len(split), MEASURED)) for name, split in rows.items()}
        documents = [each.ids for split in some.values() for each in self._documents(split, files)]
        most = positions_in(files) or LONGEST
        found = sizes_of(
            [len(each) for each in documents],
            limit=self.max_length,
            unit="tokens",
            of="documents",
            parameter="max_length",
            timed=self._timed,
        )
        share = len(some["train"]) / len(rows["train"])
        return found.model_copy(
            update={
                "epoch": epoch_of(self._windows(some["train"], files), self.max_length, packing=self.packing, share=share),
                "fits": min(max(4, -(-int(found.p99) // 8) * 8), most, LONGEST),
                "computed": min(found.median, self.max_length),
                "unknown": tokenization(files).unknown_share(documents),
            }
        )

    @property
    def _timed(self) -> int:
        return min(TIMED_LENGTH, self.max_length)

    def check_rows(self, model: Model, data: Data, files: Path) -> None:
        """Every token has an embedding, and something counts in every split.

        Raises:
            SourceError: one has none, or nothing does.
        """
        known = model.module.get_input_embeddings().weight.shape[0]
        for name, rows in data.splits.items():
            documents = self._documents(rows, files)
            at = next((at for at, each in enumerate(documents) if int(each.ids.max(initial=0)) >= known), None)
            if at is not None:
                raise SourceError(
                    f"{data.place(name, at)}: the tokenizer makes token {int(documents[at].ids.max())} of it, and the model has "
                    f"embeddings of 0 to {known - 1} only: take the tokenizer that the model was trained with"
                )
            if not any(each.counted.any() for each in documents):
                raise SourceError(f"no row of {name} has a token that is told from one before it: all are of one token")

    def refuses(self, length: int, files: Path | None = None) -> str | None:
        """More tokens than the model has positions for."""
        from compressor.model.positions import positions_in

        most = positions_in(files) if files else None
        return (
            None if most is None or length <= most else f"{length} is beyond what the model has positions for: {most} tokens fit"
        )

    def _documents(self, rows: Dataset, files: Path) -> Sequence[Document]:
        return documents_of(self.content, rows, files, end=self.end)

    def _windows(self, rows: Dataset, files: Path) -> list[Window]:
        return windows_of(self._documents(rows, files), self.max_length, whole=self.content.answers)

    # -------------------------------------------------------------- models

    def load(self, source: Path, data: Data, *, seed: int) -> Model:  # noqa: ARG002 - nothing is drawn, labels there are none
        """The model in a folder, with its tokenizer and template.

        Raises:
            SourceError: the folder is not usable, or holds no language model of a kind that is taken.
        """
        from compressor.tasks.language.sources import load

        return load(source, self.max_length, chats=self.messages is not None)

    def examine(self, source: Path, labels: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG002 - there are none
        """What kind of language model it is."""
        from compressor.tasks.language.sources import examine

        return examine(source, self.max_length, chats=self.messages is not None)

    # -------------------------------------------------------------- graphs

    def inputs(self, model: Model | Path) -> tuple[Port, ...]:  # noqa: ARG002 - they are those of every model
        """Token ids, which of all tokens are text, and which logits are wanted."""
        return INPUTS

    def outputs(self) -> tuple[Port, ...]:
        """Logits of the wanted places."""
        return OUTPUTS

    def graphs(self, files: Model | Path) -> tuple[Graph, ...]:
        """One, with a cache that goes round."""
        return (graph_of(files),)

    def example(self, files: Path, graph: Graph, *, batch: int, length: int) -> Feed:  # noqa: ARG002 - the graph says it all
        """Made-up tokens after a filled cache."""
        return example_of(graph, batch=batch, length=length)

    def answer(self, module: torch.nn.Module, graph: Graph, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Logits, keys and values."""
        return answered(module, graph, inputs)

    # -------------------------------------------------------------- calls

    def prepare(self, session: Session, feed: Feed, workload: Workload) -> object:
        """For decoding, a cache filled by the prompt."""
        return decoding.filled(session, feed) if workload.kind == "decode" else None

    def call(self, session: Session, feed: Feed, workload: Workload = Workload(), prepared: Any = None) -> Feed:
        """Logits of a pass, what tokens cost where they are given too, or the most probable tokens one after the other."""
        if workload.kind == "forward":
            return scored(session, feed) if "targets" in feed else session.run(feed)[0]
        start = prepared or decoding.filled(session, feed)
        if workload.kind == "decode":  # the first token is there with the cache: it takes no call
            return {"tokens": decoding.decoded(session, start, 1 + (workload.steps or 1))[:, 1:]}
        return {"tokens": decoding.decoded(session, start, 1 if workload.kind == "prefill" else workload.steps or 1)}

    # -------------------------------------------------------------- training

    def batches(self, rows: Dataset, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:
        """Rows of tokens with labels. Shuffled ones hold several documents each where `packing` says so; else a window a row.

        `row` has the numbers of the documents, `window` those of their parts as they are counted where nothing is shuffled: `[batch]` or
        `[batch, most]`, there filled up with -1.
        """
        import numpy as np

        from compressor.tasks.tokenization import tokenization

        windows = self._windows(rows, files)
        lengths = [len(each.document.ids) for each in windows]
        pad = int(tokenization(files).settings["pad_id"])
        alone = [[number] for number in range(len(windows))]
        groups: list[Sequence[Sequence[int]]]
        if shuffle_seed is None:
            groups = grouped(alone, batch_size)
        elif self.packing:
            made = packed(lengths, self.max_length)
            order = np.random.default_rng(shuffle_seed).permutation(len(made)).tolist()
            groups = grouped([made[number] for number in order], batch_size)
        else:
            chosen = alike(lengths, batch_size, np.random.default_rng(shuffle_seed), spread=LENGTH_SPREAD)
            groups = [[alone[number] for number in group] for group in chosen]
        return PackedBatches(windows, groups, pad)

    def forward(self, module: torch.nn.Module, batch: Batch, want: Want = Want()) -> Outputs:
        """Logits of every token, put off, and features of blocks; documents in one row are told apart by their positions."""
        from compressor.model.capture import captured
        from compressor.model.token_losses import token_logits

        with captured(module, want) as features:
            logits = token_logits(module, {name: batch[name] for name in FED}, likelihood.ahead(batch["labels"]))
        return Outputs(logits, dict(features), batch["attention_mask"])

    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:  # noqa: ARG002 - outputs know what they are to tell
        """What a token that counts costs, in nats."""
        from compressor.model.token_losses import mean_cross_entropy

        assert outputs.tokens is not None, "forward puts logits off"
        return mean_cross_entropy(outputs.tokens)

    def weight(self, batch: Batch) -> float:
        """Tokens that count."""
        return likelihood.counted(batch["labels"])

    # -------------------------------------------------------------- scores

    def feeds(self, rows: Dataset, files: Path, workload: Workload = Workload(), *, count: int | None = None) -> Sequence[Feed]:
        """Windows of documents, or prompts where the model is to go on; of a length, texts one after the other in rows of it, nothing padded."""
        import numpy as np

        if workload.length is None and workload.kind != "forward":
            room = max(1, self.max_length - (workload.steps or 1))
            documents, answers = self._documents(rows, files), self.content.answers
            return prompt_feeds(documents, batch=workload.batch, count=count, room=room, answers=answers)
        if workload.length is None:
            windows = [each.document.ids for each in self._windows(rows, files)]
            order = np.resize(np.arange(len(windows)), max(len(windows) // workload.batch, 1) * workload.batch)
            groups = [[windows[number] for number in group] for group in grouped(order.tolist(), workload.batch)]
            return [fed(*padded(group)) for group in groups[:count]]
        every = np.concatenate([each.ids for each in self._documents(rows, files)]).astype(np.int64)
        size = workload.batch * workload.length
        found = np.resize(every, (min(count or 1, max(1, len(every) // size)), workload.batch, workload.length))
        return [fed(ids, np.ones_like(ids)) for ids in found]

    def scored_feeds(self, rows: Dataset, files: Path) -> tuple[Sequence[Feed], Sequence[int]]:
        """All windows, those of like lengths together, with the tokens that are to be told."""
        return scored_feeds(self._windows(rows, files), files)

    def collected(self, predict: Callable[[Feed], Feed], feeds: Sequence[Feed], order: Sequence[int]) -> Feed:
        """Of each document what its tokens cost, how many there are, and the likeliest words of some; see `scoring`."""
        return collected(predict, feeds, order)

    def answers(self, predict: Callable[[Feed], Feed], feeds: Sequence[Feed], order: Sequence[int]) -> Feed:
        """Logits after the newest token of each document."""
        return {LOGITS: last_logits(predict, feeds, order)}

    def predictions(self, outputs: Feed) -> NDArray[Any]:
        """The likeliest word of each token that is looked at, or after the newest one."""
        found: NDArray[Any] = outputs["words"][..., 0] if "words" in outputs else outputs[LOGITS].argmax(-1)
        return found

    def truth(self, rows: Dataset) -> Feed:  # noqa: ARG002 - it lies in the tokens
        """Nothing beside the texts."""
        return {}

    def score(self, outputs: Feed, truth: Feed, *, split: str) -> Evaluation:  # noqa: ARG002 - it lies in the tokens
        """Perplexity and its kin with intervals over documents."""
        return likelihood.evaluation(outputs, split=split)

    def compare(self, candidate: Evaluation, reference: Evaluation, *, metric: str, name: str, seed: int) -> Difference:
        """By what the tokens of equal documents cost."""
        return likelihood.compared(candidate, reference, metric=metric, name=name, seed=seed)

    # -------------------------------------------------------------- people

    def deployment(self, files: Path, inputs: Sequence[Port]) -> Deployment:  # noqa: ARG002 - they are those of every model
        """By the tokenizer, and tokens one after the other until one ends the text."""
        return people.deployment(files, self.max_length, chats=self.messages is not None)

    def feed(self, content: Any, files: Path) -> Feed:
        """Inputs of one text, or of a list of messages."""
        return people.feed(content, files, self.max_length, chats=self.messages is not None)

    def tell(self, outputs: Feed, labels: Sequence[str]) -> tuple[Prediction, ...]:
        """The tokens of each row, or those that are most probable after it; by their numbers, where `labels` do not spell them."""
        return people.tell(outputs, labels)

    def witnessed(self, session: Session, content: Any, files: Path) -> Witnessed | None:
        """What a model makes of the beginning of a row, and how it goes on with it."""
        return people.witnessed(self, session, content, files)

    def tiny(self, folder: Path) -> dict[str, Any]:
        """A tiny random Llama with a tokenizer of bytes, and its rows."""
        from compressor.tasks.tiny import documents, language_model

        language_model(folder / "pretrained")
        return documents(folder, self.content.columns)

    @classmethod
    def recipe(cls, seen: Seen) -> Recipe | None:
        """Texts that have no label, or prompts with completions, by a model that goes on with texts."""
        return people.recipe(seen)
