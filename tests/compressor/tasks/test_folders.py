"""Folders of pictures, sounds and texts: what is passed over is told, what is broken is named by row and file, and no link leads out."""

from __future__ import annotations

import os
import re
import shutil
import struct
import wave
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
from PIL import Image

from compressor.contracts import Columns, Data
from compressor.contracts.records import DataRecord
from compressor.errors import MissingColumn, SourceError
from compressor.plan.specs import DataSpec
from compressor.tasks.data import load_data
from compressor.tasks.folders import IMAGES
from compressor.tasks.image_classification import ImageClassification
from compressor.tasks.image_processors import completed
from compressor.tasks.inputs.image import pixels_of
from compressor.tasks.preprocessing import of_image
from compressor.tasks.sources import read_rows

PICTURES, SOUNDS, TEXTS = (Columns((name,), "label") for name in ("image", "audio", "text"))
DRAW = np.random.default_rng(0)


def load(folder, columns, files="set", **spec):
    return load_data(DataSpec.model_validate({"files": files, **spec}), columns=columns, seed=0, folder=folder)


def picture(size=(24, 20)):
    return Image.fromarray(DRAW.integers(0, 255, (*size, 3), dtype=np.uint8))


def pictures(root, suffix=".png"):
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(6):
            picture().save(root / label / f"{number}{suffix}")


def sounds(root, suffix=".wav"):
    for label in ("high", "low"):
        (root / label).mkdir(parents=True)
        for number in range(6):
            soundfile.write(root / label / f"{number}{suffix}", DRAW.uniform(-0.5, 0.5, 4000), 16000)


def texts(root):
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
        for number in range(6):
            (root / label / f"{number}.txt").write_text(f"text {number} of {label}")


def refused(folder, columns, **spec):
    with pytest.raises(SourceError) as caught:
        load(folder, columns, **spec)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.filterwarnings(
    "ignore:Exception ignored in.*gif:pytest.PytestUnraisableExceptionWarning"
)  # its reader keeps the file
@pytest.mark.parametrize("suffix", IMAGES)
def test_every_format_of_pictures_is_read(tmp_path, suffix):
    pictures(tmp_path / "set", suffix)
    data = load(tmp_path, PICTURES)
    assert data.split("test")[0]["image"].convert("RGB").size == (20, 24)


def test_what_systems_leave_in_folders_is_passed_over_and_told(tmp_path):
    pictures(tmp_path / "set")
    for name in ("cat/Thumbs.db", "cat/desktop.ini", "dog/.DS_Store", "dog/._0.png", "cat/.3.png.swp", "__MACOSX/cat/x.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x")
    for name in (".git", "cat/.ipynb_checkpoints", "dog/.thumbnails"):
        (tmp_path / "set" / name).mkdir()
    (tmp_path / "set" / "bird").mkdir()
    data = load(tmp_path, PICTURES)
    assert data.labels == ("cat", "dog")
    passed, empty = data.record.findings
    assert passed == f"{tmp_path}/set: passed over 1 'Thumbs.db', 1 '__MACOSX', 1 'desktop.ini', 3 hidden, 3 hidden folders"
    assert empty == f"{tmp_path}/set/bird: no file in it"


