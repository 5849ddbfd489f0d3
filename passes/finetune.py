"""Supervised training on the task's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from compressor.contracts import Batch, Context, Pass, Size
from compressor.training.loop import TrainingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from compressor.contracts import Model


class Finetune(TrainingSettings, Pass):
    """Train the whole model on the labels of the training rows."""

    trains: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("accelerate", "transformers")
    paper: ClassVar[str] = (
        "Devlin et al., BERT, 2019, arXiv:1810.04805; AdamW: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, "
        "arXiv:1711.05101"
    )

    def needs_classes(self) -> bool:
        """It minimises the task's loss."""
        return True

    def work(self, size: Size) -> float:
        """Backward is twice forward: three passes over a training row, one over a validation row, an epoch."""
        return self.epochs * (3 * size.rows["train"] + size.rows["validation"]) * size.result

    def apply(self, model: Model, ctx: Context) -> Model:
        """Minimise the task's loss; the curves go into the report."""
        from compressor.contracts.notes import Series
        from compressor.training.loop import train
        from passes.side_files import write_side_files

        files = write_side_files(model, ctx.folder / "files")
        rows = ctx.data.split("train")

        def step(batch: Batch, _: float) -> Mapping[str, torch.Tensor]:
            return {"task": ctx.task.loss(ctx.task.forward(model.module, batch), batch)}

        log = train(
            model.module,
            batches=lambda epoch: ctx.task.batches(rows, files, batch_size=self.batch_size, shuffle_seed=ctx.seed + epoch),
            step=step,
            settings=self,
            seed=ctx.seed,
            device=ctx.device,
            tell=ctx.tell,
            work="finetune",
            folder=ctx.folder,
            evaluate=lambda: ctx.evaluate(model, "validation").scores.main.value,
        )
        ctx.note(Series(title=f"Training loss ({log.precision})", x="step", y="loss", curves=dict(log.losses)))
        ctx.note(Series(title="Validation", x="step", y=ctx.task.metric, curves={ctx.task.metric: log.validation}))
        return model
