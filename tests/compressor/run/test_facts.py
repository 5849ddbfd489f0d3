"""What `check` knows of rows and models: read once, and again after any change; a run trusts none of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from furnished import write_rows

from compressor.plan.bound import load_plan
from compressor.run import facts
from compressor.run.ground import Ground
from compressor.run.preview import preview
from compressor.store.known import KNOWN, UNSETTLED_NS
from compressor.store.store import CHECKSUM, Store, key_of
from compressor.tasks import tiny
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.tiny import LABELS

PLAN = """
model: {{folder: pretrained}}
task: {task}
data: {{{data}, split: {{validation: 12, test: 12}}, calibration: 4}}
passes: [{{prune-structure: {{keep: 0.5}}}}]
targets: [pytorch]
"""
HEAVY = ("torch", "datasets", "transformers", "sklearn", "pyarrow", "pandas")


class Checked:
    """A plan with its model and rows, and which of them `check` reads."""

    def __init__(self, folder, monkeypatch, task, data):
        self.folder, self.store = folder, Store(folder / "store")
        (folder / "plan.yaml").write_text(PLAN.format(task=task, data=data))
        {"text": tiny.text_model, "image": tiny.image_model, "audio": tiny.audio_model}[task.strip("{").partition("-")[0]](
            folder / "pretrained"
        )
        self.read = []
        for name in ("read_rows", "source_digest"):
            self._heard(monkeypatch, name)

    def _heard(self, monkeypatch, name):
        real = getattr(facts, name)

        def heard(*arguments):
            self.read.append(name)
            return real(*arguments)

        monkeypatch.setattr(facts, name, heard)

    def __call__(self, *settings):
        """What is read anew by `check`."""
        time.sleep(3 * UNSETTLED_NS / 1e9)
        self.read.clear()
        self.lines = list(preview(self.bound(*settings), self.store))
        return list(self.read)

    def bound(self, *settings):
        return load_plan(self.folder / "plan.yaml", settings=settings)


@pytest.fixture
def texts(tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.jsonl", [{"text": f"{LABELS[n % 3]} {n}", "label": LABELS[n % 3]} for n in range(60)])
    checked = Checked(tmp_path, monkeypatch, "{text-classification: {max_length: 16}}", "files: rows.jsonl")
    assert checked() == ["read_rows", "source_digest"]
    assert checked() == []
    return checked


@pytest.fixture
def images(tmp_path, monkeypatch):
    from PIL import Image

    for number in range(48):
        path = tmp_path / "images" / LABELS[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    checked = Checked(tmp_path, monkeypatch, "image-classification", "files: images")
    assert checked() == ["read_rows", "source_digest"]
    assert checked() == []
    return checked


@pytest.fixture
def sounds(tmp_path, monkeypatch):
    import soundfile

    (tmp_path / "sounds").mkdir()
    for number in range(48):
        soundfile.write(tmp_path / "sounds" / f"{number}.wav", [number / 100] * 20, 2000)
    table = "file_name,label\n" + "".join(f"{number}.wav,{LABELS[number % 3]}\n" for number in range(48))
    (tmp_path / "sounds" / "metadata.csv").write_text(table)
    checked = Checked(tmp_path, monkeypatch, "audio-classification", "files: sounds, format: audiofolder")
    assert checked() == ["read_rows", "source_digest"]
    assert checked() == []
    return checked


def test_another_task_or_code_of_a_task_reads_rows_anew(texts, monkeypatch):
    """What a task makes of rows is a part of what is known of them."""
    assert texts("task={text-classification: {max_length: 8}}") == ["read_rows"]
    monkeypatch.setattr(TextClassification, "version", TextClassification.version + 1)
    assert texts() == ["read_rows"]
    assert texts() == []


def test_makers_of_inputs_are_named():
    """Their versions are in keys: another one may make other inputs of equal rows."""
    assert "tokenizers" in TextClassification.requires
    assert {"tokenizers", "soxr", "soundfile", "pillow"} <= set(facts.READERS)


def test_says_the_same_of_rows_that_are_known(texts):
    known = texts.lines
    (path,) = [path for path in (texts.store.root / KNOWN).iterdir() if "labels" in path.read_text()]
    path.unlink()
    assert texts() == ["read_rows"]
    assert texts.lines == known
    assert texts.lines[:4] == [
        "data: 36 train, 12 validation, 12 test, 4 calibration",
        "classes: blue 12, green 12, red 12; 'blue' is 33% of train",
        "lengths: 5 to 8 characters, median 7",
        "inputs: texts 4 to 4 tokens, median 4, 99 % have at most 4; max_length 16 cuts none; "
        "25% of the tokens are unknown to the tokenizer",
    ]


def test_changed_row_is_read(texts):
    path = texts.folder / "rows.jsonl"
    path.write_text(path.read_text().replace("red 2", "rod 2"))
    assert texts() == ["read_rows"]


def test_row_changed_with_its_times_put_back_is_read(texts):
    path = texts.folder / "rows.jsonl"
    before = path.stat()
    path.write_text(path.read_text().replace("red 2", "rod 2"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_size == before.st_size
    assert texts() == ["read_rows"]


def test_file_in_place_of_another_is_read(texts):
    path = texts.folder / "rows.jsonl"
    before, other = path.stat(), texts.folder / "other"
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)
    assert texts() == ["read_rows"]


def test_rows_are_measured_anew_by_another_tokenizer(texts):
    path = texts.folder / "pretrained" / "tokenizer.json"
    path.write_text(path.read_text().replace('"[CLS] $A [SEP]"', '"[CLS] $A [SEP] "') + "\n")
    assert sorted(texts()) == ["read_rows", "source_digest"]
    assert texts() == []


def test_changed_weights_are_hashed(texts):
    path = texts.folder / "pretrained" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert texts() == ["source_digest"]


@pytest.mark.parametrize(
    "setting",
    [
        "seed=1",
        "data.split.test=13",
        "data.calibration=5",
        "data.deduplicate=true",
        "task={text-classification: {text: body, max_length: 16}}",
    ],
)
def test_other_plan_reads_rows(texts, setting):
    rows = [json.loads(line) for line in (texts.folder / "rows.jsonl").read_text().splitlines()]
    write_rows(texts.folder / "rows.jsonl", [{**row, "body": row["text"]} for row in rows])
    assert texts() == ["read_rows"]
    assert texts(setting) == ["read_rows"]
    assert texts(setting) == []
    assert texts() == []


@pytest.mark.parametrize("setting", ["name=other", "passes.prune-structure.keep=0.25"])
def test_what_no_row_depends_on_reads_none(texts, setting):
    assert texts(setting) == []


def test_other_version_reads_all(texts, monkeypatch):
    monkeypatch.setattr(facts, "versions", lambda names: dict.fromkeys(names, "99"))
    assert texts() == ["read_rows", "source_digest"]
    assert texts() == []


def test_weights_that_the_plan_does_not_name_are_refused_though_known(texts):
    from compressor.errors import SourceError

    with pytest.raises(SourceError, match="has sha256"):
        texts("model.sha256='000000000000'")


@pytest.mark.parametrize("name", ["blue/0.png", "green/48.png", "yellow/49.png"])
def test_changed_or_further_image_is_read(images, name):
    from PIL import Image

    path = images.folder / "images" / name
    path.parent.mkdir(exist_ok=True)
    for number in range(3):
        Image.new("RGB", (8, 8), (0, 99, number)).save(path.with_stem(f"{path.stem}{number or ''}"))
    assert images() == ["read_rows"]


def test_changed_sound_is_read(sounds):
    import soundfile

    soundfile.write(sounds.folder / "sounds" / "5.wav", [0.9] * 20, 2000)
    assert sounds() == ["read_rows"]


def test_changed_table_is_read(sounds):
    table = sounds.folder / "sounds" / "metadata.csv"
    table.write_text(table.read_text().replace("5.wav,red", "5.wav,blue"))
    assert sounds() == ["read_rows"]


def test_image_that_a_table_names_elsewhere_is_read(tmp_path, monkeypatch):
    import pyarrow.parquet
    from datasets import Dataset, Features, Image, Value
    from PIL import Image as Picture

    (tmp_path / "elsewhere").mkdir()
    for number in range(48):
        Picture.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "elsewhere" / f"{number}.png")
    cells = [{"bytes": None, "path": str(tmp_path / "elsewhere" / f"{number}.png")} for number in range(48)]
    features = Features({"image": Image(), "label": Value("string")})
    rows = Dataset.from_dict({"image": cells, "label": [LABELS[n % 3] for n in range(48)]}, features=features)
    pyarrow.parquet.write_table(rows.data.table, tmp_path / "rows.parquet")  # the library's own way writes the files into it
    checked = Checked(tmp_path, monkeypatch, "image-classification", "files: rows.parquet")
    assert checked() == ["read_rows", "source_digest"]
    assert checked() == []
    Picture.new("RGB", (8, 8), (0, 99, 0)).save(tmp_path / "elsewhere" / "7.png")
    assert checked() == ["read_rows"]


def test_run_trusts_no_known_fact(texts):
    (path,) = [path for path in (texts.store.root / KNOWN).iterdir() if "labels" in path.read_text()]
    forged = json.loads(path.read_text())
    forged["value"]["digest"] = forged["value"]["record"]["digest"] = "f" * 64
    del forged[CHECKSUM]
    path.write_text(json.dumps({**forged, CHECKSUM: key_of(forged)}))
    assert facts.rows_of(texts.bound(), texts.store).digest == "f" * 64
    ground = Ground(texts.bound(), texts.store, lambda _: None)
    assert "f" * 64 not in (ground.data.digest, ground.data.record.digest)


def test_check_of_what_is_known_imports_nothing_heavy(texts):
    code = "import sys; from compressor.cli import app; app(standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    told = [sys.executable, "-c", code, "check", "plan.yaml", "--store", "store"]
    done = subprocess.run(told, cwd=texts.folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[:2] == texts.lines[:2]
    assert [name for name in HEAVY if name in done.stderr.split()] == []
