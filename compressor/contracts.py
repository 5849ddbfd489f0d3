"""What a plug-in author imports: the steps of a plan, and what the core hands to them and expects back.

Light on purpose (no torch, numpy, onnx): a plan is checked with nothing but this and the modules of the steps it names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeAlias

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import torch
    from datasets import Dataset
    from numpy.typing import NDArray

    from compressor.anatomy import Anatomy
    from compressor.data import Data
    from compressor.model import Model
    from compressor.records import Note, ProbeRecord, Scores

Feed: TypeAlias = "dict[str, NDArray[Any]]"
"""Named input or output arrays of one call."""

Batch: TypeAlias = "dict[str, torch.Tensor]"
"""Named tensors of one training or evaluation step; supervised tasks carry `labels`."""


class Step(BaseModel):
    """Anything a plan names: its fields are its parameters and nothing else; it keeps no run state."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )

    version: ClassVar[int] = 1
    """Raised whenever equal parameters give other results."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions can change the result: they belong into the key."""
    paper: ClassVar[str] = ""
    """Where the method comes from, for `compressor explain`."""
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Parameters that `compressor.testing` tries it with, on a tiny model and a few rows; needed where defaults do not do."""


@dataclass(frozen=True)
class Dialect:
    """What a target's graphs may contain and what it runs well, as data that passes and exporters read."""

    rung: str
    """The rung the target takes: `torch`, `onnx`, `onnxruntime`, `openvino`, ..."""
    quantizer: str = ""
    """Whose int8 graphs run fast here: `onnxruntime`, `nncf`, or empty for none."""
    activations: Literal["unsigned", "signed"] = "unsigned"
    """Signedness of int8 activations that has fast kernels."""
    symmetric_activations: bool = False
    """True where a nonzero zero point is refused."""
    opset: int = 20
    precisions: tuple[str, ...] = ("fp32",)
    """Precisions that really have kernels."""


@dataclass(frozen=True)
class Missing:
    """Why a target cannot build or cannot run here; None where it can. The two differ: engines may build where they cannot run."""

    build: str | None = None
    run: str | None = None


@dataclass(frozen=True)
class Artifact:
    """A model as files: a folder on some rung. The files beside the model (tokenizer, config) lie in the same folder."""

    rung: str
    path: Path


class Session(Protocol):
    """A model ready to be called. `run` returns when the outputs are there, so that timing stays honest."""

    def run(self, feed: Feed, state: object | None = None) -> tuple[Feed, object | None]:
        """Outputs by name, and the opaque state (a KV cache, say) for the next call."""
        ...

    def facts(self) -> dict[str, str]:
        """What really runs: at least `precision`, `device` and `threads`, asked of the runtime and not of the plan."""
        ...


class Target(Step, ABC):
    """A runtime that a model is built for, opened on and measured on."""

    dialect: ClassVar[Dialect]
    file: ClassVar[str]
    """Name of the main file that `build` writes."""

    threads: int = 1
    """Threads of one operator."""

    @abstractmethod
    def missing(self) -> Missing:
        """Why it cannot build or run on this machine; must not raise and must be quick."""

    @abstractmethod
    def build(self, source: Artifact, out: Path) -> None:
        """Write the deployable files for `source` (on the dialect's rung) into the empty folder `out`."""

    @abstractmethod
    def open(self, built: Path) -> Session:
        """Load what `build` wrote."""

    def environment(self) -> dict[str, str]:
        """Environment of the measuring process (thread counts, telemetry switches)."""
        return {}

    def diagnose(self, built: Path) -> tuple[str, ...]:
        """What can be proved about why this file is not faster: float operators left, fake quantisation, reformatting nodes."""
        return ()


class Rung(ABC):
    """A form of models below torch, and how a model gets down to it from the rung above."""

    name: ClassVar[str]
    above: ClassVar[str]
    """The rung it is made from: `torch`, or another one."""
    version: ClassVar[int] = 1
    """Raised whenever the same model comes down as other files."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions can change the result: they belong into the key."""

    @abstractmethod
    def lower(self, artifact: Artifact, out: Path, *, task: Task, dialect: Dialect) -> None:
        """Write the model that lies on the rung above into the folder `out`; equal models give equal bytes."""


class Edit(BaseModel, ABC):
    """A structural change of one component, as data: replayed on a fresh module (also on meta) when the model is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    """The name of its entry point, by which it is found again when a saved model is read."""
    version: ClassVar[int] = 1
    examples: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Values that fit the tiny model of `compressor.testing`; the BERT has blocks `bert.encoder.layer.0` and `.1` of 4 heads and 64
    neurons."""
    tried_on: ClassVar[Literal["bert", "hubert", "whisper"]] = "bert"
    """The tiny model that `examples` fit."""

    @abstractmethod
    def apply(self, module: torch.nn.Module) -> None:
        """Change `module` in place, on any device including meta.

        Raises:
            UnsupportedModel: the edit does not fit this module.
        """

    @abstractmethod
    def describe(self) -> str:
        """One line for the report."""


