"""Do intervals of drawn rows hold what they say, and what do figures do when something is wrong with pictures?

`python -m benchmarks.studies.generated_rows --fashion-mnist FOLDER` remakes docs/results/generated-rows.md; what is counted already is not
drawn again, and the classifier is found in the store of the working folder. Without the folder the second part stays as it was counted.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from compressor.store import Store
from compressor.tasks.generated.classes import class_accuracy
from compressor.tasks.generated.classifier import Rows, classifier_of
from compressor.tasks.generated.estimates import Estimate
from compressor.tasks.generated.frechet import frechet, frechet_difference
from compressor.tasks.generated.kernel_distance import Gaussian, Kernel, Polynomial, kernel_difference, kernel_distance
from compressor.tasks.generated.memorisation import memorisation
from compressor.tasks.generated.neighbours import neighbourhood
from compressor.tasks.generated.quality import COVERAGE, FRECHET, GAUSSIAN, KERNEL, PRECISION, RECALL, quality

if TYPE_CHECKING:
    from numpy.typing import NDArray

Table: TypeAlias = "NDArray[Any]"
DRAWS, SEED = 500, 0
HALF = 5000
"""Test pictures that are held against the other half."""


# ------------------------------------------------------------------ intervals


@dataclass(frozen=True)
class Setting:
    """Two normal distributions of `d` features, of which rows are drawn: N(mean, scale^2) and N(0, 1) in each."""

    d: int
    n: int
    m: int
    mean: float
    scale: float = 1.0
    between: str = "distance"
    """`distance`, `difference` of two models on the same noise, `neighbours` or `copies`."""

    def __str__(self) -> str:
        """As the page names it."""
        apart = "equal" if (self.mean, self.scale) == (0, 1) else f"means {self.mean:g} apart, deviation {self.scale:g}"
        return f"{self.d} features, {self.n} and {self.m} rows, {apart}"


SETTINGS = (
    *(Setting(d, n, m, mean, scale) for d, n, m in ((4, 100, 100), (16, 200, 200), (32, 128, 3000), (64, 500, 500))
      for mean, scale in ((0, 1), (0.1, 1), (0.4, 0.8))),
    *(Setting(d, n, n, mean, 0.9, "difference") for d, n in ((8, 200), (16, 400)) for mean in (0.05, 0.3)),
    *(Setting(d, n, m, mean, scale, "neighbours") for d, n, m in ((2, 200, 200), (8, 300, 600), (16, 400, 400))
      for mean, scale in ((0, 1), (0, 0.8), (0.5, 1))),
    *(Setting(d, n, m, mean, 1, "copies") for d, n, m in ((4, 300, 300), (8, 500, 200), (8, 500, 2000)) for mean in (0, 0.3)),
)  # fmt: skip


def figures(setting: Setting, draw: np.random.Generator) -> dict[str, Estimate]:
    """What one draw of the rows says."""
    noise, real = draw.normal(size=(setting.n, setting.d)), draw.normal(size=(setting.m, setting.d))
    ours = noise * setting.scale + setting.mean
    kernels: dict[str, Kernel] = {"cubic kernel": Polynomial(), "Gaussian kernel": Gaussian((2 * setting.d) ** 0.5)}
    if setting.between == "distance":
        return {"Frechet": frechet(ours, real), **{name: kernel_distance(ours, real, each) for name, each in kernels.items()}}
    if setting.between == "difference":
        other = noise * 0.95 + 0.1
        found = {name: kernel_difference(ours, other, real, each) for name, each in kernels.items()}
        return {"Frechet": frechet_difference(ours, other, real), **found}
    if setting.between == "neighbours":
        near = neighbourhood(ours, real)
        return {name: getattr(near, name) for name in ("precision", "recall", "density", "coverage")}
    seen = draw.normal(size=(500, setting.d))
    copied = draw.random(setting.n) < setting.mean  # the share of copies
    drawn = np.where(copied[:, None], seen[draw.integers(0, 500, setting.n)] + 0.3 * noise, noise)
    copies = memorisation(drawn, seen, real)
    return {"share of near rows": Estimate(copies.share, copies.interval, setting.n, setting.m)}


def truth(setting: Setting, name: str) -> float | None:
    """Of a Frechet distance, in closed form; None where the mean over draws stands for it."""
    if name != "Frechet":
        return 0.0 if setting.between == "distance" and (setting.mean, setting.scale) == (0, 1) else None
    apart = setting.d * (setting.mean**2 + (setting.scale - 1) ** 2)
    return apart - (setting.d * (0.1**2 + 0.05**2) if setting.between == "difference" else 0)


def counted(setting: Setting, draws: int) -> dict[str, Any]:
    """By figure: its truth, mean and deviation over draws, half the mean width of its intervals, and the share that hold the truth."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for at in range(draws):
        for name, each in figures(setting, np.random.default_rng([SEED, at])).items():
            assert each.interval is not None
            found.setdefault(name, []).append((each.value, each.interval.low, each.interval.high))
    told = {}
    for name, rows in found.items():
        values, low, high = np.array(rows).T
        known = truth(setting, name)
        held = values.mean() if known is None else known
        told[name] = {
            "known": known is not None,
            "truth": float(held),
            "mean": float(values.mean()),
            "deviation": float(values.std()),
            "half": float((high - low).mean() / 2),
            "held": float(((low <= held) & (held <= high)).mean()),
        }
    return {"draws": draws, "figures": told}


