"""The house keeps its floors, its rooms stay small, and ARCHITECTURE.md says where things are."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("theory", "estimators", "sim", "faces", "paper")
FILES = [ROOT / "cli.py", *(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))]
MOST_FILES = 12  # in one folder, but for one data set a file
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")

spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
assert spec is not None and spec.loader is not None
architecture = importlib.util.module_from_spec(spec)
spec.loader.exec_module(architecture)


def test_rooms_import_only_from_below_and_in_no_circle():
    found = architecture.rooms()
    assert len(found) > 25
    assert architecture.broken(found) == []


@pytest.mark.parametrize(
    ("path", "line", "reason"),
    [
        ("theory/ensemble.py", "from sgdphases.estimators.errors import InputError", "higher floor"),
        ("estimators/phases/find.py", "def late():\n    import sgdphases.sim.run.training", "higher floor"),
        ("estimators/backend.py", "from sgdphases.estimators.ensemble.exact import exact", "circle"),
        ("sim/storage/atomic.py", "from sgdphases import paper", "higher floor"),
    ],
)
def test_an_import_that_breaks_the_floors_is_found(tmp_path, path, line, reason):
    for file in FILES:
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    with open(tmp_path / path, "a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    assert any(reason in text for text in architecture.broken(architecture.rooms(tmp_path)))


def test_the_page_shows_the_rooms_as_they_are():
    expected = architecture.page_with_table(PAGE, architecture.rooms())
    assert expected == PAGE, "run python docs/architecture.py"


def test_no_folder_holds_too_many_files():
    folders = {path.parent for floor in architecture.FLOORS[:-1] for path in (ROOT / floor).rglob("*.py")}
    counts = {folder: len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) for folder in folders}
    one_kind = {ROOT / "sim" / "data" / "datasets"}
    assert {folder: n for folder, n in counts.items() if n > MOST_FILES and folder not in one_kind} == {}


PLACES = re.findall(r"^\| ([^|]+) \| `([\w/]+\.py)` \| `(\w+)` \|$", PAGE, re.MULTILINE)


def test_the_page_lists_where_concepts_are():
    assert len(PLACES) >= 12


@pytest.mark.parametrize(("concept", "path", "name"), PLACES, ids=lambda value: str(value)[:40])
def test_a_concept_is_where_the_page_says(concept, path, name):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    assert name in defined, f"{concept}: {path} defines no {name}"
