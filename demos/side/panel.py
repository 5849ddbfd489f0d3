"""Side by side: an input, what both models answer, whether they agree, and how long they take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from demos.side import wording
from demos.side.bounds import MOST_SEED, refused
from demos.side.meter import measured
from demos.side.process import Answer, Refused, Side
from demos.side.subject import Subject
from demos.side.uploads import NAME, Uploads
from demos.side.worker import TIMED_TOKENS

LOAD_SHOWN_SECONDS = 0.5

PICTURES: list[Any] = ["upload", "webcam", "clipboard"]
SOUNDS: list[Any] = ["upload", "microphone"]
Made = tuple[str, ...]
"""Status, one card for each side, agreement, meter: HTML each."""


def side_by_side(subject: Subject) -> tuple[list[Any], Callable[[Any], list[Any]]]:
    """Draw the panel into the page that is open.

    Returns:
        Its input components, and what they are set to for something given.
    """
    if subject.note:
        html(f"<p>{escape(subject.note)}</p>", elem_classes="note")
    inputs = _inputs(subject)
    with gr.Row():
        examples = _examples(subject)
        go = gr.Button("Compare" if len(subject.sides) > 1 else "Ask", variant="primary", elem_id="compare", scale=0)
    status = html(elem_id="status", elem_classes="live")
    cards = []
    with gr.Row(equal_height=True, elem_id="answers"):
        for side, about in zip(subject.sides, subject.about, strict=True):
            with gr.Column(min_width=280, elem_classes="side"):
                html(_head(side.name, about))
                cards.append(html(wording.card(None), elem_id=f"answer-{side.name}", elem_classes="live"))
    agreed = html(elem_id="agreement", elem_classes="live")
    meter = html(elem_id="meter", elem_classes="live")
    shown = [status, *cards, agreed, meter]

    _asks(subject, inputs, shown, go)
    if examples is not None:
        _fills(subject, examples, inputs)
    for each in inputs:
        if isinstance(each, gr.Image | gr.Audio | gr.File):
            each.change(_given, each, None, preprocess=False, queue=False, api_visibility="private", show_progress="hidden")
    return inputs, lambda given: settings_of(subject, given)


def _asks(subject: Subject, inputs: list[Any], shown: list[Any], go: Any) -> None:
    """What happens when somebody asks: a request at a time over all users."""

    def compare(*values: Any) -> Iterator[Made]:
        yield from compared(subject, given_of(subject, values))

    settings: dict[str, Any] = {
        "preprocess": False,  # files come as they are: gradio would open and write pictures anew
        "concurrency_id": "models",
        "trigger_mode": "once",
        "show_progress": "minimal",
        "show_progress_on": shown[0],
    }
    go.click(compare, inputs, shown, api_name="compare", **settings)
    for each in inputs:
        if isinstance(each, gr.Textbox | gr.Number):
            each.submit(compare, inputs, shown, api_visibility="private", **settings)


def _fills(subject: Subject, examples: Any, inputs: list[Any]) -> None:
    """An example that is chosen becomes the input."""

    def shown(number: int) -> Any:
        found = settings_of(subject, subject.examples[number].given)
        return found if len(found) > 1 else found[0]  # gradio takes a list of one for the value itself

    # not `input`, which a list raises whenever it is left, with nothing chosen in it too: who passes by keyboard would lose a text
    examples.change(shown, examples, inputs, api_visibility="private", queue=False)


def _given(value: Any, request: gr.Request) -> None:
    """A file belongs to the tab that it was given in."""
    if path := _path(value):
        _uploads(request).keep(path, str(request.session_hash))


def closed(request: gr.Request) -> None:
    """A tab was closed."""
    _uploads(request).leave(str(request.session_hash))


def _uploads(request: gr.Request) -> Uploads:
    assert request.request is not None
    found: Uploads = request.request.scope[NAME]
    return found


def html(text: str = "", **settings: Any) -> Any:
    """Text of ours as it is, without the look that gradio gives to prose."""
    return gr.HTML(text, apply_default_css=False, padding=False, **settings)


def _head(name: str, about: str) -> str:
    return f"<h3>{escape(name)}</h3><p class='about'>{escape(about)}</p>"


def _inputs(subject: Subject) -> list[Any]:
    """What a user gives: as many texts as the task reads, a picture or a sound; where nobody says, a text or a file."""
    if subject.kind == "image":
        return [gr.Image(label="Picture", type="filepath", sources=PICTURES, image_mode=None, height=280, buttons=[])]
    if subject.kind == "audio":
        return [gr.Audio(label="Sound", type="filepath", sources=SOUNDS, editable=False, buttons=[])]
    if subject.kind == "seed":
        classes = [(name, number) for number, name in enumerate(subject.classes)]
        return [
            gr.Dropdown(classes, value=0, label="Class", elem_id="input-class", filterable=len(classes) > 10),
            gr.Number(value=0, label="Seed", precision=0, minimum=0, maximum=MOST_SEED, elem_id="input-seed"),
        ]
    lines = 3 if len(subject.texts) == 1 else 2
    names = [name[:1].upper() + name[1:] for name in subject.texts]
    boxes: list[Any] = [
        gr.Textbox(label=name, lines=lines, max_lines=8, elem_id=f"input-{number}", submit_btn=False)
        for number, name in enumerate(names)
    ]
    if subject.kind == "arrays":
        boxes.append(gr.File(label="Or a file", type="filepath", file_count="single"))
    return boxes


def _examples(subject: Subject) -> Any:
    if not subject.examples:
        return None
    choices = [(each.name, number) for number, each in enumerate(subject.examples)]
    return gr.Dropdown(choices, value=None, label="Or try a row of the run's test set", elem_id="examples", scale=3)


def given_of(subject: Subject, values: Sequence[Any]) -> Any:
    """What the components hold: a text, a list of texts, the path of a file that was uploaded, or None. Their values come as whoever
    asks sent them."""
    if subject.kind in ("image", "audio"):
        return _path(values[0])
    if subject.kind == "seed":
        return _drawing(values, len(subject.classes))
    if subject.kind == "arrays" and (path := _path(values[-1])) is not None:
        return path
    texts = [str(value or "") for value in values[: len(subject.texts)]]
    return texts[0] if len(texts) == 1 else texts


def _drawing(values: Sequence[Any], classes: int) -> dict[str, int] | None:
    """A class and a seed, as far as they are some."""
    label, seed = (
        value if isinstance(value, int) else int(value) if isinstance(value, float) and value.is_integer() else -1
        for value in values
    )
    return {"label": label, "seed": seed} if 0 <= label < classes and 0 <= seed <= MOST_SEED else None


def _path(value: Any) -> Path | None:
    """Of a file in the folder of uploads; any other file of this machine is not what a user has given."""
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        return None
    try:
        path = Path(value["path"]).resolve()
    except (OSError, ValueError):  # a name that no file can have
        return None
    return path if path.is_relative_to(Path(get_upload_folder()).resolve()) and path.is_file() else None


def settings_of(subject: Subject, given: Any) -> list[Any]:
    """What the components are set to for something given."""
    if subject.kind in ("image", "audio"):
        return [given]
    if subject.kind == "seed":
        found = given if isinstance(given, Mapping) else {"label": 0, "seed": 0}
        return [found["label"], found["seed"]]
    texts = [given] if isinstance(given, str) else list(given or [""] * len(subject.texts))
    return [*texts, *([None] if subject.kind == "arrays" else [])]


# ------------------------------------------------------------------ comparing


def compared(subject: Subject, given: Any) -> Iterator[Made]:
    """Everything that is shown while both models answer one after the other and are then timed."""
    blank = [wording.card(None)] * len(subject.sides)
    if why := refused(subject.kind, given) or subject.check(given):
        yield (_trouble(why), *blank, "", "")
        return
    asked = str(given) if isinstance(given, Path) else given
    answers: list[Answer] = []
    try:
        for side in subject.sides:
            yield from _loading(side, blank)
        for number, side in enumerate(subject.sides):
            for answer in side.answer(asked):
                cards = [wording.card(each) for each in (*answers, answer)]
                waiting = [wording.card(None, waiting="Its turn comes next.")] * (len(subject.sides) - number - 1)
                yield (f"<p>{escape(side.name)} answers …</p>", *cards, *waiting, "", "")
            answers.append(answer)
        cards = [wording.card(answer) for answer in answers]
        agreed = wording.agreement(subject.names, answers)
        yield (f"<p>Measuring the time of {'both, in turn' if len(cards) > 1 else 'a call'} …</p>", *cards, agreed, "")
        found = measured(subject.sides, asked)
        meter = wording.meter(subject.names, found, subject.reported, TIMED_TOKENS if subject.generates else 0)
        yield ("", *cards, agreed, meter)
    except Refused as error:
        cards = [wording.card(answer) for answer in answers]
        yield (_trouble(f"The model does not take this: {error}"), *cards, *blank[len(cards) :], "", "")


def _loading(side: Side, blank: Sequence[str]) -> Iterator[Made]:
    """The state while a model is still loading."""
    while not side.is_loaded(LOAD_SHOWN_SECONDS):
        yield (f"<p>{escape(side.name)} is loading: {side.loading_seconds:.0f} s so far …</p>", *blank, "", "")


def _trouble(why: str) -> str:
    return f'<p class="trouble" role="alert">{escape(why)}</p>'
