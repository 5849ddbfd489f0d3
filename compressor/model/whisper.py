"""A Whisper encoder that takes inputs of any length up to its positions: the library's own insists on 30 seconds."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper import modeling_whisper

UNHEEDED = ("output_attentions", "return_dict")


class WhisperEncoder(modeling_whisper.WhisperEncoder):  # type: ignore[no-untyped-call]
    """The same encoder with as many positions as there are frames; it has the library's name, as it is the same architecture."""

    def forward(self, input_features: torch.Tensor, attention_mask: Any = None, **named: Any) -> BaseModelOutput:  # noqa: ARG002
        """From log-mel spectra `[B, mels, frames]`; the encoder has no mask, `attention_mask` is not looked at."""
        wanted = named.pop("output_hidden_states", None)
        collects = self.config.output_hidden_states if wanted is None else wanted
        given = {name: value for name, value in named.items() if name not in UNHEEDED}
        states = nn.functional.gelu(self.conv2(nn.functional.gelu(self.conv1(input_features)))).permute(0, 2, 1)
        states = states + self.embed_positions.weight[: states.shape[1]]
        states = nn.functional.dropout(states, p=self.dropout, training=self.training)
        seen = [states]
        for layer in self.layers:
            if not (self.training and self.layerdrop > 0 and float(torch.rand([])) < self.layerdrop):
                states = layer(states, None, **given)
            seen.append(states)
        last = self.layer_norm(states)
        return BaseModelOutput(last_hidden_state=last, hidden_states=(*seen[:-1], last) if collects else None)
