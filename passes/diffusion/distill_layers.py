"""Distillation of a model that draws into one that runs fewer of its blocks where there is more noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Batch, Context, Needs, Pass, Size, Task, registry
from compressor.contracts.notes import Remark, Series, Table
from compressor.errors import UnsupportedModel
from compressor.model.depths import running
from compressor.tasks.generation.description import FILE, Description, described
from compressor.training.settings import TrainingSettings
from passes.diffusion.students import built, check_alike, check_decoders, check_unlabelled, drawing

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model

DEPTHS = tuple(blocks / 28 for blocks in (28, 28, 24, 24, 20, 20, 16, 16, 12, 12))
"""The one that is given with ASE's code for a network of 28 blocks."""
PROCESSES = ("flow", "cosine")
"""Those whose networks are told the time itself."""
EDITS = {"presto": "schedule-depth", "ase": "schedule-depth", "constant": "keep-blocks"}
HEEDED: Mapping[str, tuple[str, ...]] = {
    "keep_last": ("presto", "constant"),
    "self_teacher": ("presto",),
    "full": ("presto",),
}
"""Parameters that only some methods have a use for."""
INPUTS = ("sample", "time", "label", "span", "scale")
Share = Annotated[float, Field(gt=0, le=1)]


class DistillLayers(TrainingSettings, Pass):
    """Train a student, which starts from the step's input model, to denoise with fewer blocks: the more noise, the fewer."""

    version: ClassVar[int] = 3
    trains: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    tried_on: ClassVar[str | None] = "image-generation"
    paper: ClassVar[str] = (
        "ase: Moon et al., A Simple Early Exiting Framework for Accelerated Sampling in Diffusion Models, 2024, arXiv:2408.05927; presto: Novack et "
        "al., Presto! Distilling Steps and Layers for Accelerating Music Generation, 2024, arXiv:2410.05167, which has no code: which blocks go, "
        "the embedding, the weights of losses and the share of full rows are ours"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = tuple(
        {"method": method, "depths": depths, "epochs": 1, "batch_size": 12, "precision": "fp32", "validations": 1}
        for method, depths in (("presto", [1, 0.5]), ("ase", [1, 0.5]), ("constant", [0.5]))
    )

    method: Literal["presto", "ase", "constant"] = Field(
        "presto",
        description="presto: the last blocks stay, the network is told how many run and learns from its own full depth too; ase: it leaves early "
        "and learns as before; constant: equally many at all levels of noise, the others are taken out of the model",
    )
    depths: tuple[Share, ...] = Field(
        DEPTHS,
        min_length=1,
        max_length=1000,
        description="share of the blocks that run, by even bins of the time from the clean row to noise, rounded to whole blocks; one share of "
        "constant; ASE's own unless given",
    )
    keep_last: int = Field(
        1,
        ge=0,
        description="of presto and constant: of the blocks that run, so many are the network's last ones, the others its first; of ase none is, "
        "as it leaves early",
    )
    teacher: str | None = Field(
        None,
        description="an earlier step, an entry of models, or source, whose outputs are learned at the times that the student is sampled at, as after "
        "distill-steps; the rows' own noise, at all times, unless given",
    )
    self_teacher: float = Field(
        1.0,
        ge=0,
        description="of presto: weight of the error against what the student itself tells with all blocks, without a gradient; 0 for none",
    )
    full: float = Field(0.1, ge=0, lt=1, description="of presto: share of the rows that are learned with all blocks")
    ema: float | None = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay of an average of the student's weights over the steps, which is scored and kept; null for none",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, methods in HEEDED.items():
            if self.method not in methods and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is of {' and '.join(methods)}, not of {self.method}: leave it out")
        if self.method == "constant" and len(self.depths) > 1:
            raise ValueError(f"depths: {len(self.depths)} shares: constant has one, the same at all levels of noise")
        return self

    @override
    def needs(self) -> Needs:
        """A teacher where one is named, else the task's loss; the edit that says which blocks run."""
        return Needs(
            teachers=() if self.teacher is None else (self.teacher,),
            machine=self.attention == "auto",
            loss=self.teacher is None,
            own_lessons=self.teacher is not None,
            plugins={"edit": (EDITS[self.method],)},
            inside=("layers",),
            graphs="one for each number of blocks that it runs" if len(set(self.depths)) > 1 else "",
        )

    @override
    def check(self, given: Path, origins: Mapping[str, Path]) -> None:
        """A model that is told times, and a teacher that draws alike."""
        self._check(described(given), None if self.teacher is None else described(origins[self.teacher]))
        if self.teacher is not None:
            check_decoders(given, origins, self.teacher)
        if network := built(given):
            from compressor.model.anatomy import anatomy_of

            self._depths(len(anatomy_of(network).blocks))

    def _check(self, mine: Description, theirs: Description | None) -> None:
        if mine.policy is not None:
            raise UnsupportedModel("a teacher mends the model's rows: let blocks go before that")
        if mine.depths:
            raise UnsupportedModel("the model runs fewer blocks already: one distill-layers is enough")
        if mine.process.kind not in PROCESSES:
            raise UnsupportedModel(
                f"blocks go by the time on processes {' and '.join(PROCESSES)}, and the model is of {mine.process.kind}"
            )
        learned = {"long steps": mine.stepped or mine.spans, "guidance": mine.scales}
        if theirs is None and (what := next((name for name, has in learned.items() if has), None)):
            raise UnsupportedModel(
                f"rows do not say what a network is to tell of {what}: name the step that taught it that as teacher"
            )
        if theirs is not None:
            check_alike(mine, theirs, str(self.teacher))
            if mine.in_pairs:
                check_unlabelled(mine, theirs, str(self.teacher))
            if mine.stepped and not theirs.stepped:
                raise UnsupportedModel(
                    f"the model draws in long steps, which teacher {self.teacher} was not taught: name the step that taught it them"
                )
            if (mine.spans, mine.scales) != (theirs.spans, theirs.scales):
                raise UnsupportedModel(f"teacher {self.teacher} is told other numbers than the student: span or scale")

    @override
    def work(self, size: Size) -> float:
        """Of a row a backward pass and two forward passes; the student's are counted whole."""
        train, validation = size.rows["train"], size.rows["validation"]
        learned, scored = self.passes(train, size.epoch) * train, self.validated(train, size.epoch) * validation * size.scored
        own = 1 if self.method == "presto" and self.self_teacher else 0
        return ((3 + own) * learned + scored) * size.result + (learned * size.teachers if self.teacher else 0)

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """The student.

        Raises:
            UnsupportedModel: a model does not draw or is of another network than ours, or fewer blocks would run than have to.
            TrainingDiverged: the loss is not finite.
        """
        from compressor.training.course import told
        from compressor.training.learners import averaging
        from compressor.training.loop import Training, train

        teacher = None if self.teacher is None else ctx.model(self.teacher)
        self._check(drawing(model), None if teacher is None else drawing(teacher))
        student = self._student(model, ctx.seed)
        if teacher is not None:
            teacher.module.to(ctx.device).train(False).requires_grad_(False)
        training = Training(
            student.module,
            batches=self.batches(student, ctx),
            step=lambda batch, _: self.losses(student, teacher, batch, ctx.task),
            settings=self,
            learners=averaging(student.module, self, self.ema),
            evaluate=lambda: ctx.evaluate(student, "validation").quality,
            beside=() if teacher is None else (teacher.module,),
        )
        log = train(training, ctx, work="distill-layers")
        ctx.note(Series(title=f"Losses ({log.precision})", x="step", y="loss", curves=dict(log.losses)))
        for note in told(log, ctx):
            ctx.note(note)
        self._tell(student, training.batches(0), ctx)
        return student

    # -------------------------------------------------------------- the student

    @property
    def _keep_last(self) -> int:
        return 0 if self.method == "ase" else self.keep_last

    def _depths(self, total: int) -> tuple[int, ...]:
        """How many of so many blocks run, by bins of the time.

        Raises:
            UnsupportedModel: fewer than have to, or all of them everywhere.
        """
        depths = tuple(max(1, round(share * total)) for share in self.depths)
        if self._keep_last > min(depths):
            raise UnsupportedModel(f"keep_last: {self._keep_last}: of {total} blocks as few as {min(depths)} run by the schedule")
        if min(depths) == total:
            raise UnsupportedModel(f"depths: of {total} blocks all run at all times: there is nothing to learn")
        return depths

    def _student(self, model: Model, seed: int) -> Model:
        """A copy that runs fewer blocks."""
        import torch

        from compressor.model.anatomy import anatomy_of

        student = model.copy()
        total = len(blocks := anatomy_of(student.module).blocks)
        depths, keep_last = self._depths(total), self._keep_last
        edit = registry.load("edit", EDITS[self.method])
        if self.method == "constant":
            student.apply(edit(blocks=tuple(blocks[each].id for each in running(total, depths[0], keep_last))))
            return student
        torch.manual_seed(seed)  # the embedding that is added is the same one when a killed run goes on
        student.apply(edit(depths=depths, keep_last=keep_last, budget=self.method == "presto"))
        student.files[FILE] = described(student).model_copy(update={"depths": depths}).written()
        return student

    # -------------------------------------------------------------- what is learned

    def losses(self, student: Model, teacher: Model | None, batch: Batch, task: Task) -> dict[str, torch.Tensor]:
        """Mean squared errors of the student's output, by what it is held against; which rows run all blocks comes from torch's generator."""
        import torch

        from compressor.contracts import Outputs

        asked, module = self._asked(student, teacher, batch), student.module
        blocks: torch.Tensor | None = None
        if self.method == "presto":
            whole = torch.rand(len(asked["time"]), device=asked["time"].device) < self.full
            blocks = torch.where(whole, len(module.blocks), module.depth_at(asked["time"]))
        found = module(**asked, blocks=blocks)
        if teacher is None:
            losses = {"rows": task.loss(Outputs(found), batch)}
        else:
            with torch.no_grad():
                taught = teacher.module(**asked)
            losses = {"teacher": _apart(found, taught)}
        if self.method == "presto" and self.self_teacher:
            with torch.no_grad():
                own = module(**asked, blocks=len(module.blocks))
            losses["self-teacher"] = self.self_teacher * _apart(found, own)
        return losses

    def _asked(self, student: Model, teacher: Model | None, batch: Batch) -> dict[str, torch.Tensor]:
        """Inputs of the network: the batch's own, or rows at the times and spans at which the student is sampled."""
        import torch

        if teacher is None:
            return {name: batch[name] for name in INPUTS if name in batch}
        how, rows = described(student), batch["clean"]
        label = batch["label" if how.in_pairs else "labels"]  # some are left out, as they are when it draws
        return sampled(how, rows, label, torch.randn_like(rows))

    # -------------------------------------------------------------- report

    def _tell(self, student: Model, batches: Any, ctx: Context) -> None:
        how, total = described(student), len(student.module.blocks)
        if self.method == "constant":
            ctx.note(Remark(text=f"{total} blocks are left."))
            return
        table = how.table()
        ran = [blocks or max(how.depths) for blocks in table[:, -1].astype(int).tolist()]
        ctx.note(
            Remark(
                text=f"Of {total} blocks {', '.join(map(str, how.depths))} run by even bins of the time, from the clean row to noise; in its "
                f"{len(ran)} evaluations a mean of {sum(ran) / len(ran):.2f}."
            )
        )
        batch = next(iter(batches))
        given = {name: batch[name].to(ctx.device) for name in INPUTS if name in batch}
        shares = variances(student.module, given, sorted(set(how.depths)))
        title = "Variance of the states that reach the head, as a share of that with all blocks"
        ctx.note(
            Table(
                title=title, columns=("blocks", "share"), rows=tuple((depth, round(share, 3)) for depth, share in shares.items())
            )
        )


def sampled(how: Description, rows: torch.Tensor, label: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs of a network at times at which it is sampled, drawn by torch's generator, with the spans and scales that it is told there.

    Args:
        how: of the process flow or cosine.
        rows: clean ones, `[B, C, H, W]`.
        label: `[B]`.
        noise: as `rows`.
    """
    import torch

    from compressor.tasks.generation.process import TIME_SCALE, like
    from compressor.tasks.inputs.sampling import COLUMNS

    table = how.table()
    chosen = table[torch.randint(len(table), (len(rows),)).numpy()]
    time, span, told = (rows.new_tensor(chosen[:, COLUMNS.index(name)]) for name in ("time", "span", "told"))
    levels = how.process.at(chosen[:, 0] / TIME_SCALE)
    noisy = like(levels.alpha, rows) * rows + like(levels.sigma, rows) * noise
    others = {**({"span": span} if how.spans else {}), **({"scale": told} if how.scales else {})}
    return {"sample": like(how.process.scale(levels), rows) * noisy, "time": time, "label": label, **others}


def variances(module: Any, given: Mapping[str, torch.Tensor], depths: Sequence[int]) -> dict[int, float]:
    """Variance of the states that reach the head of a network of ours by how many blocks run, as a share of that with all of them."""
    import torch

    with torch.no_grad():
        found = {depth: float(module.states(**given, blocks=depth)[0].var()) for depth in (*depths, len(module.blocks))}
    return {depth: found[depth] / found[len(module.blocks)] for depth in depths}


def _apart(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (found.float() - wanted.float()).square().mean()
