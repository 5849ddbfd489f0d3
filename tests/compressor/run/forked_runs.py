"""Real runs of one plan, all forked from a process that has imported everything: killed everywhere, side by side, interrupted.

    python forked_runs.py FOLDER

FOLDER has `plan.yaml`; each kind of runs works in FOLDER/KIND. `whole` and `without probes` are never killed and warm this process up;
the others follow.

`killed`: runs on one store and one run folder, each dead by SIGKILL at the first point at which it writes, renames, removes, starts
or ends a process and no run died before, until one ends: those in FOLDER/killed/unmeasured without probes, whose processes cost
most of a run that gets as far, then those in FOLDER/killed/measured at the points that only a run with probes passes.
FOLDER/killed/points.jsonl has a line for each point. Points are Python's
audit events, before they take place, and once more with the file opened and still empty. What a library writes in its own machine
code raises no event; the points around it stand for it. A point is a phase, an event, a line of code and a folder, and the name
of what is put in place, so that a loop over the like of them counts once.
`two`, `four`: so many runs at once on one store; FOLDER/KIND/stored.txt has a line for each result that one of them stored.
`interrupted`: runs stopped by SIGINT, once and twice, while they train and while they measure, until one ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from compressor.training.checkpoint import INTERVAL

ROOT = str(Path(__file__).parents[3])
ROOMS = tuple(f"{ROOT}/{name}/" for name in ("compressor", "passes", "targets", "benchmarks"))
STORE = ("compressor/store/store.py", "compressor/store/locks.py")
PHASES = {
    "export": ("compressor/export/",),
    "report": ("compressor/report/", "compressor/run/results.py:report", "compressor/run/results.py:write"),
    "measuring": ("compressor/deploy/bench.py", "benchmarks/"),
    "build": ("compressor/deploy/build.py:build", "targets/"),
    "lowering": ("compressor/deploy/build.py:lower", "compressor/deploy/onnx.py"),
    "training": (
        "compressor/training/loop.py",
        "compressor/training/checkpoint.py",
        "passes/finetune.py",
        "passes/distillation/distill.py",
    ),
    "passes": ("passes/",),
    "store": STORE,
    "run folder": ("compressor/",),
}
"""Where an event belongs, by the code on the stack; the first that fits. What the store does itself is the store's everywhere."""
ON_PATHS = {
    "os.rename": 1,
    "os.remove": 0,
    "os.rmdir": 0,
    "os.mkdir": 0,
    "os.utime": 0,
    "os.truncate": 0,
    "os.chmod": 0,
    "shutil.rmtree": 0,
    "shutil.copyfile": 1,
    "shutil.copytree": 1,
}
"""Events on a path, and which argument is the path that changes."""
ON_PROCESSES = ("subprocess.Popen", "subprocess.Popen.wait", "os.kill")
UNMEASURED = ("--set", "probes=[]")
DIGEST = 64
NUMBERS = str.maketrans("0123456789", "#" * 10)
DRAWN = re.compile(r"(?<=\.)[a-z0-9_]{8}(?=\.(compressor-export\.)?part\b)")
"""What is drawn anew in the name of a folder that is not in its place yet."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Here(threading.local):
    """Whether events of this thread are looked at; not those that looking at one raises."""

    watching = True


class Killer:
    """An audit hook that ends this process at the first point that is not in `known`."""

    def __init__(self, base: Path, known: set[str], log: Path) -> None:
        self._base, self._known, self._log, self._here = str(base), known, log, Here()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._here.watching or (event != "open" and event not in ON_PATHS and event not in ON_PROCESSES):
            return
        self._here.watching = False
        try:
            self._consider(event, arguments)
        finally:
            self._here.watching = True

    def _consider(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ON_PROCESSES:
            self._pass(event, "")
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        path = self._inside(event, arguments)
        if path is None:
            return
        self._pass(event, path)
        if event == "open" and self._is_new(f"{event}, still empty", path):
            os.close(os.open(arguments[0], arguments[2], 0o666))
            self._pass(f"{event}, still empty", path)

    def _inside(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        """The two folders below the watched one in which a path lies, and its name where it is put in place; None outside."""
        path = arguments[ON_PATHS.get(event, 0)]
        if isinstance(path, int):
            return None
        path, folder = os.fsdecode(path), None if event == "open" else arguments[-1]
        if not os.path.isabs(path) and isinstance(folder, int) and folder > 2:  # relative to an open folder
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        path = os.path.abspath(path)
        if not path.startswith(self._base + os.sep):
            return None
        *folders, name = path[len(self._base) + 1 :].split(os.sep)
        place = [*folders[:2], name] if event == "os.rename" and len(name) < DIGEST else folders[:2]
        return DRAWN.sub("#", os.sep.join(place)).translate(NUMBERS)

    def _point(self, event: str, path: str) -> dict[str, str]:
        frames = list(_ours(sys._getframe())) or ["compressor/"]
        rooms = {"store": STORE} if frames[0].startswith(STORE) else PHASES
        phase = next(name for name, room in rooms.items() if any(frame.startswith(room) for frame in frames))
        return {"phase": phase, "event": event, "line": frames[0], "path": path}

    def _is_new(self, event: str, path: str) -> bool:
        return json.dumps(self._point(event, path)) not in self._known

    def _pass(self, event: str, path: str) -> None:
        if self._is_new(event, path):
            with open(self._log, "a", encoding="utf-8") as log:
                log.write(json.dumps(self._point(event, path)) + "\n")
            os.kill(os.getpid(), signal.SIGKILL)


class Tally:
    """An audit hook that writes down each result that is put into a store."""

    def __init__(self, store: Path, log: Path) -> None:
        self._results, self._log = str(store / "results") + os.sep, log

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename" and os.path.realpath(arguments[1]).startswith(self._results):
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{os.path.basename(arguments[1])}\n")


Hook: TypeAlias = Callable[[str, tuple[Any, ...]], None]


def _ours(frame: FrameType | None) -> Iterator[str]:
    """Lines of this project on the stack, innermost first: `compressor/store/store.py:obtain:99`."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(ROOMS):
            yield f"{frame.f_code.co_filename[len(ROOT) + 1 :]}:{frame.f_code.co_name}:{frame.f_lineno}"
        frame = frame.f_back


