"""The study of encoders of pictures and of speech in few bits: plans are sound, and the page claims no more than was run and timed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from benchmarks.studies import qat_times
from benchmarks.studies.qat_cases import PICTURES, SPEECH, Rows, picture_case, speech_case
from benchmarks.studies.qat_cells import LABELS, ROUNDED, SOFT, SPLITS, TOOLS, WEIGHT_ONLY, Book, Cell, Found, plan, reference
from benchmarks.studies.qat_others import EPOCHS, PARTS, ROWS, Asked, command, kept_within, lacking
from benchmarks.studies.qat_study import Plan, Study
from benchmarks.studies.qat_times import Point, beats, goals, line
from compressor.contracts import Workload
from compressor.contracts.records import Interval, LatencyRecord, LatencyRow
from compressor.plan.bound import load_plan
from passes.quantization_aware.distill_and_quantize import DistillAndQuantize

SMALL = Rows(6, 3, 4)


@pytest.fixture
def cases(tmp_path):
    """Both, of a few recordings of silence and a few grey pictures."""
    import soundfile
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Picture

    recordings, images, model = (tmp_path / name for name in ("recordings/7", "images", "model"))
    for folder in (recordings, images, model):
        folder.mkdir(parents=True)
    for take in range(24):
        soundfile.write(recordings / f"7_ann_{take}.wav", np.zeros(800, np.float32), 8000)
    for name, count in (("train", 12), ("test", 8)):
        pictures = [Picture.new("L", (28, 28), 20 * number + len(name)) for number in range(count)]
        kinds = Features({"image": Image(), "label": ClassLabel(names=["bag", "boot"])})
        rows = Dataset.from_dict({"image": pictures, "label": [number % 2 for number in range(count)]}, features=kinds)
        rows.to_parquet(images / f"{name}.parquet")
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}")
    return {
        PICTURES: picture_case(model, images, SMALL, 2, 2, tmp_path),
        SPEECH: speech_case(model, tmp_path / "recordings", SMALL, 3),
    }


def bound(made, folder):
    (folder / "plan.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
    return load_plan(folder / "plan.yaml")


@pytest.mark.parametrize("part", PARTS)
def test_every_cell_is_a_sound_plan(cases, part, tmp_path):
    data, scheme = part.split("-")
    case = cases[data]
    for method in PARTS[part]:
        found = bound(plan(Cell(data, scheme, method, 10, 1e-4, 2), case, tmp_path, tmp_path / "model"), tmp_path)
        assert [each.name for each in found.targets] == ["onnxruntime", "openvino"]
        if method in (ROUNDED, LABELS, SOFT):
            step = found.passes[-1].step
            assert isinstance(step, DistillAndQuantize)
            assert step.needs().teachers == (case.base,)
        assert found.reference == case.base


def test_uneven_blocks_go_on_in_the_plan_that_made_them(cases, tmp_path):
    made = bound(reference(cases[SPEECH], tmp_path), tmp_path)
    cell = bound(plan(Cell(SPEECH, "W8A8", SOFT, 10, 1e-4), cases[SPEECH], tmp_path, tmp_path / "unread"), tmp_path)
    assert [each.name for each in cell.passes[:-1]] == [each.name for each in made.passes] == ["finetune", "distill-and-prune"]
    assert [each.step for each in cell.passes[:-1]] == [each.step for each in made.passes]
    assert cases[PICTURES].base == "source"


def test_splits_share_no_take_and_no_picture(cases, tmp_path):
    told = {split: (tmp_path / f"speech-rows-{SMALL}" / split / "metadata.jsonl") for split in SPLITS}
    cases[SPEECH].data(tmp_path)
    takes = {
        split: {int(json.loads(row)["file_name"][:-4].split("_")[2]) for row in path.read_text().splitlines()}
        for split, path in told.items()
    }
    assert {split: len(each) for split, each in takes.items()} == {"train": 4, "validation": 3, "test": 4}
    assert max(takes["test"]) < 15 <= min(takes["validation"])
    assert max(takes["validation"]) < 20 <= min(takes["train"])
    from datasets import Dataset

    files = cases[PICTURES].data(tmp_path)["files"]
    rows = {split: Dataset.from_parquet(path) for split, path in files.items()}
    assert [len(rows[split]) for split in SPLITS] == [6, 3, 4]
    grey = {split: {picture.getpixel((0, 0)) for picture in each["image"]} for split, each in rows.items()}
    assert not grey["train"] & grey["validation"]
    assert all(number % 20 == 5 for number in grey["train"] | grey["validation"])
    assert all(number % 20 == 4 for number in grey["test"])


# ------------------------------------------------------------------ the page


ASKED = Asked(ROWS, EPOCHS, None)


def found(right, base):
    sizes = {"onnxruntime": 24.0, "openvino": 23.0}
    return Found(dict.fromkeys(sizes, right), base, sizes, 1.0, 0.8, None, 1.0)


def right(count, of=400):
    return (np.arange(of) < count).astype(np.float64)


def study(cases, tmp_path, seeds=(0, 1, 2)):
    return Study(Book(tmp_path, cases, 0, run=False), Plan(PARTS, 10, seeds, (1e-5, 3e-5), (LABELS, SOFT)))


def test_what_was_not_run_is_named(cases, tmp_path):
    there = {f"{PICTURES}-W8A8": {ROUNDED: {0: found(right(380), right(384))}, SOFT: {0: found(right(384), right(384))}}}
    said = " ".join(lacking(study(cases, tmp_path), ASKED, there, {}))
    for missing in (
        "PTQ of tools of W8A8 on Fashion-MNIST (DINOv2-small): 0 of 1 cells",
        "KL of W8A8 on Fashion-MNIST (DINOv2-small): 1 of 3 cells",
        "nothing of W4A8 on Fashion-MNIST",
        "nothing of W8A8 on spoken digits",
        "no latency of Fashion-MNIST",
    ):
        assert missing in said
    assert "training" not in said
    fewer = Asked({**ROWS, SPEECH: Rows(600, 300, 900)}, {**EPOCHS, PICTURES: 2}, None)
    said = " ".join(lacking(study(cases, tmp_path), fewer, there, {}))
    assert "encoder, pruned): 600 rows of train instead of 1,800" in said
    assert "Fashion-MNIST (DINOv2-small): 2 epochs of fine-tuning instead of 8" in said
    assert "--speech-rows 600 300 900" in command(study(cases, tmp_path), fewer)
    assert "--picture-epochs 2" in command(study(cases, tmp_path), fewer)
    assert "rows" not in command(study(cases, tmp_path), ASKED)


def test_the_limit_is_held_only_where_the_whole_interval_is_inside():
    base = right(384)
    said = list(kept_within("pictures-W8A8", {ROUNDED: {0: found(right(340), base)}, LABELS: {0: found(right(383), base)}}))
    ends = {line.split(" in ")[0].removeprefix("- "): line.rsplit(": ", 1)[1] for line in said if " in " in line}
    assert ends[ROUNDED] == "missed."
    assert ends[LABELS] == "undecided."
    assert not list(kept_within("pictures-W4A8", {ROUNDED: {0: found(base, base)}}))


# ------------------------------------------------------------------ size and latency


def point(tmp_path, scheme, method, target, megabytes, accuracy, record=None):
    return Point(PICTURES, scheme, method, target, megabytes, accuracy, tmp_path, record)


def timed(milliseconds):
    """A record of constant rounds, a little apart."""
    rows = [
        LatencyRow(
            workload=Workload(),
            candidate=name,
            n=7,
            median_ms=value,
            interval=Interval(low=value, high=value, method="bootstrap"),
            throughput_per_s=1000 / value,
            load_s=0.1,
            first_call_ms=value,
            warm_up_calls=1,
            rounds_ms=tuple(value * (1 + at / 1000) for at in range(7)),
            samples_ms=(),
        )
        for name, value in milliseconds.items()
    ]
    return LatencyRecord.model_construct(rows=tuple(rows), controls=())


def files(tmp_path, record=None):
    return [
        point(tmp_path, qat_times.FLOAT, "float", "onnxruntime", 88.0, 90.0, record),
        point(tmp_path, "W8A8", TOOLS, "onnxruntime", 25.0, 89.0, record),
        point(tmp_path, "W8A8", SOFT, "onnxruntime", 24.0, 90.0, record),
        point(tmp_path, "W4A8", SOFT, "onnxruntime", 14.0, 88.0, record),
        point(tmp_path, "W4A8", WEIGHT_ONLY, "onnxruntime", 15.0, 87.0, record),
    ]


def test_files_that_were_not_timed_are_told_so(tmp_path):
    mine = files(tmp_path)
    assert all("not timed" in line(each, mine) for each in mine)
    assert all("as fast" not in each for each in goals(mine))
    assert any("14.0 MB against 25.0, -1.00 points: held" in each for each in goals(mine))
    front = {each.stage for each in mine if not any(beats(other, each, "megabytes") for other in mine)}
    assert front == {"W8A8-KL", "W4A8-KL"}
    assert not any(beats(other, each, "ms") for each in mine for other in mine)


def test_ours_are_held_against_the_fastest_of_the_tools(tmp_path):
    names = [each.candidate for each in files(tmp_path)]
    record = timed(dict(zip(names, (4.0, 2.0, 1.0, 3.0, 3.0), strict=True)))
    said = list(goals(files(tmp_path, record)))
    assert any("KL at W8A8" in each and "2.00x as fast" in each and each.endswith("held.") for each in said)
    slower = timed(dict(zip(names, (4.0, 2.0, 3.0, 3.0, 3.0), strict=True)))
    assert any("KL at W8A8" in each and each.endswith("missed.") for each in goals(files(tmp_path, slower)))
    assert "4.00x" in line(files(tmp_path, record)[2], files(tmp_path, record))


def test_the_chart_is_drawn_with_and_without_times(tmp_path):
    qat_times.draw(files(tmp_path), tmp_path / "untimed.svg")
    names = [each.candidate for each in files(tmp_path)]
    qat_times.draw(files(tmp_path, timed(dict.fromkeys(names, 2.0))), tmp_path / "times.svg")
    assert "not timed" in (tmp_path / "untimed.svg").read_text()
    assert "not timed" not in (tmp_path / "times.svg").read_text()
