"""The house keeps its floors: a room imports only from below."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"theory": 0, "estimators": 1, "sim": 2}
FILES = [path for room in FLOORS for path in (ROOT / room).rglob("*.py")]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative name"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_from_below(path):
    own = path.relative_to(ROOT).parts[0]
    for name in imported(path):
        if name.split(".")[0] == "sgdphases":
            room = [*name.split("."), "face"][1]
            assert room in FLOORS and FLOORS[room] <= FLOORS[own], f"{path} imports {name}"
            assert own != "theory" or room == "theory"


def test_there_is_something_to_check():
    assert len(FILES) > 20
