"""Batches that models write themselves: on-policy by the student, by the teacher, or by both in turns. No gradient flows through that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from compressor.contracts import Batch, derived_seed
from compressor.errors import UnsupportedModel
from compressor.model.sampling import Choose, continued, drawn, uniforms
from compressor.tasks.language.likelihood import IGNORED
from compressor.tasks.language.sources import GENERATION

if TYPE_CHECKING:
    import torch
    from torch import nn

    from compressor.contracts import Model

NEEDED = ("input_ids", "labels", "position_ids", "attention_mask", "row")


class Generation(BaseModel):
    """What is trained on instead of the rows' own tokens, in a share of the steps: what follows the beginning of each row.

    By the student it is on-policy distillation (GKD), by the teacher sequence-level, `both`: speculative (SKD), where the student's token
    stands unless it is none of the teacher's likeliest, and the teacher's takes its place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["student", "teacher", "both"] = Field(default="student", description="Who writes.")
    share: float = Field(default=0.5, gt=0, le=1, description="Share of the steps that train on what is written (lambda).")
    prompt: int = Field(
        default=16, ge=1, description="Tokens of a text that are given; of a row with a prompt of its own, that is."
    )
    tokens: int = Field(default=64, ge=1, le=2**16, description="Tokens that are written after it, fewer where the text ends.")
    temperature: float = Field(default=0.9, ge=0, le=100, description="Of who writes; 0 takes the likeliest token.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Only tokens that have so much of the probability are written.")
    accepted: int = Field(default=25, ge=1, description="Of `both`: the student's token stands among so many of the teacher's.")
    teacher_temperature: float = Field(default=0.2, ge=0, le=100, description="Of `both`: of the teacher's tokens.")
    teacher_top_p: float = Field(default=0.5, gt=0, le=1, description="Of `both`: of the teacher's tokens.")

    def due(self, seed: int, step: int) -> bool:
        """Whether a step trains on what is written: drawn anew for each, and the same in every process."""
        import numpy as np

        return bool(np.random.default_rng(derived_seed(seed, "due", step)).random() < self.share)

    def written(
        self, batch: Batch, student: nn.Module, teacher: nn.Module, *, seed: int, step: int, ends: Sequence[int] = ()
    ) -> Batch:
        """A batch of the beginnings of these rows and what is written after them, up to one of the tokens that end a text; only that counts.

        Numbers are drawn for each row by its own number: a batch that is computed in parts is written as if it were not.

        Raises:
            UnsupportedModel: it is no batch of a language model.
        """
        if missing := [name for name in NEEDED if name not in batch]:
            raise UnsupportedModel(f"generate needs batches of a language model, and these have no {', '.join(missing)}")
        prompts = _prompts(batch, self.prompt)
        first = batch["row"] if batch["row"].ndim == 1 else batch["row"][:, 0]
        drawing = uniforms(derived_seed(seed, "written", step), first.tolist(), 2 * self.tokens, batch["input_ids"].device)
        modules = {"student": [student], "teacher": [teacher], "both": [student, teacher]}[self.by]
        ids, mask = _on_the_left(prompts)
        made = continued(modules, ids, mask, count=self.tokens, choose=self._choose(drawing), ends=ends)
        return _batch(prompts, _cut(made, ends), first)

    def _choose(self, drawing: torch.Tensor) -> Choose:
        """How the next token is drawn."""

        def choose(at: int, logits: Sequence[torch.Tensor]) -> torch.Tensor:
            token = drawn(logits[0], drawing[:, 2 * at], temperature=self.temperature, top_p=self.top_p)
            if len(logits) == 1:
                return token
            theirs = drawn(logits[1], drawing[:, 2 * at + 1], temperature=self.teacher_temperature, top_p=self.teacher_top_p)
            likely = logits[1].topk(min(self.accepted, logits[1].shape[-1]), dim=-1).indices
            return token.where((likely == token[:, None]).any(dim=-1), theirs)

        return choose


def _prompts(batch: Batch, count: int) -> list[torch.Tensor]:
    """Of each row the beginning of its first document: what does not count before what does, else so many tokens, and never all."""
    found = []
    columns = (batch[name] for name in ("input_ids", "labels", "position_ids", "attention_mask"))
    for ids, labels, positions, mask in zip(*columns, strict=True):
        starts = (positions[1:] == 0).nonzero()[:, 0]
        length = min(int(starts[0]) + 1 if len(starts) else len(ids), int(mask.sum()))
        counted = (labels[:length] >= 0).nonzero()[:, 0]
        own = int(counted[0]) if len(counted) else length
        found.append(ids[: own if own > 1 else max(1, min(count, length - 1))])
    return found


def _on_the_left(prompts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts filled up before they begin, and which tokens are text: `[B, T]` each."""
    import torch

    width = max(map(len, prompts))
    fill = torch.nn.functional.pad
    ids = torch.stack([fill(each, (width - len(each), 0)) for each in prompts])
    mask = torch.stack([fill(torch.ones_like(each), (width - len(each), 0)) for each in prompts])
    return ids, mask


def _cut(made: torch.Tensor, ends: Sequence[int]) -> list[torch.Tensor]:
    """Of each row what was written, up to the token that ends it."""
    found = []
    for row in made:
        over = [at for at, token in enumerate(row.tolist()) if token in ends]
        found.append(row[: over[0] + 1] if over else row)
    return found


def ends_of(model: Model) -> tuple[int, ...]:
    """The tokens that end a text, as what lies beside the model says how it generates; else by its configuration."""
    beside = json.loads(model.files.get(GENERATION, b"{}"))
    found = beside.get("eos_token_id", getattr(model.module.config, "eos_token_id", None))
    return () if found is None else tuple(found) if isinstance(found, list) else (int(found),)


def _batch(prompts: Sequence[torch.Tensor], written: Sequence[torch.Tensor], rows: torch.Tensor) -> Batch:
    """Rows of a prompt and what is written after it, filled up on the right; positions begin anew with what fills up."""
    import torch

    fill = torch.nn.functional.pad
    rest = max(len(one) + len(other) for one, other in zip(prompts, written, strict=True))
    made: dict[str, list[torch.Tensor]] = {"input_ids": [], "labels": [], "attention_mask": [], "position_ids": []}
    for prompt, new in zip(prompts, written, strict=True):
        ids, more = torch.cat((prompt, new)), rest - len(prompt) - len(new)
        made["input_ids"].append(fill(ids, (0, more)))
        made["labels"].append(fill(new, (len(prompt), more), value=IGNORED))
        made["attention_mask"].append(fill(torch.ones_like(ids), (0, more)))
        places = [torch.arange(size, device=ids.device) for size in (len(ids), more)]
        made["position_ids"].append(torch.cat(places))
    return {**{name: torch.stack(each) for name, each in made.items()}, "row": rows}
