"""One small classifier for each data set: it says of which class a picture is, and its inner features are what distances are of.

It is trained from a fixed seed on the rows of a plan and kept in the store: another run on these rows finds the same one, to the bit. How
sums are rounded depends on machine and threads, so one that is trained elsewhere has another digest, and its figures are not comparable.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.contracts.evaluation import Measure
from compressor.contracts.quality import Metric
from compressor.contracts.step import versions_of
from compressor.errors import SourceError
from compressor.foreign import told
from compressor.store import Store
from compressor.tasks.generated.features import Features, Space, as_bytes
from compressor.tasks.metrics import wilson

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

VERSION = 1
"""Raised when equal rows and settings give another network."""
NAME, FILE = "classifier", "classifier.safetensors"
FACTS, LAST = "facts", "head.weight"
WIDTHS = (32, 64, 128)
"""Channels of its convolutions; the last are the features."""
SMALLEST = 8
"""Edge in pixels of pictures that it can look at."""
AT_ONCE = 256
ACCURACY = Measure("accuracy")


@dataclass(frozen=True)
class Training:
    """How it learns."""

    passes: int = 3
    """Over the training rows."""
    least_steps: int = 200
    """However few rows there are."""
    batch: int = 128
    learning_rate: float = 3e-3
    seed: int = 0


@dataclass(frozen=True)
class Rows:
    """Pictures `[n, C, H, W]`, bytes or numbers from -1 to 1, and the class of each `[n]`, from 0."""

    pictures: NDArray[Any]
    labels: NDArray[Any]

    def checked(self, what: str, classes: int) -> Rows:
        """The same in bytes.

        Raises:
            ValueError: they are no pictures, a class is missing, or one is none; `what` names them.
        """
        if self.labels.shape != self.pictures.shape[:1] or self.labels.dtype.kind not in "iu":
            raise ValueError(
                f"{what} have labels {self.labels.dtype} {list(self.labels.shape)}, expected a whole number for each picture"
            )
        if len(self.labels) and not (self.labels.min() >= 0 and self.labels.max() < classes):
            raise ValueError(
                f"{what} have labels from {self.labels.min()} to {self.labels.max()}, and there are {classes} classes"
            )
        return Rows(as_bytes(self.pictures), self.labels.astype(np.int64))

    @property
    def digest(self) -> str:
        """sha256 over shape, pixels and labels."""
        total = hashlib.sha256(str(self.pictures.shape).encode())
        total.update(self.pictures.tobytes())
        total.update(self.labels.tobytes())
        return total.hexdigest()


@dataclass(frozen=True)
class Classifier:
    """A trained classifier, in eval mode."""

    module: torch.nn.Module
    space: Space
    shape: tuple[int, ...]
    """Of a picture: channels, height, width."""

    def seen(self, pictures: NDArray[Any]) -> tuple[Features, NDArray[np.float32]]:
        """Features of pictures `[n, C, H, W]`, bytes or numbers from -1 to 1, and logits of their classes, `[n, classes]`.

        Raises:
            ValueError: they are of another shape than it learned from, or see `as_bytes`.
        """
        import torch

        if pictures.shape[1:] != self.shape:
            raise ValueError(f"pictures are {list(pictures.shape[1:])}, the classifier learned from {list(self.shape)}")
        features, logits = [], []
        body, head = self.module.get_submodule("body"), self.module.get_submodule("head")
        with torch.inference_mode():
            for at in range(0, len(pictures), AT_ONCE):
                found = body(_scaled(as_bytes(pictures[at : at + AT_ONCE])))
                features.append(found.numpy())
                logits.append(head(found).numpy())
        return Features(np.concatenate(features), self.space), np.concatenate(logits)

    def written(self) -> bytes:
        """As a file of safetensors, with what is known of it."""
        from safetensors.torch import save

        facts = json.dumps({"space": self.space.model_dump(mode="json"), "shape": list(self.shape)}, sort_keys=True)
        return save(dict(self.module.state_dict()), metadata={FACTS: facts})

    @staticmethod
    def read(content: bytes) -> Classifier:
        """What `written` gave.

        Raises:
            SourceError: it is malformed.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors, head = load(content), json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            facts = json.loads(head["__metadata__"][FACTS])
            with torch.device("meta"):  # nothing is drawn for what is read
                module = _network(int(facts["shape"][0]), len(tensors[LAST]))
            module.load_state_dict(tensors, assign=True)
            found = Classifier(module.train(False), Space.model_validate(facts["space"]), tuple(facts["shape"]))
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise SourceError(f"a classifier of pictures cannot be read: {told(error)}") from error
        if found.space.digest != _digest(module):
            raise SourceError(f"a classifier of pictures has digest {_digest(module)[:12]}, and says {found.space.digest[:12]}")
        return found


