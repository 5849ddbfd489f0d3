from __future__ import annotations

import json
import math
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from compressor.contracts import Measure
from compressor.contracts.notes import Bars, Remark, Series, Table
from compressor.contracts.records import REPORT_VERSION, ClassScore, Interval, LatencyRecord, Parity, Report, Stage, Verdict
from compressor.errors import StoreError
from compressor.report import answer, read_report, report_schema, wording, write_report
from compressor.report.drawing import VARIABLES
from compressor.report.findings import Findings, doubts, margin
from compressor.report.html import page
from compressor.report.markdown import document
from compressor.report.notes import bars as drawn_bars
from compressor.report.terminal import table as report_table

HOSTILE = '<script>alert(1)</script> $\\frac{1}$ & "x" | `y` id="z"'


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return page(report)


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory) -> Path:
    """A folder with the report and what a run leaves beside it, only to be read."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "feeds.npz").write_bytes(b"inputs")
    (folder / "plan.yaml").write_text(report.plan)
    write_report(report, folder)
    return folder


class Elements(HTMLParser):
    """Names and attributes of all elements, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def named(self, *names):
        return [attributes for name, attributes in self.found if name in names]


def hostile(report: Report) -> Report:
    """The report with a text of a stranger wherever one can stand."""
    notes = (
        Bars(title=HOSTILE, unit=HOSTILE, values={HOSTILE: 1.0, "b": -2.0}, marked=("b",), mark=HOSTILE),
        Series(title=HOSTILE, x=HOSTILE, y=HOSTILE, curves={HOSTILE: ((0.0, 1.0), (1.0, 2.0)), "b": ((0.0, 1.0),)}),
        Table(title=HOSTILE, columns=(HOSTILE,), rows=((HOSTILE,), (None,))),
        Remark(text=HOSTILE),
    )
    stage = report.stages[1].model_copy(update={"notes": notes, "edits": (HOSTILE,), "layer_bytes": {HOSTILE: 10}})
    rows = tuple(row.model_copy(update={"text": HOSTILE, "label": HOSTILE}) for row in report.disagreements)
    stages = (report.stages[0], stage, *report.stages[2:])
    return report.model_copy(
        update={"name": HOSTILE, "plan": HOSTILE, "summary": HOSTILE, "disagreements": rows, "stages": stages}
    )


# ------------------------------------------------------------------ report.json


def test_report_read_back_equals_the_one_written(report, html, written):
    assert read_report(written) == report
    assert (written / "report.html").read_text(encoding="utf-8") == html, "the same report gives another page"
    made = {path.name for path in written.iterdir()} - {"feeds.npz", "plan.yaml"}
    assert made == {"report.json", "report.html", "report.md", "SHA256SUMS"}


def test_report_keeps_numbers_that_are_not_finite(report, tmp_path):
    parity = Parity(against="source", max_abs=float("inf"), cosine=float("nan"), agreement=0.2, n=4, finite=False)
    candidate = report.candidates[0].model_copy(update={"parity": parity})
    write_report(report.model_copy(update={"candidates": (candidate,), "probes": ()}), tmp_path)
    found = read_report(tmp_path).candidates[0].parity
    assert found is not None
    assert found.max_abs == float("inf")
    assert found.cosine != found.cosine
    jsonschema.validate(json.loads((tmp_path / "report.json").read_text()), report_schema())


def test_schema_accepts_a_report_and_names_the_version(report):
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(report.model_dump_json()), schema)
    assert schema["properties"]["version"] == {"const": REPORT_VERSION}


@pytest.mark.parametrize("change", [{"version": REPORT_VERSION + 1}, {"unknown": 1}, {"exit_code": "three"}])
def test_schema_refuses_a_report_when_a_field_is_wrong(report, change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(report.model_dump_json()), **change}, report_schema())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "holds no report.json"),
        ("{", "is no JSON"),
        (json.dumps({"version": REPORT_VERSION + 1, "news": True}), f"version {REPORT_VERSION + 1}"),
        (json.dumps({"version": REPORT_VERSION}), "is no report of version"),
        ("[]", "is no report of version"),
        ("[" * 200_000, "is no JSON: it is nested too deep"),
        ('{"version": 2, "data": ' + "[" * 700 + "]" * 700 + "}", "is no report of version"),
    ],
)
def test_read_report_says_what_is_wrong(tmp_path, text, said):
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(StoreError, match=re.escape(said)):
        read_report(tmp_path)


