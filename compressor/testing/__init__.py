"""The conformance suite: every plug-in, built-in or of a third party, is held against its contract by the same checks.

A distribution with plug-ins tests them all, installed, in a few lines:

    import pytest
    from compressor.testing import checks

    @pytest.mark.parametrize("check", checks("my-distribution"), ids=str)
    def test_plugin_keeps_its_contract(check):
        check()

Each check runs the plug-in with each of its `examples` on a tiny model. A plug-in that breaks its contract gives a
`Nonconformity`, which says what it does and what it should do; what cannot be checked on this machine gives an `Unchecked`,
which pytest and unittest show as skipped. `check_pass` and its like do the same for one instance with its parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from compressor.contracts import Edit, Objective, Pass, Probe, Target, Task, registry
from compressor.contracts.anatomy import Row
from compressor.contracts.renamed import old_names
from compressor.testing.anatomies import ANATOMY
from compressor.testing.edits import EDIT
from compressor.testing.formats import FORMAT
from compressor.testing.libraries import LIBRARY, NETWORK
from compressor.testing.objectives import OBJECTIVE
from compressor.testing.passes import PASS
from compressor.testing.probes import PROBE
from compressor.testing.subject import AS_THEY_ARE, CheckFunction, Nonconformity, Subject, Unchecked, documented
from compressor.testing.targets import TARGET
from compressor.testing.tasks import TASK

__all__ = [
    "Check",
    "Nonconformity",
    "Unchecked",
    "check_anatomy",
    "check_edit",
    "check_format",
    "check_objective",
    "check_pass",
    "check_probe",
    "check_target",
    "check_task",
    "checks",
]

CHECKS: dict[str, tuple[CheckFunction, ...]] = {
    "pass": PASS,
    "target": TARGET,
    "probe": PROBE,
    "task": TASK,
    "objective": OBJECTIVE,
    "edit": EDIT,
    "anatomy": ANATOMY,
    "format": FORMAT,
    "library": LIBRARY,
    "network": NETWORK,
}
"""What is demanded of a plug-in, by its kind."""


@dataclass(frozen=True)
class Check:
    """One demand on one installed plug-in with one of its `examples`; calling it checks it."""

    kind: str
    name: str
    example: int
    function: CheckFunction

    def __call__(self) -> None:
        """Check.

        Raises:
            Nonconformity: the plug-in does not keep its contract.
            Unchecked: this machine lacks what the check needs.
            PluginError: it cannot be imported, or is of another kind than its entry point says.
        """
        self.function(self._subject())

    def __str__(self) -> str:
        example = f"[{self.example}]" if self.example else ""
        return f"{self.kind} {self.name}{example} {self.function.__name__.replace('_', ' ')}"

    @property
    def demand(self) -> str:
        """What is checked, in a sentence."""
        return documented(self.function)

    def _subject(self) -> Subject:
        found = registry.load(self.kind, self.name)
        if self.kind in AS_THEY_ARE:
            return Subject(self.kind, self.name, found)
        example = found.examples[self.example]
        try:
            return Subject(self.kind, self.name, found.model_validate(dict(example)))
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise Nonconformity(
                f"{self.kind} '{self.name}' does not take its own example {dict(example)} ({faults}); "
                "set `examples`, a tuple of parameters that it can be tried with"
            ) from error


def checks(distribution: str | None = None, *, kind: str | None = None) -> tuple[Check, ...]:
    """All checks of what is installed, of one distribution or one kind where they are named.

    Raises:
        Nonconformity: the named distribution offers no plug-in, or is not installed.
    """
    found = tuple(
        check
        for each in ([kind] if kind else registry.KINDS)
        for name in registry.names(each)
        if distribution is None or _owner(each, name) == distribution
        for check in _checks(each, name)
    )
    if not found:
        raise Nonconformity(
            f"no plug-in of {distribution or 'anybody'} is installed: its pyproject.toml needs entry points like "
            '[project.entry-points."compressor.pass"], and it must be installed to have them'
        )
    return found


def check_pass(step: Pass) -> None:
    """Hold a pass against its contract."""
    _hold("pass", step)


def check_target(target: Target) -> None:
    """Hold a target against its contract."""
    _hold("target", target)


def check_probe(probe: Probe) -> None:
    """Hold a probe against its contract."""
    _hold("probe", probe)


def check_task(task: Task) -> None:
    """Hold a task against its contract."""
    _hold("task", task)


def check_objective(objective: Objective) -> None:
    """Hold an objective against its contract."""
    _hold("objective", objective)


def check_edit(edit: Edit) -> None:
    """Hold an edit, with values that fit the tiny BERT, against its contract."""
    _hold("edit", edit)


def check_anatomy(row: Row) -> None:
    """Hold a row of the anatomy table against a tiny model of its family."""
    _hold("anatomy", row)


def check_format(form: type[Any]) -> None:
    """Hold a format against its contract."""
    _hold("format", form)


def _hold(kind: str, plugin: Any) -> None:
    """All checks of a kind; those that cannot be made here are raised at the end."""
    subject = Subject.of(kind, plugin)
    unchecked: list[Unchecked] = []
    for function in CHECKS[kind]:
        try:
            function(subject)
        except Unchecked as reason:
            unchecked.append(reason)
    if unchecked:
        raise Unchecked("; ".join(map(str, unchecked)))


def _checks(kind: str, name: str) -> Iterator[Check]:
    try:
        plugin = registry.load(kind, name)
    except Exception:  # told by the check when it runs
        plugin = None
    for example in range(1 if kind in AS_THEY_ARE else len(getattr(plugin, "examples", ({},)))):
        yield from (Check(kind, name, example, function) for function in CHECKS[kind])


def _owner(kind: str, name: str) -> str:
    return registry.distribution(kind, name).rpartition(" ")[0]


if not TYPE_CHECKING:  # a type checker would believe that every name is there
    __getattr__ = old_names(__name__, {"check_rung": "check_format"}, globals())
