"""Weights of a GGUF file in few bits, by the package `gguf`, and what became of each layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compressor.deploy import gguf as files
from compressor.errors import UnsupportedModel
from passes.quantization.quantizers.weight_layers import Chosen, Left, Wanted, require_float, require_named

TYPES = {(8, True): "q8_0", (4, True): "q4_0", (4, False): "q4_1"}
"""By bits, and whether all groups have the same zero."""
OUTER = ("token_embd.weight", "output.weight")
"""The table of words, which is head too where there is no other."""
FLOATS = ("F32", "F16", "BF16")
HEAD = "lm_head"


def convert(source: Path, out: Path, wanted: Wanted) -> tuple[list[Chosen], list[Left]]:
    """Write the file again with its matrices in few bits; say what became of each.

    Raises:
        UnsupportedModel: there is no type for the bits with such zeros.
    """
    import gguf

    require_float(each for each in files.types_in(source / files.FILE) if each not in FLOATS)
    kind = _type(wanted.bits, symmetric=wanted.symmetric)
    outer = _type(wanted.embeddings, symmetric=wanted.symmetric or wanted.embeddings == 8) if wanted.embeddings else "f32"
    read = gguf.GGUFReader(source / files.FILE)
    others = dict.fromkeys(OUTER, outer)
    paths = _paths(read)
    require_named(wanted.exclude, [path for each in paths.values() for path in each])
    others |= {name: "f32" for name, known in paths.items() if wanted.leaves(*known)}
    files.convert(source / files.FILE, out / files.FILE, kind, others=others)
    chosen, left = list[Chosen](), list[Left]()
    for tensor in gguf.GGUFReader(out / files.FILE).tensors:
        name, type_ = tensor.name.removesuffix(".weight"), tensor.tensor_type.name
        if tensor.tensor_type.name.startswith("Q"):
            group = int(gguf.GGML_QUANT_SIZES[tensor.tensor_type][0])
            symmetric = not type_.endswith("_1")
            chosen.append(Chosen(name, int(type_[1]), group, symmetric, int(tensor.n_elements), int(tensor.n_bytes)))
        elif len(tensor.shape) > 1:
            why = (
                "no group of 32 divides its rows"
                if type_ == "F16"
                else "excluded"
                if tensor.name not in OUTER
                else "embeddings: float"
            )
            left.append(Left(name, int(tensor.n_elements), why))
    return chosen, left


def _paths(read: Any) -> dict[str, list[str]]:
    """By matrix its name, and paths of modules that the package knows it by."""
    import gguf

    name = str(read.fields["general.architecture"].contents())
    kind = next(each for each, spelled in gguf.MODEL_ARCH_NAMES.items() if spelled == name)
    known = gguf.get_tensor_name_map(kind, int(read.fields[f"{name}.block_count"].contents())).mapping
    found = {tensor.name: [tensor.name.removesuffix(".weight")] for tensor in read.tensors if len(tensor.shape) > 1}
    for path, (_, given) in known.items():
        if f"{given}.weight" in found and path.startswith(("model.layers.", "model.embed_tokens", "lm_head")):
            found[f"{given}.weight"].append(path)
    if OUTER[1] not in found and OUTER[0] in found:
        found[OUTER[0]].append(HEAD)
    return found


def _type(bits: int, *, symmetric: bool) -> str:
    found = TYPES.get((bits, symmetric))
    if found is None:
        raise UnsupportedModel(f"GGUF files hold {bits} bits with one zero for all groups alone: leave symmetric out")
    return found
