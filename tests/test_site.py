"""The site: every page of docs/ is in its navigation, every public name has a docstring, notebooks hold no output."""

import inspect
import json
import re
from pathlib import Path

import pytest

import sgdphases

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]


def test_every_page_is_in_the_navigation():
    pages = {path.relative_to(DOCS).as_posix() for path in [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]}
    assert pages <= set(re.findall(r": (\S+\.(?:md|ipynb))$", NAVIGATION, re.MULTILINE))


@pytest.mark.parametrize("name", sgdphases.__all__)
def test_every_public_name_says_what_it_is(name):
    assert len(inspect.getdoc(getattr(sgdphases, name)) or "") > 20


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.ipynb")), ids=lambda path: path.name)
def test_tutorials_are_kept_without_output(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert sum(cell["cell_type"] == "code" for cell in cells) >= 3