@pytest.mark.parametrize("name", ["report.json", "SHA256SUMS", "plan.yaml", "report.html", "feeds.npz"])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_run_folder_that_holds_what_never_ends_is_refused(written, tmp_path, name, what):
    run = Path(shutil.copytree(written, tmp_path / "run"))
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name) if what == "pipe" else (run / name).symlink_to("/dev/zero")
    with pytest.raises(StoreError, match=re.escape(str(run / name))):
        read_report(run)


HARMS = {
    "is not the file that was written": lambda run: swap(run / "report.json", "0.9", "0.8"),
    "SHA256SUMS cannot be read": lambda run: (run / "SHA256SUMS").unlink(),
    "report.json is not in": lambda run: swap(run / "SHA256SUMS", "report.json", "other.json"),
    f"SHA256SUMS says {'0' * 12}": lambda run: (run / "SHA256SUMS").write_text(f"{'0' * 64}  report.json\n"),
    "no digest of a file in this folder: '" + "0" * 64 + "  ../r": lambda run: (run / "SHA256SUMS").write_text(
        f"{'0' * 64}  ../r"
    ),
    "no digest of a file in this folder: '" + "0" * 64 + "  /etc": lambda run: (run / "SHA256SUMS").write_text(
        f"{'0' * 64}  /etc"
    ),
    "report.json is a link": lambda run: (run / "report.json").rename(run / "r") and (run / "report.json").symlink_to(run / "r"),
    "SHA256SUMS is a link": lambda run: (run / "SHA256SUMS").rename(run / "s") and (run / "SHA256SUMS").symlink_to(run / "s"),
}


