"""The start block by block: each block learns to give what the block in float gives, before the model learns as a whole.

Block-wise reconstruction: Li et al., BRECQ, 2021, arXiv:2102.05426. Here a block reads what the rounded blocks before it give, so that it makes good
what they lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.contracts import Batch, Context, Feature, Progress, Task, Want
from compressor.contracts.notes import Series
from compressor.errors import UnsupportedModel
from compressor.model.anatomy import anatomy_of
from compressor.training.learners import Learner
from compressor.training.loop import Moment, Training, train
from compressor.training.settings import TrainingSettings
from passes.distillation.teachers import thinned
from passes.objectives.reductions import mean_over_valid
from passes.side_files import write_side_files

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model

SHARE = 5
"""Each block takes a fifth of the steps of the whole training; a step of one block of many costs as much less."""
ENTERING, LEAVING = "entering", "leaving"
"""What a block reads of a row, and what the block in float gives for it, beside the row in a batch."""


@dataclass(frozen=True)
class Line:
    """A model whose blocks are run one at a time, each on what the one before gave."""

    module: Any
    task: Task
    stack: str
    blocks: tuple[str, ...]
    tuples: Mapping[str, int]
    """How many values blocks give that give several."""

    @classmethod
    def of(cls, module: Any, task: Task, batch: Batch) -> Line:
        """The line of a model; one forward pass shows how blocks are called.

        Raises:
            UnsupportedModel: blocks are not called once each, in order, or hand on more than states.
        """
        import torch

        anatomy = anatomy_of(module)
        blocks, called, tuples = tuple(block.id for block in anatomy.blocks), list[str](), dict[str, int]()

        beside = list[str]()

        def seen(path: str, output: Any) -> None:
            called.append(path)
            if isinstance(output, tuple):
                tuples[path] = len(output)
                beside.extend(path for each in output[1:] if each is not None)

        handles = [
            module.get_submodule(path).register_forward_hook(lambda _module, _given, output, path=path: seen(path, output))
            for path in blocks
        ]
        try:
            with torch.no_grad():
                task.forward(module, batch)
        finally:
            for handle in handles:
                handle.remove()
        if tuple(called) != blocks:
            raise UnsupportedModel(f"blocks of family {anatomy.family} are not called once each, in order: leave block_wise out")
        if beside:
            raise UnsupportedModel(
                f"blocks of family {anatomy.family} hand on more than states, which the next one may need: leave block_wise out"
            )
        return cls(module, task, anatomy.stack, blocks, tuples)

    def entering(self, batch: Batch) -> torch.Tensor:
        """What the first block reads."""
        import torch

        first = Feature("hidden-state", self.stack)
        with torch.no_grad(), self._without(self.blocks):
            return self.task.forward(self.module, batch, Want([first])).features[first]

    def through(self, path: str, batch: Batch, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What one block gives for the states that it reads, and the mask of valid tokens; all other blocks are left out."""
        given: list[torch.Tensor] = []
        with self._alone(path, states, given):
            outputs = self.task.forward(self.module, batch)
        mask = outputs.mask
        fits = mask is not None and mask.shape == given[0].shape[:2]
        return given[0], mask if fits else None

    @contextmanager
    def _alone(self, path: str, states: torch.Tensor, given: list[torch.Tensor]) -> Iterator[None]:
        block = self.module.get_submodule(path)

        def enter(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return ((states, *args[1:]), named) if args else (args, {**named, "hidden_states": states})

        def leave(_module: Any, _args: Any, output: Any) -> None:
            given.append(output[0] if isinstance(output, tuple) else output)

        handles = [block.register_forward_pre_hook(enter, with_kwargs=True), block.register_forward_hook(leave)]
        try:
            with self._without([each for each in self.blocks if each != path]):
                yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _without(self, blocks: Sequence[str]) -> Iterator[None]:
        """These blocks hand on what they read."""
        for each in blocks:
            self.module.get_submodule(each).forward = self._left_out(self.tuples.get(each))
        try:
            yield
        finally:
            for each in blocks:
                del self.module.get_submodule(each).forward

    @staticmethod
    def _left_out(values: int | None) -> Any:
        def forward(*args: Any, **named: Any) -> Any:
            states = args[0] if args else named["hidden_states"]
            return states if values is None else (states, *(None,) * (values - 1))

        return forward


@dataclass(frozen=True)
class BlockTraining:
    """How each block is trained."""

    settings: TrainingSettings
    """Of the training that follows."""
    steps: int
    """Of that training."""
    rows: int
    """Training rows that are looked at."""
    step_rate: float
    """Peak learning rate of learned steps of rounding."""


def start_by_blocks(student: Model, model: Model, how: BlockTraining, ctx: Context) -> None:
    """Train the quantised blocks of a student one after the other, in place.

    Args:
        student: with its quantisers.
        model: in float; what its blocks give is imitated.
        how: the training of each.
        ctx: each block has a training of its own in its folder, so that a killed run goes on in the middle.
    """
    batches = start_rows(student, how, ctx)
    modules = [each.module.to(ctx.device).eval() for each in (student, model)]
    lines = [Line.of(module, ctx.task, _on(batches[0], ctx.device)) for module in modules]
    states = [[line.entering(_on(batch, ctx.device)) for batch in batches] for line in lines]
    curves = {}
    for number, path in enumerate(lines[0].blocks):
        leaving = _moved(lines[1], path, batches, states[1], ctx)
        rows = [
            {**batch, ENTERING: mine, LEAVING: theirs} for batch, mine, theirs in zip(batches, states[0], leaving, strict=True)
        ]
        curves[str(number)] = _trained(lines[0], path, rows, how, ctx)
        states = [_moved(lines[0], path, batches, states[0], ctx), leaving]
        ctx.tell(Progress("block by block", number + 1, len(lines[0].blocks), "blocks"))
    title = f"Block by block: square of what each block is off, in that of what it gives ({sum(map(_rows, batches))} rows)"
    ctx.note(Series(title=title, x="step", y="relative error", curves=curves))


def start_rows(student: Model, how: BlockTraining, ctx: Context) -> list[Batch]:
    """Training rows spread evenly, as files often have like rows side by side."""
    rows = ctx.data.split("train")
    count = min(how.rows, len(rows))
    rows = rows.select([at * len(rows) // count for at in range(count)])
    files = write_side_files(student, ctx.folder / "files")
    return list(ctx.task.batches(rows, files, batch_size=how.settings.batch_size))


def _moved(line: Line, path: str, batches: Sequence[Batch], states: Sequence[torch.Tensor], ctx: Context) -> list[torch.Tensor]:
    import torch

    line.module.eval()
    with torch.no_grad():
        return [line.through(path, _on(batch, ctx.device), each)[0] for batch, each in zip(batches, states, strict=True)]


def _trained(line: Line, path: str, rows: Sequence[Batch], how: BlockTraining, ctx: Context) -> tuple[tuple[float, float], ...]:
    """Train one block; its curve."""
    import torch

    from compressor.model.quantization.layers import quantizers

    block = line.module.get_submodule(path)
    if not any(True for _ in quantizers(block)):
        return ()
    learned = tuple(parameter for each in quantizers(block) for parameter in each.parameters(recurse=False))

    def step(batch: Batch, _moment: Moment) -> dict[str, torch.Tensor]:
        own = {name: tensor for name, tensor in batch.items() if name not in (ENTERING, LEAVING)}
        found, mask = line.through(path, own, batch[ENTERING])
        expected = batch[LEAVING].float()
        off, size = (mean_over_valid(each.square().mean(-1), mask) for each in (found.float() - expected, expected))
        return {"block": off / size.clamp(min=torch.finfo(size.dtype).tiny)}

    training = Training(
        torch.nn.ModuleList([block]),
        batches=lambda epoch: [rows[(at + epoch) % len(rows)] for at in range(len(rows))],
        step=step,
        settings=how.settings.model_copy(update={"steps": max(1, how.steps // SHARE), "checkpoint": "last", "dropout": False}),
        learners=(Learner("steps", learned, how.step_rate),) if learned else (),
        may_rise=True,
        followed=True,
    )
    return thinned(train(training, ctx, work=f"block {path}").losses["block"])


def _on(batch: Batch, device: str) -> dict[str, torch.Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))
