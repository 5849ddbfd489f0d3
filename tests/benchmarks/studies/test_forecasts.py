from __future__ import annotations

import pytest

from benchmarks.studies.forecasts import Taken, document
from compressor.contracts.records import Forecast, ForecastRow, Spent
from compressor.run.forecast import REST

SPENT = (
    Spent(work="step", of="finetune", seconds=90.0),
    Spent(work="evaluate", of="finetune", seconds=10.0),
    Spent(work="build", of="final", target="openvino", seconds=4.0),
    Spent(work="score", of="final", target="openvino", seconds=6.0),
)


@pytest.fixture
def taken():
    return Taken(SPENT, seconds=115.0, memory_bytes=2**30, disk_bytes=2**29)


@pytest.fixture
def forecast():
    seconds = {"finetune": 150.0, "files for openvino": 10.0, "prune-structure": 1.0, REST: 5.0}
    rows = tuple(ForecastRow(step=step, rehearsed_seconds=1.0, seconds=each) for step, each in seconds.items())
    return Forecast(
        name="tiny", rows=rows, seconds=166.0, memory_bytes=2**29, disk_bytes=2**29, rehearsal_seconds=42.0, trials=("a part",)
    )


def test_time_of_a_real_run_falls_into_the_rows_of_a_forecast_and_nothing_is_lost(taken):
    assert taken.by_step() == {"finetune": 100.0, "files for openvino": 10.0, REST: 5.0}


def test_page_holds_each_step_against_what_it_took(forecast, taken):
    lines = document({"plans/tiny.yaml": (forecast, taken)}).splitlines()
    assert "| finetune | 1.0 s | 150.0 s | 100.0 s | 1.50 |" in lines
    assert "| files for openvino | 1.0 s | 10.0 s | 10.0 s | 1.00 |" in lines
    assert "| prune-structure | 1.0 s | 1.0 s | - | - |" in lines
    assert "| peak memory |  | 512 MiB | 1024 MiB | 0.50 |" in lines
    assert "- Total time: off by 44%." in lines
