"""Which columns hold what a language model reads: texts, prompts with their completions, or chats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compressor.errors import SourceError
from compressor.tasks.language.chats import SPEAKS
from compressor.tasks.reading import values_of

if TYPE_CHECKING:
    from datasets import Dataset

    from compressor.tasks.language.chats import Template

ROLES = ("system", "user", "assistant", "tool", "developer")


@dataclass(frozen=True)
class Content:
    """Names of columns; one of three ways is taken."""

    text: str = ""
    prompt: str = ""
    completion: str = ""
    messages: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are read."""
        return tuple(name for name in (self.messages, self.prompt, self.completion, self.text) if name)

    @property
    def answers(self) -> bool:
        """Whether a document answers something, so that a part of it counts only."""
        return not self.text

    def pieces(self, rows: Dataset, template: Template | None) -> Iterator[list[tuple[str, bool]]]:
        """Of each row its texts in order, and whether their tokens count."""
        if template is not None:
            yield from (template.pieces(messages_of(found)) for found in values_of(rows, self.messages))
        elif self.prompt:
            for asked, answered in zip(values_of(rows, self.prompt), values_of(rows, self.completion), strict=True):
                yield [(asked, False), (answered, True)]
        else:
            yield from ([(text, True)] for text in values_of(rows, self.text))

    def check(self, value: Any, where: str) -> None:
        """Refuse what is none of what the column should hold.

        Raises:
            SourceError: `value`, which stands at `where`, is none.
        """
        if not self.messages:
            if not isinstance(value, str):
                raise SourceError(f"{where} holds {value!r:.40} ({type(value).__name__}), expected texts")
            return
        if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
            raise SourceError(f"{where} holds {value!r:.40}, expected a list of messages: {{role, content}}")
        for each in messages_of(value):
            if each.get("role") not in ROLES or not isinstance(each.get("content"), str):
                raise SourceError(
                    f"{where} holds the message {each!r:.60}: expected a role ({', '.join(ROLES)}) and a text as content"
                )
        if not any(each["role"] == SPEAKS for each in value):
            raise SourceError(f"{where} has no turn of the {SPEAKS}: nothing in it counts")


def messages_of(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages as they were written: a table fills fields that other rows have with nothing."""
    return [{name: value for name, value in each.items() if value is not None} for each in found]
