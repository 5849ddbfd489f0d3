"""What models are fed is what transformers' own processors make, to the bit; settings that are not known are refused by name."""

from __future__ import annotations

import importlib
import json
import re

import datasets
import numpy as np
import pytest
import soundfile
import transformers
from PIL import Image

from compressor.contracts import Data
from compressor.contracts.records import DataRecord
from compressor.errors import SourceError
from compressor.tasks.audio import MEL, RAW
from compressor.tasks.audio_classification import AudioClassification
from compressor.tasks.image_classification import ImageClassification
from compressor.tasks.image_processors import KINDS
from compressor.tasks.inputs.audio import features_of
from compressor.tasks.media import check_image
from compressor.tasks.preprocessing import of_audio, sound_settings
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.tokenization import read_tokenizer, side_files, tokenization

RECORD = DataRecord(source="rows.csv", digest="", splits=())
IMAGES, SOUNDS = ImageClassification(), AudioClassification(seconds=0.5)
PREPROCESSOR, NESTED = "preprocessor_config.json", "processor_config.json"


def write(folder, name, values):
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


# ------------------------------------------------------------------ pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of many kinds, by name: wide, high, small, turned by a tag, gray, with a palette, transparent."""
    folder, noise = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)

    def made(height, width, mode="RGB"):
        channels = {"L": (), "LA": (2,), "RGBA": (4,)}.get(mode, (3,))
        return Image.fromarray(noise.integers(0, 256, (height, width, *channels), dtype=np.uint8), mode)

    turned = Image.Exif()
    turned[0x0112] = 6
    made(37, 61).save(folder / "wide.png")
    made(61, 36).save(folder / "high.png")
    made(9, 13).save(folder / "small.png")
    made(40, 24).save(folder / "turned.jpg", exif=turned.tobytes())
    made(30, 31, "L").save(folder / "gray.png")
    made(30, 31).convert("P").save(folder / "palette.png")
    made(30, 31).convert("P").save(folder / "clear palette.png", transparency=3)
    made(30, 31, "RGBA").save(folder / "transparent.png")
    made(30, 31, "LA").save(folder / "transparent gray.png")
    return {path.stem: path for path in sorted(folder.iterdir())}


def fed(folder, path):
    return IMAGES.feed(path, folder)["pixel_values"][0]


def own(kind):
    """The class of transformers that works with Pillow."""
    name = kind.removesuffix("ImageProcessor").lower()
    for start in ("mobilenet", "chinese"):
        name = name.replace(start, f"{start}_")
    return getattr(importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}"), f"{kind}Pil")


def opened(path):
    """As the library's pipelines open a picture."""
    return transformers.image_utils.load_image(str(path))