def swap(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_read_report_refuses_what_was_not_written(report, written, tmp_path):
    for number, (said, harm) in enumerate(HARMS.items()):
        run = tmp_path / str(number)
        shutil.copytree(written, run)
        assert read_report(run) == report
        harm(run)
        with pytest.raises(StoreError, match=re.escape(said)):
            read_report(run)


# ------------------------------------------------------------------ report.html


@pytest.mark.parametrize("name", ["report.html", "report.md", "feeds.npz", "plan.yaml"])
def test_read_report_refuses_a_run_whose_other_files_were_altered(report, written, tmp_path, name):
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    assert read_report(tmp_path) == report
    path = tmp_path / name
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(StoreError, match=f"{name} is not the (file that was written|plan that ran)"):
        read_report(tmp_path)
    (tmp_path / "aside").write_bytes(path.read_bytes()[:-1])
    path.unlink()
    path.symlink_to(tmp_path / "aside")
    with pytest.raises(StoreError, match=f"{name} is (a link|not the plan that ran)"):
        read_report(tmp_path)
    path.unlink()
    assert read_report(tmp_path) == report, "what is gone is missed where it is wanted"


def test_page_needs_no_network_and_no_script(html):
    elements = Elements(html)
    assert elements.named("script", "link", "img", "iframe", "object") == []
    assert re.findall(r"url\((?!#)|@import|@font-face|<image", html) == []
    assert all(attributes["href"].startswith("#") for attributes in elements.named("a", "use"))
    assert any(attributes.get("http-equiv") == "Content-Security-Policy" for attributes in elements.named("meta"))


def test_page_is_small_for_seven_candidates_at_two_shapes(html):
    assert len(html.encode()) < 3_000_000


def test_page_stays_small_when_there_are_many_samples(report):
    latency = next(record for record in report.probes if isinstance(record, LatencyRecord))
    rows = tuple(row.model_copy(update={"n": 30_000, "samples_ms": row.samples_ms * 100}) for row in latency.rows)
    many = report.model_copy(update={"probes": (latency.model_copy(update={"rows": rows}),)})
    assert len(page(many).encode()) < 3_000_000


def test_intervals_of_bars_are_drawn(html, report):
    bars = next(note for stage in report.stages for note in stage.notes if isinstance(note, Bars))
    assert "Hatched: kept in float. Whiskers: 95 % intervals." in html
    for intervals in (bars.intervals, {}):
        chart = drawn_bars(bars.model_copy(update={"intervals": intervals}), name="x")
        assert chart.svg.count('id="x-LineCollection') == len(intervals)


def test_page_draws_every_chart_once_with_a_label_and_ids_of_its_own(html):
    elements = Elements(html)
    charts = [attributes for attributes in elements.named("svg") if attributes.get("role") == "img"]
    names = [attributes["data-chart"] for attributes in charts]
    assert len(names) == len(set(names))
    wanted = {
        "waterfall-onnxruntime",
        "waterfall-openvino",
        "trade-off",
        "distribution-1-128",
        "distribution-8-128",
        "throughput",
    }
    wanted |= {"layers-onnxruntime", "classes-onnxruntime", "classes-openvino", "stage-3-note-0", "stage-5-note-0"}
    assert wanted <= set(names)
    assert all(len(attributes["aria-label"] or "") > 20 for attributes in charts)
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_leaves_no_stand_in_colour(html):
    assert [color for color in VARIABLES if color in html.lower()] == []
    assert all(name in html for name in VARIABLES.values())


def test_page_opens_with_the_answer(report, html):
    before_sections = html[: html.index("<h2")]
    assert report.summary in before_sections
    for text in ("not accepted", 'data-candidate="final@openvino"', "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}425", "int8"):
        assert text in before_sections
    assert report.candidates[4].files[0].sha256[:12] in before_sections


def test_page_names_what_is_missing_and_why(html):
    assert "no CUDA device" in html[html.index('id="missing"') : html.index('id="steps"')]


def test_page_counts_all_rows_that_changed_and_not_only_those_it_lists(report, html):
    assert html.count("200 broken, 101 mended, 1 both wrong") == 2
    assert len(report.disagreements) == 6


def test_page_shows_why_a_candidate_was_not_measured(report):
    final = report.candidates[4].model_copy(update={"not_measured": "the engine cannot run here", "scores": None})
    text = page(report.model_copy(update={"candidates": (*report.candidates[:4], final), "probes": ()}))
    assert text.count("the engine cannot run here") >= 2


def test_page_escapes_texts_of_strangers_everywhere(report):
    text = page(hostile(report))
    elements = Elements(text)
    assert elements.named("script") == []
    assert text.count("&lt;script&gt;") > 15
    svgs = re.findall(r"<svg .*?</svg>", text, flags=re.DOTALL)
    drawn = [found for svg in svgs for found in ElementTree.fromstring(svg).iter() if found.tag.endswith("text")]
    assert any("<script>" in (found.text or "") for found in drawn)
    assert any("$" in (found.text or "") for found in drawn)


def test_page_and_document_are_made_when_nothing_was_measured(report):
    empty = report.model_copy(
        update={"stages": (), "candidates": (), "probes": (), "verdicts": (), "disagreements": (), "missing": {}, "summary": ""}
    )
    failed = empty.model_copy(update={"outcome": "stopped", "error": "RuntimeError: <out of memory>"})
    assert "RuntimeError: &lt;out of memory&gt;" in page(failed)
    assert "RuntimeError: \\<out of memory\\>" in document(failed)


def scored(found, value):
    """A stage or candidate whose metrics have a value that is no number."""
    if found.scores is None:
        return found
    interval = {"interval": Interval(low=value, high=value, method="bootstrap")}
    metrics = tuple(metric.model_copy(update={"value": value, **interval}) for metric in found.scores.metrics)
    return found.model_copy(update={"scores": found.scores.model_copy(update={"metrics": metrics})})


@pytest.mark.parametrize("first", [0, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_page_and_document_are_made_when_scores_are_not_finite(report, first, value):
    stages, candidates = (
        (*each[:first], *(scored(one, value) for one in each[first:])) for each in (report.stages, report.candidates)
    )
    broken = report.model_copy(update={"stages": stages, "candidates": candidates})
    assert "not finite" in page(broken)
    assert document(broken)
    assert Report.model_validate_json(broken.model_dump_json()).stages[-1].scores.metrics


def test_page_is_made_when_labels_are_long_or_in_another_script(report):
    long = "a-very-long-name-" * 12 + "深層学習"
    stage = report.stages[0].model_copy(update={"layer_bytes": {long: 5, "b": 6}})
    assert "深層学習" in page(report.model_copy(update={"stages": (stage, *report.stages[1:]), "name": long, "probes": ()}))


# ------------------------------------------------------------------ findings


def test_waterfall_follows_the_trunk_then_the_branch_of_its_target(report):
    steps = Findings(report).chain("openvino")
    assert [step.name for step in steps] == ["source", "finetune", "prune-structure", "distill", "quantize-static"]
    assert [step.latency is not None for step in steps] == [True, False, False, False, True]
    assert steps[-1].bytes == 17_300_000


def test_waterfall_ends_with_the_final_file_when_there_is_no_branch(report):
    trunk = tuple(stage for stage in report.stages if stage.target is None)
    steps = Findings(report.model_copy(update={"stages": trunk})).chain("onnxruntime")
    assert steps[-1].name == "distill"
    assert steps[-1].latency is not None
    assert steps[-1].latency.candidate == "final@onnxruntime"


def test_headline_is_the_fastest_final_candidate(report):
    headline = Findings(report).headline
    assert headline is not None
    assert headline.candidate.id == "final@openvino"


def test_answer_says_faster_smaller_and_what_it_cost(report):
    assert answer(report).startswith("onnxruntime: 4.35 times faster, 5.25 times smaller, 0.4\N{NO-BREAK SPACE}points lost.")


def test_answer_claims_no_speed_when_none_was_proved(report):
    latency = next(record for record in report.probes if isinstance(record, LatencyRecord))
    undecided = tuple(ratio.model_copy(update={"outcome": "undecided"}) for ratio in latency.ratios)
    text = answer(report.model_copy(update={"probes": (latency.model_copy(update={"ratios": undecided}),)}))
    assert "faster" not in text
    assert text.count("speed undecided") == 2


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_name_of_a_table_is_cut_however_narrow_the_screen(report, monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    from compressor.report.terminal import table

    long = "final@a-target-whose-name-is-as-long-as-names-may-be-which-is-64-letters"
    first = report.candidates[0].model_copy(update={"id": long})
    table(report.model_copy(update={"candidates": (first, *report.candidates[1:])}))
    shown = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert all(each.id in shown for each in (first, *report.candidates[1:]))


def test_undecided_ratio_is_never_shown_without_that_word(report, tmp_path, capsys):
    latency = next(record for record in report.probes if isinstance(record, LatencyRecord))
    undecided = tuple(ratio.model_copy(update={"outcome": "undecided"}) for ratio in latency.ratios)
    doubtful = report.model_copy(update={"probes": (latency.model_copy(update={"ratios": undecided}),)})
    lines = document(doubtful).splitlines()
    shown = [line for line in lines if f"{wording.TIMES} (" in line and "control" not in line and "accept" not in line]
    assert shown
    assert all("undecided" in line for line in shown)
    assert "undecided" not in document(report)
    report_table(doubtful)
    assert capsys.readouterr().out.count("undeci") >= 2


def test_headline_is_no_ratio_that_proved_nothing(report):
    latency = next(record for record in report.probes if isinstance(record, LatencyRecord))
    ratios = tuple(
        ratio.model_copy(update={"outcome": "undecided", "value": 99.0}) if ratio.of == "final@openvino" else ratio
        for ratio in latency.ratios
    )
    headline = Findings(report.model_copy(update={"probes": (latency.model_copy(update={"ratios": ratios}),)})).headline
    assert headline is not None
    assert headline.candidate.id == "final@onnxruntime"


@pytest.mark.parametrize(
    ("quantity", "limit", "value", "bounds", "judged_by", "said"),
    [
        ("max_drop", 1.0, 0.4, (-0.3, 1.2), "point", "0.6 points to spare"),
        ("max_drop", 1.0, 0.4, (-0.3, 1.2), "bound", "missed by 0.2 points"),
        ("min_speedup", 1.5, 1.6, (1.4, 1.8), "bound", f"missed by 0.10{wording.TIMES}"),
        ("max_latency_ms", 10.0, 6.25, None, "bound", "3.75 ms to spare"),
        ("max_size", 0.25, 0.26, None, "point", "missed by 1.0 %"),
        ("max_size", 0.25, None, None, "point", ""),
    ],
)
def test_margin_is_measured_from_the_number_that_decides(quantity, limit, value, bounds, judged_by, said):
    interval = None if bounds is None else {"low": bounds[0], "high": bounds[1], "method": "bootstrap"}
    verdict = Verdict(
        gate="accept[0]",
        candidate="final@a",
        quantity=quantity,
        limit=limit,
        value=value,
        interval=interval,
        judged_by=judged_by,
        outcome="undecided",
    )
    assert margin(verdict).replace(wording.SPACE, " ") == said


# ------------------------------------------------------------------ report.md


def test_document_holds_the_answer_table_and_gates(report):
    text = document(report)
    assert text.startswith("# bbc-topics: not accepted")
    assert "| openvino | 97.2" in text
    assert "missed by 4.0" in text
    assert "no CUDA device" in text


def test_findings_in_the_data_are_shown_and_have_no_power(report):
    data = report.data.model_copy(update={"findings": ("2 rows <b>differ</b>", "a|b `c`")})
    found = report.model_copy(update={"data": data, "probes": (), "candidates": report.candidates[-1:]})
    assert "2 rows &lt;b&gt;differ&lt;/b&gt;" in page(found)
    written = document(found)
    assert "found in the data: 2 rows" in written
    assert "<b>" not in written


def test_document_gives_texts_of_strangers_no_power(report):
    text = document(hostile(report))
    assert re.findall(r"(?<!\\)<script", text) == []
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4, 5, 7, 8, 9, 10}


def test_stage_that_was_rolled_back_is_marked(report):
    rolled = report.stages[2].model_copy(update={"rolled_back": True})
    changed = report.model_copy(update={"stages": (*report.stages[:2], rolled, *report.stages[3:])})
    assert "prune-structure (rolled back)" in document(changed)
    assert "rolled back" in page(changed.model_copy(update={"probes": (), "candidates": report.candidates[-1:]}))


# ------------------------------------------------------------------ wording


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (Measure("accuracy"), ("81.2 %", "80.0 to 82.0 %, n = 40")),
        (Measure("Spearman", written="number"), ("0.812", "0.800 to 0.820, n = 40")),
        (Measure("perplexity", drop="percent"), ("0.812", "0.800 to 0.820, n = 40")),
    ],
)
def test_fractions_are_written_in_per_cent_and_correlations_as_they_are(measure, said):
    metric = measure.metric(0.812, 40, Interval(low=0.8, high=0.82, method="a bootstrap"))
    assert tuple(text.replace(wording.SPACE, " ") for text in (wording.metric(metric), wording.sample(metric))) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (1.2, "1.20"),
        (12.34, "12.3"),
        (99.96, "100"),
        (123.4, "123"),
        (12345.6, "12346"),
        (2.4e-6, "0.0000024"),
        (float("nan"), "not finite"),
        (-3.5, "\N{MINUS SIGN}3.50"),
    ],
)
def test_significant_writes_three_digits_without_exponent(value, said):
    assert wording.significant(value, 2 if value == 2.4e-6 else 3) == said


