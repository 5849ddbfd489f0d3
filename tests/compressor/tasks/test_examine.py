"""What `run` refuses when it loads a model, `check` refuses before: settings of what makes its inputs, not its head alone."""

from __future__ import annotations

import json

import pytest

from compressor.contracts import Data
from compressor.contracts.records import DataRecord
from compressor.errors import SourceError
from compressor.tasks import tiny
from compressor.tasks.audio_classification import AudioClassification
from compressor.tasks.audio_features import AudioFeatures
from compressor.tasks.image_classification import ImageClassification
from compressor.tasks.text_classification import TextClassification

IMAGE = {"image_processor_type": "ViTImageProcessor", "size": 8}
SOUND = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 2000}
PREPROCESSOR, TOKENIZER = "preprocessor_config.json", "tokenizer_config.json"
NO_PADDING = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
CASES = {
    "unknown image processor": (ImageClassification(), PREPROCESSOR, {**IMAGE, "image_processor_type": "OwnProcessor"}),
    "unknown setting of images": (ImageClassification(), PREPROCESSOR, {**IMAGE, "do_own_thing": True}),
    "images of many sizes": (ImageClassification(), PREPROCESSOR, {**IMAGE, "size": {"shortest_edge": 8}}),
    "unknown setting of sounds": (AudioClassification(), PREPROCESSOR, {**SOUND, "own_thing": True}),
    "unknown feature extractor": (AudioClassification(), PREPROCESSOR, {**SOUND, "feature_extractor_type": "OwnExtractor"}),
    "unknown setting of features": (AudioFeatures(), PREPROCESSOR, {**SOUND, "own_thing": True}),
    "texts without padding": (TextClassification(max_length=16), TOKENIZER, NO_PADDING),
}
MODELS = {"Image": tiny.image_model, "Audio": tiny.audio_model, "Text": tiny.text_model}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for name, write in MODELS.items():
        write(folder / name)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_check_refuses_the_settings_that_run_refuses(models, tmp_path, case):
    task, name, settings = CASES[case]
    kind = next(kind for kind in MODELS if type(task).__name__.startswith(kind))
    for path in (models / kind).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    task.examine(tmp_path, tiny.LABELS)
    (tmp_path / name).write_text(json.dumps(settings))
    told = []
    data = Data({}, tiny.LABELS, DataRecord(source="rows", digest="", splits=()), "")
    for read in (lambda: task.load(tmp_path, data, seed=0), lambda: task.examine(tmp_path, tiny.LABELS)):
        with pytest.raises(SourceError) as refused:
            read()
        told.append(str(refused.value))
    assert told[0] == told[1]
