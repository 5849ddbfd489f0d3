"""Opens exports by loaders of the ecosystem, in an environment that need not have this project: `python loading.py < jobs.json`.

A job names an export, the class that should open it, and rows with what the run made of each; a line of JSON for each says what came of it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("optimum", "optimum-onnx", "optimum-intel", "transformers", "tokenizers", "torch", "onnxruntime", "openvino")
READERS = {"text": "AutoTokenizer", "image": "AutoImageProcessor", "audio": "AutoFeatureExtractor"}


def digest(array: Any) -> str:
    """As witnesses of a run have it: sha256 of an array with its type and shape."""
    return hashlib.sha256(f"{array.dtype.str} {array.shape}".encode() + array.tobytes()).hexdigest()


def pictures(transformers: Any, job: Mapping[str, Any]) -> Any:
    """The reader that works by Pillow: those by torchvision differ in the last bits.

    In transformers 5.0 to 5.5 the automatic class asks for torchvision whichever reader it is to choose, so the reader is named.
    """
    settings = json.loads((Path(job["export"]) / "preprocessor_config.json").read_text(encoding="utf-8"))
    named = f"{settings['image_processor_type']}Pil"
    if hasattr(transformers, named):
        return _read(transformers, named, job)
    return _read(transformers, READERS["image"], job, use_fast=False)


def _read(transformers: Any, name: str, job: Mapping[str, Any], **settings: Any) -> Any:
    return getattr(transformers, name).from_pretrained(job["export"], **settings)


def reader(job: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """What makes inputs of a row: the library's own reader of the export's files."""
    transformers: Any = importlib.import_module("transformers")
    found = pictures(transformers, job) if job["kind"] == "image" else _read(transformers, READERS[job["kind"]], job)
    how = job["preprocessing"]

    def text(row: Mapping[str, Any]) -> Any:
        texts = [row["text"]] if isinstance(row["text"], str) else row["text"]
        return found(*texts, truncation=True, max_length=how["max_length"], return_tensors="pt")

    def image(row: Mapping[str, Any]) -> Any:
        from PIL import Image, ImageOps

        with Image.open(row["file"]) as picture:
            return found(ImageOps.exif_transpose(picture).convert("RGB"), return_tensors="pt")

    def audio(row: Mapping[str, Any]) -> Any:
        import soundfile

        wave, rate = soundfile.read(row["file"], dtype="float32", always_2d=True)
        length = {"padding": "max_length", "max_length": how["samples"], "truncation": True}
        return found(wave.mean(axis=1), sampling_rate=rate, return_tensors="pt", **length)

    make = {"text": text, "image": image, "audio": audio}[job["kind"]]
    return lambda row: dict(make(row))


def told(logits: Any, job: Mapping[str, Any], names: Mapping[int, str]) -> str:
    """What the export's example would say of these logits, by the names that the loader found in its configuration."""
    if job["number"]:
        return ""
    if job["threshold"] is None:
        return names[int(np.argmax(logits))]
    chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return ", ".join(names[at] for at, chance in enumerate(chances) if chance >= job["threshold"])


def opened(job: Mapping[str, Any]) -> dict[str, Any]:
    """Open an export and hold what it gives for each row against what the run had."""
    module, name = job["class"].rsplit(".", 1)
    settings = {"ov_config": job["settings"]} if name.startswith("OV") else {}
    model = getattr(importlib.import_module(module), name).from_pretrained(job["export"], **settings)
    make, names = reader(job), {int(number): label for number, label in model.config.id2label.items()}
    inputs = labels = 0
    gaps: list[float] = []
    with np.load(job["arrays"]) as kept:
        arrays = dict(kept)
    for row in job["rows"]:
        feed = make(row)
        found = model(**feed).logits[0].detach().numpy()
        expected = arrays[f"{row['row']}/outputs/logits"][0]
        inputs += all(digest(feed[name].numpy()) == known for name, known in row["inputs"].items() if name in feed)
        gaps.append(float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max()))))
        labels += told(found, job, names) == row["told"]
    return {"rows": len(gaps), "inputs": inputs, "labels": labels, "gap": max(gaps)}


def sound(file: str, samples: int) -> dict[str, Any]:
    """Samples, as a pipeline takes them where there is no ffmpeg to read files with; so many at most, since it cuts nothing."""
    import soundfile

    wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return {"raw": wave.mean(axis=1)[:samples], "sampling_rate": rate}


def piped(job: Mapping[str, Any]) -> dict[str, Any]:
    """The same by a pipeline of transformers, given what a user has."""
    transformers: Any = importlib.import_module("transformers")
    ask = transformers.pipeline(job["pipeline"], model=job["export"])
    labels = 0
    for row in job["rows"]:
        audio = job["kind"] == "audio"
        given = sound(row["file"], job["preprocessing"]["samples"]) if audio else row["file"] or row["text"]
        given = {"text": given[0], "text_pair": given[1]} if isinstance(given, list) else given
        more = {"truncation": True, "max_length": job["preprocessing"]["max_length"]} if job["kind"] == "text" else {}
        if job["threshold"] is None:
            found = ask(given, **more)
            labels += (found[0] if isinstance(found, list) else found)["label"] == row["told"]
        else:
            scores = ask(given, top_k=None, **more)
            chosen = {each["label"] for each in scores if each["score"] >= job["threshold"]}
            labels += chosen == set(filter(None, row["told"].split(", ")))
    return {"rows": len(job["rows"]), "labels": labels}


def versions() -> dict[str, str]:
    """Of the packages that are here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Do the jobs on standard input."""
    results = []
    for job in json.load(sys.stdin):
        try:
            results.append(piped(job) if "pipeline" in job else opened(job))
        except Exception as error:
            traceback.print_exc()
            text = " ".join(str(error).replace(job["export"], "EXPORT").split())
            results.append({"error": f"{type(error).__name__}: {text[:300]}"})
    Path(sys.argv[1]).write_text(json.dumps({"versions": versions(), "results": results}), encoding="utf-8")


if __name__ == "__main__":
    main()
