"""Chats become texts by the template that lies beside a model: text of others, run in a sandbox that can reach nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import SourceError
from compressor.files import text_in
from compressor.foreign import told
from compressor.model.sources import gguf_in, read_json
from compressor.tasks.tokenization import TOKENIZER_CONFIG, read_tokenizer

TEMPLATE = "chat_template.jinja"
DEFAULT = "default"
"""What the template is called where a tokenizer has several, for tools say."""
SPEAKS = "assistant"
"""Whose turns count."""
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
"""Tokens that templates name."""


@dataclass(frozen=True)
class Template:
    """A chat's template, and the tokens that it names."""

    source: str
    tokens: Mapping[str, str]

    def rendered(self, messages: Sequence[Mapping[str, Any]], *, asks: bool) -> str:
        """The text of a chat; with `asks` the beginning of the next answer stands at its end.

        It is compiled in jinja's immutable sandbox, bounded: no attribute of Python's can be reached, nothing is changed, work and size
        have an end, and the date is always the same.

        Raises:
            SourceError: the template does not take the chat, or computes more than any chat needs.
        """
        from transformers.utils import chat_template_utils as library

        from compressor.tasks.language.bounded import compiled, steps

        reasoned: Any = library._alias_reasoning_fields
        given = {"messages": reasoned([dict(each) for each in messages]), "tools": None, "documents": None, **self.tokens}
        try:
            with steps():
                return str(compiled(self.source).render(**given, add_generation_prompt=asks))
        except Exception as error:  # what a template of others raises can be anything
            raise SourceError(f"the chat template does not take {messages!r:.80}: {told(error)}") from error

    def pieces(self, messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
        """The chat's text in parts: what is said before each answer as the model is asked, and the answer, which counts.

        Raises:
            SourceError: the template writes the beginning of a chat otherwise once it goes on.
        """
        found: list[tuple[str, bool]] = []
        done = ""
        for number, message in enumerate(messages):
            if message["role"] != SPEAKS:
                continue
            asked, answered = self.rendered(messages[:number], asks=True), self.rendered(messages[: number + 1], asks=False)
            if not (asked.startswith(done) and answered.startswith(asked)):
                raise SourceError(
                    f"the chat template writes the turns before message {number + 1} otherwise when it goes on, so that what counts "
                    "cannot be told: give each answer as prompt and completion"
                )
            found += [(asked[len(done) :], False), (answered[len(asked) :], True)]
            done = answered
        return [each for each in found if each[0]]

    def around(self) -> tuple[str, str]:
        """What stands before and after the one message of a user who asks.

        Raises:
            SourceError: the template does not take such a chat, or changes the message.
        """
        mark = "MESSAGE"
        text = self.rendered([{"role": "user", "content": mark}], asks=True)
        if text.count(mark) != 1:
            raise SourceError("the chat template does not write a user's message as it is")
        before, _, after = text.partition(mark)
        return before, after


def template_in(folder: Path) -> Template:
    """The template beside a model.

    Raises:
        SourceError: there is none.
    """
    if gguf_in(folder):
        tokenizer = read_tokenizer(folder)
        config = {**tokenizer.special_tokens_map, "chat_template": tokenizer.chat_template}
    else:
        config = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    path = folder / TEMPLATE
    source = _read(path) if path.is_file() else the_one(config.get("chat_template"))
    if source is None:
        raise SourceError(f"{folder} has no chat template ({TEMPLATE}): give the rows as prompt and completion, or as texts")
    tokens = {name: _spelled(config[name]) for name in SPECIAL if config.get(name)}
    return Template(source, tokens)


def the_one(given: Any) -> str | None:
    """The template of chats among those that a tokenizer has: the only one, or of several by name the one called default."""
    if isinstance(given, list):
        given = {each.get("name"): each.get("template") for each in given if isinstance(each, Mapping)}
    found = given.get(DEFAULT) if isinstance(given, Mapping) else given
    return found if isinstance(found, str) else None


def _read(path: Path) -> str:
    try:
        return text_in(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read: {told(error)}") from error


def _spelled(token: Any) -> str:
    return str(token["content"] if isinstance(token, Mapping) else token)
