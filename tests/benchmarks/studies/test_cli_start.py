"""The start-up benchmark, on commands whose difference is known."""

import subprocess
import sys

import pytest

from benchmarks.studies.cli_start import start_seconds, table


def test_start_seconds_times_commands_in_turn_and_leaves_the_first_round_out():
    bare, slow = start_seconds([[sys.executable, "-c", "pass"], [sys.executable, "-c", "import time; time.sleep(0.2)"]], rounds=3)
    assert len(bare) == len(slow) == 3
    assert min(slow) > 0.2
    assert min(bare) > 0


def test_start_seconds_refuses_a_command_that_fails():
    with pytest.raises(subprocess.CalledProcessError):
        start_seconds([[sys.executable, "-c", "raise SystemExit(3)"]], rounds=1)


def test_table_ends_with_the_difference_round_by_round():
    rows = table([0.010, 0.020, 0.030], [0.110, 0.120, 0.130]).splitlines()
    assert rows[2].startswith("| bare interpreter | 20 |")
    assert rows[-1] == "| difference | 100 | 100 to 100 | 3 |"