def test_sizes_times_and_changes_are_written_with_units():
    written = (
        wording.size(17_300_000),
        wording.size(999),
        wording.seconds(431),
        wording.change(27.6, 14.2),
        wording.count(22_713_216),
    )
    assert [text.replace(wording.SPACE, " ") for text in written] == ["17.3 MB", "999 B", "7 min", "\N{MINUS SIGN}49 %", "22.7 M"]


def test_shortened_keeps_both_ends():
    assert wording.shortened("abcdefghij", 5) == "ab…ij"
    assert len(wording.shortened("x" * 80, 34)) == 34


def test_stage_without_scores_reads_not_measured(report):
    bare = Stage(name="bare", step="fold", target="openvino")
    assert Findings(report.model_copy(update={"stages": (bare,)})).chain("openvino")[0].quality is None
    assert "not measured" in page(report.model_copy(update={"stages": (bare,)}))


def test_module_is_light():
    source = (Path(__file__).parents[3] / "compressor" / "report" / "__init__.py").read_text()
    assert re.search(r"^(import|from) (matplotlib|jinja2|numpy)", source, flags=re.MULTILINE) is None


# ------------------------------------------------------------------ doubts beside the verdict


def doubtful(report: Report, *, recalls: dict[str, float], n: dict[str, int]) -> Report:
    """The report with these recalls of the first final model, and nothing that was asked of it."""
    final = next(each for each in report.candidates if each.id == "final@onnxruntime")
    assert final.scores is not None
    classes = tuple(
        ClassScore(label=label, n=n[label], precision=1, recall=recalls[label], f1=recalls[label]) for label in recalls
    )
    main = final.scores.main.model_copy(update={"n": sum(n.values())})
    scores = final.scores.model_copy(update={"per_class": classes, "metrics": (main, *final.scores.metrics[1:])})
    others = tuple(each for each in report.candidates if each is not final and each.stage != report.reference)
    return report.model_copy(update={"candidates": (*others, final.model_copy(update={"scores": scores})), "verdicts": ()})


