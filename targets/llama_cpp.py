"""llama.cpp on CPU, by the package `cyllama`: GGUF files in float32, float16 or 8 bits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from weakref import finalize

from pydantic import Field

from compressor.contracts import Artifact, Dialect, Feed, Graph, Missing, Runtime, Scheme, Session, Target
from compressor.deploy.cache import Line, Position, grown
from compressor.deploy.gguf import FILE, bytes_by_part, convert, types_in
from compressor.deploy.graphs import graphs_of
from compressor.errors import MissingDependency, UnsupportedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_ROWS = 64
"""Texts that are kept at a time; more are llama.cpp's own limit away."""
PART = 512
"""Tokens that are computed in one call of the library."""
GROUP = 32
"""Numbers of one scale in q8_0."""
CACHES = {"f32": 0, "f16": 1, "q8_0": 8}
"""Types of keys and values, by the library's numbers."""

PRECISIONS = {"TQ2_0": "int2", "Q4_0": "int4", "Q4_1": "int4", "Q8_0": "int8", "F16": "fp16"}
"""What types of matrices are, the fewest bits first."""
SCHEMES = (
    *(Scheme(weights, "int8", "group", 32, dynamic=True) for weights in ("int8", "int4")),
    Scheme("ternary", "int8", "group", 256, dynamic=True),
)
"""Q8_0, Q4_0, Q4_1 and TQ2_0, whose products round activations to 8 bits as they read them, a scale for each group."""


class LlamaCpp(Target):
    """A GGUF file, run by llama.cpp."""

    dialect: ClassVar[Dialect] = Dialect(format="gguf", precisions=("fp32", "fp16", "int8", "int4", "int2"), schemes=SCHEMES)
    file: ClassVar[str] = FILE
    requires: ClassVar[tuple[str, ...]] = ("gguf", "cyllama")

    threads: int = Field(default=1, ge=1, le=256, description="Threads of one operator.")
    weights: Literal["auto", "f32", "f16", "q8_0"] = Field(
        default="auto",
        description="Type of matrices; vectors stay in float32. auto: f16, and what a pass has quantised as it wrote it.",
    )
    cache: Literal["auto", "f32", "q8_0"] = Field(
        default="auto",
        description="Numbers that keys and values of earlier tokens are kept in: auto is float32 where all weights are, else float16; q8_0 has "
        "8 bits, with a scale for 32 of them.",
    )
    context: int = Field(default=4096, ge=16, le=2**20, description="Tokens of all texts that there is room for at a time.")

    @classmethod
    def runtime(cls, facts: Mapping[str, str]) -> Runtime:  # noqa: ARG003 - the file says it all
        """The package that holds the library."""
        return Runtime("llama-cpp", ("cyllama",), remarks=(f"`{FILE}` is opened by llama.cpp and what is built on it.",))

    def own_dialect(self) -> Dialect:
        """No quantised weights where the plan says what matrices are: those of a pass are as it wrote them."""
        return replace(self.dialect, schemes=()) if self.weights != "auto" else self.dialect

    def missing(self) -> Missing:
        """The packages that write and run such files."""
        from importlib.util import find_spec

        lacks = [name for name in self.requires if find_spec(name) is None]
        if not lacks:
            return Missing()
        reason = f"{' and '.join(lacks)} not installed: pip install {' '.join(lacks)}"
        return Missing(build=reason if "gguf" in lacks else None, run=reason)

    def build(self, source: Artifact, out: Path, **_: object) -> None:
        """Write the weights in their type; those of a file that a pass has quantised stay as they are.

        Raises:
            UnsupportedModel: the plan names another type for them.
        """
        quantised = [each for each in types_in(source.path / FILE) if each not in ("F32", "F16")]
        if quantised and self.weights != "auto":
            raise UnsupportedModel(f"its matrices are {' and '.join(quantised)} already: leave `weights: {self.weights}` out")
        if quantised or self.weights == "f32":
            shutil.copyfile(source.path / FILE, out / FILE)
        else:
            convert(source.path / FILE, out / FILE, "f16" if self.weights == "auto" else self.weights)

    def layer_bytes(self, built: Path) -> dict[str, int]:
        """Of the tensors of the file, by block and part: `blk.0.attn`."""
        return bytes_by_part(built / FILE)

    def open(self, built: Path) -> Session:
        """Load the file, with room for `context` tokens.

        Raises:
            MissingDependency: the package is missing.
            UnsupportedModel: its heads do not fit the cache that is asked for.
        """
        if (missing := self.missing().run) is not None:
            raise MissingDependency(missing)
        types = types_in(built / FILE)
        usual = "f32" if types == ("F32",) else "f16"
        cache = usual if self.cache == "auto" else self.cache
        graph = graphs_of(built)[0]
        _check_cache(graph, cache)
        context = _opened(built / FILE, threads=self.threads, size=self.context, cache=cache)
        return _LlamaCppSession(context, graph, self, types, cache)


def _check_cache(graph: Graph, cache: str) -> None:
    """Keys and values of a head are cut into whole groups.

    Raises:
        UnsupportedModel: they are not.
    """
    kept = {name for _, name in graph.state}
    sizes = {port.axes[-1] for port in graph.inputs if port.name in kept}
    odd = [size for size in sizes if isinstance(size, int) and size % GROUP]
    if cache == "q8_0" and odd:
        raise UnsupportedModel(
            f"a cache in q8_0 has groups of {GROUP}, which heads of {min(odd)} are not made of: leave `cache` out"
        )


