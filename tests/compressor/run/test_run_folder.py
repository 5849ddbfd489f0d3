import subprocess
import sys
from datetime import datetime

import pytest

from compressor.errors import StoreError
from compressor.run.run_folder import claimed, finished, opened

PLAN = "name: tiny\n"


def test_new_folder_is_made_and_holds_the_plan(tmp_path):
    with claimed(tmp_path / "deep" / "run", PLAN):
        assert (tmp_path / "deep" / "run" / "plan.yaml").read_text() == PLAN
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == ["plan.yaml"]


@pytest.mark.parametrize(
    "left", [(), ("plan.yaml",), ("plan.yaml", "artifacts", "bench"), (".lock",), (".lock", ".plan.yaml.part")]
)
def test_unfinished_run_of_the_same_plan_is_gone_on_with(tmp_path, left):
    for name in left:
        if name in ("artifacts", "bench"):
            (tmp_path / name / "half").mkdir(parents=True)
        else:
            (tmp_path / name).write_text(PLAN if name == "plan.yaml" else "")
    with claimed(tmp_path, PLAN):
        assert {path.name for path in tmp_path.iterdir()} == {"plan.yaml", ".lock", ".unfinished"}


def fail(why, *wrote):
    for path in wrote:
        path.mkdir(parents=True) if path.suffix == "" else path.touch()
    raise ValueError(why)


@pytest.mark.parametrize("wrote", [(), ("artifacts", "gates", ".report.html.part")])
def test_folder_of_a_run_that_failed_may_be_taken_by_a_mended_plan(tmp_path, wrote):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="no such column"), claimed(folder, PLAN):
        fail("no such column", *(folder / name for name in wrote))
    assert (folder / "plan.yaml").read_text() == PLAN
    with claimed(folder, "name: mended\n"):
        assert {path.name for path in folder.iterdir()} == {"plan.yaml", ".lock", ".unfinished"}
    assert [path.name for path in folder.iterdir()] == ["plan.yaml"]
    assert (folder / "plan.yaml").read_text() == "name: mended\n"


def test_what_is_not_a_run_is_not_taken_though_a_run_failed_in_it(tmp_path):
    with pytest.raises(ValueError, match="late"), claimed(tmp_path, PLAN):
        fail("late", tmp_path / "thesis.tex")
    with pytest.raises(StoreError, match=r"holds 'thesis\.tex', which no run writes"), claimed(tmp_path, "name: mended\n"):
        pass
    assert (tmp_path / "thesis.tex").exists()


def test_what_a_link_in_an_unfinished_run_leads_to_stays(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").touch()
    with claimed(tmp_path / "run", PLAN):
        (tmp_path / "run" / "artifacts").symlink_to(tmp_path / "outside")
    with claimed(tmp_path / "run", PLAN):
        assert not (tmp_path / "run" / "artifacts").is_symlink()
    assert (tmp_path / "outside" / "kept").exists()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"plan.yaml": PLAN, "report.json": "{}"}, "holds a run that has ended"),
        ({"plan.yaml": "name: other\n"}, "no unfinished run of this plan"),
        ({"thesis.tex": "years of work"}, "no unfinished run of this plan"),
        ({"plan.yaml": "name: other\n", "artifacts.txt": ""}, "no unfinished run of this plan"),
    ],
)
def test_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path, files, said):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(StoreError, match=f"is not empty.*{said}: name another folder with --out"), claimed(tmp_path, PLAN):
        pass
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("name", ["model", "data.csv", ".git", "thesis.part"])
def test_folder_with_what_no_run_writes_is_refused_though_the_plan_is_the_same(tmp_path, name):
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / name).mkdir()
    with pytest.raises(StoreError, match=f"holds '{name}', which no run writes"), claimed(tmp_path, PLAN):
        pass
    assert (tmp_path / name).is_dir()


def test_folder_of_a_living_run_is_refused_with_the_name_of_the_process(tmp_path):
    code = (
        "import sys, pathlib; from compressor.run.run_folder import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), sys.argv[2]): print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), PLAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "in\n"
    with (
        pytest.raises(StoreError, match=f"in use by process {other.pid} on .* wait for its end, or name"),
        claimed(tmp_path, PLAN),
    ):
        pass
    other.kill()
    other.communicate()
    with claimed(tmp_path, PLAN):
        pass


def test_newest_unfinished_run_of_the_plan_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with opened("tiny", PLAN) as fresh:
        assert fresh.parent.name == "tiny"
    (fresh / "report.json").touch()
    for name, text, report in (("1", PLAN, False), ("2", PLAN, False), ("3", PLAN, True), ("4", "name: other\n", False)):
        folder = tmp_path / "runs" / "tiny" / name
        folder.mkdir(parents=True)
        (folder / "plan.yaml").write_text(text)
        if report:
            (folder / "report.json").write_text("{}")
    with opened("tiny", PLAN) as newest, opened("tiny", PLAN) as next_one:
        assert [newest.name, next_one.name] == ["2", "1"], "the newest is in use"
    assert finished(tmp_path / "runs" / "tiny" / "3", PLAN)
    assert not finished(tmp_path / "runs" / "tiny" / "2", PLAN)
    assert [path.name for path in (tmp_path / "runs" / "tiny" / "4").iterdir()] == ["plan.yaml"]


def test_runs_of_one_plan_that_begin_in_one_second_have_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Stopped(datetime):
        @classmethod
        def now(cls):
            return datetime(2026, 5, 4, 3, 2, 1)

    monkeypatch.setattr("compressor.run.run_folder.datetime", Stopped)
    with opened("tiny", PLAN) as first, opened("tiny", PLAN) as second, opened("tiny", PLAN) as third:
        assert [each.name for each in (first, second, third)] == ["20260504-030201", "20260504-030201-2", "20260504-030201-3"]
        (second / "report.json").touch()
    (first / "report.json").touch()
    (third / "report.json").touch()
    with opened("tiny", PLAN) as fourth:
        assert fourth.name == "20260504-030201-4", "runs that have ended keep theirs"


@pytest.mark.parametrize("name", [".thesis.part", ".report.html.bak", "plan.yaml.part"])
def test_strangers_file_with_the_look_of_an_unfinished_one_stays(tmp_path, name):
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / name).write_text("years of work")
    with pytest.raises(StoreError, match=f"holds '{name}', which no run writes"), claimed(tmp_path, PLAN):
        pass
    assert (tmp_path / name).exists()
