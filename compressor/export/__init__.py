"""From a run to a folder that can be shipped: model, preprocessing, labels, digests, licences, and an example where one call does."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressor.contracts.graph import GRAPHS
from compressor.contracts.model import CONFIG
from compressor.contracts.records import Candidate, Report
from compressor.deploy.graphs import TASK_FILE
from compressor.deploy.machine import machine
from compressor.errors import StoreError, did_you_mean
from compressor.export.examples import example
from compressor.export.loaders import configuration
from compressor.export.proof import Proof, Witness, witnesses
from compressor.export.spec import Deployed, read_deployed, spec_of
from compressor.export.texts import licences, readme
from compressor.files import json_in, plain_file
from compressor.report import WITNESSES, read_report
from compressor.store.checksums import SUMS, check_below, names_in, sums_text
from compressor.store.disk import writing
from compressor.store.locks import tried
from compressor.store.store import remove, sha256_of

__all__ = ["check_free", "export"]

MARK, FILLED = ".compressor-export", "files"
"""What the folder holds that an export is made in: the lock by which it is known as ours, and what is moved when it is whole."""
PART, WORK = ".part", "writing an export"
NAMED = f"{MARK}{PART}"
"""How the name of such a folder ends: it is known as ours before there is a byte in it."""


def export(run: Path | str, target: str, out: Path | str, *, stage: str = "final") -> Path:
    """Write the files of a target's candidate, and all that is needed to use them, into the new or empty folder `out`.

    Where `out` holds exactly these files already, as after a kill at the last moment, it stays as it is.

    Raises:
        StoreError: the run has no such candidate, a file is not the one the report was written about, or `out` is not empty.
        UnsupportedModel: the model takes inputs that no example could make.
        ExportDiffers: the folder's own example does not do what the run did.
        MissingDependency: something that the example needs is not here.
    """
    run, out = Path(run), Path(out)
    out = out if out.name not in ("", "..") else out.resolve()
    report = read_report(run)
    candidate = _candidate(report, f"{stage}@{target}")
    built = run / "artifacts" / candidate.id
    check_files(built, candidate)
    check_below(run, f"artifacts/{candidate.id}")
    deployed = read_deployed(built, candidate)
    kept = _witnesses(run, deployed)
    if not (out / SUMS).is_file():
        check_free(out)
    with writing(out), _beside(out) as folder:
        _fill(folder, built, deployed=deployed, report=report, proved=len(kept))
        if not (out / SUMS).is_file() or _digests(out) != _digests(folder):
            check_free(out)
            if kept:
                Proof(run, deployed, _elsewhere(report)).hold(folder, kept)
            folder.replace(out)
    return out


def _witnesses(run: Path, deployed: Deployed) -> tuple[Witness, ...]:
    """What the run kept to prove an export by; nothing where it is a run of before."""
    if not (run / WITNESSES / deployed.candidate.id).is_dir():
        return ()
    check_below(run, WITNESSES)
    return witnesses(run, deployed)


def _elsewhere(report: Report) -> str:
    """Where a run was, if not on a machine like this one."""
    here = machine()
    if here.fingerprint == report.machine.fingerprint:
        return ""
    return f" (the run was on {report.machine.processor}, this is {here.processor}: export where it ran)"


def check_free(out: Path) -> None:
    """Raise StoreError where `out` is neither new nor an empty folder, or cannot become one."""
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise StoreError(f"{out} cannot be a folder, {above} is a file: choose another")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{out} cannot be a folder, {out.parent} cannot be made ({error.strerror}): choose another") from error
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise StoreError(f"{out} is not empty: choose a new folder")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder to be filled and moved to `out`, inside one of our own that is locked meanwhile; what a killed export left goes first."""
    for left in out.parent.iterdir():
        if left.name.startswith(f".{out.name}.") and left.name.endswith(PART) and _is_ours(left):
            with tried(left / MARK, work=WORK) as held:
                if held:
                    _clear(left)
    own = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=NAMED, dir=out.parent))
    try:
        with tried(own / MARK, work=WORK):
            (own / FILLED).mkdir()
            yield own / FILLED
    finally:
        _clear(own)


def _clear(own: Path) -> None:
    """The mark goes last, so that what a kill leaves of it is still known as ours."""
    remove(own / FILLED)
    remove(own)


def _is_ours(left: Path) -> bool:
    """Whether an export made this folder: it holds the lock that one signs, and nothing but that and what is filled.

    One that was killed before it signed, or after it cleared, holds not a byte: it bears our mark in its own name, or as that of a file.
    """
    try:
        held = {path.name for path in left.iterdir()}
        if left.is_symlink() or (left / MARK).is_symlink() or held - {MARK, FILLED}:
            return False
        if not held:
            return left.name.endswith(NAMED)
        if held == {MARK} and not plain_file(left / MARK):
            return True
        signed: object = json_in(left / MARK)
    except (OSError, ValueError):
        return False
    return isinstance(signed, dict) and signed.get("work") == WORK


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
        found = sha256_of(path)
        if found != file.sha256:
            raise StoreError(f"{path} is not the file that was measured: sha256 {found[:12]}, the report says {file.sha256[:12]}")


def _fill(folder: Path, built: Path, *, deployed: Deployed, report: Report, proved: int) -> None:
    for name in names_in(built):
        if name not in (TASK_FILE, GRAPHS):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(built / name, folder / name)
    check_files(folder, deployed.candidate)
    texts = {
        **deployed.how.files,
        **({CONFIG: _json(config)} if (config := configuration(deployed)) else {}),
        **({"labels.json": _json(deployed.labels)} if deployed.classes else {}),
        "spec.json": _json(spec_of(deployed)),
        **({} if deployed.no_example else {"example.py": example(deployed)}),
        "README.md": readme(report, deployed, proved=proved),
        "LICENSES.md": licences(report, tuple(names_in(folder))),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if deployed.target and deployed.how.generates is not None:
        deployed.target.accompany(folder, deployed.graphs, deployed.how.generates)
    (folder / SUMS).write_text(sums_text(_digests(folder)), encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in names_in(folder)}


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
