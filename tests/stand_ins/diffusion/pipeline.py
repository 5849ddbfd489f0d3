"""A third party's diffusion: a pipeline of diffusers is loaded, cut and trained, and a network of its own has a name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from compressor.contracts import Batch, Context, Edit, Model, Pass, Size
from compressor.errors import UnsupportedModel
from compressor.training import Moment, Training, TrainingSettings, train

SCHEDULER = "scheduler/scheduler_config.json"


class ClassEmbedder(nn.Module):
    """A vector for each class, from ternary weights that are packed four to a byte where they are stored."""

    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"classes": 4, "width": 8}, {"classes": 4, "width": 8, "tied": True})

    def __init__(self, classes: int, width: int, tied: bool = False) -> None:
        super().__init__()
        self.config = {"classes": classes, "width": width, "tied": tied}
        self.table = Ternary(classes, width)
        self.back = Ternary(classes, width)
        self.register_buffer("angles", torch.arange(width) / width, persistent=False)
        if tied:
            self.back.weight = self.table.weight

    def forward(self, label: torch.Tensor) -> torch.Tensor:
        """`[B]` to `[B, width]`."""
        return self.table.rounded()[label] * self.angles.cos() + self.back.rounded()[label]


class Ternary(nn.Module):
    """A matrix of -1, 0 and 1 with one scale."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns))

    def rounded(self) -> torch.Tensor:
        scale = self.weight.abs().mean()
        return (self.weight / scale).round().clamp(-1, 1) * scale

    def stored_bytes(self) -> int:
        """Two bits a weight, and the scale."""
        return -(-self.weight.numel() // 4) + 4


class KeepGroups(Edit):
    """Keep some groups of the channels inside a residual block; the groups are those of its second norm."""

    kind: ClassVar[str] = "keep-groups"

    block: str
    groups: tuple[int, ...]

    def apply(self, module: nn.Module) -> None:
        """Cut the first convolution, the projection of time, the second norm, and the inputs of the second convolution."""
        block = _inner(module, self.block)
        norm = block.norm2
        if not self.groups or not set(self.groups) <= set(range(norm.num_groups)):
            raise UnsupportedModel(f"{self.block} has {norm.num_groups} groups, not {self.groups}")
        size = norm.num_channels // norm.num_groups
        kept = torch.tensor([group * size + each for group in self.groups for each in range(size)])
        for layer in (block.conv1, block.time_emb_proj, norm):
            layer.weight, layer.bias = _rows(layer.weight, kept, 0), _rows(layer.bias, kept, 0)
        block.conv2.weight = _rows(block.conv2.weight, kept, 1)
        block.conv1.out_channels = block.time_emb_proj.out_features = block.conv2.in_channels = norm.num_channels = len(kept)
        norm.num_groups = len(self.groups)

    def describe(self) -> str:
        return f"{self.block}: keep {len(self.groups)} groups of inner channels"


def _inner(module: nn.Module, path: str) -> Any:
    from diffusers.models.resnet import ResnetBlock2D

    try:
        found = module.get_submodule(path)
    except AttributeError:
        found = None
    if not isinstance(found, ResnetBlock2D):
        raise UnsupportedModel(f"{path} is no residual block of diffusers")
    return found


def _rows(tensor: Any, kept: torch.Tensor, dimension: int) -> nn.Parameter:
    return nn.Parameter(tensor.detach().index_select(dimension, kept.to(tensor.device)), requires_grad=tensor.requires_grad)


class TernaryLinear(nn.Module):
    """A linear layer that trains and runs in floats, and is stored with two bits a weight."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scale = self.weight.abs().mean()
        return nn.functional.linear(inputs, (self.weight / scale).round().clamp(-1, 1) * scale, self.bias)

    def stored_bytes(self) -> int:
        return -(-self.weight.numel() // 4) + 4 + 4 * self.bias.numel()


class MakeTernary(Edit):
    """Round the weights of a linear layer to -1, 0 and 1 wherever it runs."""

    kind: ClassVar[str] = "make-ternary"
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({"layer": "bert.encoder.layer.0.intermediate.dense"},)

    layer: str

    def apply(self, module: nn.Module) -> None:
        owner, _, name = self.layer.rpartition(".")
        try:
            found = module.get_submodule(self.layer)
        except AttributeError:
            found = None
        if not isinstance(found, nn.Linear):
            raise UnsupportedModel(f"{self.layer} is no linear layer")
        setattr(module.get_submodule(owner), name, TernaryLinear(found))

    def describe(self) -> str:
        return f"{self.layer} is ternary"


class Ternarise(Pass):
    """Make all linear layers ternary that lie in a stack of layers."""

    def work(self, size: Size) -> float:
        return size.result

    def apply(self, model: Model, ctx: Context) -> Model:
        names = [name for name, each in model.module.named_modules() if isinstance(each, nn.Linear) and ".layer." in name]
        for name in names:
            model.apply(MakeTernary(layer=name))
        return model


class Denoise(TrainingSettings, Pass):
    """Train the denoiser to tell the noise in an image, with the noise levels of the scheduler beside it."""

    trains: ClassVar[bool] = True

    def work(self, size: Size) -> float:
        return self.epochs * 3 * size.rows["train"] * size.result

    def apply(self, model: Model, ctx: Context) -> Model:
        settings = json.loads(model.files[SCHEDULER])
        betas = torch.linspace(settings["beta_start"], settings["beta_end"], settings["num_train_timesteps"])
        kept = (1 - betas).cumprod(0)

        def step(batch: Batch, _: Moment) -> Mapping[str, torch.Tensor]:
            noise, at = torch.randn_like(batch["pixels"]), torch.randint(len(kept), (len(batch["pixels"]),))
            share = kept[at].reshape(-1, 1, 1, 1)
            noisy = share.sqrt() * batch["pixels"] + (1 - share).sqrt() * noise
            return {"noise": (model.module(noisy, at).sample - noise).square().mean()}

        rows = ctx.data.split("train")
        train(Training(model.module, lambda _: _Batches(rows, self.batch_size), step, self), ctx, work="denoise")
        return model


class _Batches:
    def __init__(self, rows: Any, size: int) -> None:
        self._pixels, self._size = torch.tensor(rows["pixels"]), size

    def __len__(self) -> int:
        return -(-len(self._pixels) // self._size)

    def __iter__(self) -> Iterator[Batch]:
        for pixels in self._pixels.split(self._size):
            yield {"pixels": pixels}
