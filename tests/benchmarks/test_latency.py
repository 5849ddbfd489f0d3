"""The latency protocol: on real processes of known speed, and on simulated machines that drift or lie."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.latency import Latency
from benchmarks.rounds import LEAD_IN_CALLS
from compressor.contracts import Candidate, Message, Progress, Workload
from compressor.contracts.records import LatencyRecord
from compressor.deploy.bench import ProcessBench
from compressor.errors import WorkerFailed

STAND_INS = Path(__file__).parents[1] / "stand_ins"
NATURAL = Workload()
FEEDS = {NATURAL: [{"x": np.zeros(1)}] * 4}


@pytest.fixture
def sleeping(monkeypatch):
    """The module of stand-in targets, importable here and in the workers."""
    monkeypatch.syspath_prepend(str(STAND_INS))
    monkeypatch.setenv("PYTHONPATH", str(STAND_INS))
    import sleeping

    return sleeping


def candidate(id_: str, runtime=None, built: Path = Path()) -> Candidate:
    stage, _, target = id_.partition("@")
    return Candidate(id_, stage=stage, target=target, runtime=runtime, built=built)


@pytest.mark.parametrize("given", [{"seconds": 1e9}, {"warm_up_seconds": 1e9}, {"rounds": 10**9}], ids=str)
def test_what_would_take_years_is_refused(given):
    with pytest.raises(ValidationError, match="less than or equal to"):
        Latency(**given)


def test_what_is_named_twice_is_timed_once():
    assert len(Latency(batch=(1, 1), length=(8, 8)).workloads()) == 1


# ------------------------------------------------------------------ real processes


def measured(candidates, folder, **parameters) -> tuple[LatencyRecord, list]:
    heard = []
    probe = Latency(**{"rounds": 5, "seconds": 1.5, "warm_up_seconds": 0.05, "control_limit": 0.3, "controls": 1} | parameters)
    with ProcessBench(folder / "bench", tell=heard.append) as bench:
        return probe.measure(candidates, FEEDS, bench, seed=1), heard


def test_latency_finds_known_ratios_between_processes(sleeping, tmp_path):
    times_ms = {"source@a": 24.0, "source@b": 12.0, "final@b": 6.0}
    candidates = [candidate(id_, sleeping.Sleeping(ms=ms), tmp_path) for id_, ms in times_ms.items()]
    record, heard = measured(candidates, tmp_path, controls=3)
    ratios = {(ratio.of, ratio.to): ratio for ratio in record.ratios}
    assert set(ratios) == {
        ("source@a", "source@b"),
        ("source@b", "source@a"),
        ("final@b", "source@a"),
        ("final@b", "source@b"),
    }
    for (of, to), ratio in ratios.items():
        assert ratio.value == pytest.approx(times_ms[to] / times_ms[of], rel=0.5)  # a busy machine lengthens every sleep
        assert ratio.outcome == ("slower" if of == "source@a" else "faster")
    assert all(row.median_ms >= ms for row, ms in zip(record.rows, times_ms.values(), strict=True))
    assert heard[-1] == Progress("latency", blocks := 42 * record.controls[0].attempts, blocks, unit="blocks")


def test_latency_keeps_every_sample_and_what_went_before(sleeping, tmp_path):
    record, _ = measured([candidate("source@a", sleeping.Sleeping(ms=4.0), tmp_path)], tmp_path)
    row = record.rows[0]
    assert len(row.samples_ms) == len(row.rounds_ms) == 5 * record.controls[0].attempts
    assert sum(len(samples) for samples in row.samples_ms) == row.n
    assert row.rounds_ms == pytest.approx([float(np.median(samples)) for samples in row.samples_ms])
    assert row.interval.low <= row.median_ms <= row.interval.high
    assert row.throughput_per_s == pytest.approx(1e3 / row.median_ms)
    assert row.first_call_ms >= 4.0
    assert row.warm_up_calls > 0
    assert (row.p90_ms is None) == (row.n < 64)
    assert 0.0 <= record.load_before <= 1.0


def test_latency_measures_again_when_the_control_fails_once(sleeping, tmp_path):
    record, heard = measured([candidate("source@a", sleeping.Fickle(ms=12.0, fickle_processes=2), tmp_path)], tmp_path)
    assert (record.controls[0].attempts, record.controls[0].passed) == (2, True)
    (ratio,) = record.protocol["earlier_controls"]["batch 1"]
    assert ratio == pytest.approx(2.0, rel=0.35)
    (said,) = [event.text for event in heard if isinstance(event, Message)]
    assert said == f"batch 1: the baseline against itself gave {ratio:.3f}; measuring again"
    assert heard[-1] == Progress("latency", 28, 28, unit="blocks")
    assert len(record.rows[0].rounds_ms) == 10, "the rounds of both attempts count"


def test_latency_is_undecided_when_the_control_fails_three_times(sleeping, tmp_path):
    candidates = [
        candidate("source@a", sleeping.Fickle(ms=1.0), tmp_path),
        candidate("final@a", sleeping.Sleeping(ms=1.0), tmp_path),
    ]
    record, _ = measured(candidates, tmp_path, seconds=0.5)
    assert (record.controls[0].attempts, record.controls[0].passed) == (3, False)
    (ratio,) = record.ratios
    assert (ratio.outcome, ratio.disturbed) == ("undecided", True)
    assert ratio.interval.low < 1 < ratio.interval.high
    assert record.controls[0].noise > 0.5


def test_latency_ends_all_processes_when_one_fails(sleeping, tmp_path):
    candidates = [
        candidate("source@a", sleeping.Sleeping(), tmp_path),
        candidate("final@a", sleeping.Sleeping(fault="killed"), tmp_path),
    ]
    with ProcessBench(tmp_path / "bench", tell=lambda event: None) as bench:
        with pytest.raises(WorkerFailed, match="final@a"):
            Latency().measure(candidates, FEEDS, bench, seed=0)
        assert list((tmp_path / "bench").iterdir()) == []


# ------------------------------------------------------------------ simulated machines


class SimulatedBench:
    """Processes whose calls take what `call_ms(id, blocks run so far on the machine)` says, with 3 % noise."""

    def __init__(self, call_ms) -> None:
        self.call_ms, self.blocks, self.heard, self.open = call_ms, [], [], 0
        self.rng = np.random.default_rng(7)

    @contextmanager
    def begun(self, candidates):
        assert not self.open, "processes start before the first one is loaded"
        yield
        assert not self.open

    def worker(self, candidate):
        self.open += 1
        return SimulatedWorker(candidate.id, self)

    def load(self) -> float:
        return 0.0

    def tell(self, event) -> None:
        self.heard.append(event)


class SimulatedWorker:
    def __init__(self, id_: str, bench: SimulatedBench) -> None:
        self.id, self.bench = id_, bench
        self.times = {"load_seconds": "0.1", "first_call_seconds": "0.2"}
        self.turn = 0

    def put(self, feeds, workload) -> None:
        self.turn = len(feeds)

    def run(self, calls: int):
        self.bench.blocks.append((self.id, calls, self.turn))
        ms = self.bench.call_ms(self.id, len(self.bench.blocks))
        return tuple(ms / 1e3 * np.exp(0.03 * self.bench.rng.standard_normal(calls)))

    def close(self) -> None:
        self.bench.open -= 1


def simulated(call_ms, ids=("source@a", "final@a"), *, workload=NATURAL, feeds=16, **parameters):
    bench = SimulatedBench(call_ms)
    probe = Latency(**parameters).at(workload)
    record = probe.measure([candidate(id_) for id_ in ids], {workload: [{}] * feeds}, bench, seed=3)
    return record, bench


def test_ratio_is_right_when_the_machine_slows_down_while_measuring():
    record, _ = simulated(lambda id_, block: (20 if id_ == "source@a" else 10) * (1 + block / 30))
    (ratio,) = record.ratios
    assert ratio.value == pytest.approx(2.0, rel=0.15)
    assert ratio.outcome == "faster"


def test_equal_candidates_show_no_measurable_change():
    record, _ = simulated(lambda id_, block: 10)
    assert [ratio.outcome for ratio in record.ratios] == ["no measurable change"]
    assert record.controls[0].passed


class BiasedBench(SimulatedBench):
    """The third process, the first control of two candidates, is 2.5 % slower than the first process of the same candidate."""

    def worker(self, candidate):
        worker = super().worker(candidate)
        if self.open == 3:
            run = worker.run
            worker.run = lambda calls: tuple(1.025 * seconds for seconds in run(calls))
        return worker


@pytest.mark.parametrize(("final_ms", "outcome"), [(9.75, "no measurable change"), (5.0, "faster")])
def test_only_an_effect_beyond_what_the_control_showed_is_told(final_ms, outcome):
    bench = BiasedBench(lambda id_, block: {"source@a": 10.0, "final@a": final_ms}[id_])
    record = Latency().measure([candidate("source@a"), candidate("final@a")], {NATURAL: [{}] * 16}, bench, seed=3)
    assert record.controls[0].passed
    (ratio,) = record.ratios
    assert ratio.outcome == outcome
    assert (ratio.interval.low > 1.0) == (outcome == "faster"), "an interval and its word never contradict each other"
    assert ratio.interval.high >= ratio.value * (1 + record.controls[0].noise) > 1.03 * ratio.value


def test_rounds_are_interleaved_in_changing_order_and_blocks_are_whole_turns():
    _, bench = simulated(
        lambda id_, block: 5, ("source@a", "final@a", "other@a"), workload=Workload(batch=8, length=128), rounds=9
    )
    blocks = bench.blocks[-9 * 6 :]
    rounds = [tuple(id_ for id_, _, _ in blocks[i : i + 6]) for i in range(0, len(blocks), 6)]
    assert all(sorted(order) == ["final@a", "other@a", *["source@a"] * 4] for order in rounds)
    assert len(set(rounds)) > 1
    assert all((calls - LEAD_IN_CALLS) % turn == 0 for _, calls, turn in blocks)
    assert bench.open == 0


def test_slow_candidates_run_fewer_inputs_and_all_run_the_same():
    _, bench = simulated(lambda id_, block: 900 if id_ == "source@a" else 9, seconds=60, rounds=5)
    assert {turn for _, _, turn in bench.blocks[-15:]} == {2}
    assert {calls for id_, calls, _ in bench.blocks[-15:] if id_ == "source@a"} == {1 + 2}


def test_percentiles_are_told_from_enough_calls():
    record, _ = simulated(lambda id_, block: 1, rounds=9, seconds=60)
    row = record.rows[0]
    assert row.n >= 662
    assert row.p90_ms == pytest.approx(1.04, rel=0.02)
    assert row.p99_ms == pytest.approx(1.07, rel=0.03)
    few = simulated(lambda id_, block: 300, rounds=5, seconds=30)[0].rows[0]
    assert few.p99_ms is None


def test_warm_up_goes_on_until_the_blocks_agree_and_says_when_they_never_do():
    settling, _ = simulated(lambda id_, block: 10)
    assert settling.protocol["unsteady"] == []
    shaking, _ = simulated(lambda id_, block: 10 * (1 + block % 3))
    assert "final@a at batch 1" in shaking.protocol["unsteady"]


def test_record_survives_json():
    record, _ = simulated(lambda id_, block: 10)
    assert LatencyRecord.model_validate_json(record.model_dump_json()) == record


def test_workloads_are_every_kind_with_every_batch_at_every_length():
    grid = ((1, 64), (1, 128), (8, 64), (8, 128))
    every = tuple(Workload(batch=batch, length=length) for batch, length in grid)
    assert Latency(batch=(1, 8), length=(64, 128)).workloads() == every
    assert Latency().workloads() == (Workload(),)
    loops = Latency(kinds=("prefill", "decode"), length=(64,), steps=4).workloads()
    assert loops == (Workload(kind="prefill", length=64), Workload(kind="decode", length=64, steps=4))


def test_a_probe_for_one_workload_measures_it_alone_in_the_time_it_is_given():
    asked = Workload(kind="decode", batch=2, length=64, steps=4)
    probe = Latency(batch=(1, 8), length=(64, 128), rounds=11).only(asked, seconds=7.0)
    assert (probe.workloads(), probe.seconds, probe.rounds) == ((asked,), 7.0, 11)


@pytest.mark.parametrize(
    ("workload", "unit", "units"),
    [
        (Workload(batch=8, length=128), "rows", 8),
        (Workload(kind="prefill", batch=2, length=64), "tokens", 128),
        (Workload(kind="decode", batch=2, length=64, steps=4), "tokens", 8),
        (Workload(kind="decode", batch=2, length=64), "tokens", 2),
        (Workload(kind="generate", batch=2, length=64, steps=16), "tokens", 32),
        (Workload(kind="sample", batch=2, steps=20), "samples", 2),
    ],
)
def test_throughput_counts_what_a_call_makes(workload, unit, units):
    row = simulated(lambda id_, block: 10, workload=workload)[0].rows[0]
    assert (row.workload, row.unit) == (workload, unit)
    assert row.throughput_per_s == pytest.approx(1e3 * units / row.median_ms)


def test_prefill_without_a_length_is_refused_with_the_plan():
    with pytest.raises(ValidationError, match="prefill needs a length"):
        Latency(kinds=("prefill",))


@pytest.mark.parametrize("fault", [{"batch": ()}, {"batch": (0,)}, {"rounds": 2}, {"seconds": 0}, {"control_limit": 1.5}])
def test_latency_refuses_parameters_out_of_range(fault):
    with pytest.raises(ValidationError):
        Latency(**fault)
