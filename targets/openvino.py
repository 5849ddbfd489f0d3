"""OpenVINO on CPU."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from compressor.contracts import (
    Artifact,
    Dialect,
    Feed,
    Graph,
    Missing,
    Prepare,
    Profile,
    Recipe,
    Runtime,
    Scheme,
    Session,
    Target,
    Wish,
    Workload,
)
from compressor.deploy.fixed import FixedSession, told, why_not
from compressor.deploy.graphs import graphs_of
from compressor.deploy.openvino import core, save_representation
from compressor.deploy.profiling import CountedSession
from compressor.deploy.stateful import stateful
from compressor.errors import UnsupportedModel
from targets.openvino_files import bytes_by_part_of, together, weights_of
from targets.openvino_sessions import Compiled, Stateful, loaded

PRODUCTS = ("MatMul", "FullyConnected", "Convolution", "Gemm")
"""Layers that do the bulk of the arithmetic, by OpenVINO's names."""
FUSED = "Subgraph"
"""What may hold an attention. It is told by the type of its first input, which may be a mask of bytes: that says nothing of products in int8."""
EIGHT = "u8"
"""Of a cache in 8 bits."""
INTEGERS = {"i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4", "i2": "int2", "u2": "int2"}
"""Types of weights; a product whose activations are in float is told by the type of its weights too."""
KERNEL = "ScaledDotProductAttention"
HINTS = {"fp32": "f32", "f32": "f32", "bf16": "bf16", "fp16": "f16", "f16": "f16"}
"""The hint that makes OpenVINO compute in a precision, by the name that facts give it."""
GROUPS = (32, 64, 128)
SCHEMES = (
    Scheme("int8", "uint8"),
    Scheme("int8", "uint8", "tensor"),
    *(Scheme(f"int{bits}", "int8", "group", 32, dynamic=True) for bits in (8, 4, 2)),
    Scheme("int8", kernels=False),
    *(Scheme(f"int{bits}", "fp32", "group", group, kernels=False) for bits in (4, 2) for group in GROUPS),
)
"""Int8 products; products of packed weights whose activations it makes int8 of by groups of 32, where a graph says so; and what NNCF makes of
weights alone, which a product brings back to float as it reads them."""