SMALL = {"size": {"height": 16, "width": 12}}
SETTINGS = {
    "plain": ("ViTImageProcessor", SMALL),
    "bicubic, own colours": (
        "ViTImageProcessor",
        {**SMALL, "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.6, 0.7]},
    ),
    "not normalised": ("ViTImageProcessor", {**SMALL, "do_normalize": False, "rescale_factor": 0.01}),
    "not rescaled": ("ViTImageProcessor", {**SMALL, "do_rescale": False}),
    "neither": ("ViTImageProcessor", {**SMALL, "do_rescale": False, "do_normalize": False}),
    "one mean": ("ViTImageProcessor", {**SMALL, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}),
    "nearest": ("ViTImageProcessor", {**SMALL, "resample": 0}),
    "lanczos": ("ViTImageProcessor", {**SMALL, "resample": 1}),
    "a number": ("ViTImageProcessor", {"size": 16}),
    "two numbers": ("ViTImageProcessor", {"size": [16, 12]}),
    "cut": ("CLIPImageProcessor", {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}}),
    "cut, a number each": ("CLIPImageProcessor", {"size": 18, "crop_size": 15}),
    "cut from less": ("CLIPImageProcessor", {"size": {"shortest_edge": 13}, "crop_size": {"height": 16, "width": 15}}),
    "cut, not resized": ("CLIPImageProcessor", {"do_resize": False, "crop_size": 16}),
    "share of the edge": ("ConvNextImageProcessor", {"size": {"shortest_edge": 20}, "crop_pct": 0.7}),
    "share, as it is": ("ConvNextImageProcessor", {"size": {"shortest_edge": 20}}),
    "share, no crop": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "share, PoolFormer's": ("PoolFormerImageProcessor", {"size": {"shortest_edge": 20}, "crop_size": 18, "crop_pct": 0.8}),
    "share, PoolFormer's square": ("PoolFormerImageProcessor", {"size": {"height": 20, "width": 20}, "crop_size": 18}),
    "share, PoolFormer's oblong": ("PoolFormerImageProcessor", {"size": {"height": 20, "width": 24}, "crop_size": 18}),
    "LeViT": ("LevitImageProcessor", {"size": {"shortest_edge": 21}, "crop_size": 16}),
    "offset": ("EfficientNetImageProcessor", {**SMALL, "rescale_factor": 1 / 127.5, "rescale_offset": True}),
    "offset, top left out": ("EfficientNetImageProcessor", {**SMALL, "include_top": False}),
    "blue first": ("MobileViTImageProcessor", {"size": {"shortest_edge": 20}, "crop_size": 18}),
    "red first": ("MobileViTImageProcessor", {"size": 20, "crop_size": 18, "do_flip_channel_order": False}),
    "labels of segments": ("BeitImageProcessor", {**SMALL, "do_reduce_labels": True}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_pixels_are_the_librarys_to_the_bit(pictures, tmp_path, name):
    kind, settings = SETTINGS[name]
    write(tmp_path, PREPROCESSOR, {"image_processor_type": kind, **settings})
    processor = own(kind)(**settings)
    for path in pictures.values():
        if "transparent" not in path.stem and "clear" not in path.stem:
            theirs = processor(opened(path), return_tensors="np")["pixel_values"][0]
            assert np.array_equal(fed(tmp_path, path), theirs.astype(np.float32)), path.name


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_processor_does_where_its_configuration_is_silent_is_what_the_library_does(pictures, tmp_path, kind):
    write(tmp_path, PREPROCESSOR, {"image_processor_type": kind})
    theirs = own(kind)()(opened(pictures["wide"]), return_tensors="np")["pixel_values"][0]
    found = fed(tmp_path, pictures["wide"])
    assert np.array_equal(found, theirs)


@pytest.mark.parametrize("name", ["transparent", "transparent gray", "clear palette"])
def test_what_is_transparent_is_white_where_the_processor_says_so_and_else_as_the_library_opens_it(pictures, tmp_path, name):
    for kind, given in (("CLIPImageProcessor", Image.open(pictures[name])), ("ViTImageProcessor", opened(pictures[name]))):
        write(tmp_path, PREPROCESSOR, {"image_processor_type": kind, **SMALL, "do_center_crop": False})
        theirs = own(kind)(**SMALL, do_center_crop=False)(given, return_tensors="np")["pixel_values"][0]
        assert np.array_equal(fed(tmp_path, pictures[name]), theirs)


def test_gray_models_take_gray_pictures(pictures, tmp_path):
    write(tmp_path, "config.json", {"model_type": "vit", "num_channels": 1, "image_size": 16})
    write(tmp_path, PREPROCESSOR, {"image_processor_type": "ViTImageProcessor", **SMALL})
    theirs = own("ViTImageProcessor")(**SMALL, image_mean=0.5, image_std=0.5)(Image.open(pictures["gray"]), return_tensors="np")
    assert np.array_equal(fed(tmp_path, pictures["gray"]), theirs["pixel_values"][0])
    assert fed(tmp_path, pictures["palette"]).shape == (1, 16, 12)


@pytest.mark.parametrize(("kind", "mode"), [(np.float32, "F"), (np.uint16, "I;16"), (np.int32, "I")])
def test_pictures_of_more_than_eight_bits_are_refused_as_when_rows_are_read(tmp_path, kind, mode):
    write(tmp_path, PREPROCESSOR, {"image_processor_type": "ViTImageProcessor", **SMALL})
    Image.fromarray(np.ones((20, 20), kind)).save(tmp_path / "deep.tiff")
    why = f"more than 8 bits a channel (mode {mode}): scale its values to 0 to 255 and save it as PNG"
    with pytest.raises(SourceError, match=re.escape(f"deep.tiff cannot be read as an image: {why}")):
        fed(tmp_path, tmp_path / "deep.tiff")
    with pytest.raises(SourceError, match=re.escape(f"row 3 has {why}")):
        check_image((tmp_path / "deep.tiff").read_bytes(), "row 3")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_pad": True}, "'do_pad'"),
        ({"size_divisor": 32}, "'size_divisor'"),
        ({"do_thumbnail": True}, "'do_thumbnail'"),
        ({"data_format": "channels_last"}, "'data_format'"),
        ({"image_processor_type": "DonutImageProcessor"}, "'DonutImageProcessor' is none that is known"),
        ({"size": {"longest_edge": 20}}, "a size is {'longest_edge': 20}"),
        ({"size": {"shortest_edge": 16, "longest_edge": 20}}, "expected height and width, or shortest_edge"),
        ({"size": {"shortest_edge": 16}}, "do not give all images the same size"),
        ({"image_mean": [0.5, 0.5]}, "2 means and 3 deviations"),
        ({"resample": "__import__"}, "resample is '__import__', expected a number of Pillow's filters, 0 to 5"),
        ({"resample": 77}, "resample is 77, expected a number of Pillow's filters"),
        ({"image_std": [0, 0.5, 0.5]}, "image_std is [0.0, 0.5, 0.5], expected numbers that are not 0"),
        ({"image_mean": [float("nan")] * 3}, "image_mean is [nan, nan, nan], expected numbers"),
        ({"rescale_factor": 0}, "rescale_factor is 0, expected numbers that are not 0"),
        ({"size": {"height": 0, "width": 20}}, "expected edges of 1 to 16384 pixels"),
        ({"size": {"height": 200_000, "width": 20}}, "expected edges of 1 to 16384 pixels"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 16}, "crop_pct": 0}, "ZeroDivisionError"),
        ({"rescale_factor": "much"}, "could not convert string to float"),
    ],
)
def test_settings_of_pictures_that_are_not_known_are_refused_by_name(tmp_path, settings, said):
    write(tmp_path, PREPROCESSOR, {"image_processor_type": "ViTImageProcessor", **SMALL, **settings})
    with pytest.raises(SourceError, match=re.escape(said)):
        IMAGES.inputs(tmp_path)


