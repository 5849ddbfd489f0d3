"""`compressor init` and `compressor quantize`: plans that are written by looking at a model and rows; and how runs are shown."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressor.cli_store import StorePath, say
from compressor.foreign import one_line

if TYPE_CHECKING:
    from compressor.contracts.records import Report
    from compressor.plan.bound import Bound
    from compressor.proposal import Asked, Proposal
    from compressor.run.comparison import Run
    from compressor.training.launch import Processes

app = typer.Typer()

FROM_MODEL = "The model: a folder, installed:PACKAGE/PATH or hub:ORG/NAME."
FROM_DATA = (
    "The rows: a table (csv, tsv, json, parquet), or a folder of tables, texts, pictures or sounds; or installed:PACKAGE/PATH."
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help=FROM_MODEL, show_default=False)]
TaskName = Annotated[str | None, typer.Option("--task", help="What the model is for, where several tasks fit the rows.")]
Text = Annotated[list[str] | None, typer.Option("--text", help="Column of what the model is fed from; twice for pairs of texts.")]
Label = Annotated[list[str] | None, typer.Option("--label", help="Column of the label; several for columns of 0 and 1.")]


def _finite(value: float) -> float:
    if not isfinite(value):
        raise typer.BadParameter(f"{value} is no number of points or per cent")
    return value


MaxDrop = Annotated[
    float,
    typer.Option(
        "--max-drop", min=0.0, callback=_finite, help="What may be lost: points of a fraction, per cent of any other measure."
    ),
]
OneTarget = Annotated[str | None, typer.Option("--target", help="The only target; all that this machine has unless given.")]


@app.command()
def init(
    model: Model,
    data: Annotated[str, typer.Argument(metavar="DATA", help=FROM_DATA, show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The plan to write.")] = Path("plan.yaml"),
    task: TaskName = None,
    text: Text = None,
    label: Label = None,
    max_drop: MaxDrop = 1.0,
    target: OneTarget = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Look at a model and rows, and write a plan that runs, with comments that say what was seen and why."""
    from compressor.errors import CompressorError

    if out.is_dir():
        raise CompressorError(f"{out} is a folder: name a file to write the plan into by --out")
    if (out.exists() or out.is_symlink()) and not force:
        raise CompressorError(f"{out} is there already: --force writes over it, --out names another file")
    if not out.parent.is_dir():
        raise CompressorError(f"{out.parent}: no such folder to write the plan into: make it, or name another file by --out")
    found = _proposed(_asked(model, data, out.parent, task, text, label, max_drop, target))
    try:
        out.write_text(found.text, encoding="utf-8")
    except OSError as error:
        raise CompressorError(f"{out} cannot be written: {error.strerror}") from error
    for line in found.seen:
        say(one_line(line))
    say(f"plan: {out}; next: compressor check {out}, then compressor run {out}")


@app.command()
def quantize(
    model: Model,
    data: Annotated[str, typer.Option("--data", metavar="DATA", help=FROM_DATA)],
    max_drop: MaxDrop = 1.0,
    target: OneTarget = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder of the export, with one for each target where there are several; NAME-quantized unless given."
        ),
    ] = None,
    only_print: Annotated[bool, typer.Option("--print", help="Print the plan and do nothing else.")] = False,
    task: TaskName = None,
    text: Text = None,
    label: Label = None,
    store: StorePath = None,
) -> None:
    """Quantise a model for targets: print the plan of that, run it, and export each that was accepted. Exit codes are those of `run`."""
    found = _proposed(_asked(model, data, Path(), task, text, label, max_drop, target, quantize_only=True))
    say(found.text)
    if only_print:
        return
    from compressor.export import check_free, export
    from compressor.training.launch import ALONE

    folder = out or Path(f"{found.bound.name}-quantized")
    check_free(folder)
    ran = run_shown(found.bound, store, None, ALONE)
    several, accepted = len(found.bound.targets) > 1, accepted_in(ran.report)
    for each in (target.name for target in found.bound.targets):
        if each in accepted:
            say(f"export: {export(ran.folder, each, folder / each if several else folder)}")
        elif several:
            say(f"not exported, since it was not accepted: {each}")
    raise typer.Exit(ran.report.exit_code)


def shipped_of(report: Report, targets: Sequence[str]) -> str:
    """The target whose final model is exported where one is: the first that met what was asked of it, else, where nothing was, the first."""
    accepted = accepted_in(report)
    return next((name for name in targets if name in accepted), targets[0])


def accepted_in(report: Report) -> set[str]:
    """Targets whose final model met all that was asked of it."""
    asked = [verdict for verdict in report.verdicts if verdict.on_fail != "warn" and verdict.candidate.startswith("final@")]
    failed = {verdict.candidate for verdict in asked if verdict.outcome != "met"}
    return {verdict.candidate.partition("@")[2] for verdict in asked if verdict.candidate not in failed}


def _asked(
    model: str,
    data: str,
    folder: Path,
    task: str | None,
    text: list[str] | None,
    label: list[str] | None,
    max_drop: float,
    target: str | None,
    *,
    quantize_only: bool = False,
) -> Asked:
    """Paths are those of the working folder, and in the plan those of its own."""
    from compressor.proposal import Asked

    return Asked(
        model=_from(folder, model),
        data=_from(folder, data),
        folder=folder,
        task=task,
        text=tuple(text or ()),
        label=tuple(label or ()),
        max_drop=max_drop,
        target=target,
        shrinks=not quantize_only,
        command=command(),
    )


def _from(folder: Path, spelled: str) -> str:
    """A path of the working folder as it is spelled from another one."""
    if re.match("(installed|hub):|[a-z0-9]+://", spelled) or os.path.isabs(spelled):  # noqa: PTH117 - a text
        return spelled
    return spelled if folder == Path() else os.path.relpath(Path(spelled).absolute(), folder.resolve())


def _proposed(asked: Asked) -> Proposal:
    from compressor.proposal import propose

    return propose(asked)


def run_shown(bound: Bound, store: Path | None, out: Path | None, processes: Processes) -> Run:
    """Run a plan with bars, and show what it found."""
    from compressor.api import run as run_plan
    from compressor.report.terminal import Bars

    with Bars() as bars:
        ran = run_plan(bound, store=store, out=out, tell=bars.hear, processes=processes, command=command())
    show_report(ran.report)
    say(f"report: {ran.folder / 'report.html'}")
    return ran


def show_report(report: Report) -> None:
    """The answer and the table of a run."""
    from compressor.report.terminal import table

    table(report)


def command() -> str:
    """What this was started by."""
    return " ".join(["compressor", *sys.argv[1:]])
