"""Eager PyTorch: the model as it was trained, the baseline that everybody has."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from compressor.contracts import Artifact, Dialect, Feed, Missing, Session, Target

if TYPE_CHECKING:
    from compressor.model.model import Model


class EagerTorch(Target):
    """The model folder, run by torch without compilation."""

    dialect: ClassVar[Dialect] = Dialect(rung="torch", precisions=("fp32", "bf16"))
    file: ClassVar[str] = "model.safetensors"
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    threads: int = Field(default=1, ge=1, le=256, description="Threads of one operator.")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where the model runs.")

    def missing(self) -> Missing:
        """CUDA where there is none."""
        if self.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                return Missing(run="no CUDA device")
        return Missing()

    def build(self, source: Artifact, out: Path) -> None:
        """Copy the model folder."""
        shutil.copytree(source.path, out, dirs_exist_ok=True)

    def open(self, built: Path) -> Session:
        """Load the model."""
        import torch

        from compressor.model.model import Model

        torch.set_num_threads(self.threads)
        return _EagerSession(Model.load(built, device=self.device), self.device)


class _EagerSession:
    def __init__(self, model: Model, device: str) -> None:
        self._module = model.module.train(False)
        self._device = device

    def run(self, feed: Feed, state: object | None = None) -> tuple[Feed, object | None]:
        import torch

        with torch.inference_mode():
            inputs = {name: torch.as_tensor(array, device=self._device) for name, array in feed.items()}
            outputs = self._module(**inputs)
            return {"logits": outputs.logits.float().cpu().numpy()}, state

    def facts(self) -> dict[str, str]:
        import torch

        precision = str(next(self._module.parameters()).dtype).removeprefix("torch.").replace("float", "fp")
        return {"precision": precision, "device": self._device, "threads": str(torch.get_num_threads())}
