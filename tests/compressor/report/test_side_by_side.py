"""What a task shows of several models: pictures inside the page, tables in Markdown too, quality by effort, and warnings of steps."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image
from pydantic import ValidationError

from compressor.contracts.notes import MOST_PICTURES, Images, Remark, Table
from compressor.report.efforts import efforts
from compressor.report.findings import Findings, doubts
from compressor.report.html import page
from compressor.report.markdown import document
from compressor.report.terminal import table

HOSTILE = '<img src="https://example.org/x"> | `y`'


def png():
    file = io.BytesIO()
    Image.new("L", (20, 10), 128).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def drawn(report):
    images = Images(title="Drawn from the same noise", strips={"source": png(), HOSTILE: png()}, columns=("shirt", HOSTILE))
    levels = Table(title="Score by noise level", columns=("time", "source"), rows=(("0.06", "0.0123"), ("0.19", None)))
    return report.model_copy(update={"notes": (images, levels)})


def test_pictures_stand_in_the_page_and_are_told_elsewhere(drawn, capsys):
    html, text = page(drawn), document(drawn)
    assert html.count(f'<img src="data:image/png;base64,{png()}"') == 2
    assert "img-src data:;" in html.replace('img-src data:"', "img-src data:;")
    assert "https://example.org" not in html.replace("&lt;img src=&#34;https://example.org/x&#34;&gt;", "")
    assert "pictures of source, " in text
    assert "(report.html#quality)" in text
    assert "| time | source |" in text
    assert "0.0123" in text
    table(drawn)
    assert "Drawn from the same noise: pictures of source" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("content", ['" onerror="x', "", "a b", "=" * 4, "A" * (MOST_PICTURES + 1)])
def test_what_is_no_picture_in_base64_or_too_large_is_refused(content):
    with pytest.raises(ValidationError):
        Images(title="x", strips={"source": content}, columns=())


def test_steps_that_take_less_stand_below_with_quality_and_latency(report):
    assert efforts(Findings(report)).by_target == ()
    stages = [
        stage.model_copy(update={"effort": {"steps": steps}})
        for stage, steps in zip(report.stages, (50, 50, 4, 8, 8, 8), strict=False)
    ]
    drawing = report.model_copy(update={"stages": (*stages, *report.stages[len(stages) :])})
    found = efforts(Findings(drawing))
    assert found.names == ("steps",)
    target, steps = found.by_target[0]
    assert [step.effort.get("steps", 0) for step in steps] == sorted(
        (step.effort.get("steps", 0) for step in steps), reverse=True
    )
    assert f"Quality against effort on {target}" in page(drawn := drawing)
    assert f"On {target}; quality on validation." in document(drawn)
    same = report.model_copy(update={"stages": tuple(each.model_copy(update={"effort": {"steps": 4}}) for each in report.stages)})
    assert efforts(Findings(same)).by_target == ()


def test_times_of_the_final_file_are_those_of_the_step_that_it_is(report):
    """Neither of what a step made besides, nor of a step that was rolled back."""
    trunk = [stage for stage in report.stages if stage.target is None]
    last = trunk[-1]
    besides = last.model_copy(update={"name": f"{last.name}.steps-8"})
    for further in (besides, last.model_copy(update={"name": "worse", "rolled_back": True})):
        stages = tuple(
            each.model_copy(update={"effort": {"steps": number}}) for number, each in enumerate((*trunk, further), start=1)
        )
        made = report.model_copy(update={"stages": stages})
        timed = {step.name: step.latency for step in Findings(made).chain("onnxruntime")}
        assert timed[last.name].candidate == "final@onnxruntime"
        assert timed[further.name] is None
        assert ("worse (rolled back) |" in document(made)) == further.rolled_back
        assert ("worse (rolled back)</th>" in page(made)) == further.rolled_back


def test_what_a_step_warns_of_stands_at_the_head_unless_it_was_rolled_back(report):
    stage = report.stages[-1]
    warned = stage.model_copy(update={"notes": (Remark(text="one scale costs much", warns=True), Remark(text="by the way"))})

    def of(stage):
        return [
            each
            for each in doubts(report.model_copy(update={"stages": (*report.stages[:-1], stage)}))
            if "one scale" in each or "by the" in each
        ]

    assert of(warned) == [f"{stage.name} for {stage.target}: one scale costs much"]
    assert of(warned.model_copy(update={"rolled_back": True})) == []
