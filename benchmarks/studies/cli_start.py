"""How long `compressor --help` takes beside a bare interpreter, run in turns: `python -m benchmarks.studies.cli_start`."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.statistics import median_with_interval

ROUNDS = 15
LIMIT_SECONDS = 0.3
"""What `--help` may take beyond the bare interpreter."""


def start_seconds(commands: Sequence[Sequence[str]], *, rounds: int) -> list[list[float]]:
    """Wall time of each command in each round, all commands in turn; a first round that fills the file cache is left out.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    times = [[_seconds(command) for command in commands] for _ in range(rounds + 1)]
    return [list(column) for column in zip(*times[1:], strict=True)]


def table(bare: Sequence[float], command: Sequence[float]) -> str:
    """Markdown with medians and 95 % intervals, in milliseconds; the last row is the difference round by round."""
    beyond = [c - b for b, c in zip(bare, command, strict=True)]
    rows = {"bare interpreter": bare, "`compressor --help`": command, "difference": beyond}
    lines = ["| | median ms | 95 % interval | rounds |", "|---|---|---|---|"]
    for name, seconds in rows.items():
        value, interval = median_with_interval([1e3 * s for s in seconds], seed=0)
        lines.append(f"| {name} | {value:.0f} | {interval.low:.0f} to {interval.high:.0f} | {len(seconds)} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table; 1 when the difference exceeds its limit."""
    script = Path(sys.executable).with_name("compressor")
    bare, command = start_seconds([[sys.executable, "-c", "pass"], [str(script), "--help"]], rounds=ROUNDS)
    beyond, _ = median_with_interval([c - b for b, c in zip(bare, command, strict=True)], seed=0)
    sys.stdout.write(f"{table(bare, command)}\n\nLimit of the difference: {1e3 * LIMIT_SECONDS:.0f} ms.\n")
    return int(beyond > LIMIT_SECONDS)


def _seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
