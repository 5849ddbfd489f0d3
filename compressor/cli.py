"""The command line: the only place that prints, and the only one that turns errors into exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from compressor.cli_store import StorePath, open_store
from compressor.cli_store import app as store_app

if TYPE_CHECKING:
    from compressor.contracts.records import Report
    from compressor.plan.bound import Bound
    from compressor.training.launch import Processes

app = typer.Typer(
    help="One plan takes a trained model to a smaller, faster one that is proved to be so on its target.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(store_app, name="store")

PlanPath = Annotated[Path, typer.Argument(help="The plan, a YAML file.", show_default=False)]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A value laid over the plan: passes.distill.epochs=1")]
Each = Annotated[int, typer.Option("--processes", min=1, help="Processes on each machine that a training step is computed by.")]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Machines that take part in training steps.")]
RENDEZVOUS = "Where the machines meet: an address of the one that runs the plan, and a free port there."
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Kind = Literal["passes", "targets", "probes", "tasks", "objectives", "edits", "anatomies", "formats", "libraries", "networks"]
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
KINDS: dict[str, str] = {
    "passes": "pass",
    "targets": "target",
    "probes": "probe",
    "tasks": "task",
    "objectives": "objective",
    "edits": "edit",
    "anatomies": "anatomy",
    "formats": "format",
    "libraries": "library",
    "networks": "network",
}


@app.command()
def run(
    plan: PlanPath,
    settings: Settings = None,
    store: StorePath = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; runs/NAME/TIME by default.")] = None,
    export_to: Annotated[
        Path | None, typer.Option("--export", help="Export the first target's final model here, if accepted.")
    ] = None,
    processes: Each = 1,
    nodes: Nodes = 1,
    rendezvous: Annotated[str, typer.Option("--rendezvous", metavar="HOST:PORT", help=RENDEZVOUS)] = "",
) -> None:
    """Run a plan: compress, verify, report. Exit code 0 accepted, 1 failed, 2 plan at fault, 3 not accepted or undecided.

    A run that was killed or interrupted goes on when the same command is given again.
    """
    from compressor.plan.bound import load_plan
    from compressor.run import run_folder

    group = _processes(processes, nodes, rendezvous)
    bound = load_plan(plan, settings=settings or ())
    if export_to and out and run_folder.finished(out, bound.text):
        from compressor.report import read_report

        folder, report = out, read_report(out)  # only the export is left to do
    else:
        if export_to:
            from compressor.export import check_free

            check_free(export_to)  # now, and not after hours
        with run_folder.claimed(out, bound.text) if out else run_folder.opened(bound.name, bound.text) as folder:
            report = _run(bound, store, folder, group)
    _show(report)
    typer.echo(f"report: {folder / 'report.html'}")
    if export_to and report.exit_code == 0:
        from compressor.export import export as write_export

        typer.echo(f"export: {write_export(folder, bound.targets[0].name, export_to)}")
    raise typer.Exit(report.exit_code)


def _run(bound: Bound, store: Path | None, folder: Path, processes: Processes) -> Report:
    from compressor.report.terminal import Bars

    _quiet()
    from compressor.run.pipeline import run_plan

    with Bars() as bars:
        opened = open_store(store, plan=bound.name, tell=bars.line)
        return run_plan(bound, store=opened, folder=folder, command=_command(), tell=bars.hear, processes=processes)


@app.command()
def join(
    rendezvous: Annotated[str, typer.Argument(metavar="HOST:PORT", help=RENDEZVOUS)],
    nodes: Nodes = 2,
    node: Annotated[int, typer.Option("--node", min=1, help="Number of this machine; 0 is the one that runs the plan.")] = 1,
    processes: Each = 1,
    wait: Annotated[float, typer.Option("--wait", help="Seconds without a training step after which this ends.")] = 3600.0,
) -> None:
    """Lend this machine to the training steps of a run on another one; both see the store and the plan's folder at one path."""
    import tempfile

    _quiet()
    from compressor.report.terminal import Bars
    from compressor.training.launch import join as lend

    group = _processes(processes, nodes, rendezvous)
    if node >= nodes:
        _fail(f"--node {node} is beyond --nodes {nodes}: machines are counted from 0", 2)
    with Bars() as bars, tempfile.TemporaryDirectory(prefix="compressor-join-") as folder:
        lend(group, node, folder=Path(folder), wait_seconds=wait, tell=bars.hear)


