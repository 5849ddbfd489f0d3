"""A model in a process of its own, seen from the page: started, asked, and ended with the page."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
ANSWER_SECONDS = 300.0
"""How long a model may take to answer before its process is ended."""
LOAD_SECONDS = 1800.0
CLOSE_SECONDS = 3.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ORT_DISABLE_TELEMETRY": "1",
}
"""No network and no telemetry in the process of a model."""


class Refused(Exception):
    """The model cannot answer; the text says why, for a person to read."""


@dataclass(frozen=True)
class Answer:
    """What a model answered, as a person reads it."""

    text: str
    confidence: float | None = None
    """Probability of what is told, in [0, 1]."""
    ranking: tuple[tuple[str, float], ...] = ()
    vector: tuple[float, ...] = ()
    number: float | None = None
    tokens: int = 0
    """How many tokens it went on with."""
    picture: str = ""
    """A PNG file that was drawn, in base64."""
    whole: bool = True
    """False while tokens are still to come."""


@dataclass(frozen=True)
class Block:
    """Calls that were timed."""

    seconds: tuple[float, ...]
    processor: float
    """Seconds of processor time of one call, a mean: less than a call takes where others had the processor, or a device did the work."""


@dataclass(frozen=True)
class Command:
    """How the process of a model is started."""

    arguments: Sequence[str]
    threads: int
    """Threads of one operator; the process keeps to as many processors."""
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_export(cls, folder: Path, threads: int) -> Command:
        """An exported folder, by its own example and without this project."""
        return cls((sys.executable, "-P", str(WORKER), str(folder.absolute()), str(threads)), threads)


class Side:
    """One of the models of a page. Requests come one after the other; a process that has died is started anew by the next one."""

    def __init__(self, name: str, command: Command) -> None:
        self.name = name
        self.threads = command.threads
        self._command = command
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._ready: Mapping[str, str] | None = None
        self._closed = False
        self._start()

    @property
    def facts(self) -> Mapping[str, str] | None:
        """What really runs; None while it is loading."""
        return self._ready

    @property
    def loading_seconds(self) -> float:
        """How long it has been loading."""
        return time.monotonic() - self._started

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def is_loaded(self, seconds: float = LOAD_SECONDS) -> bool:
        """Whether the model is loaded, waiting for it so long at most.

        Raises:
            Refused: it cannot be, and why.
        """
        with self._turn:
            self._begin()
            if self._ready is None:
                try:
                    line = self._answers.get(timeout=seconds)
                except queue.Empty:
                    if self.loading_seconds > LOAD_SECONDS:
                        raise Refused(f"it did not load within {LOAD_SECONDS:.0f} s") from None
                    return False
                if line is None:
                    raise self._ended()
                self._ready = dict(json.loads(line)["ready"])
            return True

    def answer(self, given: Any) -> Iterator[Answer]:
        """What the model answers to a text, to two, or to the file at a path; of one that goes on, the text after each token.

        Raises:
            Refused: the model cannot answer that.
        """
        with self._turn:
            for reply in self._asked({"ask": "answer", "given": given}):
                if "part" in reply:
                    yield Answer(reply["part"], whole=False)
                else:
                    found = reply["answer"]
                    ranking = tuple((str(label), float(share)) for label, share in found.pop("ranking", ()))
                    yield Answer(**{**found, "ranking": ranking, "vector": tuple(found.get("vector", ()))})

    def time(self, given: Any, calls: int) -> Block:
        """So many calls on the same input, by the clock of the process.

        Raises:
            Refused: the model cannot answer that.
        """
        with self._turn:
            (reply,) = self._asked({"ask": "time", "given": given, "calls": calls})
            return Block(tuple(reply["seconds"]), float(reply["processor"]))

    def close(self) -> None:
        """End the process; nothing starts it anew."""
        self._closed = True
        process = self._process
        if process is None:
            return
        if process.stdin and not process.stdin.closed:
            with suppress(BrokenPipeError):
                process.stdin.close()
        try:
            process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._forget()

    def _start(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._started, self._ready = time.monotonic(), None
        threads = dict.fromkeys(THREAD_VARIABLES, str(self._command.threads))
        self._process = subprocess.Popen(
            list(self._command.arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, **threads, **OFFLINE, **self._command.environment},
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the page, which ends its models
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process, self._answers), daemon=True)
        self._listener.start()

    @staticmethod
    def _listen(process: subprocess.Popen[str], answers: queue.SimpleQueue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put(None)

    @property
    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _begin(self) -> None:
        """Start the process anew where it has ended."""
        if self._closed:
            raise Refused(f"the {self.name} model was closed: open it again")
        if self._process is not None and not self._alive:
            self._forget()
        if self._process is None:
            self._start()

    def _asked(self, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        self._begin()
        if self._ready is None:
            self._ready = dict(self._next(LOAD_SECONDS)["ready"])
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        over = False
        try:
            while not over:
                reply = self._next(ANSWER_SECONDS)
                over = "part" not in reply
                if "error" in reply:
                    raise Refused(str(reply["error"]))
                yield reply
        finally:
            while not over and self._alive:  # whoever asked has gone: the rest is nobody's answer
                over = "part" not in self._next(ANSWER_SECONDS)

    def _next(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            self._kill()
            self._forget()
            raise Refused(f"the {self.name} model gave no answer within {seconds:g} s and was ended") from None
        if line is None:
            raise self._ended()
        found: dict[str, Any] = json.loads(line)
        return found

    def _ended(self) -> Refused:
        if self._closed:
            return Refused(f"the {self.name} model was closed: open it again")
        self._kill()
        self._said.seek(0)
        lines = [line for line in self._said.read().decode(errors="replace").splitlines() if line.strip()]
        self._forget()
        last = lines[-1] if lines else "it said nothing"
        return Refused(f"the process of the {self.name} model ended: {last}")

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _forget(self) -> None:
        """Close what leads to a process that has ended."""
        process, self._process = self._process, None
        self._listener.join()
        self._said.close()
        for pipe in (process.stdin, process.stdout) if process else ():
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
