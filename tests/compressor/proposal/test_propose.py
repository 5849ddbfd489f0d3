"""`compressor init`: what is seen of a model and rows, and the plan that is written of it."""

from __future__ import annotations

import json

import pytest
from furnished import rows, told, write_files, write_model, write_rows
from typer.testing import CliRunner

from benchmarks.latency import Latency
from benchmarks.memory import Memory
from compressor.api import run
from compressor.cli import app
from compressor.contracts import Recipe, Task, registry
from compressor.errors import CompressorError, MissingDependency, PluginError, SourceError
from compressor.plan.yaml_source import read_yaml
from compressor.proposal import Asked, propose
from compressor.proposal.columns import column_of
from compressor.run.preview import preview
from compressor.store.store import Store
from compressor.tasks.generation.audio_generation import AudioGeneration
from compressor.tasks.generation.description import Description
from compressor.tasks.generation.image_generation import ImageGeneration
from compressor.tasks.text_classification import TextClassification
from compressor.tasks.tiny import text_model
from passes.fold import Fold

WORDS = ("apples and pears", "water under bridges", "stones in a wall", "winds over hills")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model without a head, one with a head for blue and red, and one for numbers."""
    folder = tmp_path_factory.mktemp("proposals")
    text_model(folder / "bare")
    for name, labels in (("headed", ("blue", "red")),):
        write_model(folder / f"{name}-at", labels).rename(folder / name)
    write_rows(folder / "rows.jsonl", rows(80))
    return folder


def proposed(place, data, model="bare", **asked):
    return propose(Asked(model, data, folder=place, **asked))


def names(plan):
    return [each.name for each in plan.bound.passes]


def table(place, name, made):
    write_rows(place / name, made)
    return name


def test_texts_of_several_encodings_are_seen_and_said(place):
    for number in range(40):
        label = "ab"[number % 2]
        (place / "texts" / label).mkdir(parents=True, exist_ok=True)
        spelled = f"caf\u00e9 {number}".encode("cp1252" if number == 7 else "utf-8")
        (place / "texts" / label / f"{number}.txt").write_bytes(spelled)
    plan = proposed(place, "texts")
    assert plan.bound.data.encoding == ("utf-8", "cp1252")
    assert next(line for line in preview(plan.bound, Store(place / "store")) if line.startswith("data: "))


def test_models_that_draw_are_taught_to_do_so_in_few_steps(tmp_path):
    """A trained one at once, by pictures with a class; one that was only made is trained first. Others than ours cannot be told a span."""
    drawing = ImageGeneration()
    data = drawing.tiny(tmp_path)
    bare = propose(Asked("pretrained", data["files"], folder=tmp_path))
    assert (bare.bound.task_name, bare.bound.reference) == ("image-generation", "finetune")
    assert names(bare) == ["finetune", "distill-steps", "quantize-static"]
    finetune, steps, _ = (each.step for each in bare.bound.passes)
    assert (finetune.learning_rate, finetune.ema, steps.teacher, steps.method, steps.to) == (
        1e-3,
        0.995,
        "finetune",
        "shortcut",
        (8, 4),
    )
    (tmp_path / "pretrained" / "diffusion.json").write_bytes(Description(shape=(3, 16, 16), classes=3, empty=3).written())
    trained = propose(Asked("pretrained", data["files"], folder=tmp_path))
    assert names(trained) == ["distill-steps", "quantize-static"]
    assert "image-classification" not in trained.bound.task_name
    assert any("draw in 8 and 4 steps" in line for line in trained.text.splitlines())


def test_model_that_draws_and_sounds_are_told_from_sounds_to_classify(tmp_path):
    drawing = AudioGeneration()
    data = drawing.tiny(tmp_path)
    plan = propose(Asked("pretrained", data["files"], folder=tmp_path))
    assert (plan.bound.task_name, names(plan)) == ("audio-generation", ["finetune", "distill-steps", "quantize-static"])
    (tmp_path / "pretrained" / "config.json").write_text('{"model_type": "hubert"}')
    with pytest.raises(SourceError, match=r"preprocessor_config\.json"):
        propose(Asked("pretrained", data["files"], folder=tmp_path))


# ------------------------------------------------------------------ every task


@pytest.mark.parametrize("name", registry.names("task"))
def test_plan_of_every_task_passes_check(name, tmp_path):
    kind = registry.load("task", name)
    data = kind.model_validate(dict(kind.examples[0])).tiny(tmp_path)
    if kind.recipe.__func__ is Task.recipe.__func__:
        with pytest.raises(SourceError, match=f"{name} offers no recipe, so `init` cannot write a plan of it"):
            propose(Asked("pretrained", data["files"], folder=tmp_path, task=name, max_drop=5))
        return
    plan = propose(Asked("pretrained", data["files"], folder=tmp_path, task=name, max_drop=5))
    assert plan.bound.task_name == name
    untrained = kind.trainable and not kind().trained(tmp_path / "pretrained", ("a", "b"))
    trains = ["finetune"] if untrained else []
    quantizes = "quantize-weights" if kind.counts == "tokens" else "quantize-static"
    changes = ["distill-steps"] if name in ("image-generation", "audio-generation") else ["prune-structure", "distill"]
    assert names(plan) == [*trains, *changes, quantizes]
    lines = list(preview(plan.bound, Store(tmp_path / "store")))
    assert "data: 33 train, 5 validation, 10 test, 33 calibration" in lines
    assert not [line for line in lines if "refused" in line]
    assert plan.bound.targets
    assert plan.bound.accept
    assert plan.bound.passes[-1].step.quantizes


def test_model_without_a_head_is_trained_first_and_held_against(place):
    plan = proposed(place, "rows.jsonl")
    assert names(plan) == ["finetune", "quantize-static"]
    assert plan.bound.reference == "finetune"
    assert "# bert: has no head: a newly initialised one for blue, red is put in, and has to be trained" in plan.text


def test_model_with_a_head_is_only_quantised_and_held_against_itself(place):
    plan = proposed(place, "rows.jsonl", "headed")
    assert (names(plan), plan.bound.reference) == (["quantize-static"], "source")
    assert "# bert: has its own head for blue, red" in plan.text
    assert plan.bound.passes[0].step.max_drop == 1.0


def test_more_may_be_lost_on_each_rung_of_the_ladder(place):
    plans = {drop: proposed(place, "rows.jsonl", "headed", max_drop=drop) for drop in (0.5, 3.0, 5.0)}
    assert names(plans[0.5]) == ["quantize-static"]
    assert names(plans[3.0]) == names(plans[5.0]) == ["prune-structure", "distill", "quantize-static"]
    assert plans[3.0].bound.passes[0].step.keep > plans[5.0].bound.passes[0].step.keep
    assert plans[3.0].bound.passes[1].step.teacher == "source"
    assert {accept.max_drop for accept in plans[3.0].bound.accept} == {3.0}
    shown = plans[0.5].text.partition("# Where 2 points may be lost (--max-drop 2), init proposes:\n")[2].partition("\n\n")[0]
    uncommented, _ = read_yaml(shown.replace("# ", ""), "rung")
    assert [each if isinstance(each, str) else next(iter(each)) for each in uncommented.plain()["passes"]] == names(plans[3.0])


def test_only_passes_that_shrink_nothing_are_proposed_where_the_family_is_not_known(place, monkeypatch):
    monkeypatch.setattr("compressor.proposal.ladder.limits", lambda *_: ("stranger", None))
    assert names(proposed(place, "rows.jsonl", "headed", max_drop=10)) == ["quantize-static"]


def test_recipes_of_any_plugin_are_heeded_by_role_and_rank(place, monkeypatch):
    offer = Recipe({}, "tidy graphs, for one", role="quantize", rank=-1)
    monkeypatch.setattr(Fold, "recipe", classmethod(lambda cls, wish: offer))
    plan = proposed(place, "rows.jsonl", "headed")
    assert names(plan) == ["fold"]
    assert "  # tidy graphs, for one\n  - fold\n" in plan.text


@pytest.mark.parametrize(
    ("kind", "name", "plugin"), [("pass", "fold", Fold), ("task", "text-classification", TextClassification)]
)
def test_recipe_that_fails_is_told_with_its_owner(place, monkeypatch, kind, name, plugin):
    monkeypatch.setattr(plugin, "recipe", classmethod(lambda cls, wish: {}["lacking"]))
    with pytest.raises(PluginError, match=rf"the recipe of {kind} '{name}' fails: KeyError: 'lacking'; .* compressor-toolchain"):
        proposed(place, "rows.jsonl", "headed")


def test_task_without_a_recipe_is_told(place, monkeypatch):
    monkeypatch.delattr(TextClassification, "recipe")
    with pytest.raises(SourceError, match="text-classification offers no recipe, so `init` cannot write a plan of it"):
        proposed(place, "rows.jsonl", "headed", task="text-classification")


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("folder", "folder is a folder: name a file to write the plan into by --out"),
        ("dangling.yaml", "dangling.yaml is there already: --force writes over it, --out names another file"),
        ("/proc/plan.yaml", "/proc/plan.yaml cannot be written: "),
    ],
)
def test_plan_that_cannot_be_written_is_told(place, tmp_path, out, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "none" / "plan.yaml")
    done = told(tmp_path, "init", str(place / "headed"), str(place / "rows.jsonl"), "--out", out)
    assert done.returncode == 1
    assert done.stderr.startswith(said)


@pytest.mark.parametrize("drop", ["inf", "nan", "-1"])
def test_what_may_be_lost_is_a_number(drop):
    done = CliRunner().invoke(app, ["init", "model", "rows.csv", "--max-drop", drop])
    assert done.exit_code == 2
    assert "Invalid value for '--max-drop'" in done.output


# ------------------------------------------------------------------ lengths and splits


def test_length_is_the_least_that_cuts_at_most_one_text_in_a_hundred(place):
    made = [
        {"text": " ".join(["word1"] * (3 if n % 100 else 30)) + f" word{n % 40} {n}", "label": f"{n % 2}"} for n in range(400)
    ]
    plan = proposed(place, table(place, "long.jsonl", made))
    assert plan.bound.task.max_length == 8
    assert "99 % have at most 7; max_length 8 cuts 1.0% of them" in plan.text
    assert plan.bound.probes[0].probe.length == (8,)


def test_length_is_within_what_the_model_has_positions_for(place):
    made = [{"text": "word1 " * 90 + f"word{n % 40} {n}", "label": f"{n % 2}"} for n in range(60)]
    assert proposed(place, table(place, "longer.jsonl", made)).bound.task.max_length == 40


@pytest.mark.parametrize("form", ["files", "folders", "labels"])
def test_splits_are_told_by_names_of_files_and_folders(place, form):
    folder = place / f"split-{form}"
    parts = {"train": rows(60), "dev": rows(20, start=60), "test": rows(20, start=80)}
    for name, made in parts.items():
        if form == "labels":
            write_files(folder / name, made)
            continue
        path = folder / f"{name}.jsonl" if form == "files" else folder / name / "rows.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_rows(path, made)
    plan = proposed(place, folder.name)
    assert set(plan.bound.data.files.parts()) == {"train", "validation", "test"}
    assert ": 60 train, 20 validation, 20 test" in plan.text


def test_rows_in_two_splits_are_kept_in_one_and_that_is_said(place):
    folder = place / "shared"
    folder.mkdir()
    write_rows(folder / "train.jsonl", rows(60))
    write_rows(folder / "test.jsonl", rows(30, start=50))
    plan = proposed(place, "shared")
    assert plan.bound.data.deduplicate
    assert "# rows that stand in two splits are kept in one" in plan.text


@pytest.mark.parametrize(
    ("name", "head", "line", "says"),
    [
        ("semicolons.csv", "id;text;label", "{n};one, two {n} {label};{label}", {"separator": ";"}),
        ("tabs.csv", "text\tlabel", "a {n}\t{label}", {"separator": "\t"}),
        ("quoted.tsv", "text\tlabel", '"a {n}"\t{label}', {"quoting": "minimal"}),
        ("umlauts.csv", "text,label", "schöner {n} Tag,{label}", {"encoding": "cp1252"}),
        ("excel.csv", "text\tlabel", "schöner {n} Tag\t{label}", {"encoding": "utf-16", "separator": "\t"}),
        ("windows.csv", "text;label", "schöner {n} Tag;{label}", {"encoding": "utf-16-le", "separator": ";"}),
    ],
)
def test_how_a_table_is_written_is_found_and_said(place, name, head, line, says):
    lines = [head, *(line.format(n=n, label=("blue", "red")[n % 2]) for n in range(40))]
    (place / name).write_text("\n".join(lines) + "\n", encoding=says.get("encoding", "utf-8"))
    plan = proposed(place, name)
    assert {key: getattr(plan.bound.data, key) for key in says} == says
    assert plan.bound.task.label == "label"


# ------------------------------------------------------------------ columns


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([f"a text of words {n}" for n in range(9)], "text"),
        ([f"{'好' * (n + 4)}" for n in range(9)], "text"),
        (["blue", "red", "blue", "red"], "class"),
        ([5, 4, 3, 5, 4, 3], "class"),
        (["0", "1", "0", "1"], "bits"),
        ([0.5, 1.25, 3.0, 0.5], "number"),
        ([n * 7 for n in range(30)], "other"),
        ([["a"], ["a", "b"], []], "labels"),
        ([None, "", None], "other"),
        (["train", "test", "train", "Test"], "other"),
        ([f"uuid-{n}" for n in range(9)], "other"),
    ],
)
def test_column_is_what_its_values_are(values, kind):
    assert column_of("it", values).kind == kind


def test_columns_that_could_be_meant_are_listed_and_an_option_chooses(place):
    made = [
        {"body": f"one text {n}", "headline": f"other text {n}", "tone": f"{n % 2}x", "genre": f"{n % 3}y"} for n in range(60)
    ]
    data = table(place, "unclear.jsonl", made)
    with pytest.raises(
        SourceError, match=r"which column is the label\? It could be 'tone' \(2 classes\), 'genre' \(3 classes\): say --label"
    ):
        proposed(place, data)
    plan = proposed(place, data, label=("genre",))
    assert (plan.bound.task.text, plan.bound.task.label) == ("body", "genre"), "body is a usual name"
    with pytest.raises(SourceError, match=r"no column 'gender' .did you mean 'genre'"):
        proposed(place, data, label=("gender",))
    plan = proposed(place, data, text=("headline", "body"), label=("tone",))
    assert plan.bound.task.text == ("headline", "body")


def test_a_column_of_splits_is_no_label_and_is_said_not_to_be_read(place):
    made = [{"text": f"{WORDS[n % 4]} {n}", "label": f"{n % 2}a", "split": ["train", "train", "test"][n % 3]} for n in range(60)]
    plan = proposed(place, table(place, "split-column.jsonl", made))
    assert plan.bound.task.label == "label"
    assert "column 'split' says test, train and is not read: to keep these splits write a file for each of them" in plan.text


def test_of_several_columns_of_labels_the_one_that_the_head_knows_is_taken(place):
    made = [{"text": f"{WORDS[n % 4]} {n}", "label": n % 2, "named": ["blue", "red"][n % 2]} for n in range(60)]
    data = table(place, "numbered.jsonl", made)
    plan = proposed(place, data, "headed")
    assert plan.bound.task.label == "named"
    assert "its words are the classes of the model's head" in plan.text
    assert proposed(place, data).bound.task.label == "label"


def test_pairs_lists_of_labels_bits_and_numbers_are_told_by_their_columns(place):
    pairs = [{"premise": f"{WORDS[n % 4]} {n}", "hypothesis": f"so {n} it is", "label": f"{n % 2}a"} for n in range(60)]
    assert proposed(place, table(place, "pairs.jsonl", pairs)).bound.task.text == ("premise", "hypothesis")
    lists = [{"text": f"{WORDS[n % 4]} {n}", "tags": [["a"], ["a", "b"], ["b"]][n % 3]} for n in range(60)]
    assert proposed(place, table(place, "lists.jsonl", lists)).bound.task.multi_label
    bits = [{"text": f"{WORDS[n % 4]} {n}", "toxic": n % 2, "rude": n // 2 % 2} for n in range(60)]
    task = proposed(place, table(place, "bits.jsonl", bits)).bound.task
    assert (task.multi_label, task.label) == (True, ("toxic", "rude"))
    numbers = [{"text": f"{WORDS[n % 4]} {n}", "score": n % 7 + 0.5} for n in range(60)]
    plan = proposed(place, table(place, "numbers.jsonl", numbers))
    assert (plan.bound.task_name, plan.bound.task.label) == ("text-regression", "score")
    assert "max_drop is in points of Spearman against finetune" in plan.text


def test_rows_that_no_task_fits_are_listed(place):
    data = table(place, "nothing.jsonl", [{"id": n, "name": f"n{n}"} for n in range(30)])
    with pytest.raises(
        SourceError, match=r"no task fits the columns 'id' \(a whole number each, 0 to 29\), 'name' \(30 different"
    ):
        proposed(place, data)


# ------------------------------------------------------------------ targets


def test_target_that_is_asked_for_is_the_only_one(place):
    plan = proposed(place, "rows.jsonl", "headed", target="openvino")
    assert [each.name for each in plan.bound.targets] == ["openvino"]
    with pytest.raises(PluginError, match="did you mean 'openvino'"):
        proposed(place, "rows.jsonl", "headed", target="openvin")
    with pytest.raises(CompressorError, match="no pass that is installed makes this model smaller on pytorch"):
        proposed(place, "rows.jsonl", "headed", target="pytorch")


def test_target_that_is_not_here_is_told_with_what_it_lacks(place, monkeypatch):
    from compressor.contracts import Missing

    monkeypatch.setattr(registry.load("target", "openvino"), "missing", lambda self: Missing(run="openvino is not installed"))
    plan = proposed(place, "rows.jsonl", "headed")
    assert [each.name for each in plan.bound.targets] == ["onnxruntime"]
    assert "  # not here: openvino: openvino is not installed\n" in plan.text
    with pytest.raises(MissingDependency, match="target openvino: openvino is not installed"):
        proposed(place, "rows.jsonl", "headed", target="openvino")


# ------------------------------------------------------------------ the command line


def test_init_writes_a_plan_says_what_it_saw_and_writes_nothing_over_a_file(place):
    done = told(place, "init", "headed", "rows.jsonl", "--out", "plans/of.yaml")
    assert done.returncode == 1
    assert "plans: no such folder to write the plan into" in done.stderr
    (place / "plans").mkdir()
    done = told(place, "init", "headed", "rows.jsonl", "--out", "plans/of.yaml")
    assert done.returncode == 0, done.stderr
    written = (place / "plans" / "of.yaml").read_text()
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["model", "task", "data", "passes", "targets", "plan"]
    assert "data: 1 json file: 56 train, 8 validation, 16 test\n" in done.stdout
    assert "model: {folder: ../headed}" in written
    assert told(place, "check", "plans/of.yaml", "--store", "store").returncode == 0
    again = told(place, "init", "headed", "rows.jsonl", "--out", "plans/of.yaml", "--max-drop", "3")
    assert again.returncode == 1
    assert "--force" in again.stderr
    assert (place / "plans" / "of.yaml").read_text() == written
    told(place, "init", "headed", "rows.jsonl", "--out", "plans/of.yaml", "--max-drop", "3", "--force")
    assert "prune-structure" in (place / "plans" / "of.yaml").read_text()


def test_plan_of_a_deep_rung_runs_to_its_end(place, monkeypatch):
    for probe in (Latency, Memory):
        monkeypatch.setattr(probe, "recipe", classmethod(lambda cls, wish: None))
    plan = proposed(place, "rows.jsonl", "headed", max_drop=10, target="onnxruntime")
    ran = run(plan.bound, store=place / "store", out=place / "deep")
    assert [stage.name for stage in ran.report.stages[1:]] == names(plan)
    assert ran.report.outcome in ("accepted", "not accepted"), "what so few rows teach is not what this is about"
    source, final = (
        next(each for each in ran.report.candidates if each.stage == stage) for stage in (plan.bound.reference, "final")
    )
    assert final.bytes < source.bytes
    assert final.scores


def test_quantize_prints_its_plan_runs_it_and_exports(place, monkeypatch):
    monkeypatch.setattr(
        Latency, "recipe", classmethod(lambda cls, wish: Recipe({"seconds": 2.0, "warm_up_seconds": 0.05, "control_limit": 0.9}))
    )
    words = ("quantize", "headed", "--data", "rows.jsonl", "--max-drop", "100", "--store", "store")
    printed = told(place, *words, "--print")
    assert (printed.returncode, (place / "runs").exists()) == (0, False)
    done = told(place, *words, "--out", "small")
    assert done.returncode == 0, done.stderr
    assert "passes:\n  # int8 weights and activations\n  - quantize-static\n" in done.stdout
    assert done.stdout.index("passes:") < done.stdout.index("accepted")
    assert (place / "small" / "onnxruntime" / "model.onnx").is_file()
    assert (place / "small" / "openvino" / "openvino_model.xml").is_file()
    assert done.stdout.count("export: ") == 2, "each target that is accepted"
    (run,) = (place / "runs").rglob("report.json")
    assert json.loads(run.read_text())["outcome"] == "accepted"
    taken = told(place, *words, "--out", "small")
    assert taken.returncode != 0, "a folder that is taken is told before anything runs"
