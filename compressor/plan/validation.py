"""Located values against typed parameters: what pydantic finds, said with file, line, what was found and what was expected."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from compressor.contracts.described import descriptions
from compressor.contracts.step import renamings
from compressor.errors import Fault, PluginError, did_you_mean
from compressor.plan.yaml_source import Located

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], value: Located, where: str, *, what: str = "key") -> tuple[Model | None, tuple[Fault, ...]]:
    """Parse `value` without any coercion (`"3"` is not 3, true is not 1).

    Args:
        model: the class whose fields are the known keys.
        value: a mapping; null stands for an empty one.
        where: how messages call it.
        what: what its keys are called: `key`, `parameter`.

    Returns:
        The parsed value and all faults. Where faults lie in single fields, the value is the one without them,
        so that what else it says can still be checked; None where even that does not parse.
    """
    if value.data is None:
        value = replace(value, data={})
    if not isinstance(value.data, dict):
        return None, (value.fault(where, f"found {value}, expected a mapping of {what}s{did_you_mean('', _fields(model))}"),)
    value, twice = _by_new_names(model, value, where)
    if twice:
        return None, twice
    try:
        return _parsed(model, value.items()), ()
    except ValidationError as error:
        faults = _faults(model, value, where, what, error.errors(include_url=False))
        rest = {
            key: kept
            for key, kept in value.items().items()
            if key not in {entry["loc"][0] for entry in error.errors() if entry["loc"]}
        }
    except PluginError as error:
        return None, (value.fault(where, str(error)),)
    except (TypeError, LookupError, ArithmeticError, AttributeError) as error:  # a plug-in's own check is at fault
        return None, (value.fault(where, f"its check of the {what}s broke: {type(error).__name__}: {error}"),)
    try:
        return _parsed(model, rest), faults
    except (ValidationError, PluginError, TypeError, LookupError, ArithmeticError, AttributeError):
        return None, faults


def notices(model: type[BaseModel], value: Located, where: str) -> tuple[str, ...]:
    """A line for each old name that a plan still uses."""
    known = renamings(model)
    return tuple(
        f"{at.file}:{at.line}: {where}.{key} is called {known[key]} now; the old name will go"
        for key, at in value.items().items()
        if key in known
    )


def _by_new_names(model: type[BaseModel], value: Located, where: str) -> tuple[Located, tuple[Fault, ...]]:
    known, given = renamings(model), value.items()
    twice = tuple(
        given[old].fault(f"{where}.{old}", f"is the old name of {new}, which is given too: leave {old} out")
        for old, new in known.items()
        if old in given and new in given
    )
    return replace(value, data={known.get(key, key): at for key, at in given.items()}), twice


def _parsed(model: type[Model], entries: Mapping[str, Located]) -> Model:
    plain = {key: value.plain() for key, value in entries.items()}
    return model.model_validate_json(json.dumps(plain), strict=True)


@dataclass(frozen=True)
class _Found:
    """One error of pydantic's, found again in the file."""

    error: ErrorDetails
    at: Located
    path: str
    key: str | None
    """The key itself, where it is at fault and not its value."""
    in_union: bool

    def below(self, path: str) -> bool:
        return self.path.startswith((f"{path}.", f"{path}["))


def _faults(model: type[BaseModel], value: Located, where: str, what: str, errors: Iterable[ErrorDetails]) -> tuple[Fault, ...]:
    placed = [_place(error, value, where) for error in errors]
    found = [
        one for one in placed if not (isinstance(one.at.data, float) and not math.isfinite(one.at.data))
    ]  # told by the reader
    # a variant of a union that has got further into the value says what is wrong; the others only say that they are not meant
    # and so does an item over the length of its list
    vague = [one for one in found if one.in_union or one.error["type"] == "too_short"]
    telling = [one for one in found if not (one in vague and any(other.below(one.path) for other in found))]
    messages: dict[tuple[str, int, str], list[str]] = {}
    for one in telling:
        phrases = messages.setdefault((one.at.file, one.at.line, one.path), [])
        phrases.append(_phrase(one, _known(model, one.error["loc"][:-1]), what))
    return tuple(Fault(*place, _joined(phrases)) for place, phrases in messages.items())


