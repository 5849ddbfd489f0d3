"""The command line: the only place that prints, and the only one that turns errors into exit codes."""

from __future__ import annotations

import errno
import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer

from compressor.cli_demo import app as demo_app
from compressor.cli_plans import app as plans_app
from compressor.cli_plans import run_shown, shipped_of, show_report
from compressor.cli_processes import RENDEZVOUS, Each, Nodes, Sharded, check_sharded, processes_of
from compressor.cli_store import StorePath, fail, open_store, say
from compressor.cli_store import app as store_app
from compressor.foreign import is_text, one_line, printable_json, told
from compressor.stops import heard, stop_by

app = typer.Typer(
    help="One plan takes a trained model to a smaller, faster one that is proved to be so on its target.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(plans_app)
app.add_typer(demo_app)
app.add_typer(store_app, name="store")

PlanPath = Annotated[Path, typer.Argument(help="The plan, a YAML file.", show_default=False)]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A value laid over the plan: passes.distill.epochs=1")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Kind = Literal[
    "runs", "passes", "targets", "probes", "tasks", "objectives", "edits", "anatomies", "formats", "libraries", "networks"
]
UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF)
"""What ends the writing to a terminal, a pipe or a file that it leads to."""
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


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"compressor {version('compressor-toolchain')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and nothing else.")
    ] = False,
) -> None:
    """One plan takes a trained model to a smaller, faster one that is proved to be so on its target."""
    from compressor.deploy.telemetry import quiet

    quiet()  # before any command imports a library


@app.command()
def run(
    plan: PlanPath,
    settings: Settings = None,
    store: StorePath = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the run; runs/NAME/TIME by default.")] = None,
    export_to: Annotated[
        Path | None, typer.Option("--export", help="Export the final model here, of the first target that is accepted.")
    ] = None,
    processes: Each = 1,
    nodes: Nodes = 1,
    rendezvous: Annotated[str, typer.Option("--rendezvous", metavar="HOST:PORT", help=RENDEZVOUS)] = "",
    sharded: Sharded = False,
) -> None:
    """Run a plan: compress, verify, report. Exit code 0 accepted, 1 failed, 2 plan at fault, 3 not accepted or undecided.

    A run that was killed or interrupted goes on when the same command is given again.
    """
    from compressor.plan.bound import load_plan
    from compressor.run import run_folder

    group = processes_of(processes, nodes, rendezvous, sharded)
    bound = load_plan(plan, settings=settings or ())
    if export_to and out and run_folder.finished(out, bound.text):
        from compressor.run.comparison import Run

        ran = Run.read(out)  # only the export is left to do
        show_report(ran.report)
        say(f"report: {ran.folder / 'report.html'}")
    else:
        if export_to:
            from compressor.export import check_free

            check_free(export_to)  # now, and not after hours
        ran = run_shown(bound, store, out, group)
    if export_to and ran.report.exit_code == 0:
        from compressor.export import export as write_export

        say(f"export: {write_export(ran.folder, shipped_of(ran.report, [each.name for each in bound.targets]), export_to)}")
    raise typer.Exit(ran.report.exit_code)


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

    from compressor.report.terminal import Bars
    from compressor.training.launch import join as lend

    group = processes_of(processes, nodes, rendezvous)
    if node >= nodes:
        fail(f"--node {node} is beyond --nodes {nodes}: machines are counted from 0", 2)
    if not 0 < wait < float("inf"):
        fail(f"--wait {wait:g}: expected a number of seconds above 0", 2)
    with Bars() as bars, tempfile.TemporaryDirectory(prefix="compressor-join-") as folder:
        lend(group, node, folder=Path(folder), wait_seconds=wait, tell=bars.hear)
    say(f"no training step has come for {wait:g} s")


@app.command()
def check(
    plan: PlanPath,
    settings: Settings = None,
    store: StorePath = None,
    processes: Each = 1,
    nodes: Nodes = 1,
    sharded: Sharded = False,
    as_json: AsJson = False,
) -> None:
    """Say what would run and about what it costs, what rows and models are, what the store has and what is missing here. Runs nothing."""
    from compressor.plan.bound import load_plan

    bound = load_plan(plan, settings=settings or ())
    from compressor.run.preview import previewed
    from compressor.training.launch import Processes

    check_sharded(processes * nodes, sharded=sharded)
    found = previewed(bound, open_store(store, quiet=as_json), Processes(processes, nodes, sharded=sharded))
    if as_json:
        _print_json(found.model_dump_json(indent=1))
        return
    for line in found.lines:
        say(one_line(str(line)))


@app.command()
def rehearse(plan: PlanPath, settings: Settings = None, store: StorePath = None, as_json: AsJson = False) -> None:
    """Run a plan on two blocks and a few rows, export and measuring included, and forecast the real run. Keeps nothing but how fast it was."""
    from compressor.report.terminal import Bars, forecast_table
    from compressor.run.rehearsal import rehearse as play

    with Bars() as bars:
        forecast = play(
            plan, settings=settings or (), store=open_store(store, quiet=True), tell=_unheard if as_json else bars.hear
        )
    _print_json(forecast.model_dump_json(indent=1)) if as_json else forecast_table(forecast)


