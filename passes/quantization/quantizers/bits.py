"""How many bits of an int8 weight are used, and what the processor here can do with them."""

from __future__ import annotations

from typing import Literal, TypeAlias

from compressor.contracts import Context
from compressor.contracts.notes import Remark
from compressor.deploy.machine import features, read_cpuinfo

Bits: TypeAlias = Literal["auto", 7, 8]

DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
"""Instruction sets that sum products of bytes in 32 bits."""


def sums_bytes_fast() -> bool:
    """Whether the processor here has instructions that sum products of bytes in 32 bits."""
    return bool(DOT_PRODUCTS & set(features(read_cpuinfo())))


def weight_bits(asked: Bits, ctx: Context) -> Literal[7, 8]:
    """Bits for the processor here.

    Where bytes are multiplied by `vpmaddubsw` (AVX2, AVX-512 without VNNI), two neighbouring products of an unsigned byte and
    a signed one are summed in 16 bits and saturate; with weights of 7 bits they cannot.
    """
    if asked != "auto":
        return asked
    if sums_bytes_fast():
        return 8
    ctx.note(Remark(text="This processor sums products of bytes in 16 bits (no VNNI): weights use 7 of their 8 bits."))
    return 7