class OpenVino(Target):
    """OpenVINO's intermediate representation, compiled for the processor when it is loaded."""

    dialect: ClassVar[Dialect] = Dialect(
        format="openvino",
        quantizer="nncf",
        precisions=("fp32", "bf16", "int8", "int4", "int2"),
        schemes=SCHEMES,
    )
    file: ClassVar[str] = "openvino_model.xml"
    former_files: ClassVar[tuple[str, ...]] = ("model.xml",)
    requires: ClassVar[tuple[str, ...]] = ("openvino",)
    computes_apart: ClassVar[bool] = True

    threads: int = Field(default=1, ge=1, le=256, description="Inference threads of one stream.")
    precision: Literal["f32", "bf16", "default"] = Field(
        default="f32", description="Precision of what is not quantised; `default` is what OpenVINO chooses for the processor."
    )

    cache: Literal["auto", "int8"] = Field(
        default="auto",
        description="Numbers that keys and values of earlier tokens are kept in: as `precision` says (`default`: what OpenVINO chooses), or in 8 "
        "bits, a quarter of float32, each group with a scale and a zero point that OpenVINO takes from the numbers themselves.",
    )

    sizes: dict[str, Annotated[int, Field(ge=1, le=10**8)]] = Field(
        default={},
        description="Sizes of axes of the inputs that are dynamic otherwise, by name: `{batch: 1, length: 128}`. OpenVINO then finds no shapes at "
        "each call, which short calls gain by. Rows are taken in turns and shorter texts padded; what is longer is refused.",
    )

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe:
        """On the processor, which every machine has."""
        return Recipe({"threads": wish.threads}, "on the processor")

    def takes(self) -> str:
        """The sizes that are fixed."""
        return told(self.sizes)

    def refuses(self, workload: Workload) -> str:
        """Texts that are longer than they are fixed to be."""
        fixed, length = self.sizes.get("length"), workload.length
        return f"takes length {fixed}, found {length}" if fixed and length and length > fixed else ""

    def refuses_graphs(self, graphs: Sequence[Graph]) -> str:
        """Sizes of axes that no input has, or of a model whose sizes cannot be fixed."""
        return why_not(graphs, self.sizes) if self.sizes else ""

    @classmethod
    def runtime(cls, facts: Mapping[str, str]) -> Runtime:
        """OpenVINO, in the precision in which it computed what is not quantised (`int8 + fp32`)."""
        hint = HINTS.get(facts.get("precision", "").rpartition("+")[2].strip())
        settings = {"INFERENCE_PRECISION_HINT": hint} if hint else {}
        if facts.get("cache"):
            settings["KV_CACHE_PRECISION"] = {**HINTS, "int8": EIGHT}.get(facts["cache"], facts["cache"])
        return Runtime("openvino", ("openvino",), settings, loaders="optimum.intel.OVModelFor", takes_settings="ov_config")

    @classmethod
    def accompany(cls, folder: Path, graphs: tuple[Graph, ...], generates: Mapping[str, Any]) -> None:  # noqa: ARG003 - it reads generation_config.json
        """A folder for OpenVINO GenAI, where `openvino_tokenizers` is installed."""
        from targets.generation import write_openvino_genai

        write_openvino_genai(folder, cls.file, graphs[0])

    def missing(self) -> Missing:
        """The package."""
        from importlib.util import find_spec

        if find_spec("openvino") is None:
            reason = "openvino is not installed: pip install 'compressor-toolchain[openvino]'"
            return Missing(build=reason, run=reason)
        return Missing()

    def build(self, source: Artifact, out: Path, *, graphs: tuple[Graph, ...] = (Graph(),), **_: object) -> None:
        """Copy the representation of each graph; a state that grows is kept by the runtime itself. Weights of several graphs lie in one file.

        Raises:
            UnsupportedModel: the plan says of what numbers a cache is, and the model has none; or sizes of axes that no input has.
        """
        self._require_cache(graphs)
        if why := self.refuses_graphs(graphs):
            raise UnsupportedModel(why)
        if len(graphs) > 1 and not any(graph.state for graph in graphs):
            written = {source.path / f"{graph.name}.xml": out / self.file_of(graph.name) for graph in graphs}
            together(written, (out / self.file).with_suffix(".bin"))
            return
        for graph in graphs:
            to = out / self.file_of(graph.name)
            if self.sizes:
                _write_fixed(source.path / f"{graph.name}.xml", to, graph, self.sizes)
                continue
            if graph.growth:
                _write_stateful(source.path / f"{graph.name}.xml", to, graph)
                continue
            shutil.copyfile(source.path / f"{graph.name}.xml", to)
            shutil.copyfile(source.path / f"{graph.name}.bin", to.with_suffix(".bin"))

    def open(self, built: Path) -> Session:
        """Compile for latency: one stream.

        Raises:
            UnsupportedModel: as of `build`.
        """
        return self._fitted(self._opened(built), built)

    def _fitted(self, session: Session, built: Path) -> Session:
        return FixedSession(session, graphs_of(built)[0], self.sizes) if self.sizes else session

    def _opened(self, built: Path, *, watched: bool = False) -> _OpenVinoSession:
        graphs = graphs_of(built)
        self._require_cache(graphs)
        return _OpenVinoSession({graph.name: loaded(self._compiled(built, graph, watched=watched), graph) for graph in graphs})

    def profile(self, built: Path, prepare: Prepare, *, calls: int) -> Profile | None:
        """By its performance counters: the mean of each layer. None for a graph that keeps what grows, whose requests come and go."""
        from targets.openvino_profile import profile_of

        graphs = graphs_of(built)
        if any(graph.state for graph in graphs):
            return None
        opened = self._opened(built, watched=True)
        counted = CountedSession(opened)
        call = prepare(self._fitted(counted, built))  # which calls the file as often as it takes turns
        models = {graph.name: self._read(built, graph) for graph in graphs}
        return profile_of(counted, {name: opened.request(name) for name in models}, models, call, calls=calls)

    def _read(self, built: Path, graph: Graph) -> Any:
        path, main = (built / self.file_of(name, built) for name in (graph.name, Graph.name))
        return core().read_model(str(path), str(weights_of(path, main)))

    def _require_cache(self, graphs: Sequence[Graph]) -> None:
        if self.cache != "auto" and not any(graph.growth for graph in graphs):
            raise UnsupportedModel(f"the model keeps nothing between calls: leave `cache: {self.cache}` out")

    def layer_bytes(self, built: Path) -> dict[str, int]:
        """Of the constants of each graph; one that several of them have counts once."""
        found, counted = Counter[str](), set[tuple[str, str]]()
        for graph in graphs_of(built):
            found.update(
                bytes_by_part_of(built / self.file_of(graph.name, built), built / self.file_of(Graph.name, built), counted)
            )
        return dict(found)

    def diagnose(self, built: Path) -> tuple[str, ...]:
        """Products that compute in float, and quantisation that was not fused, in the compiled graphs."""
        counts = Counter(layer for graph in graphs_of(built) for layer in layers(self._compiled(built, graph)))
        float_products = {
            each: count for each, count in counts.items() if each[0] in (*PRODUCTS, FUSED) and each[1] not in INTEGERS
        }
        lines = [f"{count} {kind} in {_name(precision)}" for (kind, precision), count in sorted(float_products.items())]
        left = sum(count for (kind, _), count in counts.items() if kind == "FakeQuantize")
        return (*lines, f"{left} FakeQuantize left by itself") if left else tuple(lines)

    def _compiled(self, built: Path, graph: Graph, *, watched: bool = False) -> Any:
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": self.threads,
            "ENABLE_CPU_PINNING": False,
        }
        if (
            graph.growth
            and self.threads == 1
            and self.precision != "f32"
            and "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        ):
            raise UnsupportedModel(
                "OpenVINO ends the process (a division by zero) where one thread computes attention with a cache in bf16: say threads: 2, or "
                "precision: f32"
            )
        if self.precision != "default":
            options["INFERENCE_PRECISION_HINT"] = options["KV_CACHE_PRECISION"] = self.precision  # the cache's is u8 otherwise
        if self.cache == "int8":
            options["KV_CACHE_PRECISION"] = EIGHT
        if watched:
            options["PERF_COUNT"] = True
        return core().compile_model(self._read(built, graph), "CPU", options)


def _write_fixed(source: Path, to: Path, graph: Graph, sizes: Mapping[str, int]) -> None:
    import openvino

    model = core().read_model(str(source))
    axes = {port.name: [sizes.get(str(axis), axis) for axis in port.axes] for port in graph.inputs}
    named = {name: port for port in model.inputs for name in port.get_names()}
    dims = {name: [axis if isinstance(axis, int) else -1 for axis in each] for name, each in axes.items() if name in named}
    model.reshape({named[name]: openvino.PartialShape(each) for name, each in dims.items()})
    save_representation(model, to)


def _write_stateful(source: Path, to: Path, graph: Graph) -> None:
    save_representation(stateful(core().read_model(str(source)), graph), to)


class _OpenVinoSession:
    def __init__(self, graphs: Mapping[str, Compiled | Stateful]) -> None:
        self._graphs = graphs

    def run(self, feed: Feed, *, graph: str = "model", state: Any = None) -> tuple[Feed, object | None]:
        """The state is an OpenVINO tensor by name of the input that it becomes, or a position in what a request keeps."""
        return self._graphs[graph].run(feed, state)

    def request(self, graph: str) -> Any:
        """What computes a graph that keeps nothing that grows."""
        found = self._graphs[graph]
        assert isinstance(found, Compiled)
        return found.request

    def cut(self, state: Any, length: int, *, graph: str = "model") -> object:
        """A position before, or the first part of each tensor."""
        return self._graphs[graph].cut(state, length)

    def facts(self) -> dict[str, str]:
        """Precisions of the products in the compiled graphs, and of what is left where all of them are int8."""
        compiled = [each.compiled for each in self._graphs.values()]
        ran = [layer for each in compiled for layer in layers(each)]
        precisions = precisions_of(ran)
        hint = compiled[0].get_property("INFERENCE_PRECISION_HINT").to_string()
        held = sorted({INTEGERS[each] for each in precisions if each in INTEGERS})
        real = sorted(_name(precision) for precision in (precisions - set(INTEGERS)) or {hint})
        return {
            "precision": " + ".join([*held, *real]),
            "device": "CPU",
            "threads": str(compiled[0].get_property("INFERENCE_NUM_THREADS")),
            **self._kept(attended=any(kind == KERNEL for kind, _ in ran)),
        }

    def _kept(self, *, attended: bool) -> dict[str, str]:
        """Numbers of a cache: those that its operator for attention keeps it in, where that ran, else those of the state as it is."""
        kept = [each for each in self._graphs.values() if isinstance(each, Stateful)]
        if attended:
            precision = next(iter(self._graphs.values())).compiled.get_property("KV_CACHE_PRECISION").to_string()
            return {**({"cache": _name(precision)} if kept else {}), "attention": KERNEL}
        return {"cache": " + ".join(sorted({_name(each) for one in kept for each in one.held_in()}))} if kept else {}


def precisions_of(layers: Iterable[tuple[str, str]]) -> set[str]:
    """In which precisions layers, each a kind and a precision, do the bulk of the arithmetic."""
    return {precision for kind, precision in layers if kind in PRODUCTS or (kind == FUSED and precision not in INTEGERS)}


def layers(compiled: Any) -> list[tuple[str, str]]:
    """Kind and precision of each layer as the runtime executes it."""
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    return [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos if "layerType" in info]


def _name(precision: str) -> str:
    return {"f32": "fp32", "f16": "fp16", EIGHT: "int8"}.get(precision, precision)
