"""The house's own rules, as code: imports point one way, files stay short, nothing dangerous."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "mmjax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each room and what it may import, beside itself; see docs/architecture.md.
LOWEST = {"typing", "paths"}
ROOMS = {
    "typing": set(),
    "paths": set(),
    "parsing": set(),
    "preprocess": LOWEST,
    "parallel": LOWEST,
    "data": LOWEST | {"parallel"},
    "models": LOWEST | {"parallel"},
    "objectives": LOWEST | {"parallel", "models"},
    "training": LOWEST | {"preprocess", "parallel", "data", "models", "objectives"},
    "evaluation": LOWEST | {"preprocess", "parallel", "data", "models", "objectives"},
    "interop": LOWEST
    | {"preprocess", "parallel", "data", "models", "objectives", "training", "evaluation"},
    "config": {"parsing"},
    "load": LOWEST | {"preprocess", "parallel", "data", "training", "interop", "config"},
    "commands": set(),  # by name, so that a command loads what it needs alone
    "__main__": {"commands", "interop"},
    "run": {"typing", "paths", "preprocess", "parallel", "data", "models", "objectives"}
    | {"training", "evaluation", "interop", "config"},
}


def room(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    here = room(path)
    if here == "__init__":
        assert imported(path) <= {"importlib"}
        return
    assert here in ROOMS, f"{path} is in a room that docs/architecture.md does not know"
    for name in imported(path):
        if name.startswith("mmjax."):
            there = name.split(".")[1]
            if there in ROOMS:
                assert there == here or there in ROOMS[here], f"{here} may not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_libraries_stay_in_their_rooms(path):
    names = {name.split(".")[0] for name in imported(path)}
    assert not names & {"tensorflow", "torch", "pickle", "cloudpickle", "dill", "clu"}
    if room(path) != "models":
        assert "flax" not in names
    if room(path) == "data" and path.name != "device.py":
        assert "jax" not in names


@pytest.mark.parametrize(
    "path", [*FILES, *sorted(ROOT.glob("*.py"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_nothing_that_runs_data_as_code(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen")
            assert name not in ("yaml.load", "torch.load", "marshal.loads")
            assert not name.endswith(("pickle.load", "pickle.loads"))
            for keyword in node.keywords:
                if keyword.arg in ("allow_pickle", "shell"):
                    assert isinstance(keyword.value, ast.Constant)
                    assert keyword.value.value is False


CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", [*FILES, *CONFIGS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_one_idea_with_a_docstring(path):
    text = path.read_text()
    assert text.count("\n") <= 400, "past 400 lines it is two ideas"
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a file says what it is for"
    for word in ("noqa", "type: ignore", "TODO", "FIXME"):
        assert word not in text
    assert not re.search(r"from __future__ import annotations", text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_things_have_docstrings(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} says nothing"


def test_no_room_is_called_utils():
    names = {part for path in FILES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & {"utils", "util", "common", "misc", "helpers", "base2", "new", "v2"}


def test_top_level_scripts_hold_no_logic():
    for name in ("train.py", "eval.py"):
        assert len((ROOT / name).read_text().splitlines()) <= 60


def test_everything_is_english_ascii_paths():
    for path in ROOT.rglob("*.py"):
        if ".venv" not in path.parts:
            assert path.name.isascii()