# ------------------------------------------------------------------ pictures that something is wrong with


def blurred(pictures: Table, _: np.random.Generator) -> Table:
    """Means of 2 x 2 pixels."""
    given = pictures.astype(np.float64)
    moved = [np.roll(given, (down, right), (2, 3)) for down in (0, 1) for right in (0, 1)]
    found: Table = np.mean(moved, axis=0).astype(np.uint8)
    return found


def noisy(deviation: float) -> Callable[[Table, np.random.Generator], Table]:
    """With noise."""
    return lambda given, draw: (given + deviation * draw.normal(size=given.shape)).clip(0, 255).astype(np.uint8)


CHANGES: Mapping[str, Callable[[Table, np.random.Generator], Table]] = {
    "nothing": lambda given, _: given,
    "noise of 5 of 255": noisy(5),
    "noise of 20 of 255": noisy(20),
    "blurred over 2 x 2 pixels": blurred,
    "80 % as bright": lambda given, _: (given * 0.8).astype(np.uint8),
    "one class of ten left out": lambda given, _: given,
}


def read(path: Path) -> Rows:
    """Pictures and labels of a parquet file."""
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(path).to_pydict()
    pictures = [np.asarray(Image.open(io.BytesIO(each["bytes"]))) for each in table["image"]]
    known = sorted(set(table["label"]))
    return Rows(np.stack(pictures)[:, None], np.array([known.index(each) for each in table["label"]]))


def changed(folder: Path, work: Path) -> dict[str, Any]:
    """What all figures are of changed test pictures against others, and how near changed training pictures lie to training rows."""
    train, test = read(folder / "train.parquet"), read(folder / "test.parquet")
    classifier = classifier_of(Store(work / "store"), train, test, classes=10)
    order = np.random.default_rng(SEED).permutation(len(test.labels))
    ours, theirs = order[:HALF], order[HALF:]
    real, told = classifier.seen(test.pictures[theirs])[0], {}
    for name, change in CHANGES.items():
        kept = ours[test.labels[ours] != 3] if "left out" in name else ours
        seen, logits = classifier.seen(change(test.pictures[kept], np.random.default_rng(SEED)))
        began = time.process_time()
        found = quality(seen, real)
        seconds = time.process_time() - began
        accuracy = class_accuracy(logits.argmax(-1), test.labels[kept], classes=10)
        told[name] = {"quality": found.model_dump(mode="json"), "accuracy": accuracy.value, "seconds": seconds}
    known = classifier.seen(train.pictures)[0].rows
    nearly = classifier.seen(noisy(3)(train.pictures[:HALF], np.random.default_rng(SEED)))[0].rows
    fresh = classifier.seen(test.pictures[ours])[0].rows
    near = {name: memorisation(rows, known, real.rows) for name, rows in (("new", fresh), ("nearly copies", nearly))}
    copies = {name: [each.share, each.interval.low, each.interval.high] for name, each in near.items()}
    return {"space": str(classifier.space), "changes": told, "copies": copies}


# ------------------------------------------------------------------ the page


