"""Distribution matching: a student's rows are moved by what a teacher sees in them and a network that knows the student does not.

Yin et al., Improved Distribution Matching Distillation for Fast Image Synthesis (DMD2), 2024, arXiv:2405.14867, and Novack et al., Presto!, 2024,
arXiv:2410.05167. Presto! has no code: which of our choices it leaves open is said in docs/diffusion.md. Times are in [0, 1], 1 is noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compressor.errors import UnsupportedModel
from compressor.model.depths import running
from compressor.tasks.generation.process import TIME_SCALE
from passes.diffusion.denoiser import Denoiser, grid_times

if TYPE_CHECKING:
    import torch

Loss: TypeAlias = Literal["matching", "fake", "gan"]
EDGE = 0.02
"""How near to no noise and to nothing else rows are compared, as in the code of DMD2: at either end there is nothing to tell apart."""
LEAST = 1e-6
MIDDLES = ("mid_block", "transformer_blocks", "blocks")
"""Where networks keep what lies in their middle: a U-Net of diffusers, a DiT of diffusers, a DiT of ours; of a list the block halfway."""


class MatchingSettings(BaseModel):
    """How distributions are matched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fake_updates: int = Field(
        5, ge=1, le=100, description="Steps in which the fake network and its judge learn before each one of the student."
    )
    gan: float = Field(
        3e-3, ge=0, le=100, description="Weight of the student's adversarial loss beside that of matching; 0: there is no judge."
    )
    judge: float = Field(1e-2, gt=0, le=100, description="Weight of the judge's loss beside that of the fake network.")
    aligned: tuple[Loss, ...] = Field(
        ("matching", "fake", "gan"),
        description="Losses whose noise is drawn at times as in the teacher's training (the task's `times`); of the others it is as for the "
        "student's input. Naming fewer ablates what Presto! found.",
    )
    times: Literal["continuous", "steps"] = Field(
        "continuous", description="Where the student's input lies: at any time, or where steps of `to` begin."
    )
    backward_simulation: bool = Field(
        default=False,
        description="The student's input is what its own earlier steps led to, from noise, instead of noisy rows; with `times: steps`.",
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if len(set(self.aligned)) < len(self.aligned):
            raise ValueError(f"aligned: {list(self.aligned)}: each loss is named once")
        if self.backward_simulation and self.times != "steps":
            raise ValueError("backward_simulation goes back over steps: say times: steps")
        if not self.gan and self.judge != type(self).model_fields["judge"].default:
            raise ValueError("judge is the weight of a loss that there is not with gan: 0: leave it out")
        return self

    @property
    def rhythm(self) -> tuple[bool, ...]:
        """In which steps of a cycle the student learns; in the others the fake network does."""
        return (*[False] * self.fake_updates, True)

    def passes(self, to: tuple[int, ...]) -> tuple[float, float]:
        """Of a row, in the mean over a cycle: passes of networks as large as the student, and as the teacher; a backward one counted as two."""
        led, judged = (max(to) - 1 if self.backward_simulation else 0), bool(self.gan)
        of_fake, of_student = (1 + led, 6 if judged else 3), (3 + led, 3 + 2 * judged)
        mine, theirs = (
            (self.fake_updates * one + other) / (self.fake_updates + 1) for one, other in zip(of_fake, of_student, strict=True)
        )
        return mine, theirs


@dataclass(frozen=True, eq=False)
class _Noisy:
    """Rows at times of their own, and what the fake network is to tell of them."""

    x: torch.Tensor
    t: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True, eq=False)
