"""Audio classification: one label for each sound, from raw samples (wav2vec 2.0, HuBERT) or log-mel spectra (Whisper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from compressor.contracts import Batch, Columns, Outputs, Recipe, Seen, Want
from compressor.tasks import guesses
from compressor.tasks.audio import Sounds, frame_mask, frames_of, side_files
from compressor.tasks.classification import Classification

if TYPE_CHECKING:
    import torch

    from compressor.contracts.data import Data
    from compressor.model.heads import Head
    from compressor.model.model import Model


class AudioClassification(Sounds, Classification):
    """One label for each sound, by a transformers model for audio classification."""

    label: str = Field(default="label", description="Column of the label.")

    def columns(self) -> Columns:
        """Sound and label."""
        return Columns((self.audio,), self.label)

    @classmethod
    def recipe(cls, seen: Seen) -> Recipe | None:
        """Sounds with a label."""
        if (content := guesses.content(seen, "sound", "sound")) is None:
            return None
        label = guesses.classes(seen, (content[0],))
        return Recipe({"audio": content[0], "label": label[0]}, f"{content[1]}; {label[1]}") if label else None

    def trained(self, source: Path, labels: Sequence[str]) -> bool:
        """Whether its head is in the folder."""
        return self._head(source, labels).trained

    def load(self, source: Path, data: Data, *, seed: int) -> Model:
        """The source with its own head where that has the data's labels, else with a fresh head drawn from `seed`.

        An encoder of Whisper is made to take inputs of any length.

        Raises:
            SourceError: the folder is not usable, or the model has a trained head for other labels.
        """
        from transformers import AutoModelForAudioClassification

        from compressor.model.edits import LiftLength
        from compressor.model.heads import load_classifier
        from compressor.model.model import Model

        files = side_files(source)
        module, newly_initialised = load_classifier(AutoModelForAudioClassification, source, data.labels, seed=seed)
        model = Model.wrap(module, files, newly_initialised=newly_initialised)
        if module.config.model_type == "whisper":
            model.apply(LiftLength())
        return model

    def examine(self, source: Path, labels: Sequence[str]) -> tuple[str, ...]:
        """Whose head it is."""
        side_files(source)
        return (str(self._head(source, labels)),)

    @staticmethod
    def _head(source: Path, labels: Sequence[str]) -> Head:
        from transformers import AutoModelForAudioClassification

        from compressor.model.heads import head_in

        return head_in(AutoModelForAudioClassification, source, labels)[0]

    def forward(self, module: torch.nn.Module, batch: Batch, want: Want = Want()) -> Outputs:
        """Run the model; the mask is that of frames, as hidden states have them."""
        outputs = super().forward(module, batch, want)
        frames = frames_of(outputs.features)
        if outputs.mask is None or frames is None:
            return replace(outputs, mask=None)
        return replace(outputs, mask=frame_mask(module, outputs.mask, frames))
