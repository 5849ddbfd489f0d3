"""The process of a model of a run: opened by its target and fed by its task, as it was scored and timed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from compressor.contracts import Deployment, Feed, Session, Target, Task
from compressor.deploy.bench import spelled, worker_environment
from compressor.deploy.graphs import graphs_of
from compressor.deploy.worker import load_step
from demos.side.process import Command
from demos.side.worker import NOT_FINITE, RANKED, heard, pictured, serve


@dataclass(frozen=True)
class ByTask:
    """A built model of a run."""

    task: Task
    session: Session
    built: Path
    labels: Sequence[str]

    @cached_property
    def how(self) -> Deployment:
        """How it is fed and read."""
        return self.task.deployment(self.built, graphs_of(self.built)[0].fed)

    def facts(self) -> Mapping[str, str]:
        """Asked of the runtime."""
        return self.session.facts()

    def inputs(self, given: Any) -> Feed:
        """By the task."""
        return self.task.feed(given, self.built)

    def outputs(self, feed: Feed) -> Any:
        """By the task; of a model that goes on with a text the cache filled with it."""
        if self.how.generates is None:
            return self.task.call(self.session, feed)
        from compressor.tasks.language.decoding import filled

        return filled(self.session, feed)

    def read(self, found: Any) -> dict[str, Any]:
        """By the task; features and numbers as they are too."""
        if self.how.generates is not None:
            return {"text": ""}
        import numpy as np

        if not all(np.isfinite(array).all() for array in found.values()):
            return {"text": NOT_FINITE}
        if self.how.draws is not None:
            from compressor.tasks.inputs.sampling import shown

            gives = self.how.draws["gives"]
            return pictured(shown(found[gives][0], gives))
        told = self.task.tell(found, self.labels)[0]
        answer: dict[str, Any] = {"text": told.text, "confidence": told.confidence, "ranking": told.ranking[:RANKED]}
        row = next(iter(found.values()))[0]
        if self.how.number:
            answer["number"] = float(row.reshape(-1)[0])
        elif not told.ranking and row.ndim == 1:
            answer["vector"] = row.tolist()
        return answer

    def written(self, found: Any, most: int | None = None) -> Iterator[str] | None:
        """The most probable token at a time, as the example of an export writes."""
        generates = self.how.generates
        if generates is None:
            return None
        from compressor.tasks.inputs.generation import greedy, prompter_of
        from compressor.tasks.language.decoding import decoded

        name = self.how.preprocessing["tokenizer"]
        source = self.how.files.get(name) or (self.built / name).read_text(encoding="utf-8")
        tokenizer, ends = prompter_of(source, self.how.preprocessing), [] if most else generates["ends"]
        steps = most or generates["steps"]
        return heard(
            lambda choose: void(decoded(self.session, found, steps, choose=choose, ends=ends)),
            greedy,
            lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True)),
        )


def void(_: object) -> None:
    """Nothing of what was made."""


def command(task: Task, target: Target, built: Path, labels: Sequence[str]) -> Command:
    """How the process of a built model is started."""
    given = {
        "target": [spelled(target), target.model_dump_json()],
        "task": [spelled(task), task.model_dump_json()],
        "built": str(built.resolve()),
        "labels": list(labels),
        "threads": target.threads,
    }
    arguments = (sys.executable, "-P", "-m", "demos.by_task", json.dumps(given))
    return Command(arguments, target.threads, worker_environment(target))


def opened(given: Mapping[str, Any]) -> ByTask:
    """The model that a command names."""
    task: Task = load_step(Task, *given["task"])
    target: Target = load_step(Target, *given["target"])
    built = Path(given["built"])
    return ByTask(task, target.open(built), built, given["labels"])


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    serve(lambda: opened(asked), asked["threads"])
