"""A folder of a hosted demo: exported models, and what the page says of them; served without the project that wrote it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from demos.side.page import LOOPBACK, await_end, heading, served, uploads
from demos.side.process import Command, Side
from demos.side.subject import Example, Subject

PAGE = "page.json"
"""What the page says: names and folders of the models, what they are given, examples."""


def subject_of(folder: Path, media: Path) -> Subject:
    """Both models of the folder, in processes of their own; `media` takes the pictures and sounds that the page offers."""
    found: dict[str, Any] = json.loads((folder / PAGE).read_text(encoding="utf-8"))
    return Subject(
        title=found["title"],
        kind=found["kind"],
        sides=[Side(each["name"], Command.of_export(folder / each["folder"], each["threads"])) for each in found["models"]],
        about=[each["about"] for each in found["models"]],
        texts=found["texts"],
        classes=found["classes"],
        generates=found["generates"],
        examples=[Example(each["name"], _given(folder, each, media)) for each in found["examples"]],
        note=found["note"],
        reported=found["reported"],
    )


def _given(folder: Path, example: dict[str, Any], media: Path) -> Any:
    if "file" not in example:
        return example["given"]
    return shutil.copyfile(folder / example["file"], media / Path(example["file"]).name)


def serve(folder: Path) -> None:
    """Serve the page until it is ended; where a host says at which address, there."""
    with uploads() as media:
        from demos.side.panel import side_by_side

        shown = subject_of(folder, media)
        said = json.loads((folder / PAGE).read_text(encoding="utf-8"))["summary"]

        def draw() -> None:
            heading(shown.title, said)
            side_by_side(shown)

        host, port = os.environ.get("GRADIO_SERVER_NAME", LOOPBACK), os.environ.get("GRADIO_SERVER_PORT")
        with served(shown.title, draw, host=host, port=int(port) if port else None) as address:
            print(address, flush=True)  # noqa: T201 - it is a program of its own there
            try:
                await_end()
            finally:
                shown.close()
