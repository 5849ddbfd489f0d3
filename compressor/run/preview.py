"""What a plan would do, step by step, without doing it."""

from __future__ import annotations

from collections.abc import Iterator

from compressor.deploy.machine import device
from compressor.plan.bound import Bound, BoundStep
from compressor.run.allowance import allowances
from compressor.run.context import of_step
from compressor.run.facts import Rows, examined, files_digest, rows_of
from compressor.run.keys import Keys
from compressor.store.store import Store, StoredResult
from compressor.training.launch import ALONE, Processes


def preview(bound: Bound, store: Store, processes: Processes = ALONE) -> Iterator[str]:
    """Lines for notices and the data, one for each model and what its family allows, one for each step and each target."""
    yield from bound.notices
    rows = rows_of(bound, store)
    yield from _told(rows)
    keys = Keys(bound, rows.digest, rows.labels, device(), processes.size)
    digests: dict[str, str | None] = {}
    for name, source in {"source": bound.model, **bound.models}.items():
        made = store.find(keys.source(files_digest(source, bound.folder, store)))
        yield f"{name}: {'found in the store' if made else 'to be loaded'}"
        digests[name] = made.digest if made else None
        for line in examined(source, bound, rows.labels, store):
            yield f"{name}: {line}"
    yield from allowances(bound)
    current = "source"
    for step in bound.passes:
        if not step.trunk:
            where = ", ".join(f"{form} for {name}" for name, form in step.formats.items())
            yield f"{step.name}: to be looked up when its branch is lowered ({where})"
            continue
        parent = digests.get(step.start or current)
        teachers = {name: digests.get(name) for name in step.step.needs().teachers}
        found = None
        if parent and all(teachers.values()):
            found = store.find(keys.step(step, parent, {name: digest or "" for name, digest in teachers.items()}, None))
        further = " and ".join(f"{step.name}.{name}" for name in step.step.needs().products)
        yield f"{step.name}: {'found in the store' if found else 'to be run'}{f', makes {further} too' if further else ''}"
        digests |= _digests(step, found)
        current = step.name
    for target in bound.targets:
        missing = target.target.missing()
        yield f"{target.name}: {missing.build or missing.run or 'ready'}"


def _digests(step: BoundStep, found: StoredResult | None) -> dict[str, str | None]:
    """Digests of the models that a step made, by name; None where they are not known."""
    products = step.step.needs().products
    if found is None or not products:
        return dict.fromkeys((step.name, *(f"{step.name}.{name}" for name in products)), found.digest if found else None)
    return {step.name: of_step(found).digest, **{f"{step.name}.{name}": of_step(found, name).digest for name in products}}


def _told(rows: Rows) -> Iterator[str]:
    splits = ", ".join(f"{split.rows} {split.name}" for split in rows.record.splits)
    removed = ", ".join(f"{count} {why}" for why, count in rows.record.removed.items())
    yield f"data: {splits}{f'; removed: {removed}' if removed else ''}"
    yield from (f"data: {finding}" for finding in rows.record.findings)
    if rows.lengths:
        least, middle, most = rows.lengths
        yield f"lengths: {least} to {most} characters, median {middle}"
