"""Targets and the formats that models are lowered through: what a runtime takes, builds and opens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from compressor.contracts.graph import Graph, Session
from compressor.contracts.profiles import Prepare, Profile
from compressor.contracts.recipe import Recipe
from compressor.contracts.records import Workload
from compressor.contracts.renamed import formerly, old_names
from compressor.contracts.step import Step
from compressor.contracts.task import Task
from compressor.contracts.wish import Wish


@dataclass(frozen=True)
class Scheme:
    """One way of quantising products that a target runs."""

    weights: str
    """Type of the weights: `int8`, `uint8`, `int4`, `ternary`, `fp8`, ..."""
    activations: str = "fp32"
    """Type of the activations in the products; `fp32` where only weights are quantised."""
    granularity: Literal["tensor", "channel", "group"] = "channel"
    """What a scale of the weights is for."""
    group: int | None = None
    """Weights of one scale where it is for a group."""
    kernels: bool = True
    """True where products really run in these types; False where weights are brought back to float first: smaller, no faster."""
    dynamic: bool = False
    """Whether the range of activations is found at run time, for each row or block of a row."""

    def __str__(self) -> str:
        of = f"{self.granularity} of {self.group}" if self.group else self.granularity
        return f"{self.weights} weights (by {of}) with {'dynamic ' if self.dynamic else ''}{self.activations} activations"

    def runs(self, other: Scheme) -> bool:
        """Whether what runs this one runs another: signed bytes are unsigned ones with another zero, ternary weights lie in 2 bits, groups of
        any size are one kernel unless a size is said."""
        signed = (self.activations.removeprefix("u"), other.activations.removeprefix("u"))
        held = other.weights in (self.weights, *(("ternary",) if self.weights == "int2" else ()))
        same = held and (self.granularity, self.dynamic) == (other.granularity, other.dynamic)
        return same and signed[0] == signed[1] and self.group in (None, other.group)


Rewrite: TypeAlias = Literal[
    "unread rows", "empty masks", "folded scales", "windows as products", "keys of padding", "joined biases", "fused operators"
]
"""What may be done to a graph without changing what it gives: rows of hidden states that no output depends on are not computed; masks that leave
nothing out are not added; scales of what products give become part of their weights; convolutions are products of their windows, which are then
quantised as products are; attention takes a mask of padding by key, not for each pair; products of quantised tensors add their biases themselves;
operators of a runtime's own take the place of several standard ones."""


@formerly(rung="format")
@dataclass(frozen=True)
class Dialect:
    """What a target's graphs may contain and what it runs well, as data that passes and exporters read."""

    format: str
    """The format the target takes: `torch`, `onnx`, `onnxruntime`, `openvino`, ..."""
    quantizer: str = ""
    """Whose int8 graphs run fast here: `onnxruntime`, `nncf`, or empty for none."""
    activations: Literal["unsigned", "signed"] = "unsigned"
    """Signedness of int8 activations that has fast kernels."""
    symmetric_activations: bool = False
    """True where a nonzero zero point is refused."""
    opset: int = 20
    leaves: tuple[Rewrite, ...] = ()
    """Rewrites that graphs for it go without, where they gain nothing or are in somebody's way."""
    precisions: tuple[str, ...] = ("fp32",)
    """Precisions that really have kernels."""
    schemes: tuple[Scheme, ...] = ()
    """Ways of quantising that it takes."""

    def lacks(self, scheme: Scheme) -> str:
        """Empty where products really run as a scheme says; else that they do not, and how they run."""
        known = [each for each in self.schemes if each.kernels]
        if any(each.runs(scheme) for each in known):
            return ""
        return f"it has no kernels for {scheme}: {', '.join(map(str, known)) or 'none of quantised numbers are there'}"


@dataclass(frozen=True)
class Missing:
    """Why a target cannot build or cannot run here; None where it can. The two differ: engines may build where they cannot run."""

    build: str | None = None
    run: str | None = None


@formerly(rung="format")
@dataclass(frozen=True)
class Artifact:
    """A model as files: a folder in some format. The files beside the model (tokenizer, config) lie in the same folder."""

    format: str
    path: Path


@dataclass(frozen=True)
class Runtime:
    """What a user needs to run built files without this project: what `spec.json` states and the exported example does."""

    name: str
    """The part of the example that loads and calls the model."""
    packages: tuple[str, ...]
    """What `pip install` needs."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of the runtime that change outputs."""
    remarks: tuple[str, ...] = ()
    """Lines for the README of an exported folder."""
    loaders: str = ""
    """How classes of the ecosystem that open the files are called, up to what they classify: `optimum.onnxruntime.ORTModelFor`."""
    takes_settings: str = ""
    """What these classes call the argument that takes `settings`."""


