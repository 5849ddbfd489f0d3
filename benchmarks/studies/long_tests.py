"""Runs the tests that take minutes, and writes what they found.

python -m benchmarks.studies.long_tests                 # docs/results/long-tests.md, runs killed at every point with them
python -m benchmarks.studies.long_tests architectures   # docs/results/architectures.md, each from plan to export
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from compressor.deploy.machine import machine, versions

EVERY_POINT = "tests/compressor/run/test_forked_runs.py"
ARCHITECTURES = "tests/compressor/test_architectures.py"


@dataclass(frozen=True)
class Page:
    """Which tests a page tells of: arguments of pytest, a run for each."""

    title: str
    selections: tuple[tuple[str, ...], ...]
    counted: str
    """What is in the last column."""
    about: str


PAGES: Mapping[str, Page] = {
    "long-tests": Page(
        "Long tests",
        (("-m", "long", f"--ignore={ARCHITECTURES}"), (EVERY_POINT,)),
        "what it counted",
        "The first test of a module carries the time of what the module prepares.",
    ),
    "architectures": Page(
        "Architectures",
        (("-m", "long", ARCHITECTURES),),
        "what it found",
        "Each is a tiny model with random weights and a head of three classes: fine-tuned for an epoch, folded, quantised, built for "
        "ONNX Runtime and OpenVINO, scored, timed and exported, the exports proved. Parity is the largest difference of a logit between "
        "fp32 in torch and the built file.",
    ),
}


def cases(arguments: Sequence[str], folder: Path) -> Iterator[ElementTree.Element]:
    """Run pytest; the cases of its JUnit file."""
    written = folder / "results.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "-o", "junit_family=xunit1", f"--junitxml={written}"], check=False
    )
    yield from ElementTree.parse(written).iter("testcase")


def row(case: ElementTree.Element) -> str:
    """A line of the table."""
    outcome = next((found for found in ("failure", "error", "skipped") if case.find(found) is not None), "passed")
    noted = ", ".join(f"{each.get('name')}: {each.get('value')}" for each in case.iter("property"))
    name = str(case.get("name")).removeprefix("test_").replace("_", " ")
    return f"| {name} | {outcome} | {float(case.get('time', 0)):.0f} s | {noted} |"


def document(name: str, rows: Sequence[str]) -> str:
    """The page."""
    here, installed = machine(), versions(("compressor-toolchain", "torch", "transformers", "onnxruntime", "openvino"))
    page = PAGES[name]
    return "\n".join(
        [
            f"# {page.title}",
            "",
            f"`python -m benchmarks.studies.long_tests {name}` remakes this page. {page.about}",
            "",
            f"- Machine: {here.named}, {here.memory_bytes / 2**30:.0f} GiB.",
            f"- Versions: {', '.join(f'{name} {number}' for name, number in installed.items())}; Python {here.python}.",
            f"- Date: {datetime.now(UTC).date().isoformat()}.",
            "",
            f"| test | outcome | time | {page.counted} |",
            "| --- | --- | ---: | --- |",
            *rows,
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all tests of a page; 1 where one did not pass."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("page", nargs="?", choices=tuple(PAGES), default="long-tests")
    parser.add_argument("--out", type=Path, help="docs/results/PAGE.md unless given")
    given = parser.parse_args(arguments)
    out = given.out or Path("docs/results") / f"{given.page}.md"
    with tempfile.TemporaryDirectory(prefix="compressor-long-tests-") as folder:
        rows = [row(case) for selection in PAGES[given.page].selections for case in cases(selection, Path(folder))]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(document(given.page, rows), encoding="utf-8")
    sys.stdout.write(f"{out}\n")
    return int(any("| passed |" not in each for each in rows))


if __name__ == "__main__":
    raise SystemExit(main())
