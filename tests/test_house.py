"""How the house is kept: sizes, names that the core may not know, and what is public, read from the syntax trees."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("compressor", "passes", "targets", "benchmarks", "demos")
MOST_LINES = 400
MOST_LINES_IN_A_FUNCTION = 50
ADDED = ("benchmarks/studies/training.py",)
"""It times what was before seeds were derived too, by batches in the order of then."""
NAMED = ("pass", "target", "probe", "task", "objective")
"""Kinds of plug-ins whose names the core may not know."""


def modules(*packages):
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def spelled(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_is_longer_than_four_hundred_lines(package):
    lengths = {spelled(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules(package)}
    assert {path: length for path, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_is_longer_than_fifty_lines(package):
    found = {}
    for path in modules(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in (
                "document",
                "lines",
            ):  # page templates
                length = node.end_lineno - node.lineno + 1
                if length > MOST_LINES_IN_A_FUNCTION:
                    found[f"{spelled(path)}:{node.name}"] = length
    assert found == {}


def plugins():
    """Names of the built-in plug-ins of each kind, and the modules that define one."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    names = {name: kind for kind in NAMED for name in groups[f"compressor.{kind}"]}
    homes = {value.partition(":")[0] for group in groups.values() for value in group.values()}
    return names, {f"{home.replace('.', '/')}.py" for home in homes}


def literals(tree):
    """String literals that are not doc strings."""
    documents = {
        id(statement.value)
        for node in ast.walk(tree)
        for statement in (node.body if isinstance(getattr(node, "body", None), list) else ())
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node


def test_core_knows_no_plugin_by_name():
    names, homes = plugins()
    found = [
        f"{spelled(path)}:{node.lineno}: {names[node.value]} {node.value}"
        for path in modules("compressor")
        if spelled(path) not in homes
        for node in literals(ast.parse(path.read_text(encoding="utf-8")))
        if node.value in names
    ]
    assert found == []


def seeds_reckoned(tree):
    """Where a seed is reckoned with, as `seed + epoch` is, which is `seed` of another run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.BitXor):
            names = [getattr(side, "id", getattr(side, "attr", "")) for side in (node.left, node.right)]
            if any(name.endswith("seed") for name in names):
                yield node.lineno


def test_seeds_are_derived_and_not_added():
    assert list(seeds_reckoned(ast.parse("a = (ctx.seed + epoch, 2 * seed, seeds + 1)"))) == [1, 1]
    found = [
        f"{spelled(path)}:{line}"
        for path in modules(*PACKAGES)
        for line in seeds_reckoned(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert [each.rpartition(":")[0] for each in found] == list(ADDED)


def test_openvino_has_one_core():
    """Others take the stack for signals of the thread that made them along when they go: see `compressor.deploy.openvino.in_thread`."""
    found = [
        f"{spelled(path)}:{node.lineno}"
        for path in modules("compressor", "passes", "targets", "demos", "benchmarks", "tests")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "Core" and "former" not in path.parts
    ]
    shown = "tests/passes/quantization/test_nncf.py"  # what becomes of the stack
    assert [each.rpartition(":")[0] for each in found] == ["compressor/deploy/openvino.py", shown]


def test_public_modules_are_those_that_the_architecture_names():
    """What plug-ins may import: the list in ARCHITECTURE.md, and all that the examples and stand-ins import."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(compressor[.\w]*)` \|", text, flags=re.MULTILINE))
    assert {"compressor.contracts", "compressor.errors", "compressor.testing"} <= listed
    for name in listed:
        place = ROOT / name.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file(), name
    stand_ins = [ROOT / "tests" / "stand_ins" / name for name in ("language", "diffusion", "steps", "deployment")]
    for folder in (ROOT / "examples", *stand_ins, ROOT / "passes", ROOT / "targets"):
        paths = sorted(folder.rglob("*.py"))
        assert paths, f"{spelled(folder)} holds nothing"
        for path in paths:
            for module in imported(ast.parse(path.read_text(encoding="utf-8"))):
                public = any(module == name or module.startswith(f"{name}.") for name in listed)
                assert public, f"{spelled(path)} imports {module}, which is not public"


def imported(tree):
    """Modules of this project that are imported, by either statement."""
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in getattr(node, "names", ())]
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (name for name in names if name.split(".")[0] == "compressor")
