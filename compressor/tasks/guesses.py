"""Which columns of rows a task most likely reads: by what they hold and by their usual names; what is not clear is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compressor.contracts import Seen
from compressor.contracts.recipe import ColumnKind
from compressor.errors import SourceError

TEXTS = ("text", "sentence", "content", "document", "body", "review", "comment", "message", "tweet", "question", "utterance")
LABELS = ("label", "labels", "class", "category", "target", "intent", "sentiment", "topic")
NUMBERS = ("score", "label", "similarity", "rating", "target", "value", "stars")
PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("question1", "question2"),
    ("question", "answer"),
    ("first", "second"),
)
"""Names that the two texts of a row often have."""


def texts(seen: Seen) -> tuple[dict[str, Any], str] | None:
    """The parameter `text` of a task on texts, and why; None where no column holds texts.

    Raises:
        SourceError: several columns could be meant.
    """
    if seen.content:
        _check_two(seen.content)
        two = len(seen.content) > 1
        return {"text": list(seen.content) if two else seen.content[0]}, f"{_quoted(seen.content)}, as you say"
    there = seen.of("text")
    if not there:
        return None
    pair = next((names for names in PAIRS if sorted(names) == sorted(name.casefold() for name in there)), None)
    if pair:
        named = [next(name for name in there if name.casefold() == one) for one in pair]
        return {"text": named}, f"pairs of texts in {_quoted(named)}, by their names"
    found, why = seen.one(there, TEXTS, what="text", option="--text")
    return {"text": found}, f"texts in '{found}' ({why})"


def content(seen: Seen, kind: ColumnKind, what: str) -> tuple[str, str] | None:
    """The column of pictures or sounds, and why; None where there is none.

    Raises:
        SourceError: several could be meant.
    """
    there = seen.of(kind)
    if not there:
        return None
    if seen.content:
        if len(seen.content) > 1 or seen.content[0] not in there:
            raise SourceError(f"--text names {_quoted(seen.content)}, and {what}s are in {_quoted(there)}")
        return seen.content[0], f"{what}s in '{seen.content[0]}', as you say"
    found, why = seen.one(there, (kind, "image", "audio"), what=what, option="--text")
    return found, f"{what}s in '{found}' ({why})"


def classes(seen: Seen, taken: tuple[str, ...]) -> tuple[str, str] | None:
    """The column of one label for each row, and why; None where none holds classes.

    Raises:
        SourceError: several could be meant.
    """
    if seen.label:
        known = len(seen.label) == 1 and (seen.asked or seen.label[0] in seen.of("class", "bits"))
        return (seen.label[0], f"labels in '{seen.label[0]}', as you say: {seen.told(seen.label[0])}") if known else None
    there = tuple(name for name in seen.of("class", "bits") if name not in taken)
    if not there:
        return None
    found, why = _of_the_head(seen, there) or seen.one(there, LABELS, what="label", option="--label")
    return found, f"labels in '{found}' ({why}): {seen.told(found)}"


def _of_the_head(seen: Seen, there: tuple[str, ...]) -> tuple[str, str] | None:
    """The one column whose words are names of the classes that a trained head tells apart, and why; None where there is none."""
    declared = seen.config.get("id2label")
    names = set(map(str, declared.values())) if isinstance(declared, Mapping) else set()
    fitting = [each.name for each in seen.columns if each.name in there and each.values and names.issuperset(each.values)]
    return (fitting[0], "its words are the classes of the model's head") if len(fitting) == 1 else None


def many_labels(seen: Seen, taken: tuple[str, ...]) -> tuple[dict[str, Any], str] | None:
    """Parameters of rows with any number of labels, and why: a column of lists, or several of 0 and 1."""
    lists, bits = seen.of("labels"), tuple(name for name in seen.of("bits") if name not in taken)
    if seen.label:
        if len(seen.label) == 1 and seen.label[0] in lists:
            return {"label": seen.label[0], "multi_label": True}, f"lists of labels in '{seen.label[0]}', as you say"
        many = len(seen.label) > 1
        return ({"label": list(seen.label), "multi_label": True}, f"a label in each of {_quoted(seen.label)}") if many else None
    if len(lists) == 1:
        return {"label": lists[0], "multi_label": True}, f"lists of labels in '{lists[0]}' (the only such column)"
    if len(bits) > 1 and not lists and not [name for name in seen.of("class") if name not in taken]:
        return {"label": list(bits), "multi_label": True}, f"a label in each of {_quoted(bits)}, which hold 0 and 1"
    return None


def numbers(seen: Seen, taken: tuple[str, ...]) -> tuple[str, str] | None:
    """The column of a number for each row, and why; None where there is none.

    Raises:
        SourceError: several could be meant.
    """
    if seen.label:
        known = len(seen.label) == 1 and (seen.asked or seen.label[0] in seen.of("number"))
        return (seen.label[0], f"numbers in '{seen.label[0]}', as you say") if known else None
    there = tuple(name for name in seen.of("number", *(("class", "bits") if seen.asked else ())) if name not in taken)
    if not there:
        return None
    found, why = seen.one(there, NUMBERS, what="number", option="--label")
    return found, f"numbers in '{found}' ({why}): {seen.told(found)}"


def _check_two(names: tuple[str, ...]) -> None:
    if len(names) > 2:
        raise SourceError(f"a row is one text or a pair of them, and --text is given {len(names)} times")


def _quoted(names: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown
