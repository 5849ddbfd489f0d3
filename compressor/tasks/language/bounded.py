"""Templates of others, bounded in what they may compute.

Jinja's sandbox keeps them from reaching anything, and lets them loop for ever, fill the memory, and ask for the date.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST_STEPS = 5_000_000
"""Rounds of loops, calls, and hundreds of characters or items made in one rendering, all together: a few seconds, and some hundred MB at worst."""
MOST_SIZE = 100_000_000
"""Characters or bits that one operation may make."""
WIDE = re.compile(r"\d{7,}")
"""A width, in how a value is to be written, that nobody needs."""
DAY = datetime(2024, 7, 26)
"""What templates of Llama say themselves where they cannot ask."""
BY_CHANCE = ("random", "lipsum")
"""Filters and functions whose answers differ from call to call."""
COUNTED, WRITTEN, PLAIN, MADE = "counted", "written", "plain", "made"


class TooMuchWork(Exception):
    """A template computes more than any chat needs."""


_left: ContextVar[int] = ContextVar("steps that a template has left")


@contextmanager
def steps(most: int = MOST_STEPS) -> Iterator[None]:
    """While one text is rendered."""
    token = _left.set(most)
    try:
        yield
    finally:
        _left.reset(token)


def _spend(count: int) -> None:
    left = _left.get(MOST_STEPS) - count
    if left < 0:
        raise TooMuchWork("it loops, or writes, more often than any chat needs")
    _left.set(left)


def _size(value: Any) -> int:
    """Of a text its characters, of a list those in it and its items, of a number itself: as many blanks may be asked for."""
    if isinstance(value, list | tuple):
        return sum(len(each) if isinstance(each, str) else 1 for each in value)
    return abs(value) if isinstance(value, int) else len(value) if isinstance(value, str) else 1


def _check_product(first: int, second: int) -> None:
    if first * second > MOST_SIZE:
        raise TooMuchWork("it makes a text or number that is longer than any chat needs")


def _check_sizes(first: Any, *others: Any) -> None:
    """Refuse what could make each sign of a value as long as something that is given with it."""
    _check_product(1 if isinstance(first, int) else _size(first), max((1, *map(_size, others))))


def _check_widths(text: Any) -> None:
    if isinstance(text, str) and WIDE.search(text):
        raise TooMuchWork("it asks for a text that is wider than any chat needs")


def _made(value: Any) -> Any:
    """A value once it was computed: a text is counted."""
    _spend(1 + (len(value) // 100 if isinstance(value, str | list | tuple) else 0))
    return value


# a filter that takes the context is not called while a template is compiled


@pass_context
def _counted(_context: Any, value: Any) -> list[Any]:
    """What a loop goes over."""
    found = list(value)
    _spend(len(found))
    return found


@pass_context
def _written(_context: Any, value: Any) -> str:
    """What is written of a value."""
    text: str = _made(value if isinstance(value, str) else str(value))
    return text


@pass_context
def _plain(_context: Any, count: int) -> str:
    """Of so many characters that a template writes as they stand in it."""
    _spend(1 + count // 100)
    return ""


@pass_context
def _joined(_context: Any, value: Any) -> Any:
    return _made(value)


def _listed(values: Iterable[Any]) -> list[Any]:
    """Values with those in full that are made one by one."""
    return [list(each) if isinstance(each, Iterator) else each for each in values]


def _measured(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose values are looked at first."""

    @wraps(function)
    def measured(*given: Any, **named: Any) -> Any:
        values = _listed(given)
        own = values[1:] if hasattr(function, "jinja_pass_arg") else values  # the first is the template's context there
        _check_sizes(*own, *named.values())
        if name == "format":
            _check_widths(own[0])
        return _made(function(*values, **named))

    return measured


def _dated(how: str) -> str:
    """A day that is always the same: a text that says today's would be another one tomorrow, under the key of the first."""
    _check_widths(how)
    return DAY.strftime(how)


class _Counting(NodeTransformer):
    """Has each loop, each text that is written and each one that is joined pass a filter of ours."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - as the library calls it
        self.generic_visit(node)
        node.iter = _through(node.iter, COUNTED)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        self.generic_visit(node)
        plain = sum(len(each.data) for each in node.nodes if isinstance(each, nodes.TemplateData))
        told = [each if isinstance(each, nodes.TemplateData) else _through(each, WRITTEN) for each in node.nodes]
        node.nodes = [_through(nodes.Const(plain, lineno=node.lineno), PLAIN), *told]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _through(node, MADE)


def _through(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class Bounded(ImmutableSandboxedEnvironment):
    """The library's sandbox, with all that grows counted."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        found: nodes.Template = _Counting().visit(super()._parse(source, name, filename))
        found.set_environment(self)
        return found

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse numbers and texts without bound before they are made."""
        if operator == "%":
            _check_widths(left)
        elif operator == "**":
            _check_product(int(left).bit_length(), int(right))
        elif isinstance(left, int) and isinstance(right, int):
            _check_product(left.bit_length() + right.bit_length(), 1)
        elif operator == "*":
            _check_product(_size(left), _size(right))
        else:
            _check_product(_size(left) + _size(right), 1)
        return _made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, /, *values: Any, **named: Any) -> Any:
        """Count it; of a text's own methods look at the sizes too."""
        if isinstance(owner := getattr(function, "__self__", None), str):
            values = tuple(_listed(values))
            _check_sizes(owner, *values, *named.values())
            if getattr(function, "__name__", "") in ("format", "format_map"):
                _check_widths(owner)
        return _made(super().call(context, function, *values, **named))


@lru_cache(maxsize=8)
def compiled(source: str) -> Any:
    """A template in the library's environment (its tags, filters and functions), bounded.

    Raises:
        jinja2.TemplateError: it is none.
    """
    from transformers.utils import chat_template_utils as library

    compile_: Any = library._compile_jinja_template
    environment: Any = compile_("").environment
    if not isinstance(environment, Bounded):  # once: the library keeps what it compiled
        environment.__class__ = Bounded
        own = {COUNTED: _counted, WRITTEN: _written, PLAIN: _plain, MADE: _joined}
        kept = {name: _measured(name, each) for name, each in environment.filters.items() if name not in BY_CHANCE}
        environment.filters = kept | own
        functions = {name: each for name, each in environment.globals.items() if name not in BY_CHANCE}
        environment.globals = functions | {"strftime_now": _dated}
    return environment.from_string(source)