def test_small_copies_that_a_nas_keeps_of_pictures_and_notes_of_windows_are_no_rows(tmp_path):
    pictures(tmp_path / "set")
    for name in ("cat/@eaDir/1.png/THUMB_M.png", "dog/#recycle/9.png", "dog/1.png:Zone.Identifier"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(tmp_path / "set" / name, "PNG")
    assert load(tmp_path, PICTURES).record.findings == (
        f"{tmp_path}/set: passed over 1 '#recycle', 1 ':zone.identifier', 1 '@eaDir'",
    )


def test_files_that_are_no_rows_are_told(tmp_path):
    pictures(tmp_path / "set")
    (tmp_path / "set" / "README.md").write_text("of whom these are")
    assert load(tmp_path, PICTURES).record.findings == (f"{tmp_path}/set: passed over 1 beside the folders of labels",)
    lines = [f"./{label}/{number}.png,{label}" for label in ("cat", "dog") for number in range(4)]
    (tmp_path / "set" / "metadata.csv").write_text("\n".join(["file_name,label", *lines]) + "\n")
    assert load(tmp_path, PICTURES).record.findings == (f"{tmp_path}/set: passed over 5 that metadata.csv does not name",)


def test_table_beside_pictures_names_files_below_the_root_of_the_plan(tmp_path):
    pictures(tmp_path / "far")
    (tmp_path / "set").mkdir()
    picture().save(tmp_path / "set" / "own.png")
    names = ["own.png", *(f"{label}/{n}.png" for label in ("cat", "dog") for n in range(6)), f"{tmp_path}/far/cat/1.png"]
    lines = [f"{name},{'ab'[at % 2]}" for at, name in enumerate(names)]
    (tmp_path / "set" / "metadata.csv").write_text("\n".join(["file_name,label", *lines]) + "\n")
    spec = DataSpec.model_validate({"files": "set", "format": "imagefolder"})
    rows = read_rows(spec.model_copy(update={"root": "far"}), tmp_path, PICTURES).parts["train"]
    assert len(rows) == 14
    with pytest.raises(SourceError, match=r"metadata.csv names 'cat/0.png', which is no file in"):
        read_rows(spec, tmp_path, PICTURES)
    (tmp_path / "set" / "metadata.csv").write_text(f"file_name,label\n{tmp_path}/far/cat/1.png,a\n")
    with pytest.raises(
        SourceError, match=r"metadata.csv names '.* leads to .*/far/cat/1.png, out of .*: copy it there, or say `data"
    ):
        read_rows(spec, tmp_path, PICTURES)


def test_byte_order_mark_is_no_part_of_a_text(tmp_path):
    for at in range(12):
        (tmp_path / "set" / "ab"[at % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "ab"[at % 2] / f"{at}.txt").write_bytes(b"\xef\xbb\xbftext %d" % at)
    files = {"path": "set", "layout": "folder-per-label"}
    assert all(each.startswith("text") for each in load(tmp_path, TEXTS, files=files).split("train")["text"])


@pytest.mark.parametrize("name", [b"caf\xe9/0.png", b"cat/\xff\xfe.png"])
def test_name_that_is_not_utf_8_is_refused(tmp_path, name):
    pictures(tmp_path / "set")
    path = Path(os.fsdecode(os.fsencode(tmp_path / "set") + b"/" + name))
    path.parent.mkdir(exist_ok=True)
    shutil.copy(tmp_path / "set" / "cat" / "0.png", path)
    with pytest.raises(SourceError, match="its name is not UTF-8: rename it"):
        load(tmp_path, PICTURES)


def test_folder_whose_name_begins_with_a_line_is_a_class(tmp_path):
    pictures(tmp_path / "set")
    (tmp_path / "set" / "cat").rename(tmp_path / "set" / "_none")
    assert load(tmp_path, PICTURES).labels == ("_none", "dog")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def animated(path):
    picture().save(path, save_all=True, append_images=[picture(), picture()])


BROKEN = {
    "a jpeg that ends early": (".jpg", cut, "cannot be read as an image: image file is truncated"),
    "a png that ends early": (".png", cut, "cannot be read as an image: "),
    "a gif that ends early": (".gif", cut, "cannot be read as an image: "),
    "a webp that ends early": (".webp", cut, "cannot be read as an image: "),
    "a tif that ends early": (".tif", cut, "cannot be read as an image: "),
    "a picture without a byte": (".png", lambda path: path.write_bytes(b""), "cannot be read as an image: cannot identify"),
    "an animation": (".gif", animated, "holds 3 pictures, as an animation or pages: save the one that is meant as PNG"),
    "pages": (".tif", animated, "holds 3 pictures, as an animation or pages"),
    "sixteen bits": (
        ".png",
        lambda path: Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(path),
        "has more than 8 bits a channel (mode I;16): scale its values to 0 to 255",
    ),
}


@pytest.mark.parametrize(("suffix", "spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_picture_is_named_by_its_file(tmp_path, suffix, spoil, message):
    pictures(tmp_path / "set", suffix)
    spoil(tmp_path / "set" / "dog" / f"2{suffix}")
    assert refused(tmp_path, PICTURES).startswith(f"set/dog/2{suffix} {message}")


def test_picture_of_too_many_points_is_refused(tmp_path, monkeypatch):
    pictures(tmp_path / "set")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)  # a real one takes a gigabyte
    assert refused(tmp_path, PICTURES).startswith(
        "set/cat/0.png cannot be read as an image: DecompressionBombError: Image size (480 pixels)"
    )


def holed(path):
    samples = np.zeros(4000, dtype=np.float32)
    samples[1234] = np.nan
    soundfile.write(path, samples, 16000, subtype="FLOAT")


def without_its_end(path):
    path.write_bytes(path.read_bytes()[:-1])


def cut_at_a_page(path):
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"OggS")])


