"""A process that holds one model and answers requests as JSON lines; it ends when its input does.

`python worker.py FOLDER` opens an exported folder by its own `example.py`; other programs call `serve` with what opens their model.
"""

from __future__ import annotations

import base64
import gc
import importlib.util
import io
import json
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

LEAD_IN_CALLS = 2
"""Calls that open a timed block and are not recorded: they refill the caches that the other model took."""
TIMED_TOKENS = 16
"""Tokens that a timed call of a model makes that goes on with texts."""
NOT_FINITE = "no answer: what the model gives is not finite (NaN or infinite)"
RANKED = 10
"""Classes that are shown, at most."""


class Opened(Protocol):
    """A model that is ready to answer."""

    def facts(self) -> Mapping[str, str]:
        """What really runs: precision, device, threads."""
        ...

    def inputs(self, given: Any) -> Any:
        """Inputs of what a user has: a text, two, or the path of a file."""
        ...

    def outputs(self, feed: Any) -> Any:
        """One call."""
        ...

    def read(self, found: Any) -> dict[str, Any]:
        """What a person reads in outputs: `text`, `confidence`, `ranking` of labels; `vector` of features, `number`, `picture`."""
        ...

    def written(self, found: Any, most: int | None = None) -> Iterator[str] | None:
        """The text so far after each token that a model goes on with; None where it does not."""
        ...


# ------------------------------------------------------------------ an exported folder


class Exported:
    """An exported folder, by its own example."""

    def __init__(self, folder: Path) -> None:
        self._example = _module(folder / "example.py")
        self._spec: dict[str, Any] = self._example.spec
        self._labels: list[str] = getattr(self._example, "labels", [])

    def facts(self) -> Mapping[str, str]:
        """What was measured when it was exported, and runs again."""
        return dict(self._spec.get("measured", {}))

    def inputs(self, given: Any) -> Any:
        """By the example."""
        return self._example.inputs([(given["label"], given["seed"])] if "draws" in self._spec else given)

    def outputs(self, feed: Any) -> Any:
        """By the example."""
        return self._example.outputs(feed)

    def read(self, found: Any) -> dict[str, Any]:
        """What the example tells, with the probabilities that it is told by."""
        if "generates" in self._spec:
            return {"text": ""}
        if not all(math.isfinite(value) for value in found.reshape(-1)):
            return {"text": NOT_FINITE}
        if "draws" in self._spec:
            return pictured(self._example.shown(found, self._spec["draws"]["gives"]))
        told = self._example.told(found)
        if self._labels:
            several = "threshold" in self._spec
            ranking = ranked(self._labels, (each_by_itself if several else shares)([float(value) for value in found]))
            return {"text": told, "confidence": ranking[0][1] if ranking and not several else None, "ranking": ranking}
        if told.startswith("["):
            return featured(json.loads(told))
        return {"text": told, "number": float(told)}

    def written(self, found: Any, most: int | None = None) -> Iterator[str] | None:  # noqa: ARG002 - the example kept its call
        """The example's own loop, heard after each token."""
        if "generates" not in self._spec:
            return None
        example, goes_on = self._example, self._spec["generates"]

        def steps(choose: Callable[[Any], Any]) -> None:
            ends = [] if most else goes_on["ends"]
            example.continued(example.step, example.started["from"], most or goes_on["steps"], choose=choose, ends=ends)

        return heard(steps, example.greedy, lambda tokens: example.tokenizer.decode(tokens, skip_special_tokens=True))


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def heard(
    steps: Callable[[Callable[[Any], Any]], None], choose: Callable[[Any], Any], spelled: Callable[[list[int]], str]
) -> Iterator[str]:
    """The text so far after each token of a loop that is handed what chooses; it runs in a thread, a token ahead at most.

    Args:
        steps: runs the loop; called with what it chooses tokens by.
        choose: from logits `[1, V]` to a token `[1]`.
        spelled: the text of tokens.
    """
    told: queue.Queue[list[int] | BaseException | None] = queue.Queue(1)
    tokens: list[int] = []

    def chosen(logits: Any) -> Any:
        token = choose(logits)
        tokens.append(int(token[0]))
        told.put(list(tokens))
        return token

    def run() -> None:
        try:
            steps(chosen)
            told.put(None)
        except BaseException as error:  # raised again where it is heard
            told.put(error)

    threading.Thread(target=run, daemon=True).start()
    while (found := told.get()) is not None:
        if isinstance(found, BaseException):
            raise found
        yield spelled(found)


