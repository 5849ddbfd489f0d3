"""Options of commands that train in several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from compressor.cli_store import fail

if TYPE_CHECKING:
    from compressor.training.launch import Processes

Sharded = Annotated[bool, typer.Option("--sharded", help="Each process holds its share of the parameters only.")]
Each = Annotated[int, typer.Option("--processes", min=1, help="Processes on each machine that a training step is computed by.")]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Machines that take part in training steps.")]
RENDEZVOUS = "Where the machines meet: an address of the one that runs the plan, and a free port there."


def processes_of(each: int, nodes: int, rendezvous: str, sharded: bool = False) -> Processes:
    """The processes that options ask for; what does not go together ends the command."""
    from compressor.training.launch import Processes

    host, _, port = rendezvous.rpartition(":")
    if nodes > 1 and not (host and port.isdecimal() and 0 < int(port) < 2**16):
        fail(f"--nodes {nodes} needs a rendezvous HOST:PORT, found '{rendezvous}'; ports are 1 to 65535", 2)
    if nodes == 1 and rendezvous:
        fail(f"--rendezvous {rendezvous} is where several machines meet: say how many they are by --nodes", 2)
    check_sharded(each * nodes, sharded=sharded)
    return Processes(each, nodes, rendezvous, sharded)


def check_sharded(processes: int, *, sharded: bool) -> None:
    """End the command where parameters are to be spread over one process."""
    if sharded and processes < 2:
        fail("--sharded spreads parameters over processes, and there is one: give --processes 2 or more", 2)
