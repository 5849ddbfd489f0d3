"""Image classification: one label for each image."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from compressor.contracts import Batch, Columns, Deployment, Feed, Graph, Port, Workload
from compressor.errors import SourceError
from compressor.tasks.batches import Batches, Feeds, as_file, full_groups, grouped, order_of
from compressor.tasks.classification import SCORED_BATCH, Classification
from compressor.tasks.preprocessing import of_image

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.contracts import Model
    from compressor.contracts.task import Data

PREPROCESSOR, CONFIG = "preprocessor_config.json", "config.json"
BILINEAR = 2
UNCROPPED = 384
"""Pixels from which on `crop_pct` is not heeded."""
HALF = (0.5,)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODES = {1: "L", 3: "RGB"}


class ImageClassification(Classification):
    """One label for each image, by a transformers model for image classification."""

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
        from compressor.model.pretrained import told

        try:
            preprocessor = _completed(_json(source / PREPROCESSOR), _json(source / CONFIG))
            _Preprocessing.of(preprocessor, source)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise SourceError(f"{source / PREPROCESSOR} cannot be read: {told(error)}") from error
        module, newly_initialised = load_classifier(AutoModelForImageClassification, source, data.labels, seed=seed)
        content = json.dumps(preprocessor, indent=2, sort_keys=True) + "\n"
        return models.Model.wrap(module, {PREPROCESSOR: content.encode()}, newly_initialised=newly_initialised)

    def examine(self, source: Path, labels: Sequence[str]) -> tuple[str, ...]:
        """Whose head it is."""
        from transformers import AutoModelForImageClassification

        from compressor.model.heads import head_in

        return (str(head_in(AutoModelForImageClassification, source, labels)[0]),)

    def inputs(self, model: Model | Path) -> tuple[Port, ...]:
        """Pixels `[batch, channels, height, width]`; only the batch is dynamic."""
        if isinstance(model, Path):
            preprocessing = _preprocessing(model)
        else:
            values = json.loads(model.files.get(PREPROCESSOR, b"{}"))
            preprocessing = _Preprocessing.of(_completed(values, model.module.config.to_dict()), PREPROCESSOR)
        return (Port("pixel_values", "float32", ("batch", *preprocessing.shape)),)

    def tiny(self, folder: Path) -> dict[str, Any]:
        """A tiny random model and its rows."""
        from compressor.tasks.tiny import image_model, images

        image_model(folder / "pretrained")
        return images(folder)

    def deployment(self, files: Path, inputs: Sequence[Port]) -> Deployment:
        """By the image processor."""
        return Deployment("image", of_image(files, inputs), classes=True)

    def feed(self, content: Any, files: Path) -> Feed:
        """Pixels of one picture, given by its path or its bytes."""
        from datasets import Dataset, Features, Image

        return self.feeds(Dataset.from_dict({self.image: [as_file(content)]}, features=Features({self.image: Image()})), files)[0]

    def example(self, files: Path, graph: Graph, *, batch: int, length: int) -> Feed:  # noqa: ARG002 - the model fixes the size of its images
        """Made-up images; `length` says nothing of them."""
        import numpy as np

        shape = (batch, *_preprocessing(files).shape)
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

        preprocessing, images = _preprocessing(files), rows.select_columns([self.image])

        def make(chosen: Sequence[int]) -> Feed:
            return {"pixel_values": np.stack([preprocessing.pixels(image) for image in images[list(chosen)][self.image]])}

        return Feeds(make, groups)


@dataclass(frozen=True)
class _Preprocessing:
    """What is done to an image before the model sees it, in this order: resize, crop, rescale, normalise."""

    resize: tuple[int, int] | int | None
    """Height and width, or the shorter edge."""
    crop: tuple[int, int] | None
    size: tuple[int, int]
    """Height and width of what comes out."""
    resample: int
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, values: Mapping[str, Any], where: object) -> _Preprocessing:
        """Read a completed preprocessor configuration."""
        resize = _size(values["size"])
        crop = _size(values["crop_size"]) if values["do_center_crop"] else None
        size = crop or resize
        if isinstance(size, int) or size is None or isinstance(crop, int):
            raise SourceError(f"{where}: these settings do not give all images the same size ({values['size']}, no centre crop)")
        mean, std = tuple(values["image_mean"]), tuple(values["image_std"])
        if len(mean) not in MODES or len(mean) != len(std):
            raise SourceError(f"{where}: {len(mean)} means and {len(std)} deviations; images have 1 or 3 channels")
        if not values.get("do_normalize", True):
            mean, std = (0.0,) * len(mean), (1.0,) * len(std)
        return cls(
            resize=resize if values.get("do_resize", True) else None,
            crop=crop,
            size=size,
            resample=int(values.get("resample", BILINEAR)),
            factor=float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0,
            mean=mean,
            std=std,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return (len(self.mean), *self.size)

    def pixels(self, image: Any) -> NDArray[np.float32]:
        """One image `[channels, height, width]`.

        Raises:
            SourceError: it is no image, or of another size where nothing resizes it.
        """
        import numpy as np
        from PIL import Image

        if not isinstance(image, Image.Image):
            raise SourceError(
                f"expected images, found {type(image).__name__}: a folder of images is read by `format: imagefolder`"
            )
        image = image.convert(MODES[len(self.mean)])
        if self.resize is not None:
            image = image.resize(_width_height(self.resize, image.size), Image.Resampling(self.resample))
        if self.crop is not None:
            top, left = (image.height - self.crop[0]) // 2, (image.width - self.crop[1]) // 2
            image = image.crop((left, top, left + self.crop[1], top + self.crop[0]))  # zeros where it is smaller
        if image.size != self.size[::-1]:
            raise SourceError(f"an image is {image.width}x{image.height}, the model takes {self.size[1]}x{self.size[0]}")
        values: NDArray[np.float32] = np.asarray(image, dtype=np.float32).reshape(*self.size, len(self.mean))
        values = values * np.float32(self.factor)
        values -= np.asarray(self.mean, dtype=np.float32)
        values /= np.asarray(self.std, dtype=np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))


def _preprocessing(files: Path) -> _Preprocessing:
    return _Preprocessing.of(_completed(_json(files / PREPROCESSOR), _json(files / CONFIG)), files)


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return values


def _completed(preprocessor: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessor's settings, with those it lacks from the model's configuration."""
    size, channels = config.get("image_size", 224), config.get("num_channels", 3)
    height, width = (size, size) if isinstance(size, int) else size
    imagenet = config.get("model_type") == "dinov2" and channels == len(IMAGENET_MEAN)
    values: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": height, "width": width},
        "image_mean": list(IMAGENET_MEAN if imagenet else HALF * channels),
        "image_std": list(IMAGENET_STD if imagenet else HALF * channels),
        **{name: value for name, value in preprocessor.items() if value is not None},
    }
    values.setdefault("do_center_crop", "crop_size" in values)
    values["size"] = _spelled(values["size"], square=values.get("default_to_square", True))
    if "crop_pct" in values:
        values |= _cropped(values.pop("crop_pct"), values["size"])
    if values["do_center_crop"]:
        values["crop_size"] = _spelled(values.get("crop_size", values["size"]))
    return values