def doubts_of_final(report: Report) -> list[str]:
    return [doubt.replace(wording.SPACE, " ") for doubt in doubts(report) if doubt.startswith("final@onnxruntime")]


def test_a_model_that_finds_none_of_a_class_is_doubted_by_name(report):
    recalls, n = {"a": 1.0, "b": 0.9, "c": 0.0, "d": 0.0}, dict.fromkeys("abcd", 10)
    assert doubts_of_final(doubtful(report, recalls=recalls, n=n)) == ["final@onnxruntime finds no row of 2 of 4 classes: c, d."]


@pytest.mark.parametrize(("of_b", "doubted"), [(0.5, False), (0.25, True)])
def test_a_model_that_is_no_better_than_the_majority_class_is_doubted(report, of_b, doubted):
    found = doubts_of_final(doubtful(report, recalls={"a": 0.9, "b": of_b}, n={"a": 20, "b": 8}))
    said = "final@onnxruntime is right on no more rows than always saying a would be: 71.4 % against 71.4 %."
    assert found == ([said] if doubted else [])


def test_a_model_that_was_shown_none_of_a_class_is_doubted_by_name(report):
    said = "final@onnxruntime was shown no row of 1 of 3 classes, of which nothing is known: c."
    assert doubts_of_final(doubtful(report, recalls={"a": 0.9, "b": 0.8, "c": 0}, n={"a": 20, "b": 8, "c": 0})) == [said]
    one = doubts_of_final(doubtful(report, recalls={"a": 0.9, "b": 0}, n={"a": 20, "b": 0}))
    assert one == ["final@onnxruntime was shown no row of 1 of 2 classes, of which nothing is known: b."]


