"""What pages of results share: means over seeds with intervals, paired differences, and the machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compressor.records import Ratio, Report


def mean_and_interval(values: Sequence[float]) -> str:
    """Mean over seeds with Student's 95 % interval."""
    from scipy.stats import t

    mean = float(np.mean(values))
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{mean:.2f} ± {half:.2f}"


def differences(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """Mean of the paired differences with Student's 95 % interval; bold where it leaves 0 out."""
    from scipy.stats import t

    apart = np.asarray(mine) - np.asarray(theirs)
    half = float(t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / len(apart) ** 0.5)
    text = f"{apart.mean():+.2f} ± {half:.2f}"
    return f"**{text}**" if abs(apart.mean()) > half else text


def against(ratio: Ratio | None) -> str:
    """A speed-up with its interval; 1 for what all is held against."""
    return f"{ratio.value:.2f}x [{ratio.interval.low:.2f}, {ratio.interval.high:.2f}]" if ratio else "1"


def machine_lines(report: Report) -> Iterator[str]:
    """Where and with what."""
    here = report.machine
    yield f"- Machine: {here.processor}, {here.cores} cores, {', '.join(here.features)}; {here.memory_bytes / 2**30:.0f} GiB."
    names = ("torch", "transformers", "onnxruntime", "openvino", "nncf")
    yield f"- Versions: {', '.join(f'{name} {report.versions[name]}' for name in names if name in report.versions)}; Python {here.python}."
    yield f"- Date: {report.started[:10]}."
