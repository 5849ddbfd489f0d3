"""A causal language model as somebody else's task: no labels, perplexity, and a cache of keys and values that goes round between calls.

Measuring processes import this module too: torch is imported where it is needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pydantic import Field

from compressor.contracts import Columns, Evaluation, Graph, Measure, Outputs, Port, Prediction, Task, Want, Workload
from compressor.contracts.records import Difference, Interval, Scores

VOCABULARY, PAD = 128, 0
PERPLEXITY = Measure("perplexity", better="lower", drop="percent")
BATCH, RANKED = 8, 5


class CharacterLM(Task):
    """Characters of texts, each told from those before it; a character is a token."""

    text: str = "text"
    max_length: int = Field(default=24, ge=2)

    def measures(self):
        return (PERPLEXITY,)

    def columns(self):
        return Columns((self.text,))

    def load(self, source, data, *, seed):
        from transformers import LlamaForCausalLM

        from compressor.model import Model

        return Model.wrap(LlamaForCausalLM.from_pretrained(source, local_files_only=True))

    # -------------------------------------------------------------- graphs

    def inputs(self, model):
        return (Port("input_ids", "int64", ("batch", "length")),)

    def outputs(self):
        return (Port("logits", "float32", ("batch", "length", VOCABULARY)),)

    def graphs(self, files):
        config = _config(files)
        heads, size = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
        names = [f"{layer}.{what}" for layer in range(config["num_hidden_layers"]) for what in ("key", "value")]
        past, present = (
            tuple(Port(f"{when}.{name}", "float32", ("batch", heads, axis, size)) for name in names)
            for when, axis in (("past", "past"), ("present", "present"))
        )
        state = tuple((f"present.{name}", f"past.{name}") for name in names)
        return (Graph(inputs=(*self.inputs(files), *past), outputs=(*self.outputs(), *present), state=state),)

    def example(self, files, graph, *, batch, length):
        sizes = {"batch": batch, "length": length, "past": length + 1}
        made = {}
        for port in graph.inputs:
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in port.axes]
            numbers = np.arange(np.prod(shape)).reshape(shape)
            made[port.name] = (numbers % 97 + 1 if port.dtype == "int64" else np.sin(numbers)).astype(port.dtype)
        return made

    def answer(self, module, graph, inputs):
        from transformers import DynamicCache

        pairs = [inputs[port.name] for port in graph.inputs if port.name.startswith("past")]
        cache = DynamicCache(list(zip(pairs[::2], pairs[1::2], strict=True)))
        found = module(input_ids=inputs["input_ids"], past_key_values=cache, use_cache=True)
        return (found.logits, *(each for layer in found.past_key_values.layers for each in (layer.keys, layer.values)))

    # -------------------------------------------------------------- calls

    def prepare(self, session, feed, workload):
        """For decoding, a cache filled by the prompt, and the token after it."""
        return self._filled(session, feed) if workload.kind == "decode" else None

    def call(self, session, feed, workload=Workload(), prepared=None):
        """Logits of a pass, or the most probable tokens one after the other."""
        if workload.kind == "forward":
            return session.run(feed)[0]
        state, token = prepared or self._filled(session, feed)
        if workload.kind == "prefill":
            return {"tokens": token}
        tokens = [] if workload.kind == "decode" else [token]
        while len(tokens) < (workload.steps or 1):
            found, state = session.run({"input_ids": token}, state=state)
            token = _likeliest(found)
            tokens.append(token)
        return {"tokens": np.concatenate(tokens, axis=1)}

    def _filled(self, session, feed):
        found, state = session.run(feed)
        return state, _likeliest(found)

    # -------------------------------------------------------------- rows

    def batches(self, rows, files, *, batch_size, shuffle_seed=None):
        import torch

        order = np.arange(len(rows)) if shuffle_seed is None else np.random.default_rng(shuffle_seed).permutation(len(rows))
        ids = self._ids(rows)
        groups = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
        return [{"input_ids": torch.from_numpy(ids[group]), "row": torch.from_numpy(group)} for group in groups]

    def forward(self, module, batch, want=Want()):
        from compressor.model.capture import captured
        from compressor.model.token_losses import token_logits

        with captured(module, want) as found:
            logits = token_logits(module, {"input_ids": batch["input_ids"]}, _ahead(batch["input_ids"]))
        return Outputs(logits, dict(found), batch["input_ids"] != PAD)

    def loss(self, outputs, batch):
        from compressor.model.token_losses import mean_cross_entropy

        return mean_cross_entropy(outputs.tokens)

    def weight(self, batch):
        """Tokens that are told from those before them."""
        return int((batch["input_ids"][:, 1:] != PAD).sum())

    repeats_rows = True

    def feeds(self, rows, files, workload=Workload(), *, count=None):
        """Texts one after the other, in rows of the workload's length."""
        length = workload.length or self.max_length
        written = np.concatenate([row[row != PAD] for row in self._ids(rows)])
        cut = np.resize(written, (count or 1) * workload.batch * length).reshape(-1, workload.batch, length)
        return [{"input_ids": ids} for ids in cut]

    def scored_feeds(self, rows, files):
        ids = self._ids(rows)
        return [{"input_ids": ids[at : at + BATCH]} for at in range(0, len(ids), BATCH)], range(len(ids))

    def collected(self, predict, feeds, order):
        """Of each row what its tokens cost, and how many they are: logits of every token are too many to keep."""
        found = [_costs(predict(feed)["logits"], feed["input_ids"]) for feed in feeds]
        costs, tokens = (np.concatenate(each) for each in zip(*found, strict=True))
        return {"cost": costs, "tokens": tokens}

    def truth(self, rows):
        return {}

    def score(self, outputs, truth, *, split):
        costs, tokens = outputs["cost"], outputs["tokens"]
        value, spread = _over_rows(np.exp, costs, tokens, seed=0)
        metric = PERPLEXITY.metric(value, len(costs), spread)
        scores = Scores(split=split, metric=metric.name, metrics=(metric,))
        return Evaluation(scores, outputs, {metric.name: -costs / np.maximum(tokens, 1)}, tokens)

    def compare(self, candidate, reference, *, metric, name, seed):
        """Per cent of the reference's perplexity: a ratio of perplexities is the exponential of what a token costs more."""
        more, tokens = candidate.outputs["cost"] - reference.outputs["cost"], reference.outputs["tokens"]
        change, spread = _over_rows(lambda mean: 100 * (1 - np.exp(mean)), more, tokens, seed=seed)
        held = reference.scores.of(metric)
        return Difference(reference=name, metric=metric, change=round(change, 6), unit=held.drop, interval=spread, n=held.n)

    # -------------------------------------------------------------- people

    def feed(self, content, files):
        return {"input_ids": self._tokens(str(content))[None]}

    def tell(self, outputs, labels):
        """The likeliest next character of each row with its probability, the likeliest ones after it; or all that were made."""
        if "tokens" in outputs:
            return tuple(Prediction("".join(map(chr, row))) for row in outputs["tokens"])
        logits = outputs["logits"][:, -1].astype(np.float64)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        ranked = [[(chr(at), float(row[at])) for at in np.argsort(-row, kind="stable")[:RANKED]] for row in shares]
        return tuple(Prediction(*each[0], tuple(each)) for each in ranked)

    # -------------------------------------------------------------- tokens

    def _ids(self, rows):
        ids = np.full((len(rows), self.max_length), PAD, dtype=np.int64)
        for number, text in enumerate(rows[self.text]):
            tokens = self._tokens(text)
            ids[number, : len(tokens)] = tokens
        return ids

    def _tokens(self, text):
        return np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8)[: self.max_length].astype(np.int64)


