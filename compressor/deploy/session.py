"""A model as a session: run eagerly, or opened on its target; and any session as a function of a feed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Feed, Graph, Session, Target, Task, Workload
from compressor.contracts.failing import library_told
from compressor.deploy.graphs import model_type

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model


class EagerSession:
    """A torch model run as its task answers for it, without export: what every built file is held against."""

    def __init__(self, task: Task, model: Model, graphs: Sequence[Graph], device: str) -> None:
        from compressor.model.sharding import roots

        self._task, self._device = task, device
        self._graphs: dict[str, tuple[Graph, torch.nn.Module]] = {
            graph.name: (graph, model.component(graph.component).module.to(device).train(False)) for graph in graphs
        }
        self._spread = [module for _, module in self._graphs.values() if roots(module)]  # looked for once: calls are timed

    def run(self, feed: Feed, *, graph: str = "model", state: object | None = None) -> tuple[Feed, object | None]:
        """The state is a tensor by name of the input that it becomes."""
        import torch

        from compressor.model.sharding import gathered

        wires, module = self._graphs[graph]
        kept: Any = self._tensors(wires.first_state(feed)) if state is None else state
        with (
            torch.no_grad()
        ):  # not inference mode: models keep tensors between calls (relative positions), and are trained with them
            given = self._tensors(wires.completed(feed))
            answer = gathered(self._spread and [module], lambda: self._task.answer(module, wires, {**given, **kept}))
            found = named(answer, wires)
            outputs = {port.name: array_of(found[port.name]) for port in wires.given}
        return outputs, {becomes: found[output] for output, becomes in wires.state} or None

    def cut(self, state: Any, length: int, *, graph: str = "model") -> object:
        """The first part of each tensor."""
        growth = self._graphs[graph][0].growth
        if growth is None:
            raise ValueError(f"graph '{graph}' has no state that grows")
        return {name: tensor.narrow(growth.axis, 0, length) for name, tensor in state.items()}

    def facts(self) -> dict[str, str]:
        """The precision of the weights, and whether they simulate a coarser one."""
        import torch

        from compressor.model.quantization.layers import quantized_layers

        module = next(iter(self._graphs.values()))[1]
        precision = str(next(module.parameters()).dtype).removeprefix("torch.").replace("float", "fp")
        precision += ", simulating integers" if quantized_layers(module) else ""
        return {"precision": precision, "device": self._device, "threads": str(torch.get_num_threads())}

    def _tensors(self, arrays: Feed) -> dict[str, torch.Tensor]:
        import torch

        return {name: torch.as_tensor(array, device=self._device) for name, array in arrays.items()}


def named(answer: torch.Tensor | Sequence[torch.Tensor] | Mapping[str, torch.Tensor], graph: Graph) -> dict[str, torch.Tensor]:
    """What a task answered, by the graph's outputs: a mapping, tensors in the order of the outputs, or the only one.

    Raises:
        ValueError: there are not as many answers as outputs.
    """
    import torch

    if isinstance(answer, Mapping):
        return dict(answer)
    several = [answer] if isinstance(answer, torch.Tensor) else list(answer)
    return dict(zip((port.name for port in graph.outputs), several, strict=True))


def array_of(tensor: torch.Tensor) -> Any:
    """The tensor in numpy; floats in float32."""
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()


def predictor(task: Task, session: Session) -> Callable[[Feed], Feed]:
    """What the task makes of one forward call, as a function of a feed."""
    return lambda feed: task.call(session, feed, Workload())


def eager(task: Task, model: Model, device: str) -> Callable[[Feed], Feed]:
    """A model run eagerly, as a function of a feed."""
    return predictor(task, EagerSession(task, model, task.graphs(model), device))


def opened(task: Task, runtime: Target, built: Path) -> Callable[[Feed], Feed]:
    """A built file opened on its target, as a function of a feed."""
    return predictor(task, open_built(runtime, built))


def open_built(runtime: Target, built: Path) -> Session:
    """A built file opened on its target.

    Raises:
        UnsupportedModel: the runtime does not take it.
    """
    with library_told(f"{runtime.file} of {model_type(built)} cannot be opened"):
        return runtime.open(built)
