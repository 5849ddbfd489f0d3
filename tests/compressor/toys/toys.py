"""Plug-ins of a third party, found by entry points like all others: they say what they take and do nothing."""

from __future__ import annotations

from pydantic import Field, model_validator

from compressor.contracts import Columns, Dialect, Format, Measure, Missing, Needs, Objective, Pass, Probe, Target, Task, Workload


class Train(Pass):
    """Trains, as toys do."""

    trains = True

    epochs: int = Field(default=1, ge=1)
    temperature: float = Field(default=2.0, gt=0)
    teacher: str | None = None
    objectives: dict[str, float | dict[str, float]] = Field(default={})
    keep: list[str] | float = 1.0

    def apply(self, model, ctx):
        return model

    def needs(self):
        return Needs(teachers=(self.teacher,) if self.teacher else (), plugins={"objective": tuple(self.objectives)})


class Shrink(Pass):
    """Works on the torch model, down to a budget measured on a target."""

    ratio: float = 0.5
    order: str = "magnitude"
    budget_on: str | None = None

    @model_validator(mode="after")
    def _sensible(self):
        if self.ratio == 0.25 and self.order == "random":
            raise ValueError("a quarter at random is nothing to play with")
        return self

    def apply(self, model, ctx):
        return model

    def needs(self):
        return Needs(targets=(self.budget_on,) if self.budget_on else ())


class Tidy(Pass):
    """Works on one format below torch."""

    accepts = ("toy-graph",)

    def apply(self, model, ctx):
        return model


class Round(Pass):
    """Quantises on either format below torch."""

    accepts = ("toy-graph", "toy-binary")
    quantizes = True
    bits: int = 8

    def apply(self, model, ctx):
        return model


class RoundToo(Round):
    """Quantises as well."""


class Half(Pass):
    """Lacks `apply`."""


class Raising(Pass):
    """Its own check is broken."""

    size: int = 1

    @model_validator(mode="after")
    def _broken(self):
        raise KeyError(self.size)

    def apply(self, model, ctx):
        return model


class NotAPass:
    pass


class Graph(Format):
    name = "toy-graph"
    above = "torch"

    def lower(self, artifact, out, *, task, dialect):
        raise NotImplementedError


class Binary(Graph):
    name = "toy-binary"
    above = "toy-graph"


class Eager(Target):
    """Runs the torch model."""

    dialect = Dialect(format="torch")
    file = "toy"

    def missing(self):
        return Missing()

    def build(self, source, out, *, graphs, workloads):
        pass

    def open(self, built):
        raise NotImplementedError


class Runtime(Eager):
    """Runs graphs."""

    dialect = Dialect(format="toy-graph")


class Device(Eager):
    """Runs binaries."""

    dialect = Dialect(format="toy-binary")


class Clock(Probe):
    """Measures nothing."""

    batch: list[int] = Field(default=[1])

    def workloads(self):
        return tuple(Workload(batch=batch, length=128) for batch in self.batch)

    def measure(self, candidates, feeds, bench, *, seed):
        raise NotImplementedError


class Stopwatch(Clock):
    """Measures latency, under a name of its own."""

    measures_latency = True


class Guess(Task):
    """Guesses."""

    text: str = "text"
    max_length: int = 8

    def columns(self):
        return Columns((self.text,))

    def measures(self):
        return (Measure("luck"),)

    def load(self, source, data, *, seed): ...
    def inputs(self, model): ...
    def outputs(self): ...
    def example(self, files, graph, *, batch, length): ...
    def batches(self, rows, files, *, batch_size, shuffle_seed=None): ...
    def forward(self, module, batch, want=None): ...
    def loss(self, outputs, batch): ...
    def feeds(self, rows, files, workload=None, *, count=None): ...
    def scored_feeds(self, rows, files): ...
    def truth(self, rows): ...
    def score(self, outputs, truth, *, split): ...


class Loss(Objective):
    """Loses."""

    def wants(self, student, teacher): ...
    def loss(self, student, teacher, batch): ...
