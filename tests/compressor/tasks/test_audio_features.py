"""Speech without a task of its own: probes on frozen features, tables beside sounds, and what has no loss."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import soundfile
import torch
import transformers
from families import WHISPER
from furnished import lowered
from pydantic import ValidationError

from compressor.contracts import Artifact, Columns, Want, Workload
from compressor.deploy import session
from compressor.errors import CompressorError, PlanError, SourceError
from compressor.model.anatomy import anatomy_of
from compressor.model.model import Model
from compressor.plan.bound import load_plan
from compressor.plan.specs import DataSpec
from compressor.tasks.audio import MEL, PREPROCESSOR, RAW, decoded
from compressor.tasks.audio_features import AudioFeatures, right
from compressor.tasks.data import load_data
from passes.pruning.importance import data_scores
from targets.onnxruntime import OnnxRuntime
from targets.openvino import OpenVino

RATE = 8000
SPEAKERS, WORDS = ("anna", "bert", "cleo"), ("high", "low")
TASK = AudioFeatures.model_validate(
    {
        "seconds": 0.4,
        "linear_probes": {
            "word": {"label": "word", "groups": "speaker"},
            "word, 2 shots": {"label": "word", "groups": "speaker", "shots": 2},
            "speaker": {"label": "speaker"},
        },
    }
)
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
CONVOLUTIONS = {"conv_dim": (16, 16), "conv_stride": (8, 4), "conv_kernel": (16, 8), "num_conv_pos_embeddings": 4}


def write_sounds(folder):
    table = []
    for number in range(96):
        word, speaker = number % 2, number // 2 % 3
        wave = np.sin(2 * np.pi * (300 + 500 * word + 40 * speaker) * np.arange(2000 + 10 * number) / RATE)
        soundfile.write(folder / f"{number}.wav", 0.2 * (1 + speaker) * wave, RATE)
        table.append({"file_name": f"{number}.wav", "word": WORDS[word], "speaker": SPEAKERS[speaker]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    return folder


def read(folder, **changes):
    spec = {"files": str(folder), "format": "audiofolder", "split": {"test": 0.25, "validation": 0.25}, **changes}
    return load_data(DataSpec.model_validate(spec), columns=TASK.columns(), seed=0, folder=folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return read(write_sounds(tmp_path_factory.mktemp("sounds")))


def save(folder, family, layers=2):
    torch.manual_seed(1)
    if family == "whisper":
        config = transformers.WhisperConfig(**{**WHISPER, "max_source_positions": 100, "encoder_layers": layers})
        transformers.WhisperModel(config).save_pretrained(folder)
        extractor = {"feature_extractor_type": MEL, "feature_size": 8, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400}
    else:
        norm = {"feat_extract_norm": "layer", "conv_bias": True}
        config = transformers.HubertConfig(
            **SIZES, **CONVOLUTIONS, num_hidden_layers=layers, num_conv_pos_embedding_groups=2, **norm
        )
        transformers.HubertModel(config).save_pretrained(folder)
        extractor = {"feature_extractor_type": RAW, "feature_size": 1, "sampling_rate": RATE, "return_attention_mask": True}
    (folder / PREPROCESSOR).write_text(json.dumps(extractor))
    return folder


@pytest.fixture(scope="module", params=["hubert", "whisper"])
def stored(request, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("stored")
    TASK.load(save(tmp_path_factory.mktemp("source"), request.param), data, seed=0).save(out)
    return out


@pytest.fixture(scope="module", params=["hubert", "whisper"])
def shallow(request, data, tmp_path_factory):
    """Of one block: an export of two takes half as long again."""
    out = tmp_path_factory.mktemp("shallow")
    TASK.load(save(tmp_path_factory.mktemp("source"), request.param, layers=1), data, seed=0).save(out)
    return out


def eager(folder):
    return session.eager(TASK, Model.load(folder), "cpu")


def test_columns_name_all_that_probes_need_and_the_first_label_last():
    assert TASK.columns() == Columns(("audio",), "word", ("speaker",))


def test_encoder_is_loaded_without_a_head(stored):
    assert type(Model.load(stored).module).__name__ in ("HubertModel", "WhisperEncoder")


def test_scores_hold_each_probe_and_their_mean(data, stored):
    evaluation = TASK.evaluate(eager(stored), data.split("test"), stored, split="test")
    found = {metric.name: metric for metric in evaluation.scores.metrics}
    assert list(found) == ["probes", "word probe", "word, 2 shots probe", "speaker probe"]
    assert evaluation.scores.main.value == pytest.approx(np.mean([found[name].value for name in list(found)[1:]]))
    assert evaluation.outputs["features"].shape == (24, 32)
    assert evaluation.gains["probes"].mean() == pytest.approx(found["probes"].value)
    assert found["word probe"].value > 0.8, "two tones, an octave and more apart"
    assert all(metric.interval.low <= metric.value <= metric.interval.high for metric in found.values())


@pytest.mark.parametrize("target", [OnnxRuntime, OpenVino])
def test_exported_encoder_gives_the_same_features(data, shallow, tmp_path, target):
    formats = shallow.with_name(f"{shallow.name}-formats")
    graph = lowered(Artifact("torch", shallow), target.dialect.format, formats, task=TASK, dialect=target.dialect)
    built = tmp_path / "built"
    built.mkdir()
    target().build(graph, built)
    opened, ours = target().open(built), eager(shallow)
    for length, batch in ((3200, 2), (6400, 1)):
        for feed in TASK.feeds(data.split("test"), shallow, Workload(batch=batch, length=length), count=2):
            np.testing.assert_allclose(opened.run(feed)[0]["features"], ours(feed)["features"], atol=1e-4)


def test_padding_has_no_part_in_features_where_there_is_a_mask(data, tmp_path):
    TASK.load(save(tmp_path / "source", "hubert"), data, seed=0).save(tmp_path / "stored")
    rows, predict = data.split("test"), eager(tmp_path / "stored")
    short, long = (next(iter(TASK.feeds(rows, tmp_path / "stored", Workload(length=length), count=1))) for length in (3200, 6400))
    np.testing.assert_allclose(predict(short)["features"], predict(long)["features"], atol=2e-2)


def test_forward_captures_states_and_masks_their_frames(data, stored):
    module = Model.load(stored).module
    batch = next(iter(TASK.batches(data.split("train"), stored, batch_size=3)))
    block = next(name for name, _ in module.named_modules() if name.endswith("layers.1") and "conv" not in name)
    outputs = TASK.forward(module, batch, Want(hidden_states=(block,)))
    assert outputs.logits.shape == (3, 32)
    states = outputs.hidden_states[block]
    assert (outputs.mask is None) == ("attention_mask" not in batch)
    assert outputs.mask is None or outputs.mask.shape == states.shape[:2]


# ------------------------------------------------------------------ probes


def features(labels, spread=0.1):
    draw = np.random.default_rng(0)
    numbers = np.unique(labels, return_inverse=True)[1]
    return (numbers[:, None] + spread * draw.normal(size=(len(labels), 4))).astype(np.float32)


def test_probe_never_sees_the_group_it_tells():
    """Features that say who speaks, with words that are one speaker's alone: a probe that saw the speaker would be right."""
    rows = {"word": [f"word {n % 4}" for n in range(80)], "speaker": [f"speaker {n % 4}" for n in range(80)]}
    told = features(rows["speaker"])
    alone = right(told, rows, TASK.linear_probes["word"].model_copy(update={"groups": None}), "word")
    apart = right(told, rows, TASK.linear_probes["word"], "word")
    assert alone.mean() == 1.0
    assert apart.mean() == 0.0


