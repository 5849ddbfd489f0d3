"""`compressor store`: commands that look after the folder of stored results."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from compressor.foreign import printable

if TYPE_CHECKING:
    from compressor.store.store import Store

app = typer.Typer(help="Look after stored results: list, size, verify, prune.", no_args_is_help=True)

StorePath = Annotated[
    Path | None, typer.Option("--store", help="Folder of stored results; $XDG_CACHE_HOME/compressor by default.")
]


@app.command(name="list")
def list_(store: StorePath = None) -> None:
    """Every result, least recently used first: step, when it was made, bytes, seconds it took, key, plans that used it."""
    from compressor.store.maintenance import survey

    say(f"{'step':18} {'made':25} {'bytes':>13} {'seconds':>9}  {'key':12}  plans")
    for kept in survey(_known(store)):
        plans = ", ".join(kept.plans)
        say(f"{kept.step:18} {kept.made:25} {kept.bytes:13} {kept.seconds:9.1f}  {kept.key[:12]}  {plans}".rstrip())


@app.command()
def size(store: StorePath = None) -> None:
    """How much the store holds, by step."""
    from compressor.store.maintenance import survey

    opened = _known(store)
    kept = survey(opened)
    for step in sorted({each.step for each in kept}):
        of_step = [each.bytes for each in kept if each.step == step]
        say(f"{step:18} {len(of_step):6} {sum(of_step) / 1e6:12.1f} MB")
    say(f"{'all':18} {len(kept):6} {sum(each.bytes for each in kept) / 1e6:12.1f} MB  {opened.root}")


@app.command()
def verify(store: StorePath = None) -> None:
    """Check every result against its digest; exit code 1 when one is damaged. A run makes damaged results again."""
    from compressor.store.maintenance import verify as verified

    found = verified(_known(store))
    for folder, why in found.damaged.items():
        say(f"{folder}: damaged: {why}")
    busy = f", {found.busy} in use and not checked" if found.busy else ""
    say(f"{found.whole} whole, {len(found.damaged)} damaged{busy}")
    raise typer.Exit(1 if found.damaged else 0)


@app.command()
def prune(
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="Only what was last used longer ago: 12h, 30d, 2w.")
    ] = None,
    to_size: Annotated[
        str | None,
        typer.Option("--to-size", metavar="SIZE", help="Only until the store is no larger: 5GB; least recently used first."),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="PLAN",
            help="Only what runs of this plan used, and of no other: its file, or its name as `list` has it.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    store: StorePath = None,
) -> None:
    """Remove results and unfinished work; several conditions narrow one another. What a living run uses stays."""
    from compressor.errors import StoreError
    from compressor.store import maintenance as upkeep

    if older_than is None and to_size is None and plan is None:
        raise StoreError("say what may go: --older-than 30d, --to-size 5GB or --plan PLAN")
    opened = _known(store)
    if plan is not None:
        upkeep.check_plan(opened, plan := _name(plan))
    gone = upkeep.prune(
        opened,
        older_than_seconds=None if older_than is None else upkeep.seconds_of(older_than),
        to_bytes=None if to_size is None else upkeep.bytes_of(to_size),
        plan=plan,
        dry_run=dry_run,
    )
    for each in gone:
        say(f"{each.step:18} {each.bytes:13}  {each.key[:12]}")
    say(f"{'would remove' if dry_run else 'removed'} {len(gone)}, {sum(each.bytes for each in gone) / 1e6:.1f} MB")


def fail(text: str, code: int) -> NoReturn:
    """Say what is wrong and end the command with an exit code."""
    say(text, err=True)
    raise SystemExit(code)


def say(text: str, *, err: bool = False) -> None:
    """Print text in which nothing of others acts upon a terminal."""
    typer.echo(printable(text), err=err)


def open_store(path: Path | None, *, quiet: bool = False) -> Store:
    """The store at `path`, or the user's own; what it has to say is printed, to the other stream where JSON is wanted."""
    from compressor.store.place import open_store as opened

    return opened(path, tell=partial(say, err=quiet))


def _known(path: Path | None) -> Store:
    """The store that is named, which has to be there: of one that is not, everything would be said to be whole."""
    from compressor.errors import StoreError

    if path is not None and not path.exists():
        raise StoreError(f"{path}: no such folder: name the store's by --store")
    return open_store(path)


def _name(plan: str) -> str:
    if not Path(plan).is_file():
        return plan
    from compressor.plan.bound import load_plan

    return load_plan(Path(plan)).name