@dataclass(frozen=True)
class Progress:
    """How far a long piece of work has come."""

    work: str
    done: int
    total: int
    unit: str = "steps"
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Message:
    """One line worth telling."""

    text: str


Event: TypeAlias = Progress | Message


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one split, with what paired comparison needs: `outputs[i]` belongs to row i of the split."""

    scores: Scores
    outputs: NDArray[np.float32]
    """Raw outputs by row, `[n, classes]` for classification."""
    correct: NDArray[np.float64]
    """The main metric's contribution of each row, in [0, 1]."""


class Context(Protocol):
    """What the core hands to a pass. A pass neither prints nor times nor decides where files go."""

    @property
    def task(self) -> Task: ...
    @property
    def data(self) -> Data: ...
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

    def outputs(self, model: Model | Artifact, split: str, *, limit: int) -> NDArray[np.float32]:
        """The main output for at most `limit` rows, spread evenly over a split, in their order: `[rows, ...]`."""
        ...

    def feeds(self, model: Model | Artifact, split: str, *, limit: int | None = None) -> Sequence[Feed]:
        """Real inputs of a split, one row each, as the exported model takes them."""
        ...

    def measure(self, models: Sequence[Model], target: str, *, batch: int, length: int) -> Sequence[float]:
        """Median latency in ms of each model on a named target of the plan, measured interleaved."""
        ...

    def remember(self, what: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """A JSON value measured once on this machine: found by `what` and the machine's fingerprint, else made and kept."""
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


class Pass(Step, ABC):
    """Model in, model out.

    `accepts` lists the rungs it can work on. `("torch",)` puts it into the trunk. A pass below torch runs once in each
    target's branch: on the target's own rung where `accepts` has it, else on the first rung in `accepts` that lies on the way down.
    """

    accepts: ClassVar[tuple[str, ...]] = ("torch",)
    quantizes: ClassVar[bool] = False
    """True for passes that write quantised tensors: two of them in one plan are a fault."""
    trains: ClassVar[bool] = False

    @abstractmethod
    def apply(self, model: Any, ctx: Context) -> Any:
        """`Model -> Model` on the torch rung; below it `Artifact -> Artifact`, written under `ctx.folder`."""

    def teachers(self) -> tuple[str, ...]:
        """Names of the models this step reads beside its input: earlier steps, entries of `models:`, or `source`."""
        return ()

    def plugins(self) -> Mapping[str, tuple[str, ...]]:
        """Names of plug-ins it works with, by kind: objectives that its parameters name, edits that it makes of a model.

        They are checked with the plan, and their versions belong into the key.
        """
        return {}

    def imitated(self) -> tuple[str, ...]:
        """Those of its teachers whose logits it learns from: none whose head was only just drawn."""
        return ()

    def targets(self) -> tuple[str, ...]:
        """Names of targets of the plan its parameters mention (for latency budgets)."""
        return ()

    def shapes(self) -> tuple[tuple[int, int], ...]:
        """`(batch, length)` of the rows that its parameters have it time."""
        return ()

    def needs_classes(self) -> bool:
        """True where it works with the task's loss or with logits as those of classes: not every task has them."""
        return False

    def needs_repeats(self) -> bool:
        """True where it needs the inputs of a row to be the same in every epoch."""
        return False

    def check(self, given: Path, origins: Mapping[str, Path]) -> None:
        """Refuse what cannot work, before anything runs.

        Args:
            given: folder of the source model that the step's input comes from.
            origins: for every earlier step, entry of `models:` and `source`, the folder of the model it comes from.
        """

    def work(self, size: Size) -> float:
        """What its time grows with beside a fixed part, in any unit: `compressor rehearse` scales by it. By itself the model's size."""
        return size.weights


@dataclass(frozen=True)
class Port:
    """An input or output of an exported model; named axes are dynamic."""

    name: str
    dtype: str
    axes: tuple[str | int, ...]


@dataclass(frozen=True)
class Want:
    """Which inner features a forward pass should hand out, by block id of the anatomy; its stack stands for what enters the first."""

    hidden_states: tuple[str, ...] = ()
    attention_maps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outputs:
    """What a forward pass gave: logits `[B, classes]`, hidden states `[B, T, D]`, attention maps `[B, H, T, T]`, token mask `[B, T]` or None."""

    logits: torch.Tensor
    hidden_states: Mapping[str, torch.Tensor] = field(default_factory=dict)
    attention_maps: Mapping[str, torch.Tensor] = field(default_factory=dict)
    mask: torch.Tensor | None = None


class Task(Step, ABC):
    """Loads, feeds, trains and scores one kind of model."""

    classes: ClassVar[bool] = True
    """False where models tell no classes apart: there is no loss on labels, and the main output is a feature vector."""
    metric: ClassVar[str]
    """Name of the main metric, a fraction in [0, 1]; gates speak of it in points (hundredths)."""
    modality: ClassVar[Literal["text", "image", "audio"]]

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """Columns of the data this task reads, content first and label last."""

    @abstractmethod
    def load(self, source: Path, data: Data, *, seed: int) -> Model:
        """The source model from a folder; a fresh, seeded head where it has none that fits the data's labels."""

    def refuses(self, length: int, files: Path | None = None) -> str | None:
        """What a length is, where no input of a model can be of this one; None where it can. `files` lie beside the model, if it is known."""
        return None

    @abstractmethod
    def inputs(self, model: Model | Path) -> tuple[Port, ...]:
        """Inputs of the exported model."""

    @abstractmethod
    def outputs(self) -> tuple[Port, ...]:
        """Outputs of the exported model."""

    @abstractmethod
    def example(self, files: Path, *, batch: int, length: int) -> Feed:
        """A well-formed input to trace an export with."""

    @abstractmethod
    def batches(self, rows: Dataset, files: Path, *, batch_size: int, shuffle_seed: int | None = None) -> Iterable[Batch]:
        """Tensors of a split, shuffled by `shuffle_seed` or in the order of the rows; the iterable has a length."""

    @abstractmethod
    def forward(self, module: torch.nn.Module, batch: Batch, want: Want = Want()) -> Outputs:
        """Run the model and capture what is wanted."""

    def repeats(self) -> bool:
        """Whether a row makes the same training inputs in every epoch; not so where they are cropped at random."""
        return True

    def answer(self, module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The main output of a model for inputs by name, as the exported model gives it: its logits."""
        found: torch.Tensor = module(**inputs).logits
        return found

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> torch.Tensor:
        """The supervised loss, a mean over the batch."""

    @abstractmethod
    def feeds(
        self, rows: Dataset, files: Path, *, batch: int = 1, length: int | None = None, count: int | None = None
    ) -> Sequence[Feed]:
        """Real inputs as the exported model takes them; `length` fixes the length in tokens, pixels or samples."""

    @abstractmethod
    def scored_feeds(self, rows: Dataset, files: Path) -> tuple[Sequence[Feed], Sequence[int]]:
        """All rows as feeds, and the row that each one in turn is."""

    def predicted(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path) -> NDArray[np.float32]:
        """The main output of all rows, in their order, by anything that maps a feed to named outputs."""
        import numpy as np

        feeds, order = self.scored_feeds(rows, files)
        found = np.concatenate([predict(feed)[self.outputs()[0].name] for feed in feeds]).astype(np.float32)
        ordered = np.empty_like(found)
        ordered[np.asarray(order)] = found
        return ordered

    @abstractmethod
    def score(self, predict: Callable[[Feed], Feed], rows: Dataset, files: Path, *, split: str) -> Evaluation:
        """Metrics with n and interval, over anything that maps a feed to named outputs."""


class Objective(Step, ABC):
    """A distillation loss: a mean over the batch (and over valid tokens), 0 when student and teacher agree, `KL(teacher || student)`.

    The mathematics is a plain function beside the class; the class holds its parameters and says which features it needs.
    """

    weight: float = 1.0
    """What the loss is multiplied with before losses are added up."""

    def looks_at(self) -> Literal["logits", "states", "maps"]:
        """The innermost that it needs. A student that is looked into cannot be compiled, and a teacher's maps are not kept."""
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

    @abstractmethod
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> torch.Tensor:
        """The loss of one batch before its weight, of the student's projected outputs and the teacher's; both in float32."""


@dataclass(frozen=True)
class Candidate:
    """A built model on a target, ready to be measured."""

    id: str
    """`stage@target`, unique in the run."""
    stage: str
    target: str
    runtime: Target
    built: Path


class Worker(Protocol):
    """A fresh process that holds one candidate."""

    @property
    def facts(self) -> Mapping[str, str]:
        """The session's facts, with `load_seconds` and `first_call_seconds` once known."""
        ...

    def put(self, feeds: Sequence[Feed]) -> None:
        """Hand over the inputs that later calls cycle through."""
        ...

    def run(self, calls: int) -> Sequence[float]:
        """Wall time in seconds of each of `calls` calls, inputs in turn; the clock runs inside the worker."""
        ...

    def peak_bytes(self) -> int:
        """Peak resident memory of the process so far."""
        ...

    def close(self) -> None: ...


class Bench(Protocol):
    """Starts measuring processes; one a candidate, ended when the probe is done."""

    def worker(self, candidate: Candidate) -> Worker: ...
    def load(self) -> float:
        """Share of the machine's processors that other processes keep busy, 0 to 1."""
        ...

    def tell(self, event: Event) -> None: ...


class Probe(Step, ABC):
    """Measures candidates side by side."""

    @abstractmethod
    def shapes(self) -> tuple[tuple[int, int | None], ...]:
        """`(batch, length)` of the inputs it wants."""

    @abstractmethod
    def measure(
        self, candidates: Sequence[Candidate], feeds: Mapping[tuple[int, int | None], Sequence[Feed]], bench: Bench, *, seed: int
    ) -> ProbeRecord:
        """One record over all candidates; the first candidate is the baseline of every ratio unless the probe says otherwise."""

    def shortened(self) -> Self:
        """This probe in as little time as it can run in, for `compressor rehearse`: nobody reads what it finds."""
        return self

    def expected_seconds(self, short: Self, took_seconds: float) -> float:
        """How long it will take over as many candidates as `short`, its `shortened()`, took so long over."""
        return took_seconds