def test_probe_of_few_shots_learns_from_no_more():
    labels = ["a", "b"] * 40
    noisy = features(labels, spread=1.5)
    many, few = (
        right(noisy, {"word": labels}, probe, "word").mean()
        for probe in (
            TASK.linear_probes["word"].model_copy(update={"groups": None}),
            TASK.linear_probes["word"].model_copy(update={"groups": None, "shots": 1}),
        )
    )
    assert few < many


def test_too_few_rows_for_a_probe_are_told():
    with pytest.raises(SourceError, match="3 rows are too few for the probe 'word': a class or group has one row only"):
        right(
            np.zeros((3, 2), np.float32),
            {"word": ["a", "a", "b"]},
            TASK.linear_probes["word"].model_copy(update={"groups": None}),
            "word",
        )


def test_there_is_no_loss_and_no_plan_without_probes():
    with pytest.raises(CompressorError, match="the task audio-features has no loss of its own"):
        TASK.loss(None, {})
    with pytest.raises(ValidationError, match="at least 1 item"):
        AudioFeatures(linear_probes={})


# ------------------------------------------------------------------ tables beside sounds


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "../outside.wav", "word": "a", "speaker": "b"}, "names '../outside.wav', which is no file in"),
        ({"file_name": "none.wav", "word": "a", "speaker": "b"}, "names 'none.wav', which is no file in"),
        ({"name": "0.wav", "word": "a", "speaker": "b"}, "has no column 'file_name'"),
    ],
)
def test_table_that_names_no_sounds_is_refused(tmp_path, row, message):
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    soundfile.write(tmp_path / "0.wav", np.zeros(100), RATE)
    with pytest.raises(SourceError, match=message):
        read(tmp_path)


