"""Steps of which there are several: optimisers that take turns, and models that one step makes; somebody else's, by public doors."""

from __future__ import annotations

from compressor.contracts import Needs, Pass
from compressor.training.settings import TrainingSettings

TURNS = (True, True, True, True, True, False)


class TakeTurns(TrainingSettings, Pass):
    """A judge learns in five of six steps to read labels off a model's logits; in the sixth the model learns by it, and is averaged."""

    trains = True

    def needs(self):
        return Needs(loss=True, logits=True, machine=self.attention == "auto")

    def apply(self, model, ctx):
        import torch

        from compressor.contracts.notes import Series
        from compressor.training.learners import Learner
        from compressor.training.loop import Training, train

        torch.manual_seed(ctx.seed)
        files, rows, module = ctx.folder / "files", ctx.data.split("train"), model.module
        model.save_files(files)
        classes = ctx.task.forward(module, next(iter(ctx.task.batches(rows, files, batch_size=1)))).main.shape[-1]
        judge = torch.nn.Linear(classes, classes)

        def step(batch, moment):
            found, judged = ctx.task.forward(module, batch), torch.nn.functional.cross_entropy
            if "judge" in moment.updates:
                return {"judge": judged(judge(found.main.detach()), batch["labels"])}
            return {"task": ctx.task.loss(found, batch), "judged": judged(judge(found.main), batch["labels"])}

        training = Training(
            torch.nn.ModuleList([module, judge]),
            batches=self.batches(model, ctx),
            step=step,
            settings=self,
            learners=(
                Learner("judge", tuple(judge.parameters()), 10 * self.learning_rate, updates=TURNS),
                Learner(
                    "model", tuple(module.parameters()), self.learning_rate, updates=tuple(not turn for turn in TURNS), ema=0.9
                ),
            ),
            evaluate=lambda: ctx.evaluate(model, "validation").quality,
        )
        log = train(training, ctx, work="take turns")
        ctx.note(Series(title="Losses", x="step", y="loss", curves=dict(log.losses)))
        return model


class ThreeSizes(Pass):
    """A model as it is, one of its first blocks, and one of a single block of a few neurons."""

    forgets: str = ""
    adds: str = ""

    def needs(self):
        return Needs(products=("small", "tiny"), inside=("layers", "neurons"), plugins={"edit": ("keep-blocks", "keep-neurons")})

    def apply(self, model, ctx):
        from compressor.model.anatomy import anatomy_of
        from compressor.model.edits import KeepBlocks, KeepNeurons

        blocks = [block.id for block in anatomy_of(model.module).blocks]
        small, tiny = model.copy(), model.copy()
        small.apply(KeepBlocks(blocks=tuple(blocks[: -(-len(blocks) // 2)])))
        tiny.apply(KeepBlocks(blocks=(blocks[0],)))
        tiny.apply(KeepNeurons(block=blocks[0], neurons=tuple(range(8))))
        for name, made in {"small": small, "tiny": tiny, self.adds: tiny}.items():
            if name and name != self.forgets:
                ctx.produce(name, made)
        return model
