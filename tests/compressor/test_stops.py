"""A process that a signal asks to end ends, wherever the signal finds it, and its clean-up is not cut short."""

import subprocess
import sys

import pytest

ASKED = """
import os, signal, sys, time, weakref
from compressor.stops import heard, stop_by

signal.signal(signal.SIGTERM, lambda *_: stop_by(SystemExit(7)))

def ask(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):  # the handler is called before this ends
        pass

class Thing:
    pass
"""
DROPPED = {
    "the callback of a weak reference": "thing = Thing()\nlost = weakref.ref(thing, ask)\ndel thing",
    "a finalizer": "Thing.__del__ = ask\nThing()",
    "a library that drops every error": "try:\n    ask()\nexcept BaseException:\n    pass",
    "a key that cannot be compared": "Thing.__del__ = ask\nsorted([Thing() and 1, 0])",
}


def ran(code):
    return subprocess.run([sys.executable, "-c", ASKED + code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("where", DROPPED)
def test_what_python_or_a_library_drops_is_raised_again(where):
    ended = ran(f"{DROPPED[where]}\nprint('goes on', flush=True)\ntime.sleep(30)\nprint('to its end')\n")
    assert (ended.stdout, ended.stderr) == ("goes on\n", "")
    assert ended.returncode == 7


@pytest.mark.parametrize("fails", [False, True])
def test_clean_up_takes_its_time(fails):
    ended = ran(f"""
try:
    ask()
finally:
    try:
        if {fails}:
            raise OSError("of its own")
    except OSError:
        pass
    until = time.monotonic() + 1.3
    while time.monotonic() < until:
        pass
    print("cleaned")
""")
    assert ended.stdout == "cleaned\n"
    assert ended.returncode == 7


def test_nothing_is_raised_once_it_was_heard():
    ended = ran("""
try:
    ask()
except SystemExit:
    heard()
time.sleep(1.2)
print("on")
""")
    assert (ended.stdout, ended.returncode) == ("on\n", 0)
