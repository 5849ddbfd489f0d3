"""An export proves itself: its own example, in a process without this project, does to kept rows what the run did to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.deploy.graphs import task_of
from compressor.errors import CompressorError, ExportDiffers, MissingDependency
from compressor.export.examples import requirements
from compressor.export.spec import Deployed
from compressor.export.witnesses import ARRAYS, Answer, Given, asked, digest, read_answers, read_rows
from compressor.report import WITNESSES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRIVER = Path(__file__).with_name("driver.py")
OURS = ("compressor", "passes", "targets", "benchmarks", "demos")
SHOWN = 80
"""Characters of a row that are shown."""


@dataclass(frozen=True)
class Witness:
    """A row with what the run made of it."""

    given: Given
    answer: Answer
    outputs: NDArray[np.float32]
    inputs: Mapping[str, NDArray[Any]]
    """Empty where a user has something that they are made of."""

    def __str__(self) -> str:
        what = self.given.file or (f"{self.given.text!r:.{SHOWN}}" if self.given.text is not None else "")
        return f"row {self.given.row} of test{f' ({what})' if what else ''}"


def witnesses(run: Path, deployed: Deployed) -> tuple[Witness, ...]:
    """What the run kept for a candidate; nothing where it is a run of before, or the candidate has no example.

    Raises:
        StoreError: it cannot be read.
    """
    import numpy as np

    folder = run / WITNESSES
    answers = read_answers(folder / deployed.candidate.id)
    if deployed.no_example or not answers:
        return ()
    given = {each.row: each for each in read_rows(folder)}
    with np.load(folder / deployed.candidate.id / ARRAYS, allow_pickle=False) as kept:
        arrays = dict(kept)
    main = deployed.outputs[0].name if deployed.how.draws is None else deployed.how.draws["gives"]
    return tuple(
        Witness(given[each.row], each, arrays[f"{each.row}/outputs/{main}"][0], _below(arrays, f"{each.row}/inputs/"))
        for each in answers
        if each.row in given and (deployed.how.kind == "arrays" or given[each.row].file or given[each.row].text is not None)
    )


@dataclass(frozen=True)
class Proof:
    """A run and a candidate of it, whose exported folder is held against it."""

    run: Path
    deployed: Deployed
    elsewhere: str = ""
    """Where the run was, if not on this machine: outputs may differ by that."""

    def hold(self, folder: Path, kept: Sequence[Witness]) -> None:
        """Run the example of the exported `folder` on each row alone, and hold what it does against what the run did.

        Raises:
            ExportDiffers: inputs differ in a bit, outputs by more than the target's tolerance, or a label.
            MissingDependency: something that the example needs is not here.
        """
        with tempfile.TemporaryDirectory(prefix="compressor-proof-") as scratch:
            generates = self.deployed.how.generates is not None
            rows = [(str(each.given.row), _argument(each, self.run, Path(scratch), generates=generates)) for each in kept]
            arrays, told = self._rehearsed(folder, rows, Path(scratch))
        for each in kept:
            row = str(each.given.row)
            for wrong in self._differences(each, _below(arrays, f"{row}/inputs/"), arrays[f"{row}/outputs"], told[row]):
                raise ExportDiffers(f"the exported example does not do what the run did with {each}: {wrong}")

    def _rehearsed(self, folder: Path, rows: Sequence[tuple[str, Any]], scratch: Path) -> tuple[dict[str, Any], dict[str, str]]:
        """Inputs and outputs of every row as the example makes them, and what it says."""
        import numpy as np

        arrays, told, task = scratch / "arrays.npz", scratch / "told.json", scratch / "task.json"
        barred = () if self.deployed.needs_this_project else OURS
        task.write_text(json.dumps({"rows": rows, "arrays": str(arrays), "told": str(told), "barred": barred}), encoding="utf-8")
        command = [sys.executable, "-I", "-B", str(DRIVER), str(folder.absolute()), str(task)]
        offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=offline, cwd=scratch)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
            if last.startswith(("ModuleNotFoundError", "ImportError")):
                needed = requirements(self.deployed)
                raise MissingDependency(f"an export proves itself by running its example: {last} (pip install {needed})")
            raise ExportDiffers(f"the exported example fails on the rows of the run: {last}")
        with np.load(arrays, allow_pickle=False) as found:
            return dict(found), json.loads(told.read_text(encoding="utf-8"))

    def _differences(self, each: Witness, inputs: Mapping[str, Any], outputs: Any, told: str) -> Iterator[str]:
        """Whatever differs, in words, inputs first."""
        for name in sorted(set(inputs) ^ set(each.answer.inputs)):
            yield f"only the {'example' if name in inputs else 'run'} makes the input '{name}'"
        for name, array in inputs.items():
            if digest(array) != each.answer.inputs[name]:
                yield f"the input '{name}' differs {_first(self._again(each).get(name), array)}"
        gap, most = _gap(each.outputs, outputs), self.deployed.tolerance
        if not gap <= most:
            limit = f"{gap:.2g} of the largest, and {self.deployed.candidate.target} may differ by {most:g}"
            yield f"outputs differ by {limit}, {_first(each.outputs, outputs)}{self.elsewhere}"
        same = told.startswith(each.answer.told) if self.deployed.how.generates is not None else told == each.answer.told
        if each.answer.told and not same:
            yield f"it says '{told}', the run said '{each.answer.told}'{self.elsewhere}"

    def _again(self, each: Witness) -> dict[str, Any]:
        """The inputs as this program makes them, where they are the run's: to show what differs."""
        task, given = task_of(self.deployed.folder), each.given
        try:
            made = dict(task.feed(self.run / WITNESSES / given.file if given.file else given.text, self.deployed.folder))
        except CompressorError:  # what is shown is then less
            return {}
        return {name: array for name, array in made.items() if digest(array) == each.answer.inputs.get(name)}


def _argument(each: Witness, run: Path, scratch: Path, *, generates: bool) -> Any:
    """What the example is given for a row."""
    import numpy as np

    if each.inputs:
        path = scratch / f"{each.given.row}.npz"
        np.savez(path, **each.inputs)  # type: ignore[arg-type]
        return str(path)
    if each.given.file:
        return str((run / WITNESSES / each.given.file).absolute())
    return asked(each.given) if generates else each.given.text


def _gap(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """The largest difference, as a share of the largest output (of 1, where all are smaller)."""
    import numpy as np

    if ours.shape != theirs.shape:
        return float("inf")
    same = np.isnan(ours) & np.isnan(theirs)
    apart = np.where(same, 0.0, np.abs(ours.astype(np.float64) - theirs.astype(np.float64)))
    return float(apart.max(initial=0.0) / max(1.0, float(np.nanmax(np.abs(ours), initial=0.0))))


def _first(ours: NDArray[Any] | None, theirs: NDArray[Any]) -> str:
    """The first place where two arrays differ."""
    import numpy as np

    if ours is None:
        return "as its digest shows"
    if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
        return f"{ours.dtype} {list(ours.shape)} in the run, {theirs.dtype} {list(theirs.shape)} here"
    places = np.argwhere(ours != theirs)
    if not len(places):
        return "as its digest shows"
    place = tuple(places[0].tolist())
    return f"at {list(place)}: {ours[place]:.7g} in the run, {theirs[place]:.7g} here ({len(places)} of {ours.size} differ)"


def _below(arrays: Mapping[str, Any], start: str) -> dict[str, Any]:
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
