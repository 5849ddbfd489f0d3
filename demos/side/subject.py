"""What a page is about: one or two models, what they are fed, and what may be tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from demos.side.process import Side


@dataclass(frozen=True)
class Example:
    """Something to try, as the list of examples names it."""

    name: str
    given: Any
    """A text, a list of texts, the path of a file, or `label` and `seed` of a picture to draw."""


@dataclass(frozen=True)
class Subject:
    """What a page is about."""

    title: str
    kind: Literal["text", "image", "audio", "arrays", "seed"]
    """What a user gives; of `arrays` nobody says, so a text or a file; of `seed` a class and a seed, of which a picture is drawn."""
    sides: Sequence[Side]
    """The model before compression, where it is there, and the compressed one last."""
    about: Sequence[str]
    """Of each side, what stands below its name."""
    texts: Sequence[str] = ("text",)
    """Names of the texts that are asked for."""
    classes: Sequence[str] = ()
    """Names of the classes that pictures are drawn of."""
    generates: bool = False
    examples: Sequence[Example] = ()
    note: str = ""
    """Why there is only one model, say."""
    reported: str = ""
    """The ratio that the report measured."""
    check: Callable[[Any], str] = lambda _: ""
    """Why what was given is refused, beyond the bounds of this page; empty where it is taken. Raises nothing."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(side.name for side in self.sides)

    def close(self) -> None:
        """End the processes of the models."""
        for side in self.sides:
            side.close()