def _place(error: ErrorDetails, value: Located, where: str) -> _Found:
    """Follow the error's path through the file; parts that are not there name a variant of a union or what is missing."""
    in_union, key = False, None
    for part in error["loc"]:
        if isinstance(part, str) and part in value.items():
            value, where = value.items()[part], f"{where}.{part}" if where else part
        elif isinstance(part, int) and part < len(value.values()):
            value, where = value.values()[part], f"{where}[{part}]"
        elif error["type"] == "missing" and part == error["loc"][-1]:
            where = f"{where}.{part}" if where else str(part)
        else:
            in_union = True
    if error["type"] == "extra_forbidden":
        key = str(error["loc"][-1])
    elif error["loc"] and error["loc"][-1] == "[key]":
        key = str(error["loc"][-2])
    return _Found(error, value, where, key, in_union)


def _phrase(found: _Found, known: Mapping[str, str], what: str) -> str:
    error = found.error
    context = error.get("ctx", {})
    if error["type"] == "extra_forbidden":
        return f"no such {what}{did_you_mean(found.key or '', known)}"
    if error["type"] == "missing":
        described = known.get(str(error["loc"][-1]), "")
        return f"missing; expected {described[:1].lower()}{described[1:]}" if described else f"missing; this {what} is needed"
    if error["type"] in ("value_error", "assertion_error"):
        return " ".join(str(context["error"]).split())
    expected = _WORDING.get(error["type"]) or _worded(error["msg"])
    if error["type"] == "literal_error" and isinstance(found.key or found.at.data, str):
        expected += _near(found.key or str(found.at.data), str(context["expected"]))
    if error["type"] == "string_type" and isinstance(found.at.data, int | float):
        expected += " (put it in quotes)"
    return f"found {repr(found.key) if found.key else found.at}, expected {expected}"


_WORDING = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "finite_number": "a finite number",
    "none_required": "nothing (null)",
}


def _worded(message: str) -> str:
    """pydantic's sentence as what was expected: `String should have at least 1 character` is `text of at least 1 character`."""
    text = message.removeprefix("Input should be ")
    if text.startswith(("greater", "less")):
        return f"a number {text}"
    subject, separator, rest = text.partition(" should ")
    if not separator:
        return text
    subject = {"String": "text", "Tuple": "a list", "List": "a list", "Dictionary": "a mapping"}.get(subject, subject)
    verb, _, rest = rest.partition(" ")
    rest = rest.partition(" after validation")[0]
    return f"{subject} of {rest}" if verb == "have" else f"{subject} to {verb} {rest}"


def _near(text: str, expected: str) -> str:
    near = did_you_mean(text, re.findall(r"'([^']*)'", expected))
    return near if "did you mean" in near else ""


def _joined(phrases: list[str]) -> str:
    """One message for one place: the variants of a union become `expected a number or a mapping`."""
    first, *others = dict.fromkeys(phrases)
    start, separator, _ = first.partition(", expected ")
    if separator and all(other.startswith(start + separator) for other in others):
        return " or ".join([first, *(other.removeprefix(start + separator) for other in others)])
    return "; ".join([first, *others])


def _known(model: type[BaseModel], path: Iterable[int | str]) -> dict[str, str]:
    """Keys that may stand at a path, each with its description."""
    models = [model]
    for part in path:
        inner = [found for each in models for found in _models_in(_fields(each).get(str(part), (None, ""))[0])]
        named = [each for each in models if each.__name__ == part]
        models = inner or named or models
    return {key: description for each in models for key, (_, description) in _fields(each).items()}


def _fields(model: type[BaseModel]) -> dict[str, tuple[Any, str]]:
    said = descriptions(model)
    return {field.alias or name: (field.annotation, said[name]) for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
