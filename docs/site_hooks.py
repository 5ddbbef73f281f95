"""Pages of the site that are made from elsewhere: the reference from the code, and those that stand outside docs/.

MkDocs calls the functions here while it builds the site (`make docs`).
"""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import sgdphases

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "benchmarks.md": ROOT / "benchmarks" / "README.md",
    "architecture.md": ROOT / "ARCHITECTURE.md",
    "contributing.md": ROOT / "CONTRIBUTING.md",
    "changelog.md": ROOT / "CHANGELOG.md",
}
LINKS = {
    "../benchmarks/README.md": "benchmarks.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "../README.md": "index.md",
}
_LINK = re.compile(r"\]\((?:\.\./)?(?:docs/)?([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that are made here."""
    made = {name: path.read_text(encoding="utf-8") for name, path in OUTSIDE.items()}
    made |= {"reference.md": reference(), "cli.md": command_line()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Links between pages as they are on the site."""
    for written, there in LINKS.items():
        markdown = re.sub(rf"\]\({re.escape(written)}(#[^)]*)?\)", rf"]({there}\1)", markdown)
    if page.file.src_uri in OUTSIDE:
        markdown = _LINK.sub(lambda found: f"]({found[1]}{found[2] or ''})", markdown)
    return markdown


def reference() -> str:
    """Every public name, in the groups of `sgdphases/__init__.py`; an error for one without a docstring."""
    lines = ["# Python", "", "All of `import sgdphases`. Whatever is not listed here may move.", ""]
    for title, names in public_groups().items():
        lines += [f"## {title[0].upper()}{title[1:]}", ""]
        for home, name in names:
            if not inspect.getdoc(getattr(sgdphases, name)):
                raise PluginError(f"sgdphases.{name} has no docstring.")
            lines += [f"::: sgdphases.{home}.{name}", "    options:", "      heading_level: 3", ""]
    return "\n".join(lines)


def public_groups() -> dict[str, list[tuple[str, str]]]:
    """Pairs of module and name by the comments that head them."""
    source = (ROOT / "__init__.py").read_text(encoding="utf-8")
    table = next(
        each for each in ast.parse(source).body if isinstance(each, ast.Assign) and each.targets[0].id == "_HOMES"  # type: ignore[attr-defined]
    )  # fmt: skip
    homes: dict[str, tuple[str, ...]] = ast.literal_eval(table.value)
    groups: dict[str, list[tuple[str, str]]] = {}
    title = ""
    for line in source.splitlines()[table.lineno : table.end_lineno]:
        text = line.strip()
        if text.startswith("#"):
            title = text[1:].strip()
        elif text.startswith('"'):
            home = text.split('"')[1]
            groups.setdefault(title, []).extend((home, name) for name in homes[home])
    return groups


def command_line() -> str:
    """The commands and their options, as typer describes them."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "sgdphases.cli", "utils", "docs", "--name", "sgdphases"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise PluginError(f"the reference of the command line cannot be made: {done.stderr}")
    return re.sub(r"\A# .*", "# Command line", re.sub(r"\[/?(bold|dim|italic)\]", "", done.stdout))