@pytest.mark.parametrize(("n", "limit", "doubted"), [(40, 2.0, True), (60, 2.0, False), (40, 0.0, False), (40, 3.0, False)])
def test_a_limit_that_is_finer_than_a_row_is_doubted(report, n, limit, doubted):
    asked = next(each for each in report.verdicts if each.quantity == "max_drop" and each.candidate == "final@onnxruntime")
    few = doubtful(report, recalls={"a": 0.9, "b": 0.8}, n={"a": n - 10, "b": 10})
    verdict = asked.model_copy(update={"outcome": "met", "limit": limit, "value": 0.0, "unit": "points"})
    found = doubts_of_final(few.model_copy(update={"verdicts": (verdict,)}))
    said = "final@onnxruntime was judged on 40 rows, of which one is about 2.5 points: they cannot tell whether it loses less than the 2.0 points"
    assert [each.startswith(said) for each in found] == [True] * doubted


def test_a_model_that_finds_all_classes_is_not_doubted(report):
    assert doubts_of_final(doubtful(report, recalls={"a": 0.9, "b": 0.8}, n={"a": 20, "b": 8})) == []


def test_a_model_with_several_labels_of_a_row_is_doubted_for_those_it_never_tells(report):
    found = doubtful(report, recalls={"a": 0.9, "b": 0.0}, n={"a": 20, "b": 8})
    final = found.candidates[-1]
    main = final.scores.main.model_copy(update={"n": 20})  # rows, some of which have both labels
    scores = final.scores.model_copy(update={"metrics": (main, *final.scores.metrics[1:])})
    several = found.model_copy(update={"candidates": (*found.candidates[:-1], final.model_copy(update={"scores": scores}))})
    assert doubts_of_final(several) == ["final@onnxruntime finds no row of 1 of 2 classes: b."]


