"""A language model and people: what one of them writes, what is read in the outputs, and what an export is shipped with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Deployment, Feed, Prediction, Recipe, Seen, Session, Witnessed
from compressor.tasks import guesses
from compressor.tasks.language.cache import IDS, LOGITS, MASK
from compressor.tasks.language.chats import template_in
from compressor.tasks.language.columns import messages_of
from compressor.tasks.language.decoding import decoded, filled
from compressor.tasks.language.documents import Encoder
from compressor.tasks.language.sources import GENERATION
from compressor.tasks.tokenization import TOKENIZER, shipped, tokenization

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressor.contracts import Task

NEW = 32
"""Tokens that an example makes."""
RANKED = 5
KINDS = ("ForCausalLM", "LMHeadModel")
"""What language models' classes end with."""
CHATS = ("messages", "conversation", "conversations", "chat")
ANSWERED = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("input", "output"),
)
"""Usual names of columns of chats, and of what is asked with what follows."""
LABELLED = 2
"""Rank where rows have labels: a language model can classify them."""
NEAR = 1e-3
"""Two best logits that differ by less may change places between two sessions."""
HALF = "\N{REPLACEMENT CHARACTER}"
"""What stands for bytes that are no whole character."""


def deployment(files: Path, max_length: int, *, chats: bool) -> Deployment:
    """How a text becomes a prompt, and how long and until when the model goes on with it."""
    found = tokenization(files)
    before, after = template_in(files).around() if chats else ("", "")
    how = {
        "tokenizer": TOKENIZER,
        "max_length": max_length,
        "begins": [] if chats else Encoder(found).before,
        "before": before,
        "after": after,
        **found.settings,
    }
    files_of = shipped(files, found, [IDS, MASK], max_length)
    return Deployment("text", how, files=files_of, generates={"steps": NEW, "ends": ends(files)})


def ends(files: Path) -> list[int]:
    """Tokens that end an answer."""
    return list(json.loads((files / GENERATION).read_text(encoding="utf-8"))["eos_token_id"])


def feed(content: Any, files: Path, max_length: int, *, chats: bool) -> Feed:
    """The prompt that a text is, for a batch of one; a list of messages is written by the model's template."""
    from compressor.tasks.inputs.generation import prompt_of, prompter_of

    how = deployment(files, max_length, chats=chats).preprocessing
    text = content
    if not isinstance(content, str):
        text = template_in(files).rendered(messages_of(content), asks=True)
        how = {**how, "begins": [], "before": "", "after": ""}
    return prompt_of(prompter_of(tokenization(files).source, how), text, how)


def tell(outputs: Feed, labels: Sequence[str]) -> tuple[Prediction, ...]:
    """The tokens of each row, or the most probable ones after it with their probabilities."""
    import numpy as np

    def spelled(token: int) -> str:
        return labels[token] if labels else str(token)

    if "tokens" in outputs:
        return tuple(Prediction(("" if labels else " ").join(spelled(int(token)) for token in row)) for row in outputs["tokens"])
    logits = outputs[LOGITS][:, -1].astype(np.float64)
    with np.errstate(invalid="ignore"):  # what is not finite is told by a verdict, not warned of
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
    ranked = [[(spelled(int(at)), float(row[at])) for at in np.argsort(-row, kind="stable")[:RANKED]] for row in shares]
    return tuple(Prediction(*each[0], tuple(each)) for each in ranked)


def witnessed(task: Task, session: Session, content: Any, files: Path) -> Witnessed | None:
    """The prompt, the logits after it, and the text that the model goes on with as far as no token is a matter of the last bits."""
    import numpy as np

    from compressor.tasks.inputs.generation import greedy

    if not isinstance(content, str):
        return None
    made, near = task.feed(content, files), list[bool]()

    def choose(logits: NDArray[Any]) -> NDArray[Any]:
        second, first = np.partition(logits[0], -2)[-2:]
        near.append(bool(first - second < NEAR))
        return greedy(logits)

    start = filled(session, made)
    tokens = decoded(session, start, NEW, choose=choose, ends=ends(files))[0]
    clear = near.index(True) if any(near) else len(tokens)
    told = Encoder(tokenization(files)).spelled([int(token) for token in tokens[:clear]])
    return Witnessed(made, {LOGITS: start[0]}, told.rstrip(HALF))


def recipe(seen: Seen) -> Recipe | None:
    """The columns of a language model's rows; where rows have labels too, other tasks come first.

    Raises:
        SourceError: several columns could be meant.
    """
    kinds = [str(each) for each in seen.config.get("architectures") or ()]
    if not any(each.endswith(KINDS) for each in kinds) and not seen.asked:
        return None
    there = {each.name.casefold(): each.name for each in seen.columns if each.kind in ("text", "other", "labels")}
    chat = next((there[name] for name in CHATS if name in there), None)
    if chat and not seen.content:
        return Recipe({"messages": chat}, f"chats in '{chat}', by its name")
    asked = next((pair for pair in ANSWERED if all(name in there for name in pair)), None)
    if asked and not seen.content:
        prompt, completion = (there[name] for name in asked)
        return Recipe({"prompt": prompt, "completion": completion}, f"'{completion}' follows '{prompt}', by their names")
    if (content := guesses.texts(seen)) is None:
        return None
    named, told = content
    rank = LABELLED if seen.of("class", "bits", "number", "labels") else 0
    if isinstance(named["text"], str):
        return Recipe(named, told, rank=rank)
    prompt, completion = named["text"]
    return Recipe({"prompt": prompt, "completion": completion}, f"{told}: what is asked, and what follows", rank=rank)
