"""The most that this machine does: operations per second in products, bytes per second from memory. What a roofline is drawn by.

    python -P -m compressor.deploy.peaks THREADS

measures in a process of its own, as runtimes are timed, and writes JSON.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from compressor.contracts.profiles import Peaks
from compressor.deploy.machine import machine, versions
from compressor.errors import WorkerFailed
from compressor.store.known import noted, recalled

if TYPE_CHECKING:
    from compressor.store.store import Store

SIDES = (384, 768)
"""Of square matrices that are multiplied: small enough for caches, and for a part of the repeats to run undisturbed."""
SECONDS = 0.25
"""For each kind of number and side."""
READ_BYTES = 64 << 20
"""More than caches hold."""
MOST_SECONDS = 60.0
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


STILL = 0.1
"""Load by others up to which what was measured is kept."""


def peaks_of(threads: int, store: Store | None, load: Callable[[], float]) -> Peaks:
    """The peaks of this machine, from the store where they were measured before with the same libraries while others did little.

    Args:
        threads: that compute.
        store: keeps them.
        load: share of the processors that others keep busy, asked only where something is measured.

    Raises:
        WorkerFailed: the process that measures died or hangs.
    """
    parts = {"peaks": threads, "machine": machine().fingerprint, "versions": versions(("torch",)), "measured": [SIDES, SECONDS]}
    kept = recalled(store, parts) if store else None
    if kept is not None:
        return Peaks.model_validate(kept)
    found = _measured_apart(threads).model_copy(update={"load": load()})
    if store and found.load <= STILL:
        noted(store, parts, found.model_dump(mode="json"))
    return found


def _measured_apart(threads: int) -> Peaks:
    command = [sys.executable, "-P", "-m", "compressor.deploy.peaks", str(threads)]
    environment = {**os.environ, **dict.fromkeys(VARIABLES, str(threads))}
    try:
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise WorkerFailed(f"measuring what {threads} threads of this machine can do took more than {MOST_SECONDS:g} s") from None
    if ran.returncode:
        raise WorkerFailed(f"measuring what this machine can do failed:\n{ran.stderr[-2000:]}")
    return Peaks.model_validate_json(ran.stdout)


def measured(threads: int) -> Peaks:
    """Measure in this process: of each kind of number the best of all repeats of the best size, since what disturbs only slows."""
    import torch

    torch.set_num_threads(threads)
    found = {name: max(2 * side**3 / best(product) for side, product in made.items()) for name, made in _products().items()}
    values = torch.ones(READ_BYTES // 4)
    return Peaks(threads=threads, operations_per_s=found, bytes_per_s=READ_BYTES / best(values.sum))


def _products() -> dict[str, dict[int, Callable[[], Any]]]:
    """What multiplies two square matrices of each side, by kind of number; kinds that torch cannot multiply here are left out."""
    import torch

    made: dict[str, dict[int, Callable[[], Any]]] = {"fp32": {}, "bf16": {}, "int8": {}}
    for side in SIDES:
        a, b = torch.randn(side, side), torch.randn(side, side)
        half = (a.bfloat16(), b.bfloat16())
        whole = ((10 * a).to(torch.int8), (10 * b).to(torch.int8))
        made["fp32"][side] = partial(torch.matmul, a, b)
        made["bf16"][side] = partial(torch.matmul, *half)
        made["int8"][side] = partial(torch._int_mm, *whole)
    return {name: products for name, products in made.items() if all(map(_works, products.values()))}


def _works(product: Callable[[], Any]) -> bool:
    try:
        product()
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True


def best(call: Callable[[], Any], seconds: float = SECONDS) -> float:
    """Seconds of the fastest call among those of so many seconds; three at least."""
    clock, times = time.perf_counter, list[float]()
    end = clock() + seconds
    while clock() < end or len(times) < 3:
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


if __name__ == "__main__":
    sys.stdout.write(measured(int(sys.argv[1])).model_dump_json() + "\n")
