"""Text classification: one label for each text or pair of texts, or any number of labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from compressor.contracts import Columns, Deployment, Recipe, Seen
from compressor.tasks import guesses
from compressor.tasks.multi_label import EVEN, TARGETS, MultiLabel
from compressor.tasks.reading import column_of
from compressor.tasks.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from datasets import Dataset

    from compressor.contracts import Port


class TextClassification(Texts, MultiLabel):
    """One label for each text, or with `multi_label` any number, by a transformers model for sequence classification."""

    def columns(self) -> Columns:
        """Texts and label; several labels are no classes that rows are split by."""
        if isinstance(self.label, str) and not self.multi_label:
            return Columns(self.texts, self.label)
        return Columns(self.texts, kept=self.label_columns, sets=self.label_columns if isinstance(self.label, str) else ())

    def answers_as(self) -> Any:
        """One class of a row, or any number."""
        return "multi_label_classification" if self.multi_label else self.problem

    def targets(self, rows: Dataset) -> list[Any]:
        """The number of each row's label, or its labels as 0 and 1."""
        return column_of(rows, TARGETS if self.multi_label else self.label)

    @classmethod
    def recipe(cls, seen: Seen) -> Recipe | None:
        """Texts with a label, or with any number of them."""
        if (content := guesses.texts(seen)) is None:
            return None
        named, told = content
        taken = tuple([named["text"]] if isinstance(named["text"], str) else named["text"])
        if many := guesses.many_labels(seen, taken):
            return Recipe({**named, **many[0]}, f"{told}; {many[1]}")
        label = guesses.classes(seen, taken)
        return Recipe({**named, "label": label[0]}, f"{told}; {label[1]}") if label else None

    def tiny(self, folder: Path) -> dict[str, Any]:
        """A tiny random model and its rows."""
        from compressor.tasks.tiny import text_model, texts

        text_model(folder / "pretrained")
        return texts(folder, self.columns())

    def deployment(self, files: Path, inputs: Sequence[Port]) -> Deployment:
        """By the tokenizer; with multi_label the threshold goes with it."""
        threshold = (self.threshold or EVEN) if self.multi_label else None
        return replace(super().deployment(files, inputs), classes=True, threshold=threshold)
