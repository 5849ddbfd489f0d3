"""Optimisers of a training, each with the parameters it updates, the steps in which it does, and an average of what they were."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.errors import PluginError
from compressor.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch

WEIGHTS = "weights"
"""Name of the learner of all parameters that no other one has."""
UPDATES = "updates"
"""How many a learner that keeps an average has made, among its tensors."""


@dataclass(frozen=True, eq=False)
class Learner:
    """One optimiser, AdamW, and what it learns; its rate follows the schedule of the training."""

    name: str
    parameters: tuple[torch.nn.Parameter, ...]
    learning_rate: float
    """At the peak of the schedule."""
    weight_decay: float = 0.0
    """Of matrices; biases and norms have none."""
    maximize: bool = False
    """True where the losses are to grow by these parameters: multipliers of a constraint."""
    updates: tuple[bool, ...] = (True,)
    """In which steps of a cycle it updates, over and over: `(True, False, False)` is the first of every three."""
    ema: float | None = None
    """Decay, in [0, 1), of an exponential moving average of the parameters over its updates; after n of them (1 + n) / (10 + n) where that is
    less, so that a short training does not end near where it began. What is evaluated, and what the training ends with, is the average."""

    def updates_in(self, step: int) -> bool:
        """Whether it updates in a step, counted from 0."""
        return self.updates[step % len(self.updates)]


def all_learners(trained: torch.nn.Module, own: Sequence[Learner], settings: TrainingSettings) -> tuple[Learner, ...]:
    """The learners that a pass has made, and one by the settings for all that is left and not frozen.

    Raises:
        PluginError: two of them share a name or a parameter, or one never updates.
    """
    names = [each.name for each in own]
    parameters = [id(parameter) for each in own for parameter in each.parameters]
    if len({WEIGHTS, *names}) <= len(names):
        raise PluginError(f"learners need names of their own, other than '{WEIGHTS}', found {', '.join(names)}")
    if len(set(parameters)) < len(parameters):
        raise PluginError(f"a parameter belongs to one learner, and two of {', '.join(names)} share some")
    if never := [each.name for each in own if not any(each.updates)]:
        raise PluginError(f"the learner {never[0]} never updates")
    rest = tuple(each for each in trained.parameters() if each.requires_grad and id(each) not in set(parameters))
    main = Learner(WEIGHTS, rest, settings.learning_rate, settings.weight_decay)
    return (main, *own) if rest else tuple(own)


def averaging(module: torch.nn.Module, settings: TrainingSettings, decay: float | None) -> tuple[Learner, ...]:
    """One learner by the settings, of all of a module that is not frozen, that keeps an average of it; none without a decay."""
    if decay is None:
        return ()
    learned = tuple(each for each in module.parameters() if each.requires_grad)
    return (Learner("averaged", learned, settings.learning_rate, settings.weight_decay, ema=decay),)


class Learning:
    """A learner at work: its optimiser, and the average where it keeps one. Of parameters that are spread it updates this process's rows."""

    def __init__(self, learner: Learner) -> None:
        import torch

        from compressor.training.tables import Tables

        self.learner = learner
        self.held = tuple(_held(parameter) for parameter in learner.parameters)
        self.optimiser = torch.optim.AdamW(  # fused: one pass over memory, not ten
            parameter_groups(self.held, learner.weight_decay), lr=learner.learning_rate, maximize=learner.maximize, fused=True
        )
        self.tables = Tables(self.held)
        self.average: list[torch.Tensor] = []
        self.updates = 0
        if learner.ema is not None:
            self.average = [parameter.detach().clone() for parameter in self.held]

    def __str__(self) -> str:
        return str({**vars(self.learner), "parameters": len(self.learner.parameters)})

    def update(self, rate: float, *, shrink: float = 1.0) -> None:
        """One step of the optimiser, at a share of its peak rate, by gradients divided by `shrink`."""
        import torch

        for group in self.optimiser.param_groups:
            group["lr"] = self.learner.learning_rate * rate
        # the fused optimiser divides on its way: clipping takes no pass over memory of its own
        scale = torch.tensor(shrink, device=self.learner.parameters[0].device)
        self.optimiser.grad_scale = scale if shrink > 1 else None  # type: ignore[attr-defined]
        with self._shared_out(), self.tables.filled():
            self.optimiser.step()
        if self.learner.ema is not None:
            self.updates += 1
            decay = min(self.learner.ema, (1 + self.updates) / (10 + self.updates))
            with torch.no_grad():
                for kept, parameter in zip(self.average, self.held, strict=True):
                    kept.lerp_(parameter, 1 - decay)

    @contextmanager
    def _shared_out(self) -> Iterator[None]:
        """Rows that are held have their gradients meanwhile."""
        from compressor.model.sharding import own

        spread = [(mine, each) for mine, each in zip(self.held, self.learner.parameters, strict=True) if mine is not each]
        for mine, each in spread:
            mine.grad = None if each.grad is None else own(each.grad)
        yield
        for mine, _ in spread:
            mine.grad = None

    def swap(self) -> None:
        """Exchange parameters and their average, where there is one."""
        import torch

        with torch.no_grad():
            for kept, parameter in zip(self.average, self.held, strict=False):
                now = parameter.clone()
                parameter.copy_(kept)
                kept.copy_(now)

    def tensors(self) -> dict[str, torch.Tensor]:
        """All that the updates to come depend on, beside the parameters themselves."""
        import torch

        state = self.optimiser.state_dict()["state"]
        moments = {f"moments/{at}/{name}": value for at, each in state.items() for name, value in each.items()}
        averages = {f"average/{at}": value for at, value in enumerate(self.average)}
        return {**moments, **averages, **({UPDATES: torch.tensor(self.updates)} if averages else {})}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `tensors` gave."""
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            kind, _, rest = key.partition("/")
            at, _, name = rest.partition("/")
            if key == UPDATES:
                self.updates = int(value)
            elif kind == "average":
                self.average[int(at)].copy_(value)
            else:
                moments.setdefault(int(at), {})[name] = value
        groups: list[dict[str, Any]] = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})


@contextmanager
def averaged(learning: Sequence[Learning]) -> Iterator[None]:
    """Have the averages in place of the parameters meanwhile."""
    for each in learning:
        each.swap()
    try:
        yield
    finally:
        for each in learning:
            each.swap()


def parameter_groups(parameters: Sequence[torch.nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices, which decay, and vectors (biases and norms), which do not."""
    return [
        {"params": [each for each in parameters if each.ndim > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]


def _held(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    """The rows of a parameter that this process holds, in the same memory; one that is not spread itself."""
    import torch

    from compressor.model.sharding import is_sharded, own

    return torch.nn.Parameter(own(parameter)) if is_sharded(parameter) else parameter


def rate(at: int, total: int, settings: TrainingSettings) -> float:
    """Share of the peak rate at a step."""
    warm = max(1, round(settings.warmup * total))
    if at < warm and settings.warmup:
        return (at + 1) / warm
    if settings.schedule == "constant":
        return 1.0
    left = max(0.0, (total - at) / max(1, total - warm))
    return left if settings.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