@app.command()
def check(plan: PlanPath, settings: Settings = None, store: StorePath = None, processes: Each = 1, nodes: Nodes = 1) -> None:
    """Say what would run, what is found in the store and what is missing here. Runs nothing."""
    from compressor.plan.bound import load_plan

    bound = load_plan(plan, settings=settings or ())
    _quiet()
    from compressor.foreign import printable
    from compressor.run.preview import preview
    from compressor.training.launch import Processes

    for line in preview(bound, open_store(store), Processes(processes, nodes)):
        typer.echo(printable(line))


@app.command()
def rehearse(plan: PlanPath, settings: Settings = None, as_json: AsJson = False) -> None:
    """Run a plan on two blocks and a few rows, export and measuring included, and forecast the real run. Keeps nothing."""
    from compressor.report.terminal import Bars, forecast_table
    from compressor.run.rehearsal import rehearse as play

    with Bars() as bars:
        forecast = play(plan, settings=settings or (), tell=_unheard if as_json else bars.hear)
    typer.echo(forecast.model_dump_json(indent=1)) if as_json else forecast_table(forecast)


@app.command(name="list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List what is installed: passes, targets, probes, tasks, objectives, edits, anatomies, formats, libraries or networks."""
    from compressor.contracts import registry

    for name in registry.names(KINDS[kind]):
        step = registry.load(KINDS[kind], name)
        typer.echo(f"{name:24} {_first_line(step)}")


@app.command()
def explain(
    name: Annotated[
        str, typer.Argument(help="Name of a pass, target, probe, task, objective, edit, anatomy, format, library or network.")
    ],
) -> None:
    """What a plug-in does, its parameters and where it comes from."""
    from compressor.contracts import registry
    from compressor.errors import did_you_mean

    found = [(kind, registry.load(kind, name)) for kind in KINDS.values() if registry.current(kind, name) in registry.names(kind)]
    if not found:
        known = [each for kind in KINDS.values() for each in registry.names(kind)]
        _fail(f"nothing installed is named '{name}'{did_you_mean(name, known)}", 2)
    for kind, step in found:
        if (present := registry.current(kind, name)) != name:
            typer.echo(f"{name} is called {present} now")
        typer.echo(f"{present}: {kind}, from {registry.distribution(kind, name)}\n\n{_described(step)}\n")
        for line in _parameters(step.model_json_schema()) if hasattr(step, "model_json_schema") else ():
            typer.echo(line)
        if paper := getattr(step, "paper", ""):
            typer.echo(f"\nsource: {paper}")


@app.command()
def show(run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]) -> None:
    """The answer and the table of a run that has ended."""
    from compressor.report import read_report

    _show(read_report(run_folder))


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of another run.")],
    measured: Annotated[bool, typer.Option("--measure", help="Time the final files of both side by side, here and now.")] = False,
    as_json: AsJson = False,
) -> None:
    """What changed between two runs, their qualities on the same rows with intervals, and their times."""
    from compressor.report.terminal import Bars, comparison_tables
    from compressor.run.comparison import compare_runs, measure

    _quiet()
    comparison = compare_runs(first, second)
    if measured:
        with Bars() as bars:
            found = measure(first, second, tell=_unheard if as_json else bars.hear)
        comparison = comparison.model_copy(update={"measured": found})
    typer.echo(comparison.model_dump_json(indent=1)) if as_json else comparison_tables(comparison)


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist or be empty.")],
    target: Annotated[str, typer.Option("--target", help="Name of a target of the plan.")],
    stage: Annotated[str, typer.Option("--stage", help="Stage of the run.")] = "final",
) -> None:
    """Write a folder that works without this program: model, tokenizer, labels, specification, checksums, example."""
    from compressor.export import export as write_export

    typer.echo(str(write_export(run_folder, target, out, stage=stage)))


