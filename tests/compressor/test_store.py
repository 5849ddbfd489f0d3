from __future__ import annotations

import json

import pytest

from compressor.errors import StoreError
from compressor.store import ENTRY, STORE_VERSION, Store, digest_of, key_of

PARTS = {"step": "a", "seed": 1}


class Maker:
    def __init__(self, content: str = "hello") -> None:
        self.calls = 0
        self.content = content

    def __call__(self, out):
        self.calls += 1
        (out / "deep").mkdir()
        (out / "deep" / "file.txt").write_text(self.content)
        return {"rows": 3}


def left_over(root):
    return [path for path in root.rglob("*") if path.is_file()]


def test_obtain_makes_once_and_finds_after(tmp_path):
    maker, store = Maker(), Store(tmp_path)
    made, again = store.obtain(PARTS, maker), store.obtain(PARTS, maker)
    assert (maker.calls, made.found, again.found) == (1, False, True)
    assert (again.key, again.digest, again.path, again.facts) == (made.key, made.digest, made.path, made.facts)
    assert again.facts == {"rows": 3}
    assert (again.path / "deep" / "file.txt").read_text() == "hello"


def test_obtain_finds_when_another_store_has_the_same_root(tmp_path):
    Store(tmp_path).obtain(PARTS, Maker())
    found = Store(tmp_path).find({"seed": 1, "step": "a"})
    assert found is not None
    assert found.found


@pytest.mark.parametrize("parts", [{"step": "a", "seed": 2}, {"step": "a"}, {**PARTS, "more": None}])
def test_obtain_makes_another_when_any_part_differs(tmp_path, parts):
    maker, store = Maker(), Store(tmp_path)
    assert store.obtain(PARTS, maker).key != store.obtain(parts, maker).key
    assert maker.calls == 2


def test_key_ignores_the_order_of_parts():
    assert key_of({"a": 1, "b": {"c": 2, "d": 3}}) == key_of({"b": {"d": 3, "c": 2}, "a": 1})


def test_obtain_leaves_no_staging(tmp_path):
    Store(tmp_path).obtain(PARTS, Maker())
    assert list((tmp_path / "staging").iterdir()) == []


def test_obtain_keeps_nothing_when_the_maker_fails(tmp_path):
    def fail(out):
        (out / "half.txt").write_text("half")
        raise ValueError("broke")

    store, maker = Store(tmp_path), Maker()
    with pytest.raises(ValueError, match="broke"):
        store.obtain(PARTS, fail)
    assert left_over(tmp_path) == []
    assert store.find(PARTS) is None
    assert not store.obtain(PARTS, maker).found
    assert maker.calls == 1


def test_obtain_keeps_nothing_when_facts_are_not_json(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        Store(tmp_path).obtain(PARTS, lambda out: {"facts": object()})
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("damage", ["changed", "removed", "added", "renamed"])
def test_obtain_makes_again_when_the_entry_is_damaged(tmp_path, damage):
    told = []
    maker, store = Maker(), Store(tmp_path, tell=told.append)
    made = store.obtain(PARTS, maker)
    file = made.path / "deep" / "file.txt"
    if damage == "changed":
        file.write_text("jello")
    elif damage == "removed":
        file.unlink()
    elif damage == "added":
        (made.path / "more.txt").write_text("")
    else:
        file.rename(file.with_name("other.txt"))
    again = store.obtain(PARTS, maker)
    assert (maker.calls, again.found, again.digest) == (2, False, made.digest)
    assert file.read_text() == "hello"
    assert len(told) == 1
    assert "damaged" in told[0]
    assert made.key[:12] in told[0]


def test_find_raises_when_a_newer_version_wrote_the_entry(tmp_path):
    store = Store(tmp_path)
    entry = store.obtain(PARTS, Maker()).path.parent / ENTRY
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "store": STORE_VERSION + 1}))
    with pytest.raises(StoreError, match="newer version"):
        store.find(PARTS)
    assert entry.is_file()


def test_find_gives_nothing_when_the_entry_was_not_finished(tmp_path):
    store = Store(tmp_path)
    (store.obtain(PARTS, Maker()).path.parent / ENTRY).unlink()
    assert store.find(PARTS) is None


def test_obtain_gives_the_first_result_when_another_run_was_faster(tmp_path):
    store = Store(tmp_path)

    def slow(out):
        store.obtain(PARTS, Maker())
        return Maker()(out)

    made = store.obtain(PARTS, slow)
    assert (made.path / "deep" / "file.txt").read_text() == "hello"
    assert digest_of(made.path) == made.digest


def test_digest_does_not_depend_on_the_place_or_time(tmp_path):
    for name in ("one", "two/three"):
        (tmp_path / name).mkdir(parents=True)
        Maker()(tmp_path / name)
    assert digest_of(tmp_path / "one") == digest_of(tmp_path / "two/three")


@pytest.mark.parametrize("name", ["deep/other.txt", "file.txt"])
def test_digest_differs_when_a_name_or_folder_differs(tmp_path, name):
    (tmp_path / "one").mkdir()
    Maker()(tmp_path / "one")
    other = tmp_path / "two" / name
    other.parent.mkdir(parents=True)
    other.write_text("hello")
    assert digest_of(tmp_path / "one") != digest_of(tmp_path / "two")


def test_obtain_refuses_a_symbolic_link(tmp_path):
    (tmp_path / "outside.txt").write_text("outside")

    def link(out):
        (out / "link").symlink_to(tmp_path / "outside.txt")
        return {}

    with pytest.raises(StoreError, match="symbolic link"):
        Store(tmp_path / "store").obtain(PARTS, link)
    assert left_over(tmp_path / "store") == []


def test_scratch_is_the_same_folder_for_the_same_parts(tmp_path):
    store = Store(tmp_path)
    assert store.scratch(PARTS) == store.scratch(dict(PARTS))
    assert store.scratch(PARTS).is_dir()
    assert store.scratch(PARTS) != store.scratch({"step": "b"})


def test_scratch_is_gone_once_it_is_discarded(tmp_path):
    store = Store(tmp_path)
    (store.scratch(PARTS) / "deep").mkdir()
    other = store.scratch({"step": "b"})
    store.discard_scratch(PARTS)
    store.discard_scratch(PARTS)
    assert list(other.parent.iterdir()) == [other]
