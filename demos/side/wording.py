"""Answers and times as a page shows them: HTML in which all that others wrote is escaped."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from itertools import takewhile

from demos.side.meter import ROUNDS, Reading, Timed
from demos.side.process import Answer
from demos.side.worker import NOT_FINITE

BARS = 5
"""Classes that a bar is drawn for."""
CLOSE = 0.995
"""Cosine from which two vectors of features count as alike."""
NEAR = 0.01
"""Share of a number by which another may differ and counts as the same."""
LEVELS = 4.0
"""Mean difference of two pictures, of 255 levels of brightness, up to which they count as alike."""
ROUGH = 0.15
"""Share of the time that others may have the processor before a measurement is called rough."""
UNDECIDED = "<dd>undecided</dd><small>the machine was not still</small>"
"""The longer of two calls is interrupted more often: a ratio would be wrong, and not only wide."""
AGREE, DIFFER = "agree", "differ"


def card(answer: Answer | None, *, waiting: str = "") -> str:
    """What one model answered."""
    if answer is None:
        return f'<p class="waiting">{escape(waiting or "No answer yet.")}</p>'
    cursor = "" if answer.whole else '<span class="cursor" aria-hidden="true">▍</span>'
    told = f'<p class="told">{escape(answer.text) or "<span class=waiting>nothing</span>"}{cursor}</p>'
    if answer.picture:
        source = f"data:image/png;base64,{escape(answer.picture)}"
        return f'<img class="drawn" src="{source}" alt="The picture that was drawn, {escape(answer.text)}">'
    sure = "" if answer.confidence is None else f'<p class="sure">{percent(answer.confidence)} sure</p>'
    return f"{told}{sure}{_bars(answer.ranking)}"


def _bars(ranking: Sequence[tuple[str, float]]) -> str:
    if not ranking:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td><span class="bar" style="width:{100 * share:.1f}%"></span></td>'
        f"<td>{percent(share)}</td></tr>"
        for label, share in ranking[:BARS]
    )
    return f'<table class="bars"><caption class="unseen">Probabilities</caption>{rows}</table>'


def agreement(names: Sequence[str], answers: Sequence[Answer]) -> str:
    """Whether two models agree, in words; nothing of one model."""
    if len(answers) < 2:
        return ""
    before, after = answers[0], answers[-1]
    if NOT_FINITE in (before.text, after.text) or len(before.vector) != len(after.vector):
        why = "feature vectors of different lengths" if before.vector and after.vector else "a model gives no answer"
        return f'<p class="{DIFFER}">There is nothing to compare: {why}.</p>'
    if before.picture:
        said, mark = _drawn(before.picture, after.picture)
    elif before.vector:
        alike = cosine(before.vector, after.vector)
        said, mark = f"The angle between both has a cosine of {alike:.4f} (1 is the same direction).", alike >= CLOSE
    elif before.number is not None and after.number is not None:
        apart = abs(before.number - after.number)
        said, mark = f"They are {apart:.3g} apart.", apart <= NEAR * abs(before.number)
    elif before.tokens:
        said, mark = _written(before.text, after.text), before.text == after.text
    else:
        mark = before.text == after.text
        told = [answer.text or "nothing" for answer in (before, after)]
        said = f"Both say {told[1]}." if mark else f"{names[0]} says {told[0]}, {names[-1]} says {told[1]}."
    word = "Agreement" if mark else "Difference"
    sign = "✓" if mark else "≠"
    return f'<p class="{AGREE if mark else DIFFER}"><b>{sign} {word}.</b> {escape(said)}</p>'


def _drawn(before: str, after: str) -> tuple[str, bool]:
    """How far two pictures are apart, and whether they count as alike."""
    from PIL import Image, ImageChops, ImageStat

    pair = [Image.open(io.BytesIO(base64.b64decode(each)), formats=["PNG"]) for each in (before, after)]
    if pair[0].size != pair[1].size or pair[0].mode != pair[1].mode:
        return "They are pictures of different sizes.", False
    bands = ImageStat.Stat(ImageChops.difference(*pair)).mean
    apart = sum(bands) / len(bands)
    return f"Pixels are {apart:.1f} of 255 levels apart, on average.", apart <= LEVELS


def _written(before: str, after: str) -> str:
    if before == after:
        return "Both write the same."
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    return f"They write the same for {shared} characters, and then go different ways."


def cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """Of the angle between two vectors; 0 where one has no length."""
    lengths = math.sqrt(math.fsum(value * value for value in first)) * math.sqrt(math.fsum(value * value for value in second))
    return math.fsum(one * other for one, other in zip(first, second, strict=True)) / lengths if lengths else 0.0


def meter(names: Sequence[str], found: Reading, reported: str, tokens: int = 0) -> str:
    """What was measured, and how."""
    times = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{milliseconds(each.median)}</dd><small>{between(each, milliseconds)}</small></div>"
        for name, each in zip(names, found.seconds, strict=True)
    )
    rough = found.lost > ROUGH
    ratio = "" if found.ratio is None else f"<div><dt>Speed</dt>{UNDECIDED if rough else _told(found.ratio)}</div>"
    what = f"a call makes {tokens} tokens" if tokens else "one input a call"
    how = (
        f"Measured on this machine just now, on your input: {ROUNDS} rounds of {found.calls} calls of each model in turn, warm, {what}, "
        f"{found.threads} thread{'s' if found.threads > 1 else ''}, each model in a process of its own. Medians with 95 % intervals."
    )
    beside = f" The report of the run has {escape(reported)}." if reported else ""
    others = f"Other programs had the processor for {percent(found.lost)} of a call: close them, and ask again."
    doubt = f"<p class='differ'><b>Rough.</b> {others}</p>" if rough else ""
    return f'<dl class="meter">{times}{ratio}</dl>{doubt}<p class="how">{how}{beside}</p>'


def speed(ratio: Timed) -> str:
    """How many times faster, or that nothing is to be seen."""
    if ratio.low <= 1.0 <= ratio.high:
        return "no difference that can be measured"
    return f"{factor(ratio.median)} times faster" if ratio.median > 1 else f"{factor(1 / ratio.median)} times slower"


def _told(ratio: Timed) -> str:
    low, high = ratio.low, ratio.high
    if low <= 1.0 <= high:
        ends = f"between {factor(1 / low)} times slower and {factor(high)} times faster"
    else:
        ends = between(ratio if low > 1 else Timed(1 / ratio.median, 1 / high, 1 / low), factor)
    return f"<dd>{speed(ratio)}</dd><small>{ends}</small>"


def between(found: Timed, write: object) -> str:
    """The ends of an interval."""
    assert callable(write)
    return f"{write(found.low)} to {write(found.high)}"


def milliseconds(seconds: float) -> str:
    """With three digits."""
    return f"{significant(1e3 * seconds)} ms"


def factor(value: float) -> str:
    """With three digits."""
    return significant(value)


def significant(value: float) -> str:
    """A number with three digits, and no exponent."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"


def percent(share: float) -> str:
    """Of a share in [0, 1]; never 100 where something is missing to it."""
    text = f"{100 * share:.1f}"
    return f"{'99.9' if text == '100.0' and share < 1 else text} %"
