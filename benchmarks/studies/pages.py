"""What pages of results share: means over seeds with intervals, paired differences, and the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compressor.contracts.records import LatencyRecord, Ratio, Report


def mean_and_interval(values: Sequence[float], digits: int = 2) -> str:
    """Mean over seeds with Student's 95 % interval."""
    from scipy.stats import t

    mean = float(np.mean(values))
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def apart(mine: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of the paired differences."""
    from scipy.stats import t

    found = np.asarray(mine) - np.asarray(theirs)
    half = float(t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / len(found) ** 0.5)
    return float(found.mean()) - half, float(found.mean()) + half


def differences(mine: Sequence[float], theirs: Sequence[float], digits: int = 2) -> str:
    """Mean of the paired differences with Student's 95 % interval; bold where it leaves 0 out."""
    low, high = apart(mine, theirs)
    text = f"{(low + high) / 2:+.{digits}f} ± {(high - low) / 2:.{digits}f}"
    return f"**{text}**" if low > 0 or high < 0 else text


def ratio_of(latency: LatencyRecord, candidate: str, *, to: str, length: int | None) -> Ratio:
    """How many times as fast a candidate is as another at a length."""
    return next(each for each in latency.ratios if (each.of, each.to, each.length) == (candidate, to, length))


def against(ratio: Ratio) -> str:
    """A speed-up with its interval; marked where the baseline differed from itself."""
    doubt = ", undecided" if ratio.outcome == "undecided" else ""
    return f"{ratio.value:.2f}x [{ratio.interval.low:.2f}, {ratio.interval.high:.2f}]{doubt}"


def milliseconds(latency: LatencyRecord, candidate: str, *, length: int | None) -> float:
    """A candidate's median at a length."""
    return next(each for each in latency.rows if (each.candidate, each.length) == (candidate, length)).median_ms


def controls(records: Sequence[LatencyRecord]) -> str:
    """What the baselines gave against themselves."""
    found = [control for record in records for control in record.controls]
    ratios = [control.ratio for control in found]
    failed = sum(not control.passed for control in found)
    doubt = (
        f"; {failed} of them are beyond what is allowed, and their ratios are undecided"
        if failed
        else ", all within what is allowed"
    )
    return f"The baseline against itself gave {min(ratios):.3f} to {max(ratios):.3f} in {len(found)} series{doubt}."


def latency_of(report: Report) -> LatencyRecord:
    """The report's latency probe."""
    (found,) = (probe for probe in report.probes if isinstance(probe, LatencyRecord))
    return found


def machine_lines(report: Report) -> Iterator[str]:
    """Where and with what."""
    here = report.machine
    yield f"- Machine: {here.named}, {', '.join(here.features)}; {here.memory_bytes / 2**30:.0f} GiB."
    names = ("torch", "transformers", "onnxruntime", "openvino", "nncf")
    yield f"- Versions: {', '.join(f'{name} {report.versions[name]}' for name in names if name in report.versions)}; Python {here.python}."
    yield f"- Date: {report.started[:10]}."
