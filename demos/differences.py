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
        return f"Row {each.row}, truly {each.label}: {before} → {after}. {shown}"

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
    if not listed.rows.differing:
        return
    kinds = [(f"All ({len(listed.rows.differing)})", ALL)]
    kinds += [(f"{words.capitalize()} ({listed.counts[kind]})", kind) for kind, words in listed.rows.kinds.items()]
    kind = gr.Radio(kinds, value=ALL, label="Which rows", elem_id="kind")
    label = gr.Dropdown([("All", ALL), *((each, each) for each in listed.labels)], value=ALL, label="True class", elem_id="class")
    chosen, page = gr.State([]), gr.State(0)
    first = listed.kept(ALL, ALL)
    boxes = gr.CheckboxGroup(_choices(listed, first, 0), value=[], label=_caption(first, 0), elem_id="rows")
    with gr.Row():
        back = gr.Button("Earlier rows", size="sm", interactive=False)
        on = gr.Button("Further rows", size="sm", interactive=len(first) > EACH)
        go = gr.Button("Try the first chosen row", size="sm")
    save = gr.DownloadButton(f"Download all {len(first)} rows", value=listed.written(first), elem_id="download-rows")

    def shown(of_kind: str, of_class: str, at: int, kept: list[int]) -> tuple[Any, ...]:
        found = listed.kept(of_kind, of_class)
        group = gr.CheckboxGroup(
            _choices(listed, found, at), value=[row for row in kept if row in _on(found, at)], label=_caption(found, at)
        )
        return (
            group,
            at,
            gr.Button(interactive=at > 0),
            gr.Button(interactive=len(found) > (at + 1) * EACH),
            saved(of_kind, of_class, kept),
        )

    def saved(of_kind: str, of_class: str, kept: list[int]) -> Any:
        found = [each for each in listed.kept(of_kind, of_class) if not kept or each.row in kept]
        what = f"the {len(found)} chosen" if kept else f"all {len(found)}"
        return gr.DownloadButton(f"Download {what} rows", value=listed.written(found))

    def picked(of_kind: str, of_class: str, at: int, kept: list[int], ticked: list[int]) -> tuple[list[int], Any]:
        others = [row for row in kept if row not in _on(listed.kept(of_kind, of_class), at)]
        return sorted({*others, *ticked}), saved(of_kind, of_class, sorted({*others, *ticked}))

    quick: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
    asked, told = [kind, label, page, chosen], [boxes, page, back, on, save]
    for each in (kind, label):
        each.input(lambda a, b, _, kept: shown(a, b, 0, kept), asked, told, **quick)
    back.click(lambda a, b, at, kept: shown(a, b, at - 1, kept), asked, told, **quick)
    on.click(lambda a, b, at, kept: shown(a, b, at + 1, kept), asked, told, **quick)
    boxes.input(picked, [*asked, boxes], [chosen, save], **quick)

    def tried(kept: list[int]) -> list[Any]:
        row = kept[0] if kept else listed.rows.differing[0].row
        return [*setting(listed.rows.content(row)), gr.Tabs(selected="try")]

    go.click(tried, chosen, [*inputs, tabs], **quick)


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
