"""Where a training stands, kept in a folder so that a killed one goes on: tensors as safetensors, the rest as JSON."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Event, Message
from compressor.errors import CompressorError
from compressor.store.disk import settle

if TYPE_CHECKING:
    import torch

    from compressor.training.group import Group

INDEX = "checkpoint.json"
FORMAT = 3
RESCUED = "last-good.safetensors"
INTERVAL = "COMPRESSOR_CHECKPOINT_SECONDS"
"""Environment variable: seconds between two checkpoints; 0 for one after every step."""
INTERVAL_SECONDS = 60.0
MOST_SHARE = 0.02
"""Share of the time that writing may take: where one takes long, the next one comes later."""


def holds_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint: of all that a step writes on its way, what is there whole or not at all."""
    return (folder / INDEX).is_file()


class Checkpoints:
    """The last checkpoint of one training.

    `INDEX` names the file of tensors and its sha256. It is replaced only once that file is on disk, so a process killed at any
    moment leaves a whole checkpoint: this one or the one before.
    """

    def __init__(self, folder: Path, identity: str, tell: Callable[[Event], None], group: Group | None = None) -> None:
        """`identity` stands for all that decides how the training goes; a checkpoint of another identity is not read.

        Where parameters are spread over a `group` each process has a file of its own; all of them come to `write` and `rescue`.
        """
        self.folder = folder
        self._group = group
        self._identity = identity
        self._tell = tell
        self._last = time.monotonic()
        self._took = 0.0
        self._step: int | None = None
        self._every = interval()

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        pause = max(self._every, self._took / MOST_SHARE) if self._every else 0.0
        return time.monotonic() - self._last >= pause

    def read(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
        """Values and tensors as they were written last, or None; what is damaged or of another training is said and passed over.

        Of a training whose parameters are spread all processes read theirs, or none does.
        """
        found = self._read()
        if self._group and not all(self._group.gathered(found is not None)):
            if found is not None:
                self._say(f"another process cannot read its share in {self.folder}: training starts at its beginning")
            self._step = None
            return None
        return found

    def _read(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]] | None:
        from safetensors import SafetensorError

        path = self.folder / INDEX
        if not path.is_file():
            return None
        try:
            index = json.loads(path.read_bytes())
            if index["format"] != FORMAT or index["identity"] != self._identity:
                self._say(f"{path} belongs to another training: this one starts at its beginning")
                return None
            file, sha256 = index["shares"][self._group.rank] if self._group else (index["file"], index["sha256"])
            tensors = _tensors(self.folder / Path(file).name, sha256)
            self._step = index["step"]
            return index["values"], tensors
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            self._say(f"{path} is damaged ({error}): training starts at its beginning")
            return None

    def write(self, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], *, step: int) -> None:
        """Replace the checkpoint. A training does not end because this cannot be written: it is said, and it goes on."""
        from safetensors import SafetensorError

        started = time.monotonic()
        try:
            self._write(values, tensors, step)
            self._step = step
        except (OSError, SafetensorError) as error:
            self._say(f"no checkpoint at step {step} ({error}): training goes on without")
        self._last = time.monotonic()
        self._took = self._last - started

    def _write(self, values: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], step: int) -> None:
        name = f"step-{step}.safetensors" if self._group is None else f"step-{step}-of-{self._group.rank}.safetensors"
        if self._group is None:
            files: dict[str, Any] = {"file": name, "sha256": self._put(tensors, name)}
            kept = {INDEX, name}
        else:
            files = {"shares": self._shares(tensors, name)}
            kept = {INDEX, *(share for share, _ in files["shares"])}
            if self._group.rank != 0:
                return
        index = {"format": FORMAT, "identity": self._identity, "step": step, **files, "values": values}
        unfinished = self.folder / f"{INDEX}.unfinished"
        unfinished.write_text(json.dumps(index), encoding="utf-8")
        settle(unfinished, self.folder / INDEX)
        for path in self.folder.iterdir():
            if path.name not in kept:
                path.unlink()

    def _put(self, tensors: Mapping[str, torch.Tensor], name: str) -> str:
        """Write tensors; their file's sha256."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"{name}.unfinished"
        save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, unfinished)
        digest = _sha256(unfinished)
        settle(unfinished, self.folder / name)
        return digest

    def _shares(self, tensors: Mapping[str, torch.Tensor], name: str) -> list[list[str]]:
        """Names and sha256 of the files of all processes, once all are on disk; an OSError in all of them where one is not."""
        from safetensors import SafetensorError

        assert self._group is not None
        try:
            mine, fault = [name, self._put(tensors, name)], ""
        except (OSError, SafetensorError) as error:
            mine, fault = [name, ""], str(error)
        if faults := [each for each in self._group.gathered(fault) if each]:
            raise OSError(faults[0])
        return self._group.gathered(mine)

    def rescue(self, tensors: Mapping[str, torch.Tensor]) -> Path | None:
        """Keep weights for their own sake, no training goes on from them; None where they cannot be written."""
        from safetensors import SafetensorError

        from compressor.model.sharding import write_gathered

        path, first = self.folder / RESCUED, self._group is None or self._group.rank == 0
        try:
            unfinished = path.with_name(f"{RESCUED}.unfinished")
            write_gathered(tensors, unfinished, first=first)
            if first:
                settle(unfinished, path)
        except (OSError, SafetensorError) as error:
            self._say(f"{path} cannot be written ({error})")
            return None
        return path

    def described(self) -> str:
        """Which checkpoint there is, in words."""
        return (
            "no checkpoint was due yet" if self._step is None else f"the checkpoint of step {self._step} is kept in {self.folder}"
        )

    def _say(self, text: str) -> None:
        self._tell(Message(text))


def interval() -> float:
    """Seconds between two checkpoints, as the environment says.

    Raises:
        CompressorError: it says no number of seconds.
    """
    given = os.environ.get(INTERVAL)
    try:
        found = INTERVAL_SECONDS if given is None else float(given)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise CompressorError(f"{INTERVAL} is '{given}', expected a number of seconds")
    return found


def identity_of(what: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over JSON values and over names, types, shapes and contents of tensors."""
    import torch

    total = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for name, tensor in tensors.items():
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def shared_identity(what: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], group: Group | None) -> str:
    """The same, of tensors that are spread over a `group` by what each of its processes holds."""
    from compressor.training.state import held

    own = identity_of(what, held(tensors))
    return own if group is None else identity_of({"shares": group.gathered(own)}, {})


def random_states() -> dict[str, Any]:
    """States of all generators that training draws from (python, numpy, torch, the GPU's), as JSON values."""
    import numpy as np
    import torch

    name, keys, *rest = np.random.get_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": [_spelled(state) for state in (torch.get_rng_state(), *gpus)],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put generators where `random_states` found them."""
    import numpy as np
    import torch

    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.asarray(keys, dtype=np.uint32), *rest))
    own, *gpus = [torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8) for text in states["torch"]]
    torch.set_rng_state(own)
    if gpus:
        torch.cuda.set_rng_state_all(gpus)


def _spelled(state: torch.Tensor) -> str:
    return state.cpu().numpy().tobytes().hex()


def _tensors(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if _sha256(path) != sha256:
        raise ValueError(f"the digest of {path.name} does not match")
    return {name: tensor.clone() for name, tensor in load_file(path).items()}  # not mapped from a file about to be replaced


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
