"""Seeds of what draws apart: one derivation, so that no two draws meet by a sum of their numbers."""

from __future__ import annotations

import zlib


def derived_seed(seed: int, *words: int | str) -> int:
    """The seed of one use of a plan's seed, named by words and numbers: `derived_seed(ctx.seed, "rows", epoch)`.

    Hashed by numpy's `SeedSequence`, whose spawn keys keep (seed 0, number 1), (seed 1, number 0) and (seed 0, no number) apart.

    Args:
        seed: from 0 on.
        words: what is drawn, then which of it; numbers from 0 on.

    Returns:
        0 to 2**32 - 1, which every library's generator takes.

    Raises:
        ValueError: a number is negative.
    """
    import numpy as np

    key = tuple(zlib.crc32(word.encode()) if isinstance(word, str) else word for word in words)
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0])
