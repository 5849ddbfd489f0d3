"""From a matplotlib figure to an SVG inside a page: themed by CSS variables, without a date, fonts or global ids of its own."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 9.2

INK, MUTED, FAINT, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
ACCENT, SECOND, ACCENT_SOFT, SECOND_SOFT = "#0d0e0f", "#101112", "#131415", "#161718"
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    FAINT: "var(--line)",
    PAPER: "var(--paper)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    ACCENT_SOFT: "var(--accent-soft)",
    SECOND_SOFT: "var(--second-soft)",
}
"""Stand-in colours that no chart uses otherwise, and the page's variables that take their place."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES = ("-", "--", ":", "-.")

RC = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "hatch.color": MUTED,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Chart:
    """A drawn chart: its place in the page, what it shows, and the SVG."""

    name: str
    title: str
    caption: str
    svg: str


def draw(name: str, paint: Callable[[Figure], None], *, title: str, caption: str, height_inches: float) -> Chart:
    """Let `paint` fill a figure and return it as a themed chart; `name` is unique in the page."""
    from matplotlib import style
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with style.context(["default", {**RC, "svg.hashsalt": name}]), warnings.catch_warnings():
        # a label in a script that the bundled font lacks is still drawn by the browser
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(name, title, caption, themed(buffer.getvalue(), name=name, label=f"{title}. {caption}"))


def themed(svg: str, *, name: str, label: str) -> str:
    """Strip what a page must not inherit, and hand colours and fonts over to its style sheet."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _attribute(_local(key), value, name) for key, value in element.attrib.items()}
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": label, "data-chart": name}
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-")
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    value = re.sub(r"#[0-9a-f]{6}", lambda found: VARIABLES.get(found[0], found[0]), value)
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", value)


def bare(axes: Axes, *, grid: str = "x") -> None:
    """Take away all but the data: no frame, no tick marks, a faint grid along one axis."""
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if grid:
        axes.grid(axis=grid)  # type: ignore[arg-type]
