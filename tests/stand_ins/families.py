"""Tiny random models of every family in the anatomy table, with and without a task head, and inputs for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from compressor.model.dit import DiT
from compressor.tasks.generation.description import output_of

LAYERS, HEADS, HIDDEN, WIDTH = 3, 4, 32, 64

SIZES = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": WIDTH}
TEXT = {"vocab_size": 50, "max_position_embeddings": 40, "num_labels": 5}
IMAGE = {"image_size": 16, "patch_size": 8, "num_labels": 5}
SPEECH = {
    "conv_dim": (16, 16),
    "conv_stride": (5, 2),
    "conv_kernel": (10, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 30,
    "num_labels": 5,
    "classifier_proj_size": 8,
}
SCALED = {"use_relative_position_bias": True, "layer_scale_init_value": 0.1}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SHARED = {"num_key_value_heads": 2}
WHISPER = {
    "d_model": HIDDEN,
    "encoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "encoder_ffn_dim": WIDTH,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "vocab_size": 50,
    "num_mel_bins": 8,
    "max_source_positions": 10,
    "max_target_positions": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "num_labels": 5,
    "classifier_proj_size": 8,
}


def _distilbert(**changes: Any) -> transformers.PreTrainedConfig:
    return transformers.DistilBertConfig(dim=HIDDEN, n_layers=LAYERS, n_heads=HEADS, hidden_dim=WIDTH, **TEXT, **changes)


def _dinov2(**changes: Any) -> transformers.PreTrainedConfig:
    sizes = {name: size for name, size in SIZES.items() if name != "intermediate_size"}
    return transformers.Dinov2Config(**{**sizes, "mlp_ratio": WIDTH // HIDDEN, **IMAGE, **changes})


def _modernbert() -> transformers.PreTrainedConfig:
    ids = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.ModernBertConfig(**SIZES, **TEXT, **ids, local_attention=8)


def _gpt2() -> transformers.PreTrainedConfig:
    sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": WIDTH, "n_positions": 40}
    return transformers.GPT2Config(**sizes, **ENDS, vocab_size=50, num_labels=5)


def _text_inputs() -> dict[str, torch.Tensor]:
    ids = torch.arange(3, 19).reshape(2, 8)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _image_inputs() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16).sin()}


def _wave_inputs() -> dict[str, torch.Tensor]:
    return {"input_values": torch.linspace(0, 60, 2 * 400).sin().reshape(2, 400)}


def _mel_inputs() -> dict[str, torch.Tensor]:
    return {"input_features": torch.linspace(0, 30, 2 * 8 * 20).sin().reshape(2, 8, 20)}


@dataclass(frozen=True)
class Tiny:
    """One tiny model: `row` is the anatomy row that fits it."""

    row: str
    class_name: Callable[[Any], Any]
    config: Callable[[], Any]
    inputs: Callable[[], dict[str, torch.Tensor]]

    def make(self, seed: int = 0) -> Any:
        """A model in eval mode whose biases and norms are random too, so that a wrong slice of them shows."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.class_name(self.config()).eval()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return module

    def outputs(self, module: Any) -> torch.Tensor:
        """Logits, or the last hidden states where there is no head."""
        with torch.no_grad():
            outputs = module(**self.inputs())
        return outputs.logits if "logits" in outputs else outputs.last_hidden_state


@dataclass(frozen=True)
class Drawing(Tiny):
    """A network that draws; its width is 4 times its hidden size."""

    def outputs(self, module: Any) -> torch.Tensor:
        """What it tells of noise."""
        with torch.no_grad():
            return output_of(module, **self.inputs())


def _noise() -> dict[str, torch.Tensor]:
    sample = torch.linspace(0, 60, 2 * 64).sin().reshape(2, 1, 8, 8)
    return {"sample": sample, "time": torch.tensor([900.0, 20.0]), "label": torch.tensor([0, 2])}


