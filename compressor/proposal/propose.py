"""From a model and rows to a plan: the core composes, and spells no plug-in's name; each says for itself what is written of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from compressor.contracts.data import Data
from compressor.plan.bound import Bound, plan_name, read_plan
from compressor.proposal.ladder import Ladder, wished
from compressor.proposal.looked import HUB, INSTALLED, Asked, looked
from compressor.proposal.writing import summary, written


@dataclass(frozen=True)
class Proposal:
    """A plan, and the same as it will run."""

    text: str
    bound: Bound
    seen: tuple[str, ...] = ()
    """What was seen and is proposed, a line each."""


def propose(asked: Asked) -> Proposal:
    """Look at a model and rows, and write the plan that fits them.

    Raises:
        SourceError: one of them cannot be read, no task fits the rows, or several columns could be meant.
        PluginError: the task or target that is asked for is not installed.
        CompressorError: the model and the rows do not go together.
    """
    seen = looked(asked)
    wish = wished(asked.max_drop, seen.task, seen.config, seen.trained, _rows(seen.data), seen.sizes)
    ladder = Ladder(wish, asked.target, asked.shrinks)
    text = written(asked.command, _name(asked), seen, ladder)
    return Proposal(text, read_plan(text, folder=asked.folder.absolute()), tuple(summary(seen, ladder)))


def _rows(data: Data) -> dict[str, int]:
    return {split.name: split.rows for split in data.record.splits}


def _name(asked: Asked) -> str:
    """The last part of where the model comes from."""
    named = asked.model.startswith((INSTALLED, HUB))
    path = Path(asked.model.partition(":")[2]) if named else (asked.folder / asked.model).absolute()
    return plan_name(os.path.normpath(path).rpartition(os.sep)[2])
