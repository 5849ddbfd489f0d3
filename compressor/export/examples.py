"""The loading example that is shipped with a model: a short script that knows nothing of this project."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from compressor.export.spec import Deployed

READERS = {"text": " tokenizers", "image": " pillow", "audio": " soundfile soxr", "arrays": ""}
"""What the example needs to read what it is given."""
ARGUMENTS = {"text": '"some text"', "image": "picture.jpg", "audio": "sound.wav", "arrays": "inputs.npz"}
"""What the example is called with."""
PAIR = '"first text" "second text"'
DRAWN, SOUNDED = "grid.png", "sounds.wav"
OURS = "from compressor."
"""What imports of modules begin with that are written into the example whole."""
FUTURE = "from __future__ import annotations"


def requirements(deployed: Deployed) -> str:
    """What `pip install` needs for the example, or for the model alone where there is none."""
    if deployed.needs_this_project:
        return "compressor-toolchain[audio]" if deployed.how.kind == "audio" else "compressor-toolchain"
    if deployed.no_example:
        return " ".join(deployed.runtime.packages)
    reader = READERS[deployed.how.kind]
    if draws := deployed.how.draws:
        reader = "" if "sound" in draws else READERS["image"]
    return f"numpy{reader} {' '.join(deployed.runtime.packages)}"


def arguments(deployed: Deployed) -> str:
    """What the example is called with."""
    if draws := deployed.how.draws:
        return SOUNDED if "sound" in draws else DRAWN
    return PAIR if deployed.how.pair else ARGUMENTS[deployed.how.kind]


def example(deployed: Deployed) -> str:
    """The text of `example.py`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # a script is no HTML: texts that are not ours are written as literals by `quoted`
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = _quoted
    reader = _reader(deployed)
    return environment.get_template(_template(deployed)).render(
        d=deployed,
        auto=_auto(deployed),
        p=deployed.preprocessing,
        kind=deployed.how.kind,
        given=arguments(deployed),
        pair=deployed.how.pair,
        requirements=requirements(deployed),
        settings=dict(deployed.runtime.settings),
        providers=[*(["CUDAExecutionProvider"] if _on_gpu(deployed) else []), "CPUExecutionProvider"],
        imports=partial(_imports, reader),
        source=reader.code if reader else "",
        names=[port.name for port in deployed.inputs],
        takes={graph.name: [port.name for port in graph.fed] for graph in deployed.graphs},
        dtype=deployed.inputs[0].dtype,
        output=deployed.outputs[0].name,
        classes=deployed.classes,
        number=deployed.how.number,
        several=deployed.how.threshold is not None,
        features=not (deployed.classes or deployed.how.number),
        state=deployed.graphs[0].state,
        past=[port for port in deployed.inputs if port.name in {name for _, name in deployed.graphs[0].state}],
    )


def _template(deployed: Deployed) -> str:
    if deployed.how.draws:
        return "draw.py.jinja"
    return "example.py.jinja" if deployed.how.generates is None else "generate.py.jinja"


@dataclass(frozen=True)
class _Reader:
    """What makes inputs of one kind, cut into its imports and the rest."""

    imports: tuple[str, ...]
    code: str


def _reader(deployed: Deployed) -> _Reader | None:
    """The code that makes inputs of what a user has, as the run had it; none where inputs are given."""
    if draws := deployed.how.draws:
        names = ["sampling", *(["mel", "spectra"] if "sound" in draws else [])]
    elif deployed.how.kind == "arrays":
        return None
    else:
        names = ["generation" if deployed.how.generates is not None else deployed.how.kind]
        names = ["mel", *names] if names == ["audio"] else names
    parts = [_code(name) for name in names]
    imports = dict.fromkeys(line for part in parts for line in part.imports if not line.startswith(OURS))
    return _Reader(tuple(imports), "\n\n\n".join(part.code for part in parts))


def _code(name: str) -> _Reader:
    """A module of `compressor.tasks.inputs`, without its docstring."""
    text = (files("compressor.tasks.inputs") / f"{name}.py").read_text(encoding="utf-8")
    (_, *others), lines = ast.parse(text).body, text.splitlines()
    imported = [node for node in others if isinstance(node, ast.Import | ast.ImportFrom)]
    written = tuple("\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in imported)
    return _Reader(written, "\n".join(lines[imported[-1].end_lineno or 0 :]).strip())


def _imports(reader: _Reader | None, needed: Sequence[str], after: Sequence[str] = ()) -> str:
    """Lines that import what the example needs, the standard library's first, and `after` them what must precede all others."""
    lines = {"import json", "import sys", "from pathlib import Path", "import numpy as np", *needed}
    lines |= set(reader.imports if reader else ()) - {FUTURE}
    plain, others = (sorted((each for each in lines if _standard(each) is kind), key=_order) for kind in (True, False))
    return "\n".join([*([FUTURE, ""] if reader else []), *plain, *after, "", *others])


def _auto(deployed: Deployed) -> str:
    """The class of transformers that opens a torch model."""
    return deployed.loader.rpartition(".")[2] or "AutoModel"


def _standard(line: str) -> bool:
    return line.split()[1].partition(".")[0] in sys.stdlib_module_names


def _order(line: str) -> tuple[bool, str]:
    """`import` before `from`, by name."""
    return line.startswith("from"), line.split()[1]


def _quoted(value: object) -> str:
    """A literal of strings, lists and dictionaries: what JSON writes of them is Python too."""
    return json.dumps(value, ensure_ascii=False)


def _on_gpu(deployed: Deployed) -> bool:
    return "cuda" in deployed.candidate.facts.get("device", "").lower()
