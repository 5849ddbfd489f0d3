"""Every kind of bad input, as a user meets it: the whole of what the command line says, and its exit code.

2: the plan is at fault and nothing has run. 1: a source, a model or a run folder is, found before any training.
3: what was asked for cannot be decided here.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
from furnished import TOKENIZER, write_model, write_rows

from compressor.cli import main
from compressor.store.checksums import SUMS, sums_text
from compressor.store.store import sha256_of

PLAN = """\
name: tiny
model: {folder: model}
task:
  text-classification: {max_length: 16}
data: {files: rows.jsonl, split: {validation: 12, test: 16}, calibration: 8}
reference: finetune
passes:
  - finetune: {epochs: 1, precision: fp32}
targets:
  - torch
accept:
  - {target: torch, max_drop: 100}
"""
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def rows(count, labels=("red", "blue"), start=0):
    return [{"text": f"row {n}", "label": labels[n % len(labels)]} for n in range(start, start + count)]


CONTENTS = {
    "empty.jsonl": "",
    "header.csv": "text,label\n",
    "broken.jsonl": '{"text": "a", "label": "b"}\n{"text": \n',
    "ragged.csv": "text,label\na,b\na,b,c\n",
    "junk.parquet": "junk",
}
MADE = {
    "one.jsonl": rows(40, ("red",)),
    "train.jsonl": rows(40),
    "stranger.jsonl": rows(8, ("red", "green"), start=100),
    "shared.jsonl": rows(4, start=38),
    "unlabelled.jsonl": [{"text": "a", "label": None}] * 5,
    "column.jsonl": [{"body": "a", "label": "b"}] * 5,
    "numbers.jsonl": [{**row, "text": number} for number, row in enumerate(rows(40))],
    "lists.jsonl": [{**row, "label": [row["label"]]} for row in rows(40)],
    "repeated.jsonl": rows(40) + rows(3),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny random BERT, rows, and a plan that runs."""
    place = tmp_path_factory.mktemp("bad")
    write_model(place, **SIZES)
    write_rows(place / "rows.jsonl", rows(60))
    for name, made in MADE.items():
        write_rows(place / name, made)
    for name, text in CONTENTS.items():
        (place / name).write_text(text)
    return place


