"""Supervised training on the task's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compressor.contracts import Context, Needs, Pass, Recipe, Size, Wish
from compressor.training.lora import Lora, in_float
from compressor.training.settings import TokenSettings

if TYPE_CHECKING:
    from compressor.contracts import Model
    from compressor.training.loop import Training

STEPS = 300
"""Of a training on few rows, at least: a fresh head has to learn something."""
EPOCHS = (3, 10)
"""Fewest and most that `init` proposes."""


class Finetune(TokenSettings, Pass):
    """Train the model on the labels of the training rows: all of it, or small matrices beside its own."""

    version: ClassVar[int] = 3
    trains: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("accelerate", "transformers")
    paper: ClassVar[str] = (
        "Devlin et al., BERT, 2019, arXiv:1810.04805; AdamW: Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, "
        "arXiv:1711.05101"
    )

    lora: Lora | None = Field(
        None,
        description="learn small matrices beside the model's, added to it at the end; they take a learning_rate 10 times as high",
    )

    ema: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="decay of an average of the weights over the steps, 0.999 say; it is what is scored and kept, as is usual for models that draw",
    )

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe | None:
        """It teaches the task; the fewer rows, the more epochs."""
        if not wish.task.trainable:
            return None
        if own := wish.task.training():
            return Recipe(own, "the model is not trained yet", role="train")
        least, most = EPOCHS
        epochs = min(most, max(least, -(-STEPS * cls().batch_size // max(1, wish.rows["train"]))))
        why = "the model has no head for this task: train one, with the rest of the model"
        return Recipe({"epochs": epochs, "learning_rate": 5e-5 if epochs == least else 1e-4}, why, role="train")

    def needs(self) -> Needs:
        """It minimises the task's loss."""
        return Needs(loss=True, machine=self.attention == "auto", tokens=self.tokens is not None, floats=in_float(self.lora))

    def work(self, size: Size) -> float:
        """Backward is twice forward: three passes over a training row, and those of a score over a validation row whenever it is scored."""
        train, validation = size.rows["train"], size.rows["validation"]
        scored = self.validated(train, size.epoch) * validation * size.scored
        return (3 * self.passes(train, size.epoch) * train + scored) * size.result

    def needs_whole(self) -> str:
        """Where `lora` or `compile` puts something beside or around layers."""
        return self.taken_whole(self.lora)

    def apply(self, model: Model, ctx: Context) -> Model:
        """Minimise the task's loss; the curves go into the report."""
        from compressor.contracts.notes import Series
        from compressor.training.course import told
        from compressor.training.loop import train
        from compressor.training.lora import adapted

        with adapted(model.module, self.lora, seed=ctx.seed):
            log = train(self._training(model, ctx), ctx, work="finetune")
        ctx.note(Series(title=f"Training loss ({log.precision})", x="step", y="loss", curves=dict(log.losses)))
        for note in told(log, ctx):
            ctx.note(note)
        return model

    def _training(self, model: Model, ctx: Context) -> Training:
        from compressor.training.learners import averaging
        from compressor.training.loop import Training

        return Training(
            model.module,
            batches=self.batches(model, ctx),
            step=lambda batch, _: {"task": ctx.task.loss(ctx.task.forward(model.module, batch), batch)},
            settings=self,
            learners=averaging(model.module, self, self.ema),
            evaluate=lambda: ctx.evaluate(model, "validation").quality,
        )
