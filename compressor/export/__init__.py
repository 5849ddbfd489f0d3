"""From a run to a folder that can be shipped without this project: model, preprocessing, labels, digests, licences, example."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from compressor.errors import StoreError, did_you_mean
from compressor.export.examples import example
from compressor.export.spec import TASK_FILE, Deployed, read_deployed, spec_of
from compressor.export.texts import licences, readme
from compressor.records import Candidate, Report
from compressor.report import read_report

__all__ = ["export"]

MODEL_SUFFIXES = frozenset({".onnx", ".data", ".xml", ".bin", ".safetensors"})
"""What holds weights or a graph: such a file is copied only where the report knows its digest."""


def export(run: Path, target: str, out: Path, *, stage: str = "final") -> Path:
    """Write the files of a target's candidate, and all that is needed to use them, into the new or empty folder `out`.

    Raises:
        StoreError: the run has no such candidate, a file is not the one the report was written about, or `out` is not empty.
        UnsupportedModel: the model takes inputs that no example could make.
    """
    report = read_report(run)
    candidate = _candidate(report, f"{stage}@{target}")
    built = run / "artifacts" / candidate.id
    check_files(built, candidate)
    deployed = read_deployed(built, candidate)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StoreError(f"{out} is not empty: choose a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        _fill(beside, built, deployed=deployed, report=report)
        beside.chmod(0o755)
        beside.replace(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out


def _candidate(report: Report, name: str) -> Candidate:
    found = {candidate.id: candidate for candidate in report.candidates}
    if name not in found:
        missing = report.missing.get(name.partition("@")[2])
        why = f": {missing}" if missing else did_you_mean(name, found)
        raise StoreError(f"this run has no candidate '{name}'{why}")
    if not found[name].files:
        raise StoreError(f"'{name}' was not built: {found[name].not_measured or 'the report lists no files of it'}")
    return found[name]


def check_files(built: Path, candidate: Candidate) -> None:
    """Hold every file against the digest in the report: what is shipped is what was measured."""
    for file in candidate.files:
        path = built / file.name
        if not path.is_file():
            raise StoreError(f"{path} is missing: run the plan again to build it")
        found = _sha256(path)
        if found != file.sha256:
            raise StoreError(f"{path} is not the file that was measured: sha256 {found[:12]}, the report says {file.sha256[:12]}")
    known = {file.name for file in candidate.files}
    unknown = [name for name in _names(built) if Path(name).suffix in MODEL_SUFFIXES and name not in known]
    if unknown:
        raise StoreError(f"{built / unknown[0]} is not in the report: nobody measured it")


def _names(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*")) if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fill(folder: Path, built: Path, *, deployed: Deployed, report: Report) -> None:
    for name in _names(built):
        if name != TASK_FILE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(built / name, folder / name)
    check_files(folder, deployed.candidate)
    texts = {
        "labels.json": _json(deployed.labels),
        "spec.json": _json(spec_of(deployed)),
        "example.py": example(deployed),
        "README.md": readme(report, deployed),
        "LICENSES.md": licences(report, tuple(_names(folder))),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    sums = [f"{_sha256(folder / name)}  {name}\n" for name in _names(folder)]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
