"""Plan files that are large or deep are faults, in bounded time."""

from __future__ import annotations

import pytest
from plan_files import loaded

from compressor.errors import PlanError
from compressor.plan.yaml_source import MAX_BYTES, MAX_DEPTH, MAX_VALUES

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
LARGE = {
    "billion laughs": LAUGHS,
    "laughs in keys": "a: &a {x: 1, y: 2}\n"
    + "".join(f"{n}: &{n} {{x: *{o}, y: *{o}}}\n" for o, n in zip("abcdefghijklmnop", "bcdefghijklmnopq", strict=True)),
    "alias inside of itself": "a: &a [*a]",
    "many anchors": "a: [" + ", ".join(f"&a{n} {n}" for n in range(12_000)) + "]",
    "deep lists": "a: " + "[" * 100_000,
    "deep mappings": "{a: " * 50_000,
    "deep by indentation": "".join(" " * depth + "a:\n" for depth in range(600)),
    "deep sequences in a line": "a: " + "- " * 20_000,
    "deep but closed": "a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
    "many keys": "\n".join(f"k{n}: {n}" for n in range(15_000)),
    "one key many times": "seed: 1\n" * 15_000,
    "many values": "a: [" + "1," * (MAX_VALUES + 1) + "]",
    "many documents": "a: 1\n---\n" * 20_000,
    "a huge number": f"seed: {'9' * 200_000}",
    "a huge fraction": f"seed: 0.{'9' * 200_000}",
    "a huge exponent": f"seed: 1e{'9' * 200_000}",
    "a huge number to base 16": f"seed: 0x{'f' * 200_000}",
    "a long word": f"name: {'a' * 200_000}",
    "a long key": f"{'a' * 200_000}: 1",
    "a long quoted text": f'name: "{"a" * 200_000}"',
    "a long block": "name: |\n" + "  a\n" * 50_000,
    "a long comment": "#" * 250_000,
    "blank lines": "\n" * 250_000,
    "a long tag": f"seed: !{'a' * 200_000} 1",
    "too large": "#" * (MAX_BYTES + 1),
    "many long names that are unknown": "\n".join(f"{'ab' * 100}{n}: 1" for n in range(800)),
    "many unknown passes": "passes:\n" + "- finetun\n" * 9_000,
    "many equal passes": "passes:\n" + "- finetune\n" * 9_000,
    "many targets": "targets:\n" + "- torch\n" * 9_000,
    "many gates": "accept:\n" + "- {target: x, max_drop: 1}\n" * 4_000,
    "many models": "models:\n" + "".join(f"  m{n}: {{folder: x}}\n" for n in range(4_000)),
    "many files": "data: {files: [" + "x," * 15_000 + "]}",
}


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_large_or_deep_text_is_a_fault_in_bounded_time(tmp_path, text):
    assert isinstance(loaded(tmp_path, text), PlanError)