@app.command()
def schema() -> None:
    """Print the JSON Schema of plans over everything installed, for editors."""
    import json

    from compressor.plan.schema import plan_schema

    typer.echo(json.dumps(plan_schema(), indent=1))


@app.command()
def doctor() -> None:
    """What this machine has, and what each target and extra lacks."""
    from compressor.contracts import registry
    from compressor.deploy.machine import extras, machine, versions

    here = machine()
    typer.echo(
        f"{here.processor}, {here.cores} cores, {here.memory_bytes / 2**30:.0f} GiB, {', '.join(here.features) or 'no vector units known'}"
    )
    typer.echo(f"accelerators: {', '.join(here.accelerators) or 'none'}")
    for name, version in versions().items():
        typer.echo(f"  {name} {version}")
    for name in registry.names("target"):
        missing = registry.load("target", name)().missing()
        typer.echo(f"target {name}: {missing.build or missing.run or 'ready'}")
    for name, lacking in extras().items():
        install = f"lacks {', '.join(lacking)}: pip install 'compressor-toolchain[{name}]'" if lacking else "installed"
        typer.echo(f"extra {name}: {install}")


def main() -> None:
    """Run the command line; every known error becomes a message and its exit code."""
    from compressor.errors import CompressorError

    signal.signal(signal.SIGINT, _interrupted)
    try:
        app()
    except CompressorError as error:
        _fail(str(error), error.exit_code)


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    """Stop what runs; a second Ctrl-C ends at once, which is as safe as any other sudden end."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    again = "give the same command again to go on from what is stored; " if sys.argv[1:2] == ["run"] else ""
    os.write(2, f"\ninterrupted: {again}Ctrl-C once more ends at once\n".encode())
    raise KeyboardInterrupt


def _fail(text: str, code: int) -> None:
    from compressor.foreign import printable

    typer.echo(printable(text), err=True)
    raise SystemExit(code)


def _processes(each: int, nodes: int, rendezvous: str) -> Processes:
    from compressor.training.launch import Processes

    host, _, port = rendezvous.rpartition(":")
    if nodes > 1 and not (host and port.isdecimal()):
        _fail(f"--nodes {nodes} needs a rendezvous HOST:PORT, found '{rendezvous}'", 2)
    return Processes(each, nodes, rendezvous)


def _quiet() -> None:
    from compressor.deploy.telemetry import quiet

    quiet()


def _unheard(_: object) -> None:
    """What is told while only JSON is wanted."""


def _command() -> str:
    return " ".join(["compressor", *sys.argv[1:]])


def _show(report: Report) -> None:
    from compressor.report.terminal import table

    table(report)


def _first_line(step: Any) -> str:
    return next(iter(_described(step).splitlines()), "")


def _described(step: Any) -> str:
    """What its author says of it; of an anatomy, which is a row of a table, what it reads."""
    if not isinstance(step, type):
        return f"Reads models of type {', '.join(step.model_types)}."
    return (step.__doc__ or "").strip()


def _parameters(schema: dict[str, Any]) -> Iterator[str]:
    """A line a parameter, those of a parameter that has its own below it, and the values where they are few."""
    return _fields(schema.get("properties", {}), schema, indent="  ")


def _fields(fields: dict[str, Any], schema: dict[str, Any], *, indent: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    for name, field in fields.items():
        parts = list(_within(field))
        values = list(dict.fromkeys(value for part in parts for value in part.get("enum", ())))
        told = [str(field.get("description", "")).rstrip("."), f"one of {', '.join(map(str, values))}" if values else ""]
        yield f"{indent}{name} = {field.get('default', '(required)')}  {'; '.join(filter(None, told))}".rstrip()
        for path in dict.fromkeys(part["$ref"] for part in parts if "$ref" in part and part["$ref"] not in above):
            below = schema["$defs"][path.rpartition("/")[2]]
            yield from _fields(below.get("properties", {}), schema, indent=indent + "  ", above=(*above, path))


def _within(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A field of a JSON Schema with all that it is made of."""
    yield field
    inner = [*field.get("anyOf", ()), field.get("items"), field.get("additionalProperties")]
    for part in inner:
        if isinstance(part, dict):
            yield from _within(part)


if __name__ == "__main__":
    main()
