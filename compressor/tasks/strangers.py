"""Files that are taken for others: told by how they begin, with what to do."""

from __future__ import annotations

from pathlib import Path

from compressor.files import plain_file

UNPACK = "a compressed file: unpack it"
SHEET = "save the sheet as CSV UTF-8"
PARQUET = b"PAR1\x15"
BEGINNINGS = {
    b"PK\x03\x04": f"a zip archive, as workbooks of Excel are: unpack it, or {SHEET}",
    b"\xd0\xcf\x11\xe0": f"a workbook of Excel: {SHEET}",
    b"\x1f\x8b": UNPACK,
    b"BZh": UNPACK,
    b"\xfd7zX": UNPACK,
    b"\x28\xb5\x2f\xfd": UNPACK,
    b"7z\xbc\xaf": UNPACK,
    PARQUET: "a file of parquet: say `format: parquet`",
    b"ARROW1\0\0": "a file of Arrow: write it as parquet, as `to_parquet` of datasets and pandas does",
    b"\xff\xff\xff\xff": "a stream of Arrow: write it as parquet, as `to_parquet` of datasets and pandas does",
    b"SQLite format 3": "a database of SQLite: write its rows as csv",
    b"\x80\x04": "a pickle, which could run code when it is read: write its rows as parquet where you trust it",
    b"\x80\x05": "a pickle, which could run code when it is read: write its rows as parquet where you trust it",
    b"\x89HDF": "a file of HDF5: write its rows as parquet",
    b"<!doctype html": "a page of the web, as servers send instead of a file that they do not give: fetch the file itself",
    b"<html": "a page of the web, as servers send instead of a file that they do not give: fetch the file itself",
    b"<?xml": "a document of XML: write its rows as csv",
}
"""How files of other kinds begin; those of markup in letters of any case."""
LONGEST = max(map(len, BEGINNINGS))


def stranger(path: Path, kind: str = "") -> str | None:
    """What a file is that no table of a kind (csv, json, parquet, text) is; None where it may be one.

    Lines of text may be of any markup, and a file of parquet is no stranger among its own.
    """
    try:
        plain_file(path)
    except OSError as error:
        return f"not readable: {error.strerror}"
    with path.open("rb") as file:
        head = file.read(LONGEST)
    begin = next((each for each in BEGINNINGS if head.startswith(each) or head.lower().startswith(each)), None)
    if begin is None:
        return None
    own = (kind == "text" and begin.startswith(b"<")) or (kind == "parquet" and begin == PARQUET)
    return None if own else BEGINNINGS[begin]
