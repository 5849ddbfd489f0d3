"""A small classifier of a data set, by which pictures that were drawn are judged: what class they are told to be, and by features.

It is trained when a source model is loaded, by one seed, on training rows, and lies beside the model from then on. Distances of features of
different judges are of different rulers: its digest is part of every evaluation.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.errors import SourceError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

FILE = "judge.npz"
FEATURES = 64
WIDTHS = (16, 32, 64)
BATCH, STEPS, EPOCHS = 128, 100, 2
"""Of its training: so many steps at least, or passes over the rows, whichever is more."""
LEARNING_RATE = 2e-3
SEED = 0
VERSION = 1
JUDGED_AT_ONCE = 256


@dataclass(frozen=True)
class Judge:
    """A trained classifier."""

    classes: int
    channels: int
    rows: str
    """Digest of the rows that it was trained on."""
    accuracy: float
    """On validation rows."""
    weights: Mapping[str, NDArray[np.float32]]

    @property
    def digest(self) -> str:
        """Of all that decides what it says: 12 hexadecimal digits."""
        total = hashlib.sha256(f"{VERSION} {self.classes} {self.channels}".encode())
        for name in sorted(self.weights):
            total.update(name.encode() + self.weights[name].tobytes())
        return total.hexdigest()[:12]

    def judged(self, pictures: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Features `[n, FEATURES]` and the likeliest class `[n]` of pictures `[n, C, H, W]` in [-1, 1]; what lies outside counts as the end."""
        import torch

        network = _network(self.channels, self.classes)
        network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in self.weights.items()})
        network.train(False)
        features, told = [], []
        with torch.no_grad():
            for at in range(0, len(pictures), JUDGED_AT_ONCE):
                given = torch.from_numpy(np.ascontiguousarray(pictures[at : at + JUDGED_AT_ONCE]))
                found = network[0](given.nan_to_num().clamp(-1, 1))
                features.append(found.numpy())
                told.append(network[1](found).argmax(-1).numpy())
        return np.concatenate(features), np.concatenate(told)

    def written(self) -> bytes:
        """As a file; equal judges give equal bytes."""
        facts = {name: value for name, value in asdict(self).items() if name != "weights"}
        stream = io.BytesIO()
        arrays: dict[str, Any] = {f"weights/{name}": self.weights[name] for name in sorted(self.weights)}
        np.savez(stream, **arrays, facts=np.array(json.dumps(facts)))
        return stream.getvalue()

    @staticmethod
    def read(content: bytes) -> Judge:
        """What `written` gave.

        Raises:
            SourceError: it is malformed.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as kept:
                facts = json.loads(str(kept["facts"]))
                weights = {name.removeprefix("weights/"): kept[name] for name in kept.files if name.startswith("weights/")}
            return Judge(**facts, weights=weights)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{FILE} cannot be read: {error}") from error


def _network(channels: int, classes: int) -> torch.nn.Sequential:
    """Features, and the classes of them; a mean over places makes it fit pictures of any size."""
    from torch import nn

    layers: list[nn.Module] = []
    for before, width in zip((channels, *WIDTHS), WIDTHS, strict=False):
        layers += [
            nn.Conv2d(before, width, 3, stride=2 if before != WIDTHS[1] else 1, padding=1),
            nn.GroupNorm(8, width),
            nn.GELU(),
        ]
    features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * WIDTHS[-1], FEATURES), nn.GELU())
    return nn.Sequential(features, nn.Linear(FEATURES, classes))


def trained(
    pictures: Callable[[Sequence[int]], NDArray[np.float32]],
    labels: NDArray[np.int64],
    held_out: tuple[NDArray[np.float32], NDArray[np.int64]],
    *,
    classes: int,
    rows: str,
) -> Judge:
    """Train a judge.

    Args:
        pictures: training rows by their numbers, `[n, C, H, W]` in [-1, 1].
        labels: of all training rows.
        held_out: pictures and labels of validation rows, for its accuracy.
        classes: how many labels there are.
        rows: digest of the rows.
    """
    import torch

    channels = held_out[0].shape[1]
    draw = np.random.default_rng(SEED)
    total = max(STEPS, EPOCHS * -(-len(labels) // BATCH))
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(SEED)
        network = _network(channels, classes)
        optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=total)
        order = list[int]()
        for _ in range(total):
            if len(order) < min(BATCH, len(labels)):
                order = draw.permutation(len(labels)).tolist()
            chosen, order = order[:BATCH], order[BATCH:]
            told = network(torch.from_numpy(pictures(chosen)))
            loss = torch.nn.functional.cross_entropy(told, torch.from_numpy(labels[chosen]))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    weights = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    made = Judge(classes, channels, rows, 0.0, weights)
    accuracy = float((made.judged(held_out[0])[1] == held_out[1]).mean())
    return Judge(classes, channels, rows, accuracy, weights)