@pytest.fixture
def command(place, monkeypatch, capsys):
    """Runs a command in that folder; its exit code, standard output and standard error."""
    monkeypatch.chdir(place)
    handler = signal.getsignal(signal.SIGINT)

    def command(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["compressor", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    yield command
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def run(place, command):
    """Runs the plan with texts replaced, and says what went wrong."""

    def run(*replacements):
        text = PLAN
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new, 1)
        (place / "plan.yaml").write_text(text)
        shutil.rmtree(place / "out", ignore_errors=True)
        code, out, error = command("run", "plan.yaml", "--store", "store", "--out", "out")
        assert "finetune: " not in out or code == 3, "something was trained before the fault was found"
        return code, error.strip().replace(str(place), "PLACE")

    return run


# ------------------------------------------------------------------ the plan

PLANS = {
    "unknown key": (("name: tiny", "nmae: tiny"), "plan.yaml:1: nmae: no such key of a plan (did you mean 'name'?)"),
    "unknown parameter": (
        ("epochs: 1", "epoch: 1"),
        "plan.yaml:8: passes.finetune.epoch: no such parameter (did you mean 'epochs'?)",
    ),
    "unknown pass": (
        ("- finetune: {", "- finetun: {"),
        "plan.yaml:6: reference: no step is named 'finetune' (did you mean 'finetun'?)\n"
        "plan.yaml:8: passes.finetun: no pass named 'finetun' is installed (did you mean 'finetune'?)",
    ),
    "unknown target": (
        ("- torch", "- torhc"),
        "plan.yaml:10: targets.torhc: no target named 'torhc' is installed (did you mean 'pytorch'?)\n"
        "plan.yaml:12: accept[0].target: no target is named 'torch' (did you mean 'torhc'?)",
    ),
    "name of a model that is a path": (
        ("name: tiny", "models: {../../outside: {folder: model}}"),
        "plan.yaml:1: models: '../../outside' is no name: expected letters, digits, '-' and '_', at most 64, a letter or digit first",
    ),
    "unknown teacher": (
        ("- finetune: {epochs: 1, precision: fp32}", "- finetune\n  - distill: {teacher: big}"),
        "plan.yaml:9: passes.distill.teacher: no step or model is named 'big' (known: finetune, source)",
    ),
    "a cache of what cannot be kept": (
        (
            "- finetune: {epochs: 1, precision: fp32}",
            "- finetune\n  - distill: {teacher: source, objectives: {attention-maps: 1.0}, cache_teacher: true}",
        ),
        "plan.yaml:9: passes.distill: cache_teacher keeps no attention maps, and attention-maps looks at them: leave cache_teacher out",
    ),
    "compiling what is looked into": (
        (
            "- finetune: {epochs: 1, precision: fp32}",
            "- finetune\n  - distill: {teacher: source, objectives: {relations: 1.0}, compile: true}",
        ),
        "plan.yaml:9: passes.distill: compile: true hides what relations looks at inside of the student: leave compile out",
    ),
    "wrong type": (("epochs: 1", "epochs: one"), "plan.yaml:8: passes.finetune.epochs: found 'one', expected a whole number"),
    "out of range": (
        ("epochs: 1", "epochs: 0"),
        "plan.yaml:8: passes.finetune.epochs: found 0, expected a number greater than or equal to 1",
    ),
    "a word that is none of the known ones": (
        ("precision: fp32", "precision: fp23"),
        "plan.yaml:8: passes.finetune.precision: found 'fp23', expected 'auto', 'fp32' or 'bf16' (did you mean 'fp32'?)",
    ),
    "a gate that names an unknown target": (
        ("target: torch", "target: toch"),
        "plan.yaml:12: accept[0].target: no target is named 'toch' (did you mean 'torch'?)",
    ),
    "a gate that names an unknown metric": (
        ("max_drop: 100", "min_f1: 0.9"),
        "plan.yaml:12: accept[0].min_f1: no such key (known: against, batch, judged_by, length, max_class_drop, max_drop, max_latency_ms, "
        "max_size, metric, min_speedup, on_fail, target, workload)",
    ),
    "a gate on what nothing measures": (
        ("max_drop: 100", "min_speedup: 2"),
        "plan.yaml:12: accept[0]: a limit on speed or latency needs a measurement; add `- latency` to probes",
    ),
    "missing model folder": (
        ("folder: model", "folder: modle"),
        "plan.yaml:2: model.folder: no such folder: modle (seen from PLACE) (did you mean 'model'?)",
    ),
    "missing rows": (
        ("files: rows.jsonl", "files: row.jsonl"),
        "plan.yaml:5: data.files: no such file or folder: row.jsonl (seen from PLACE) (did you mean 'rows.jsonl'?)",
    ),
    "missing include": (
        ("name: tiny", "include: plans.yaml"),
        "plan.yaml:1: include: no such file: plans.yaml (did you mean 'plan.yaml'?)",
    ),
    "no target": (
        ("targets:\n  - torch\n", ""),
        "plan.yaml:1: targets: missing; a plan has at least one target\n"
        "plan.yaml:10: accept[0].target: no target is named 'torch'",
    ),
    "a newer version": (
        ("name: tiny", "version: 2"),
        "plan.yaml:1: version: found 2, this program reads plans of version 1: update compressor-toolchain",
    ),
    "one column for text and label": (
        ("max_length: 16", "text: label"),
        "plan.yaml:4: task.text-classification: content and label are both column 'label'",
    ),
    "no YAML": (
        ("name: tiny", "name: [tiny"),
        "plan.yaml:2: not YAML: expected ',' or ']', but got ':' (while parsing a flow sequence)",
    ),
    "a tag": (
        ("name: tiny", "name: !!python/name:os.system tiny"),
        "plan.yaml:1: tag tag:yaml.org,2002:python/name:os.system found; a plan is plain data, write the value alone",
    ),
}


@pytest.mark.parametrize(("replacement", "message"), PLANS.values(), ids=PLANS)
def test_plan_at_fault(run, replacement, message):
    assert run(replacement) == (2, message)


def test_plan_that_is_not_there(command):
    assert command("run", "nowhere.yaml") == (2, "", "nowhere.yaml:1: no such file: nowhere.yaml\n")


def test_version_that_is_known_is_read(run):
    assert run(("name: tiny", "version: 1\nname: tiny"), ("epochs: 1", "epochs: 0"))[1].startswith("plan.yaml:9: passes.finetune")


# ------------------------------------------------------------------ rows

ROWS = {
    "empty file": ("empty.jsonl", "empty.jsonl holds no rows"),
    "no rows below the header": ("header.csv", "header.csv holds no rows"),
    "no row with a label": (
        "unlabelled.jsonl",
        "unlabelled.jsonl: no row of train has content and a label (5 without a label)",
    ),
    "one class": ("one.jsonl", "one.jsonl: all rows of train have the one label 'red'; at least 2 labels are needed"),
    "a label in test that train has not": (
        "{train: train.jsonl, test: stranger.jsonl}",
        "test has the label 'green', which no row of train has",
    ),
    "rows shared by splits given by hand": (
        "{train: train.jsonl, test: shared.jsonl}",
        "2 rows of train stand in test too (first: train.jsonl, line 39), so that scores would flatter: "
        "say `deduplicate: true` to keep them in test only",
    ),
    "equal rows that are to stay": (
        "repeated.jsonl, deduplicate: false",
        "3 rows of train repeat another (first: repeated.jsonl, line 41), and equal rows can come to stand in two splits: "
        "leave `deduplicate: false` out, or give all splits by hand",
    ),
    "no texts": ("numbers.jsonl", "numbers.jsonl, line 1: column 'text' holds 0 (int), expected texts"),
    "labels that are lists": (
        "lists.jsonl",
        "lists.jsonl, line 1: the label is ['red'], expected a text or a number: one label for each row",
    ),
    "too few rows": (
        "train.jsonl, split: {test: 40}",
        "cannot cut 40 rows of test from 40: give more rows or another `split:`",
    ),
    "broken file": (
        "broken.jsonl",
        "broken.jsonl, line 2: cannot be read as json: Expecting value in column 9; expected one object a line, or one array of "
        "objects",
    ),
    "ragged file": (
        "ragged.csv",
        "ragged.csv, line 3: 3 fields, and the header has 2: put a text that holds a comma into quotation marks",
    ),
    "another format than its name says": (
        "junk.parquet",
        "junk.parquet cannot be read as parquet: Parquet file size is 4 bytes, smaller than the minimum file footer (8 bytes)",
    ),
    "altered rows": (
        "{path: train.jsonl, sha256: abcdefabcdef}",
        "the rows of train.jsonl have sha256 4b9ee257e0e76227..., the plan says abcdefabcdef",
    ),
    "missing package": (
        "{installed: no_such_package, path: rows.csv}",
        "package 'no_such_package' is not installed: pip install no-such-package",
    ),
}


@pytest.mark.parametrize(("files", "message"), ROWS.values(), ids=ROWS)
def test_rows_at_fault(run, files, message):
    assert run(("files: rows.jsonl, split: {validation: 12, test: 16}", f"files: {files}")) == (1, message)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "max_length: 16",
            "plan.yaml:4: task.text-classification: column.jsonl has no column 'text' (columns: body, label); "
            "name the one that is meant, as `text: NAME` below text-classification",
        ),
        (
            "text: bodi",
            "plan.yaml:4: task.text-classification.text: column.jsonl has no column 'bodi' (did you mean 'body'?) (columns: body, label)",
        ),
        (
            "text: body, label: l",
            "plan.yaml:4: task.text-classification.label: column.jsonl has no column 'l' (columns: body, label)",
        ),
    ],
)
def test_column_that_rows_lack_is_a_fault_of_the_plan(place, command, task, message):
    text = PLAN.replace("files: rows.jsonl", "files: column.jsonl").replace("max_length: 16", task)
    (place / "plan.yaml").write_text(text)
    for rest in (["check"], ["run", "--out", "out"]):
        shutil.rmtree(place / "out", ignore_errors=True)
        code, _, error = command(rest[0], "plan.yaml", "--store", "store", *rest[1:])
        assert (code, error) == (2, f"{message}\n")


