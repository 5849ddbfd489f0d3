"""What `init` proposes for a language model, by its class and the columns of the rows."""

from __future__ import annotations

import json

import pytest

from compressor.contracts import Column, Seen
from compressor.errors import SourceError
from compressor.plan.bound import load_plan
from compressor.tasks.language.causal_lm import CausalLM
from compressor.tasks.tiny import documents, language_model

LLAMA = {"architectures": ["LlamaForCausalLM"]}
CASES = {
    "texts": ([("text", "text")], {"text": "text"}, 0),
    "texts of another name": ([("story", "text")], {"text": "story"}, 0),
    "prompts": ([("prompt", "text"), ("completion", "text")], {"prompt": "prompt", "completion": "completion"}, 0),
    "instructions": ([("Output", "text"), ("Instruction", "text")], {"prompt": "Instruction", "completion": "Output"}, 0),
    "chats": ([("messages", "other"), ("id", "number")], {"messages": "messages"}, 0),
    "labelled texts": ([("text", "text"), ("label", "class")], {"text": "text"}, 2),
}


@pytest.mark.parametrize("case", CASES)
def test_columns_are_known_by_name_and_kind(case):
    columns, parameters, rank = CASES[case]
    found = CausalLM.recipe(Seen(LLAMA, tuple(Column(*each) for each in columns)))
    assert (dict(found.parameters), found.rank) == (parameters, rank)
    CausalLM(**found.parameters)


def test_what_is_not_clear_is_asked_and_what_is_said_is_taken():
    seen = Seen(LLAMA, (Column("a", "text"), Column("b", "text")))
    with pytest.raises(SourceError, match="which column is the text"):
        CausalLM.recipe(seen)
    assert CausalLM.recipe(Seen(LLAMA, seen.columns, content=("b",))).parameters == {"text": "b"}
    assert CausalLM.recipe(Seen(LLAMA, seen.columns, content=("b", "a"))).parameters == {"prompt": "b", "completion": "a"}
    assert CausalLM.recipe(Seen({"architectures": ["BertModel"]}, (Column("text", "text"),))) is None


def test_init_writes_a_plan_for_a_language_model_and_texts(tmp_path):
    from compressor.proposal.looked import Asked
    from compressor.proposal.propose import propose

    language_model(tmp_path / "model")
    documents(tmp_path, ("text",))
    rows = [json.loads(line)["text"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    (tmp_path / "rows.txt").write_text("\n".join(rows))
    for data in ("rows.jsonl", "rows.txt"):
        made = propose(Asked("model", data, tmp_path, max_drop=2.0))
        (tmp_path / "plan.yaml").write_text(made.text)
        plan = load_plan(tmp_path / "plan.yaml")
        assert plan.task_name == "causal-lm"
        assert plan.task.max_length == 40  # all of the longest text, rounded up
        assert {workload.kind for probe in plan.probes for workload in probe.probe.workloads()} == {"prefill", "decode"}
