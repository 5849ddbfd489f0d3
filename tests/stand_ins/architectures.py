"""Tiny random models with a trained head of many architectures, as folders that a plan reads; most have no place in the anatomy table."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers

from compressor.contracts import registry
from compressor.model.pretrained import quiet
from compressor.tasks.tiny import PIXELS, SAMPLING_RATE, WORDS, shaken
from compressor.testing.tiny import TinyRun, furnish, run_in, scratch

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
TASKS = {"text": "text-classification", "image": "image-classification", "audio": "audio-classification"}
PARAMETERS: dict[str, dict[str, Any]] = {"text": {"max_length": 16}, "image": {}, "audio": {"seconds": 0.5}}
ORDER = ("red", "blue", "green")
"""Of the classes in these models: another one than the data's."""
NAMES: dict[str, Any] = {"id2label": dict(enumerate(ORDER)), "label2id": {label: number for number, label in enumerate(ORDER)}}
TEXT: dict[str, Any] = {"vocab_size": len(WORDS), "max_position_embeddings": 40, "pad_token_id": 0, **SIZES, **NAMES}
ENDS: dict[str, Any] = {"bos_token_id": 2, "eos_token_id": 3}
CROP: dict[str, Any] = {"do_resize": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
SQUARE: dict[str, Any] = {**CROP, "size": {"height": PIXELS, "width": PIXELS}}
CUT: dict[str, Any] = {**CROP, "size": {"shortest_edge": PIXELS}, "do_center_crop": True, "crop_size": PIXELS}
PATCHED: dict[str, Any] = {"image_size": PIXELS, "patch_size": 8, **SIZES}
CONVOLVED: dict[str, Any] = {
    **SIZES, "conv_dim": (16, 16), "conv_stride": (8, 4), "conv_kernel": (16, 8),
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8,
}  # fmt: skip
SAMPLES: dict[str, Any] = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "sampling_rate": SAMPLING_RATE,
    "feature_size": 1,
}


@dataclass(frozen=True)
class Architecture:
    """How a tiny model of an architecture is made; `side` is its preprocessor's configuration."""

    modality: str
    class_name: str
    config: Callable[[], Any]
    side: dict[str, Any] = field(default_factory=dict)

    def run(self) -> TinyRun:
        """A run whose source it is, in a folder that is gone with the process."""
        folder, name = scratch(), TASKS[self.modality]
        task = registry.load("task", name)(**PARAMETERS[self.modality])
        rows = furnish(folder, task)
        self.write(folder / "pretrained")
        return run_in(folder, name, task, rows)

    def write(self, folder: Path) -> None:
        """Into a folder of a tiny model, in its place."""
        with quiet():
            module: Any = shaken(lambda: getattr(transformers, self.class_name)(self.config()))
            module.save_pretrained(folder)
        if self.side:
            (folder / "preprocessor_config.json").write_text(json.dumps(self.side))


def _text(class_name: str, config: str, **own: Any) -> Architecture:
    return Architecture("text", class_name, lambda: getattr(transformers, config)(**{**TEXT, **own}))


def _image(class_name: str, config: str, side: dict[str, Any] = SQUARE, **own: Any) -> Architecture:
    return Architecture("image", class_name, lambda: getattr(transformers, config)(**{**NAMES, **own}), side)


def _audio(class_name: str, config: str, side: dict[str, Any] = SAMPLES, **own: Any) -> Architecture:
    return Architecture("audio", class_name, lambda: getattr(transformers, config)(**{**NAMES, **own}), side)


ARCHITECTURES: dict[str, Architecture] = {
    "electra": _text("ElectraForSequenceClassification", "ElectraConfig", embedding_size=16),
    "albert": _text("AlbertForSequenceClassification", "AlbertConfig", embedding_size=16),
    "deberta-v2": _text(
        "DebertaV2ForSequenceClassification", "DebertaV2Config", type_vocab_size=0, relative_attention=True,
        pos_att_type=["p2c", "c2p"], position_buckets=8, norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False,
    ),
    "deberta-v2 with a convolution": _text(
        "DebertaV2ForSequenceClassification", "DebertaV2Config", type_vocab_size=0, relative_attention=True,
        pos_att_type=["p2c", "c2p"], position_buckets=8, norm_rel_ebd="layer_norm", conv_kernel_size=3, conv_act="gelu",
    ),
    "mpnet": _text("MPNetForSequenceClassification", "MPNetConfig", pad_token_id=1),
    "modernbert": _text(
        "ModernBertForSequenceClassification", "ModernBertConfig", cls_token_id=2, sep_token_id=3, local_attention=8, **ENDS
    ),
    "xlm-roberta": _text("XLMRobertaForSequenceClassification", "XLMRobertaConfig"),
    "camembert": _text("CamembertForSequenceClassification", "CamembertConfig"),
    "gpt2": _text("GPT2ForSequenceClassification", "GPT2Config", **ENDS),
    "resnet": _image(
        "ResNetForImageClassification", "ResNetConfig", {**CROP, "size": {"shortest_edge": PIXELS}, "crop_pct": 0.875},
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="bottleneck",
    ),
    "convnext": _image(
        "ConvNextForImageClassification", "ConvNextConfig", {**CROP, "size": {"shortest_edge": PIXELS}, "crop_pct": 0.875},
        hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, image_size=PIXELS,
    ),
    "swin": _image(
        "SwinForImageClassification", "SwinConfig", image_size=32, patch_size=2, embed_dim=16, depths=[2], num_heads=[2], window_size=4,
    ),
    "deit": _image("DeiTForImageClassification", "DeiTConfig", CUT, **PATCHED),
    "beit": _image("BeitForImageClassification", "BeitConfig", use_relative_position_bias=True, layer_scale_init_value=0.1, **PATCHED),
    "siglip": _image("SiglipForImageClassification", "SiglipConfig", vision_config={**PATCHED}),
    "clip": _image("CLIPForImageClassification", "CLIPConfig", CUT, vision_config={**PATCHED}),
    "wavlm": _audio("WavLMForSequenceClassification", "WavLMConfig", **CONVOLVED),
    "unispeech": _audio("UniSpeechForSequenceClassification", "UniSpeechConfig", **CONVOLVED),
    "ast": _audio(
        "ASTForAudioClassification", "ASTConfig",
        {"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 16000, "num_mel_bins": 16, "max_length": 48},
        num_mel_bins=16, max_length=48, patch_size=8, frequency_stride=8, time_stride=8, **SIZES,
    ),
    "wav2vec2-bert": _audio(
        "Wav2Vec2BertForSequenceClassification", "Wav2Vec2BertConfig",
        {"feature_extractor_type": "SeamlessM4TFeatureExtractor", "sampling_rate": 16000, "num_mel_bins": 8, "stride": 2},
        feature_projection_input_dim=16, classifier_proj_size=8, **SIZES,
    ),
}  # fmt: skip
