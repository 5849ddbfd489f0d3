"""What counts in a row, how many bytes that is, how long texts are read in parts, and chats by templates of others."""

from __future__ import annotations

import json

import datasets
import pytest

from compressor.contracts.registry import load
from compressor.errors import SourceError
from compressor.plan.specs import DataSpec
from compressor.tasks.data import load_data
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.language.chats import Template, template_in
from compressor.tasks.language.documents import Encoder, documents_of, windows_of
from compressor.tasks.tiny import byte_tokenizer
from compressor.tasks.tokenization import tokenization

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer of bytes and a template, no model."""
    made = tmp_path_factory.mktemp("tokens")
    byte_tokenizer(made)
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


def read(task, folder, **columns):
    return documents_of(task.content, datasets.Dataset.from_dict(columns), folder, end=task.end)


def counted(folder, document):
    return Encoder(tokenization(folder)).spelled(document.ids[document.counted].tolist())


def test_all_of_a_text_counts_but_its_first_token(folder):
    (found,) = read(CausalLM(), folder, text=["é word1 red"])
    assert found.ids[-1] == 0  # the token that ends a text
    assert found.counted.tolist() == [False] + [True] * (len(found.ids) - 1)
    assert (
        found.bytes == len("é word1 red".encode()) - 2 == 10
    )  # the first byte of é is its first token, and spells the whole sign
    (bare,) = read(CausalLM(end=False), folder, text=["é word1 red"])
    assert bare.ids.tolist() == found.ids[:-1].tolist()


def test_of_a_completion_counts_the_completion_and_its_end(folder):
    task = CausalLM(prompt="q", completion="a")
    (found,) = read(task, folder, q=["word1 re"], a=["d blue"])
    assert counted(folder, found) == "d blue"
    assert found.counted.sum() == len(found.ids) - found.counted.argmax()
    assert found.bytes == 6
    alone = Encoder(tokenization(folder)).encoded(["word1 re"])[0].ids
    assert found.ids[: len(alone)].tolist() == alone  # as the model is asked: no token joins prompt and completion


def test_of_a_chat_the_turns_of_the_assistant_count(folder):
    chat = [
        {"role": "system", "content": "be red"},
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "word1"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "é"},
    ]
    (found,) = read(CausalLM(messages="turns"), folder, turns=[chat])
    assert counted(folder, found) == "word1é"
    assert found.ids[found.counted].tolist().count(0) == 2  # each answer is ended
    text = "<system>be red<|end|><user>who?<|end|><assistant>word1<|end|><user>and?<|end|><assistant>é<|end|>"
    assert Encoder(tokenization(folder)).spelled(found.ids.tolist()) == text.replace("<|end|>", "")
    assert Template(TEMPLATE, {"eos_token": "<|end|>"}).around() == ("<user>", "<|end|><assistant>")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% set _ = messages.append(1) %}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_templates_of_others_reach_nothing(source):
    with pytest.raises(SourceError, match="the chat template does not take"):
        assert Template(source, {}).rendered([{"role": "user", "content": "a"}], asks=True) == ""


ENDLESS = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macros that call themselves twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "texts that double": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "texts joined": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "blocks that double": "{% set n = namespace(x='ab') %}{% for i in range(60) %}"
    "{% set t %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = t %}{% endfor %}",
    "a text times a number": "{{ 'ab' * 10 ** 10 }}",
    "numbers that grow": "{{ 10 ** (10 ** 10) }}",
    "numbers squared": "{% set n = namespace(x=99) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "a filter that pads": "{{ 'a' | center(10000000000) }}",
    "a method that pads": "{{ 'a'.ljust(10000000000) }}",
    "a wide number": "{{ '%10000000000d' | format(1) }}",
    "a wide number by an operator": "{{ '%10000000000d' % 1 }}",
    "a wide number by a method": "{{ '{:10000000000}'.format(1) }}",
    "long for long": "{% set a = 'a' * 9999999 %}{{ a.replace('a', a) }}",
    "many references": "{% set a = 'a' * 9999999 %}{{ ([a] * 9999) | select | join }}",
    "many long texts": "{{ range(9999) | map('center', 9999999) | join }}",
    "what stands in the template": "{% for a in range(99999) %}" + "long " * 9999 + "{% endfor %}",
    "long for long by a filter": "{% set a = 'a' * 99999 %}{{ a | replace('a', a) }}",
    "joined by what is long": "{% set a = 'a' * 99999 %}{{ a | join(a) }}",
    "lists that double": "{% set n = namespace(x=['ab']) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a list times a number": "{% set a = [0] * 999999999 %}",
    "a wide year": "{{ strftime_now('%10000000000Y') }}",
}


@pytest.mark.parametrize("case", ENDLESS)
def test_templates_of_others_end_and_fill_no_memory(case):
    with pytest.raises(SourceError, match=r"the chat template does not take .* than any chat needs"):
        Template(ENDLESS[case], {}).rendered([{"role": "user", "content": "a"}], asks=True)


def test_templates_say_the_same_on_every_day_and_in_every_call():
    day = Template("{{ strftime_now('%d %b %Y') }}", {})
    assert day.rendered([{"role": "user", "content": "a"}], asks=True) == "26 Jul 2024"
    with pytest.raises(SourceError, match="random"):
        Template("{{ range(99) | random }}", {}).rendered([], asks=True)


def test_templates_are_rendered_as_the_library_renders_them(folder):
    from transformers import AutoTokenizer

    source = (
        "{%- for m in messages %}{%- if loop.first and m.role == 'system' %}S:{{ m.content | trim }}\n{% continue %}{% endif %}"
        "{{ loop.index0 }}/{{ loop.length }}{% if loop.last %}!{% endif %} {{ m['role'].upper() ~ ':' }}{{ m | tojson }}"
        "{% generation %}{{ m.content.replace('a', 'aa') }}{% endgeneration %}{{ '%s-%03d' % (m.role, 7) }}{{ 2 * 3 + 1 }}\n"
        "{% endfor %}{% set ns = namespace(n=0) %}{% for k, v in messages[0].items() %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
        "{% macro f(x) %}<{{ x }}>{{ caller() }}{% endmacro %}{% call f(eos_token) %}in{% endcall %}{{ 'yes' if add_generation_prompt }}"
    )
    chat = [{"role": role, "content": f" {role}, a é "} for role in ("system", "user", "assistant")]
    found = Template(source, {"eos_token": "<|end|>"}).rendered(chat, asks=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert found == tokenizer.apply_chat_template(chat, chat_template=source, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]}, "D"),
        ({"chat_template": "only"}, "only"),
    ],
)
def test_of_several_templates_the_default_one_is_taken(config, expected, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert template_in(tmp_path).source == expected


@pytest.mark.parametrize("content", [b"\xff\xfe", None], ids=["another encoding", "a pointer of Git LFS"])
def test_template_that_cannot_be_read_is_told(content, tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(content or b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(SourceError, match=r"chat_template\.jinja cannot be read"):
        template_in(tmp_path)


def test_a_template_that_rewrites_what_was_said_is_refused(folder):
    last = Template("{{ messages[-1]['content'] }}", {})
    with pytest.raises(SourceError, match="writes the turns before message 2 otherwise"):
        last.pieces([{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")])


@pytest.mark.parametrize("length", [4, 7, 16, 500])
def test_windows_tell_every_token_of_a_text_once(folder, length):
    documents = read(CausalLM(), folder, text=["a word and another one, é and more of them: " * 3, "word7", "w"])
    windows = windows_of(documents, length, whole=False)
    assert all(len(each.document.ids) <= length for each in windows)
    for row, document in enumerate(documents):
        own = [each.document for each in windows if each.row == row]
        told = [int(token) for each in own for token, counts in zip(each.ids, each.counted, strict=True) if counts]
        assert told == document.ids[1:].tolist()
        assert sum(each.bytes for each in own) == document.bytes


@pytest.mark.parametrize(("length", "left"), [(4, "9xyz"), (8, "6789xyz"), (12, "23456789xyz")])
def test_of_a_long_prompt_the_beginning_goes_first(folder, length, left):
    documents = read(CausalLM(prompt="q", completion="a"), folder, q=["0123456789" * 3], a=["xyz"])
    (window,) = windows_of(documents, length, whole=True)
    assert len(window.document.ids) == length
    assert Encoder(tokenization(folder)).spelled(window.document.ids.tolist()) == left
    assert counted(folder, window.document) == "xyz"


def test_a_long_answer_keeps_a_token_before_it(folder):
    documents = read(CausalLM(prompt="q", completion="a"), folder, q=["0123"], a=["x" * 40])
    (window,) = windows_of(documents, 10, whole=True)
    assert Encoder(tokenization(folder)).spelled(window.document.ids.tolist()) == "3xxxxxxxxx"
    assert window.document.counted.tolist() == [False] + [True] * 9


REFUSED = {
    "a number": (lambda n: {"text": n}, {}, "line [0-9]: column 'text' holds [0-9] .int., expected texts"),
    "no list": (lambda n: {"m": f"hello {n}"}, {"messages": "m"}, "expected a list of messages"),
    "a strange role": (lambda n: {"m": [{"role": "bot", "content": f"{n}"}]}, {"messages": "m"}, "expected a role"),
    "nobody answers": (lambda n: {"m": [{"role": "user", "content": f"{n}"}]}, {"messages": "m"}, "no turn of the assistant"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_hold_something_else_are_refused_where_they_stand(case, tmp_path):
    row, parameters, what = REFUSED[case]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(9)))
    task = load("task", "causal-lm")(**parameters)
    spec = DataSpec.model_validate({"files": "rows.jsonl", "split": {"validation": 1, "test": 1}})
    with pytest.raises(SourceError, match=f"rows.jsonl, line .*{what}" if what[0] != "l" else what):
        task.encoded(load_data(spec, columns=task.columns(), seed=0, folder=tmp_path))


@pytest.mark.parametrize(
    "parameters", [{"prompt": "a"}, {"text": "a", "messages": "b"}, {"prompt": "a", "completion": "a"}, {"max_length": 1}]
)
def test_parameters_that_do_not_go_together_are_refused(parameters):
    with pytest.raises(ValueError, match=r"together|name the columns|both column|greater"):
        CausalLM(**parameters)
