"""A folder for a host of Gradio programs: both models as exports, and the page without this project."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compressor.errors import StoreError, UnsupportedModel
from compressor.export import check_free, export
from compressor.export.examples import requirements
from compressor.files import json_in
from compressor.run.comparison import Run
from compressor.run.run_folder import REPORT
from demos.of_export import deployed_of
from demos.of_run import choose, labels, subject
from demos.rows import Rows
from demos.side.hosted import PAGE
from demos.side.subject import Subject

HERE = Path(__file__).parent
APP = '''"""Serves the page of this folder; it needs nothing but requirements.txt."""

from pathlib import Path

from demos.side.hosted import serve

if __name__ == "__main__":
    serve(Path(__file__).resolve().parent)
'''
README = """---
title: {title}
sdk: gradio
sdk_version: {version}
python_version: "{python}"
app_file: app.py
---

# {name}

{summary}

`pip install -r requirements.txt`, then `python app.py`. `before/` and `compressed/` are exports, each with its own `example.py`, checksums and
licence notes; `demos/` is the page.
"""


def write_space(run: Path, target: str | None, out: Path) -> Path:
    """Write the folder.

    Raises:
        StoreError: `run` is no run, or `out` is not empty.
        UnsupportedModel: a model has no example of its own, or one that needs this project.
        ExportDiffers: an export does not do what the run did.
    """
    if not (run / REPORT).is_file():
        raise StoreError(f"{run} is no run: a hosted demo is made of a run")
    check_free(out)
    chosen = choose(Run.read(run), target)
    kept = [each for each in (chosen.before, chosen.after) if each is not None]
    with ExitStack() as stack:
        media = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compressor-space-")))
        folders = ["before", "compressed"][-len(kept) :]
        for candidate, folder in zip(kept, folders, strict=True):
            export(run, chosen.target, media / folder, stage=candidate.stage)
            _check_alone(media / folder, candidate.id)
        before = chosen.before.id if chosen.before else ""
        rows = Rows.read(chosen.run, before, chosen.after.id, labels(chosen.built(chosen.after)), media)
        shown = subject(chosen, rows)
        stack.callback(shown.close)
        out.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            shutil.copytree(media / folder, out / folder)
        _page(shown, folders, chosen.run.report.summary, out)
        needed = {word for folder in folders for word in requirements(deployed_of(out / folder)).split()}
        _write(out, shown.title, chosen.run.report.summary, sorted(needed))
    return out


def _check_alone(folder: Path, name: str) -> None:
    """Refuse what an export cannot do by itself."""
    spec = json_in(folder / "spec.json")
    task, why = spec["task"], "" if (folder / "example.py").is_file() else "its export has no example"
    if not why and spec.get("takes") == "arrays" and "draws" not in spec:
        why = "no description says how it is fed"
    if not why and deployed_of(folder).needs_this_project:
        why = "its example needs this project, as no stock configuration says its structure"
    if why:
        raise UnsupportedModel(f"{name} of task {task} cannot be hosted: {why}; `compressor demo` shows it here")


def _page(shown: Subject, folders: Sequence[str], summary: str, out: Path) -> None:
    models = [
        {"name": side.name, "folder": folder, "about": about, "threads": side.threads}
        for side, folder, about in zip(shown.sides, folders, shown.about, strict=True)
    ]
    page = {
        "title": shown.title,
        "summary": summary,
        "kind": shown.kind,
        "texts": list(shown.texts),
        "classes": list(shown.classes),
        "generates": shown.generates,
        "models": models,
        "examples": [_example(shown, number, out) for number in range(len(shown.examples))],
        "note": shown.note,
        "reported": shown.reported,
    }
    (out / PAGE).write_text(json.dumps(page, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _example(shown: Subject, number: int, out: Path) -> dict[str, Any]:
    """An example; a picture or sound lies in the folder too."""
    example = shown.examples[number]
    if shown.kind not in ("image", "audio"):
        return {"name": example.name, "given": example.given}
    place = Path("examples") / Path(example.given).name
    (out / place).parent.mkdir(exist_ok=True)
    shutil.copyfile(example.given, out / place)
    return {"name": example.name, "file": place.as_posix()}


def pin(name: str) -> str:
    """A requirement of the version that is here, without the part that says who built it: indices know `2.13.0`, not `2.13.0+cpu`."""
    return f"{name}=={version(name).partition('+')[0]}"


def _write(out: Path, title: str, summary: str, needed: Sequence[str]) -> None:
    for name in ("__init__.py", *(f"side/{path.name}" for path in sorted((HERE / "side").glob("*.*")))):
        (out / "demos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(HERE / name, out / "demos" / name)
    pinned = [pin(name) for name in ("gradio", *needed)]
    (out / "app.py").write_text(APP, encoding="utf-8")
    (out / "requirements.txt").write_text("".join(f"{line}\n" for line in pinned), encoding="utf-8")
    text = README.format(
        title=json.dumps(title),
        name=title,
        summary=summary,
        version=version("gradio"),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
    )
    (out / "README.md").write_text(text, encoding="utf-8")
