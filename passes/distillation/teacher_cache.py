"""What a teacher makes of every training row, computed once: logits in memory, inner states in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Batch, Context, Outputs, Progress, Want
from compressor.contracts.failing import rows_told
from compressor.contracts.notes import Remark
from compressor.training.settings import TrainingSettings, resolved_precision
from passes.side_files import write_side_files

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from compressor.contracts import Model


LARGEST = 65504.0
"""In half precision; a state beyond is kept as this."""


@dataclass(frozen=True)
class States:
    """States of one block for all rows, one token after the other."""

    values: NDArray[Any]
    """`[tokens, features]`, mapped from a file."""
    starts: NDArray[np.int64]
    """Where each row begins, and where the last one ends: `[rows + 1]`."""

    def of(self, rows: Sequence[int], tokens: int) -> NDArray[np.float32]:
        """States `[B, tokens, features]` of some rows, zeros where a row has fewer tokens."""
        import numpy as np

        found = np.zeros((len(rows), tokens, self.values.shape[1]), dtype=np.float32)
        for at, row in enumerate(rows):
            kept = self.values[self.starts[row] : self.starts[row + 1]]
            found[at, : len(kept)] = kept
        return found


@dataclass(frozen=True)
class TeacherCache:
    """A teacher's answers by number of the training row."""

    logits: torch.Tensor
    """`[rows, classes]` in float32."""
    states: Mapping[str, States]

    def of(self, batch: Batch, like: Outputs) -> Outputs:
        """The answers to a batch, of as many tokens as the student's own outputs `like` have."""
        import torch

        rows, device = batch["row"], like.device
        tokens = next((states.shape[1] for states in like.hidden_states.values()), 0)
        numbers = rows.tolist()
        states = {name: torch.from_numpy(kept.of(numbers, tokens)).to(device) for name, kept in self.states.items()}
        return Outputs(self.logits[rows.to(self.logits.device)], mask=like.mask).having("hidden-state", states)


def answers(name: str, model: Model, want: Want, ctx: Context, settings: TrainingSettings) -> TeacherCache:
    """Run a teacher once over the training rows, in the precision that training runs in.

    Its inner states are kept in half precision where that is not float32, else in float32; the report says how much disk they take.
    """
    import torch

    files = write_side_files(model, ctx.folder / "teachers" / name)
    batches = ctx.task.batches(ctx.data.split("train"), files, batch_size=settings.batch_size)
    total = len(batches)  # type: ignore[arg-type]
    low = resolved_precision(settings.precision, ctx.device) == "bf16"
    writers = {
        block: _Writer(ctx.folder / "states" / name / str(at), half=low) for at, block in enumerate(want.of("hidden-state"))
    }
    logits = []
    for done, batch in enumerate(batches, start=1):
        moved = {key: tensor.to(ctx.device) for key, tensor in batch.items()}
        autocast = torch.autocast(torch.device(ctx.device).type, dtype=torch.bfloat16, enabled=low)
        with rows_told(batch.get("row", ()), f"answers of {name}"), torch.no_grad(), autocast:
            outputs = ctx.task.forward(model.module, moved, want)
        logits.append(outputs.main.float())
        for block, writer in writers.items():
            writer.add(outputs.hidden_states[block], outputs.mask)
        ctx.tell(Progress(f"answers of {name}", done, total, "batches"))
    kept = TeacherCache(torch.cat(logits), {block: writer.states() for block, writer in writers.items()})
    if taken := sum(each.values.nbytes for each in kept.states.values()):
        ctx.note(
            Remark(text=f"What {name} makes of the training rows was computed once: {taken / 2**20:,.0f} MiB of states on disk.")
        )
    return kept


class _Writer:
    """Writes the states of one block, batch by batch in the order of the rows."""

    def __init__(self, path: Path, *, half: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._dtype = path, "float16" if half else "float32"
        path.write_bytes(b"")
        self._lengths: list[int] = []
        self._features = 0

    def add(self, states: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Append states `[B, T, D]`, of each row its valid tokens, which come first."""
        kept = states.float().clamp(-LARGEST, LARGEST) if self._dtype == "float16" else states.float()
        array = kept.cpu().numpy().astype(self._dtype)
        lengths = [states.shape[1]] * len(array) if mask is None else mask.sum(dim=1).tolist()
        with self._path.open("ab") as file:
            for row, length in zip(array, lengths, strict=True):
                file.write(row[: int(length)].tobytes())
        self._lengths += [int(length) for length in lengths]
        self._features = states.shape[2]

    def states(self) -> States:
        """What was written."""
        import numpy as np

        starts = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)
        return States(np.memmap(self._path, dtype=self._dtype, mode="r", shape=(int(starts[-1]), self._features)), starts)