def test_column_that_the_table_lacks_is_told_with_those_that_it_has(tmp_path):
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "0.wav", "words": "a", "speaker": "b", "age": 3}))
    soundfile.write(tmp_path / "0.wav", np.zeros(100), RATE)
    with pytest.raises(
        SourceError, match=r"no column 'word' \(did you mean 'words'\?\) \(columns: file_name, words, speaker, age\)"
    ):
        read(tmp_path)


def test_folder_of_sounds_without_table_or_folders_says_what_it_needs(tmp_path):
    soundfile.write(tmp_path / "0.wav", np.zeros(100), RATE)
    needed = r"or a table that names the files in a column `file_name`: metadata.csv or metadata.jsonl or metadata.parquet"
    with pytest.raises(SourceError, match=f"no folders with files below it; it needs them, {needed}"):
        read(tmp_path)
    with pytest.raises(SourceError, match=f"0.wav is a file; `format: audiofolder` needs a folder, {needed}"):
        read(tmp_path, files=str(tmp_path / "0.wav"))


# ------------------------------------------------------------------ crops

CROPPED = TASK.model_copy(update={"crop": True, "seconds": 0.37})


@pytest.fixture
def raw(tmp_path):
    settings = {"feature_extractor_type": RAW, "feature_size": 1, "sampling_rate": RATE, "do_normalize": False}
    (tmp_path / PREPROCESSOR).write_text(json.dumps({**settings, "return_attention_mask": False}))
    return tmp_path


def test_crops_are_as_long_as_the_shortest_of_their_batch_and_never_padded(data, raw):
    batches = list(CROPPED.batches(data.split("train"), raw, batch_size=4, shuffle_seed=0))
    assert sorted(row for batch in batches for row in batch["row"].tolist()) == list(range(len(data.split("train"))))
    lengths = []
    for batch in batches:
        own = [len(samples(data.split("train"), row)) for row in batch["row"].tolist()]
        lengths.append(batch["input_values"].shape[1])
        assert lengths[-1] == min(*own, round(0.37 * RATE))
        assert max(own) - min(own) < 400, "lengths of a batch are alike"
    assert len(set(lengths)) > 3


def test_crops_are_pieces_of_the_sounds_drawn_by_the_seed(data, raw):
    def first(seed):
        return next(iter(CROPPED.batches(data.split("train"), raw, batch_size=48, shuffle_seed=seed)))

    one, again, other = first(0), first(0), first(1)
    assert torch.equal(one["input_values"], again["input_values"])
    by_row = [dict(zip(each["row"].tolist(), each["input_values"], strict=True)) for each in (one, other)]
    assert sum(not torch.equal(by_row[0][row], by_row[1][row]) for row in by_row[0]) > 10
    for row, wave in by_row[0].items():
        whole = torch.from_numpy(samples(data.split("train"), row))
        pieces = whole.unfold(0, len(wave), 1)
        assert float((pieces - wave).abs().max(dim=1).values.min()) < 1e-6


def test_what_is_scored_is_not_cropped(data, raw):
    plain, cropped = (
        task.batches(data.split("test"), raw, batch_size=4) for task in (TASK, CROPPED.model_copy(update={"seconds": 0.4}))
    )
    for one, other in zip(plain, cropped, strict=True):
        assert torch.equal(one["input_values"], other["input_values"])


def samples(rows, number):
    content = rows.cast_column("audio", datasets.Audio(decode=False))[number]["audio"]
    return decoded(content, RATE)