# ------------------------------------------------------------------ what a person reads in numbers


def shares(logits: list[float]) -> list[float]:
    """Probabilities of classes that exclude each other."""
    powers = [math.exp(value - max(logits)) for value in logits]
    return [value / sum(powers) for value in powers]


def each_by_itself(logits: list[float]) -> list[float]:
    """Probabilities of labels of which any number may be right."""
    return [0.5 * (1.0 + math.tanh(value / 2.0)) for value in logits]


def ranked(labels: list[str], chances: list[float]) -> list[tuple[str, float]]:
    """Labels with their probabilities, the likeliest first."""
    return sorted(zip(labels, chances, strict=True), key=lambda each: -each[1])[:RANKED]


def featured(vector: list[float]) -> dict[str, Any]:
    """Features, which have no name: how many and how long, and the vector for whoever compares two."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    return {"text": f"{len(vector)} features of length {length:.4g}", "vector": vector}


def pictured(light: Any) -> dict[str, Any]:
    """A picture of bytes `[channels, height, width]` as a PNG file in base64."""
    from PIL import Image

    image = Image.fromarray(light[0] if len(light) == 1 else light.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"text": f"{image.width} x {image.height} pixels", "picture": base64.b64encode(file.getvalue()).decode()}


# ------------------------------------------------------------------ answering


def replies(opened: Opened, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What is answered to a request: for `answer` a `part` for each token where there are any, and the answer; for `time` the seconds."""
    if request["ask"] == "time":
        seconds, used = timed(opened, opened.inputs(request["given"]), request["calls"])
        yield {"seconds": seconds, "processor": used}
        return
    found = opened.outputs(opened.inputs(request["given"]))
    answer, tokens = opened.read(found), 0
    for text in opened.written(found) or ():
        answer["text"], tokens = text, tokens + 1
        yield {"part": text}
    yield {"answer": answer | ({"tokens": tokens} if tokens else {})}


def timed(opened: Opened, feed: Any, calls: int) -> tuple[list[float], float]:
    """Seconds of each of `calls` calls, after some that are not recorded, and processor time of one, a mean; the garbage collector rests."""

    def call() -> None:
        for _ in opened.written(opened.outputs(feed), TIMED_TOKENS) or ():
            pass

    seconds = []
    gc.collect()
    gc.disable()
    try:
        for _ in range(min(LEAD_IN_CALLS, calls)):
            call()
        used = time.process_time()
        for _ in range(calls):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        return seconds, (time.process_time() - used) / calls
    finally:
        gc.enable()


def serve(open_model: Callable[[], Opened], threads: int = 0) -> None:
    """Open a model and answer until there is nothing more to answer; the process ends at once when its input does, in a call too."""
    requests, answers = _pipes()
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in requests:
            asked.put(line)
        os._exit(0)  # whoever asked has ended

    def say(reply: Mapping[str, Any]) -> None:
        answers.write(json.dumps(reply) + "\n")
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    if threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    start = time.perf_counter()
    opened = open_model()
    gc.collect()
    gc.freeze()
    say({"ready": {**opened.facts(), "load_seconds": f"{time.perf_counter() - start:.3f}"}})
    while True:
        try:
            for reply in replies(opened, json.loads(asked.get())):
                say(reply)
        except Exception as error:  # what libraries raise on a stranger's input is that input's answer, and ends nothing
            say({"error": str(error) or type(error).__name__})


def _pipes() -> tuple[TextIO, TextIO]:
    """The pipes to whoever asks, moved out of reach: what libraries print goes to standard error from here on."""
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return open(requests, encoding="utf-8"), open(answers, "w", encoding="utf-8")  # noqa: PTH123 - descriptors, not paths


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    serve(lambda: Exported(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
