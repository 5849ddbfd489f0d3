"""The format `gguf`: one file of a language model, as llama.cpp and what is built on it read it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from compressor.contracts import Artifact, Dialect, Format, Task
from compressor.contracts.model import CONFIG
from compressor.deploy.packing import gguf_blocks, gguf_type
from compressor.errors import UnsupportedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "model.gguf"
ARCHITECTURES: Mapping[str, str] = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""Names of architectures in GGUF by model type."""
TURNED = ("llama",)
"""Architectures whose file holds queries and keys with the two halves of each head interleaved, as rotary positions are taken there."""
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS: Mapping[str, str] = {
    WORDS + r"\p{N}" + REST: "qwen2",
    WORDS + r"\p{N}{1,3}" + REST: "llama-bpe",
    "digits": "smollm",
    "": "gpt-2",
}
"""How llama.cpp calls a way of splitting texts before byte pairs are merged, by what `tokenizer.json` says of it."""
TOKENIZER_FILE = "tokenizer.json"


class Gguf(Format):
    """A GGUF file with weights in float32; its target writes them in the type that it runs. Those on a grid are in the type that has it."""

    name: ClassVar[str] = "gguf"
    above: ClassVar[str] = "torch"
    requires: ClassVar[tuple[str, ...]] = ("gguf", "torch")
    whole_groups: ClassVar[bool] = True
    writes_quantizers: ClassVar[bool] = True
    tried_on: ClassVar[str | None] = "causal-lm"

    def lower(self, artifact: Artifact, out: Path, *, task: Task, dialect: Dialect) -> None:  # noqa: ARG002 - one form for all formats
        """Write sizes, tokenizer and weights.

        Raises:
            UnsupportedModel: an architecture, a tokenizer or a grid of weights that has no name in GGUF here.
        """
        import gguf

        from compressor.model.model import Model

        model = Model.load(artifact.path)
        config = model.module.config.to_dict()
        architecture = ARCHITECTURES.get(str(config["model_type"]))
        if architecture is None:
            known = ", ".join(ARCHITECTURES)
            raise UnsupportedModel(f"models of type '{config['model_type']}' cannot be written as GGUF, only {known}")
        _check_layers(model.module, config)
        writer = gguf.GGUFWriter(out / FILE, architecture)
        _write_sizes(writer, config, model.module)
        _write_tokenizer(writer, artifact.path, int(config["vocab_size"]))
        for name, tensor, kind in _tensors(model.module, config, architecture):
            writer.add_tensor(name, tensor, raw_dtype=None if kind is None else gguf.GGMLQuantizationType[kind])
        _close(writer)


def _check_layers(module: Any, config: Mapping[str, Any]) -> None:
    """Refuse layers that would be read as others: of a window of attention, or without a part.

    Raises:
        UnsupportedModel: there are such layers.
    """
    from compressor.model.anatomy import anatomy_of

    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if window is not None and window < config["max_position_embeddings"]:
        raise UnsupportedModel(
            f"attention over a window of {window} tokens cannot be written as GGUF, only over all tokens before"
        )
    if any(block.attention is None or block.feed_forward is None for block in anatomy_of(module).blocks):
        raise UnsupportedModel("layers without attention or feed-forward cannot be written as GGUF")


def _size_of(config: Mapping[str, Any]) -> int:
    """Of a head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _write_sizes(writer: Any, config: Mapping[str, Any], module: Any) -> None:
    import gguf

    layers = module.model.layers
    widths = [layer.mlp.gate_proj.out_features for layer in layers]
    size = _size_of(config)
    heads = [layer.self_attn.q_proj.out_features // size for layer in layers]
    groups = [layer.self_attn.k_proj.out_features // size for layer in layers]
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(len(layers))
    writer.add_feed_forward_length(_one(widths))
    writer.add_head_count(_one(heads))
    writer.add_head_count_kv(_one(groups))
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _one(numbers: list[int]) -> int | list[int]:
    """One number for all layers, or each layer's own."""
    return numbers[0] if len(set(numbers)) == 1 else numbers


def _rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("rope_parameters") or {}
    if found.get("rope_type", "default") != "default":
        raise UnsupportedModel(f"positions of type '{found['rope_type']}' cannot be written as GGUF, only the plain ones")
    return {"rope_theta": config.get("rope_theta", 10000.0), **found}


