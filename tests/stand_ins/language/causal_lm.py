"""A causal language model as somebody else's task: no labels, perplexity, and a cache of keys and values that goes round between calls.

Measuring processes import this module too: torch is imported where it is needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pydantic import Field

from compressor.contracts import Columns, Evaluation, Graph, Measure, Outputs, Port, Task, Want, Workload
from compressor.contracts.records import Interval, Scores

VOCABULARY, PAD = 128, 0
PERPLEXITY = Measure("perplexity", better="lower", drop="percent")
BATCH = 8


class CausalLM(Task):
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
        return Outputs(module(input_ids=batch["input_ids"]).logits)

    def loss(self, outputs, batch):
        import torch

        ahead = batch["input_ids"][:, 1:]
        return torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), ahead.flatten(), ignore_index=PAD)

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
        draws = np.random.default_rng(0).integers(0, len(costs), (500, len(costs)))
        low, high = np.quantile(np.exp(costs[draws].sum(1) / tokens[draws].sum(1)), [0.025, 0.975])
        spread = Interval(low=float(low), high=float(high), method="bootstrap over rows")
        metric = PERPLEXITY.metric(float(np.exp(costs.sum() / tokens.sum())), len(costs), spread)
        scores = Scores(split=split, metric=metric.name, metrics=(metric,))
        return Evaluation(scores, outputs, {metric.name: -costs / tokens}, tokens)

    def _ids(self, rows):
        ids = np.full((len(rows), self.max_length), PAD, dtype=np.int64)
        for number, text in enumerate(rows[self.text]):
            tokens = np.frombuffer(text.encode("ascii", "replace"), dtype=np.uint8)[: self.max_length]
            ids[number, : len(tokens)] = tokens
        return ids


def _config(files):
    """Of a model, or of what lies in its folder."""
    if isinstance(files, Path):
        return json.loads((files / "config.json").read_text(encoding="utf-8"))
    return files.module.config.to_dict()


def _likeliest(found):
    return found["logits"][:, -1:].argmax(-1)


def _costs(logits, ids):
    ahead = ids[:, 1:]
    shifted = logits[:, :-1].astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    told = -np.take_along_axis(logs, ahead[..., None], axis=-1)[..., 0] * (ahead != PAD)
    return told.sum(1), (ahead != PAD).sum(1).astype(np.float64)