def announce_ends_of_processes() -> None:
    """Raise an audit event before each wait for the end of a process, which Python itself does not."""
    wait = subprocess.Popen.wait

    def announced(self: subprocess.Popen[Any], timeout: float | None = None) -> int:
        sys.audit("subprocess.Popen.wait", self.pid)
        return wait(self, timeout)

    subprocess.Popen.wait = announced  # type: ignore[method-assign]


def remember_exports() -> None:
    """Let forks share what the exporter makes of a model: it takes time, and writes nothing that a run could die at."""
    import torch

    from compressor.deploy.traced import Traced, structure

    graph, made = Traced.graph, dict[Any, Any]()

    def remembered(self: Traced, wired: torch.nn.Module, inner: torch.nn.Module, how: Any, trace: Any) -> Any:
        tensors = [(name, tensor.numpy().tobytes()) for name, tensor in inner.state_dict().items()]
        key = (structure(inner), how, hashlib.sha256(repr(tensors).encode()).hexdigest())
        if key not in made:
            made[key] = graph(self, wired, inner, how, trace)
        kept = type(made[key])()  # who asked may change it
        kept.CopyFrom(made[key])
        return kept

    Traced.graph = remembered  # type: ignore[method-assign]


def remember_charts() -> None:
    """Let forks share what matplotlib draws, for the same reasons: of a run whose results are all found it is most of the work."""
    from compressor.report import changes, drawing, notes, timings, trade_off, waterfall

    draw, made = drawing.draw, dict[str, drawing.Chart]()

    def remembered(name: str, paint: Callable[..., None], **options: Any) -> drawing.Chart:
        shown = [cell.cell_contents for cell in paint.__closure__ or ()]
        key = repr((name, paint.__qualname__, shown, options))
        if key not in made:
            made[key] = draw(name, paint, **options)
        return made[key]

    for module in (changes, notes, timings, trade_off, waterfall):
        module.draw = remembered  # type: ignore[attr-defined]


