"""Remakes `docs/results/peers.md`: the quickstart's fine-tuned model through tools that others use, beside the files made here.

    python -m benchmarks.studies.peers --work FOLDER [--quick]

The model is trained by the plan unless the store has it. Each tool makes its file in an environment that this command makes; one that cannot
be had is left out by name, with the reason. All forms run interleaved, in a process each. What is in FOLDER is kept: a study that was cut goes
on, and says how many cells remain. `--quick` times four forms for some seconds, and writes its page into FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.studies.operators import told
from benchmarks.studies.peers.environments import forget_secrets
from benchmarks.studies.peers.forms import FORMS, QUICK
from benchmarks.studies.peers.page import document
from benchmarks.studies.peers.shop import Cell, Shop
from compressor.api import build_plan, read_report, run
from compressor.contracts.records import Report, Stage
from compressor.plan.bound import Bound, load_plan
from compressor.run.ground import Ground
from compressor.store.place import open_store
from compressor.store.store import FILES, Store, StoredResult

PLAN = Path("plans/quickstart.yaml")
OUT = Path("docs/results/peers.md")
LENGTH = 128
CELLS = tuple(Cell(threads, batch, compiled) for compiled in (False, True) for threads in (1, 2) for batch in (1, 8))
SECONDS, QUICK_SECONDS = 190.0, 8.0
"""For each cell."""


def taught(bound: Bound, work: Path, store: Store) -> tuple[Report, Stage]:
    """The plan run as far as the fine-tuned model, without probes."""
    plan: dict[str, Any] = yaml.safe_load(bound.text)
    plan.pop("accept", None)
    plan |= {"passes": plan["passes"][:1], "probes": [], "stages": "quality"}
    folder = work / "run"
    if not (folder / "report.json").is_file():
        run(build_plan(plan, folder=bound.folder), store=store.root, out=folder, tell=told)
    report = read_report(folder)
    return report, next(each for each in report.stages if each.name == "finetune")


def main() -> None:
    """Make what is not made yet, measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run, of environments and of what is made")
    parser.add_argument("--store", type=Path, help="where the trained model is looked for; the user's own store unless given")
    parser.add_argument("--seconds", type=float, help=f"for each of {len(CELLS)} cells; {SECONDS:.0f} unless given")
    parser.add_argument("--quick", action="store_true", help="four forms, one cell, some seconds")
    parser.add_argument("--only", nargs="+", metavar="FORM", help="make and score the files of these forms, and time nothing")
    parser.add_argument("--page", action="store_true", help="time nothing more, and write the page of what is there")
    parser.add_argument("--out", type=Path, help=f"the page; {OUT} unless given")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="laid over the plan, for a trial")
    asked = parser.parse_args()
    forget_secrets()
    work = asked.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    bound = load_plan(PLAN, settings=asked.set)
    store = open_store(asked.store, plan=bound.name)
    report, stage = taught(bound, work, store)
    teacher = StoredResult(stage.key, stage.digest, store.entry(stage.key) / FILES, {}, 0.0, found=True)
    shop = Shop(Ground(bound, store, told), teacher, work, LENGTH, told)
    cells, seconds = (CELLS[:1], QUICK_SECONDS) if asked.quick else (CELLS, SECONDS)
    with store.running():
        if asked.only:
            shop.usable([each for each in FORMS if each.name in asked.only], shop.scored)
            return
        forms = shop.usable(QUICK if asked.quick else FORMS, shop.scored)
        if not asked.page:
            forms = shop.times(forms, cells, asked.seconds or seconds)
        text = document(report, shop, forms, shop.kept(cells))
    out = asked.out or (work / "peers.md" if asked.quick else OUT)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{out}\n")


if __name__ == "__main__":
    main()
