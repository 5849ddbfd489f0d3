"""What the files of representations say of themselves; several of one model, whose weights lie in one file."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from compressor.deploy.parts import Operator, bytes_by_part

ALIGNED = 64
UNPACKED = "/fq_weights_"
"""In the names of what NNCF puts behind a weight."""


def together(sources: Mapping[Path, Path], weights: Path) -> None:
    """Write the representations of `sources`, by where each goes, and their constants into `weights`: those of equal bytes once.

    A representation says by offset and size where a constant lies, and whoever opens it may say in which file.
    """
    places: dict[bytes, int] = {}
    with weights.open("wb") as kept:
        for source, to in sources.items():
            tree, content = ElementTree.parse(source), source.with_suffix(".bin").read_bytes()
            for constant in (
                data for layer in tree.iter("layer") if layer.get("type") == "Const" for data in layer.findall("data")
            ):
                at = int(constant.attrib["offset"])
                value = content[at : at + int(constant.attrib["size"])]
                key = hashlib.sha256(value).digest()
                if key not in places:
                    places[key] = kept.tell()
                    kept.write(value + bytes(-len(value) % ALIGNED))
                constant.set("offset", str(places[key]))
            tree.write(to, encoding="utf-8", xml_declaration=True)


def weights_of(representation: Path, main: Path) -> Path:
    """The file that holds a representation's weights: one of its own, else that of the `main` one."""
    own = representation.with_suffix(".bin")
    return own if own.is_file() else main.with_suffix(".bin")


def bytes_by_part_of(path: Path, main: Path, counted: set[tuple[str, str]]) -> dict[str, int]:
    """Bytes of a representation's constants by part of the model, of those that lie in no place that is `counted` already; theirs are added to it."""
    held = weights_of(path, main).name
    root = ElementTree.parse(path).getroot()
    layers = {layer.get("id", ""): layer for layer in root.findall("layers/layer")}
    values, sizes = {key: key for key in layers}, Counter[str]()
    for key, layer in layers.items():
        if layer.get("type") == "Const" and (data := layer.find("data")) is not None:
            values[key] = layer.get("name", key)  # which may say where it was traced from
            at = (held, f"{data.get('offset', key)}+{data.get('size')}")  # one of no bytes begins where the next does
            sizes[values[key]] += 0 if at in counted else int(data.get("size", 0))
            counted.add(at)
    takes = defaultdict[str, list[str]](list)
    for edge in root.findall("edges/edge"):
        takes[edge.get("to-layer", "")].append(values[edge.get("from-layer", "")])
    named = {key: "" if UNPACKED in layer.get("name", "") else layer.get("name", "") for key, layer in layers.items()}
    operators = (Operator(named[key], tuple(takes[key]), (values[key],)) for key in layers)
    return bytes_by_part(sizes, operators)
