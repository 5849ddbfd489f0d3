"""What cannot be deployed as it is trained is refused before anything is trained."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from rounded_students import assert_alike, context, deployed, outputs, step, trained, wide

from compressor.contracts import Scheme, registry
from compressor.deploy.gguf import Gguf
from compressor.errors import UnsupportedModel
from compressor.model.quantization.layers import quantized_layers
from compressor.model.sharding import shard
from compressor.plan.bound import load_plan
from compressor.plan.yaml_source import write_yaml
from compressor.run.preview import previewed
from compressor.store import Store
from compressor.testing.tiny import run_of
from compressor.training.lora import Lora, adapted
from passes.quantization_aware.choice import table_of
from targets.eager import EagerTorch
from targets.llama_cpp import LlamaCpp
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

GROUPED = {"weights": 8, "granularity": "group"}
"""llama.cpp has such products of its own weights: 8 bits, a step for 32 inputs, activations of 8 bits."""


@pytest.mark.parametrize("given", [{}, GROUPED, {"weights": 4}, {"ranges": "dynamic"}])
def test_targets_whose_files_hold_no_quantisers_are_refused(given, monkeypatch):
    """Whatever they have kernels for: the format is what holds none."""
    monkeypatch.setattr(Gguf, "writes_quantizers", False)
    assert "do not come down to 'gguf'" in step(**given).refuses(LlamaCpp.dialect)["weights"]
    assert step(**given).refuses(OnnxRuntime.dialect) == {}


TERNARY = {"weights": "ternary", "granularity": "group", "group": 256, "float16_steps": True}
BLOCK = "model.layers.0"


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        (TERNARY, "weights"),
        ({**TERNARY, "exclude": ("down_proj",)}, None),
        ({**TERNARY, "layer_bits": {"down_proj": 8}}, "layer_bits"),
        ({"weights": 4, "granularity": "group", "layer_bits": {"q_proj": 8}}, None),
    ],
)
def test_rows_that_groups_do_not_divide_are_refused_where_files_have_whole_groups(given, refused):
    rows = {f"{BLOCK}.mlp.down_proj": 320, f"{BLOCK}.self_attn.q_proj": 512, "model.embed_tokens": 320, "lm_head": 320}
    found = step(**given).refuses_rows(LlamaCpp.dialect, rows)
    assert list(found) == ([refused] if refused else [])
    assert not refused or f"rows of 320 weights ('{BLOCK}.mlp.down_proj') are not made of groups of 256" in found[refused]
    assert step(**given).refuses_rows(OnnxRuntime.dialect, rows) == {}, "it fills them up"


def test_check_knows_rows_of_weights_from_the_folder(tmp_path):
    kind = registry.load("task", "causal-lm")
    given = dict(kind.model_validate(dict(kind.examples[0])).tiny(tmp_path))
    cut = "  - prune-structure: {keep: 0.5, units: [neurons], importance: magnitude, round_to: 8}\n"

    def bound(before="", weights="ternary, granularity: group, group: 256"):
        path = tmp_path / "plan.yaml"
        path.write_text(
            "model: {folder: pretrained}\ntask:\n  causal-lm: {max_length: 48}\n"
            + write_yaml({"data": given})
            + f"passes:\n{before}  - distill-and-quantize: {{teacher: source, weights: {weights}}}\ntargets:\n  - llama-cpp: {{}}\n",
            encoding="utf-8",
        )
        return load_plan(path)

    with pytest.raises(
        UnsupportedModel, match=r"distill-and-quantize: weights: target 'llama-cpp': source has rows of \d+ weights \('model"
    ):
        previewed(bound(), Store(tmp_path / "store"))
    previewed(bound(before=cut), Store(tmp_path / "store"))


def test_ternary_weights_run_where_two_bits_do_and_not_the_other_way_round():
    two, three = (Scheme(each, "int8", "group", 256, dynamic=True) for each in ("int2", "ternary"))
    assert two.runs(three)
    assert not three.runs(two)


def test_weights_with_zero_points_are_refused_where_rows_have_a_step_each():
    for given in ({"granularity": "channel"}, {"granularity": "tensor"}, {}):
        with pytest.raises(ValidationError, match="symmetric_weights: false has kernels"):
            step(symmetric_weights=False, ranges="dynamic", **given)
    step(symmetric_weights=False, weights=4)
    step(symmetric_weights=False)


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_weights_with_zero_points_are_deployed_as_trained(granularity, tmp_path):
    model, _ = trained(tmp_path, epochs=1, symmetric_weights=False, granularity=granularity)
    for target in (OnnxRuntime(), OpenVino()):
        assert_alike(deployed(model, target, tmp_path)[0], outputs(model))


# ------------------------------------------------------------------ language models, whose head's work is put off


def language_model(tmp_path, **settings):
    kind = registry.load("task", "causal-lm")
    run = run_of("causal-lm", kind.model_validate(dict(kind.examples[0])))
    (tmp_path / "scratch").mkdir()
    model = run.model()
    return model, step(epochs=1, objectives={"soft-targets": 1.0}, **settings), run.context(tmp_path / "scratch")


def test_table_that_is_tied_to_such_a_head_stays_in_float(tmp_path):
    model, one, ctx = language_model(tmp_path)
    model.module.get_output_embeddings().weight = model.module.get_input_embeddings().weight
    left = one._quantise(student := model.copy(), ctx)
    assert left[table_of(student.module)[0]] == "of one matrix for words and head"
    assert quantized_layers(student.module)


# ------------------------------------------------------------------ what stays in float


@pytest.mark.parametrize("exclude", ["layr.1", "embedings"])
def test_exclude_that_names_nothing_is_refused_with_the_nearest_name(tmp_path, exclude):
    with pytest.raises(UnsupportedModel, match=f"exclude: no layer has '{exclude}' in its path"):
        trained(tmp_path, exclude=(exclude,))


@pytest.mark.parametrize("given", [{"exclude": ("clasifier",)}, {"weights": 4, "layer_bits": {"clasifier": 8}}])
def test_parts_of_paths_that_name_nothing_are_refused_before_a_step_before_it_trains(tmp_path, given):
    wide().save(tmp_path / "model")
    with pytest.raises(UnsupportedModel, match=r"no layer has 'clasifier' in its path \(did you mean 'classifier'"):
        step(**given).check(tmp_path / "model", {"source": tmp_path / "model"})
    step(exclude=("classifier", "query", "word_embeddings")).check(tmp_path / "model", {"source": tmp_path / "model"})


@pytest.mark.parametrize("given", [{"weights": 4}, {"granularity": "group"}])
def test_groups_beside_activations_in_float_have_no_written_form(given):
    cuda = OnnxRuntime(provider="cuda").own_dialect()
    assert "written with activations of 8 bits" in step(activations="none", **given).refuses(cuda)["activations"]
    assert step(activations="none", **given).refuses(EagerTorch.dialect) == {}


def test_what_has_no_quantised_form_is_told(tmp_path):
    class Own(torch.nn.Linear):
        pass

    source = wide()
    source.module.bert.encoder.layer[0].output.dense.__class__ = Own
    left = step(exclude=("word_embeddings",))._quantise(source.copy(), context(tmp_path, source))
    assert left["bert.encoder.layer.0.output.dense"] == "of class Own, which has no quantised form"
    assert left["bert.embeddings.word_embeddings"] == "excluded"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layer_bits": {"": 8}}, "at least 1 character"),
        ({"exclude": [""]}, "at least 1 character"),
        ({"activations": "none", "calibration": 3}, "nothing would heed calibration"),
        ({"weights": "ternary", "step_rate": 1e-2}, "nothing would heed step_rate"),
        ({"ranges": "dynamic", "step_rate": 1e-2}, "nothing would heed step_rate"),
    ],
)
def test_settings_that_nothing_heeds_are_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        step(**given)
    step(weights=4, step_rate=1e-2)
    step(step_rate=1e-2)


def test_what_a_quantised_model_cannot_be_trained_with_is_refused(tmp_path):
    student = wide()
    step()._quantise(student, context(tmp_path))
    with pytest.raises(UnsupportedModel, match="is quantised, and its sum"), adapted(student.module, Lora(), seed=0):
        raise AssertionError("nothing is trained")
    with pytest.raises(UnsupportedModel, match="train it without --sharded"):
        shard(student.module, "cpu")
    assert step().needs_whole()