def _opened(path: Path, *, threads: int, size: int, cache: str) -> Any:
    from cyllama.llama import llama_cpp

    class Model(llama_cpp.LlamaModel):  # type: ignore[misc] # the package has no types
        """The package asks a model for what only its vocabulary knows."""

        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    llama_cpp.disable_logging()
    how, room = llama_cpp.LlamaModelParams(), llama_cpp.LlamaContextParams()
    how.n_gpu_layers = 0
    room.n_ctx, room.n_batch, room.n_ubatch, room.n_seq_max, room.kv_unified = size, PART, PART, MOST_ROWS, True
    room.n_threads = room.n_threads_batch = threads
    room.type_k = room.type_v = CACHES[cache]
    if cache == "f32":
        room.flash_attn_type = 0  # it would round to float16
    return llama_cpp.LlamaContext(Model(str(path), how), room, verbose=False)


@dataclass
class _Rows:
    """Texts that the library keeps, one sequence each."""

    sequences: list[int]
    counts: NDArray[np.int64] = field(init=False)
    """Tokens of each row up to each column: padding is not handed to the library."""


class _LlamaCppSession:
    """Sequences of the library are what states are positions in: it cuts and copies them itself."""

    def __init__(self, context: Any, graph: Graph, target: LlamaCpp, types: tuple[str, ...], cache: str) -> None:
        from cyllama.llama import llama_cpp

        self._context, self._graph, self._target, self._types, self._cache = context, graph, target, types, cache
        self._batch = llama_cpp.LlamaBatch(n_tokens=PART, embd=0, n_seq_max=1, verbose=False)
        self._free = list(range(MOST_ROWS))
        (self._places,) = (port.name for port in graph.fed if port.default)

    def run(self, feed: Feed, *, graph: str = "model", state: Any = None) -> tuple[Feed, object | None]:  # noqa: ARG002 - there is one
        """The state is a position in sequences that the library keeps."""
        import numpy as np

        growth = self._graph.growth
        assert growth is not None
        after = grown(growth, feed, state)
        given = self._graph.completed(feed)
        ids, mask = given[growth.added[0]], given[growth.whole[0]] != 0
        line = self._line(state, len(ids))
        line.held.counts = np.concatenate([np.zeros((len(ids), 1), np.int64), mask.cumsum(1)], axis=1)
        logits = self._computed(line.held, ids, mask, given[self._places] % ids.shape[1])
        return {self._graph.given[0].name: logits}, line.wrote(after)

    def cut(self, state: Position[_Rows], length: int, *, graph: str = "model") -> object:  # noqa: ARG002 - there is one
        """A position before."""
        return state.cut(length)

    def facts(self) -> dict[str, str]:
        """Types of the weights in the file, and of the cache."""
        found = [PRECISIONS[each] for each in PRECISIONS if each in self._types]
        precision = " + ".join(dict.fromkeys(each for each in found if each != "fp16" or len(found) == 1)) or "fp32"
        kept = {"f32": "fp32", "f16": "fp16", "q8_0": "int8"}[self._cache]
        return {"precision": precision, "device": "CPU", "threads": str(self._target.threads), "cache": kept}

    def _line(self, state: Position[_Rows] | None, rows: int) -> Line[_Rows]:
        """Sequences that hold what the state says and no more."""
        if state is None:
            return self._begun(rows)
        old = state.line
        if old.written == state.length:
            return old
        ends = old.held.counts[:, state.length].tolist()
        if old.free_from(state.length):
            for sequence, end in zip(old.held.sequences, ends, strict=True):
                self._context.memory_seq_rm(sequence, end, -1)
            return old
        new = self._begun(rows)
        for sequence, to, end in zip(old.held.sequences, new.held.sequences, ends, strict=True):
            self._context.memory_seq_cp(sequence, to, 0, end)
        return new

    def _begun(self, rows: int) -> Line[_Rows]:
        if rows > len(self._free):
            raise ValueError(
                f"{rows} texts do not fit beside {MOST_ROWS - len(self._free)}: llama.cpp keeps {MOST_ROWS} at a time here"
            )
        taken, self._free = self._free[:rows], self._free[rows:]
        line = Line(_Rows(taken))
        finalize(line, self._give_back, taken)
        return line

    def _give_back(self, sequences: list[int]) -> None:
        for sequence in sequences:
            self._context.memory_seq_rm(sequence, -1, -1)
        self._free += sequences

    def _computed(self, rows: _Rows, ids: NDArray[Any], mask: NDArray[Any], places: NDArray[Any]) -> NDArray[np.float32]:
        """Logits `[B, kept, V]`; zeros at padding."""
        import numpy as np

        kept = {int(column): at for at, column in enumerate(places)}
        found: NDArray[np.float32] = np.zeros((len(ids), len(places), self._context.model.n_vocab), dtype=np.float32)
        for part in _parts(rows, ids, mask):
            self._batch.clear()
            for row, column, position in part:
                self._batch.add(int(ids[row, column]), position, [rows.sequences[row]], column in kept)
            try:
                self._context.decode(self._batch)
            except ValueError as error:
                raise ValueError(
                    f"no room for {len(part)} more tokens in a context of {self._target.context}: raise `context`"
                ) from error
            for number, (row, column, _) in enumerate(part):
                if column in kept:
                    found[row, kept[column]] = self._context.get_logits_ith(number)
        return found


def _parts(rows: _Rows, ids: NDArray[Any], mask: NDArray[Any]) -> Iterator[list[tuple[int, int, int]]]:
    """Row, column and position of the tokens of a call that are no padding, as many at a time as the library takes."""
    before = mask.shape[1] - ids.shape[1]
    every = [
        (row, column, int(rows.counts[row, before + column]))
        for row in range(len(ids))
        for column in range(ids.shape[1])
        if mask[row, before + column]
    ]
    return (every[at : at + PART] for at in range(0, len(every), PART))
