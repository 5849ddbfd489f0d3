"""Drawing pictures of a class from noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Columns, Data, Recipe, Seen
from compressor.tasks.generation.description import Description
from compressor.tasks.generation.drawing import Drawing
from compressor.tasks.generation.pictures import pictures_of
from compressor.tasks.generation.proposed import proposed
from compressor.tasks.image_classification import undecoded
from compressor.tasks.media import check_column

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray


class ImageGeneration(Drawing):
    """A picture for each row, drawn from noise by its number for its label, and held against the rows' own pictures."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "pillow", "numpy")
    gives: ClassVar[str] = "pictures"
    channels: ClassVar[tuple[int, ...]] = (1, 3)

    image: str = Field(default="image", description="Column of the picture.")

    @model_validator(mode="after")
    def _reads_two_columns(self) -> Self:
        if self.image == self.label:
            raise ValueError(f"image and label are both column '{self.label}'")
        return self

    def columns(self) -> Columns:
        """Picture and label."""
        return Columns((self.image,), self.label)

    def encoded(self, data: Data) -> Data:
        """Rows as they are: their pictures are pictures."""
        check_column(data, self.image, "Image")
        return data

    def read(self, rows: Dataset, chosen: Sequence[int], how: Description) -> NDArray[np.float32]:
        """Pictures at the size that is drawn."""
        return pictures_of(undecoded(rows, self.image), chosen, self.image, how.row_shape)

    @classmethod
    @override
    def recipe(cls, seen: Seen) -> Recipe | None:
        """Pictures with a class, of a model that draws."""
        return proposed(seen)

    def tiny(self, folder: Path) -> Mapping[str, Any]:
        """A tiny network and rows of pictures."""
        from compressor.model import Model
        from compressor.tasks.tiny import denoiser, images

        Model.wrap(denoiser()).save(folder / "pretrained")
        return images(folder)
