"""Probes and the processes they measure in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, Self

from compressor.contracts.graph import Feed
from compressor.contracts.profiles import Peaks, Profile
from compressor.contracts.recipe import Recipe
from compressor.contracts.records import ProbeRecord, Workload
from compressor.contracts.step import Event, Step
from compressor.contracts.target import Target
from compressor.contracts.task import Task
from compressor.contracts.wish import Wish
from compressor.errors import PluginError

FEEDS = 16
"""Inputs of a workload that a probe is given, at most."""


@dataclass(frozen=True)
class Candidate:
    """A built model on a target, ready to be measured."""

    id: str
    """`stage@target`, unique in the run."""
    stage: str
    target: str
    runtime: Target
    built: Path
    task: Task | None = None
    """Its `call` is what is timed; without a task, one run of the session."""


class Worker(Protocol):
    """A fresh process that holds one candidate."""

    @property
    def facts(self) -> Mapping[str, str]:
        """The session's facts, with `load_seconds` and `first_call_seconds` once known."""
        ...

    @property
    def times(self) -> Mapping[str, str]:
        """Of the facts `load_seconds` and `first_call_seconds`, without asking the runtime for others."""
        ...

    def put(self, feeds: Sequence[Feed], workload: Workload = Workload()) -> None:
        """Hand over the inputs that later calls cycle through, and what a call does with one of them."""
        ...

    def run(self, calls: int) -> Sequence[float]:
        """Wall time in seconds of each of `calls` calls, inputs in turn; the clock runs inside the worker."""
        ...

    def peak_bytes(self) -> int:
        """Peak resident memory of the process so far."""
        ...

    def profile(self, calls: int) -> Profile | None:
        """What a call takes by operator, in a session of its own, beside which no other one is loaded; None where the runtime has no profiler."""
        ...

    def close(self) -> None: ...


class Bench(Protocol):
    """Starts measuring processes; one a candidate, ended when the probe is done."""

    def begun(self, candidates: Sequence[Candidate]) -> AbstractContextManager[None]:
        """Processes for candidates, started side by side: the same objects are then given to `worker`, once for each."""
        ...

    def worker(self, candidate: Candidate) -> Worker: ...
    def load(self) -> float:
        """Share of the machine's processors that other processes keep busy, 0 to 1."""
        ...

    def peaks(self, threads: int) -> Peaks:
        """The most that this machine does with so many threads; measured once."""
        ...

    def tell(self, event: Event) -> None: ...


class Probe(Step, ABC):
    """Measures candidates side by side."""

    measures_latency: ClassVar[bool] = False
    """True where its record is a `LatencyRecord`: limits on speed and latency are judged by it."""
    of_tokens: ClassVar[bool] = False
    """True where it looks at what models make token by token: only tasks that count tokens (`Task.counts`) have such."""

    @abstractmethod
    def workloads(self) -> tuple[Workload, ...]:
        """What it measures candidates at."""

    def stages(self) -> tuple[str, ...]:
        """Names of the steps whose models it looks at in particular; it looks at all candidates anyway."""
        return ()

    def suited(self, workloads: Sequence[Workload]) -> Self:
        """This probe with what its plan leaves open taken from what the task has timed by itself: `Task.workloads`."""
        return self

    def only(self, workload: Workload, *, seconds: float) -> Self:
        """This probe at one workload, in about so many seconds; needed where it measures latency.

        Raises:
            PluginError: it has no `only`.
        """
        raise PluginError(
            f"the probe {type(self).__name__} cannot be asked for one workload: give it `only`, which limits on latency need, "
            "or leave `measures_latency` out"
        )

    @abstractmethod
    def measure(
        self, candidates: Sequence[Candidate], feeds: Mapping[Workload, Sequence[Feed]], bench: Bench, *, seed: int
    ) -> ProbeRecord:
        """One record over all candidates; the first candidate is the baseline of every ratio unless the probe says otherwise."""

    @classmethod
    def recipe(cls, wish: Wish) -> Recipe | None:
        """What `compressor init` writes of it into a plan; None where it has no part in that."""
        return None

    def shortened(self) -> Self:
        """This probe in as little time as it can run in, for `compressor rehearse`: nobody reads what it finds."""
        return self

    def expected_seconds(self, short: Self, took_seconds: float) -> float:
        """How long it will take over as many candidates as `short`, its `shortened()`, took so long over."""
        return took_seconds

    def expected_over(self, short: Self, took_seconds: float, stages: Sequence[str]) -> float:
        """The same, where the time depends on which candidates there are: the stage of each, `final` say."""
        return self.expected_seconds(short, took_seconds)