def _cropped(share: float, size: Any) -> dict[str, Any]:
    """The way of ConvNeXt and ResNet to give the share of the edge that a crop keeps, said as a resize and a crop."""
    edge = _size(size)
    if not isinstance(edge, int):
        raise ValueError(f"crop_pct goes with a shortest_edge, found {size}")
    square = {"height": edge, "width": edge}
    kind = {"image_processor_type": "CLIPImageProcessor"}  # the library's way with a resize and a crop in full
    if edge >= UNCROPPED:
        return {**kind, "size": square, "do_center_crop": False}
    return {**kind, "size": {"shortest_edge": int(edge / share)}, "do_center_crop": True, "crop_size": square}


def _spelled(value: Any, *, square: bool = True) -> Any:
    """A size as `{height, width}` or `{shortest_edge}`, however old its spelling."""
    if isinstance(value, int):
        return {"height": value, "width": value} if square else {"shortest_edge": value}
    return {"height": value[0], "width": value[1]} if isinstance(value, list | tuple) else value


def _size(value: Mapping[str, int]) -> tuple[int, int] | int | None:
    """Height and width, or the shorter edge."""
    if "height" in value and "width" in value:
        return (int(value["height"]), int(value["width"]))
    return int(value["shortest_edge"]) if set(value) == {"shortest_edge"} else None


def _width_height(resize: tuple[int, int] | int, size: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(resize, int):
        return (resize[1], resize[0])
    width, height = size
    long = int(resize * max(size) / min(size))
    return (resize, long) if width <= height else (long, resize)
