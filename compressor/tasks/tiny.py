"""The smallest models and rows that tasks work on, random and always the same: what the conformance suite tries plug-ins with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.contracts import Columns

LABELS = ("blue", "green", "red")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *LABELS, *(f"word{number}" for number in range(40)))
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
TEXT: dict[str, Any] = {"vocab_size": 128, "max_position_embeddings": 40}
PIXELS, PATCH = 16, 8
SAMPLING_RATE = 2000
MELS = 8
ROWS = 48
SPREAD = 0.2
"""Standard deviation added to every parameter, so that biases and norms differ from their first values too."""


def shaken(make: Callable[[], Any]) -> Any:
    """A module with every parameter drawn at random, always the same; the caller's random state stays as it was."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = make()
        module.train(False)
        for parameter in module.parameters():
            parameter.add_(SPREAD * torch.randn_like(parameter))
    return module


def text_model(folder: Path, **sizes: int) -> None:
    """A random BERT without a head, and its tokenizer; `sizes` are fields of its configuration where it should not be tiny."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer: Any = transformers.PreTrainedTokenizerFast
    tokenizer(tokenizer_object=words, model_input_names=inputs, **names).save_pretrained(folder)
    module: Any = shaken(lambda: transformers.BertModel(transformers.BertConfig(**{**TEXT, **SIZES, **sizes})))
    module.save_pretrained(folder)


MERGES = ("w o", "r d", "wo rd", "Ġ word", "r e", "re d", "Ġ red", "l u", "Ġ b", "lu e", "Ġb lue")


def byte_tokenizer(folder: Path, **settings: Any) -> int:
    """A tokenizer of bytes with a few merges, as those of GPT-2 and its kin; its number of tokens."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(first, second) for first, second in map(str.split, MERGES)]
    words = ["<|end|>", "<|pad|>", *signs, *("".join(pair) for pair in pairs)]
    made = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, pairs))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    names = {"eos_token": "<|end|>", "pad_token": "<|pad|>", **settings}
    tokenizer: Any = transformers.PreTrainedTokenizerFast
    tokenizer(tokenizer_object=made, model_input_names=["input_ids", "attention_mask"], **names).save_pretrained(folder)
    return len(words)


def language_model(folder: Path, kind: str = "llama", **fields: Any) -> None:
    """A random language model of a kind of transformers with heads that share keys and values, and a tokenizer of bytes."""
    import transformers

    count = byte_tokenizer(folder)
    sizes = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
    ends = {"vocab_size": count, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    known: Any = transformers.AutoConfig.for_model(kind)
    sizes = {name: size for name, size in sizes.items() if hasattr(known, name)}
    config: Any = transformers.AutoConfig.for_model(kind, **{**sizes, **ends, **fields})
    auto: Any = transformers.AutoModelForCausalLM
    module: Any = shaken(lambda: auto.from_config(config))
    module.save_pretrained(folder)


def documents(root: Path, columns: Sequence[str]) -> dict[str, Any]:
    """Texts of 2 to 13 words in which some words follow others."""
    rows = []
    for number in range(ROWS):
        words = [f"word{(7 * number + 3 * at) % 40} {LABELS[(number + at) % 3]}" for at in range(1 + number % 6)]
        rows.append({column: f"{' '.join(words)} {number}" for column in columns})
    return _written(root, rows)


def texts(root: Path, columns: Columns) -> dict[str, Any]:
    """Texts of 1 to 12 words with the name of their label among them."""
    label = columns.label or (columns.kept or ("label",))[0]
    rows = []
    for number in range(ROWS):
        words = [f"word{(7 * number + 3 * at) % 40}" for at in range(number % 12)]
        words.insert(number % (len(words) + 1), LABELS[number % 3])
        name: Any = LABELS[number % 3] if columns.label else [LABELS[number % 3], LABELS[number // 3 % 3]]
        rows.append({text: f"{' '.join(words)} word{number % 40}" for text in columns.content} | {label: name})
    return _written(root, rows)


def scored_texts(root: Path, columns: Sequence[str], score: str) -> dict[str, Any]:
    """Texts, or pairs of them, with a number each: how long the first one is, and whether it speaks of red."""
    rows = []
    for number in range(ROWS):
        words = [f"word{(7 * number + 3 * at) % 40}" for at in range(number % 12)] + [LABELS[number % 3]]
        text = f"{' '.join(words)} word{number % 40}"
        rows.append(dict.fromkeys(columns, text) | {score: len(words) / 4 + (number % 3 == 2)})
    return _written(root, rows)


def _written(root: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return split({"files": "rows.jsonl"})


def image_model(folder: Path) -> None:
    """A random ViT without a head."""
    import transformers

    config = transformers.ViTConfig(**{"image_size": PIXELS, "patch_size": PATCH, **SIZES})
    module: Any = shaken(lambda: transformers.ViTModel(config))
    module.save_pretrained(folder)


def denoiser(channels: int = 3) -> Any:
    """A random network of ours that denoises pictures of three classes."""
    from compressor.model.dit import DiT

    sizes = {"size": PIXELS, "channels": channels, "classes": len(LABELS), "patch": PATCH, "width": 16, "blocks": 2, "heads": 2}
    return shaken(lambda: DiT(**sizes))


def images(root: Path) -> dict[str, Any]:
    """Images of noise with their label's colour channel raised."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(ROWS):
        pixels = rng.integers(0, 128, (PIXELS, PIXELS, 3), dtype=np.uint8)
        pixels[..., number % 3] += 100
        path = root / "images" / LABELS[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return split({"files": "images", "format": "imagefolder"})


def audio_model(folder: Path) -> None:
    """A random HuBERT without a head, and its feature extractor."""
    import transformers

    convolutions = {"conv_dim": (16, 16), "conv_stride": (8, 4), "conv_kernel": (16, 8)}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    config = transformers.HubertConfig(**{**convolutions, **positions, "classifier_proj_size": 8, **SIZES})
    module: Any = shaken(lambda: transformers.HubertModel(config))
    module.save_pretrained(folder)
    extractor: Any = transformers.Wav2Vec2FeatureExtractor
    extractor(sampling_rate=SAMPLING_RATE).save_pretrained(folder)


def recordings(root: Path) -> dict[str, Any]:
    """Tones in noise, of their label's pitch."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    for number in range(ROWS):
        tone = np.sin(np.arange(SAMPLING_RATE // 2 + 40 * number) * 0.1 * (1 + number % 3))
        path = root / "sounds" / LABELS[number % 3] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, (tone + 0.1 * rng.standard_normal(tone.shape)) * 0.5, SAMPLING_RATE)
    return split({"files": "sounds", "format": "audiofolder"})


def split(source: dict[str, str]) -> dict[str, Any]:
    """What a plan says under `data:`."""
    return {**source, "split": {"validation": 12, "test": 12}, "calibration": 8}
