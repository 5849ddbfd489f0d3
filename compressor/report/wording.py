"""How numbers are written in reports and READMEs: few digits, units, a real minus sign, and a dash where nothing was measured."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, TypeAlias

from compressor.contracts.figures import MINUS
from compressor.contracts.figures import significant as significant
from compressor.contracts.figures import trimmed as trimmed
from compressor.contracts.records import Difference, Interval, LatencyRow, Metric, Ratio

Unit: TypeAlias = Literal["points", "percent"]
NOTHING = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"
TIMES = "\N{MULTIPLICATION SIGN}"


def step(name: str, *, rolled_back: bool) -> str:
    """A step's name, and whether it was rolled back."""
    return f"{name} (rolled back)" if rolled_back else name


def milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{significant(value)}{SPACE}ms"


def moment(iso: str) -> str:
    """A time stamp to the minute; what is no ISO time stays as it is."""
    try:
        return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M %Z").rstrip()
    except ValueError:
        return iso


def seconds(value: float) -> str:
    if value < 120:
        return f"{significant(value, 2) if value < 10 else f'{value:.0f}'}{SPACE}s"
    minutes = round(value / 60)
    return f"{minutes}{SPACE}min" if minutes < 120 else f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def size(value: float | None) -> str:
    """Bytes in decimal units, as model hubs write them."""
    if value is None:
        return NOTHING
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{significant(value / scale)}{SPACE}{unit}"
    return f"{value:.0f}{SPACE}B"


def percent(fraction: float | None) -> str:
    return NOTHING if fraction is None else f"{100 * fraction:.1f}{SPACE}%".replace("-", MINUS)


def count(value: float) -> str:
    """Parameters and the like: 22.7 M, 340 k."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= scale:
            return f"{significant(value / max(scale, 1e3) if unit != 'k' else value / 1e3)}{SPACE}{unit}"
    return f"{value:,.0f}".replace(",", SPACE)


def points(value: float | None, *, unit: bool = True) -> str:
    """Signed points of a metric; 0.04 and less either way is written as 0.0 without a sign."""
    if value is None:
        return NOTHING
    text = f"{value:+.1f}" if abs(value) >= 0.05 else "0.0"
    return text.replace("-", MINUS) + (f"{SPACE}points" if unit else "")


def per_cent(value: float | None, *, unit: bool = True) -> str:
    """Signed per cent of the reference's value; 0.04 and less either way is written as 0.0 without a sign."""
    return points(value, unit=False) + (f"{SPACE}%" if unit and value is not None else "")


def in_unit(unit: Unit) -> Callable[[float | None], str]:
    """How a change of a metric is written: in points, or in per cent."""
    return points if unit == "points" else per_cent


def on_scale(of: Metric) -> Callable[[float | None], str]:
    """How values of a metric are written: fractions in per cent, all else as they are."""
    return percent if of.in_percent else lambda value: NOTHING if value is None else significant(value)


def moved(found: Difference | None) -> str:
    """A difference with its unit: `-0.9 points`, `+3.1 %`."""
    return NOTHING if found is None else in_unit(found.unit)(found.change)


def moved_between(found: Difference | None) -> str:
    """The interval of a difference, and how near answers are token by token; empty where there is neither."""
    if not found:
        return ""
    near = [f"{percent(found.agreement)} of tokens alike"] if found.agreement is not None else []
    near += [f"KL {significant(found.divergence, 2)}"] if found.divergence is not None else []
    return ", ".join(filter(None, (interval(found.interval, in_unit(found.unit)), *near)))


def step_between(before: float, after: Metric) -> str:
    """What a step changed of a metric: points without their unit, or per cent."""
    if after.drop == "points":
        return points(100 * (after.value - before), unit=False)
    return per_cent(100 * (after.value / before - 1)) if before else ""


def factor(value: float | None) -> str:
    """A ratio of times or sizes: 0.98, 4.32, 12.3 times."""
    return NOTHING if value is None else f"{value:.{2 if abs(value) < 10 else 1}f}{TIMES}"


def near_one(value: float) -> str:
    """A ratio that ought to be 1, with three decimals."""
    return f"{value:.3f}{TIMES}"


def change(before: float | None, after: float | None) -> str:
    """Relative change in per cent, signed."""
    if not before or after is None or abs(after / before - 1) < 0.005:
        return ""
    return f"{100 * (after / before - 1):+.0f}{SPACE}%".replace("-", MINUS)


def interval(found: Interval | None, write: Callable[[float], str]) -> str:
    """`4.1 to 4.6`, the unit written once."""
    if found is None:
        return ""
    low, high = write(found.low), write(found.high)
    space, unit = high.rpartition(SPACE)[1:]
    return f"{(low.removesuffix(space + unit) if space else low).removesuffix(TIMES)} to {high}"


def told(ratio: Ratio) -> str:
    """What a ratio of speeds shows, and whether the machine was still: `slower`, `faster, disturbed`."""
    return f"{ratio.outcome}, disturbed" if ratio.disturbed and ratio.outcome != "undecided" else ratio.outcome


def around(ratio: Ratio) -> str:
    """Interval of a ratio of speeds, with what it shows unless that is a speed-up on a machine that was still."""
    found = interval(ratio.interval, factor)
    return found if told(ratio) == "faster" else f"{found}, {told(ratio)}"


def metric(found: Metric | None) -> str:
    return NOTHING if found is None else on_scale(found)(found.value)


def sample(found: Metric) -> str:
    """Interval and n of a metric: `96.1 to 98.5 %, n = 425`."""
    spread = interval(found.interval, on_scale(found))
    return f"{spread}, n{SPACE}={SPACE}{found.n}" if spread else f"n{SPACE}={SPACE}{found.n}"


def first_line(text: str, limit: int = 120) -> str:
    """The first line that says something, shortened: a licence may be stated in full."""
    return shortened(next((line.strip() for line in text.splitlines() if line.strip()), ""), limit)


def throughput_unit(unit: str) -> str:
    return f"{unit} per second"


def throughput(row: LatencyRow) -> str:
    return f"{significant(row.throughput_per_s)}{SPACE}{row.unit}/s"


def shortened(text: str, limit: int = 34) -> str:
    """Cut in the middle, since names tend to differ at both ends."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[-(limit - 1 - head) :]}"
