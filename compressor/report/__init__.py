"""A run's report: `report.json` is the truth, `report.html` and `report.md` are made from it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import FloatSchema

from compressor.contracts.records import REPORT_VERSION, Report
from compressor.errors import StoreError
from compressor.files import json_in
from compressor.report.findings import answer
from compressor.report.versions import upgraded
from compressor.store.checksums import SUMS, check_file, names_in, sums_text
from compressor.store.disk import put
from compressor.store.store import sha256_of

__all__ = ["answer", "read_report", "report_schema", "write_report"]


MOST_BYTES = 2**30
"""Of a report: it has each single time that was measured."""
EVALUATIONS = "evaluations"
"""Folder in a run's folder: by candidate, its scores and raw outputs on test data."""
TIMED_FEEDS = "feeds.npz"
"""File in a run's folder: the inputs of the first workload that was timed."""
PLAN = "plan.yaml"
"""File in a run's folder: the plan as it ran, which the report holds too."""
BESIDE = ("report.html", "report.md", TIMED_FEEDS)
"""Files beside the report that whoever reads a run may open too."""
WITNESSES = "witnesses"
"""Folder in a run's folder: rows of test, and by candidate what was made of each of them alone."""
SEALED = ("artifacts", EVALUATIONS, WITNESSES)


def write_report(report: Report, folder: Path) -> None:
    """Write `report.json`, `report.html`, `report.md` and `SHA256SUMS` of them and of all that a later reader reads, each whole.

    `report.json` comes last: a folder that has it holds a run that has ended.
    """
    from compressor.report.html import page
    from compressor.report.markdown import document

    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.md": document(report), "report.html": page(report), "report.json": report.model_dump_json(indent=1) + "\n"}
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    kept = [f"{below}/{name}" for below in SEALED for name in names_in(folder / below)]
    kept += [name for name in (TIMED_FEEDS, PLAN) if (folder / name).is_file()]
    texts = {SUMS: sums_text(sums | {name: sha256_of(folder / name) for name in kept}), **texts}
    for name, text in texts.items():
        put(folder / name, text)


def read_report(folder: Path | str) -> Report:
    """Read `report.json` of a run folder.

    Raises:
        StoreError: there is none, it was written by a newer version, or it, or a file beside it, is not what was written.
    """
    folder = Path(folder)
    path = folder / "report.json"
    try:
        found = json_in(path, MOST_BYTES)
    except FileNotFoundError:
        raise StoreError(f"{folder} holds no report.json: is it the folder of a run?{_runs_in(folder)}") from None
    except NotADirectoryError:
        raise StoreError(f"{folder} is a file: name the folder of the run, where its report.json lies") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise StoreError(f"{path} is no JSON: {error}") from error
    version = found.get("version") if isinstance(found, dict) else None
    if isinstance(version, int) and version > REPORT_VERSION:
        raise StoreError(
            f"{path} has version {version}, this program reads up to {REPORT_VERSION}: update compressor-toolchain to read it"
        )
    try:
        report = Report.model_validate_json(json.dumps(upgraded(found)), extra="ignore")
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} is no report of version {version}: {type(error).__name__}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(
            f"{path} is no report of version {REPORT_VERSION}: {where}: {first['msg']} ({error.error_count()} faults)"
        ) from error
    check_file(folder, path.name)
    _check_beside(folder, report)
    return report


def _runs_in(folder: Path) -> str:
    """What to say instead of a folder that holds runs, the newest one."""
    found = sorted(folder.glob("*/report.json")) or sorted(folder.glob("*/*/report.json"))
    return f" Runs lie in it: name one, as {max(found, key=lambda path: path.stat().st_mtime).parent}" if found else ""


def _check_beside(folder: Path, report: Report) -> None:
    """Hold what lies beside a report against what was written; one of them that is missing is missed by whoever wants it.

    Raises:
        StoreError: one of them was altered, or another file put in its place.
    """
    for name in BESIDE:
        if os.path.lexists(folder / name):
            check_file(folder, name)
    plan, ran = folder / PLAN, report.plan.encode()  # not listed by earlier versions
    if os.path.lexists(plan) and not (plan.is_file() and not plan.is_symlink() and _holds(plan, ran)):
        raise StoreError(f"{plan} is not the plan that ran, which {folder / 'report.json'} holds: run the plan again")


def _holds(path: Path, content: bytes) -> bool:
    return path.stat().st_size == len(content) and path.read_bytes() == content


class _ReportSchema(GenerateJsonSchema):
    """JSON has no infinities: a number that is not finite is written as a string."""

    def float_schema(self, schema: FloatSchema) -> JsonSchemaValue:
        return {"anyOf": [super().float_schema(schema), {"enum": ["NaN", "Infinity", "-Infinity"]}]}


def report_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of `report.json` at this program's version."""
    schema = Report.model_json_schema(schema_generator=_ReportSchema)
    schema["properties"]["version"] = {"const": REPORT_VERSION}
    return {
        "$schema": _ReportSchema.schema_dialect,
        "$id": f"compressor-report-{REPORT_VERSION}",
        **schema,
        "title": "compressor report",
    }
