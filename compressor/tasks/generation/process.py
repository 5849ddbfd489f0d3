"""How rows become noise, and what a network tells of them: processes, parametrisations and their exact conversion.

At time `t` in [0, 1] a row `x0` has become `x = alpha * x0 + sigma * noise`, the noise normal. What a network is asked for is one of several
combinations of `x0` and noise. Given `x`, each follows from each: `clean = skip * x + gain * output`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from compressor.contracts.described import Described
from compressor.errors import SourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Prediction: TypeAlias = Literal["epsilon", "v", "x0", "flow", "edm"]
"""`epsilon`: the noise; `v`: alpha * noise - sigma * x0 (Salimans and Ho, 2022, arXiv:2202.00512); `x0`: the row; `flow`: noise - x0 (Lipman et
al., 2023, arXiv:2210.02747); `edm`: what the preconditioned network of Karras et al., 2022, arXiv:2206.00364, is trained to tell."""
TIME_SCALE = 1000.0
"""Networks are told times in thousandths, as in diffusers."""
RHO = 7.0
SIGMA_DATA = 0.5
LOG_SIGMA = (-1.2, 1.2)
"""Mean and deviation of ln(sigma) in training, of Karras et al."""
CLEAN = 1e-12


@dataclass(frozen=True)
class Levels:
    """Levels of noise, float64 arrays of one shape; the last of a grid is (1, 0), where nothing is left to do."""

    alpha: NDArray[np.float64]
    sigma: NDArray[np.float64]
    time: NDArray[np.float64]
    """What the network is told."""

    def __getitem__(self, at: Any) -> Levels:
        return Levels(self.alpha[at], self.sigma[at], self.time[at])


class Process(Described):
    """A process of noise, and what the network beside it tells."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["flow", "cosine", "betas", "edm"] = "flow"
    """`flow`: alpha = 1 - t, sigma = t. `cosine`: alpha = cos(pi t / 2), sigma = sin(pi t / 2). `betas`: so many levels of a chain of small steps (Ho
    et al., 2020, arXiv:2006.11239). `edm`: alpha = 1, sigma from `sigma_min` to `sigma_max`."""
    prediction: Prediction = "flow"
    """What the network tells: the noise, alpha * noise - sigma * x0, x0, noise - x0, or what EDM's network does."""
    betas: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    """How the small steps of a chain grow, by the names of diffusers; of `betas` alone, as are the three below."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """Variance of the noise of the first small step."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Of the last one."""
    levels: Annotated[int, Field(ge=2, le=100_000)] = 1000
    """Small steps of the chain."""
    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    """The last level above none; of `edm` alone, as is `sigma_max`."""
    sigma_max: Annotated[float, Field(gt=0)] = 80.0
    """The noisiest level."""
    sigma_data: Annotated[float, Field(gt=0)] = SIGMA_DATA
    """Of the prediction `edm`: the deviation of rows."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.prediction == "epsilon" and self.kind in ("flow", "cosine"):
            raise ValueError(
                f"of {self.kind} nothing but noise is left at t = 1: that a network tells noise says nothing there; try v or flow"
            )
        for names, is_heeded, of in (
            (("betas", "beta_start", "beta_end", "levels"), self.kind == "betas", "the kind betas"),
            (("sigma_min", "sigma_max"), self.kind == "edm", "the kind edm"),
            (("sigma_data",), self.prediction == "edm", "the prediction edm"),
        ):
            for name in names:
                if not is_heeded and getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is of {of}: leave it out")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min is {self.sigma_min:g}, expected less than sigma_max, {self.sigma_max:g}")
        return self

    # -------------------------------------------------------------- levels

    def at(self, t: Any) -> Levels:
        """Levels at times in [0, 1], of any shape: 1 is the noisiest. Of `betas`, the nearest levels of the chain that are no cleaner."""
        import numpy as np

        t = np.asarray(t, dtype=np.float64)
        if self.kind == "flow":
            return Levels(1 - t, t, TIME_SCALE * t)
        if self.kind == "cosine":
            return Levels(np.cos(np.pi / 2 * t), np.sin(np.pi / 2 * t), TIME_SCALE * t)
        if self.kind == "edm":
            low, high = self.sigma_min ** (1 / RHO), self.sigma_max ** (1 / RHO)
            sigma = (low + t * (high - low)) ** RHO
            return Levels(np.ones_like(sigma), sigma, np.log(sigma) / 4)
        return self._of_chain(np.clip(np.ceil(t * self.levels - CLEAN).astype(np.int64) - 1, 0, self.levels - 1))

    def _of_chain(self, level: NDArray[np.int64]) -> Levels:
        import numpy as np

        kept = self._kept()[level]
        return Levels(np.sqrt(kept), np.sqrt(1 - kept), level.astype(np.float64))

    def _kept(self) -> NDArray[np.float64]:
        """Of a row's variance, the share that is left at each level of the chain."""
        import numpy as np

        if self.betas == "squaredcos_cap_v2":
            at = np.arange(self.levels + 1) / self.levels
            bar = np.cos((at + 0.008) / 1.008 * np.pi / 2) ** 2
            return np.asarray(np.cumprod(1 - np.minimum(1 - bar[1:] / bar[:-1], 0.999)))
        if self.betas == "scaled_linear":
            betas = np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.levels) ** 2
        else:
            betas = np.linspace(self.beta_start, self.beta_end, self.levels)
        return np.asarray(np.cumprod(1 - betas))

    def grid(self, steps: int) -> Levels:
        """So many levels from the noisiest down, evenly spaced in time, and the clean one after them: `[steps + 1]` each.

        Raises:
            SourceError: a chain of betas has fewer levels.
        """
        import numpy as np

        if self.kind == "betas" and steps > self.levels:
            raise SourceError(
                f"steps: {steps}: the model's chain has {self.levels} levels, and is drawn from in as many steps at most"
            )
        last = Levels(np.ones(1), np.zeros(1), np.zeros(1))
        if self.kind == "edm":  # down to sigma_min, the one step after which is to nothing
            found = self.at(np.linspace(1, 0, steps) if steps > 1 else np.ones(1))
        elif self.kind == "betas":
            found = self._of_chain(np.round(np.linspace(self.levels, 0, steps, endpoint=False)).astype(np.int64) - 1)
        else:
            found = self.at(np.linspace(1, 0, steps, endpoint=False))
        joined = (np.concatenate([getattr(found, name), getattr(last, name)]) for name in ("alpha", "sigma", "time"))
        return Levels(*joined)

    def times(self, draw: np.random.Generator, count: int, *, spread: Literal["uniform", "logit-normal"]) -> NDArray[np.float64]:
        """Times to train at: evenly or more often in the middle (Esser et al., 2024, arXiv:2403.03206); of `edm` normal in ln(sigma)."""
        import numpy as np

        if self.kind == "edm":
            mean, deviation = LOG_SIGMA
            low, high = self.sigma_min ** (1 / RHO), self.sigma_max ** (1 / RHO)
            sigma = np.exp(mean + deviation * draw.standard_normal(count))
            return np.asarray(np.clip((sigma ** (1 / RHO) - low) / (high - low), 0, 1))
        if spread == "logit-normal":
            return np.asarray(1 / (1 + np.exp(-draw.standard_normal(count))))
        return 1 - draw.random(count)  # in (0, 1]: at 0 there is nothing to learn

    def step(self, here: Levels, there: Levels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`keep` and `add` of a straight step: `keep * x + add * row` at another level, by the noise that `x` holds beside the row."""
        keep = there.sigma / here.sigma
        return keep, there.alpha - here.alpha * keep

    # -------------------------------------------------------------- predictions

    def scale(self, levels: Levels) -> NDArray[np.float64]:
        """What a noisy row is multiplied with before the network sees it."""
        import numpy as np

        if self.prediction != "edm":
            return np.ones_like(levels.alpha)
        return np.asarray(1 / np.sqrt(levels.sigma**2 + (self.sigma_data * levels.alpha) ** 2))

    def clean(self, levels: Levels, prediction: Prediction | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`skip` and `gain`: the row itself is `skip * x + gain * output`, of what this network tells or of another `prediction`."""
        import numpy as np

        alpha, sigma, data = levels.alpha, levels.sigma, self.sigma_data
        match prediction or self.prediction:
            case "epsilon":
                return 1 / alpha, -sigma / alpha
            case "v":
                return alpha / (alpha**2 + sigma**2), -sigma / (alpha**2 + sigma**2)
            case "x0":
                return np.zeros_like(alpha), np.ones_like(alpha)
            case "flow":
                return 1 / (alpha + sigma), -sigma / (alpha + sigma)
            case "edm":
                spread = sigma**2 + (data * alpha) ** 2
                return data**2 * alpha / spread, sigma * data / np.sqrt(spread)

    def converted(self, output: Any, sample: Any, levels: Levels, to: Prediction) -> Any:
        """What a network would tell that tells `to`, of what this one tells of noisy rows: arrays of numpy or tensors."""
        (skip, gain), (other, theirs) = self.clean(levels), self.clean(levels, to)
        return like(gain / theirs, output) * output + like((skip - other) / theirs, output) * sample

    def target(self, rows: Any, noise: Any, levels: Levels) -> Any:
        """What the network is to tell of `alpha * rows + sigma * noise`."""
        alpha, sigma = (like(each, rows) for each in (levels.alpha, levels.sigma))
        match self.prediction:
            case "epsilon":
                return noise
            case "v":
                return alpha * noise - sigma * rows
            case "x0":
                return rows
            case "flow":
                return noise - rows
            case "edm":
                skip, gain = (like(each, rows) for each in self.clean(levels))
                return (rows - skip * (alpha * rows + sigma * noise)) / gain

    def weight(self, levels: Levels, by: Literal["none", "min-snr", "flow", "edm"]) -> NDArray[np.float64]:
        """What squared errors of the network's output are multiplied with.

        `none`: nothing. `min-snr`: the error of `x0` counts by its signal-to-noise ratio, 5 at most (Hang et al., 2023, arXiv:2303.09556).
        `flow`, `edm`: as if the network told that.
        """
        import numpy as np

        if by == "none":
            return np.ones_like(levels.alpha)
        _, gain = self.clean(levels)
        if by == "min-snr":
            with np.errstate(divide="ignore"):
                return np.asarray(np.minimum((levels.alpha / levels.sigma) ** 2, MOST_RATIO) * gain**2)
        return np.asarray((gain / self.clean(levels, by)[1]) ** 2)


MOST_RATIO = 5.0


def like(values: NDArray[np.float64], other: Any) -> Any:
    """One number for each row of `other`, an array or a tensor, with axes and type to be multiplied with it."""
    import numpy as np

    shaped = np.reshape(values, (*np.shape(values), *[1] * (other.ndim - np.ndim(values))))
    if isinstance(other, np.ndarray):
        return shaped.astype(other.dtype)
    return other.new_tensor(shaped)
