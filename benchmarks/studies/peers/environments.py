"""Packages of other tools, pinned, each set in a folder of its own that lies over or behind what is installed here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compressor.deploy.bench import QUIET, THREAD_VARIABLES

DONE = "complete"
MOST_SECONDS = 900
SHOWN = 200
"""Characters of an error."""
NEURAL_COMPRESSOR_NEEDS = ("py-cpuinfo==9.0.0", "prettytable==3.18.0", "wcwidth==0.9.4")
PINNED: Mapping[str, tuple[str, ...]] = {
    "optimum": (
        "optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "tokenizers==0.22.2", "huggingface_hub==0.36.2",
        "datasets==4.0.0",
    ),
    "torch": ("torchao==0.18.0", "neural-compressor-pt==3.10", *NEURAL_COMPRESSOR_NEEDS),
    "neural-compressor-onnx": ("onnx-neural-compressor==1.0", *NEURAL_COMPRESSOR_NEEDS),
}  # fmt: skip
"""Without what they need: torch, ONNX Runtime and the like are those installed here."""
ALONE = "COMPRESSOR_PEERS_ALONE"
KEPT = (
    ALONE, "PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "XDG_CACHE_HOME", "SSL_CERT_FILE",
    "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "CXX", *THREAD_VARIABLES,
)  # fmt: skip
"""Of the environment, and what pip is told where that has no password in it."""


def harmless(environment: Mapping[str, str]) -> dict[str, str]:
    """What code of other tools may know of an environment: no keys or tokens, whatever they are called."""
    return {name: value for name, value in environment.items() if name in KEPT or (name.startswith("PIP_") and "@" not in value)}


def forget_secrets() -> None:
    """Begin this program anew with what is harmless of its environment: code of other tools runs in it, and in what it starts.

    Taking names out of a running process would leave them in what the system shows of it.
    """
    if ALONE not in os.environ:
        os.execve(sys.executable, sys.orig_argv, {**harmless(os.environ), ALONE: "1"})


class Skipped(Exception):
    """Why a tool is left out."""


@dataclass(frozen=True)
class Environments:
    """Folders below one, each made once."""

    folder: Path

    def of(self, name: str) -> tuple[str, ...]:
        """The folder of an environment, none where its name is empty.

        Raises:
            Skipped: pip cannot make it.
        """
        if not name:
            return ()
        place = self.folder / name
        if not (place / DONE).is_file():
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--upgrade",
                "--target",
                str(place),
                *PINNED[name],
            ]
            told(command, f"pip cannot install {', '.join(PINNED[name])}")
            (place / DONE).touch()
        return (str(place),)


def told(command: list[str], what: str, packages: tuple[str, ...] = (), where: Path | None = None) -> None:
    """Run a command, its packages before those installed, in a folder that takes what it leaves behind.

    Raises:
        Skipped: it failed, or took too long: with the last line that it said.
    """
    environment = {**harmless(os.environ), **QUIET, "PYTHONPATH": os.pathsep.join(packages)}
    try:
        done = subprocess.run(
            command, check=False, cwd=where, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Skipped(f"{what}: no end within {MOST_SECONDS} s") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise Skipped(f"{what}: {lines[-1][:SHOWN] if lines else f'code {done.returncode}'}")