def cut_at_a_frame(path):
    content = path.read_bytes()
    begins = [found.start() for found in re.finditer(re.escape(content[:2]), content)]
    path.write_bytes(content[: begins[4]])


def spoilt(begin, end):
    """Other bytes from one share of a file to another."""

    def spoil(path):
        content = path.read_bytes()
        first, last = (int(share * len(content)) for share in (begin, end))
        path.write_bytes(content[:first] + DRAW.bytes(last - first) + content[last:])

    return spoil


def empty(path):
    with wave.open(os.fspath(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", "not compressed"))


LOST = {
    "a wave file that ends early": (".wav", cut, "is a sound that ends early: 2682 bytes are missing; mend it"),
    "a flac file that ends early": (".flac", cut, "cannot be read as a sound: "),
    "an mp3 without its last byte": (".mp3", without_its_end, "is a sound that ends early: its last frame lacks 1 byte"),
    "an mp3 cut at a frame": (".mp3", cut_at_a_frame, "is a sound that ends early or is damaged: 4 of 9 frames are there"),
    "an mp3 with a bad tail": (".mp3", spoilt(0.8, 1), "is a sound that is damaged: no frame begins at byte"),
    "an mp3 with a hole": (".mp3", spoilt(0.5, 0.55), "is a sound that ends early or is damaged: "),
    "an ogg without its last byte": (".ogg", without_its_end, "is a sound that ends early: its last page lacks 1 byte"),
    "an ogg without its last page": (".ogg", cut_at_a_page, "is a sound that ends early: its last page is not there"),
    "an ogg with a hole": (".ogg", spoilt(0.9, 0.92), "is a sound that is damaged: the page at byte"),
    "samples that are no numbers": (".wav", holed, "holds samples that are NaN or infinite"),
    "no sound": (".mp3", lambda path: path.write_bytes(b"junk" * 9), "cannot be read as a sound: "),
    "no sample": (".wav", empty, "is a sound without a sample"),
}


@pytest.mark.parametrize(("suffix", "spoil", "message"), LOST.values(), ids=LOST)
def test_broken_sound_is_named_by_its_file(tmp_path, suffix, spoil, message):
    sounds(tmp_path / "set", suffix)
    spoil(tmp_path / "set" / "low" / f"1{suffix}")
    assert refused(tmp_path, SOUNDS).startswith(f"set/low/1{suffix} {message}")


def test_sound_of_a_length_that_its_writer_did_not_know_is_read(tmp_path):
    sounds(tmp_path / "set")
    path = tmp_path / "set" / "low" / "1.wav"
    content = bytearray(path.read_bytes())
    at = content.index(b"data")
    content[at + 4 : at + 8] = struct.pack("<I", 2**32 - 1)
    path.write_bytes(content)
    assert load(tmp_path, SOUNDS).labels == ("high", "low")


@pytest.mark.parametrize("name", ["x.heic", "x.svg", "x.txt", "x"])
def test_file_of_another_kind_is_refused_with_what_to_do(tmp_path, name):
    pictures(tmp_path / "set")
    (tmp_path / "set" / "cat" / name).write_bytes(b"x")
    said = refused(tmp_path, PICTURES)
    assert said.startswith(f"set/cat/{name} is no picture that is read (.png, ")
    assert said.endswith("; convert it, or move it out of the folder")


def test_bytes_are_never_taken_for_texts(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        (tmp_path / "set" / label / "x.heic").write_bytes(b"\0\1\2")
    said = refused(tmp_path, TEXTS, files={"path": "set", "layout": "folder-per-label"})
    assert said.startswith("set/a/x.heic is no text: it holds zero bytes; convert it, or move it out of the folder")


def test_texts_in_another_encoding_are_told_or_read_as_the_plan_says(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(12):
            (tmp_path / "set" / label / f"{number}.txt").write_bytes(f"caf\u00e9 \u20ac {label} {number}".encode("cp1252"))
    files = {"path": "set", "layout": "folder-per-label"}
    for encoding in (None, "utf-8"):
        assert refused(tmp_path, TEXTS, files=files, encoding=encoding) == (
            "set/a/0.txt, line 1: byte 3 of the file is 0xe9, not UTF-8; say what it is in, as `encoding: cp1252`, or where only some "
            "files are, `encoding: [utf-8, cp1252]`"
        )
    data = load(tmp_path, TEXTS, files=files, encoding="cp1252")
    assert data.record.findings == ()
    assert "caf\u00e9 \u20ac" in data.split("test")["text"][0]
    assert "not UTF-8 or ASCII; say" in refused(tmp_path, TEXTS, files=files, encoding=["utf-8", "ascii"])


def test_each_text_of_a_folder_is_read_in_the_first_encoding_that_fits_it(tmp_path):
    texts(tmp_path / "set")
    (tmp_path / "set" / "a" / "x.txt").write_bytes("\u00a3 5".encode("latin-1"))
    (tmp_path / "set" / "b" / "x.txt").write_bytes("\u00a3 6".encode())
    data = load(tmp_path, TEXTS, files={"path": "set", "layout": "folder-per-label"}, encoding=["utf-8", "latin-1"])
    assert {"\u00a3 5", "\u00a3 6"} < {text for name in ("train", "validation", "test") for text in data.split(name)["text"]}


# ------------------------------------------------------------------ links


@pytest.mark.parametrize("what", ["file", "folder", "label", "pipe", "metadata"])
def test_nothing_in_a_folder_leads_out_of_it(tmp_path, what):
    pictures(tmp_path / "set")
    pictures(tmp_path / "else")
    place = tmp_path / "set" / "cat"
    if what == "file":
        (place / "9.png").symlink_to(tmp_path / "else" / "cat" / "0.png")
    elif what == "folder":
        (place / "more").symlink_to(tmp_path / "else" / "cat")
    elif what == "label":
        (tmp_path / "set" / "bird").symlink_to(tmp_path / "else" / "cat")
    elif what == "metadata":
        (tmp_path / "set" / "metadata.csv").write_text(
            "file_name,label\n" + "".join(f"cat/{n}.png,{'ab'[n % 2]}\n" for n in range(6))
        )
        (place / "0.png").unlink()
        (place / "0.png").symlink_to(tmp_path / "else" / "cat" / "0.png")
    else:
        os.mkfifo(place / "9.png")
    assert ("is a pipe" if what == "pipe" else "leads to") in refused(tmp_path, PICTURES)
    if what != "pipe":
        assert load(tmp_path, PICTURES, root="else", split={"validation": 1, "test": 2}).labels[0] in ("bird", "cat", "a")


def test_links_within_a_folder_and_in_the_hubs_cache_are_followed(tmp_path):
    blobs = tmp_path / "datasets--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for label in ("cat", "dog"):
        place = blobs.parent / "snapshots" / "0123" / "set" / label
        place.mkdir(parents=True)
        for number in range(6):
            picture().save(blobs / f"{label}{number}", format="png")
            (place / f"{number}.png").symlink_to(f"../../../../blobs/{label}{number}")
    (place.parent / "again").symlink_to("dog")
    data = load(blobs.parent / "snapshots" / "0123", PICTURES)
    assert data.labels == ("cat", "dog")  # what a link shows once more is one folder
    (blobs / "cat0").unlink()
    (blobs / "cat0").symlink_to("/etc/passwd")
    assert "leads to /etc/passwd, out of" in refused(blobs.parent / "snapshots" / "0123", PICTURES)


@pytest.mark.parametrize(
    ("columns", "lacking"),
    [
        (Columns(("text",), kept=("colours",)), "colours"),
        (Columns(("text",), kept=("score",)), "score"),
        (Columns(("premise", "hypothesis"), "label"), "hypothesis"),
        (Columns(("audio",), "label", kept=("speaker",)), "speaker"),
    ],
    ids=["many labels", "numbers", "pairs", "probes"],
)
def test_a_column_that_folders_do_not_give_is_missing(tmp_path, columns, lacking):
    if columns.content == ("audio",):
        sounds(tmp_path / "set")
    else:
        texts(tmp_path / "set")
    with pytest.raises(MissingColumn, match=f"a folder for each label gives no column '{lacking}'") as caught:
        load(tmp_path, columns, files={"path": "set", "layout": "folder-per-label"})
    assert caught.value.column == lacking


def test_photo_of_a_telephone_is_its_first_picture(tmp_path):
    """Cameras write previews and depths behind the photo, and call the file .jpg."""
    pictures(tmp_path / "set")
    photo, behind = picture(), picture()
    photo.save(tmp_path / "set" / "cat" / "photo.jpg", format="MPO", save_all=True, append_images=[behind], quality=95)
    photo.save(tmp_path / "photo.jpg", quality=95)
    assert len(load(tmp_path, PICTURES).split("train")) > 0
    steps = of_image(completed({}, {"image_size": 16}), "x")["steps"]
    paths = [str(tmp_path / "set" / "cat" / "photo.jpg"), str(tmp_path / "photo.jpg")]
    one, alone = (pixels_of(path, steps) for path in paths)
    np.testing.assert_array_equal(one, alone)


@pytest.mark.parametrize(
    ("name", "spelled", "says"),
    [
        ("cat/1.png", "cat\\1.png", "; with `/` it is there"),
        ("caf\u00e9.png", "cafe\u0301.png", "looks the same in other code points"),
        ("one.png", "One.png", "did you mean 'one.png'?"),
    ],
)
def test_name_in_a_table_that_is_spelled_otherwise_is_told(tmp_path, name, spelled, says):
    (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
    picture().save(tmp_path / "set" / name)
    (tmp_path / "set" / "metadata.csv").write_text(f"file_name,label\n{spelled},a\n")
    assert says in refused(tmp_path, PICTURES)


def test_folder_of_something_else_is_told_with_what_to_say(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "rows.csv").write_text("text,label\na,b\n")
    assert refused(tmp_path, TEXTS).endswith("for its tables say `format: csv`")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "saved"))
    assert "`save_to_disk` of datasets wrote it" in refused(tmp_path, TEXTS, files="saved")


PNG = b"\x89PNG"
COLUMNS_OF_FILES = {
    "paths": (
        "a/1.png",
        "files are named in the column `file_name` of a table metadata.csv that lies beside them, with `format: imagefolder`",
    ),
    "bytes": (PNG, "`cast_column('image', Image())` and `to_parquet` of datasets"),
    "bytes and a path": ({"bytes": PNG, "path": None}, "`cast_column('image', Image())` and `to_parquet` of datasets"),
    "values": ([[1, 2]], "save each as a file, in a folder for each label"),
}


@pytest.mark.parametrize(("value", "says"), COLUMNS_OF_FILES.values(), ids=COLUMNS_OF_FILES)
def test_column_of_what_is_no_picture_is_told_when_rows_are_read(value, says):
    rows = datasets.Dataset.from_dict({"image": [value], "label": ["a"]})
    data = Data({"train": rows}, ("a",), DataRecord(source="rows", digest="", splits=()), "d", {"train": ("rows.csv, line 2",)})
    with pytest.raises(SourceError, match=r"^rows.csv, line 2: column 'image' holds .* expected pictures: ") as caught:
        ImageClassification().encoded(data)
    assert says in str(caught.value)


def test_table_of_another_name_beside_pictures_is_told(tmp_path):
    (tmp_path / "set").mkdir()
    picture().save(tmp_path / "set" / "1.png")
    (tmp_path / "set" / "labels.csv").write_text("file_name,label\n1.png,a\n")
    assert refused(tmp_path, PICTURES).endswith("(is it labels.csv? call it metadata.csv)")


# ------------------------------------------------------------------ documents


ALONE = Columns(("text",))


def test_a_folder_of_texts_is_a_document_a_file_where_a_task_reads_texts_alone(tmp_path):
    texts(tmp_path / "set")
    (tmp_path / "set" / "a" / "0.txt").write_text("two\nlines")
    (tmp_path / "set" / "notes.md").write_text("none")
    (tmp_path / "set" / ".hidden").write_text("none")
    data = load(tmp_path, ALONE)
    found = [text for split in ("train", "validation", "test") for text in data.split(split)["text"]]
    assert sorted(found) == sorted(["two\nlines", *(f"text {n} of {x}" for x in "ab" for n in range(6) if (x, n) != ("a", 0))])
    folder = tmp_path / "set"
    assert f"{folder}: 12 documents, each file one row whatever its lines" in data.record.findings
    assert f"{folder}: passed over 1 hidden, 1 of another name" in data.record.findings
    assert data.place("train", 0).endswith(".txt")
    with pytest.raises(SourceError, match="layout: folder-per-label"):
        load(tmp_path, TEXTS)
    lines = load(tmp_path, ALONE, format="text")
    assert "two" in [text for split in ("train", "validation", "test") for text in lines.split(split)["text"]]


def test_folders_of_splits_are_not_taken_for_documents_of_one(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "set" / split / f"{number}.txt").write_text(f"text {number} of {split}")
    with pytest.raises(SourceError, match=r"holds the folders \['test', 'train'\]: name them as splits"):
        load(tmp_path, ALONE)
    data = load(tmp_path, ALONE, {"train": "set/train", "test": "set/test"}, split={"validation": 2})
    assert sorted(data.split("test")["text"]) == [f"text {number} of test" for number in range(6)]


def test_files_deeper_than_their_label_are_told(tmp_path):
    pictures(tmp_path / "set")
    (tmp_path / "set" / "cat" / "tabby" / "old").mkdir(parents=True)
    picture().save(tmp_path / "set" / "cat" / "tabby" / "old" / "x.png")
    told = f"{tmp_path}/set: 1 files lie in folders inside of those of labels, and have the outer one's label"
    assert load(tmp_path, PICTURES).record.findings == (told,)


def test_splits_beside_something_else_are_no_labels(tmp_path):
    pictures(tmp_path / "set")
    for name, label in {"train": "cat", "test": "dog"}.items():
        shutil.move(tmp_path / "set" / label, tmp_path / "set" / name)
    (tmp_path / "set" / "unsup").mkdir()
    picture().save(tmp_path / "set" / "unsup" / "x.png")
    assert (
        refused(tmp_path, PICTURES)
        == "set holds the folders ['test', 'train', 'unsup']: name them as splits, `files: {train: ..., test: ...}`"
    )


def test_a_program_in_the_place_of_a_picture_is_given_to_nobody(tmp_path, monkeypatch):
    """Pillow hands PostScript to Ghostscript, by whatever name it lies there."""
    pictures(tmp_path / "set")
    (tmp_path / "set" / "cat" / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n")
    called = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *given, **more: called.append(given))
    assert refused(tmp_path, PICTURES).startswith("set/cat/0.png cannot be read as an image: cannot identify image file")
    assert called == []


def test_sounds_that_would_fill_the_memory_are_refused_before_they_are_decoded(tmp_path):
    sounds(tmp_path / "set")
    with wave.open(str(tmp_path / "set" / "low" / "1.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(1)
        file.writeframes(bytes(2 * 30_000))
    assert refused(tmp_path, SOUNDS).startswith("set/low/1.wav is a sound of 8.3 hours, 1 channels at 1 Hz, more than 6 hours")
