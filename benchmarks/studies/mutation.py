"""Mutants of a module: by mutmut's operators, drawn by a seed, and known by the lines that they change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

UNTOUCHED_CALLS = ("len", "isinstance")
"""Taking an argument from these is an error wherever they are called, and proves nothing."""


@dataclass(frozen=True)
class Mutant:
    """A module with one fault."""

    module: str
    """Path below the root."""
    line: int
    """The first line that differs, from 1."""
    before: str
    """What the module says there, blanks run together."""
    after: str
    source: str
    """The whole module with the fault."""

    @property
    def name(self) -> str:
        """Stays the same while the lines that it changes do, wherever they stand."""
        return hashlib.sha256(f"{self.module}\0{self.before}\0{self.after}".encode()).hexdigest()[:16]


@cache
def mutants_of(module: str, source: str) -> tuple[Mutant, ...]:
    """All mutants that compile, in the order of the source; of equal changes of equal lines the first stands for all.

    Annotations, names of types, decorators and imports have none: they do not run, or break everything. Nor has what only people read: docstrings,
    descriptions of parameters, papers.
    """
    import libcst

    tree = libcst.parse_module(source)
    found: dict[str, Mutant] = {}
    at = source.index(tree.code_for_node(tree.body[0])) if tree.body else 0
    for statement in tree.body:
        held = tree.code_for_node(statement)
        for changed in map(tree.code_for_node, _changed(statement)):
            mutant = _mutant(module, source, source[:at] + changed + source[at + len(held) :])
            if mutant and mutant.name not in found and _compiles(changed):
                found[mutant.name] = mutant
        at += len(held)
    return tuple(found.values())


def by_hand(module: str, source: str, before: str, after: str) -> Mutant:
    """A mutant that replaces a text.

    Raises:
        ValueError: the text is not there exactly once.
    """
    if source.count(before) != 1:
        raise ValueError(f"{module} has {before!r} {source.count(before)} times, not once")
    mutant = _mutant(module, source, source.replace(before, after))
    assert mutant is not None
    return mutant


def drawn(mutants: Sequence[Mutant], count: int, *, seed: int) -> list[Mutant]:
    """So many of them (all, where there are fewer), by a hash of seed and name: a changed line changes no other draw."""
    return sorted(mutants, key=lambda each: hashlib.sha256(f"{seed} {each.name}".encode()).digest())[:count]


def _changed(node: Any) -> Iterator[Any]:
    """A node with one change each, in itself or in what is below it."""
    import libcst
    from mutmut.mutation.mutators import mutation_operators

    if isinstance(node, libcst.Annotation | libcst.Decorator | libcst.Import | libcst.ImportFrom) or _is_never_run(node):
        return
    if isinstance(node, libcst.Call) and isinstance(node.func, libcst.Name) and node.func.value in UNTOUCHED_CALLS:
        return
    for kind, operator in mutation_operators:
        if isinstance(node, kind):
            yield from (changed for changed in operator(node) if _description(changed) is _description(node))
    for each in fields(node):
        held = getattr(node, each.name)
        if isinstance(held, libcst.CSTNode):
            yield from (node.with_changes(**{each.name: changed}) for changed in _changed(held))
        elif isinstance(held, Sequence) and not isinstance(held, str):
            for number, one in enumerate(held):
                if isinstance(one, libcst.CSTNode):
                    yield from (
                        node.with_changes(**{each.name: [*held[:number], changed, *held[number + 1 :]]})
                        for changed in _changed(one)
                    )


def _is_never_run(node: Any) -> bool:
    """A description of a parameter or the paper of a method, read by people as docstrings are, or the name of a type."""
    import libcst
    import libcst.matchers as m

    return (isinstance(node, libcst.Arg) and m.matches(node, m.Arg(keyword=m.Name("description")))) or (
        isinstance(node, libcst.AnnAssign)
        and m.matches(node, m.AnnAssign(target=m.Name("paper")) | m.AnnAssign(annotation=m.Annotation(m.Name("TypeAlias"))))
    )


def _description(node: Any) -> Any:
    """The argument of a call that describes a parameter."""
    return next((each for each in getattr(node, "args", ()) if _is_never_run(each)), None)


def _mutant(module: str, source: str, mutated: str) -> Mutant | None:
    """What differs in words; None where nothing does."""
    mine, theirs = source.splitlines(), mutated.splitlines()
    if mine == theirs:
        return None
    least = min(len(mine), len(theirs))
    first = next((number for number in range(least) if mine[number] != theirs[number]), least)
    last = next((number for number in range(least - first) if mine[-1 - number] != theirs[-1 - number]), least - first)
    ends = len(mine) - last, len(theirs) - last
    return Mutant(module, first + 1, _told(mine[first : ends[0]]), _told(theirs[first : ends[1]]), mutated)


def _told(lines: Sequence[str]) -> str:
    return " ".join(" ".join(lines).split())


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True
