"""ONNX Runtime on CPU, CUDA or through TensorRT."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compressor.contracts import (
    Artifact,
    Dialect,
    Feed,
    Graph,
    Growth,
    Missing,
    Prepare,
    Profile,
    Recipe,
    Runtime,
    Scheme,
    Session,
    Target,
    Wish,
)
from compressor.deploy.cache import Line, Position, first, grown
from compressor.deploy.cached_attention import KERNEL, SHARED
from compressor.deploy.graphs import graphs_of
from compressor.deploy.machine import accelerators
from compressor.errors import MissingDependency
from targets.onnx_files import NBITS, bits_of_products, bytes_by_part_of, fake_quantised, in_integers, nodes, together

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from numpy.typing import NDArray

NAME = "onnxruntime"
TELEMETRY = "From release 1.29 on, onnxruntime reports its use to Microsoft; `ORT_DISABLE_TELEMETRY=1` stops it, and an `example.py` sets that."
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
LEVELS = {"none": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
INT8_OPERATORS = (
    "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm", "QLinearConv", "ConvInteger",
    "QAttention",
)  # fmt: skip
PRODUCTS = ("MatMul", "Gemm", "Conv", "FusedMatMul", "FusedGemm", "FusedConv", "Attention", "MultiHeadAttention")
"""Operators that do the bulk of the arithmetic, when they compute in float."""
ROOM = 128
"""Buffers of a growing state have room for a multiple of so many tokens."""
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
GROUPS = {8: (16, 32, 64, 128, 256), 4: (16, 32, 64, 128, 256), 2: (32, 64, 128)}
"""Weights of one scale that it has kernels for, by their bits: 2 bits in others run scalar code, 200 times as long."""
SCHEMES = (
    *(Scheme("int8", "uint8", each, dynamic=dynamic) for dynamic in (False, True) for each in ("channel", "tensor")),
    *(Scheme(f"int{bits}", "int8", "group", group, dynamic=True) for bits in GROUPS for group in GROUPS[bits]),
)
"""What it has products in integers for: pairs of Q and DQ, `MatMulInteger`, and `MatMulNBits` at accuracy_level 4, which rounds activations too."""
CUDA = tuple(Scheme(f"int{bits}", "fp32", "group", group) for bits in (8, 4) for group in (32, 64, 128))
"""`MatMulNBits` of its CUDA provider multiplies in float and has no 2 bits; TensorRT has none. What these make of pairs of Q and DQ was not run."""
FUSING = ("extended", "all")
"""Levels at which it makes products in integers of pairs of Q and DQ."""


class OnnxRuntime(Target):
    """One ONNX file, optimised by ONNX Runtime when it is loaded."""

    dialect: ClassVar[Dialect] = Dialect(
        format="onnxruntime", quantizer="onnxruntime", precisions=("fp32", "int8", "int4", "int2"), schemes=SCHEMES
    )
    file: ClassVar[str] = "model.onnx"
    requires: ClassVar[tuple[str, ...]] = ("onnxruntime",)
    computes_apart: ClassVar[bool] = True

    threads: int = Field(default=1, ge=1, le=256, description="Threads of one operator.")
    provider: Literal["cpu", "cuda", "tensorrt"] = Field(default="cpu", description="Execution provider.")
    graph_optimization: Literal["all", "extended", "basic", "none"] = Field(
        default="all", description="How far ONNX Runtime rewrites the graph when it loads it."
    )

    def own_dialect(self) -> Dialect:
        """What the provider multiplies: pairs of Q and DQ in float where graphs are not rewritten. TensorRT has zero points of 0 alone."""
        if self.provider == "tensorrt":
            return replace(
                self.dialect, schemes=(), activations="signed", symmetric_activations=True, leaves=("fused operators",)
            )
        if self.provider == "cuda":
            return replace(self.dialect, schemes=CUDA)
        if self.graph_optimization in FUSING:
            return self.dialect
        return replace(self.dialect, schemes=tuple(replace(each, kernels=each.dynamic) for each in SCHEMES))

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe:
        """On the processor, which every machine has."""
        return Recipe({"threads": wish.threads}, "on the processor")

    @classmethod
    def runtime(cls, facts: Mapping[str, str]) -> Runtime:
        """ONNX Runtime, with the package that has the provider; the graph is rewritten as far as it was where it was scored."""
        gpu = "-gpu" if "cuda" in facts.get("device", "").lower() else ""
        level = LEVELS.get(facts.get("graph_optimization", "all"), LEVELS["all"])
        settings = {} if level == LEVELS["all"] else {"graph_optimization_level": level}
        return Runtime(NAME, (f"{NAME}{gpu}",), settings, remarks=(TELEMETRY,), loaders="optimum.onnxruntime.ORTModelFor")

    def missing(self) -> Missing:
        """The package, the provider in it, or the device it runs on."""
        try:
            import onnxruntime
        except ImportError:
            return Missing(run="onnxruntime is not installed: pip install 'compressor-toolchain[cpu]'")
        if PROVIDERS[self.provider] not in onnxruntime.get_available_providers():
            return Missing(
                run=f"this onnxruntime has no {PROVIDERS[self.provider]} (onnxruntime-gpu is not installed): "
                "on a machine with CUDA, pip install 'compressor-toolchain[gpu]'"
            )
        if self.provider != "cpu" and not accelerators():
            return Missing(run="no CUDA device")
        return Missing()

    def build(self, source: Artifact, out: Path, *, graphs: tuple[Graph, ...] = (Graph(),), **_: object) -> None:
        """Copy the graphs; on the processor attention over a cache becomes the operator for it, with weights in a file beside the graph,
        and products of quantised tensors the one that adds their biases; weights of several graphs of one model lie in one file."""
        if len(graphs) > 1 and not any(graph.state for graph in graphs):
            together(source.path, out, graphs, joins=self.provider == "cpu" and self._joins)
            return
        for graph in graphs:
            if not (self.provider == "cpu" and self._rewritten(source.path, out, graph)):
                for path in source.path.glob(f"{graph.name}.onnx*"):
                    shutil.copyfile(path, out / path.name)

    @property
    def _joins(self) -> bool:
        return self.graph_optimization in FUSING and "joined biases" not in self.dialect.leaves

    def _rewritten(self, folder: Path, out: Path, graph: Graph) -> bool:
        """Whether there was something to rewrite, and is written."""
        import onnx

        from compressor.deploy.cached_attention import grouped
        from compressor.deploy.integer_products import join_biases
        from compressor.deploy.onnx import save

        path = folder / f"{graph.name}.onnx"
        quantised = self._joins and bool(fake_quantised(nodes(path)))
        if not (graph.growth or quantised):
            return False
        whole = onnx.load(path)
        attending = grouped(whole, graph) if graph.growth else None
        joined = join_biases(attending or whole) if quantised else 0
        if attending or joined:
            save(
                attending or whole, out, graph.name, beside=attending is not None or path.with_name(f"{path.name}.data").exists()
            )
        return bool(attending or joined)

    @classmethod
    def accompany(cls, folder: Path, graphs: tuple[Graph, ...], generates: Mapping[str, Any]) -> None:
        """What ONNX Runtime GenAI reads beside a model that generates text."""
        from targets.generation import write_genai

        write_genai(folder, cls.file, graphs[0], generates)

    def open(self, built: Path) -> Session:
        """Load the graph.

        Raises:
            MissingDependency: ONNX Runtime fell back to another provider than was asked for.
        """
        return self._opened(built)

    def _opened(self, built: Path, *, watched: Path | None = None) -> _OnnxSession:
        loaded = {graph.name: self._loaded(built, graph, watched) for graph in graphs_of(built)}
        for each in loaded.values():
            if PROVIDERS[self.provider] not in each.session.get_providers():
                raise MissingDependency(f"asked for {PROVIDERS[self.provider]}, onnxruntime runs {each.session.get_providers()}")
        return _OnnxSession(loaded, self, built)

    def layer_bytes(self, built: Path) -> dict[str, int]:
        """Of the constants of each graph; one that several of them have counts once."""
        found, counted = Counter[str](), set[tuple[str, str]]()
        for graph in graphs_of(built):
            found.update(bytes_by_part_of(built / f"{graph.name}.onnx", counted))
        return dict(found)

    def profile(self, built: Path, prepare: Prepare, *, calls: int) -> Profile | None:
        """By its own profiler: the median of each operator. None on a GPU, where operators end after they are timed."""
        if self.provider != "cpu":
            return None
        from targets.onnx_profile import profile_of

        with tempfile.TemporaryDirectory(prefix="compressor-watched-") as folder:
            opened = self._opened(built, watched=Path(folder))
            sessions = {name: each.session for name, each in opened.graphs.items()}
            return profile_of(opened, sessions, {name: built / f"{name}.onnx" for name in sessions}, prepare, calls=calls)

    def diagnose(self, built: Path) -> tuple[str, ...]:
        """Products that compute in float, and conversions between float and int8, in the graphs that really run."""
        found: list[onnx.NodeProto] = []
        for graph in graphs_of(built):
            with tempfile.TemporaryDirectory(prefix="compressor-optimised-") as folder:
                optimised = Path(folder) / "optimised.onnx"
                self._session(built / f"{graph.name}.onnx", optimised=optimised)
                found += nodes(optimised)
        fake = Counter(each.op_type for each in fake_quantised(found))
        real = Counter(each.op_type for each in found) - fake
        lines = [f"{count} {kind} in float on values that were quantised and dequantised" for kind, count in sorted(fake.items())]
        lines += [f"{real[kind]} {kind} in float" for kind in PRODUCTS if real[kind]]
        slow = sum(each.op_type == NBITS and not in_integers(each) for each in found)
        lines += [f"{slow} {NBITS} of accuracy_level below 4, by scalar code"] if slow else []
        return (*lines, *(f"{real[kind]} {kind} between float and int8" for kind in CONVERSIONS if real[kind]))

    def _loaded(self, built: Path, graph: Graph, watched: Path | None = None) -> _Loaded:
        session = self._session(built / f"{graph.name}.onnx", watched=watched)
        shared = any(SHARED in each.shape for each in session.get_inputs())
        return (_Shared if shared else _Loaded)(session, graph, self.provider)

    def _session(self, file: Path, *, optimised: Path | None = None, watched: Path | None = None) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[self.graph_optimization])
        options.log_severity_level = 3
        if optimised:
            options.optimized_model_filepath = str(optimised)
        if watched:
            options.enable_profiling, options.profile_file_prefix = True, str(watched / file.stem)
        return onnxruntime.InferenceSession(str(file), options, providers=[PROVIDERS[self.provider]])


class _Loaded:
    """One graph, loaded. The values of a state are bound from one run to the next and stay on the device."""

    def __init__(self, session: onnxruntime.InferenceSession, graph: Graph, provider: str) -> None:
        self.session = session
        self._graph = graph
        self._device = "cpu" if provider == "cpu" else "cuda"
        self._inputs = {each.name for each in session.get_inputs()}
        self._outputs = [each.name for each in session.get_outputs()]

    def run(self, feed: Feed, state: Any) -> tuple[Feed, object | None]:
        if not self._graph.state:
            given = {name: array for name, array in feed.items() if name in self._inputs}
            return dict(zip(self._outputs, self.session.run(self._outputs, given), strict=True)), None
        found = self._run_bound(feed, self._first(feed) if state is None else state)
        kept = dict(self._graph.state)
        return self._given(found), {becomes: found[output] for output, becomes in kept.items()}

    def _run_bound(self, feed: Feed, state: Mapping[str, Any]) -> dict[str, Any]:
        """Values of all outputs."""
        import numpy as np

        kept, binding = dict(self._graph.state), self.session.io_binding()
        feed = self._graph.completed(feed)
        for name in self._inputs & feed.keys():
            binding.bind_cpu_input(name, np.ascontiguousarray(feed[name]))
        for name, value in state.items():
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, self._device if name in kept else "cpu")
        self.session.run_with_iobinding(binding)
        return dict(zip(self._outputs, binding.get_outputs(), strict=True))

    def cut(self, state: Any, length: int) -> object:
        """The first part of each value.

        Raises:
            ValueError: the state does not grow.
        """
        import numpy as np
        import onnxruntime

        if self._graph.growth is None:
            raise ValueError(f"graph '{self._graph.name}' has no state that grows")
        held, make = first(self._graph.growth, length), onnxruntime.OrtValue.ortvalue_from_numpy
        return {name: make(np.ascontiguousarray(value.numpy()[held]), self._device) for name, value in state.items()}

    def _given(self, found: Mapping[str, Any]) -> Feed:
        return {port.name: found[port.name].numpy() for port in self._graph.given}

    def _first(self, feed: Feed) -> dict[str, Any]:
        import onnxruntime

        make = onnxruntime.OrtValue.ortvalue_from_numpy
        return {name: make(array, self._device) for name, array in self._graph.first_state(feed).items()}


@dataclass(frozen=True)
class _Buffer:
    """The memory of a state: what a call reads and writes in place, bound once for all calls that go on in it."""

    arrays: Mapping[str, NDArray[Any]]
    """By the input that they are."""
    binding: onnxruntime.IOBinding
    size: int
    """Tokens that it has room for."""


class _Shared(_Loaded):
    """A graph that writes what it adds to its state into the buffer that it reads: a state is a position in that buffer.

    A call with a state that nobody went on from, or only calls whose states are gone, writes behind it. Where a later state is
    still held, the call goes on in a copy.
    """

    def run(self, feed: Feed, state: Position[_Buffer] | None) -> tuple[Feed, object | None]:
        growth = self._graph.growth
        assert growth is not None
        after = grown(growth, feed, state)
        line = self._line(feed, state, after, growth)
        return self._computed(line.held.binding, feed), line.wrote(after)

    def cut(self, state: Position[_Buffer], length: int) -> object:
        return state.cut(length)

    def _computed(self, binding: onnxruntime.IOBinding, feed: Feed) -> Feed:
        """Only what a call brings and gives is bound: 60 values of a state take as long as two layers."""
        import numpy as np

        feed = self._graph.completed(feed)
        for name in self._inputs & feed.keys():
            binding.bind_cpu_input(name, np.ascontiguousarray(feed[name]))
        for port in self._graph.given:
            binding.bind_output(port.name, "cpu")
        self.session.run_with_iobinding(binding)
        values, first_given = binding.get_outputs_as_ortvaluevector(), len(self._graph.state)
        return {port.name: values[first_given + at].numpy() for at, port in enumerate(self._graph.given)}

    def _line(self, feed: Feed, state: Position[_Buffer] | None, after: int, growth: Growth) -> Line[_Buffer]:
        """Where the call may write: behind the state, else into a new buffer that begins with what the state holds."""
        if state is not None and state.line.free_from(state.length) and state.line.held.size >= after:
            return state.line
        made = self._buffer(feed, after, growth.axis)
        if state is not None:
            held = first(growth, state.length)
            for name, array in state.line.held.arrays.items():
                made.arrays[name][held] = array[held]
        return Line(made)

    def _buffer(self, feed: Feed, length: int, axis: int) -> _Buffer:
        """Room for the state after a call and a quarter more."""
        import numpy as np
        import onnxruntime

        size, arrays, binding = (length * 5 // 4 // ROOM + 1) * ROOM, {}, self.session.io_binding()
        for name, array in self._graph.first_state(feed).items():
            shape = [*array.shape[:axis], size, *array.shape[axis + 1 :]]
            arrays[name] = np.zeros(shape, array.dtype)
        shared = {name: onnxruntime.OrtValue.ortvalue_from_numpy(memory) for name, memory in arrays.items()}  # on the processor
        for output, becomes in self._graph.state:
            binding.bind_ortvalue_input(becomes, shared[becomes])
            binding.bind_ortvalue_output(output, shared[becomes])
        return _Buffer(arrays, binding, size)


class _OnnxSession:
    def __init__(self, graphs: Mapping[str, _Loaded], target: OnnxRuntime, built: Path) -> None:
        self.graphs = graphs
        self._target = target
        self._built = built

    def run(self, feed: Feed, *, graph: str = "model", state: Any = None) -> tuple[Feed, object | None]:
        """The state is an `OrtValue` by name of the input that it becomes, or a position in a buffer of them."""
        return self.graphs[graph].run(feed, state)

    def cut(self, state: Any, length: int, *, graph: str = "model") -> object:
        """A position before, or the first part of each value."""
        return self.graphs[graph].cut(state, length)

    def facts(self) -> dict[str, str]:
        """Q/DQ pairs count as int8 only where ONNX Runtime makes int8 operators of them: from `extended` on."""
        found = [node for name in self.graphs for node in nodes(self._built / f"{name}.onnx")]
        fused = bool(fake_quantised(found)) and self._target.graph_optimization in FUSING
        int8 = {8} if fused or any(each.op_type in INT8_OPERATORS for each in found) else set()
        kinds = [f"int{bits}" for bits in sorted(int8 | bits_of_products(found))]
        session = next(iter(self.graphs.values())).session
        return {
            "precision": " + ".join([*kinds, "fp32"]),
            "device": session.get_providers()[0].removesuffix("ExecutionProvider"),
            "threads": str(session.get_session_options().intra_op_num_threads),
            "graph_optimization": self._target.graph_optimization,
            **({"attention": KERNEL, "cache": self._cache()} if any(each.op_type == KERNEL for each in found) else {}),
        }

    def _cache(self) -> str:
        """Numbers that keys and values are kept in."""
        kept = [each for loaded in self.graphs.values() for each in loaded.session.get_inputs() if SHARED in each.shape]
        return "int8" if any(each.type == "tensor(int8)" for each in kept) else "fp32"
