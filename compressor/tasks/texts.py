"""What tasks on texts share, or on pairs of texts: how a model's tokenizer makes its inputs, and what does not fit the model."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from compressor.contracts import Batch, Deployment, Feed, Graph, InputSizes, Port, Workload, sizes_of
from compressor.contracts.failing import rows_told
from compressor.contracts.recipe import spread
from compressor.errors import SourceError
from compressor.tasks.batches import Batches, Feeds, alike, grouped
from compressor.tasks.classification import SCORED_BATCH, OneOutput
from compressor.tasks.fitting import check_tokens, tried_first
from compressor.tasks.preprocessing import of_text
from compressor.tasks.reading import values_of
from compressor.tasks.tokenization import (
    TOKENIZER_CONFIG,
    Tokenization,
    agree_on_padding,
    check_kept,
    read_tokenizer,
    settings_in,
    shipped,
    side_files,
    tokenization,
)

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Model
    from compressor.contracts.data import Data
    from compressor.model.heads import Head

BATCH_MULTIPLE = 4
"""Batches in training are padded to a multiple of so many tokens: fewer shapes to prepare kernels for."""
LENGTH_SPREAD = 2.0
"""Tokens by which lengths are blurred before texts of like lengths are batched."""
LONGEST = 8192
"""Tokens that `max_length` may ask for."""
WHOLE = 10**6
"""Tokens: nothing is cut while texts are measured."""
FEW = 16
"""Tokens: no tokenizer adds more to a text."""
SPLITS = ("train", "validation", "test")
MASK = "attention_mask"
MEASURED = 2000
"""Rows of each split whose size is measured."""


class Texts(OneOutput):
    """Texts, or pairs of them, as the model's tokenizer makes inputs of them."""

    version: ClassVar[int] = 3
    requires: ClassVar[tuple[str, ...]] = ("tokenizers",)
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"max_length": 16},)
    problem: ClassVar[Any] = "single_label_classification"
    """What a head answers, as configurations of transformers spell it."""

    text: str | tuple[str, str] = Field(
        default="text", description="Column of the text; two columns where a row is a pair: `[premise, hypothesis]`."
    )
    max_length: int = Field(
        default=128,
        ge=2,
        le=LONGEST,
        description="Longest input in tokens; longer texts are cut, of a pair the longer one first.",
    )

    @property
    def texts(self) -> tuple[str, ...]:
        """Columns of the texts."""
        return (self.text,) if isinstance(self.text, str) else self.text

    @model_validator(mode="after")
    def _reads_other_columns(self) -> Self:
        columns = self.columns()
        read = [*columns.content, *columns.kept]
        if twice := next((name for name in read if read.count(name) > 1), None):
            raise ValueError(f"column '{twice}' is read as two things")
        return self

    @abstractmethod
    def targets(self, rows: Dataset) -> list[Any]:
        """What the loss of each row is held against."""

    def head(self, data_labels: Sequence[str]) -> tuple[str, ...]:
        """Labels of the outputs: those of the data."""
        return tuple(data_labels)

    def answers_as(self) -> Any:
        """What the head answers."""
        return self.problem

    def load(self, source: Path, data: Data, *, seed: int) -> Model:
        """The source with its own head where that fits the data, else with a fresh head drawn from `seed`.

        Raises:
            SourceError: the folder is not usable, the model has a trained head for something else, or too few positions.
        """
        from transformers import AutoModelForSequenceClassification

        from compressor import model as models
        from compressor.model.heads import load_classifier

        tokenizer = read_tokenizer(source)
        auto, labels = AutoModelForSequenceClassification, self.head(data.labels)
        module, newly_initialised = load_classifier(auto, source, labels, seed=seed, problem=self.answers_as())
        self._check_length(module, source, tokenizer)
        files = self._side_files(tokenizer, module, source)
        return models.Model.wrap(module, files, newly_initialised=newly_initialised)

    @staticmethod
    def _side_files(tokenizer: Any, module: Any, source: Path) -> dict[str, bytes]:
        agree_on_padding(tokenizer, module, source)
        files = side_files(tokenizer, module)
        check_kept(files, tokenizer, source)
        return files

    def _check_length(self, module: Any, source: Path, tokenizer: Any) -> None:
        from compressor.model.positions import positions

        most, added = positions(module), tokenizer.num_special_tokens_to_add(pair=len(self.texts) > 1)
        if self.max_length <= added:
            what = "pair of texts" if len(self.texts) > 1 else "text"
            raise SourceError(
                f"max_length {self.max_length} leaves no room: the tokenizer in {source} adds {added} tokens to each {what}"
            )
        if most is not None and self.max_length > most:
            raise SourceError(f"max_length {self.max_length} is beyond what {source} has positions for: {most} tokens fit")

    def examine(self, source: Path, labels: Sequence[str]) -> tuple[str, ...]:
        """Whose head it is."""
        tokenizer = read_tokenizer(source)
        head, module = self._head(source, labels)
        self._check_length(module, source, tokenizer)
        self._side_files(tokenizer, module, source)
        return (str(head),)

    def trained(self, source: Path, labels: Sequence[str]) -> bool:
        """Whether its head is in the folder."""
        return self._head(source, labels)[0].trained

    def _head(self, source: Path, labels: Sequence[str]) -> tuple[Head, Any]:
        from transformers import AutoModelForSequenceClassification

        from compressor.model.heads import head_in

        return head_in(AutoModelForSequenceClassification, source, self.head(labels), problem=self.answers_as())

    def sizes(self, data: Data, files: Path) -> InputSizes:
        """Tokens of each text, or pair of texts, those that the tokenizer adds included."""
        from compressor.model.positions import positions_in

        rows = [row["input_ids"] for name in SPLITS for row in self._measured(data.split(name), files)]
        lengths, unknown = [len(row) for row in rows], tokenization(files).unknown_share(rows)
        most = positions_in(files) or LONGEST
        found = sizes_of(
            lengths, limit=self.max_length, unit="tokens", of="texts", parameter="max_length", timed=min(self.max_length, most)
        )
        whole = -(-int(found.p99) // BATCH_MULTIPLE) * BATCH_MULTIPLE
        computed = min(found.median, self.max_length)
        return found.model_copy(update={"fits": min(whole, most, LONGEST), "computed": computed, "unknown": unknown})

    def _measured(self, rows: Dataset, files: Path) -> Iterator[Mapping[str, NDArray[np.int32]]]:
        """Some rows, whole, as the tokenizer makes them."""
        return tokenization(files).encoded(_contents(self, rows.select(spread(len(rows), MEASURED))), WHOLE)

    def encoded(self, data: Data) -> Data:
        """Rows as they are: their texts are texts."""
        for name, rows in data.splits.items():
            for column in self.texts:
                found = rows[0][column] if len(rows) else ""
                if not isinstance(found, str):
                    what = f"{found!r:.40} ({type(found).__name__})"
                    raise SourceError(f"{data.place(name, 0)}: column '{column}' holds {what}, expected texts")
        return super().encoded(data)

    def refuses(self, length: int, files: Path | None = None) -> str | None:
        """More tokens than the model has positions for, or no more than its tokenizer adds to each text."""
        from compressor.model.positions import positions_in

        if files and length <= FEW and length <= (added := _added(files, len(self.texts))):
            return f"{length} leaves no room beside the {added} tokens that the tokenizer adds to each text"
        most = positions_in(files) if files else None
        return (
            None if most is None or length <= most else f"{length} is beyond what the model has positions for: {most} tokens fit"
        )

    def check_rows(self, model: Model, data: Data, files: Path) -> None:
        """Every text has a token, every token an embedding, and the model takes the longest text, the oddest and the shortest one.

        Raises:
            SourceError: a text has none, or a token has none.
            RowFailed: the model raises something on these texts.
        """
        import torch

        for name, rows in data.splits.items():
            texts = _encoded(self, rows, files)
            check_tokens(texts.rows, model.module, tokenization(files), partial(data.place, name))
            tried = tried_first(texts.rows, tokenization(files))
            batch = next(iter(self.batches(rows.select(tried), files, batch_size=len(tried))))
            what = "both in one batch" if len(tried) > 1 else f"its {texts.length(tried[0])} tokens"
            with rows_told(tried, what, of=name), torch.no_grad():
                self.forward(model.module, batch)
            shortest = min(range(len(texts)), key=texts.length)
            alone = {port: torch.from_numpy(array) for port, array in texts.arrays([shortest]).items()}
            with rows_told([shortest], f"its {texts.length(shortest)} tokens", of=name), torch.no_grad():
                self.forward(model.module, alone)

    def inputs(self, model: Model | Path) -> tuple[Port, ...]:
        """Token ids, attention mask, and token types where the tokenizer makes them."""
        if isinstance(model, Path):
            found = tokenization(model)
            names, settings = found.names, found.settings if found.source else {}
        else:
            config = json.loads(model.files[TOKENIZER_CONFIG])
            names, settings = tuple(config["model_input_names"]), settings_in(config)
        filled = _fills(names, settings)
        return tuple(Port(name, "int64", ("batch", "length"), fill=filled.get(name)) for name in names)

    def deployment(self, files: Path, inputs: Sequence[Port]) -> Deployment:
        """By the tokenizer, which is shipped as it was used; inputs that only its own library makes are given as arrays."""
        found = tokenization(files)
        if not found.source:
            return Deployment("arrays", {"made_by": f"transformers.{type(found.library).__name__}"})
        how = of_text(inputs, found.settings, max_length=self.max_length)
        files_of = shipped(files, found, [port.name for port in inputs], how["max_length"])
        return Deployment("text", how, pair=len(self.texts) > 1, files=files_of)

    def feed(self, content: Any, files: Path) -> Feed:
        """Inputs of one text, or of a pair of them.

        Raises:
            SourceError: the task reads another number of texts.
        """
        from datasets import Dataset

        given = [str(content)] if isinstance(content, str) or len(self.texts) == 1 else [str(each) for each in content]
        if len(given) != len(self.texts):
            raise SourceError(f"the task reads {' and '.join(self.texts)} of a row, found {len(given)} text")
        return self.feeds(Dataset.from_dict({name: [each] for name, each in zip(self.texts, given, strict=True)}), files)[0]

    def example(self, files: Path, graph: Graph, *, batch: int, length: int) -> Feed:  # noqa: ARG002 - there is one
        """Ids of a made-up text, no padding."""
        import numpy as np

        rows = np.arange(batch * length, dtype=np.int64).reshape(batch, length) % 97 + 5
        made = {"input_ids": rows, "attention_mask": np.ones_like(rows), "token_type_ids": np.zeros_like(rows)}
        return {name: made[name] for name in tokenization(files).names}

    def batches(self, rows: Dataset, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:
        """Tensors padded to the longest text of the batch; `row` is the index in the split. Shuffled texts are batched by length."""
        import numpy as np

        texts = _encoded(self, rows, files)
        if shuffle_seed is None:
            groups = grouped(range(len(texts)), batch_size)
        else:
            lengths = [texts.length(number) for number in range(len(texts))]
            groups = alike(lengths, batch_size, np.random.default_rng(shuffle_seed), spread=LENGTH_SPREAD)

        def make(chosen: Sequence[int]) -> Feed:
            longest = max(texts.length(number) for number in chosen)
            return texts.arrays(chosen, min(self.max_length, -(-longest // BATCH_MULTIPLE) * BATCH_MULTIPLE))

        return Batches(Feeds(make, groups), self.targets(rows))

    def feeds(self, rows: Dataset, files: Path, workload: Workload = Workload(), *, count: int | None = None) -> Sequence[Feed]:
        """Real texts; with a length they are cut at it, and those that reach it come first, so that times are of real lengths."""
        batch, length = workload.batch, workload.length
        texts = _encoded(self, rows, files, length)
        order = list(range(len(texts)))
        if length is not None:
            order.sort(key=lambda number: texts.length(number) < length)
        groups = [order[start : start + batch] for start in range(0, len(order) - batch + 1, batch)][:count]
        if not groups:
            raise SourceError(f"{len(order)} rows are too few for one batch of {batch}")
        return [texts.arrays(group, length) for group in groups]

    def scored_feeds(self, rows: Dataset, files: Path) -> tuple[Sequence[Feed], Sequence[int]]:
        """All rows, sorted by length so that little is padded; nothing is where that would be seen: before a text, or without a mask."""
        texts = _encoded(self, rows, files)
        order = sorted(range(len(texts)), key=texts.length)
        groups = grouped(order, SCORED_BATCH)
        if texts.left or "attention_mask" not in tokenization(files).names:
            alike = [list(group) for _, group in groupby(order, key=texts.length)]
            groups = [part for each in alike for part in grouped(each, SCORED_BATCH)]
        return [texts.arrays(group) for group in groups], order


def _added(files: Path, texts: int) -> int:
    """Tokens that the tokenizer beside a model adds to a text, or a pair."""
    (alone,) = tokenization(files).encoded([""] if texts == 1 else [("",) * texts], WHOLE)
    return len(alone["input_ids"])


@dataclass(frozen=True)
class _Texts:
    """Texts as the tokenizer made them: for each input its rows of numbers, and what it is padded with."""

    rows: Sequence[Mapping[str, NDArray[np.int32]]]
    padding: Mapping[str, int]
    left: bool = False
    """Whether padding comes before a text."""

    def __len__(self) -> int:
        return len(self.rows)

    def length(self, number: int) -> int:
        """Tokens of one text."""
        return len(self.rows[number]["input_ids"])

    def arrays(self, chosen: Sequence[int], width: int | None = None) -> Feed:
        """Chosen texts as `int64`, padded to `width`, else to the longest of them."""
        import numpy as np

        longest = max(self.length(number) for number in chosen)
        width = width or longest
        if longest > width:
            raise SourceError(f"a length of {width} leaves no room beside the tokens that the tokenizer adds to each text")
        arrays = {name: np.full((len(chosen), width), self.padding.get(name, 0), dtype=np.int64) for name in self.rows[0]}
        for at, number in enumerate(chosen):
            for name, values in self.rows[number].items():
                arrays[name][at, width - len(values) if self.left else 0 :][: len(values)] = values
        return arrays


@lru_cache(maxsize=16)
def _tokenized(found: Tokenization, texts: tuple[str | tuple[str, ...], ...], max_length: int) -> _Texts:
    pads = {"input_ids": found.settings["pad_id"], "token_type_ids": found.settings["pad_type_id"]}
    return _Texts(list(found.encoded(texts, max_length)), pads, left=found.settings["padding_side"] == "left")


def _fills(names: Sequence[str], settings: Mapping[str, Any]) -> dict[str, int]:
    """What a text may be filled up with behind its end, by input; empty where it is filled up before its beginning, or no mask leaves it out."""
    if MASK not in names or settings.get("padding_side") != "right":
        return {}
    return {"input_ids": settings["pad_id"], MASK: 0, "token_type_ids": settings["pad_type_id"]}


def _encoded(task: Texts, rows: Dataset, files: Path, length: int | None = None) -> _Texts:
    return _tokenized(tokenization(files), _contents(task, rows), length or task.max_length)


def _contents(task: Texts, rows: Dataset) -> tuple[str | tuple[str, ...], ...]:
    """The text of each row, or its pair of texts."""
    columns = [values_of(rows, name) for name in task.texts]
    return tuple(columns[0]) if len(columns) == 1 else tuple(zip(*columns, strict=True))
