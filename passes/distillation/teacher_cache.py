"""What a teacher makes of every training row, computed once: logits in memory; of words the likeliest, and inner states, in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from compressor.contracts import Batch, Context, Feature, Outputs, Progress, Want
from compressor.contracts.failing import rows_told
from compressor.contracts.notes import Remark
from compressor.errors import UnsupportedModel
from compressor.training.settings import TrainingSettings, resolved_precision
from passes.distillation.kept_tokens import KeptTokens, TokenWriter, windows
from passes.distillation.kept_words import KeptWords, WordWriter
from passes.side_files import same_words, write_side_files

if TYPE_CHECKING:
    import torch

    from compressor.contracts import Model


PAIRS = ("attention-map", "attention-score")
"""Kinds of features of pairs of tokens, which are not kept."""


@dataclass(frozen=True)
class TeacherCache:
    """A teacher's answers by number of the training row."""

    logits: torch.Tensor | KeptWords
    """`[rows, classes]` in float32, or the likeliest words of every token."""
    states: Mapping[Feature, KeptTokens]
    """What tokens have inside: hidden states, queries, what attention adds."""

    def of(self, batch: Batch, like: Outputs) -> Outputs:
        """The answers to a batch, of as many tokens as the student's own outputs `like` have."""
        import torch

        device = like.device
        tokens = next((like.features[feature].shape[1] for feature in like.features if feature.kind not in PAIRS), 0)
        states = {feature: torch.from_numpy(kept.of(windows(batch), tokens)).to(device) for feature, kept in self.states.items()}
        if isinstance(self.logits, KeptWords):
            length = batch["input_ids"].shape[1] if like.tokens is None else like.tokens.states.shape[1]
            return Outputs(self.logits.of(batch, length, device), mask=like.mask).with_features(states)
        rows = batch["row"].to(self.logits.device)
        return Outputs(self.logits[rows], mask=like.mask).with_features(states)


def answers(
    name: str,
    model: Model,
    want: Want,
    ctx: Context,
    settings: TrainingSettings,
    *,
    words: int,
    student: Model,
    alone: Sequence[str] = (),
) -> TeacherCache:
    """Run a teacher once over the training rows, in the precision that training runs in.

    Its inner states are kept in half precision where that is not float32, else in float32; the report says how much disk they take.
    Of a language model's answers so many of the likeliest words are kept for each token; where the student has another tokenizer, they
    are paired with its tokens.

    Raises:
        UnsupportedModel: a lesson of those in `alone` needs the words to be the student's own, and they are not.
    """
    import torch

    from compressor.model.sharding import gathered

    files = write_side_files(model, ctx.folder / "teachers" / name)
    batches = ctx.task.batches(ctx.data.split("train"), files, batch_size=settings.batch_size)
    low = resolved_precision(settings.precision, ctx.device) == "bf16"
    folder, dtype = ctx.folder / "states" / name, "float16" if low else "float32"
    writers = {feature: TokenWriter(folder / str(at), dtype) for at, feature in enumerate(want.features)}
    logits, spoken = list[torch.Tensor](), WordWriter(folder, words, half=low)
    for done, batch in enumerate(batches, start=1):
        moved = {key: tensor.to(ctx.device) for key, tensor in batch.items()}
        autocast = torch.autocast(torch.device(ctx.device).type, dtype=torch.bfloat16, enabled=low)
        with rows_told(batch.get("row", ()), f"answers of {name}"), torch.no_grad(), autocast:
            outputs = gathered([model.module], partial(_heard, model, moved, want, ctx, logits, spoken))
        for feature, writer in writers.items():
            writer.add(outputs.features[feature], outputs.mask)
        ctx.tell(Progress(f"answers of {name}", done, len(batches), "batches"))  # type: ignore[arg-type]
    answered = torch.cat(logits) if logits else spoken.kept()
    mine = write_side_files(student, ctx.folder / "files")
    if isinstance(answered, KeptWords) and not same_words(mine, files):
        if alone:
            raise UnsupportedModel(
                f"teacher {name} and student have other tokenizers: {', '.join(alone)} would compare different words; take sorted-probabilities"
            )
        own = ctx.task.batches(ctx.data.split("train"), mine, batch_size=settings.batch_size)
        answered = answered.paired(batches, own)
    return _told(name, TeacherCache(answered, {feature: writer.kept() for feature, writer in writers.items()}), ctx)


def _heard(model: Model, batch: Batch, want: Want, ctx: Context, logits: list[torch.Tensor], spoken: WordWriter) -> Outputs:
    """Outputs of a batch; what of them is answers goes to one of the last two."""
    outputs = ctx.task.forward(model.module, batch, want)
    if outputs.tokens is not None:
        spoken.add(outputs.tokens, outputs.mask)
    else:
        logits.append(outputs.main.float())
    return outputs


def _told(name: str, kept: TeacherCache, ctx: Context) -> TeacherCache:
    """The same, with what it takes in the report."""
    if taken := sum(each.values.nbytes for each in kept.states.values()):
        ctx.note(
            Remark(text=f"What {name} makes of the training rows was computed once: {taken / 2**20:,.0f} MiB of states on disk.")
        )
    if isinstance(kept.logits, KeptWords):
        ctx.note(kept.logits.remark)
    return kept