def _tensors(module: Any, config: Mapping[str, Any], architecture: str) -> Iterator[tuple[str, NDArray[Any], str | None]]:
    """Weights by their names in GGUF, with the type of those in few bits; a head that shares the embedding is not written again.

    Raises:
        UnsupportedModel: one of them has no name there, or is on a grid that no type has.
    """
    import gguf

    from compressor.model.quantization.layers import Quantizer, quantized_layers

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], len(module.model.layers))
    size, rounded = _size_of(config), quantized_layers(module)
    own = tuple(f"{path}." for path, part in module.named_modules() if isinstance(part, Quantizer))
    for name, tensor in module.state_dict().items():
        if name.startswith(own) or (name == "lm_head.weight" and config.get("tie_word_embeddings")):
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise UnsupportedModel(f"weight '{name}' has no name in GGUF files of architecture '{architecture}'")
        turned = architecture in TURNED and re.search(r"\.(q|k)_proj\.", name)
        path, _, what = name.rpartition(".")
        if path in rounded and what == "weight":
            yield known, *_in_blocks(rounded[path], size if turned else None)
        else:
            array = tensor.float().cpu().numpy()
            yield known, _interleaved(array, len(array) // size) if turned else array, None


def _in_blocks(layer: Any, size: int | None) -> tuple[NDArray[np.uint8], str]:
    """The weights of a layer on a grid as bytes of a type, the rows of heads of a size interleaved."""
    kind, found = gguf_type(layer.weight_quantizer.grid), layer.weight_quantizer.integers(layer.weight)
    whole, step = found.whole.cpu().numpy(), found.step.float().cpu().numpy()
    if size is not None:
        whole, step = (_interleaved(each, len(whole) // size) for each in (whole, step))
    return gguf_blocks(whole, step, kind), kind


def _interleaved(array: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of each head, first and second half one by one in turn."""
    import numpy as np

    parts = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(parts.swapaxes(1, 2).reshape(array.shape))


def _write_tokenizer(writer: Any, files: Path, size: int) -> None:
    """Byte pairs with their merges, and which tokens are written in no text."""
    import gguf

    if not (files / TOKENIZER_FILE).is_file():  # one that only its library can run
        raise UnsupportedModel(f"a tokenizer without {TOKENIZER_FILE} cannot be written as GGUF")
    read = json.loads((files / TOKENIZER_FILE).read_text(encoding="utf-8"))
    model = read["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise UnsupportedModel("only tokenizers of byte pairs can be written as GGUF")
    tokens = {number: token for token, number in model["vocab"].items()}
    kinds = dict.fromkeys(tokens, gguf.TokenType.NORMAL)
    for added in read.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = gguf.TokenType.CONTROL if added["special"] else gguf.TokenType.USER_DEFINED
    every = range(size)  # libraries add tokens that the table of embeddings has no row for, with which llama.cpp opens no file
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_by(read.get("pre_tokenizer") or {}))
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in every])
    writer.add_token_types([kinds.get(number, gguf.TokenType.UNUSED) for number in every])
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in model["merges"]])
    config = json.loads((files / CONFIG).read_text(encoding="utf-8"))
    for what, write in (("bos", writer.add_bos_token_id), ("eos", writer.add_eos_token_id), ("pad", writer.add_pad_token_id)):
        found = config.get(f"{what}_token_id")
        if isinstance(found, list):
            found = found[0] if found else None
        if found is not None:
            write(int(found))
    writer.add_add_bos_token(_begins(files, config.get("bos_token_id")))


def _begins(files: Path, begin: int | None) -> bool:
    """Whether a text begins with the token that is there for it.

    Raises:
        UnsupportedModel: other tokens stand around a text.
    """
    from tokenizers import Tokenizer

    around = Tokenizer.from_file(str(files / TOKENIZER_FILE)).encode("").ids
    if around not in ([], [begin]):
        raise UnsupportedModel(f"a tokenizer that puts tokens {around} around a text cannot be written as GGUF")
    return bool(around)


def _split_by(read: Mapping[str, Any]) -> str:
    parts = read.get("pretokenizers") or [read]
    patterns = [str(part.get("pattern", {}).get("Regex", "")) for part in parts if part.get("type") == "Split"]
    kinds = [part.get("type") for part in parts]
    way = patterns[0] if patterns else "digits" if "Digits" in kinds else ""
    spaced = any(part.get("add_prefix_space") for part in parts)
    if "ByteLevel" not in kinds or spaced or way not in SPLITS:
        raise UnsupportedModel(
            f"a tokenizer that splits texts by {kinds}{', with a space in front,' if spaced else ''} has no name in GGUF here"
        )
    return SPLITS[way]


MATRICES: Mapping[str, str] = {"f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0", "q4_1": "MOSTLY_Q4_1"}
"""Types that matrices are written in, and what a file of such is called."""


def convert(source: Path, to: Path, kind: str, *, others: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write a GGUF file again with matrices in another type; one of rows that it does not divide becomes `f16`, a vector stays.

    Args:
        source: in float32.
        to: the new file.
        kind: one of `MATRICES`.
        others: another type, or `f32`, for some matrices by name.
    """
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(to, str(reader.fields["general.architecture"].contents()))
    for name, each in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        part = each.types[-1] if each.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, each.contents(), each.types[0], sub_type=part)
    writer.add_file_type(gguf.LlamaFileType[MATRICES[kind]])
    for tensor in reader.tensors:
        wanted = gguf.GGMLQuantizationType[others.get(tensor.name, kind).upper()]
        of = tensor.tensor_type if tensor.data.ndim < 2 else wanted
        if tensor.data.ndim > 1 and tensor.data.shape[-1] % gguf.GGML_QUANT_SIZES[of][0]:
            of = gguf.GGMLQuantizationType.F16
        data = tensor.data if of is tensor.tensor_type else gguf.quants.quantize(tensor.data, of)
        writer.add_tensor(tensor.name, data, raw_dtype=of)
    _close(writer)


def types_in(path: Path) -> tuple[str, ...]:
    """Types of the weights in a file, by their names."""
    import gguf

    return tuple(sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}))


def bytes_by_part(path: Path) -> dict[str, int]:
    """Bytes of the weights in a file by part of the model: `blk.0.attn` for all of `blk.0.attn_q.weight` and its kin."""
    import gguf

    found = Counter[str]()
    for tensor in gguf.GGUFReader(path).tensors:
        found[str(tensor.name).removesuffix(".weight").removesuffix(".bias").split("_")[0]] += int(tensor.n_bytes)
    return dict(found)


def _close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
