"""The floors and rooms of the code, read off its imports: checked by the tests, drawn into docs/architecture.png.

    python docs/architecture.py      # checks, writes the picture and the table in ARCHITECTURE.md

A floor is a top-level folder; a room is a folder in it, or a file that stands in the floor itself. A floor imports only
from itself and from floors below, and the rooms of a floor form no circle.
"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from textwrap import fill

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("theory", "estimators", "sim", "faces", "paper", "cli")
"""From the lowest to the highest."""
ABOUT = {
    "theory": "predictions on arrays of numbers",
    "estimators": "measures a model at one point, or analyses one trajectory",
    "sim": "data, training, records on disk",
    "faces": "commands, figures, pages",
    "paper": "Feng & Tu 2021 reproduced",
    "cli": "assembles the commands",
}
PAGE = ROOT / "ARCHITECTURE.md"
MARKS = ("<!-- rooms: written by docs/architecture.py -->", "<!-- end of rooms -->")
Rooms = dict[str, set[str]]


def room_of(module: str) -> str | None:
    """The room of a module by its name without "sgdphases."; None for the public face in ``__init__.py``."""
    parts = module.split(".")
    if parts[0] not in FLOORS:
        return None
    return parts[0] if parts[0] in ("cli", "paper") else ".".join(parts[:2])


def imports(path: Path) -> set[str]:
    """Modules of the project that a file imports anywhere in it, without "sgdphases."."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise SystemExit(f"{path} imports by a relative name: use the full one.")
            names = {f"{node.module}.{name.name}" for name in node.names}
            found |= names if node.module == "sgdphases" else {str(node.module)}
    return {name.removeprefix("sgdphases.") for name in found if name.split(".")[0] == "sgdphases"}


def rooms(root: Path = ROOT) -> Rooms:
    """Every room, and the rooms it imports from."""
    found: Rooms = {}
    for path in [root / "cli.py", *(each for floor in FLOORS[:-1] for each in sorted((root / floor).rglob("*.py")))]:
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        own = room_of(module.removesuffix(".__init__"))
        if own is None or (path.name == "__init__.py" and own in FLOORS[:-2]):
            continue
        others = {room_of(name) for name in imports(path)} - {own, None}
        found.setdefault(own, set()).update(str(other) for other in others)
    return found


def broken(found: Rooms) -> list[str]:
    """What is against the rules, in sentences; empty where all is well."""
    level = {floor: number for number, floor in enumerate(FLOORS)}
    wrong = [
        f"{room} imports {other}, which lies on a higher floor"
        for room, others in sorted(found.items())
        for other in sorted(others)
        if level[other.split(".")[0]] > level[room.split(".")[0]]
    ]
    try:
        list(TopologicalSorter(found).static_order())
    except CycleError as error:
        wrong.append("rooms import each other in a circle: " + " -> ".join(error.args[1]))
    return wrong


def table(found: Rooms) -> str:
    """The rooms and what each imports, as Markdown; imports of errors and of lower floors' basics included."""
    lines = ["| room | imports |", "| --- | --- |"]
    for floor in reversed(FLOORS):
        for room in sorted(room for room in found if room.split(".")[0] == floor):
            lines.append(f"| `{room}` | {', '.join(f'`{other}`' for other in sorted(found[room])) or '–'} |")
    return "\n".join(lines)


def page_with_table(text: str, found: Rooms) -> str:
    """ARCHITECTURE.md with its table replaced."""
    before, rest = text.split(MARKS[0])
    _, after = rest.split(MARKS[1])
    return f"{before}{MARKS[0]}\n{table(found)}\n{MARKS[1]}{after}"


def reduced(found: Rooms) -> Rooms:
    """Without the arrows that others imply: an import of a room that an imported room imports, too."""

    def reach(room: str) -> set[str]:
        return found[room].union(*(reach(other) for other in found[room])) if found[room] else set()

    return {room: {o for o in others if not any(o in reach(p) for p in others - {o})} for room, others in found.items()}


def draw(found: Rooms, path: Path) -> None:
    """Floors as bands, rooms as boxes in them, an arrow from a room to each that it imports and no other implies."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    places, heights, bottom = {}, {}, 0.0
    for floor in FLOORS:
        own = [room for room in found if room.split(".")[0] == floor]
        rows = _rows(own, found)
        heights[floor] = (bottom, len(rows) + 0.35)
        for number, row in enumerate(rows):
            for k, room in enumerate(row):
                places[room] = ((k + 0.5) / len(row) * 10 + 1.9, bottom + 0.68 + number)
        bottom += len(rows) + 0.55
    figure = Figure(figsize=(11, 0.78 * bottom), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 12), ylim=(-0.1, bottom))
    axes.set_axis_off()
    for number, floor in enumerate(FLOORS):
        low, height = heights[floor]
        axes.axhspan(low, low + height, facecolor=("#E8EEF4", "#F6F3EA")[number % 2], edgecolor="none", zorder=-3)
        axes.text(0.08, low + height / 2 + 0.1, floor, fontsize=11, weight="bold", va="center")
        axes.text(0.08, low + height / 2 - 0.22, fill(ABOUT[floor], 24), fontsize=6.5, va="center", color="0.3")
    for room, others in reduced(found).items():
        for other in others:
            axes.annotate(
                "", places[other], places[room],
                arrowprops=dict(arrowstyle="-|>", color="#0072B2", alpha=0.45, linewidth=0.8, shrinkA=9, shrinkB=9),
                zorder=-1,
            )  # fmt: skip
    for room, (x, y) in places.items():
        box = dict(boxstyle="round,pad=0.3", facecolor="white", edgecolor="0.4", linewidth=0.8)
        axes.text(x, y, room.split(".")[-1].replace("_", " "), ha="center", va="center", fontsize=8, bbox=box)
    figure.savefig(path, dpi=130)


def _rows(own: list[str], found: Rooms) -> list[list[str]]:
    """The rooms of a floor in rows, each above all that it imports on this floor."""
    level: dict[str, int] = {}

    def of(room: str) -> int:
        if room not in level:
            level[room] = max((of(other) + 1 for other in found[room] if other in own), default=0)
        return level[room]

    rows = [sorted(room for room in own if of(room) == k) for k in range(max(map(of, own)) + 1)]
    return [row for row in rows if row]


def main() -> None:
    found = rooms()
    wrong = broken(found)
    if wrong:
        sys.exit("\n".join(wrong))
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")
    draw(found, ROOT / "docs" / "architecture.png")


if __name__ == "__main__":
    main()