def test_equal_rows_are_removed_before_splitting_and_counted(place, command):
    (place / "plan.yaml").write_text(PLAN.replace("files: rows.jsonl", "files: repeated.jsonl"))
    code, out, _ = command("check", "plan.yaml", "--store", "store")
    assert code == 0
    assert "data: 12 train, 12 validation, 16 test, 8 calibration; removed: 3 duplicates" in out


# ------------------------------------------------------------------ models


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def headed(*labels):
    def make(folder):
        from transformers import BertConfig, BertForSequenceClassification

        names = dict(enumerate(labels))
        config = BertConfig(**SIZES, max_position_embeddings=32, id2label=names, label2id={v: k for k, v in names.items()})
        BertForSequenceClassification(config).save_pretrained(folder)

    return make


def deberta(folder):
    from transformers import DebertaV2Config, DebertaV2Model

    DebertaV2Model(DebertaV2Config(**SIZES, vocab_size=30522)).save_pretrained(folder)


def flipped(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[9] ^= 4
    path.write_bytes(content)


def linked(name, target):
    def link(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return link


def piped(name):
    def pipe(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return pipe


def grown(path):
    with path.open("wb") as file:
        file.truncate(2**40)


def climbing(folder):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def incomplete(folder):
    climbing(folder)
    path = folder / "model.safetensors.index.json"
    path.write_text(path.read_text().replace("../outside", "model-1-of-2"))


def configured(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def poisoned(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


MODELS = {
    "weights that are no numbers": (poisoned, "bad: bert.embeddings.LayerNorm.bias holds weights that are NaN or infinite"),
    "pickled weights only": (
        pickled,
        "bad/pytorch_model.bin is a pickle, which could run code when it is read: convert it where you trust it, with "
        "`from_pretrained(...)` followed by `save_pretrained(...)`, which writes safetensors",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "bad holds no model.safetensors: is it a model folder in Hugging Face layout?",
    ),
    "a head for other labels": (
        headed("cat", "dog"),
        "bad classifies ['cat', 'dog'], the data has ['blue', 'red']: not the same labels; rename those of the data, or take "
        "the model without its head",
    ),
    "a bit of the weights' header flipped": (
        flipped,
        "bad/model.safetensors is no file of safetensors, or is damaged in its first bytes: fetch it again",
    ),
    "weights outside of the folder": (
        climbing,
        "bad/model.safetensors.index.json names '../outside.safetensors': expected safetensors files in its own folder",
    ),
    "a file of the weights missing": (
        incomplete,
        "bad/model-1-of-2.safetensors is missing, and model.safetensors.index.json names it",
    ),
    "another size than the weights": (
        configured(hidden_size=16),
        "bad: bert.embeddings.LayerNorm.bias is [8] in the weights and [16] by config.json",
    ),
    "no configuration": (
        lambda folder: (folder / "config.json").write_text("{"),
        "the tokenizer in bad cannot be read: It looks like the config file at 'bad/config.json' is not a valid JSON file.",
    ),
    "a model of another kind": (
        configured(model_type="vit"),
        "bad cannot be read as a model: Unrecognized configuration class <class "
        "'transformers.models.vit.configuration_vit.ViTConfig'> for this kind of AutoModel: AutoModelForSequenceClassification.",
    ),
    "a link to a file that nobody named": (
        linked("vocab.txt", "/etc/passwd"),
        "bad/vocab.txt leads to /etc/passwd, out of bad: copy it there, or leave it out",
    ),
    "a link to another folder": (linked("more", ".."), "bad/more leads to PLACE, out of bad: copy it there"),
    "a configuration that never ends": (piped("config.json"), "bad/config.json: it is a pipe, socket or device, and no file"),
    "a vocabulary that fills the memory": (
        lambda folder: grown(folder / "vocab.txt"),
        "bad/vocab.txt has 1099512 MB; at most 268 are read of a file beside the weights",
    ),
    "no tokenizer": (
        lambda folder: [(folder / name).unlink() for name in TOKENIZER],
        "bad has no tokenizer (tokenizer.json or vocab.txt)",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), MODELS.values(), ids=MODELS)
def test_model_at_fault(run, place, spoil, message):
    shutil.rmtree(place / "bad", ignore_errors=True)
    shutil.copytree(place / "model", place / "bad")
    spoil(place / "bad")
    code, said = run(("folder: model", "folder: bad"))
    assert (code, said[: len(message)]) == (1, message)
    assert len(said.splitlines()) == 1


def test_no_row_of_the_anatomy(run, place):
    shutil.rmtree(place / "bad", ignore_errors=True)
    shutil.copytree(place / "model", place / "bad")
    deberta(place / "bad")
    prune = (
        "- finetune: {epochs: 1, precision: fp32}",
        "- finetune: {epochs: 1, precision: fp32}\n  - prune-structure: {keep: 0.5}",
    )
    assert run(("folder: model", "folder: bad"), prune) == (
        1,
        "source: no anatomy row fits model type 'deberta-v2'; closest: bert, modernbert, roberta; another row is one entry point of "
        "'compressor.anatomy' (prune-structure works on heads and neurons; steps that look at nothing inside take any model)",
    )


def test_altered_weights(run):
    code, said = run(("{folder: model}", "{folder: model, sha256: abcdefabcdef}"))
    assert code == 1
    assert re.fullmatch(r"model/model\.safetensors has sha256 [0-9a-f]{16}\.\.\., the plan says abcdefabcdef", said)


def test_advice_on_pickled_weights_works(run, place, command):
    import torch
    from transformers import AutoModel

    shutil.rmtree(place / "bad", ignore_errors=True)
    shutil.copytree(place / "model", place / "bad")
    module = AutoModel.from_pretrained(place / "model")
    torch.save(module.state_dict(), place / "bad" / "pytorch_model.bin")
    (place / "bad" / "model.safetensors").unlink()
    assert run(("folder: model", "folder: bad"))[0] == 1
    AutoModel.from_pretrained(place / "bad").save_pretrained(place / "bad")
    assert command("check", "plan.yaml", "--store", "store")[0] == 0


# ------------------------------------------------------------------ teachers


def test_teacher_of_other_labels_is_found_before_anything_is_trained(run, place):
    shutil.rmtree(place / "other", ignore_errors=True)
    shutil.copytree(place / "model", place / "other")
    headed("cat", "dog")(place / "other")
    step = ("  - finetune: {epochs: 1, precision: fp32}\n", "  - finetune\n  - distill: {teacher: big}\n")
    assert run(("name: tiny", "models: {big: {folder: other}}"), step) == (
        1,
        "other classifies ['cat', 'dog'], the data has ['blue', 'red']: not the same labels; rename those of the data, or take "
        "the model without its head (`AutoModel.from_pretrained(FOLDER).save_pretrained(OTHER)`, and its other files beside it) for a new one",
    )


def test_teacher_of_another_tokenizer(run, place):
    shutil.rmtree(place / "other", ignore_errors=True)
    shutil.copytree(place / "model", place / "other")
    vocabulary = place / "other" / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"apples"', '"apfel"', 1))
    step = (
        "  - finetune: {epochs: 1, precision: fp32}\n",
        "  - finetune\n  - distill: {teacher: big, objectives: {hidden-states: 1.0}}\n",
    )
    assert run(("name: tiny", "models: {big: {folder: other}}"), step) == (
        1,
        "teacher big and student read different inputs (tokenizer.json differ): "
        "such a teacher gives soft-targets only (of words, sorted-probabilities), with cache_teacher: true",
    )


# ------------------------------------------------------------------ targets that are not here


def test_target_that_is_not_here_is_undecided_and_says_why(run, place):
    targets = ("  - torch\n", "  - torch\n  - onnxruntime: {provider: cuda}\n")
    code, said = run(targets, ("target: torch", "target: onnxruntime"))
    report = json.loads((place / "out" / "report.json").read_text())
    reason = report["missing"]["onnxruntime"]
    assert (code, said, report["outcome"]) == (3, "", "undecided")
    assert reason.startswith("this onnxruntime has no CUDAExecutionProvider")
    assert [verdict["why"] for verdict in report["verdicts"]] == [reason]


# ------------------------------------------------------------------ folders for results


@pytest.fixture(scope="module")
def ended(place):
    """A run that has ended well."""
    (place / "good.yaml").write_text(PLAN)
    patch = pytest.MonkeyPatch()
    patch.chdir(place)
    patch.setattr(sys, "argv", ["compressor", "run", "good.yaml", "--store", "store", "--out", "ended"])
    with pytest.raises(SystemExit) as end:
        main()
    patch.undo()
    assert not end.value.code
    return place / "ended"


def test_run_into_a_folder_that_is_not_empty(command, ended):
    said = "ended is not empty, it holds a run that has ended: name another folder with --out\n"
    assert command("run", "good.yaml", "--store", "store", "--out", "ended") == (1, "", said)


def test_run_into_what_cannot_be_a_folder(command, ended):
    said = "rows.jsonl cannot be a folder (File exists): name another one with --out\n"
    assert command("run", "good.yaml", "--store", "store", "--out", "rows.jsonl") == (1, "", said)


def test_export_into_a_folder_that_is_not_empty_is_refused_before_the_run(command, ended, place):
    said = "model is not empty: choose a new folder\n"
    assert command("run", "good.yaml", "--store", "store", "--out", "fresh", "--export", "model") == (1, "", said)
    assert not (place / "fresh").exists()


def test_export_into_what_cannot_be_a_folder(command, ended, place):
    said = f"rows.jsonl/out cannot be a folder, {place / 'rows.jsonl'} is a file: choose another\n"
    assert command("export", "ended", "rows.jsonl/out", "--target", "torch") == (1, "", said)


def test_export_into_a_folder_that_is_not_empty(command, ended):
    said = "model is not empty: choose a new folder\n"
    assert command("export", "ended", "model", "--target", "torch") == (1, "", said)


# ------------------------------------------------------------------ run folders that are not what the run wrote

BUILT = "artifacts/final@torch"
FILES = ("blueprint.json", "config.json", "model.safetensors", "task.json", "tokenizer.json", "tokenizer_config.json")


def swapped(folder):
    one, two = folder / BUILT / "config.json", folder / BUILT / "task.json"
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def linked(name, to):
    def link(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(folder.parent / to)

    return link


def reported(change, *, summed=True):
    """Change the report; with `summed`, by somebody who has made the digests anew."""

    def spoil(folder):
        values = json.loads((folder / "report.json").read_text())
        change(values)
        (folder / "report.json").write_text(json.dumps(values))
        if summed:
            listed = [line[66:] for line in (folder / SUMS).read_text().splitlines()]
            (folder / SUMS).write_text(sums_text({name: sha256_of(folder / name) for name in listed}))

    return spoil


def named(name):
    def change(values):
        final = next(each for each in values["candidates"] if each["id"] == "final@torch")
        final["files"][0]["name"] = name

    return change


def called(name):
    def change(values):
        next(each for each in values["candidates"] if each["id"] == "final@torch")["id"] = name

    return change


EXPORTS = {
    "altered report": (
        reported(lambda values: values.update(outcome="accepted", seed=7), summed=False),
        r"run/report\.json is not the file that was written: sha256 [0-9a-f]{12}, SHA256SUMS says [0-9a-f]{12}; run the plan again",
    ),
    "no report": (
        lambda folder: (folder / "report.json").unlink(),
        r"run holds no report\.json: is it the folder of a run\?",
    ),
    "no digests": (
        lambda folder: (folder / "SHA256SUMS").unlink(),
        r"run/SHA256SUMS cannot be read, so nothing proves what lies beside it: run the plan again",
    ),
    "report of a newer version": (
        reported(lambda values: values.update(version=3, news=[])),
        r"run/report\.json has version 3, this program reads up to 2: update compressor-toolchain to read it",
    ),
    "altered weights": (
        lambda folder: flipped(folder / BUILT),
        rf"run/{BUILT}/model\.safetensors is not the file that was measured: sha256 [0-9a-f]{{12}}, "
        "the report says [0-9a-f]{12}",
    ),
    "missing weights": (
        lambda folder: (folder / BUILT / "model.safetensors").unlink(),
        rf"run/{BUILT}/model\.safetensors is missing: run the plan again to build it",
    ),
    "renamed weights": (
        lambda folder: (folder / BUILT / "model.safetensors").rename(folder / BUILT / "weights.safetensors"),
        rf"run/{BUILT}/model\.safetensors is missing: run the plan again to build it",
    ),
    "weights beside those that were measured": (
        lambda folder: (folder / BUILT / "model.onnx").write_bytes(b"x"),
        rf"run/{BUILT}/model\.onnx is not in SHA256SUMS: the run did not write it",
    ),
    "missing tokenizer": (
        lambda folder: (folder / BUILT / "tokenizer.json").unlink(),
        rf"run/{BUILT}/tokenizer\.json is missing: run the plan again",
    ),
    "renamed tokenizer": (
        lambda folder: (folder / BUILT / "tokenizer.json").rename(folder / BUILT / "old.json"),
        rf"run/{BUILT}/tokenizer\.json is missing: run the plan again",
    ),
    "swapped files": (
        swapped,
        rf"run/{BUILT}/config\.json is not the file that was written: sha256 [0-9a-f]{{12}}, "
        "SHA256SUMS says [0-9a-f]{12}; run the plan again",
    ),
    "file that links out": (
        linked(f"{BUILT}/tokenizer.json", "model/tokenizer.json"),
        rf"run/{BUILT}/tokenizer\.json is a link: only plain files are read here",
    ),
    "folder that links out": (
        linked("artifacts", "ended/artifacts"),
        r"run/artifacts is a link: only plain files are read here",
    ),
    "name of a file that climbs out": (
        reported(named("../../../secret")),
        r"run/report\.json is no report of version 2: candidates\.\d\.files\.0\.name: Value error, '../../../secret' "
        r"leads out of its folder \(1 faults\)",
    ),
    "name of a candidate that climbs out": (
        reported(called("../../x@torch")),
        r"run/report\.json is no report of version 2: candidates\.\d\.id: String should match pattern "
        r"'\^\[A-Za-z0-9_.-\]\+@\[A-Za-z0-9_-\]\+\$' \(1 faults\)",
    ),
    "digest of a file that climbs out": (
        lambda folder: (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ../secret\n"),
        r"run/SHA256SUMS has a line that is no digest of a file in this folder: '0{64}  \.\./secret'",
    ),
}


@pytest.fixture
def copied(ended, place):
    """A copy of the run folder, to be spoilt."""
    for name in ("run", "exported"):
        shutil.rmtree(place / name, ignore_errors=True)
    return Path(shutil.copytree(ended, place / "run"))


@pytest.mark.parametrize(("spoil", "message"), EXPORTS.values(), ids=EXPORTS)
def test_run_folder_at_fault_is_not_exported(command, copied, place, spoil, message):
    spoil(copied)
    code, out, error = command("export", "run", "exported", "--target", "torch")
    assert (code, out) == (1, "")
    assert re.fullmatch(message, error.strip())
    assert [path.name for path in place.glob("*exported*")] == []


SHOWN = ("altered report", "no report", "no digests", "report of a newer version", "name of a file that climbs out")


@pytest.mark.parametrize("case", SHOWN)
def test_run_folder_at_fault_is_not_shown(command, copied, case):
    spoil, message = EXPORTS[case]
    spoil(copied)
    code, out, error = command("show", "run")
    assert (code, out) == (1, "")
    assert re.fullmatch(message, error.strip())


@pytest.mark.parametrize("name", ["report.json", *(f"{BUILT}/{name}" for name in FILES)])
def test_bit_flipped_anywhere_is_found(command, copied, name):
    draw, path = random.Random(name), copied / name
    whole = path.read_bytes()
    for _ in range(8):
        content = bytearray(whole)
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        code, _, error = command("export", "run", "exported", "--target", "torch")
        assert code == 1
        assert error.startswith(f"run/{name} ")


def test_whole_run_folder_is_shown_exported_and_checked_by_sha256sum(command, copied):
    import subprocess

    assert command("show", "run")[0] == 0
    assert command("export", "run", "exported", "--target", "torch")[0] == 0
    for folder in ("run", "exported"):
        assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=copied.parent / folder).returncode == 0


def test_folder_that_is_no_run(command):
    assert command("show", "model") == (1, "", "model holds no report.json: is it the folder of a run?\n")


def test_file_or_folder_of_runs_is_told_where_a_run_is_wanted(command, ended, place):
    assert command("show", "ended/report.json") == (
        1,
        "",
        "ended/report.json is a file: name the folder of the run, where its report.json lies\n",
    )
    found = command("show", ".")
    assert found[2].startswith(". holds no report.json: is it the folder of a run? Runs lie in it: name one, as ")
