"""Drawing sounds of a class from noise: as log-mel spectra, of which phases are made up where sounds are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Columns, Data, Recipe, Seen
from compressor.errors import SourceError
from compressor.tasks.audio import decoded, undecoded
from compressor.tasks.generation.description import Description, Sound
from compressor.tasks.generation.drawing import Drawing
from compressor.tasks.generation.proposed import proposed
from compressor.tasks.media import check_column

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray


class AudioGeneration(Drawing):
    """The spectrum of a sound for each row, drawn from noise by its number for its label, and held against spectra of the rows' own sounds."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "soundfile", "soxr", "numpy")
    made_with: ClassVar[tuple[str, ...]] = (*Drawing.made_with, "compressor.tasks.inputs.spectra")
    gives: ClassVar[str] = "spectra"
    channels: ClassVar[tuple[int, ...]] = (1,)

    audio: str = Field(default="audio", description="Column of the sound.")
    sound: Sound | None = Field(
        default=None,
        description="How sounds become spectra: `rate`, `window` and `hop` in samples, `low` and `high` in decibels. What lies beside a trained "
        "model holds; mels and frames are the height and width of what the network draws.",
    )

    @model_validator(mode="after")
    def _reads_two_columns(self) -> Self:
        if self.audio == self.label:
            raise ValueError(f"audio and label are both column '{self.label}'")
        return self

    @classmethod
    @override
    def recipe(cls, seen: Seen) -> Recipe | None:
        """Sounds with a class, of a model that draws."""
        return proposed(seen, of="sound", parameter="audio")

    def columns(self) -> Columns:
        """Sound and label."""
        return Columns((self.audio,), self.label)

    def encoded(self, data: Data) -> Data:
        """Rows as they are: their sounds are sounds."""
        check_column(data, self.audio, "Audio")
        return data

    def settings_of_sound(self) -> dict[str, Any]:
        """What the plan says of spectra."""
        return {"sounds": True, "sound": self.sound}

    def read(self, rows: Dataset, chosen: Sequence[int], how: Description) -> NDArray[np.float32]:
        """Spectra of the sounds, cut or filled with silence to the length that is drawn."""
        import numpy as np

        from compressor.tasks.inputs.spectra import silent_mels, spectrum

        if how.sound is None:
            raise SourceError("the model draws no sounds")
        sounds, given = undecoded(rows, self.audio), how.sound.model_dump()
        _, mels, frames = how.row_shape
        if silent := silent_mels(mels, given):
            raise SourceError(
                f"{silent} of {mels} mels hold none of the frequencies of {how.sound.window} samples: `sound:` needs a longer window, or the "
                "network fewer mels"
            )
        waves = (decoded(sounds[int(number)][self.audio], how.sound.rate) for number in chosen)
        return np.stack([spectrum(wave, (mels, frames), given)[None] for wave in waves])

    def tiny(self, folder: Path) -> Mapping[str, Any]:
        """A tiny network and rows of sounds."""
        from compressor.model import Model
        from compressor.tasks.tiny import denoiser, recordings

        Model.wrap(denoiser(channels=1)).save(folder / "pretrained")
        return recordings(folder)