class Matching:
    """A student, its teacher, and a fake network that learns to denoise what the student draws."""

    teacher: Denoiser
    student: Denoiser
    fake: Denoiser
    judge: torch.nn.Module | None
    """Scores `[B, T]` of features `[B, T, D]` in the middle of the fake network: 1 for real rows, 0 for drawn ones."""
    to: tuple[int, ...]
    """Steps that the student is to draw in."""
    how: MatchingSettings = field(default_factory=MatchingSettings)

    def losses(
        self, rows: torch.Tensor, label: torch.Tensor, trained_at: torch.Tensor, *, generator: bool
    ) -> dict[str, torch.Tensor]:
        """Losses of a batch, of the student or of the fake network and its judge; noise and times come from torch's generator.

        Args:
            rows: real ones, `[B, C, H, W]`.
            label: `[B]`.
            trained_at: times as they are drawn in the teacher's training, `[B]` in [0, 1].
            generator: whether this is a step of the student.
        """
        return (self._of_student if generator else self._of_fake)(rows, label, trained_at)

    def drawn(self, rows: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Rows that the student finds in noisy ones, or where its own steps have led to."""
        import torch

        if self.how.backward_simulation:
            x, t = self._led_to(rows, label)
        else:
            t = self._asked(rows)
            x = self.student.noised(rows, t, torch.randn_like(rows))
        return self.student.row(x, t, label, t)

    def pull(self, made: torch.Tensor, label: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The gradient of rows that a student made: what the fake network sees in them, noised to `t`, less what the teacher does.

        It is divided by how far the teacher's row is from the student's, the mean of each row, as in the code of DMD2.
        """
        import torch

        with torch.no_grad():
            x = self.student.noised(made, t, torch.randn_like(made))
            real, fake = (each.row(x, t, label) for each in (self.teacher, self.fake))
            apart = (made - real).abs().flatten(1).mean(1).clamp(min=LEAST)
            return (fake - real) / apart[:, None, None, None]

    # -------------------------------------------------------------- losses

    def _of_student(self, rows: torch.Tensor, label: torch.Tensor, trained_at: torch.Tensor) -> dict[str, torch.Tensor]:
        made = self.drawn(rows, label)
        t = self._times("matching", rows, trained_at).clamp(EDGE, 1 - EDGE)
        wanted = (made - self.pull(made, label, t)).detach()
        found = {
            "matching": 0.5 * (made - wanted).square().mean()
        }  # its gradient by `made` is the pull, over how many numbers there are
        if self.judge is not None:
            noisy = self._noisy(made, "gan", trained_at)
            with frozen(self.fake.module, self.judge):
                scores = self.judge(self._seen(noisy.x, noisy.t, label)[1])
            found["gan"] = self.how.gan * (scores - 1).square().mean()
        return found

    def _of_fake(self, rows: torch.Tensor, label: torch.Tensor, trained_at: torch.Tensor) -> dict[str, torch.Tensor]:
        """Denoising of drawn rows; the judge's least squares on the very same ones where both are drawn at times alike."""
        import torch

        with torch.no_grad():
            made = self.drawn(rows, label)
        noisy = self._noisy(made, "fake", trained_at)
        if self.judge is None:
            return {"fake": (self.fake.told(noisy.x, noisy.t, label) - noisy.target).square().mean()}
        alike = ("fake" in self.how.aligned) == ("gan" in self.how.aligned)
        drawn, real = noisy if alike else self._noisy(made, "gan", trained_at), self._noisy(rows, "gan", trained_at)
        both = (torch.cat([drawn.x, real.x]), torch.cat([drawn.t, real.t]), torch.cat([label, label]))
        told, features = self._seen(*both)
        of_drawn, of_real = self.judge(features).chunk(2)
        own = told[: len(made)] if alike else self.fake.told(noisy.x, noisy.t, label)
        return {
            "fake": (own - noisy.target).square().mean(),
            "judge": self.how.judge * ((of_real - 1).square().mean() + of_drawn.square().mean()),
        }

    def _seen(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the fake network tells, and its features on the way."""
        with watched(self.fake.module) as features:
            told = self.fake.told(x, t, label)
        return told, features[0]

    # -------------------------------------------------------------- times

    def _noisy(self, rows: torch.Tensor, loss: Loss, trained_at: torch.Tensor) -> _Noisy:
        import torch

        t, noise = self._times(loss, rows, trained_at), torch.randn_like(rows)
        target = self.fake.how.process.target(rows, noise, self.fake.at(t))
        return _Noisy(self.fake.noised(rows, t, noise), t, target)

    def _times(self, loss: Loss, rows: torch.Tensor, trained_at: torch.Tensor) -> torch.Tensor:
        """Those of other rows of the batch, so that each loss and kind of rows has its own."""
        import torch

        return trained_at[torch.randperm(len(rows), device=rows.device)] if loss in self.how.aligned else self._asked(rows)

    def _asked(self, rows: torch.Tensor) -> torch.Tensor:
        """Times at which the student is asked."""
        import torch

        if self.how.times == "continuous":
            return 1 - torch.rand(len(rows), device=rows.device, dtype=torch.float64)
        return grid_times(rows, self._counts(rows))

    def _counts(self, rows: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.tensor(self.to, device=rows.device)[torch.randint(len(self.to), (len(rows),), device=rows.device)]

    def _led_to(self, rows: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From noise by so many of the student's own steps that one of `to` begins: rows and times."""
        import torch

        counts = self._counts(rows)
        taken = ((1 - grid_times(rows, counts)) * counts).round()
        t, x = torch.ones_like(taken), torch.randn_like(rows)
        with torch.no_grad():
            for step in range(max(self.to) - 1):
                later = 1 - (step + 1) / counts.double()
                goes = step < taken
                there = self.student.noised(self.student.row(x, t, label, t), later.clamp(min=0), torch.randn_like(rows))
                x, t = torch.where(goes[:, None, None, None], there, x), torch.where(goes, later, t)
        return x, t


def trained_at(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Times in [0, 1] at which the task makes the rows of a batch noisy, on a process that has such."""
    return batch["time"].double() / TIME_SCALE


# ------------------------------------------------------------------ the judge


def judge_of(denoiser: Denoiser) -> torch.nn.Module:
    """A small network that scores what `watched` sees in a network: its width is found by asking that once."""
    import torch
    from torch import nn

    how, first = denoiser.how, next(denoiser.module.parameters())
    with torch.no_grad(), watched(denoiser.module) as seen:
        one = torch.ones(1, device=first.device)
        denoiser.told(torch.zeros(1, *how.shape, device=first.device), one.double(), one.long() * 0)
    width = seen[0].shape[-1]
    layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1), nn.Flatten(1))
    return layers.to(first.device)


def middle_of(module: Any) -> torch.nn.Module:
    """The block in the middle of a network: of one that runs fewer blocks where there is more noise, of those that always run, as a judge looks
    at all rows of a batch.

    Raises:
        UnsupportedModel: it is not known where that is.
    """
    name = next((each for each in MIDDLES if getattr(module, each, None) is not None), None)
    if name is None:
        raise UnsupportedModel(f"{type(module).__name__}: where its middle is, which a judge looks at, is not known: say gan: 0")
    found: Any = getattr(module, name)
    if name != "mid_block":
        depths: tuple[int, ...] = getattr(module, "depths", ())
        always = running(len(found), min(depths, default=len(found)), getattr(module, "keep_last", 0))
        found = found[always[len(always) // 2]]
    middle: torch.nn.Module = found
    return middle


@contextmanager
def watched(module: Any) -> Iterator[list[torch.Tensor]]:
    """What comes out of a network's middle meanwhile, a `[B, T, D]` in float32 of each call: tokens, or places of a map."""
    seen: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        seen.append((output if output.ndim == 3 else output.flatten(2).transpose(1, 2)).float())

    handle = middle_of(module).register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def frozen(*modules: torch.nn.Module) -> Iterator[None]:
    """What is computed meanwhile leaves no gradient with the parameters of these modules; it passes through them."""
    learned = [each for module in modules for each in module.parameters() if each.requires_grad]
    for each in learned:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in learned:
            each.requires_grad_(True)
