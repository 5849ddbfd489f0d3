"""The rows of the test split on which both models differ: filtered, chosen, downloaded as a set to test later models on."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr

from demos.rows import Differing, Rows, Sure, as_folder, as_jsonl
from demos.side.panel import html
from demos.side.wording import percent

EACH = 20
"""Rows that are listed at a time."""
ALL = "all"
QUICK: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
"""How what asks no model is answered: at once, whoever else waits for one."""
SHOWN = 160
"""Characters of a row."""


@dataclass(frozen=True)
class Listed:
    """The rows of one run, as the page lists them."""

    rows: Rows
    folder: Path
    """Takes what is downloaded."""
    media: bool
    """Whether rows are pictures or sounds."""

    @cached_property
    def sure(self) -> dict[int, Sure]:
        """How confident both models are of each row."""
        numbers = [each.row for each in self.rows.differing]
        return dict(zip(numbers, self.rows.sure(numbers), strict=True))

    @property
    def counts(self) -> Counter[str]:
        return Counter(each.kind for each in self.rows.differing)

    @property
    def labels(self) -> list[str]:
        """The true classes of the rows, where they are few enough to choose from."""
        return sorted({each.label for each in self.rows.differing})

    def kept(self, kind: str, label: str) -> list[Differing]:
        """Rows of a kind and a true class, or of all."""
        return [each for each in self.rows.differing if kind in (ALL, each.kind) and label in (ALL, each.label)]

    def line(self, each: Differing) -> str:
        """A row in the list."""
        sure = self.sure[each.row]
        before, after = (
            f"{told}{'' if share is None else f' ({percent(share)})'}"
            for told, share in ((each.before, sure.before), (each.after, sure.after))
        )
        text = " ".join(each.text.split())
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
        return f"Row {each.row}{f', truly {each.label}' if each.label else ''}: {before} → {after}. {shown}"

    def shown(self, kind: str, label: str, page: int, chosen: list[int]) -> tuple[Any, ...]:
        """What is set for a page of the list: the boxes, its number, the buttons that turn pages, the download."""
        found = self.kept(kind, label)
        ticked = [row for row in chosen if row in _on(found, page)]
        boxes = gr.CheckboxGroup(_choices(self, found, page), value=ticked, label=_caption(found, page))
        further = gr.Button(interactive=len(found) > (page + 1) * EACH)
        return boxes, page, gr.Button(interactive=page > 0), further, self.saved(kind, label, chosen)

    def saved(self, kind: str, label: str, chosen: list[int]) -> Any:
        """The download: of the rows that are chosen, else of all that are listed."""
        found = [each for each in (self.rows.differing if chosen else self.kept(kind, label)) if not chosen or each.row in chosen]
        what = f"the {len(found)} chosen" if chosen else f"all {len(found)}"
        return gr.DownloadButton(f"Download {what} rows", value=self.written(found))

    def picked(self, kind: str, label: str, page: int, chosen: list[int], ticked: list[int]) -> tuple[list[int], Any]:
        """All rows that are chosen, those of other pages included, and the download of them."""
        others = {row for row in chosen if row not in _on(self.kept(kind, label), page)}
        whole = sorted({*others, *ticked})
        return whole, self.saved(kind, label, whole)

    def written(self, chosen: Sequence[Differing]) -> str | None:
        """A file of chosen rows."""
        if not chosen:
            return None
        folder = self.folder / f"rows-{uuid4().hex[:8]}"
        if not self.media:
            folder.mkdir()
            path = folder / "rows-that-differ.jsonl"
            path.write_text(as_jsonl(self.rows, chosen), encoding="utf-8")
            return str(path)
        inside = folder / "rows-that-differ"
        inside.mkdir(parents=True)
        as_folder(self.rows, chosen, inside)
        return shutil.make_archive(str(folder / "rows-that-differ"), "zip", inside)


def where_they_differ(listed: Listed, inputs: Sequence[Any], setting: Callable[[Any], list[Any]], tabs: Any) -> None:
    """Draw the list into the page that is open.

    Args:
        listed: the rows.
        inputs: the components of the first tab.
        setting: what they are set to for a row.
        tabs: the page's tabs, of which the first is `try`.
    """
    html(_opening(listed))
    first = listed.kept(ALL, ALL)
    if not first:
        return
    kinds = [(f"All ({len(first)})", ALL)]
    kinds += [(f"{words.capitalize()} ({listed.counts[kind]})", kind) for kind, words in listed.rows.kinds.items()]
    kind = gr.Radio(kinds, value=ALL, label="Which rows", elem_id="kind")
    label = gr.Dropdown([("All", ALL), *((each, each) for each in listed.labels)], value=ALL, label="True class", elem_id="class")
    chosen, page = gr.State([]), gr.State(0)
    boxes = gr.CheckboxGroup(_choices(listed, first, 0), value=[], label=_caption(first, 0), elem_id="rows")
    with gr.Row():
        back = gr.Button("Earlier rows", size="sm", interactive=False)
        on = gr.Button("Further rows", size="sm", interactive=len(first) > EACH)
        go = gr.Button("Try the first chosen row", size="sm")
    save = gr.DownloadButton(f"Download all {len(first)} rows", value=listed.written(first), elem_id="download-rows")

    asked, told = [kind, label, page, chosen], [boxes, page, back, on, save]
    for changed in (
        kind.input,
        label.change,
    ):  # a list raises `input` whenever it is left, and rows would turn back to the first page
        changed(lambda a, b, _, kept: listed.shown(a, b, 0, kept), asked, told, **QUICK)
    back.click(lambda a, b, at, kept: listed.shown(a, b, at - 1, kept), asked, told, **QUICK)
    on.click(lambda a, b, at, kept: listed.shown(a, b, at + 1, kept), asked, told, **QUICK)
    boxes.input(listed.picked, [*asked, boxes], [chosen, save], **QUICK)

    def tried(kept: list[int]) -> list[Any]:
        row = kept[0] if kept else first[0].row
        return [*setting(listed.rows.content(row)), gr.Tabs(selected="try")]

    go.click(tried, chosen, [*inputs, tabs], **QUICK)


def _on(found: Sequence[Differing], page: int) -> list[int]:
    return [each.row for each in found[page * EACH : (page + 1) * EACH]]


def _choices(listed: Listed, found: Sequence[Differing], page: int) -> list[tuple[str, int]]:
    return [(listed.line(each), each.row) for each in found[page * EACH : (page + 1) * EACH]]


def _caption(found: Sequence[Differing], page: int) -> str:
    if not found:
        return "No such row"
    return f"Rows {page * EACH + 1} to {min(len(found), (page + 1) * EACH)} of {len(found)}"


def _opening(listed: Listed) -> str:
    """How many rows there are, of which kind, and what is not known of them."""
    rows = listed.rows
    gone = f"<p class='note'>{escape(rows.why_not)}: what follows is as far as the report goes.</p>" if rows.why_not else ""
    if rows.before is None or rows.after is None:
        gone += "<p class='note'>The run kept no outputs by row of both models.</p>"
    if not rows.differing:
        return f"{gone}<p>There is no test row on which both models are known to differ.</p>"
    total = f" of {len(rows.data.split('test'))}" if rows.data is not None else ""
    said = ", ".join(f"of {listed.counts[kind]} {words}" for kind, words in rows.kinds.items() if listed.counts[kind])
    how = "these changed most" if rows.kinds.keys() & {"worse"} else "both models say something else of these"
    return f"{gone}<p>{len(rows.differing)}{total} test rows: {how}; {escape(said)}. Choose rows to keep them as a test of later models.</p>"
