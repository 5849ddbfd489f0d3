"""Eager PyTorch: the model as it was trained, the baseline that everybody has."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from compressor.contracts import Artifact, Dialect, Missing, Runtime, Session, Target


class EagerTorch(Target):
    """The model folder, run by torch without compilation."""

    dialect: ClassVar[Dialect] = Dialect(format="torch", precisions=("fp32", "bf16"))
    file: ClassVar[str] = "model.safetensors"
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")

    threads: int = Field(default=1, ge=1, le=256, description="Threads of one operator.")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="Where the model runs.")

    @classmethod
    def runtime(cls, facts: Mapping[str, str]) -> Runtime:  # noqa: ARG003 - it needs the same everywhere
        """The libraries that open the model."""
        return Runtime("torch", ("torch", "safetensors", "transformers"), loaders="transformers.AutoModelFor")

    def missing(self) -> Missing:
        """CUDA where there is none."""
        if self.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                return Missing(run="no CUDA device")
        return Missing()

    def build(self, source: Artifact, out: Path, **_: object) -> None:
        """Copy the model folder."""
        shutil.copytree(source.path, out, dirs_exist_ok=True)

    def open(self, built: Path) -> Session:
        """Load the model, and the task that knows what it answers.

        Raises:
            StoreError: there is no `task.json` beside it.
        """
        import torch

        from compressor.deploy.graphs import graphs_of, task_of
        from compressor.deploy.session import EagerSession
        from compressor.model.model import Model

        task = task_of(built)
        torch.set_num_threads(self.threads)
        return EagerSession(task, Model.load(built, device=self.device), graphs_of(built), self.device)
