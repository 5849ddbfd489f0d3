"""Which implementation of attention a model trains with: the one that takes the least time here, measured over a few steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from compressor.contracts import Context
from compressor.contracts.notes import Remark
from compressor.errors import UnsupportedModel
from compressor.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch

IMPLEMENTATIONS = ("sdpa", "eager")
MARGIN = 0.03
"""Another implementation than the model's own has to save so much of the time."""
LEAST_PARAMETERS = 1_000_000
"""Below, a step is too short for the choice to matter."""
ROUNDS = 2
CLEAR = 1.3
"""Times as long as the other: no further round would turn that."""


def attending_modules(trained: torch.nn.Module) -> list[Any]:
    """The models inside, outermost, whose attention can be chosen."""
    found: list[Any] = []
    inside: set[int] = set()
    for module in trained.modules():
        if id(module) not in inside and _now(module) in IMPLEMENTATIONS:
            found.append(module)
            inside |= {id(each) for each in module.modules()}
    return found


@contextmanager
def attending(trained: torch.nn.Module, implementation: str | None) -> Iterator[None]:
    """Have models compute attention by an implementation meanwhile; None leaves them as they are.

    Raises:
        UnsupportedModel: a model has no such implementation.
    """
    modules = attending_modules(trained) if implementation else []
    before = [_now(module) for module in modules]
    try:
        for module in modules:
            _set(module, implementation)
        yield
    finally:
        for module, usual in zip(modules, before, strict=True):
            _set(module, usual)


def _now(module: Any) -> Any:
    """Of a network of ours that can `attend` otherwise, or of a model of transformers; None of others."""
    if hasattr(module, "attend"):
        return module.attention
    return getattr(module.config, "_attn_implementation", None) if hasattr(module, "set_attn_implementation") else None


def _set(module: Any, implementation: str | None) -> None:
    if _now(module) == implementation:
        return
    try:
        (module.attend if hasattr(module, "attend") else module.set_attn_implementation)(implementation)
    except (ValueError, ImportError) as error:
        raise UnsupportedModel(f"attention: {implementation} is not to be had of {type(module).__name__}: {error}") from error


def is_measured(trained: torch.nn.Module, settings: TrainingSettings, device: str) -> bool:
    """Whether the choice is left to time, and is one: on a CPU, of models whose attention can be chosen, and steps that take a while."""
    modules = attending_modules(trained)
    parameters = sum(parameter.numel() for module in modules for parameter in module.parameters())
    return settings.attention == "auto" and not settings.compile and device == "cpu" and parameters >= LEAST_PARAMETERS


def fastest(trained: torch.nn.Module, steps: Sequence[Callable[[], Any]], what: Any, ctx: Context) -> str:
    """The implementation that takes the least time; the models' own where the other one saves less than the margin.

    Args:
        steps: forward and backward passes to measure with, on batches of their own.
        what: all beside the machine that the time of these steps depends on, as JSON values.
    """
    own: str = _now(attending_modules(trained)[0])
    other = next(each for each in IMPLEMENTATIONS if each != own)

    def measure() -> str:
        try:
            seconds = _measured(trained, (own, other), steps)
        except UnsupportedModel:
            return own
        best = other if seconds[other] < (1 - MARGIN) * seconds[own] else own
        times = " and ".join(f"{1e3 * seconds[each] / len(steps):.0f} ms with {each}" for each in (own, other))
        ctx.note(Remark(text=f"Attention while training: {best}; a step without its update takes {times} here."))
        return best

    found: str = ctx.remember({"fastest attention": what, "of": [own, other]}, measure)
    return found


def _measured(trained: torch.nn.Module, kinds: Sequence[str], steps: Sequence[Callable[[], Any]]) -> dict[str, float]:
    """Least seconds of all steps by implementation, in turns; one step warms each up, and what is clear at once is not asked again."""
    found = dict.fromkeys(kinds, math.inf)
    for kind in kinds:
        _seconds(trained, kind, steps[:1])
    for _ in range(ROUNDS):
        for kind in kinds:
            found[kind] = min(found[kind], _seconds(trained, kind, steps))
        if max(found.values()) > CLEAR * min(found.values()):
            break
    return found


def _seconds(trained: torch.nn.Module, kind: str, steps: Sequence[Callable[[], Any]]) -> float:
    with attending(trained, kind):
        started = time.monotonic()
        for step in steps:
            step()
        return time.monotonic() - started
