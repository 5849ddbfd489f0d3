"""Text of others where it is shown: nothing in it acts on a terminal, a page or a Markdown document."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from compressor.contracts.notes import Table
from compressor.errors import Fault
from compressor.foreign import alike, markdown, one_line, plain, printable, shown
from compressor.report.drawing import draw
from compressor.report.markdown import document
from compressor.report.terminal import Bars
from compressor.report.terminal import table as report_table

ACTS = "\x1b[31mred\x1b]0;title\x07 \x01 \x9b2J \u202eback \x00\x7f"


@pytest.mark.parametrize(
    "acts", [*map(chr, range(0x09)), "\x0b", "\x1b", "\x7f", "\x9b", "\u202e", "\u2028", "\u2066", "\ud800", "\uffff"]
)
def test_what_acts_is_written_as_its_escape(acts):
    assert printable(f"a{acts}b") == f"a{ascii(acts)[1:-1]}b"
    ElementTree.fromstring(f"<a>{printable(acts)}</a>")


@pytest.mark.parametrize(
    "text", ["plain", "línea\nand\ttab", "深層学習", "a\N{NO-BREAK SPACE}b", "👩\u200d💻", "\u0645\u06cc\u200c\u062e", ""]
)
def test_what_people_write_stays(text):
    assert printable(text) == text


def test_text_in_one_line_keeps_no_line_end():
    assert one_line("a\nb\tc") == "a\\nb\\tc"
    assert str(Fault("p.yaml", 3, "data", "no column '\x1b[2J\n'")) == "p.yaml:3: data: no column '\\x1b[2J\\n'"


def test_markdown_takes_controls_and_power_away():
    assert markdown("a|\x1b[1m<b>\nc") == "a\\|\\\\x1b\\[1m\\<b\\> c"


def test_every_text_of_a_record_is_shown_safe_keys_too(report):
    stage = report.stages[1].model_copy(
        update={"notes": (Table(title=ACTS, columns=(ACTS,), rows=((ACTS, 1.5),)),), "layer_bytes": {ACTS: 3}}
    )
    safe = report.model_copy(update={"stages": (stage,), "summary": ACTS}).shown()
    assert ACTS not in safe.model_dump_json()
    assert printable(ACTS) == safe.summary == safe.stages[0].notes[0].title == next(iter(safe.stages[0].layer_bytes))
    assert report.shown() == report, "a report without such text stays as it is"
    assert shown({"a": [("\x01", 2)]}) == {"a": [("\\x01", 2)]}


def test_terminal_and_document_show_a_strangers_report_without_acting(report, capsys):
    strange = report.model_copy(update={"summary": ACTS, "name": ACTS, "command": ACTS})
    report_table(strange)
    with Bars() as bars:
        bars.line(ACTS)
    for text in (capsys.readouterr().out, document(strange)):
        assert not any(char in text for char in "\x1b\x07\x01\x9b\u202e\x00")
        assert "x1b" in text


def test_label_with_a_control_character_is_drawn():
    with pytest.raises(ElementTree.ParseError):
        draw("raw", lambda figure: figure.subplots().set_title("\x01"), title="t", caption="c", height_inches=1)
    label = printable("\x01")
    drawn = draw("safe", lambda figure: figure.subplots().set_title(label), title="t", caption="c", height_inches=1)
    assert "\\x01" in drawn.svg


@pytest.mark.parametrize(
    ("one", "other", "are"),
    [
        ("1", "1.0", True),
        ("0.10", "1e-1", True),
        ("0", "-0.0", True),
        ("-1", "1", False),
        ("1e1000000", "1e1000001", False),
        ("1e9999999999", "10e9999999998", True),
        ("1e99999999999999999999", "1e99999999999999999998", False),
        ("1234567890123456789012345678901", "1234567890123456789012345678902", False),
    ],
)
def test_labels_are_one_number_whatever_its_size(one, other, are):
    assert (plain(one) == plain(other)) is are
    assert ("are one number" in alike(one, other)) is are
