"""An example of every key of a plan, for editors to write down and for `explain` to show; they stand in `examples.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from compressor.plan.yaml_source import read_yaml

FILE = Path(__file__).with_suffix(".yaml")


def example_of(part: type[BaseModel], key: str) -> Any:
    """An example of a key, or None where there is none."""
    return next((_examples()[each.__name__][key] for each in part.__mro__ if key in _examples().get(each.__name__, {})), None)


def whole() -> Mapping[str, Any]:
    """By section of a plan, the least that says something."""
    return _examples()["Plan"]


@cache
def _examples() -> Mapping[str, Mapping[str, Any]]:
    found, _ = read_yaml(FILE.read_bytes(), FILE.name)
    examples: Mapping[str, Mapping[str, Any]] = found.plain()
    return examples
