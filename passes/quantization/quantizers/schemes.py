"""Which weights a target has kernels for, by the schemes that its dialect names; and what is to be said instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from compressor.contracts import Dialect

WIDTHS = (8, 4, 2)
"""Bits that some runtime here multiplies by."""


def refused_bits(bits: int) -> str:
    """Why weights of so many bits are taken nowhere; empty where they are taken somewhere."""
    if bits in WIDTHS:
        return ""
    near = 4 if bits in (3, 5, 6) else 2 if bits == 1 else 8
    slow = (
        "; OpenVINO stores them and brings them back to float at every call, which is slower than float32"
        if bits in (3, 6)
        else ""
    )
    return f"no runtime here has kernels for weights of {bits} bits{slow}: say {near}"


def groups_of(dialect: Dialect, bits: int) -> tuple[int | None, ...]:
    """Weights of one scale that a target has kernels for where weights alone are quantised beforehand; None is a whole row."""
    of_bits = [each for each in dialect.schemes if each.weights == f"int{bits}"]
    alone = [each for each in of_bits if each.activations == "fp32"] or [each for each in of_bits if each.granularity == "group"]
    return tuple(dict.fromkeys(each.group if each.granularity == "group" else None for each in alone))


def refusals(
    dialect: Dialect, *, bits: int, group: int | Literal["auto"], named: tuple[str, str] = ("bits", "group_size")
) -> Mapping[str, str]:
    """What speaks against a width and a group, by the parameter.

    Args:
        dialect: of the target.
        bits: of the weights.
        group: weights of one scale; `auto` is what the target has.
        named: the parameters that say bits and group.
    """
    groups = groups_of(dialect, bits)
    if not groups:
        others = [str(each) for each in WIDTHS if groups_of(dialect, each)]
        if not others:
            return {
                named[
                    0
                ]: "as the plan sets it up it multiplies by no quantised weights: leave the step out, or the target's parameters"
            }
        return {named[0]: f"it has no kernel for weights of {bits} bits: say {' or '.join(others)}"}
    if group == "auto" or group in groups:
        return {}
    taken = [str(each) for each in groups if each]
    if not taken:
        return {named[1]: f"a scale of {bits} bits is there for a whole row: leave it out"}
    return {named[1]: f"it has no kernel for groups of {group} weights of {bits} bits: say {' or '.join(taken)}"}


def group_for(dialect: Dialect, bits: int, wish: int) -> int | None:
    """Of the groups that a target has the one nearest to a wish; None for a whole row."""
    groups = [each for each in groups_of(dialect, bits) if each]
    return min(groups, key=lambda each: abs(each - wish)) if groups else None
