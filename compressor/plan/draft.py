"""A plan as far as it could be read: what checks across its parts look at, faulty entries included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from compressor.contracts import Dialect, Needs, Pass, Step, Target, Task
from compressor.contracts.registry import TORCH
from compressor.errors import Fault
from compressor.plan.entries import Entry
from compressor.plan.specs import Accept, StepKeys
from compressor.plan.yaml_source import Located


@dataclass(frozen=True)
class Drafted:
    """An entry of the plan as far as it could be read: parts that are at fault are None."""

    entry: Entry
    kind: type[Step] | None
    step: Step | None
    keys: StepKeys

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def known(self) -> bool:
        return self.kind is not None

    @property
    def accepts(self) -> tuple[str, ...]:
        """Formats a pass works on."""
        return self.kind.accepts if self.kind and issubclass(self.kind, Pass) else ()

    @property
    def trunk(self) -> bool:
        """True for a pass on the torch model, which runs once for all targets."""
        return TORCH in self.accepts

    @property
    def below(self) -> bool:
        """True for a pass that runs in the targets' branches."""
        return self.known and not self.trunk

    def needs(self) -> Needs:
        """What the parameters ask for, as far as they can be read."""
        if not (self.kind and issubclass(self.kind, Pass)):
            return Needs()
        known = {key: value.plain() for key, value in self.entry.parameters.items().items() if key in self.kind.model_fields}
        step = self.step if isinstance(self.step, Pass) else self.kind.model_construct(**known)
        try:
            found = step.needs()
            return replace(
                found,
                teachers=_texts(found.teachers),
                targets=_texts(found.targets),
                plugins={kind: _texts(names) for kind, names in found.plugins.items()},
                products=_texts(found.products),
            )
        except (TypeError, ValueError, LookupError, AttributeError):  # parameters at fault, which is told where they stand
            return Needs()

    def fault(self, what: str, key: str = "") -> Fault:
        """A fault at the entry, or at one of the keys beside its plug-in."""
        at = self.entry.beside.items().get(key, self.entry.beside if not key else self.entry.parameters)
        return at.fault(f"{self.entry.where}.{key}" if key else self.entry.where, what)

    def at_parameter(self, name: str, what: str) -> Fault:
        """A fault where the plan gives a parameter; at the entry where it gives none of that name."""
        given = self.entry.parameters.items().get(name)
        return given.fault(f"{self.entry.where}.{name}", what) if given else self.fault(what)

    def mention(self, text: str, what: str) -> Fault:
        """A fault where the parameters mention `text`."""
        parameters = self.entry.parameters
        for path, key, value in parameters.walk(self.entry.where):
            if text in (key, value.data):
                return value.fault(path, what)
        return parameters.fault(self.entry.where, what)


def _texts(names: Iterable[object]) -> tuple[str, ...]:
    """What can be a name; anything else is a parameter at fault, which is told where it stands."""
    return tuple(name for name in names if isinstance(name, str))


@dataclass(frozen=True)
class Draft:
    """A plan as far as it could be read."""

    steps: Sequence[Drafted]
    targets: Sequence[Drafted]
    probes: Sequence[Drafted]
    accept: Sequence[tuple[str, Located, Accept | None]]
    models: Mapping[str, Located]
    reference: str
    reference_at: Located
    task_name: str = ""
    task: Task | None = None
    """None where it could not be read."""
    metric: str | None = None
    metric_at: Located | None = None
    without_data: Located | None = None
    """Where `data:` is missing; None where it is there."""

    def dialects(self) -> dict[str, Dialect]:
        """Dialect by target's name, where the target is known; as its parameters leave it, where they can be read."""
        return {
            target.name: target.step.own_dialect() if isinstance(target.step, Target) else target.kind.dialect
            for target in self.targets
            if target.kind and hasattr(target.kind, "dialect")
        }

    def acts_on(self, step: Drafted) -> dict[str, Dialect]:
        """Targets in whose branches a step runs; a pass of the trunk acts on all of them."""
        chosen = step.keys.only if step.below and step.keys.only else None
        return {name: dialect for name, dialect in self.dialects().items() if chosen is None or name in chosen}
