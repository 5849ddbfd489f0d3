"""Files of OpenVINO with fixed sizes: the answers of dynamic ones, and no to what does not fit."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from compressor.contracts import Artifact, Graph, Port, Workload
from compressor.contracts.records import Candidate
from compressor.deploy.fixed import FixedSession, why_not
from compressor.errors import UnsupportedModel
from compressor.export.spec import read_deployed, spec_of
from compressor.plan.bound import load_plan
from compressor.run.preflight import check_lengths
from compressor.run.preview import preview
from compressor.store.store import Store
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.tiny import language_model
from compressor.testing.tiny import furnish, run_in, tiny_run
from targets.openvino import OpenVino

SIZES = {"batch": 2, "length": 16}
PLAN = """
model: {{folder: pretrained}}
task: {{text-classification: {{max_length: 32}}}}
data: {{files: rows.jsonl, split: {{validation: 8, test: 8}}}}
passes: [quantize-dynamic]
targets: [{{openvino: {{sizes: {sizes}}}}}]
probes: [{{latency: {{batch: [1], length: [16]}}}}]
"""


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """On the same model: dynamic, and of fixed sizes."""
    run, made = tiny_run(), {}
    for name, target in (("dynamic", OpenVino()), ("fixed", OpenVino(sizes=SIZES))):
        candidate, _ = run.builder.build(
            run.lowered(target), stage=name, name="openvino", target=target, out=tmp_path_factory.mktemp("sizes") / name
        )
        made[name] = target.open(candidate.built)
    return SimpleNamespace(**made, built=candidate.built, target=target)


def feed(batch, length):
    draw = np.random.default_rng(batch * 100 + length)
    mask = np.ones((batch, length), np.int64)
    for row in range(1, batch):
        mask[row, max(1, length - 2 * row) :] = 0
    return {
        "input_ids": draw.integers(5, 50, (batch, length)) * mask,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(mask),
    }


@pytest.mark.parametrize(("batch", "length"), [(2, 16), (1, 16), (2, 9), (1, 3), (5, 12)])
def test_answers_are_those_of_the_dynamic_file(sessions, batch, length):
    given = feed(batch, length)
    fixed, dynamic = (each.run(given)[0]["logits"] for each in (sessions.fixed, sessions.dynamic))
    assert fixed.shape == dynamic.shape
    np.testing.assert_allclose(fixed, dynamic, rtol=0, atol=1e-5)


def test_file_is_static_and_says_so(sessions):
    shapes = sessions.target._compiled(sessions.built, Graph()).inputs
    assert {tuple(port.get_shape()) for port in shapes} == {(2, 16)}
    assert sessions.fixed.facts()["sizes"] == "batch 2, length 16"


def test_export_says_the_sizes_and_has_no_example(sessions):
    measured = Candidate(id="fixed@openvino", stage="fixed", target="openvino", facts=sessions.fixed.facts())
    deployed = read_deployed(sessions.built, measured)
    assert deployed.no_example.startswith("the file takes batch 2, length 16 and nothing else")
    said = spec_of(deployed)
    assert (said["runtime"], said["loader"], said["measured"]["sizes"]) == ("openvino", "", "batch 2, length 16")
    assert [set(each) for each in said["inputs"]] == [{"name", "dtype", "axes"}] * 3


def test_what_is_longer_is_refused(sessions):
    with pytest.raises(UnsupportedModel, match="the file takes length 16, found 17"):
        sessions.fixed.run(feed(1, 17))


def test_sounds_are_not_padded():
    graph = Graph(inputs=(Port("sound", "float32", ("batch", "frames")),), outputs=(Port("y", "float32", ("batch",)),))
    session = FixedSession(None, graph, {"frames": 8})
    with pytest.raises(
        UnsupportedModel, match="takes frames 8, found 5, and nothing is known that shorter ones could be filled up with"
    ):
        session.run({"sound": np.zeros((1, 5), np.float32)})


def test_inputs_that_do_not_agree_are_refused(sessions):
    given = feed(1, 9)
    given["attention_mask"] = np.ones((1, 8), np.int64)
    with pytest.raises(UnsupportedModel, match="attention_mask has length 8, others have 9"):
        sessions.fixed.run(given)


def test_no_rows_give_no_answers(sessions):
    none = {name: array[:0] for name, array in feed(1, 9).items()}
    assert sessions.fixed.run(none)[0]["logits"].shape[0] == 0


def test_axes_that_no_input_has_and_states_are_refused():
    graph = Graph(inputs=(Port("ids", "int64", ("batch", "length")),))
    assert why_not([graph], {"length": 8}) == ""
    assert "no input has an axis 'lenght'; its inputs have batch, length" in why_not([graph], {"lenght": 8})
    kept = Graph(inputs=graph.inputs, outputs=graph.inputs, state=(("ids", "ids"),))
    assert "keeps something between calls" in why_not([kept], {"length": 8})
    assert "2 graphs" in why_not([graph, graph], {"length": 8})


@pytest.mark.parametrize("axes", [(), ("length",), (1, "length")])
def test_what_does_not_begin_with_rows_is_refused(axes):
    ids = Port("ids", "int64", ("batch", "length"))
    for graph in (
        Graph(inputs=(ids, Port("odd", "float32", axes))),
        Graph(inputs=(ids,), outputs=(Port("odd", "float32", axes),)),
    ):
        assert "do not all begin with one axis of rows" in why_not([graph], {"length": 8})


def test_build_refuses_an_axis_that_no_input_has(tmp_path):
    run, target = tiny_run(), OpenVino(sizes={"frames": 100})
    source = Artifact("openvino", run.lowered(target).path)
    with pytest.raises(UnsupportedModel, match="no input has an axis 'frames'"):
        target.build(source, tmp_path, graphs=run.task.graphs(source.path))


def test_profile_counts_what_the_file_computes_of_shorter_and_more_rows(sessions):
    def operations(batch, length):
        given = feed(batch, length)
        found = sessions.target.profile(sessions.built, lambda session: lambda: session.run(given), calls=3)
        return sum(each.operations for each in found.operators)

    whole = operations(2, 16)
    assert whole > 0
    assert operations(1, 9) == pytest.approx(whole), "it computes on what rows are filled up with too"
    assert operations(5, 16) == pytest.approx(3 * whole), "three turns"


def test_a_dry_run_says_what_files_take_and_longer_texts_are_not_timed(tmp_path):
    shutil.copytree(tiny_run().folder / "pretrained", tmp_path / "pretrained")
    shutil.copyfile(tiny_run().folder / "rows.jsonl", tmp_path / "rows.jsonl")
    told = {}
    for length in (16, 15):
        (tmp_path / "plan.yaml").write_text(PLAN.format(sizes=f"{{batch: 1, length: {length}}}"))
        told[length] = load_plan(tmp_path / "plan.yaml")
    check_lengths(told[16], tmp_path / "pretrained")
    with pytest.raises(UnsupportedModel, match="latency: target openvino takes length 15, found 16"):
        check_lengths(told[15], tmp_path / "pretrained")
    store = Store(tmp_path / "store")
    lines = list(preview(told[16], store))
    assert "openvino: ready; its files take batch 1, length 16 and no longer inputs" in lines
    with pytest.raises(UnsupportedModel, match="takes length 15, found 16"):  # what it learned of the other sizes is no answer
        list(preview(told[15], store))
    assert OpenVino().takes() == OpenVino().refuses(Workload(length=999)) == ""


def test_a_dry_run_refuses_axes_and_rows_that_no_file_would_take(tmp_path):
    shutil.copytree(tiny_run().folder / "pretrained", tmp_path / "pretrained")
    shutil.copyfile(tiny_run().folder / "rows.jsonl", tmp_path / "rows.jsonl")
    plan = PLAN.replace("latency: {{batch: [1], length: [16]}}", "latency")
    for sizes, why in (
        ("{lenght: 16}", "target openvino: sizes: no input has an axis 'lenght'"),
        ("{length: 3}", "takes length 3, found"),
    ):
        (tmp_path / "plan.yaml").write_text(plan.format(sizes=sizes))
        with pytest.raises(UnsupportedModel, match=why):
            list(preview(load_plan(tmp_path / "plan.yaml"), Store(tmp_path / "store")))


@pytest.mark.parametrize(("side", "fill"), [("right", 7), ("left", None)])
def test_texts_are_filled_up_with_what_their_tokenizer_pads_with_behind_their_end(side, fill):
    model = tiny_run().model()
    config = json.loads(model.files["tokenizer_config.json"]) | {"padding_side": side, "compressor": {"pad_id": 7}}
    ports = tiny_run().task.inputs(SimpleNamespace(files={"tokenizer_config.json": json.dumps(config).encode()}))
    assert {port.name: port.fill for port in ports}["input_ids"] == fill
    assert {port.name: port.fill for port in ports}["attention_mask"] == (None if fill is None else 0)


def test_a_decoder_that_reads_the_last_token_does_not_read_what_was_filled_up(tmp_path):
    """Its padding token is 1, and what is no padding token counts as text."""
    task = TextClassification(max_length=16)
    rows = furnish(tmp_path, task)
    shutil.rmtree(tmp_path / "pretrained")
    language_model(tmp_path / "pretrained", "qwen2")
    run, made = run_in(tmp_path, "text-classification", task, rows), {}
    for name, target in (("dynamic", OpenVino()), ("fixed", OpenVino(sizes=SIZES))):
        built, _ = run.builder.build(run.lowered(target), stage=name, name="openvino", target=target, out=tmp_path / name)
        made[name] = target.open(built.built)
    given = {"input_ids": np.array([[40, 50, 60, 70]]), "attention_mask": np.ones((1, 4), np.int64)}
    fixed, dynamic = (made[name].run(given)[0]["logits"] for name in ("fixed", "dynamic"))
    np.testing.assert_allclose(fixed, dynamic, rtol=0, atol=1e-5)