def classifier_of(store: Store, train: Rows, held_out: Rows, *, classes: int, training: Training = Training()) -> Classifier:
    """The classifier of these rows, found in the store or trained and kept there; see `learned`.

    Raises:
        ValueError: nothing can be learned from the rows.
        StoreError: the store cannot be written.
    """
    train, held_out = _checked(train, held_out, classes)
    parts = {
        "step": "picture classifier",
        "version": VERSION,
        "widths": WIDTHS,
        "training": vars(training),
        "classes": classes,
        "rows": {"train": train.digest, "held_out": held_out.digest},
        "versions": versions_of(("torch",)),
    }

    def make(folder: Path) -> dict[str, Any]:
        (folder / FILE).write_bytes(learned(train, held_out, classes=classes, training=training).written())
        return {}

    return Classifier.read((store.obtain(parts, make).path / FILE).read_bytes())


def learned(train: Rows, held_out: Rows, *, classes: int, training: Training = Training()) -> Classifier:
    """Train a classifier.

    Args:
        train: what it learns from.
        held_out: other rows, by which its accuracy is told.
        classes: how many there are; at least 2.
        training: how it learns.

    Raises:
        ValueError: rows are no pictures of one shape with labels of these classes, a class has no training row, or they are too small.
    """
    train, held_out = _checked(train, held_out, classes)
    shape = train.pictures.shape[1:]
    module = _trained(train, classes, training)
    space = Space(name=NAME, digest=_digest(module), width=WIDTHS[-1])
    seen = Classifier(module, space, shape).seen(held_out.pictures)[1].argmax(-1)
    n, right = len(held_out.labels), int((seen == held_out.labels).sum())
    accuracy: Metric = ACCURACY.metric(right / n, n, wilson(right, n))
    return Classifier(module, space.model_copy(update={"accuracy": accuracy}), shape)


def _checked(train: Rows, held_out: Rows, classes: int) -> tuple[Rows, Rows]:
    """Both in bytes."""
    train, held_out = train.checked("training rows", classes), held_out.checked("held-out rows", classes)
    shape = train.pictures.shape[1:]
    if held_out.pictures.shape[1:] != shape:
        raise ValueError(f"training pictures are {list(shape)}, held-out ones {list(held_out.pictures.shape[1:])}")
    if min(shape[1:]) < SMALLEST:
        raise ValueError(f"pictures are {list(shape)}: a classifier needs {SMALLEST} pixels each way")
    if classes < 2:
        raise ValueError(f"{classes} classes: a classifier tells 2 or more apart")
    if lacking := sorted(set(range(classes)) - set(train.labels.tolist())):
        raise ValueError(f"of {classes} classes {lacking} have no training row")
    return train, held_out


def _digest(module: torch.nn.Module) -> str:
    """Of what it was trained to."""
    from safetensors.torch import save

    return hashlib.sha256(f"{VERSION} {WIDTHS}".encode() + save(dict(module.state_dict()))).hexdigest()


def _network(channels: int, classes: int) -> torch.nn.Module:
    from compressor.model.picture_classifier import PictureClassifier

    return PictureClassifier(channels, classes, widths=WIDTHS)


def _trained(rows: Rows, classes: int, training: Training) -> torch.nn.Module:
    import torch

    steps = max(training.least_steps, training.passes * -(-len(rows.labels) // training.batch))
    draw = np.random.default_rng(training.seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(training.seed)
        network = _network(rows.pictures.shape[1], classes)
        optimiser = torch.optim.AdamW(network.parameters(), training.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, training.learning_rate, total_steps=steps)
        order = np.empty(0, np.int64)
        for _ in range(steps):
            if len(order) < training.batch:
                order = np.concatenate([order, draw.permutation(len(rows.labels))])
            chosen, order = order[: training.batch], order[training.batch :]
            told = network(_scaled(rows.pictures[chosen]))
            loss = torch.nn.functional.cross_entropy(told, torch.from_numpy(rows.labels[chosen]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    network.train(False)
    return network


def _scaled(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """Pixels from -1 to 1."""
    import torch

    return torch.from_numpy(pictures.astype(np.float32) / 127.5 - 1)