def test_picture_of_another_size_is_refused_where_nothing_resizes(pictures, tmp_path):
    write(tmp_path, PREPROCESSOR, {"do_resize": False, "size": [37, 61]})
    assert fed(tmp_path, pictures["wide"]).shape == (3, 37, 61)
    with pytest.raises(SourceError, match="is 36x61, the model takes 61x37"):
        fed(tmp_path, pictures["high"])


@pytest.mark.parametrize("form", ["of its own", "of all processors", "old, by its extractor", "nameless"])
def test_image_processor_is_found_where_the_library_finds_it(pictures, tmp_path, form):
    processor = own("CLIPImageProcessor")(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path)
    values = json.loads((tmp_path / PREPROCESSOR).read_text())
    write(tmp_path, "config.json", {"model_type": "clip"})
    kind = values.pop("image_processor_type")
    if form == "of all processors":
        write(tmp_path, NESTED, {"image_processor": {**values, "image_processor_type": kind}, "processor_class": "CLIPProcessor"})
        write(tmp_path, PREPROCESSOR, {"size": 4})
    elif form == "old, by its extractor":
        write(tmp_path, PREPROCESSOR, {**values, "feature_extractor_type": "CLIPFeatureExtractor"})
    elif form == "nameless":
        write(tmp_path, PREPROCESSOR, {"size": 18, "crop_size": 16})
    theirs = processor(opened(pictures["high"]), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(fed(tmp_path, pictures["high"]), theirs)


# ------------------------------------------------------------------ sounds


def waves():
    draw = np.random.default_rng(1)
    return [draw.normal(0.1, 0.3, count).astype(np.float32) for count in (17, 3999, 4000, 8000, 9001)]


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("padding", [0.0, 0.5])
def test_samples_are_the_librarys_to_the_bit(tmp_path, mask, normalize, padding):
    settings = {"sampling_rate": 8000, "do_normalize": normalize, "return_attention_mask": mask, "padding_value": padding}
    extractor = transformers.Wav2Vec2FeatureExtractor(**settings)
    extractor.save_pretrained(tmp_path)
    how = of_audio(sound_settings(tmp_path, {RAW: {}}), samples=4000)
    for wave in waves():
        theirs = extractor(wave, sampling_rate=8000, padding="max_length", max_length=4000, truncation=True, return_tensors="np")
        ours = features_of(wave, how)
        assert set(ours) == set(theirs)
        assert np.array_equal(ours["input_values"], theirs["input_values"][0])
        assert np.array_equal(ours.get("attention_mask"), theirs["attention_mask"][0] if mask else None)


@pytest.mark.parametrize(("mels", "rate", "hop"), [(80, 16000, 160), (16, 16000, 160), (128, 16000, 100)])
def test_spectra_are_the_librarys_own_numpy_to_the_bit_and_near_those_of_its_torch(tmp_path, mels, rate, hop):
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels, sampling_rate=rate, hop_length=hop)
    extractor.save_pretrained(tmp_path)
    how = of_audio(sound_settings(tmp_path, {MEL: {}}), samples=8000)
    for wave in waves():
        ours = features_of(wave, how)["input_features"]
        padded = np.pad(wave[:8000], (0, max(0, 8000 - len(wave))))
        assert np.array_equal(ours, extractor._np_extract_fbank_features(padded[np.newaxis], "cpu")[0])
        theirs = extractor(wave, sampling_rate=rate, max_length=8000, return_tensors="np")["input_features"][0]
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("form", ["of all processors", "nameless"])
def test_feature_extractor_is_found_where_the_library_finds_it(tmp_path, form):
    values = transformers.Wav2Vec2FeatureExtractor(sampling_rate=4000, do_normalize=False).to_dict()
    write(tmp_path, "config.json", {"model_type": "hubert"})
    if form == "of all processors":
        write(tmp_path, NESTED, {"feature_extractor": values, "processor_class": "Wav2Vec2Processor"})
    else:
        write(tmp_path, PREPROCESSOR, {name: value for name, value in values.items() if name != "feature_extractor_type"})
    soundfile.write(tmp_path / "tone.wav", waves()[1], 4000, subtype="FLOAT")
    theirs = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)(
        waves()[1], sampling_rate=4000, padding="max_length", max_length=2000, truncation=True, return_tensors="np"
    )
    assert np.array_equal(SOUNDS.feed(tmp_path / "tone.wav", tmp_path)["input_values"], theirs["input_values"])


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [(RAW, "padding_side", "left"), (RAW, "feature_size", 2), (RAW, "do_thing", True), (MEL, "dither", 0.1), (MEL, "fmin", 20)],
)
def test_settings_of_sounds_that_are_not_known_are_refused_by_name(tmp_path, kind, setting, value):
    write(tmp_path, PREPROCESSOR, {"feature_extractor_type": kind, setting: value})
    with pytest.raises(SourceError, match=setting):
        SOUNDS.inputs(tmp_path)