PLAN = """
model: {folder: model}
task: {speech: {crop: true}}
data: {files: sounds, format: audiofolder}
passes:
  - distill: {teacher: source, objectives: {layer-to-layer: 1.0}, cache_teacher: CACHE}
targets: [onnxruntime]
"""


def test_kept_answers_of_teachers_are_refused_where_sounds_are_cropped_at_random(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "sounds").mkdir()
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.replace("CACHE", "true"))
    with pytest.raises(
        PlanError, match=r"plan.yaml:6: passes.distill: keeps what teachers answer to a row.*leave cache_teacher out"
    ):
        load_plan(path)
    path.write_text(PLAN.replace("CACHE", "false"))
    assert load_plan(path).task.crop


def test_misspelt_objective_is_told_with_its_line_though_answers_may_be_kept(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "sounds").mkdir()
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.replace("layer-to-layer: 1.0}, cache_teacher: CACHE", "layer-to-layr: 1.0}"))
    with pytest.raises(PlanError, match=r"plan.yaml:6: .*no objective named 'layer-to-layr'"):
        load_plan(path)


def test_crops_of_less_than_a_quarter_of_a_second_are_refused():
    with pytest.raises(ValidationError, match=r"crop needs seconds of 0\.25 or more"):
        AudioFeatures(crop=True, seconds=0.2)


def test_broken_sound_is_told_by_its_path_where_lengths_are_read(data, raw, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    split = data.split("train").select(range(3))
    column = [{"bytes": None, "path": str(tmp_path / "broken.wav")}] * 3
    undecoded = split.remove_columns("audio").add_column("audio", column).cast_column("audio", datasets.Audio(decode=False))
    with pytest.raises(SourceError, match=r"broken.wav cannot be read as a sound"):
        CROPPED.batches(undecoded, raw, batch_size=2, shuffle_seed=0)


@pytest.mark.parametrize("stored", ["hubert"], indirect=True)  # spectra have no mask
def test_importance_does_not_count_padding(data, stored):
    module = Model.load(stored).module
    rows = data.split("train").select(range(4))

    def scores(seconds):
        task = TASK.model_copy(update={"seconds": seconds})
        batches = task.batches(rows, stored, batch_size=4)
        return data_scores(module, anatomy_of(module), ("heads",), importance="activation", task=task, batches=batches)

    short, long = scores(0.4), scores(1.2)
    for place, values in short.items():
        np.testing.assert_allclose(values, long[place], rtol=0.05)


def test_length_that_is_meant_in_tokens_is_told_to_count_samples(data, raw):
    with pytest.raises(SourceError, match=r"length counts samples of sound, and 128 are less than one frame: 8000 is 1 s"):
        TASK.feeds(data.split("test"), raw, Workload(length=128))
    assert TASK.feeds(data.split("test"), raw, Workload(length=4000), count=1)[0]["input_values"].shape == (1, 4000)
    assert TASK.refuses(240_001, raw) is None, "such models take sounds of any length"
    spectra = json.loads((raw / PREPROCESSOR).read_text()) | {"feature_extractor_type": MEL}
    (raw / PREPROCESSOR).write_text(json.dumps(spectra))
    assert "240001 are beyond the 30 s that the model has positions for" in TASK.refuses(240_001, raw)
    assert TASK.refuses(240_000, raw) is None


LENGTHS = """
model: {folder: model}
task: speech
data: {files: sounds, format: audiofolder}
passes:
  - distill-and-prune: {teacher: source, latency: {target: onnxruntime, ratio: 0.5}, objectives: {layer-to-layer: 1.0}}
  - prune-structure: {latency: {target: onnxruntime, ratio: 0.5, length: 16000}, importance: activation}
targets: [onnxruntime]
probes:
  - latency: {length: [16000, 100]}
"""


def test_lengths_that_no_sound_has_are_faults_of_the_plan(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "sounds").mkdir()
    (tmp_path / "plan.yaml").write_text(LENGTHS)
    with pytest.raises(PlanError) as found:
        load_plan(tmp_path / "plan.yaml")
    text = "length counts samples of sound, and {} are less than one frame: 16000 is 1 s at 16 kHz"
    assert [(fault.line, fault.where, fault.what) for fault in found.value.faults] == [
        (6, "passes.distill-and-prune", text.format(128)),
        (10, "probes.latency", text.format(100)),
    ]
