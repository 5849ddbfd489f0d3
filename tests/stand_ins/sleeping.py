"""Targets that stand in for a runtime: how long a call takes, and how it goes wrong, is known exactly."""

import os
import sys
import time
from typing import ClassVar

import numpy as np

from compressor.contracts import Dialect, Missing, Target


class SleepingSession:
    def __init__(self, target):
        self._target, self._hoard, self._dtypes = target, [], ""

    def run(self, feed, *, graph="model", state=None):
        ms = self._target.ms + float(feed["ms"][0]) if "ms" in feed else self._target.ms
        self._dtypes = ",".join(f"{name}:{array.dtype}:{'x'.join(map(str, array.shape))}" for name, array in feed.items())
        if self._target.mebibytes:
            self._hoard.append(np.ones(self._target.mebibytes << 17))
        if self._target.fault == "print":
            sys.stdout.write("not an answer\n")
            sys.stdout.flush()
            os.write(1, b"nor this\n")
        if self._target.fault == "killed":
            os.kill(os.getpid(), 9)
        time.sleep(ms / 1e3)
        return feed, state

    def facts(self):
        names = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "DO_NOT_TRACK", "SLEEPING_TELEMETRY")
        return {"precision": "fp32", "threads": str(self._target.threads), "dtypes": self._dtypes} | {
            name: os.environ.get(name, "") for name in names
        }


class Sleeping(Target):
    """Sleeps for `ms` milliseconds a call, plus what the input `ms` says."""

    dialect: ClassVar[Dialect] = Dialect(format="torch")
    file: ClassVar[str] = "none"

    ms: float = 1.0
    mebibytes: int = 0
    fault: str = ""

    def missing(self):
        return Missing()

    def build(self, source, out, **_):
        (out / self.file).touch()

    def open(self, built):
        if self.fault == "raises":
            raise RuntimeError(f"no model in {built.name}")
        return SleepingSession(self)

    def profile(self, built, prepare, *, calls):
        if self.fault == "unwatched":
            raise RuntimeError(f"nothing watches {calls} calls of {built.name}")
        return

    def environment(self):
        return {"SLEEPING_TELEMETRY": "off", "OMP_NUM_THREADS": str(self.threads)}


class Fickle(Sleeping):
    """The first, third, fifth ... process takes twice as long, up to the one numbered `fickle_processes`."""

    fickle_processes: int = 1000

    def open(self, built):
        count = sum(1 for _ in built.glob("opened-*")) + 1
        (built / f"opened-{count}").touch()
        factor = 1 + count % 2 if count <= self.fickle_processes else 1
        return SleepingSession(self.model_copy(update={"ms": self.ms * factor}))


class NotATarget:
    pass