# ------------------------------------------------------------------ texts

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "blue", "Blue", *(f"word{number}" for number in range(20))]
TEXTS = ["blue " + " ".join(f"word{number}" for number in range(12)), "Blue word1", "a [SEP] b", "", "word3"]


def tokenizer(folder, *, lowercase=True, **changes):
    """A tokenizer on disk, its configuration changed afterwards, and the module that takes its inputs."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    if direction := changes.pop("direction", None):
        made.enable_truncation(5, direction=direction)
    tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **tokens).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return folder


class Module:
    def forward(self, input_ids, attention_mask, token_type_ids): ...


KEPT = {
    "as it is": {},
    "cuts on the left": {"truncation_side": "left"},
    "cuts on the left by its own file": {"direction": "left"},
    "pads on the left": {"padding_side": "left"},
    "lower-cases by its file": {"tokenizer_class": "BertTokenizer", "do_lower_case": None},
    "keeps cases by its configuration": {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
    "lower-cases by its configuration": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "lowercase": False},
    "splits special tokens": {"split_special_tokens": True},
    "other special tokens": {"tokenizer_class": "BertTokenizer", "sep_token": "blue"},
}


@pytest.mark.parametrize("name", KEPT)
def test_ids_are_the_librarys_and_so_are_those_of_the_tokenizer_that_is_kept(tmp_path, name):
    source = tokenizer(tmp_path / "source", **KEPT[name])
    write(source, "config.json", {"model_type": "bert"})
    stored = tmp_path / "stored"
    stored.mkdir()
    for file, content in side_files(read_tokenizer(source), Module()).items():
        (stored / file).write_bytes(content)
    own = transformers.AutoTokenizer.from_pretrained(source)
    theirs = own(TEXTS, truncation=True, max_length=8, padding="max_length", return_tensors="np")
    again = transformers.AutoTokenizer.from_pretrained(stored)
    kept = again(TEXTS, truncation=True, max_length=8, padding="max_length", return_tensors="np")
    task = TextClassification(max_length=8)
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [0] * len(TEXTS)})
    batch = next(iter(task.batches(rows, stored, batch_size=len(TEXTS))))
    for each in ("input_ids", "attention_mask"):
        assert np.array_equal(batch[each].numpy(), theirs[each])
        assert np.array_equal(kept[each], theirs[each])
    assert len({tuple(row) for row in theirs["input_ids"]}) > 3
    assert tokenization(stored).library is None, "it is read without the library"


@pytest.mark.parametrize("changes", [{"padding_side": "left"}, {"model_input_names": ["input_ids", "token_type_ids"]}])
def test_scores_pad_nothing_that_a_model_would_see(tmp_path, changes):
    """On the left it moves positions of some models; without a mask, as FNet takes none, it is read as a part of the text."""
    task, source = TextClassification(max_length=8), tokenizer(tmp_path, **changes)
    rows = datasets.Dataset.from_dict({"text": TEXTS * 5, "label": [0] * len(TEXTS) * 5})
    feeds, order = task.scored_feeds(rows, source)
    assert sorted(order) == list(range(len(rows)))
    assert not any((feed["input_ids"] == tokenization(source).settings["pad_id"]).any() for feed in feeds)
    assert sum(len(feed["input_ids"]) for feed in feeds) == len(rows)


def test_tokenizer_without_a_vocabulary_is_refused(tmp_path):
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    with pytest.raises(SourceError, match="has settings and no vocabulary"):
        TextClassification().inputs(tmp_path)


@pytest.mark.parametrize("place", ["vocab", "added"])
def test_tokens_of_numbers_without_bound_are_refused_before_a_library_makes_room_for_them(tmp_path, place):
    from compressor.tasks.tiny import text_model

    text_model(tmp_path)
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    values["model"]["vocab"]["word7"] = 10**9 if place == "vocab" else 7
    values["added_tokens"] = [{"id": 10**9, "content": "word8"}] if place == "added" else []
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(
        SourceError, match=r"tokenizer\.json has a token of number 1000000000; none of more than 16777216 is read"
    ):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("names", "told"),
    [(["input_ids", "labels"], "has 'labels', which it does not make"), ([], r"is \[\], without input_ids")],
)
def test_inputs_that_no_tokenizer_makes_are_refused(tmp_path, names, told):
    from compressor.tasks.tiny import text_model

    text_model(tmp_path)
    values = json.loads((tmp_path / "tokenizer_config.json").read_text())
    write(tmp_path, "tokenizer_config.json", {**values, "model_input_names": names})
    with pytest.raises(SourceError, match=f"model_input_names in tokenizer_config.json {told}"):
        TextClassification().inputs(tmp_path)


@pytest.mark.parametrize("rate", [0, "2000", 10**9, 0.5])
def test_rates_that_no_sound_has_are_refused(tmp_path, rate):
    write(tmp_path, "preprocessor_config.json", {"feature_extractor_type": RAW, "sampling_rate": rate})
    with pytest.raises(SourceError, match=r"sampling_rate is .*, expected 100 to 1000000 samples a second"):
        AudioClassification().inputs(tmp_path)


def test_tokenizer_that_draws_is_refused(tmp_path):
    """Merges that are dropped at random: what is scored is not what is shipped."""
    from compressor.tasks.tiny import byte_tokenizer

    byte_tokenizer(tmp_path)
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    values["model"]["dropout"] = 0.1
    write(tmp_path, "tokenizer.json", values)
    with pytest.raises(
        SourceError, match=r"splits words at random: the model's `dropout` in tokenizer\.json is 0\.1; take it out"
    ):
        TextClassification().inputs(tmp_path)


def test_tokens_that_a_tokenizer_does_not_know_are_counted(tmp_path, monkeypatch):
    """Texts in capitals, and a tokenizer of small letters that does not make them small."""
    monkeypatch.setattr("compressor.model.positions.positions_in", lambda _: None)
    words = [word for word in WORDS if word.isalpha()][:4]
    for lowercase, share in ((True, 0.0), (False, 0.5)):
        (tmp_path / str(lowercase)).mkdir()
        folder = tokenizer(tmp_path / str(lowercase), lowercase=lowercase)
        rows = datasets.Dataset.from_dict({"text": [" ".join(words).upper()] * 3, "label": [0] * 3})
        found = TextClassification().sizes(Data(dict.fromkeys(("train", "validation", "test"), rows), (), RECORD, ""), folder)
        assert found.unknown == share
        assert ("50% of the tokens are unknown to the tokenizer" in str(found)) is not lowercase


def test_text_of_no_length_is_refused_where_the_tokenizer_adds_more(tmp_path):
    from compressor.contracts import Workload

    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": [0] * len(TEXTS)})
    with pytest.raises(SourceError, match="a length of 1 leaves no room"):
        TextClassification().feeds(rows, tokenizer(tmp_path), Workload(length=1))