def document(intervals: Mapping[Setting, Mapping[str, Any]], pictures: Mapping[str, Any] | None) -> str:
    """The page."""
    lines = [
        "# Figures of drawn rows",
        "",
        "`python -m benchmarks.studies.generated_rows --fashion-mnist FOLDER` remakes this page. What the figures are, and what they are",
        "not, is told in [drawing pictures](../image-generation.md).",
        "",
        "## Do their intervals hold what they say?",
        "",
        "Rows are drawn from normal distributions. The truth is known in closed form where the table says so, else it is the mean over all",
        "draws, as of figures that depend on how many rows there are. Of copies, what is called means is the share of rows that are copied.",
        "",
        "| rows | figure | truth | mean | deviation over draws | half an interval | intervals that hold the truth | draws |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for setting, found in intervals.items():
        between = {"difference": ", paired difference", "copies": ", copies"}.get(setting.between, "")
        for name, each in found["figures"].items():
            known = f"{each['truth']:.4f}{' (known)' if each['known'] else ''}"
            numbers = " | ".join(f"{each[key]:.4f}" for key in ("mean", "deviation", "half"))
            lines.append(f"| {setting}{between} | {name} | {known} | {numbers} | {each['held']:.1%} | {found['draws']} |")
    if pictures:
        lines += _of_pictures(pictures)
    return "\n".join(lines) + "\n"


def _of_pictures(told: Mapping[str, Any]) -> list[str]:
    measures = (FRECHET, KERNEL, GAUSSIAN, PRECISION, RECALL, COVERAGE)
    lines = [
        "",
        "## What they do when something is wrong with pictures",
        "",
        f"{HALF:,} test pictures of Fashion-MNIST (MIT licence), changed, against the other {HALF:,}, on features of",
        f"{told['space']}. One classifier, one draw of the halves; intervals are over draws of pictures.",
        "Kernel distances are times 1,000.",
        "",
        f"| what was changed | {' | '.join(each.name for each in measures)} | class accuracy | seconds of one core |",
        f"| --- |{' ---: |' * (len(measures) + 2)}",
    ]
    for name, each in told["changes"].items():
        found = {metric["name"]: metric for metric in each["quality"]["metrics"]}
        cells = []
        for measure in measures:
            metric, scale = found[measure.name], 1000 if measure in (KERNEL, GAUSSIAN) else 1
            low, high = (scale * metric["interval"][end] for end in ("low", "high"))
            cells.append(f"{scale * metric['value']:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {name} | {' | '.join(cells)} | {each['accuracy']:.1%} | {each['seconds']:.1f} |")
    shares = {name: f"{share:.1%} [{low:.1%}, {high:.1%}]" for name, (share, low, high) in told["copies"].items()}
    plain = told["changes"]["nothing"]["quality"]["plain"][FRECHET.name]
    lines += [
        "",
        f"Unchanged, the plain Frechet distance is {plain:.3f}: what its bias is at {HALF:,} rows.",
        f"Nearer to a training row than 5 % of held-out pictures are {shares['new']} of other test pictures, and",
        f"{shares['nearly copies']} of training pictures with noise of 3 of 255.",
    ]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Count what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--fashion-mnist", type=Path, help="a folder with train.parquet and test.parquet (columns image and label)"
    )
    parser.add_argument("--draws", type=int, default=DRAWS, help="draws of each setting")
    parser.add_argument("--work", type=Path, default=Path("runs/generated-rows"), help="where counts are kept")
    parser.add_argument("--out", type=Path, default=Path("docs/results/generated-rows.md"))
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    found = {each: _counted(each, given.work, given.draws) for each in SETTINGS}
    place = given.work / "pictures.json"
    if given.fashion_mnist:
        _kept(place, lambda: changed(given.fashion_mnist, given.work))
    pictures = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else None
    given.out.write_text(document(found, pictures), encoding="utf-8")
    return 0


def _counted(setting: Setting, work: Path, draws: int) -> dict[str, Any]:
    return _kept(work / f"{setting} {setting.between} {draws}.json", lambda: counted(setting, draws))


def _kept(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    if not path.is_file():
        sys.stdout.write(f"{path.stem}\n")
        sys.stdout.flush()
        path.write_text(json.dumps(make()), encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