def test_a_model_that_tells_all_rows_the_same_labels_is_doubted(report):
    """Of 20 rows 12 have a and 8 have b; all are told a, and none is told b, or b too."""
    for recall, doubted in ((0.0, True), (1.0, True), (0.5, False)):
        classes = (
            ClassScore(label="a", n=12, precision=12 / 20, recall=1.0, f1=0.75),
            ClassScore(label="b", n=9, precision=recall * 9 / 20, recall=recall, f1=0.5),
        )
        if recall == 0.5:
            classes = (classes[0], ClassScore(label="b", n=9, precision=0.9, recall=0.5, f1=0.6))
        final = next(each for each in report.candidates if each.id == "final@onnxruntime")
        main = final.scores.main.model_copy(update={"n": 20})
        scores = final.scores.model_copy(update={"per_class": classes, "metrics": (main, *final.scores.metrics[1:])})
        found = doubts_of_final(report.model_copy(update={"candidates": (final.model_copy(update={"scores": scores}),)}))
        assert ("final@onnxruntime tells all rows the same labels." in found) == doubted


@pytest.mark.parametrize(("low", "doubted"), [(0.1, False), (-0.05, True)])
def test_a_model_whose_numbers_may_be_guesses_is_doubted(report, low, doubted):
    final = next(each for each in report.candidates if each.id == "final@onnxruntime")
    metric = Measure("Spearman", written="number", unknowing=0.0).metric(0.3, 20, Interval(low=low, high=0.5, method="m"))
    scores = final.scores.model_copy(update={"metric": "Spearman", "metrics": (metric,), "per_class": ()})
    found = doubts_of_final(report.model_copy(update={"candidates": (final.model_copy(update={"scores": scores}),)}))
    said = "final@onnxruntime is not shown to be better than a guess: Spearman 0.300 (-0.0500 to 0.500), that of a guess is 0."
    assert [each.replace(wording.MINUS, "-") for each in found] == ([said] if doubted else [])


def test_interval_of_numbers_without_a_unit_keeps_its_ends():
    def ends(low, high):
        return wording.interval(Interval(low=low, high=high, method="m"), wording.significant)

    assert (ends(1.5, 5), ends(0, 0), ends(0.5, 0.5)) == ("1.50 to 5.00", "0 to 0", "0.500 to 0.500")
    assert (
        wording.interval(Interval(low=4.1, high=4.6, method="m"), wording.milliseconds).replace(wording.SPACE, " ")
        == "4.10 to 4.60 ms"
    )


