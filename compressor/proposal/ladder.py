"""Which passes, targets and probes a plan gets: a ladder of compression by how much may be lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from compressor.contracts import InputSizes, Recipe, Task, Wish, registry
from compressor.contracts.recipe import Role
from compressor.contracts.registry import format_for
from compressor.deploy.machine import usable_cores
from compressor.errors import MissingDependency, PluginError, UnsupportedModel
from compressor.model.anatomy import limits
from compressor.proposal.checked import checked, offered

SOURCE = "source"
DROPS = (0.5, 1.0, 2.0, 3.0, 5.0, 10.0)
"""Points at which the ladder is looked at for a further rung."""
MOST_THREADS = 4
"""More are seldom worth it for one row at a time."""


def wished(
    max_drop: float,
    task: Task,
    config: Mapping[str, Any],
    trained: bool,
    rows: Mapping[str, int],
    sizes: InputSizes | None,
) -> Wish:
    """What plug-ins are asked by."""
    model_type = str(config.get("model_type", ""))
    without = limits(model_type)[1] if model_type else None
    length = sizes.timed if sizes else None
    threads = min(MOST_THREADS, usable_cores())
    return Wish(config, task, rows, trained, max_drop, SOURCE, without, length, threads)


@dataclass(frozen=True)
class Entry:
    """An entry of a plan."""

    name: str
    recipe: Recipe

    @property
    def plain(self) -> Any:
        """As a plan spells it."""
        return {self.name: dict(self.recipe.parameters)} if self.recipe.parameters else self.name


@dataclass(frozen=True)
class Ladder:
    """What plug-ins offer for a wish."""

    wish: Wish
    target: str | None = None
    """The only target, where the user names one."""
    shrinks: bool = True
    """Whether parts of the model may go."""

    @cached_property
    def teacher(self) -> Entry | None:
        """The pass that teaches the task; None where the model needs none.

        Raises:
            UnsupportedModel: none is offered.
        """
        if self.wish.trained:
            return None
        if (found := self._pass("train", self.wish)) is None:
            raise UnsupportedModel("the model has no head for this task, and no pass is installed that trains one")
        return found

    @property
    def reference(self) -> str:
        """What quality is held against."""
        return self.teacher.name if self.teacher else SOURCE

    def passes(self, max_drop: float | None = None) -> tuple[Entry, ...]:
        """The passes for what may be lost, in order; of the wish unless it is given."""
        drop = self.wish.max_drop if max_drop is None else max_drop
        wish = replace(self.wish, max_drop=drop, reference=self.reference)
        found: list[Entry | None] = [self.teacher]
        if self.shrinks:
            pair = self._pass("shrink", wish), self._pass("recover", wish)
            found += pair if all(pair) else ()
        found += self._pass("shorten", wish), self._pass("quantize", wish)
        return tuple(each for each in found if each)

    def further(self) -> Iterator[tuple[float, tuple[Entry, ...]]]:
        """Rungs above: from how many points on other passes are proposed, and which."""
        before = [each.name for each in self.passes()]
        shown = self.passes()
        for drop in (drop for drop in DROPS if drop > self.wish.max_drop):
            found = self.passes(drop)
            if [each.name for each in found] != before or _kept(found) != _kept(shown):
                yield drop, found
                before, shown = [each.name for each in found], found

    @cached_property
    def targets(self) -> tuple[Entry, ...]:
        """Targets that this machine has.

        Raises:
            MissingDependency: it has none of those that are offered, or not the one that is asked for.
        """
        offered = dict(self._offered("target", self.wish))
        if self.target:
            name = registry.current("target", self.target)
            recipe = offered.get(name) or Recipe(why="as you say")
            if why := self._lacks(name, recipe):
                raise MissingDependency(f"target {name}: {why}")
            return (Entry(name, recipe),)
        ready = tuple(Entry(name, recipe) for name, recipe in offered.items() if not self._lacks(name, recipe))
        if not ready:
            reasons = "; ".join(f"{name}: {self._lacks(name, recipe)}" for name, recipe in offered.items())
            raise MissingDependency(f"no target is ready on this machine: {reasons or 'none is installed'}")
        return ready

    def absent(self) -> Iterator[tuple[str, str]]:
        """Targets that are offered and not here, with the reason."""
        for name, recipe in self._offered("target", self.wish):
            if not self.target and (why := self._lacks(name, recipe)):
                yield name, why

    @property
    def probes(self) -> tuple[Entry, ...]:
        """What is measured: latency first."""
        first = registry.latency_probes()
        found = [Entry(name, recipe) for name, recipe in self._offered("probe", self.wish)]
        return tuple(sorted(found, key=lambda each: each.name not in first))

    def _pass(self, role: Role, wish: Wish) -> Entry | None:
        """What is offered for a role, on the formats of a target of the plan."""
        found = [Entry(name, recipe) for name, recipe in self._offered("pass", wish) if recipe.role == role and self._fits(name)]
        return min(found, key=lambda each: (each.recipe.rank, each.name), default=None)

    def _fits(self, name: str) -> bool:
        accepts = registry.load("pass", name).accepts
        return registry.TORCH in accepts or any(
            format_for(accepts, registry.load("target", each.name).dialect) for each in self.targets
        )

    @staticmethod
    def _offered(kind: str, wish: Wish) -> Iterator[tuple[str, Recipe]]:
        for name, found in registry.loaded(kind):
            if not isinstance(found, PluginError) and (recipe := offered(kind, name, partial(found.recipe, wish))):
                yield name, recipe

    @staticmethod
    def _lacks(name: str, recipe: Recipe) -> str:
        missing = checked(registry.load("target", name), recipe.parameters, f"target {name}").missing()
        return missing.build or missing.run or ""


def _kept(entries: tuple[Entry, ...]) -> list[Mapping[str, Any]]:
    """What shrinks say: another share is another rung."""
    return [each.recipe.parameters for each in entries if each.recipe.role == "shrink"]
