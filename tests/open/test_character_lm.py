"""A causal language model by a stand-in task: its cache goes round on the device, and prefill and decode are timed, all by public doors."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from benchmarks.latency import Latency
from compressor.contracts import Candidate, Workload, records
from compressor.deploy.bench import ProcessBench
from compressor.deploy.build import Builder
from compressor.export.spec import read_deployed, spec_of
from compressor.model import Model
from compressor.store import Store
from targets.eager import EagerTorch
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

HERE = Path(__file__).parents[1] / "stand_ins" / "language"
TARGETS = {"torch": EagerTorch, "onnxruntime": OnnxRuntime, "openvino": OpenVino}
LENGTH, STEPS = 9, 7
ROWS = datasets.Dataset.from_dict({"text": ["the quick brown fox jumps", "over the lazy dog", "and back again"]})


@pytest.fixture(scope="module")
def task():
    """The stand-in's task, installed here and in measuring processes."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(HERE))
    patch.setenv("PYTHONPATH", str(HERE))
    from character_lm import CharacterLM

    yield CharacterLM(max_length=16)
    patch.undo()


@pytest.fixture(scope="module")
def module(task):
    from character_lm import tiny_llama

    return tiny_llama()


@pytest.fixture(scope="module")
def candidates(task, module, tmp_path_factory) -> dict[str, Candidate]:
    """The model built for every target."""
    root = tmp_path_factory.mktemp("causal")
    store = Store(root / "store")
    builder = Builder(store, task, "character-lm", (), {})

    def save(out):
        Model.wrap(module).save(out)
        return {}

    source, built = store.obtain({"step": "source"}, save), {}
    for name, kind in TARGETS.items():
        lowered = builder.lower(source, "torch", kind.dialect.format, kind())
        built[name] = builder.build(lowered, stage="final", name=name, target=kind(), out=root / name)[0]
    return built


@pytest.fixture(scope="module")
def sessions(candidates):
    return {name: each.runtime.open(each.built) for name, each in candidates.items()}


def prompts(task, batch=2):
    return task.feeds(ROWS, Path(), Workload(batch=batch, length=LENGTH), count=2)


@pytest.mark.parametrize("name", TARGETS)
def test_greedy_tokens_are_those_of_transformers_on_every_target(name, task, module, sessions):
    for feed in prompts(task):
        with torch.no_grad():
            given = torch.from_numpy(feed["input_ids"])
            expected = module.generate(given, max_new_tokens=STEPS, do_sample=False, pad_token_id=0)
        found = task.call(sessions[name], feed, Workload(kind="generate", batch=2, length=LENGTH, steps=STEPS))
        assert found["tokens"].tolist() == expected[:, LENGTH:].tolist()


@pytest.mark.parametrize("name", TARGETS)
def test_a_call_with_state_goes_on_where_the_last_one_ended(name, task, sessions):
    feed = prompts(task)[0]["input_ids"]
    whole = sessions[name].run({"input_ids": feed})[0]["logits"]
    before, state = sessions[name].run({"input_ids": feed[:, :4]})
    after, _ = sessions[name].run({"input_ids": feed[:, 4:]}, state=state)
    np.testing.assert_allclose(np.concatenate([before["logits"], after["logits"]], axis=1), whole, atol=1e-4)
    assert set(before) == {"logits"}


@pytest.mark.parametrize("name", TARGETS)
def test_a_state_stays_as_it_is_whatever_comes_after_it(name, task, sessions):
    first, second = (feed["input_ids"] for feed in prompts(task))
    _, state = sessions[name].run({"input_ids": first[:, :4]})
    expected, longer = sessions[name].run({"input_ids": first[:, 4:]}, state=state)
    sessions[name].run({"input_ids": second}, state=longer)
    sessions[name].run({"input_ids": second})
    again, _ = sessions[name].run({"input_ids": first[:, 4:]}, state=state)
    np.testing.assert_array_equal(again["logits"], expected["logits"])


def test_state_is_what_the_runtime_keeps_on_its_device(task, sessions):
    import onnxruntime
    import openvino

    kinds = {"torch": torch.Tensor, "onnxruntime": onnxruntime.OrtValue, "openvino": openvino.Tensor}
    for name, kind in kinds.items():
        _, state = sessions[name].run(prompts(task)[0])
        assert {type(value) for value in state.values()} == {kind}
        assert sorted(state) == ["past.0.key", "past.0.value", "past.1.key", "past.1.value"]


def test_scores_are_the_same_on_every_target(task, sessions):
    from compressor.deploy.session import predictor

    found = {name: task.evaluate(predictor(task, session), ROWS, Path(), split="test") for name, session in sessions.items()}
    for evaluation in found.values():
        assert evaluation.scores.main.value == pytest.approx(found["torch"].scores.main.value, rel=1e-4)
        assert evaluation.weights.tolist() == [15, 15, 13]


def test_prefill_and_decode_are_timed_in_tokens_by_processes_of_their_own(task, candidates, tmp_path):
    probe = Latency(
        kinds=("prefill", "decode"), length=(LENGTH,), steps=STEPS, rounds=5, seconds=4, warm_up_seconds=0.05, control_limit=0.9
    )
    feeds = {workload: task.feeds(ROWS, Path(), workload, count=4) for workload in probe.workloads()}
    timed = [candidates["onnxruntime"], candidates["openvino"]]
    with ProcessBench(tmp_path / "bench", tell=lambda event: None) as bench:
        record = probe.measure(timed, feeds, bench, seed=0)
    assert [(row.candidate, row.workload.kind, row.unit) for row in record.rows] == [
        (candidate.id, kind, "tokens") for kind in ("prefill", "decode") for candidate in timed
    ]
    for row in record.rows:
        tokens = LENGTH if row.workload.kind == "prefill" else STEPS
        assert row.throughput_per_s == pytest.approx(1e3 * tokens / row.median_ms)
        assert all(sample > 0 for samples in row.samples_ms for sample in samples)


def test_decode_is_timed_without_its_prompt(task, sessions):
    """The worker prepares a feed once; each call goes on from the same filled cache and makes the same tokens."""
    workload = Workload(kind="decode", batch=2, length=LENGTH, steps=STEPS - 1)
    feed = prompts(task)[0]
    for session in sessions.values():
        calls = Counted(session)
        prepared = task.prepare(calls, feed, workload)
        assert calls.lengths == [LENGTH]
        tokens = [task.call(calls, feed, workload, prepared)["tokens"].tolist() for _ in range(2)]
        assert calls.lengths == [LENGTH, *[1] * 2 * (STEPS - 1)]
        whole = task.call(session, feed, Workload(kind="generate", batch=2, length=LENGTH, steps=STEPS))["tokens"]
        assert tokens == [whole[:, 1:].tolist()] * 2


@pytest.mark.parametrize("name", TARGETS)
def test_export_states_its_graph_and_why_there_is_no_example(name, candidates):
    candidate = records.Candidate(id=candidates[name].id, stage="final", target=name, facts={"precision": "fp32"})
    deployed = read_deployed(candidates[name].built, candidate)
    assert deployed.no_example.startswith("the model has a state that goes round")
    (graph,) = spec_of(deployed)["graphs"]
    assert ("present.1.key", "past.1.key") in graph["state"]
    assert (deployed.folder / graph["file"]).is_file()


class Counted:
    """A session that notes how long what it is given is."""

    def __init__(self, session):
        self.session, self.lengths = session, []

    def run(self, feed, *, graph="model", state=None):
        self.lengths.append(feed["input_ids"].shape[1])
        return self.session.run(feed, graph=graph, state=state)
