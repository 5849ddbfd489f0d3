"""Do intervals hold what they say? Ratios and verdicts under planted noise; differences of two models on the same rows.

`python -m benchmarks.studies.intervals` remakes docs/results/intervals.md; what is counted already is not drawn again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.studies.paired import SETTINGS, Coverage, coverage
from benchmarks.studies.planted import BESIDE, NOISES, Found, found_under
from compressor.contracts import derived_seed

DRAWS = 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of each setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs/intervals"), help="where counts are kept")
    parser.add_argument("--counted", action="store_true", help="draw nothing: write the page of what is counted already")
    parser.add_argument("--out", type=Path, default=Path("docs/results/intervals.md"))
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    compared = {name: _paired(name, given) for name in SETTINGS if _asked(f"paired-{name}", given)}
    timed = {name: _timed(name, given) for name in NOISES if _asked(name, given)}
    given.out.write_text(document(timed, compared), encoding="utf-8")
    return 0


def _asked(stem: str, given: argparse.Namespace) -> bool:
    return not given.counted or (given.work / f"{stem}.json").is_file()


def _paired(name: str, given: argparse.Namespace) -> Coverage:
    def make() -> Mapping[str, Any]:
        return asdict(coverage(SETTINGS[name], draws=given.draws, seed=derived_seed(given.seed, "paired")))

    return Coverage(**_kept(given.work / f"paired-{name}.json", make))


def _timed(name: str, given: argparse.Namespace) -> dict[float, Found]:
    def make() -> Mapping[str, Any]:
        found = found_under(NOISES[name], draws=given.draws, seed=given.seed)
        return {str(planted): asdict(one) for planted, one in found.items()}

    return {float(planted): Found(**one) for planted, one in _kept(given.work / f"{name}.json", make).items()}


def _kept(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    if not path.is_file():
        sys.stdout.write(f"{path.stem}\n")
        sys.stdout.flush()
        path.write_text(json.dumps(make()), encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def document(timed: Mapping[str, Mapping[float, Found]], compared: Mapping[str, Coverage]) -> str:
    """The page."""
    return "\n".join((*_opening(), *_missing(timed, compared), *_ratios(timed), *_differences(compared))) + "\n"


def _opening() -> Iterator[str]:
    yield "# Do intervals hold what they say?"
    yield ""
    yield "`python -m benchmarks.studies.intervals` remakes this page. Truth and noise are planted; everything else is the code that runs."
    yield ""


def _missing(timed: Mapping[str, object], compared: Mapping[str, object]) -> Iterator[str]:
    """What the study counts and these counts lack."""
    machines = [f"{name} ({noise.words})" for name, noise in NOISES.items() if name not in timed]
    pairs = [f"{setting.words} of {setting.rows} rows" for name, setting in SETTINGS.items() if name not in compared]
    if machines or pairs:
        yield f"**Not all of it is here.** Not drawn yet: {'; '.join((*machines, *pairs))}."
        yield ""


def _ratios(timed: Mapping[str, Mapping[float, Found]]) -> Iterator[str]:
    yield "## Ratios of times, and verdicts on them"
    yield ""
    yield "The latency probe with its default parameters times a source and five models that are faster by what is planted, on simulated"
    yield "machines. *False* are verdicts on limits that lie next to the truth: `met` where the limit is "
    yield f"{BESIDE - 1:.0%} above it, `not met` where it is as much below. *Disturbed*: the A/A control was beyond its limit."
    yield ""
    for name, by_difference in timed.items():
        yield f"**{name}**: {NOISES[name].words}."
        yield ""
        yield "| planted | intervals that hold it | told faster | told slower | false `met` | false `not met` | disturbed | draws |"
        yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        for planted, one in by_difference.items():
            shares = [
                _share(count, one.draws)
                for count in (one.covered, one.faster, one.slower, one.false_met, one.false_not_met, one.disturbed)
            ]
            yield f"| {planted:.0%} | {' | '.join(shares)} | {one.draws} |"
        yield ""


def _differences(compared: Mapping[str, Coverage]) -> Iterator[str]:
    yield "## Differences of two models on the same rows"
    yield ""
    yield "Rows are drawn from a population whose difference is known; the interval is the one of gates, `accept:` and `compare`."
    yield ""
    yield "| measure | rows | rows that differ, mean | intervals that hold the truth | draws |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, one in compared.items():
        yield f"| {SETTINGS[name].words} | {SETTINGS[name].rows} | {one.differing / one.draws:.1f} | {_share(one.covered, one.draws)} | {one.draws} |"


def _share(count: int, of: int) -> str:
    return f"{100 * count / of:.1f} %"


if __name__ == "__main__":
    raise SystemExit(main())
