"""The loading example that is shipped with a model: a short script that knows nothing of this project."""

from __future__ import annotations

import json
from pathlib import Path

from compressor.export.spec import Deployed
from compressor.tasks.preprocessing import TEXT_INPUTS

READERS = {"text": " tokenizers", "image": " pillow", "audio": " soundfile soxr", "arrays": ""}
"""What the example needs to read what it is given."""
ARGUMENTS = {"text": '"some text"', "image": "picture.jpg", "audio": "sound.wav", "arrays": "inputs.npz"}
"""What the example is called with."""


def requirements(deployed: Deployed) -> str:
    """What `pip install` needs for the example, or for the model alone where there is none."""
    if deployed.needs_this_project:
        return "compressor-toolchain[audio]" if deployed.how.kind == "audio" else "compressor-toolchain"
    if deployed.no_example:
        return " ".join(deployed.runtime.packages)
    return f"numpy{READERS[deployed.how.kind]} {' '.join(deployed.runtime.packages)}"


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
    return environment.get_template("example.py.jinja").render(
        d=deployed,
        p=deployed.preprocessing,
        kind=deployed.how.kind,
        given=ARGUMENTS[deployed.how.kind],
        requirements=requirements(deployed),
        settings=dict(deployed.runtime.settings),
        providers=[*(["CUDAExecutionProvider"] if _on_gpu(deployed) else []), "CPUExecutionProvider"],
        names={port.name: TEXT_INPUTS.get(port.name, "") for port in deployed.inputs},
        dtype=deployed.inputs[0].dtype,
        output=deployed.outputs[0].name,
        features=not deployed.classes,
    )


def _quoted(value: object) -> str:
    """A literal of strings, lists and dictionaries: what JSON writes of them is Python too."""
    return json.dumps(value, ensure_ascii=False)


def _on_gpu(deployed: Deployed) -> bool:
    return "cuda" in deployed.candidate.facts.get("device", "").lower()