class Target(Step, ABC):
    """A runtime that a model is built for, opened on and measured on."""

    dialect: ClassVar[Dialect]
    file: ClassVar[str]
    """Name of the main file that `build` writes."""
    former_files: ClassVar[tuple[str, ...]] = ()
    """What earlier versions called it: files of those names are still opened."""

    threads: int = 1
    """Threads of one operator."""

    tolerance: ClassVar[float] = 1e-3
    """How far outputs of one file may differ between two sessions, as a share of the largest (of 1 where all are smaller)."""
    keeps_builds: ClassVar[bool] = False
    """True where building is slow: builds are kept in the store, by what they are built from, for which workloads and how."""
    computes_apart: ClassVar[bool] = False
    """True where sessions compute in code of their own, without Python and torch: they may score while the run exports the next model
    and sessions of other targets score, by the same task; those of one target score one after the other."""
    builds_for_machine: ClassVar[bool] = False
    """True where a build runs well only on the machine that made it: what is kept is then kept for that machine."""

    def own_dialect(self) -> Dialect:
        """The dialect as these parameters leave it: what it has kernels for may depend on them, and plans are held against this."""
        return self.dialect

    @abstractmethod
    def missing(self) -> Missing:
        """Why it cannot build or run on this machine; must not raise and must be quick."""

    @abstractmethod
    def build(
        self, source: Artifact, out: Path, *, graphs: tuple[Graph, ...] = (Graph(),), workloads: tuple[Workload, ...] = ()
    ) -> None:
        """Write the deployable files for `source` (on the dialect's format) into the empty folder `out`.

        Args:
            source: a folder with a file for each graph.
            out: takes the files, one or more per graph.
            graphs: the graphs of the model.
            workloads: what the model will be timed at; rows are scored at their natural lengths besides.
        """

    @abstractmethod
    def open(self, built: Path) -> Session:
        """Load what `build` wrote."""

    @classmethod
    def runtime(cls, facts: Mapping[str, str]) -> Runtime | None:
        """What the built files need elsewhere, by the facts of the session that ran; None where no example can be written."""
        return None

    def takes(self) -> str:
        """The sizes of inputs that its files take and no others: `batch 1, length 128`; empty where they take any."""
        return ""

    def refuses(self, workload: Workload) -> str:
        """Why nothing can be timed on it at a workload, as a predicate of the target: `takes length 64, found 128`; empty where it can."""
        return ""

    def refuses_graphs(self, graphs: Sequence[Graph]) -> str:
        """Why no file of such a model can have what is asked for, as a sentence: asked before anything runs, and of the model as it begins.
        Empty where it can."""
        return ""

    @classmethod
    def file_of(cls, graph: str, built: Path | None = None) -> str:
        """Name of the file of a graph: the main file's, with the graph's name for `model`; a former one where `built` has only that."""
        names = [_of_graph(file, graph) for file in (cls.file, *cls.former_files)]
        return next((name for name in names if built and (built / name).is_file()), names[0])

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe | None:
        """What `compressor init` writes of it into a plan where this machine has it; None where it has no part in that."""
        return None

    @classmethod
    def accompany(cls, folder: Path, graphs: tuple[Graph, ...], generates: Mapping[str, Any]) -> None:
        """Write into the folder of an export what programs for text generation on this runtime read beside a model's files.

        Args:
            folder: an export, with the files that lie beside the model.
            graphs: of the model.
            generates: how a text goes on, as `Deployment.generates` says.
        """

    def layer_bytes(self, built: Path) -> dict[str, int]:
        """Bytes of the weights in what `build` wrote, by part of the model; empty where the file does not say."""
        return {}

    def environment(self) -> dict[str, str]:
        """Environment of the measuring process (thread counts, telemetry switches)."""
        return {}

    def profile(self, built: Path, prepare: Prepare, *, calls: int) -> Profile | None:
        """What a call takes by operator, watched by the runtime's own profiler; None where it has none that can be reached.

        Args:
            built: what `build` wrote; it is opened anew, as it is timed.
            prepare: makes, of the session that it is given, what makes one call. Neither what preparing runs nor a first call counts.
            calls: how many are watched.
        """
        return None

    def diagnose(self, built: Path) -> tuple[str, ...]:
        """What can be proved about why this file is not faster: float operators left, fake quantisation, reformatting nodes."""
        return ()


def _of_graph(file: str, graph: str) -> str:
    stem, suffix = Path(file).stem, Path(file).suffix
    if graph == Graph.name:
        return file
    return f"{stem.removesuffix(Graph.name) if stem.endswith(Graph.name) else ''}{graph}{suffix}"


class Format(ABC):
    """A form of models below torch, and how a model gets down to it from the format above."""

    name: ClassVar[str]
    above: ClassVar[str]
    """The format it is made from: `torch`, or another one."""
    version: ClassVar[int] = 1
    """Raised whenever the same model comes down as other files."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions can change the result: they belong into the key."""
    reads: ClassVar[tuple[str, ...]] = ("opset",)
    """Fields of the dialect that change the result: they belong into the key, and no other one can be read."""
    whole_groups: ClassVar[bool] = False
    """Whether rows of weights with steps for groups have to be made of whole groups; else they are filled up."""
    writes_quantizers: ClassVar[bool] = False
    """Whether layers that simulate quantisation come down as numbers of few bits; else a model that has such is refused."""
    tried_on: ClassVar[str | None] = None
    """The task whose tiny model the conformance suite tries it on, where not all models have such a form; None: texts with a label."""

    @abstractmethod
    def lower(self, artifact: Artifact, out: Path, *, task: Task, dialect: Dialect) -> None:
        """Write the model that lies on the format above into the folder `out`; equal models give equal bytes."""


if not TYPE_CHECKING:  # a type checker would believe that every name is there
    __getattr__ = old_names(__name__, {"Rung": "Format"}, globals())