@app.command(name="list")
def list_(kind: Annotated[Kind, typer.Argument(help="What to list.")], as_json: AsJson = False) -> None:
    """List the runs below `runs/`, or what is installed of a kind."""
    rows = _runs() if kind == "runs" else _installed(KINDS[kind])
    if as_json:
        _print_json(_as_json(rows))
        return
    if not rows and kind == "runs":
        say("no runs below runs/ here", err=True)
    width = max((len(row[name]) for row in rows for name in list(row)[:1]), default=0)
    for row in rows:
        first, *others = row.values()
        say(one_line(f"{first:{max(24, width)}} {' '.join(each for each in others if each)}".rstrip()))


def _runs() -> list[dict[str, str]]:
    from compressor.run.listing import runs

    return [{name: str(value) for name, value in ran.model_dump().items()} for ran in runs()]


def _installed(kind: str) -> list[dict[str, str]]:
    from compressor.contracts import registry
    from compressor.errors import PluginError
    from compressor.plan.explanation import first_line

    found = registry.loaded(kind)
    return [
        {"name": name, "about": f"broken: {each}" if isinstance(each, PluginError) else first_line(each)} for name, each in found
    ]


def _names(start: str) -> list[str]:
    """What `explain` knows, for a shell to complete."""
    from compressor.contracts import registry
    from compressor.plan.explanation import PARTS, PLAN

    known = {PLAN, *PARTS, *(name for kind in registry.KINDS for name in registry.names(kind))}
    return sorted(name for name in known if name.startswith(start))


@app.command()
def explain(
    name: Annotated[
        str,
        typer.Argument(
            help="plan, data, accept, gate, or the name of a pass, target, probe, task, objective, edit, anatomy, format, library or network.",
            autocompletion=_names,
        ),
    ],
) -> None:
    """What a part of a plan or a plug-in is: its keys with defaults, ranges and an example, and where it comes from."""
    from compressor.plan.explanation import explained

    try:
        for line in explained(name):
            say(line)
    except LookupError as error:
        fail(str(error.args[0]), 2)


@app.command()
def show(run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")], as_json: AsJson = False) -> None:
    """The answer and the table of a run that has ended."""
    from compressor.report import read_report

    report = read_report(run_folder)
    _print_json(report.model_dump_json(indent=1)) if as_json else show_report(report)


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

    comparison = compare_runs(first, second)
    if measured:
        with Bars() as bars:
            found = measure(first, second, tell=_unheard if as_json else bars.hear)
        comparison = comparison.model_copy(update={"measured": found})
    _print_json(comparison.model_dump_json(indent=1)) if as_json else comparison_tables(comparison)


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist or be empty.")],
    target: Annotated[str, typer.Option("--target", help="Name of a target of the plan.")],
    stage: Annotated[str, typer.Option("--stage", help="Stage of the run.")] = "final",
) -> None:
    """Write a folder that works without this program: model, tokenizer, labels, specification, checksums, example."""
    from compressor.export import export as write_export

    say(str(write_export(run_folder, target, out, stage=stage)))


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
    say(f"{here.named}, {here.memory_bytes / 2**30:.0f} GiB, {', '.join(here.features) or 'no vector units known'}")
    say(f"accelerators: {', '.join(here.accelerators) or 'none'}")
    for name, version in versions().items():
        say(f"  {name} {version}")
    for name, kind in registry.loaded("target"):
        say(one_line(f"target {name}: {_state(kind)}"))
    for name, lacking in extras().items():
        install = f"lacks {', '.join(lacking)}: pip install 'compressor-toolchain[{name}]'" if lacking else "installed"
        say(f"extra {name}: {install}")


def _state(target: Any) -> str:
    """What a target lacks here, or that it is ready."""
    from compressor.errors import PluginError

    if isinstance(target, PluginError):
        return f"broken: {target}"
    try:
        missing = target.written(dict(target.examples[0])).missing()
    except Exception as error:  # what a third party wrote can raise anything
        return f"broken: {told(error, kind=True)}"
    return missing.build or missing.run or "ready"


def main() -> None:
    """Run the command line; every known error becomes a message and its exit code."""
    from compressor.errors import CompressorError

    signal.signal(signal.SIGINT, _interrupted)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal or pipe that cannot show a character is told its number
            stream.reconfigure(errors="backslashreplace")
    if wrong := next((text for text in (*sys.argv, os.getcwd()) if not is_text(text)), None):  # noqa: PTH109 - a text
        fail(f"{wrong} is not UTF-8, and would be written into files that are: rename it", 2)
    try:
        app()
    except CompressorError as error:
        fail(str(error), error.exit_code)
    except OSError as error:
        if error.filename is not None or error.errno not in UNWRITABLE:
            raise
        fail(f"what is told cannot be written: {error.strerror}", 1)
    finally:
        heard()


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    """Stop what runs; a second Ctrl-C ends at once, which is as safe as any other sudden end."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    again = "give the same command again to go on from what is stored; " if sys.argv[1:2] == ["run"] else ""
    os.write(2, f"\ninterrupted: {again}Ctrl-C once more ends at once\n".encode())
    stop_by(KeyboardInterrupt())


def _unheard(_: object) -> None:
    """What is told while only JSON is wanted."""


def _as_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=1, ensure_ascii=False)


def _print_json(text: str) -> None:
    typer.echo(printable_json(text))


if __name__ == "__main__":
    main()
