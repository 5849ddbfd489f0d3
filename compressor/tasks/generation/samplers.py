"""Samplers as tables: what each evaluation of a network is told, and by which numbers is gone on from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field

from compressor.contracts.described import Described
from compressor.tasks.generation.process import TIME_SCALE, Levels, Process

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Sampler: TypeAlias = Literal["ddim", "heun", "dpm++2m", "consistency"]
"""`ddim`: to the next level by the noise that was found (Song et al., 2021, arXiv:2010.02502); of `flow` and `edm` processes that is Euler's
method. `heun`: the mean of two evaluations, as in EDM. `dpm++2m`: by the row found before too (Lu et al., 2022, arXiv:2211.01095).
`consistency`: the row that was found is noised anew (Song et al., 2023, arXiv:2303.01469)."""

Row = tuple[int, float, float, float, float, float]
"""Number of the level at which the network is evaluated, then keep, clean, before, earlier, noise."""


class Sampling(Described):
    """How rows are drawn by a model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sampler: Sampler = "dpm++2m"
    """How is gone on from step to step."""
    steps: Annotated[int, Field(ge=1, le=10_000)] = 50
    """How many."""
    guidance: Annotated[float, Field(ge=0, le=100)] = 1.0
    """1: outputs as they are, one evaluation where others take two."""

    def table(
        self, process: Process, steps: int | None = None, *, told: bool = False, depths: Sequence[int] = (), after: int = 0
    ) -> NDArray[np.float64]:
        """A row for each evaluation, `[evaluations, COLUMNS]` of `inputs.sampling`; `steps` where it should be others.

        Where the network is `told` how far it is guided, one evaluation does. `depths` are the blocks that it runs by even bins of the time.
        So many steps lie behind it already that begin `after` them.
        """
        import numpy as np

        levels = process.grid(steps or self.steps)[after:]
        guided = (1.0, self.guidance) if told else (self.guidance, 0.0)
        rows = list(SAMPLERS[self.sampler](levels))
        at, gone_on = np.array([row[0] for row in rows]), np.array([row[1:] for row in rows])
        evaluated = levels[at]
        given = (
            evaluated.time,
            self.spans(levels, at),
            process.scale(evaluated),
            *process.clean(evaluated),
            *np.tile(guided, (len(at), 1)).T,
        )
        return np.concatenate([np.stack(given, axis=1), gone_on, blocks_at(evaluated.time, depths)[:, None]], axis=1)

    def spans(self, levels: Levels, at: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far steps go that begin at levels of these numbers, in times that the network is told; of `consistency` to the end."""
        found: NDArray[np.float64] = levels.time[at] - (0 if self.sampler == "consistency" else levels.time[at + 1])
        return found

    def evaluations(self, *, told: bool = False) -> int:
        """How often the network is asked for one row."""
        return (2 * self.steps - 1 if self.sampler == "heun" else self.steps) * (1 if told or self.guidance == 1 else 2)


def asked_once(process: Process, time: NDArray[np.float64], *, depths: Sequence[int] = ()) -> NDArray[np.float64]:
    """The table of one evaluation at a time `[1]`, after which a row is what was found: no step, no guidance."""
    import numpy as np

    here = process.at(time)
    given = (here.time, np.zeros(1), process.scale(here), *process.clean(here), np.ones(1), np.ones(1))
    gone_on = (0.0, 1.0, 0.0, 0.0, 0.0)
    return np.concatenate([np.stack(given, axis=1), np.array([gone_on]), blocks_at(here.time, depths)[:, None]], axis=1)


def blocks_at(time: NDArray[np.float64], depths: Sequence[int]) -> NDArray[np.int64]:
    """How many blocks run at each time, 0 where as many as ever do; as the network itself chooses by times in float32."""
    import numpy as np

    if not depths:
        return np.zeros(len(time), dtype=np.int64)
    bins = (time.astype(np.float32) * np.float32(len(depths)) / np.float32(TIME_SCALE)).astype(np.int64)
    found = np.array(depths)[bins.clip(0, len(depths) - 1)]
    return np.where(found == max(depths), 0, found)


def _ddim(levels: Levels) -> Iterator[Row]:
    for at in range(len(levels.alpha) - 1):
        yield _straight(levels, at)


def _straight(levels: Levels, at: int) -> Row:
    """From a level to the next: `alpha' * found + sigma' * noise`, the noise being `(x - alpha * found) / sigma`."""
    (alpha, lower), (sigma, cleaner) = levels.alpha[at : at + 2], levels.sigma[at : at + 2]
    return at, cleaner / sigma, lower - alpha * cleaner / sigma, 0.0, 0.0, 0.0


def _heun(levels: Levels) -> Iterator[Row]:
    """Trapezoids of `dx = d(alpha) * row + d(sigma) * noise`, which on `edm` and `flow` processes is Heun's method; the last step is straight."""
    for at in range(len(levels.alpha) - 2):
        yield _straight(levels, at)
        (alpha, lower), (sigma, cleaner) = levels.alpha[at : at + 2], levels.sigma[at : at + 2]
        fall, change = (lower - alpha) / 2, (cleaner - sigma) / 2
        yield at + 1, change / cleaner, fall - change * lower / cleaner, fall - change * alpha / sigma, 1 + change / sigma, 0.0
    yield _straight(levels, len(levels.alpha) - 2)


def _multistep(levels: Levels) -> Iterator[Row]:
    """Second order in the logarithm of the signal-to-noise ratio; first order at the first step and at the one to the clean row."""
    import numpy as np

    with np.errstate(divide="ignore"):
        logs = np.log(levels.alpha) - np.log(levels.sigma)
    for at in range(len(levels.alpha) - 1):
        _, keep, clean, *_ = _straight(levels, at)
        last = at in (0, len(levels.alpha) - 2)
        share = 0.0 if last else (logs[at + 1] - logs[at]) / (2 * (logs[at] - logs[at - 1]))
        yield at, keep, clean * (1 + share), -clean * share, 0.0, 0.0


def _consistency(levels: Levels) -> Iterator[Row]:
    for at in range(len(levels.alpha) - 1):
        yield at, 0.0, levels.alpha[at + 1], 0.0, 0.0, levels.sigma[at + 1]


SAMPLERS: Mapping[str, Callable[[Levels], Iterator[Row]]] = {
    "ddim": _ddim,
    "heun": _heun,
    "dpm++2m": _multistep,
    "consistency": _consistency,
}
