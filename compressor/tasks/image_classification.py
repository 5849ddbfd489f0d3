"""Image classification: one label for each image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from compressor.contracts import Batch, Columns, Deployment, Feed, Graph, Port, Workload
from compressor.errors import SourceError
from compressor.foreign import told
from compressor.tasks.batches import Batches, Feeds, as_file, full_groups, grouped, order_of
from compressor.tasks.classification import SCORED_BATCH, Classification
from compressor.tasks.image_processors import completed as _completed
from compressor.tasks.image_processors import shape_of
from compressor.tasks.preprocessing import CONFIG, PREPROCESSOR, of_image, settings_at

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Model
    from compressor.contracts.task import Data


class ImageClassification(Classification):
    """One label for each image, by a transformers model for image classification."""

    version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("pillow",)

    image: str = Field(default="image", description="Column of the image.")
    label: str = Field(default="label", description="Column of the label.")

    def columns(self) -> Columns:
        """Image and label."""
        return Columns((self.image,), self.label)

    def load(self, source: Path, data: Data, *, seed: int) -> Model:
        """The source with its own head where that has the data's labels, else with a fresh head drawn from `seed`.

        Raises:
            SourceError: the folder is not usable, or the model has a trained head for other labels.
        """
        from transformers import AutoModelForImageClassification

        from compressor import model as models
        from compressor.model.heads import load_classifier

        preprocessor = _settings(source)
        of_image(preprocessor, source)
        module, newly_initialised = load_classifier(AutoModelForImageClassification, source, data.labels, seed=seed)
        content = json.dumps(preprocessor, indent=2, sort_keys=True) + "\n"
        return models.Model.wrap(module, {PREPROCESSOR: content.encode()}, newly_initialised=newly_initialised)

    def examine(self, source: Path, labels: Sequence[str]) -> tuple[str, ...]:
        """Whose head it is."""
        from transformers import AutoModelForImageClassification

        from compressor.model.heads import head_in

        _how(source)
        return (str(head_in(AutoModelForImageClassification, source, labels)[0]),)

    def inputs(self, model: Model | Path) -> tuple[Port, ...]:
        """Pixels `[batch, channels, height, width]`; only the batch is dynamic."""
        if isinstance(model, Path):
            how = _how(model)
        else:
            values = json.loads(model.files.get(PREPROCESSOR, b"{}"))
            how = of_image(_completed(values, model.module.config.to_dict()), PREPROCESSOR)
        return (Port("pixel_values", "float32", ("batch", *shape_of(how["steps"]))),)

    def tiny(self, folder: Path) -> dict[str, Any]:
        """A tiny random model and its rows."""
        from compressor.tasks.tiny import image_model, images

        image_model(folder / "pretrained")
        return images(folder)

    def deployment(self, files: Path, inputs: Sequence[Port]) -> Deployment:  # noqa: ARG002 - there is one
        """By the image processor."""
        return Deployment("image", _how(files), classes=True)

    def feed(self, content: Any, files: Path) -> Feed:
        """Pixels of one picture, given by its path or its bytes."""
        from datasets import Dataset, Features, Image

        return self.feeds(Dataset.from_dict({self.image: [as_file(content)]}, features=Features({self.image: Image()})), files)[0]

    def example(self, files: Path, graph: Graph, *, batch: int, length: int) -> Feed:  # noqa: ARG002 - the model fixes the size of its images
        """Made-up images; `length` says nothing of them."""
        import numpy as np

        shape = (batch, *shape_of(_how(files)["steps"]))
        return {"pixel_values": np.sin(np.arange(np.prod(shape), dtype=np.float64) * 0.1).astype(np.float32).reshape(shape)}

    def batches(self, rows: Dataset, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:
        """Preprocessed images, read as they are asked for; `row` is the index in the split."""
        return Batches(self._feeds(rows, files, grouped(order_of(len(rows), shuffle_seed), batch_size)), list(rows[self.label]))

    def feeds(
        self,
        rows: Dataset,
        files: Path,
        workload: Workload = Workload(),
        *,
        count: int | None = None,
    ) -> Sequence[Feed]:
        """Real images in full batches, at the size that the model takes, whatever the workload's length is."""
        return list(self._feeds(rows, files, full_groups(len(rows), workload.batch, count)))

    def scored_feeds(self, rows: Dataset, files: Path) -> tuple[Sequence[Feed], Sequence[int]]:
        """All rows in order, read as they are asked for."""
        order = range(len(rows))
        return self._feeds(rows, files, grouped(order, SCORED_BATCH)), order

    def _feeds(self, rows: Dataset, files: Path, groups: Sequence[Sequence[int]]) -> Feeds:
        import numpy as np

        how, images = _how(files), _undecoded(rows, self.image)

        def make(chosen: Sequence[int]) -> Feed:
            return {"pixel_values": np.stack([pixels(images[number][self.image], how, number) for number in chosen])}

        return Feeds(make, groups)


def _settings(folder: Path) -> dict[str, Any]:
    try:
        return _completed(_json(folder / PREPROCESSOR), _json(folder / CONFIG))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SourceError(f"{folder}: the image processor cannot be read: {told(error)}") from error


def _json(path: Path) -> dict[str, Any]:
    return settings_at(path, *(["image_processor"] if path.name == PREPROCESSOR else [])) or {}


def _how(files: Path) -> dict[str, Any]:
    return of_image(_settings(files), files)


def _undecoded(rows: Dataset, column: str) -> Dataset:
    """Pictures as the bytes of their files: they are decoded here."""
    from datasets import Image

    if not isinstance(rows.features[column], Image):
        found = type(rows[0][column]).__name__ if len(rows) else "nothing"
        raise SourceError(f"expected images, found {found}: a folder of images is read by `format: imagefolder`")
    return rows.select_columns([column]).cast_column(column, Image(decode=False))


def pixels(content: Mapping[str, Any], how: Mapping[str, Any], number: int) -> NDArray[np.float32]:
    """Pixels `[channels, height, width]` of a picture `{bytes, path}`, by a description.

    Raises:
        SourceError: it cannot be read, or has another size where nothing resizes it.
    """
    from compressor.tasks.inputs.image import pixels_of

    given = content["bytes"] if content["bytes"] is not None else content["path"]
    try:
        found: NDArray[np.float32] = pixels_of(given, how["steps"])
    except (OSError, ValueError, SyntaxError) as error:  # what a broken file makes the library raise
        raise SourceError(f"{content['path'] or f'row {number}'} cannot be read as an image: {error}") from error
    return found