def command(folder: Path, *more: str) -> int:
    """The command line in this process, run in `folder` on the nearest plan above it with some more words; its exit code."""
    from compressor.cli import main

    os.chdir(folder)
    plan = next(above / "plan.yaml" for above in folder.parents if (above / "plan.yaml").is_file())
    sys.argv = ["compressor", "run", str(plan), "--store", "store", "--out", "run", "--export", "export", *more]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def forked(folder: Path, *more: str, said: Path, hook: Hook | None = None) -> int:
    """Start the command line in a fork of this process, what it says going to a file; its number."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        announce_ends_of_processes()
        if hook:
            sys.addaudithook(hook)
        code = command(folder, *more)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Exit code of a process, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def whole(folder: Path, more: Sequence[str] = ()) -> None:
    """One run without a fault."""
    if code := command(folder, *more):
        raise SystemExit(code)


def killed(folder: Path) -> None:
    """Runs that die at one point after another, until one ends; without probes first."""
    log = folder / "points.jsonl"
    for name, more in (("unmeasured", UNMEASURED), ("measured", ())):
        (folder / name).mkdir()
        killed_in(folder / name, *more, log=log)


def killed_in(folder: Path, *more: str, log: Path) -> None:
    """The same in one folder, at points that are not in the log yet."""
    known = set(log.read_text(encoding="utf-8").splitlines()) if log.exists() else set[str]()
    while (code := ended(forked(folder, *more, said=folder / "said.txt", hook=Killer(folder, known, log)))) == -signal.SIGKILL:
        points = set(log.read_text(encoding="utf-8").splitlines())
        if points == known:
            raise SystemExit("a run was killed, and not by this test")
        known = points
    if code:
        raise SystemExit(code)


def together(folder: Path, count: int) -> None:
    """So many runs at once on one store, each in a folder of its own."""
    (folder / "store").mkdir()
    children = []
    for number in range(count):
        run = folder / str(number)
        run.mkdir()
        (run / "store").symlink_to(folder / "store")
        children.append(forked(run, said=run / "said.txt", hook=Tally(folder / "store", folder / "stored.txt")))
    codes = [ended(child) for child in children]
    if any(codes):
        raise SystemExit(f"exit codes of {count} runs at once: {codes}")


def interrupted(folder: Path) -> None:
    """Runs stopped by one and by two SIGINT; each exit code and what was said go to numbered files."""
    number = 0
    for when in ("finetune: start", "latency: measure"):
        for signals in (1, 2):
            said = folder / f"said-{number}.txt"
            child = forked(folder, said=said)
            while when not in (said.read_text(encoding="utf-8") if said.exists() else ""):
                if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    raise SystemExit(f"run {number} ended without '{when}', at which it was to be interrupted")
                time.sleep(0.01)
            for _ in range(signals):
                time.sleep(0.1)
                os.kill(child, signal.SIGINT)
            (folder / f"code-{number}.txt").write_text(str(ended(child)), encoding="utf-8")
            number += 1
    if code := ended(forked(folder, said=folder / "said-last.txt")):
        raise SystemExit(code)


KINDS: dict[str, Callable[[Path], None]] = {
    "killed": killed,
    "two": lambda folder: together(folder, 2),
    "four": lambda folder: together(folder, 4),
    "interrupted": interrupted,
}


def apart(base: Path, kinds: Sequence[str]) -> int:
    """Do kinds of runs one after the other in a fork of this process; its number."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        for kind in kinds:
            timed(base / kind, KINDS[kind])
        code = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


def timed(folder: Path, runs: Callable[[Path], None]) -> None:
    """Do runs in a new folder, and leave there how many seconds they took."""
    started = time.monotonic()
    folder.mkdir()
    runs(folder)
    (folder / "seconds.txt").write_text(f"{time.monotonic() - started:.1f}", encoding="utf-8")


def main() -> None:
    base = Path(sys.argv[1]).resolve()
    os.environ[INTERVAL] = "0"  # a checkpoint after every step: points of their own
    remember_exports()
    remember_charts()
    timed(base / "whole", whole)
    timed(base / "without probes", partial(whole, more=UNMEASURED))
    lanes = [apart(base, kinds) for kinds in (("killed",), ("two", "four", "interrupted"))]
    raise SystemExit(max([abs(ended(lane)) for lane in lanes]))


if __name__ == "__main__":
    main()
