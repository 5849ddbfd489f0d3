"""Parameters that describe themselves by the docstrings below them, read only when somebody asks what they mean.

pydantic's own `use_attribute_docstrings` reads them when a class is made, for which it parses the class's source: a third of the time in which all
plug-ins are imported, in every process that starts.
"""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema


class Described(BaseModel):
    """A model whose JSON Schema says of each field what the docstring below it says, unless the field has a description."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> JsonSchemaValue:
        """As pydantic makes it, with the descriptions."""
        schema = handler(core_schema)
        fields = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in descriptions(cls).items():
            known = fields.get(cls.model_fields[name].alias or name)
            if text and known is not None:
                known.setdefault("description", text)
        return schema


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Of each field of a model: its description, else the docstring below it in the class that declares it last, else nothing."""
    below = {name: text for each in reversed(model.__mro__) for name, text in _docstrings(each).items()}
    return {name: field.description or below.get(name, "") for name, field in model.model_fields.items()}


@cache
def _docstrings(made: type) -> dict[str, str]:
    """Of the names that a class annotates; none where its source is not to be had, as of what was typed into a shell."""
    if not issubclass(made, BaseModel) or made is BaseModel:
        return {}
    try:
        source = inspect.getsource(made)
        (found,) = ast.parse(f"if True:\n{source}" if source[0].isspace() else source).body
    except (OSError, TypeError, SyntaxError):
        return {}
    body = found.body[0] if isinstance(found, ast.If) else found
    below = pairwise(body.body) if isinstance(body, ast.ClassDef) else ()
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in below
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