def test_verdict_shows_what_sets_it_apart_from_its_limit(report, capsys):
    missed = Verdict(
        gate="accept[0]",
        candidate="final@onnxruntime",
        quantity="max_drop",
        limit=1.0,
        value=1.0106,
        judged_by="point",
        outcome="not met",
    )
    interval = Interval(low=-0.2, high=4.6, method="m")
    bound = missed.model_copy(update={"gate": "accept[1]", "value": 0.4, "judged_by": "bound", "interval": interval})
    report_table(report.model_copy(update={"verdicts": (missed, bound)}))
    said = " ".join(capsys.readouterr().out.replace(wording.SPACE, " ").split())
    assert "accept[0] final@onnxruntime: max_drop 1 points: 1.0106 points: not met" in said
    assert "accept[1] final@onnxruntime: max_drop 1.0 points: 0.4 points, 4.6 points by its interval: not met" in said


def test_a_final_model_that_is_its_reference_is_doubted(report):
    assert doubts(report) == ()
    after = next(number for number, stage in enumerate(report.stages) if stage.name == report.reference) + 1
    rolled = tuple(stage.model_copy(update={"rolled_back": True}) for stage in report.stages[after:])
    found = doubts(report.model_copy(update={"stages": (*report.stages[:after], *rolled)}))
    assert f"final@onnxruntime is {report.reference} itself: every step after it was rolled back." in found
    kept = report.model_copy(update={"stages": (*report.stages[: after + 1], *rolled[1:])})
    assert not any("itself" in doubt for doubt in doubts(kept))


def test_a_limit_that_only_warns_and_is_not_met_is_told_beside_the_verdict(report):
    missed = Verdict(
        gate="accept[0]",
        candidate="final@onnxruntime",
        quantity="max_size",
        limit=0.1,
        value=0.5,
        judged_by="point",
        outcome="not met",
    )
    for on_fail, told in (("warn", True), ("stop", False)):
        found = report.model_copy(update={"verdicts": (missed.model_copy(update={"on_fail": on_fail}),)})
        said = "final@onnxruntime has 50.0 % of size against the reference, and 10.0 % is the limit, which only warns."
        assert doubts_of_final(found) == ([said] if told else [])


def test_answer_says_larger_where_it_is_and_as_large_where_nothing_was_gained(report):
    final = next(each for each in report.candidates if each.id == "final@onnxruntime")
    source = next(each for each in report.candidates if each.id == "source@onnxruntime")
    for factor, said in ((2.0, "2.00 times larger"), (1.0, "as large as before"), (0.5, "2.00 times smaller")):
        changed = final.model_copy(update={"bytes": int(source.bytes * factor)})
        others = tuple(changed if each is final else each for each in report.candidates)
        assert said in answer(report.model_copy(update={"candidates": others}))


def test_doubts_stand_in_the_terminal_after_the_verdict_and_in_the_document(report, capsys):
    accepted = doubtful(report, recalls={"a": 1.0, "b": 0.0}, n={"a": 9, "b": 9}).model_copy(update={"outcome": "accepted"})
    report_table(accepted)
    out = capsys.readouterr().out
    assert out.startswith("accepted: ")
    assert "warning: final@onnxruntime finds no row of 1 of 2 classes: b." in " ".join(out.split())
    assert "**Warning:** final@onnxruntime finds no row" in document(accepted)


def test_quality_is_written_in_the_terminal_as_in_the_document(report, capsys):
    report_table(report)
    out = capsys.readouterr().out
    for candidate in report.candidates:
        if candidate.scores and candidate.stage == "final":
            written = wording.metric(candidate.scores.main).replace(wording.SPACE, " ")
            assert written in out.replace(wording.SPACE, " ")
            assert written in document(report)


def test_disturbed_ratio_keeps_its_word_and_says_so(report):
    latency = next(record for record in report.probes if isinstance(record, LatencyRecord))
    ratios = tuple(ratio.model_copy(update={"disturbed": True}) for ratio in latency.ratios)
    text = answer(report.model_copy(update={"probes": (latency.model_copy(update={"ratios": ratios}),)}))
    assert "4.35 times faster (disturbed: " in text
