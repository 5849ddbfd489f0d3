"""How the processes of a group find each other: over a file on one machine, over one port of one address where there are several.

Torch's own launchers listen on all addresses of a machine, and unpickle what they read there. Here nothing listens but gloo (or NCCL),
on the network that the group is in: on one machine that is loopback. What arrives is tensors and JSON, and nothing is unpickled.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import MissingDependency

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

FILE, PORT = "file://", "tcp://"
NETWORKS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables by which gloo and NCCL are told the network interface to listen on."""


def meet(where: str, *, wait_seconds: float) -> None:
    """Make the group of all processes, of which the environment says how many there are and which one this is.

    Args:
        where: `file://PATH`, or `tcp://HOST:PORT`: there the first process listens, on that address alone.
        wait_seconds: how long the others are waited for.

    Raises:
        MissingDependency: HOST:PORT is no address of the first process's machine, or is taken.
    """
    import torch
    from torch import distributed

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    store = _store(where, rank, size, timedelta(seconds=wait_seconds))
    distributed.init_process_group(backend, store=store, rank=rank, world_size=size)


def network(rendezvous: str) -> dict[str, str]:
    """Variables that keep gloo and NCCL to the network interface on which HOST:PORT is reached; to loopback where that is empty."""
    host, port = split(rendezvous) if rendezvous else ("127.0.0.1", 1)
    found = _interface(_own_address(host, port))
    return dict.fromkeys(NETWORKS, found) if found else {}


def split(rendezvous: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 address stands in brackets."""
    host, _, port = rendezvous.rpartition(":")
    return host.strip("[]"), int(port)


def _store(where: str, rank: int, size: int, wait: timedelta) -> Store:
    from torch._C._distributed_c10d import FileStore, TCPStore

    if where.startswith(FILE):
        store: Store = FileStore(where.removeprefix(FILE), size)
        store.set_timeout(wait)
        return store
    host, port = split(where.removeprefix(PORT))
    listening = _listening(host, port) if rank == 0 else None
    return TCPStore(host, port, size, is_master=rank == 0, timeout=wait, master_listen_fd=listening)


def _listening(host: str, port: int) -> int:
    """Descriptor of a socket that listens on this one address."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family).detach()
    except OSError as error:
        raise MissingDependency(
            f"{host}:{port} cannot be listened on ({error.strerror}): the rendezvous is an address of the machine that runs the plan, "
            "and a free port there"
        ) from error


def _own_address(host: str, port: int) -> str:
    """The address of this machine in the network by which it reaches `host`; nothing is sent."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as asked:
            asked.connect(address)
            return str(asked.getsockname()[0])
    except OSError:  # a machine without that network: told when the processes meet
        return ""


def _interface(address: str) -> str | None:
    import psutil

    address = "127.0.0.1" if address.startswith("127.") else address
    here = psutil.net_if_addrs()
    return next((name for name, held in here.items() if any(each.address.split("%")[0] == address for each in held)), None)


def scratch_file(folder: Path) -> str:
    """Where the processes of one machine meet: a file in a folder that only its user may enter."""
    return f"{FILE}{folder / 'meeting'}"
