"""What a model that draws is exported as: graphs of its network, of a teacher beside it, what judges between them, a decoder; and their calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed, Graph, Port
from compressor.tasks.generation import latents
from compressor.tasks.generation.description import GRAPH, Description, blocks_of, graph_of, output_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressor.contracts import Session

SAMPLE, TIME, SPAN, SCALE, LABEL = "sample", "time", "span", "scale", "label"
PREDICTED, PICTURE, LOGITS = "predicted", "picture", "logits"
TEACHER, ORACLE = "teacher", "oracle"
"""Components beside the network, and the graphs of them."""
DECODER, LATENT = "decoder", "latent"


def graphs(how: Description) -> tuple[Graph, ...]:
    """Of the network, one for each number of blocks that it runs; of its decoder; of its teacher and of what tells which rows that one mends."""
    found = _of_network(how, GRAPH, None)
    if how.decoded is not None:
        picture, latent = (
            Port(name, "float32", ("batch", *axes)) for name, axes in ((PICTURE, how.decoded), (LATENT, how.shape))
        )
        found = (*found, Graph(DECODER, latents.COMPONENT, inputs=(latent,), outputs=(picture,)))
    if how.policy is None:
        return found
    picture = Port(PICTURE, "float32", ("batch", *how.shape))
    oracle = Graph(ORACLE, ORACLE, inputs=(picture,), outputs=(Port(LOGITS, "float32", ("batch", "classes")),))
    return (*found, *_of_network(how.policy.teacher, TEACHER, TEACHER), oracle)


def _of_network(how: Description, network: str, component: str | None) -> tuple[Graph, ...]:
    axes = ("batch", *how.shape)
    told = [name for name, is_told in ((SPAN, how.spans), (SCALE, how.scales)) if is_told]
    inputs = (Port(SAMPLE, "float32", axes), Port(TIME, "float32", ("batch",)), Port(LABEL, "int64", ("batch",)))
    ports = (*inputs, *(Port(name, "float32", ("batch",)) for name in told))
    return tuple(
        Graph(name, component, inputs=ports, outputs=(Port(PREDICTED, "float32", axes),)) for name in how.graphs(network)
    )


def example(how: Description, graph: Graph, batch: int) -> Feed:
    """Made-up noise at made-up times."""
    import numpy as np

    shape = (batch, *how.shape)
    wave = np.sin(np.arange(np.prod(shape), dtype=np.float64)).astype(np.float32).reshape(shape)
    times = np.linspace(1, 999, batch, dtype=np.float32)
    labels = np.arange(batch, dtype=np.int64) % max(1, how.classes)
    made: Feed = {
        SAMPLE: wave,
        PICTURE: wave,
        LATENT: wave,
        TIME: times,
        SPAN: times / 2,
        SCALE: np.ones_like(times),
        LABEL: labels,
    }
    return {port.name: made[port.name] for port in graph.inputs}


def answer(module: Any, graph: Graph, inputs: Mapping[str, Any]) -> Any:
    """What a network tells, by as many blocks as the graph runs; logits of an oracle; rows of a decoder."""
    if graph.name == DECODER:
        return latents.decoded(module, inputs[LATENT])
    if graph.name == ORACLE:
        return module(inputs[PICTURE])
    others = {"span": inputs.get(SPAN), "scale": inputs.get(SCALE), "blocks": blocks_of(module, graph.name)}
    return output_of(module, inputs[SAMPLE], inputs[TIME], inputs[LABEL], **others)


def rows_drawn(session: Session, feed: Feed, table: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Rows of a feed as a session draws them by a table; and which of them a teacher mended, where there is one."""
    from compressor.tasks.inputs.sampling import adapted, drawn

    student = partial(_asked, session, GRAPH)
    if "policy" not in feed:
        found = drawn(student, feed, table)
        return (session.run({LATENT: found}, graph=DECODER)[0][PICTURE] if "decoded" in feed else found), None
    teacher = partial(_asked, session, TEACHER)
    mended: tuple[NDArray[Any], NDArray[Any]] = adapted(student, teacher, oracle_of(session), {**feed, "table": table})
    return mended


def oracle_of(session: Session) -> Callable[[Any], Any]:
    """What gives logits for pictures."""
    return lambda rows: session.run({PICTURE: rows}, graph=ORACLE)[0][LOGITS]


def _asked(session: Session, network: str, given: dict[str, Any]) -> Any:
    return session.run(given, graph=graph_of(given.pop("blocks"), network))[0][PREDICTED]