def _diffusers_dit() -> dict[str, Any]:
    picture = {"in_channels": 1, "sample_size": 8, "patch_size": 4, "num_embeds_ada_norm": 3, "norm_num_groups": 1}
    return {"num_attention_heads": HEADS, "attention_head_dim": HIDDEN // HEADS, "num_layers": LAYERS, **picture}


def _t(row: str, cls: type, config: Callable[[], Any], inputs: Callable[[], dict[str, torch.Tensor]]) -> Tiny:
    return Tiny(row, cls, config, inputs)


t = transformers
DRAWING: dict[str, Tiny] = {
    "dit": Drawing(
        "dit", lambda sizes: DiT(8, 1, 3, **sizes), lambda: {"width": HIDDEN, "blocks": LAYERS, "heads": HEADS}, _noise
    ),
    "diffusers-dit": Drawing("diffusers-dit", lambda sizes: diffusers.DiTTransformer2DModel(**sizes), _diffusers_dit, _noise),
}
"""Networks that draw from noise."""
FAMILIES: dict[str, Tiny] = {
    "bert": _t("bert", t.BertForSequenceClassification, lambda: t.BertConfig(**SIZES, **TEXT), _text_inputs),
    "distilbert": _t("distilbert", t.DistilBertForSequenceClassification, _distilbert, _text_inputs),
    "roberta": _t("roberta", t.RobertaForSequenceClassification, lambda: t.RobertaConfig(**SIZES, **TEXT), _text_inputs),
    "vit": _t("vit", t.ViTForImageClassification, lambda: t.ViTConfig(**SIZES, **IMAGE), _image_inputs),
    "dinov2": _t("dinov2", t.Dinov2ForImageClassification, _dinov2, _image_inputs),
    "whisper": _t("whisper-encoder", WhisperEncoder, lambda: t.WhisperConfig(**WHISPER), _mel_inputs),
    "wav2vec2": _t("wav2vec2", t.Wav2Vec2ForSequenceClassification, lambda: t.Wav2Vec2Config(**SIZES, **SPEECH), _wave_inputs),
    "hubert": _t("hubert", t.HubertForSequenceClassification, lambda: t.HubertConfig(**SIZES, **SPEECH), _wave_inputs),
}
VARIANTS: dict[str, Tiny] = {
    "bert-bare": _t("bert", t.BertModel, lambda: t.BertConfig(**SIZES, **TEXT), _text_inputs),
    "bert-tied": _t("bert", t.BertForMaskedLM, lambda: t.BertConfig(**SIZES, **TEXT), _text_inputs),
    "distilbert-bare": _t("distilbert", t.DistilBertModel, _distilbert, _text_inputs),
    "xlm-roberta": _t(
        "roberta", t.XLMRobertaForSequenceClassification, lambda: t.XLMRobertaConfig(**SIZES, **TEXT), _text_inputs
    ),
    "vit-bare": _t("vit", t.ViTModel, lambda: t.ViTConfig(**SIZES, **IMAGE), _image_inputs),
    "dinov2-bare": _t("dinov2", t.Dinov2Model, _dinov2, _image_inputs),
    "dinov2-gated": _t("dinov2", t.Dinov2ForImageClassification, lambda: _dinov2(use_swiglu_ffn=True), _image_inputs),
    "whisper-classifier": _t(
        "whisper-encoder",
        t.WhisperForAudioClassification,
        lambda: t.WhisperConfig(**WHISPER, use_weighted_layer_sum=True),
        _mel_inputs,
    ),
    "wav2vec2-bare": _t("wav2vec2", t.Wav2Vec2Model, lambda: t.Wav2Vec2Config(**SIZES, **SPEECH), _wave_inputs),
    "wav2vec2-large": _t(
        "wav2vec2",
        t.Wav2Vec2ForSequenceClassification,
        lambda: t.Wav2Vec2Config(
            **SIZES, **SPEECH, do_stable_layer_norm=True, feat_extract_norm="layer", use_weighted_layer_sum=True, conv_bias=True
        ),
        _wave_inputs,
    ),
    "hubert-bare": _t("hubert", t.HubertModel, lambda: t.HubertConfig(**SIZES, **SPEECH), _wave_inputs),
}
MORE: dict[str, Tiny] = {
    "electra": _t(
        "electra", t.ElectraForSequenceClassification, lambda: t.ElectraConfig(**SIZES, **TEXT, embedding_size=16), _text_inputs
    ),
    "mpnet": _t("mpnet", t.MPNetForSequenceClassification, lambda: t.MPNetConfig(**SIZES, **TEXT), _text_inputs),
    "deit": _t("deit", t.DeiTForImageClassification, lambda: t.DeiTConfig(**SIZES, **IMAGE), _image_inputs),
    "beit": _t("beit", t.BeitForImageClassification, lambda: t.BeitConfig(**SIZES, **IMAGE, **SCALED), _image_inputs),
    "siglip": _t(
        "siglip-vision",
        t.SiglipForImageClassification,
        lambda: t.SiglipConfig(vision_config={**SIZES, "image_size": 16, "patch_size": 8}, num_labels=5),
        _image_inputs,
    ),
    "wavlm": _t("wavlm", t.WavLMForSequenceClassification, lambda: t.WavLMConfig(**SIZES, **SPEECH), _wave_inputs),
    "modernbert": _t("modernbert", t.ModernBertForSequenceClassification, _modernbert, _text_inputs),
    "llama": _t("llama", t.LlamaForSequenceClassification, lambda: t.LlamaConfig(**SIZES, **TEXT, **ENDS), _text_inputs),
    "gpt2": _t("gpt2", t.GPT2ForSequenceClassification, _gpt2, _text_inputs),
    "albert": _t(
        "albert", t.AlbertForSequenceClassification, lambda: t.AlbertConfig(**SIZES, **TEXT, embedding_size=16), _text_inputs
    ),
    "albert-groups": _t(
        "albert",
        t.AlbertForSequenceClassification,
        lambda: t.AlbertConfig(**SIZES, **TEXT, embedding_size=16, num_hidden_groups=LAYERS),
        _text_inputs,
    ),
    "mistral": _t(
        "mistral", t.MistralForSequenceClassification, lambda: t.MistralConfig(**SIZES, **TEXT, **ENDS, **SHARED), _text_inputs
    ),
    "qwen2": _t("qwen", t.Qwen2ForSequenceClassification, lambda: t.Qwen2Config(**SIZES, **TEXT, **ENDS, **SHARED), _text_inputs),
    "qwen3": _t(
        "qwen",
        t.Qwen3ForSequenceClassification,
        lambda: t.Qwen3Config(**SIZES, **TEXT, **ENDS, **SHARED, head_dim=8),
        _text_inputs,
    ),
    "gemma": _t(
        "gemma",
        t.GemmaForSequenceClassification,
        lambda: t.GemmaConfig(**SIZES, **TEXT, **ENDS, **SHARED, head_dim=8),
        _text_inputs,
    ),
    "smollm": _t("llama", t.LlamaForCausalLM, lambda: t.LlamaConfig(**SIZES, **TEXT, **ENDS, **SHARED), _text_inputs),
    "gpt2-bare": _t("gpt2", t.GPT2Model, _gpt2, _text_inputs),
}
"""Families of which not every part can go."""
ALL = {**FAMILIES, **VARIANTS}
