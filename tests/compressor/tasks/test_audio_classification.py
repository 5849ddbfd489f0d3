"""Audio classification: decoding, loading, batches, scores, export with parity at other lengths, and Whisper without its 30 seconds."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
import transformers
from families import FAMILIES, WHISPER
from furnished import lowered
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from compressor.contracts import Artifact, Want, Workload
from compressor.errors import SourceError, UnsupportedModel
from compressor.model.edits import LiftLength
from compressor.model.model import Model
from compressor.plan.specs import DataSpec
from compressor.tasks.audio import MEL, PREPROCESSOR, RAW, decoded
from compressor.tasks.audio_classification import AudioClassification
from compressor.tasks.data import load_data
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

RATE = 16000
PITCHES = {"high": 880, "low": 220}
TASK = AudioClassification(seconds=0.5)
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "classifier_proj_size": 8}
EXTRACTORS = {
    "hubert": {
        "feature_extractor_type": RAW,
        "feature_size": 1,
        "sampling_rate": RATE,
        "padding_value": 0.0,
        "do_normalize": True,
    },
    "masked": {"feature_extractor_type": RAW, "feature_size": 1, "sampling_rate": RATE, "return_attention_mask": True},
    "whisper": {"feature_extractor_type": MEL, "feature_size": 8, "sampling_rate": RATE, "hop_length": 160, "n_fft": 400},
}


def tone(pitch, seconds, rate=RATE):
    return 0.3 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for name, pitch in PITCHES.items():
        (folder / name).mkdir()
        for number in range(8):
            soundfile.write(folder / name / f"{number}.wav", tone(pitch + number, 0.2 + 0.06 * number, 8000), 8000)
    spec = DataSpec(files=str(folder), format="audiofolder", split={"test": 0.25, "validation": 0.25})
    return load_data(spec, columns=TASK.columns(), seed=0, folder=folder)


def save(folder, family):
    torch.manual_seed(1)
    if family == "whisper":
        config = transformers.WhisperConfig(**{**WHISPER, "max_source_positions": 100, "encoder_layers": 1})
        transformers.WhisperModel(config).save_pretrained(folder)
    else:
        layer = {"feat_extract_norm": "layer", "conv_bias": True} if family == "masked" else {}
        convolutions = {"conv_dim": (16, 16), "conv_stride": (20, 16), "conv_kernel": (40, 20), "num_conv_pos_embeddings": 4}
        config = transformers.HubertConfig(**SIZES, **convolutions, num_conv_pos_embedding_groups=2, **layer)
        transformers.HubertModel(config).save_pretrained(folder)
    (folder / PREPROCESSOR).write_text(json.dumps(EXTRACTORS[family]))
    return folder


@pytest.fixture(scope="module", params=EXTRACTORS)
def stored(request, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("stored")
    TASK.load(save(tmp_path_factory.mktemp("source"), request.param), data, seed=3).save(out)
    return out


def predict(module):
    def run(feed):
        with torch.no_grad():
            return {"logits": module(**{name: torch.from_numpy(array) for name, array in feed.items()}).logits.numpy()}

    return run


def test_inputs_are_of_one_length_whatever_the_sounds_are(data, stored):
    rows = data.split("train")
    (feed, *_) = TASK.feeds(rows, stored, Workload(batch=4))
    assert {array.shape[-1] for array in feed.values()} in ({8000}, {50})
    assert [port.name for port in TASK.inputs(stored)] == list(feed)
    for batch in TASK.batches(rows, stored, batch_size=3, shuffle_seed=1):
        assert set(batch) == {*feed, "labels", "row"}
    (longer, *_) = TASK.feeds(rows, stored, Workload(length=16000))
    assert {array.shape[-1] for array in longer.values()} in ({16000}, {100})


def test_mask_says_what_is_padding_in_samples_and_in_frames(data, tmp_path):
    TASK.load(save(tmp_path / "source", "masked"), data, seed=0).save(tmp_path / "stored")
    model = Model.load(tmp_path / "stored")
    batch = next(iter(TASK.batches(data.split("train"), tmp_path / "stored", batch_size=4)))
    real = [min(8000, 2 * soundfile.info(row["audio"]["path"]).frames) for row in undecoded(data, range(4))]
    assert batch["attention_mask"].sum(-1).tolist() == pytest.approx(real, abs=2)
    outputs = TASK.forward(model.module, batch, Want(hidden_states=("hubert.encoder.layers.0",)))
    states = outputs.hidden_states["hubert.encoder.layers.0"]
    assert outputs.mask.shape == states.shape[:2]
    shares = outputs.mask.float().mean(-1) / batch["attention_mask"].float().mean(-1)
    assert ((shares > 0.9) & (shares < 1.1)).all()


def undecoded(data, numbers):
    import datasets

    rows = data.split("train").cast_column("audio", datasets.Audio(decode=False))
    return [rows[number] for number in numbers]


@pytest.mark.parametrize("target", [OnnxRuntime, OpenVino])
def test_export_scores_as_torch_does_also_at_other_lengths(data, stored, tmp_path, target):
    formats = stored.with_name(f"{stored.name}-formats")
    graph = lowered(Artifact("torch", stored), target.dialect.format, formats, task=TASK, dialect=target.dialect)
    built = tmp_path / "built"
    built.mkdir()
    target().build(graph, built)
    session, eager = target().open(built), predict(Model.load(stored).module)
    rows = data.split("test")
    expected = TASK.evaluate(eager, rows, stored, split="test")
    found = TASK.evaluate(lambda feed: session.run(feed)[0], rows, stored, split="test")
    np.testing.assert_allclose(found.outputs["logits"], expected.outputs["logits"], atol=1e-4)
    for length, batch in ((16000, 1), (4000, 3)):
        for feed in TASK.feeds(rows, stored, Workload(batch=batch, length=length), count=1):
            np.testing.assert_allclose(session.run(feed)[0]["logits"], eager(feed)["logits"], atol=1e-4)


# ------------------------------------------------------------------ sounds


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_sounds_of_any_rate_and_number_of_channels_become_one_wave_at_the_models_rate(tmp_path, rate):
    path = tmp_path / "tone.wav"
    both = np.stack([tone(440, 1.0, rate), np.zeros(rate)], axis=1)
    soundfile.write(path, both, rate, subtype="FLOAT")
    wave = decoded({"bytes": None, "path": str(path)}, RATE)
    assert (wave.dtype, wave.shape) == (np.float32, (RATE,))
    assert np.abs(np.fft.rfft(wave)).argmax() == 440
    assert float(np.abs(wave).max()) == pytest.approx(0.15, abs=0.01)
    np.testing.assert_array_equal(decoded({"bytes": path.read_bytes(), "path": None}, RATE), wave)


def test_file_that_is_no_sound_is_named(tmp_path):
    (tmp_path / "noise.wav").write_bytes(b"RIFF junk")
    with pytest.raises(SourceError, match=r"noise\.wav cannot be read as a sound: "):
        decoded({"bytes": None, "path": str(tmp_path / "noise.wav")}, RATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: it says how sounds become inputs"), ('{"feature_extractor_type": "Other"}', "'Other', expected")],
)
def test_model_without_a_known_feature_extractor_is_refused(data, tmp_path, content, message):
    source = save(tmp_path / "source", "hubert")
    (source / PREPROCESSOR).unlink() if content is None else (source / PREPROCESSOR).write_text(content)
    with pytest.raises(SourceError, match=message):
        TASK.load(source, data, seed=0)


def test_column_without_sounds_is_refused(data, stored):
    rows = data.split("test").remove_columns("audio").add_column("audio", ["a"] * len(data.split("test")))
    with pytest.raises(SourceError, match="holds no sounds"):
        TASK.scored_feeds(rows, stored)


def test_model_that_lacks_weights_of_its_encoder_is_refused(data, tmp_path):
    from safetensors.torch import load_file, save_file

    source = save(tmp_path / "source", "whisper")
    tensors = load_file(source / "model.safetensors")
    lost = next(name for name in tensors if name.endswith("encoder.conv1.weight"))
    shutil.copyfile(source / "model.safetensors", tmp_path / "whole")
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(SourceError, match=r"lacks 1 weights of WhisperForAudioClassification: encoder\.conv1\.weight"):
        TASK.load(source, data, seed=0)


# ------------------------------------------------------------------ Whisper's length


def test_encoder_of_free_length_computes_what_the_librarys_does_at_its_own_length():
    module = FAMILIES["whisper"].make()
    given = FAMILIES["whisper"].inputs()["input_features"]
    with torch.no_grad():
        expected = module(given, output_hidden_states=True)
        LiftLength().apply(module)
        found = module(given, output_hidden_states=True)
        shorter = module(given[..., :12])
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    assert len(found.hidden_states) == len(expected.hidden_states) == 4
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True))
    assert shorter.last_hidden_state.shape == (2, 6, 32)
    assert shorter.hidden_states is None


def test_other_models_have_no_length_to_lift():
    with pytest.raises(UnsupportedModel, match="lift-length fits encoders of Whisper only"):
        LiftLength().apply(FAMILIES["bert"].make())


def test_lifted_encoder_is_saved_and_loaded(tmp_path):
    model = Model.wrap(FAMILIES["whisper"].make())
    model.apply(LiftLength())
    model.save(tmp_path)
    given = torch.randn(1, 8, 12)
    with torch.no_grad():
        assert torch.equal(Model.load(tmp_path).module(given)[0], model.module(given)[0])
    assert type(Model.load(tmp_path).module).__name__ == WhisperEncoder.__name__


def test_extractor_of_another_model_is_refused(data, tmp_path):
    """The extractor of a large Whisper beside a small one: spectra of 128 bands, where the model takes 80."""
    source = save(tmp_path, "whisper")
    taken = json.loads((source / "config.json").read_text())["num_mel_bins"]
    (source / PREPROCESSOR).write_text(json.dumps({**EXTRACTORS["whisper"], "feature_size": taken + 8}))
    with pytest.raises(SourceError, match=f"feature_size is {taken + 8}, and the model takes {taken} \\(num_mel_bins"):
        TASK.examine(source, data.labels)
