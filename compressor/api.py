"""For notebooks and programs: load a plan or build one, run it, read what it found, export. [docs/python.md] shows it at work."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.contracts import Event
from compressor.contracts.records import Report
from compressor.deploy.telemetry import keep_to_here, quiet
from compressor.errors import Fault, PlanError
from compressor.export import export
from compressor.plan.bound import PLAN, Bound, load_plan, read_plan
from compressor.plan.yaml_source import write_yaml
from compressor.report import read_report
from compressor.training.launch import ALONE, Processes

if TYPE_CHECKING:
    from compressor.run.comparison import Run

keep_to_here()  # now, since libraries read the environment when they are imported

__all__ = ["Bound", "Processes", "Report", "build_plan", "export", "load_plan", "read_report", "run"]


def build_plan(values: Mapping[str, Any], *, folder: Path | str = ".", settings: Sequence[str] = ()) -> Bound:
    """A plan from values as a plan file has them, checked whole.

    Args:
        values: `{"model": {"folder": "my-model"}, "task": "text-classification", ...}`; paths may be `Path`s, numbers those of numpy.
        folder: relative paths start here, those of `include` too.
        settings: values laid over it, as `passes.distill.epochs=1`.

    Raises:
        PlanError: the plan is at fault; lines are those of the plan as YAML.
    """
    return read_plan(write_yaml(_plain(values, "")), settings=settings, folder=Path(folder).absolute())


def _plain(value: Any, where: str) -> Any:
    """A value as a plan file has it.

    Raises:
        PlanError: no plan file has such a value.
    """
    if isinstance(value, Mapping):
        return {key: _plain(each, f"{where}.{key}".lstrip(".")) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, f"{where}[{number}]") for number, each in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None:
        return None
    for kind in (bool, int, float, str):  # and what is derived from them, as a float of numpy is
        if isinstance(value, kind):
            return kind(value)
    if hasattr(value, "tolist"):  # other numbers of numpy, arrays and tensors
        return _plain(value.tolist(), where)
    raise PlanError(
        [Fault(PLAN, 1, where, f"found a {type(value).__name__}, which no plan file can hold: write text or a number")]
    )


def run(
    plan: Bound,
    *,
    store: Path | str | None = None,
    out: Path | str | None = None,
    tell: Callable[[Event], None] = lambda _: None,
    processes: Processes = ALONE,
    command: str = "",
) -> Run:
    """Run a plan as `compressor run` does; the result has its `folder` and its `report`.

    Args:
        plan: what `load_plan` or `build_plan` gave.
        store: folder of stored results; the user's own unless given.
        out: folder of the run; `runs/NAME/TIME` unless given.
        tell: hears each `Message` and `Progress`.
        processes: how many compute training steps.
        command: what the report says the run was started by.

    Raises:
        CompressorError: a step failed, or a folder is in use or holds something else.
    """
    from compressor.contracts import Message

    quiet()
    from compressor.run import run_folder
    from compressor.run.comparison import Run
    from compressor.run.pipeline import run_plan
    from compressor.store.place import open_store

    opened = open_store(Path(store) if store else None, plan=plan.name, tell=lambda text: tell(Message(text)))
    with run_folder.claimed(Path(out), plan.text) if out else run_folder.opened(plan.name, plan.text) as folder:
        return Run(folder, run_plan(plan, store=opened, folder=folder, command=command, tell=tell, processes=processes))
