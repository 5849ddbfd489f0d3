"""Image classification: one label for each image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from compressor.contracts import Batch, Columns, Deployment, Feed, Graph, InputSizes, Port, Recipe, Seen, Workload, sizes_of
from compressor.contracts.recipe import spread
from compressor.errors import SourceError
from compressor.foreign import told
from compressor.tasks import guesses
from compressor.tasks.batches import Batches, Feeds, as_file, full_groups, grouped, order_of
from compressor.tasks.classification import SCORED_BATCH, Classification
from compressor.tasks.image_processors import completed as _completed
from compressor.tasks.image_processors import resized, shape_of, steps_of
from compressor.tasks.media import check_column
from compressor.tasks.preprocessing import CONFIG, PREPROCESSOR, of_image, settings_at
from compressor.tasks.reading import column_of, each_row

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Model
    from compressor.contracts.data import Data
    from compressor.model.heads import Head

SPLITS = ("train", "validation", "test")
MEASURED = 300
"""Pictures of each split whose size is looked at."""
SIZES = re.compile(r"\b(sizes?|shapes?|dimensions?)\b", re.IGNORECASE)
"""In what torch says where tensors do not fit each other."""


class ImageClassification(Classification):
    """One label for each image, by a transformers model for image classification."""

    version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = ("pillow",)

    image: str = Field(default="image", description="Column of the image.")
    label: str = Field(default="label", description="Column of the label.")
    size: int | None = Field(
        default=None,
        ge=8,
        le=4096,
        description="Edges, in pixels, of the pictures that the model is given; those of its own image processor where it is not given. "
        "Time grows with its square. Models that take one size only refuse another one.",
    )

    def columns(self) -> Columns:
        """Image and label."""
        return Columns((self.image,), self.label)

    def encoded(self, data: Data) -> Data:
        """Rows as they are: their pictures are pictures."""
        check_column(data, self.image, "Image")
        return super().encoded(data)

    def load(self, source: Path, data: Data, *, seed: int) -> Model:
        """The source with its own head where that has the data's labels, else with a fresh head drawn from `seed`.

        Raises:
            SourceError: the folder is not usable, or the model has a trained head for other labels.
        """
        from transformers import AutoModelForImageClassification

        from compressor import model as models
        from compressor.model.heads import load_classifier

        preprocessor = self._sized(source)
        module, newly_initialised = load_classifier(AutoModelForImageClassification, source, data.labels, seed=seed)
        self._check_size(module, preprocessor, source)
        content = json.dumps(preprocessor, indent=2, sort_keys=True) + "\n"
        return models.Model.wrap(module, {PREPROCESSOR: content.encode()}, newly_initialised=newly_initialised)

    def examine(self, source: Path, labels: Sequence[str]) -> tuple[str, ...]:
        """Whose head it is."""
        head, module = self._head(source, labels)
        self._check_size(module, self._sized(source), source)
        return (str(head),)

    def trained(self, source: Path, labels: Sequence[str]) -> bool:
        """Whether its head is in the folder."""
        return self._head(source, labels)[0].trained

    @staticmethod
    def _head(source: Path, labels: Sequence[str]) -> tuple[Head, Any]:
        from transformers import AutoModelForImageClassification

        from compressor.model.heads import head_in

        return head_in(AutoModelForImageClassification, source, labels)

    def sizes(self, data: Data, files: Path) -> InputSizes:
        """The shorter edge of each picture, and what the model takes."""
        shape = shape_of(of_image(self._sized(files), files)["steps"])
        edges = [min(picture_size(row[self.image])) for name in SPLITS for row in _some(data.split(name), self.image)]
        takes = f"{shape[1]} x {shape[2]} pixels" + ("" if self.size else " (its own size; `size:` makes it another)")
        told = {"unit": "pixels", "of": "shorter edges of pictures", "parameter": "size", "takes": takes}
        return sizes_of(edges, limit=min(shape[1:]), cut=0.0, computed=float(shape[1] * shape[2]), **told)

    def _sized(self, source: Path) -> dict[str, Any]:
        """The settings in full of a source's image processor, for pictures of the size that is asked for.

        Raises:
            SourceError: they cannot be read, or do not come to that size.
        """
        found = _settings(source)
        of_image(found, source)
        if self.size is None:
            return found
        try:
            return resized(found, self.size)
        except ValueError as error:
            raise SourceError(f"{source}: {error}") from error

    def _check_size(self, module: Any, settings: Mapping[str, Any], source: Path) -> None:
        """Refuse pictures of another size than the model was made for, where it takes one only.

        Raises:
            SourceError: it does, or takes none of its own image processor.
        """
        import torch

        shape = shape_of(steps_of(settings))
        patch = getattr(module.config, "patch_size", None)
        if self.size and isinstance(patch, int) and self.size % patch:
            raise SourceError(f"size: {self.size} is no multiple of the patches of {source}, {patch} pixels wide")
        try:
            with torch.no_grad():
                module(pixel_values=torch.zeros(1, *shape, device=next(module.parameters()).device))
        except NotImplementedError:  # an operator that cannot be tried without weights
            return
        except (ValueError, RuntimeError) as error:
            of_sizes = isinstance(error, ValueError) or bool(SIZES.search(str(error)))
            if of_sizes or self.size:
                raise SourceError(self._misfit(module, shape, source, error, of_sizes=of_sizes)) from error

    def _misfit(self, module: Any, shape: Sequence[int], source: Path, error: Exception, *, of_sizes: bool) -> str:
        """What to do about a model that fails on pictures of a shape."""
        if not of_sizes:
            return f"size: {self.size}: {source} cannot be tried on such pictures: {told(error, kind=True)}"
        if self.size is None:
            made = " x ".join(map(str, shape))
            return (
                f"{source}: its image processor makes {made} numbers of a picture (channels, height, width), and its model does not take "
                f"them ({told(error)}): mend the settings, or say `size:`"
            )
        own = getattr(module.config, "image_size", None)
        what = f"size: {self.size}: {source} takes pictures of its own size only{f', {own} pixels' if own else ''}"
        return f"{what}: leave size out"

    def check_rows(self, model: Model, data: Data, files: Path) -> None:  # noqa: ARG002 - its settings lie beside it
        """Where nothing resizes them pictures have their size; no other is so long that it would fill the memory once its shorter edge is resized.

        Raises:
            SourceError: one has not, or is; its place is named.
        """
        from compressor.tasks.inputs.image import LONGEST_EDGE

        steps = _how(files)["steps"]
        edge = next((step["shortest_edge"] for step in steps if "shortest_edge" in step), None)
        kept = next((step["size"] for step in steps if step["do"] == "check size"), None)
        if edge is None and kept is None:
            return
        for name, rows in data.splits.items():
            for at, row in enumerate(each_row(undecoded(rows, self.image))):
                width, height = picture_size(row[self.image])
                if kept and sorted(kept) != sorted((width, height)):
                    raise SourceError(
                        f"{data.place(name, at)} is a picture of {width} x {height} pixels, the model takes {kept[1]} x {kept[0]}, and its "
                        "image processor resizes nothing (do_resize): say `size:`, or resize the pictures"
                    )
                if edge is None:
                    continue
                if (long := edge * max(width, height) // min(width, height)) > LONGEST_EDGE:
                    raise SourceError(
                        f"{data.place(name, at)} is a picture of {width} x {height} pixels: resized to a shorter edge of {edge} it would be "
                        f"{long} pixels long; crop it, or leave it out of the data"
                    )

    def inputs(self, model: Model | Path) -> tuple[Port, ...]:
        """Pixels `[batch, channels, height, width]`; only the batch is dynamic."""
        if isinstance(model, Path):
            how = _how(model)
        else:
            values = json.loads(model.files.get(PREPROCESSOR, b"{}"))
            how = of_image(_completed(values, model.module.config.to_dict()), PREPROCESSOR)
        return (Port("pixel_values", "float32", ("batch", *shape_of(how["steps"]))),)

    @classmethod
    def recipe(cls, seen: Seen) -> Recipe | None:
        """Pictures with a label."""
        if (content := guesses.content(seen, "picture", "picture")) is None:
            return None
        label = guesses.classes(seen, (content[0],))
        return Recipe({"image": content[0], "label": label[0]}, f"{content[1]}; {label[1]}") if label else None

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
        return Batches(
            self._feeds(rows, files, grouped(order_of(len(rows), shuffle_seed), batch_size)), column_of(rows, self.label)
        )

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

        how, images = _how(files), undecoded(rows, self.image)

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


def undecoded(rows: Dataset, column: str) -> Dataset:
    """Pictures as the bytes of their files: they are decoded here."""
    from datasets import Image

    if not isinstance(rows.features[column], Image):
        found = type(rows[0][column]).__name__ if len(rows) else "nothing"
        raise SourceError(f"expected images, found {found}: a folder of images is read by `format: imagefolder`")
    return rows.select_columns([column]).cast_column(column, Image(decode=False))


def _some(rows: Dataset, column: str) -> Dataset:
    return undecoded(rows, column).select(spread(len(rows), MEASURED))


def picture_size(content: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of a picture `{bytes, path}`, by the head of its file.

    Raises:
        SourceError: it cannot be read.
    """
    from PIL import Image

    from compressor.tasks.inputs.image import FORMATS

    given = content["bytes"]
    try:
        with Image.open(BytesIO(given) if given is not None else content["path"], formats=FORMATS) as picture:
            return picture.size
    except (OSError, ValueError, SyntaxError) as error:
        raise SourceError(f"{content['path'] or 'a picture'} cannot be read as an image: {error}") from error


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
