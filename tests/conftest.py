"""What all tests share: no network, one thread, and a cache of their own."""

from __future__ import annotations

import os
import re

import pytest

from compressor.deploy.telemetry import SWITCHES, silence

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ |= SWITCHES
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
silence()  # before a module of tests imports openvino, which would send from a fork of this process at each conversion


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Nothing is read from or written to the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


# ------------------------------------------------------------------ dealing tests to processes

LONGEST = (
    "test_forked_runs.py",
    "test_speech_plan.py",
    "test_pipeline.py",
    "test_pruned_exports.py",
    "test_rehearsal.py",
    "test_distill_and_prune.py",
    "test_plugins.py",
    "test_processes.py",
    "test_comparison.py",
    "test_audio_classification.py",
    "test_plan_properties.py",
    "test_testing.py",
    "test_export.py",
    "test_loop.py",
)
"""Files that take long, the longest first: begun last, one of them would leave all other processors idle at the end."""
DEALT_BY_SUBJECT = ("test_speech_plan.py",)
"""Files that are dealt in parts, since each first parameter has a run of its own."""


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`--dist loadfile`, but for files that are dealt in parts."""
    from xdist.scheduler import LoadFileScheduling

    class Dealt(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            subject = re.search(r"\[([^-\]]*)", nodeid)
            return f"{file} {subject[1]}" if subject and file.endswith(DEALT_BY_SUBJECT) else file

    return Dealt(config, log) if config.getvalue("dist") == "loadfile" else None
