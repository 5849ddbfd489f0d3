"""Passes and objectives, and what the core hands to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import Field

from compressor.contracts.data import Data
from compressor.contracts.evaluation import Evaluation
from compressor.contracts.features import Outputs, Want
from compressor.contracts.graph import Feed
from compressor.contracts.model import Model
from compressor.contracts.recipe import Epoch, Recipe
from compressor.contracts.records import Workload
from compressor.contracts.renamed import notice
from compressor.contracts.step import Event, Step
from compressor.contracts.target import Artifact, Dialect
from compressor.contracts.task import Batch, Task
from compressor.contracts.wish import Wish

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from compressor.contracts.anatomy import Anatomy
    from compressor.contracts.notes import Note


class Context(Protocol):
    """What the core hands to a pass. A pass neither prints nor times nor decides where files go."""

    @property
    def task(self) -> Task: ...
    @property
    def data(self) -> Data: ...
    @property
    def metric(self) -> str:
        """The measure that quality is held by."""
        ...

    @property
    def seed(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def folder(self) -> Path:
        """Scratch folder of this step: graphs below torch are written here; it survives a killed run."""
        ...

    @property
    def dialect(self) -> Dialect | None:
        """The target's dialect when the step runs in a target's branch, None in the trunk."""
        ...

    def model(self, name: str) -> Model:
        """An earlier step's model, an entry of `models:`, or `source`; a fresh copy, in eval mode."""
        ...

    def evaluate(self, model: Model | Artifact, split: str) -> Evaluation:
        """Score a torch model eagerly, or a graph on this branch's target, on a split."""
        ...

    def outputs(self, model: Model | Artifact | str, split: str, *, limit: int) -> NDArray[np.float32]:
        """The main output for at most `limit` rows, spread evenly over a split, in their order: `[rows, ...]`.

        A model that is asked for by its name, as `model` takes it, is not run anew where a step was scored on that split.
        """
        ...

    def feeds(self, model: Model | Artifact, split: str, *, limit: int | None = None, graph: str = "model") -> Sequence[Feed]:
        """Real inputs of a split, one row each, as a graph of the exported model takes them."""
        ...

    def measure(self, models: Sequence[Model], target: str, workload: Workload) -> Sequence[float]:
        """Median latency in ms of each model on a named target of the plan, measured interleaved."""
        ...

    def remember(self, what: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """A JSON value measured once on this machine: found by `what` and the machine's fingerprint, else made and kept.

        The first key of `what` is the name by which other runs are told that they wait for it.
        """
        ...

    def produce(self, name: str, model: Model) -> None:
        """Keep a further model of this step, known to later steps as `STEP.NAME`; `needs` has named it."""
        ...

    def tell(self, event: Event) -> None:
        """Say how far the work has come."""
        ...

    def note(self, note: Note) -> None:
        """Add a chart, table or remark to this step's part of the report."""
        ...


@dataclass(frozen=True)
class Size:
    """How large a step's task is, as far as its time depends on it."""

    rows: Mapping[str, int]
    """By split."""
    blocks: int
    """Of the model it starts from."""
    weights: float
    """Parameters in the blocks of the model it starts from: multiply-accumulates a token."""
    result: float
    """Parameters in the blocks of the model it makes."""
    teachers: float = 0.0
    """Parameters in the blocks of all its teachers together."""
    epoch: Epoch | None = None
    """What an epoch of training is made of; None where it is the rows."""
    scored: float = 1.0
    """Passes of a model that scoring a row takes: as `Task.passes_to_score` has it."""
    levels: bool = False
    """Whether `Task.level` tells calls of a graph apart, so that a step may look at each level by itself."""


@dataclass(frozen=True)
class Needs:
    """What a step needs beside its input model."""

    teachers: tuple[str, ...] = ()
    """Models that it reads: earlier steps, their products as `STEP.NAME`, entries of `models:`, or `source`."""
    logits_of: tuple[str, ...] = ()
    """Those of them whose logits it learns from: none whose head was newly initialised."""
    targets: tuple[str, ...] = ()
    """Targets of the plan that it measures on."""
    workloads: tuple[Workload, ...] = ()
    """What it times models at."""
    machine: bool = False
    """Whether it chooses by what is fast on this machine, apart from targets: another machine's result may differ."""
    plugins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Plug-ins that it works with, by kind: objectives that its parameters name, edits that it makes of a model.

    They are checked with the plan, and their versions belong into the key.
    """
    loss: bool = False
    """Whether it works with a loss of the task's own: not every task has one."""
    logits: bool = False
    """Whether it takes outputs for logits of classes that exclude each other: not every task gives such (`Task.gives_logits`)."""
    imitates: bool = False
    """Whether it learns from answers, whatever they are (`Task.imitated`): its objectives adapt to the task by `Objective.of`."""
    tokens: bool = False
    """Whether its budget is one of tokens: not every task counts them (`Task.counts`)."""
    repeats: bool = False
    """Whether the inputs of a row have to be the same in every epoch."""
    inside: tuple[str, ...] = ()
    """Parts that it works on: kinds of units of its input as `Anatomy.units` has them, `features` and `attention maps` of its
    teachers too.

    Only where there are none can the model be of any architecture: no anatomy row need fit it.
    """
    floats: Mapping[str, str] = field(default_factory=dict)
    """Parameters that work on layers in float alone ('' for the step), with the reason: no step of the trunk may have quantised its input."""
    products: tuple[str, ...] = ()
    """Names of further models that it makes with `ctx.produce`; a later step may start from them or be taught by them."""
    graphs: str = ""
    """Which several graphs what it makes becomes when it is lowered; empty where it stays one."""
    teaches: str = ""
    """What it teaches that rows do not say, long steps say: a training on rows that starts from it would lose that, and is a fault."""
    own_lessons: bool = False
    """Whether a step that trains asks its model for what `Task.beyond_rows` and other steps' `teaches` name, and not by batches of rows alone."""
    calls: bool = False
    """Whether it reads inputs of graphs (`Task.calls`) to take ranges from: not every model leaves any to be had."""
    rows: bool = True
    """Whether it reads rows: a plan whose steps read none may have no data. Then `Data.real` is False, and nothing is scored."""


FORMER = {
    "teachers": "teachers",
    "imitated": "logits_of",
    "targets": "targets",
    "plugins": "plugins",
    "needs_classes": "logits",
    "needs_repeats": "repeats",
}
"""Methods that said a part of it before there was `needs`, and the part."""


def _as_asked_before(step: Pass) -> Needs:
    """The needs of a pass that was written before there was `needs`: without them, what it depends on would miss in its key."""
    given: dict[str, Any] = {new: getattr(step, old)() for old, new in FORMER.items() if callable(getattr(type(step), old, None))}
    if callable(getattr(type(step), "shapes", None)):
        given["workloads"] = tuple(Workload(batch=batch, length=length) for batch, length in step.shapes())  # type: ignore[attr-defined]
    if given:
        notice(f"what {type(step).__name__} says of its needs ({', '.join(given)})", "needs()")
    return Needs(**given)


class Pass(Step, ABC):
    """Model in, model out.

    `accepts` lists the formats it can work on. `("torch",)` puts it into the trunk. A pass below torch runs once in each
    target's branch: on the target's own format where `accepts` has it, else on the first format in `accepts` that lies on the way down.
    """

    accepts: ClassVar[tuple[str, ...]] = ("torch",)
    quantizes: ClassVar[bool] = False
    """True for passes that write quantised tensors: two of them in one plan are a fault."""
    trains: ClassVar[bool] = False
    each_graph: ClassVar[bool] = False
    """Of a quantiser below torch: whether it works on a model that has several graphs, on each of them."""
    comes_last: ClassVar[str] = ""
    """Why nothing may change the model that it makes: a step that starts from it is a fault. Empty where others may follow."""
    tried_on: ClassVar[str | None] = None
    """The task whose tiny model the conformance suite tries it on, where it works on no other; None: texts with a label."""

    @abstractmethod
    def apply(self, model: Any, ctx: Context) -> Any:
        """`Model -> Model` on the torch format; below it `Artifact -> Artifact`, written under `ctx.folder`."""

    def needs(self) -> Needs:
        """What it needs beside its input, as far as its parameters say; asked before anything runs."""
        return _as_asked_before(self)

    def check(self, given: Path, origins: Mapping[str, Path]) -> None:
        """Refuse what cannot work, before anything runs.

        Args:
            given: folder of the source model that the step's input comes from.
            origins: for every earlier step, entry of `models:` and `source`, the folder of the model it comes from.
        """

    def refuses(self, dialect: Dialect) -> Mapping[str, str]:
        """Why it has no part in the branch of a target, by the parameter at fault ('' for the step), asked before anything runs.

        What a target has no kernels for is refused here: `Dialect.schemes` says what it has. Empty where nothing speaks against it.
        """
        return {}

    def refuses_rows(self, dialect: Dialect, rows: Mapping[str, int]) -> Mapping[str, str]:
        """The same of a model whose matrices have rows of so many weights, by the names of these in its files, asked where a folder is there.

        Only of a step that works on the torch model, and starts from it as it is in the folder or with all rows as long.
        """
        return {}

    def needs_whole(self) -> str:
        """Why each process that trains needs the model whole; empty where parameters may be spread over processes (`--sharded`).

        Then `apply` makes equal calls in all processes, changes the model it is given and copies none, and names every other model that its
        steps run in `Training.beside`.
        """
        return "it works on parts of the model that each process has to hold"

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe | None:
        """What `compressor init` writes of it into a plan, its role said; None where it has no part in that."""
        return None

    def work(self, size: Size) -> float:
        """What its time grows with beside a fixed part: `compressor rehearse` scales by it. By itself the model's size.

        In any unit; of a pass that trains in passes over a row times parameters, by which `compressor check` guesses a time.
        """
        return size.weights


class Objective(Step, ABC):
    """A distillation loss: a mean over the batch (and over valid tokens), 0 when student and teacher agree, `KL(teacher || student)`.

    The mathematics is a plain function beside the class; the class holds its parameters and says which features it needs.
    """

    weight: float = Field(default=1.0, ge=0)
    """What the loss is multiplied with before losses are added up."""

    def of(self, task: Task) -> Objective:
        """This objective for what a task's models answer: `task.imitated()`."""
        return self

    def idle(self, task: Task) -> tuple[str, ...]:
        """Names of parameters that a plan gives and that do nothing for this task: the plan is refused."""
        return ()

    def looks_at(self) -> Literal["logits", "states", "maps"]:
        """The innermost that it needs; maps are those of attention, or their scores. A student that is looked into cannot be compiled, and a
        teacher's maps are not kept."""
        return "states"

    @abstractmethod
    def wants(self, student: Anatomy, teacher: Anatomy) -> tuple[Want, Want]:
        """Features to capture on the student and on the teacher."""

    def projections(self, student: Anatomy, teacher: Anatomy) -> torch.nn.Module | None:
        """What is trained beside the student and thrown away afterwards; None where nothing is."""
        return None

    def project(self, student: Outputs, projections: torch.nn.Module | None) -> Outputs:
        """The student's outputs as they are compared, through the projections; in the precision that it is trained in."""
        return student

    def at(self, state: torch.nn.Module | None, *, step: int, done: float, before: float | None) -> Objective:
        """This objective as it is in one step of a training, for one that changes meanwhile.

        Args:
            state: what `projections` made; buffers of it are kept in checkpoints. A step is computed in parts: change it once a step.
            step: counted from 0.
            done: share of the training that is done, in [0, 1).
            before: its own loss in the step before, over all parts and processes; None where there was none.
        """
        return self

    @abstractmethod
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The loss of one batch before its weight, of the student's projected outputs and the teacher's; both in float32."""
