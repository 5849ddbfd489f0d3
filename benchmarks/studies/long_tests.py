"""Runs the tests that take minutes, and those of runs killed at every point, and writes what they found.

python -m benchmarks.studies.long_tests --out docs/results/long-tests.md
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

from compressor.deploy.machine import machine, versions

EVERY_POINT = "tests/compressor/run/test_forked_runs.py"
SELECTIONS = (("-m", "long"), (EVERY_POINT,))


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


def document(rows: Sequence[str]) -> str:
    """The page."""
    here, installed = machine(), versions(("compressor-toolchain", "torch", "onnxruntime", "openvino"))
    return "\n".join(
        [
            "# Long tests",
            "",
            "`python -m benchmarks.studies.long_tests` remakes this page. The first test of a module carries the time of what the module prepares.",
            "",
            f"- Machine: {here.processor}, {here.cores} cores, {here.memory_bytes / 2**30:.0f} GiB.",
            f"- Versions: {', '.join(f'{name} {number}' for name, number in installed.items())}; Python {here.python}.",
            f"- Date: {datetime.now(UTC).date().isoformat()}.",
            "",
            "| test | outcome | time | what it counted |",
            "| --- | --- | ---: | --- |",
            *rows,
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all of them; 1 where one did not pass."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results/long-tests.md"))
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="compressor-long-tests-") as folder:
        rows = [row(case) for selection in SELECTIONS for case in cases(selection, Path(folder))]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(document(rows), encoding="utf-8")
    sys.stdout.write(f"{given.out}\n")
    return int(any("| passed |" not in each for each in rows))


if __name__ == "__main__":
    raise SystemExit(main())
