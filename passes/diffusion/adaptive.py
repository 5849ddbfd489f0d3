"""A student that draws, and its teacher where an oracle does not like what the student drew: a policy for when the model is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from compressor.contracts import Context, Feed, Needs, Pass, Session, Size
from compressor.contracts.notes import Remark
from compressor.errors import UnsupportedModel
from compressor.tasks.generation.description import FILE, Description, Policy, described
from passes.diffusion.students import check_alike, check_unlabelled, drawing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compressor.contracts import Model

SEED_OF_ORACLE = 1
"""Another one than that of the judge, so that rows are not judged by the network that chose them."""
BEYOND = 2**62
"""Numbers of rows from here on are of no split, and what they seed is the noise of no evaluation of another row."""
AT_ONCE = 64
LEVEL = 0.6


class Adaptive(Pass):
    """Put a teacher beside the step's input model, and an oracle: pictures that it likes least are mended by the teacher when the model is run."""

    version: ClassVar[int] = 2
    comes_last: ClassVar[str] = "its limit was chosen by pictures of the model as it is"
    requires: ClassVar[tuple[str, ...]] = ("torch", "numpy")
    made_with: ClassVar[tuple[str, ...]] = ("compressor.tasks.generated.classifier",)
    tried_on: ClassVar[str | None] = "image-generation"
    paper: ClassVar[str] = (
        "Starodubcev et al., Your Student is Better Than Expected: Adaptive Teacher-Student Collaboration for Text-Conditional Diffusion Models, "
        "2024, arXiv:2312.10835; the oracle, a classifier of the data, is ours"
    )
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = (
        {"teacher": "source", "rows": 24},
        {"teacher": "source", "mend": "regenerate", "rows": 24},
    )

    teacher: str = Field(description="an earlier step, an entry of models, or source; it draws as it does by itself")
    share: float = Field(
        0.5, gt=0, lt=1, description="of the student's pictures, how many the teacher mends: those that the oracle likes least"
    )
    mend: Literal["refine", "regenerate"] = Field(
        "refine",
        description="refine: the picture is noised to `level`, and the teacher goes on from there; regenerate: the teacher draws from the same noise",
    )
    level: float = Field(
        LEVEL,
        gt=0,
        lt=1,
        description="of refine: time that a picture is noised to, 1 leaves nothing of it; the teacher makes about this share of its steps",
    )
    rows: int = Field(
        1000, ge=2, le=1_000_000, description="pictures of the student that the limit is chosen by, of no row of the data"
    )

    @model_validator(mode="after")
    def _heeded(self) -> Self:
        if self.mend == "regenerate" and self.level != LEVEL:
            raise ValueError("level is of refine, not of regenerate: leave it out")
        return self

    @override
    def needs(self) -> Needs:
        """A teacher."""
        return Needs(teachers=(self.teacher,))

    @override
    def check(self, given: Path, origins: Mapping[str, Path]) -> None:
        """Models that draw alike, pictures of classes."""
        self._check(described(given), described(origins[self.teacher]))

    def _check(self, mine: Description, theirs: Description) -> None:
        check_alike(mine, theirs, self.teacher)
        if theirs.in_pairs:
            check_unlabelled(mine, theirs, self.teacher)
        if mine.decoded is not None:
            raise UnsupportedModel("the oracle looks at pictures while they are mended, and the model draws latents")
        if not mine.classes:
            raise UnsupportedModel(
                "the oracle tells whether a picture is of the class that was asked for, and the model knows no classes"
            )
        if self._after(theirs) >= theirs.sampling.steps:
            raise UnsupportedModel(
                f"level: {self.level:g}: none of the {theirs.sampling.steps} steps of teacher {self.teacher} begins there"
            )

    def _after(self, teacher: Description) -> int:
        """Steps of the teacher that are left out."""
        return 0 if self.mend == "regenerate" else max(1, round((1 - self.level) * teacher.sampling.steps))

    @override
    def work(self, size: Size) -> float:
        """Pictures of the student."""
        return float(self.rows + size.rows["validation"]) * size.weights

    @override
    def apply(self, model: Model, ctx: Context) -> Model:
        """A model of three components: the student, the teacher and the oracle.

        Raises:
            UnsupportedModel: a model does not draw, or not alike, or draws what is not finite.
            SourceError: no oracle can be made of the rows.
        """
        from compressor.model.blueprint import blueprint_of
        from compressor.model.model import Component
        from compressor.model.model import Model as Whole
        from compressor.tasks.generation.drawing import Drawing
        from compressor.tasks.generation.graphs import ORACLE, TEACHER

        teacher = ctx.model(self.teacher)
        self._check(mine := drawing(model), theirs := drawing(teacher))
        assert isinstance(ctx.task, Drawing), "what draws is of a task that draws"
        oracle = ctx.task.classifier(ctx.data, mine, seed=SEED_OF_ORACLE)
        components = {
            "model": Component(model.module, model.component().blueprint),
            TEACHER: Component(teacher.module, teacher.component().blueprint),
            ORACLE: Component(oracle, blueprint_of(oracle)),
        }
        open_limit = Policy(share=self.share, limit=0.0, tied=0.0, after=self._after(theirs), teacher=theirs)
        found = Whole(components, dict(model.files), main="model")
        policy = self._calibrated(found, mine.model_copy(update={"policy": open_limit}), ctx)
        how = mine.model_copy(update={"policy": policy})
        found.files[FILE] = how.written()
        self._tell(found, how, ctx)
        return found

    def _calibrated(self, model: Model, how: Description, ctx: Context) -> Policy:
        """The policy with the limit that so many of the student's pictures lie below."""
        import numpy as np

        from compressor.tasks.generated.adaptive import Threshold
        from compressor.tasks.generation.graphs import oracle_of, rows_drawn
        from compressor.tasks.inputs.sampling import as_seen, likes

        assert how.policy is not None
        session, liked = _session(model, how, ctx), []
        alone = how.model_copy(update={"policy": None})
        for feed in _feeds(alone, range(BEYOND, BEYOND + self.rows)):
            rows = rows_drawn(session, feed, feed["table"])[0]
            liked.append(likes(oracle_of(session)(as_seen(rows)), feed["label"]).astype(np.float32))
        try:
            chosen = Threshold.calibrated(np.concatenate(liked), self.share)
        except ValueError as error:
            raise UnsupportedModel(f"no limit can be chosen by pictures that the model draws: {error}") from error
        return how.policy.model_copy(update={"limit": chosen.limit, "tied": min(1.0, max(0.0, chosen.tied))})

    def _tell(self, model: Model, how: Description, ctx: Context) -> None:
        """What a row takes by the policy, and what rows took that it was not made by."""
        from compressor.tasks.generation.graphs import rows_drawn

        assert how.policy is not None
        session = _session(model, how, ctx)
        count = len(ctx.data.split("validation"))
        first = BEYOND + self.rows
        sent = [_mended(rows_drawn(session, feed, feed["table"])[1]) for feed in _feeds(how, range(first, first + count))]
        share, own = sum(map(sum, sent)) / count, how.model_copy(update={"policy": None}).evaluations
        ctx.note(
            Remark(
                text=f"A picture takes {own:g} evaluations of the student and, for the share {self.share:g} that the oracle likes least, "
                f"{how.policy.evaluations} of the teacher: {how.evaluations:g} on average. Of {count} other pictures it sent {share:.1%}, which "
                f"took {own + share * how.policy.evaluations:.4g}. What the oracle costs is no evaluation; it is timed with the rest. Distances "
                "and class accuracy are by another classifier than the oracle, of the same rows."
            )
        )


def _mended(sent: NDArray[np.bool_] | None) -> list[bool]:
    return [] if sent is None else sent.tolist()


def _session(model: Model, how: Description, ctx: Context) -> Session:
    """Of the torch modules, on the step's device."""
    from compressor.deploy.session import EagerSession
    from compressor.tasks.generation.graphs import graphs

    return EagerSession(ctx.task, model, graphs(how), ctx.device)


def _feeds(how: Description, seeds: range) -> list[Feed]:
    """Feeds of rows by their numbers, one class after the other."""
    import numpy as np

    parts = [np.arange(seeds.start, seeds.stop)[at : at + AT_ONCE] for at in range(0, len(seeds), AT_ONCE)]
    return [how.feed(part, part % how.classes, how.table()) for part in parts]
