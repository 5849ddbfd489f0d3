"""Runs the example of an exported folder on rows, in a process of its own that cannot import this project.

Started by its path, so nothing is imported but the standard library and what the example itself asks for:
`python -I driver.py FOLDER TASK.json`, where the task names the rows, where to write, and modules that must not be found.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any


class Barred:
    """Finds no module of this project."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002 - the interpreter's own signature
        """Refuse a module that an export may not need."""
        if name.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named '{name}': it is of the project that wrote this folder", name=name)


def opened(folder: Path) -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("example", folder / "example.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(folder: Path, task: dict[str, Any]) -> None:
    """Run every row alone, and write inputs, outputs and what is told of them."""
    sys.meta_path.insert(0, Barred(task["barred"]))
    example = opened(folder)
    import numpy as np

    arrays: dict[str, Any] = {}
    told = {}
    for row, given in task["rows"]:
        feed = example.inputs(given)
        found = example.outputs(feed)
        told[row] = example.told(found)
        arrays |= {f"{row}/outputs": found, **{f"{row}/inputs/{name}": array for name, array in feed.items()}}
    np.savez(task["arrays"], **arrays)
    Path(task["told"]).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
