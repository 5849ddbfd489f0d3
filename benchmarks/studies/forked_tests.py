"""Tests of a changed module, run in a fork of a process that has imported all libraries, and of this project what does not need the module.

Importing takes longer than most tests; a fork has it at once. It works on a copy of the project, in which one module is replaced,
so that the processes which a test starts see the fault too.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

PROJECT = ("compressor", "passes", "targets", "benchmarks")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"} | {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
LIMIT_BYTES = 12 * 2**30
"""Memory that a fork may ask for: a mutant that wants more has died of its fault."""
ENOUGH, LEAST_SECONDS = 10, 30.0
"""Times of a clean run that a mutant may take, and the seconds that it may take in any case."""
PASSED, FAILED, NONE_FOUND = 0, 1, 5
"""Exit codes of pytest that say something of the tests."""


@dataclass(frozen=True)
class Ran:
    """How a run of tests ended."""

    outcome: str
    """`survived` where all tests passed, `killed`, or `timed out`."""
    by: str
    """The first test that failed."""
    seconds: float


@dataclass(frozen=True)
class Tests:
    """A copy of the project, and the tests to run in it."""

    tree: Path
    selected: Sequence[str]
    """Arguments of pytest."""

    @classmethod
    def of(cls, root: Path, tree: Path, selected: Sequence[str]) -> Tests:
        """Copy what git knows of, or would know, and import for good what the tests need of libraries.

        Raises:
            SystemExit: the tests do not pass as they are.
        """
        shutil.rmtree(tree, ignore_errors=True)
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, text=True, check=True
        )
        for name in filter(None, listed.stdout.split("\0")):
            if (root / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, tree / name)
        tests = cls(tree, tuple(selected))
        _import(tests._run(None, clean=True)["libraries"])
        return tests

    def apart_from(self, modules: Sequence[str], work: Callable[[], None]) -> None:
        """Do `work` in a fork that has imported what the tests need of this project, but for these modules and what imports them.

        Raises:
            SystemExit: the work fails.
        """
        names = self._run(None, clean=True)["project"]
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _settle(self.tree)
                _import_without(names, modules)
                work()
                code = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise SystemExit(1)

    def clean(self) -> float:
        """Seconds of a run without a fault.

        Raises:
            SystemExit: a test fails.
        """
        began = time.monotonic()
        found = self._run(None)
        if found["code"] != PASSED:
            raise SystemExit(f"{' '.join(self.selected)}: {found['by'] or found} fails without a fault")
        return time.monotonic() - began

    def run(self, module: str, source: str, *, clean: float) -> Ran:
        """Run the tests on a module with a fault, for so long as `clean` seconds let expect."""
        path = self.tree / module
        held = path.read_bytes()
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)  # it is told by seconds and size alone
        began = time.monotonic()
        try:
            path.write_text(source, encoding="utf-8")
            found = self._run(max(LEAST_SECONDS, ENOUGH * clean))
        finally:
            path.write_bytes(held)
        seconds = round(time.monotonic() - began, 2)
        if found["code"] == NONE_FOUND:
            raise SystemExit(f"{' '.join(self.selected)} selects no test")
        outcome = {None: "timed out", PASSED: "survived"}.get(found["code"], "killed")
        return Ran(outcome, found["by"], seconds)

    def _run(self, limit: float | None, *, clean: bool = False) -> dict[str, Any]:
        """The exit code (None where time ran out), the first test that failed, and what was imported."""
        gc.collect()
        gc.freeze()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _test(self, write, keep=clean)
        os.close(write)
        return _result(child, read, limit)


def _result(child: int, read: int, limit: float | None) -> dict[str, Any]:
    timed_out = False

    def end(_signal: int, _frame: object) -> None:
        nonlocal timed_out
        timed_out = True
        os.killpg(child, signal.SIGKILL)

    held = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, limit or 0)
    try:
        with os.fdopen(read) as said:
            text = said.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, held)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # what its tests left running
    return {**_told(text, code), "code": None} if timed_out else _told(text, code)


def _told(text: str, code: int) -> dict[str, Any]:
    """What a fork said at its end; its exit code alone where it was ended before, or while, it did."""
    with contextlib.suppress(ValueError):
        found: dict[str, Any] = json.loads(text)
        return found
    return {"code": code, "by": "", "libraries": [], "project": []}


def _test(tests: Tests, write: int, *, keep: bool) -> NoReturn:
    """In the fork: run, tell, end; `keep` what was compiled."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    sys.dont_write_bytecode = not keep
    if sys.path[0] != str(tests.tree):
        _settle(tests.tree)
    log = os.open(tests.tree.with_name(f"{tests.tree.name}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import pytest

    class First:
        failed = ""

        def pytest_runtest_logreport(self, report: pytest.TestReport | pytest.CollectReport) -> None:
            if report.failed and not self.failed:
                self.failed = report.nodeid

        pytest_collectreport = pytest_runtest_logreport

    first = First()
    options = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(tests.tree.with_name(f"{tests.tree.name}-tmp"))]
    code = int(pytest.main([*options, *tests.selected], plugins=[first]))
    said = {"code": code, "by": first.failed, "libraries": _libraries() if keep else [], "project": _of_project() if keep else []}
    with os.fdopen(write, "w") as out:
        json.dump(said, out)
    os._exit(code)


def _settle(tree: Path) -> None:
    """See the copy, and nothing of what this program has imported of the project."""
    for name in [name for name in sys.modules if name.partition(".")[0] in PROJECT]:
        del sys.modules[name]
    os.chdir(tree)
    sys.path[0] = str(tree)
    os.environ["PYTHONPATH"] = str(tree)
    importlib.invalidate_caches()


def _libraries() -> list[str]:
    """Modules that were imported from installed distributions, in the order in which they began to be."""
    places = ((name, getattr(module, "__file__", None) or "") for name, module in list(sys.modules.items()))
    return [name for name, place in places if "site-packages" in place]


def _of_project() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in PROJECT]


class _Refusing:
    """Finds some modules only to refuse them, so that what imports them cannot be imported either."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._names = {module.removesuffix(".py").replace("/", ".") for module in modules}

    def find_spec(self, name: str, *_: object) -> None:
        if name in self._names:
            raise ImportError(f"{name} is to have a fault")


def _import_without(names: Sequence[str], modules: Sequence[str]) -> None:
    refusing = _Refusing(modules)
    sys.meta_path.insert(0, refusing)
    _import(names)
    sys.meta_path.remove(refusing)


def prepare(root: Path) -> None:
    """Set what has to be set before libraries are imported, and give way to whatever else runs here."""
    os.environ.update(OFFLINE)
    quiet = runpy.run_path(str(root / "compressor/deploy/telemetry.py"))
    quiet["keep_to_here"]()
    quiet["silence"]()
    os.nice(19 - os.nice(0))


def _import(names: Sequence[str]) -> None:
    for name in names:
        with warnings.catch_warnings(), contextlib.suppress(Exception):  # what cannot be imported alone, the tests import
            warnings.simplefilter("ignore")
            importlib.import_module(name)