def tiny_llama():
    """Two layers of grouped queries, always the same, far from what a fresh model's even answers are."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=128, eos_token_id=None, **sizes)
    made = LlamaForCausalLM(config).eval()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def _ahead(ids):
    """The token after each one; none after the last, and padding is not told."""
    import torch

    ahead = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=PAD)
    return ahead.masked_fill(ahead == PAD, -100)


def _config(files):
    """Of a model, or of what lies in its folder."""
    if isinstance(files, Path):
        return json.loads((files / "config.json").read_text(encoding="utf-8"))
    return files.module.config.to_dict()


def _over_rows(function, values, tokens, *, seed):
    """A function of the mean of values over all tokens, and its interval over rows that are drawn anew."""
    draws = np.random.default_rng(seed).integers(0, len(values), (500, len(values)))
    low, high = np.quantile(function(values[draws].sum(1) / tokens[draws].sum(1)), [0.025, 0.975])
    spread = Interval(low=float(low), high=float(high), method="bootstrap over rows, weighted by tokens")
    return float(function(values.sum() / tokens.sum())), spread


def _likeliest(found):
    return found["logits"][:, -1:].argmax(-1)


def _costs(logits, ids):
    ahead = ids[:, 1:]
    shifted = logits[:, :-1].astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    told = -np.take_along_axis(logs, ahead[..., None], axis=-1)[..., 0] * (ahead != PAD)
    return told.sum(1), (ahead != PAD).sum(1).astype(np.float64)
