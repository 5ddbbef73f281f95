"""Pages that stand alone: one HTML file with its style and its pictures inside."""

import base64
import html
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from sgdphases.sim.storage.atomic import write_whole

DOTS_PER_INCH = 140
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
img { max-width: 100%; height: auto; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #888; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
table.prose th, table.prose td { white-space: normal; vertical-align: top; text-align: left; }
pre { background: #f4f6f8; padding: 1rem; overflow-x: auto; font-size: 0.85rem; }
@media print { div.explorer { display: none; } }
p.note { color: #555; font-size: 0.9rem; }
"""


def page(title: str, body: str) -> str:
    """A whole page; ``title`` is plain text and also its heading, ``body`` is HTML."""
    name = html.escape(title)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{name}</title><style>{_STYLE}</style>"
        f"</head><body><h1>{name}</h1>{body}</body></html>\n"
    )


def table(heading: list[str], rows: list[list[str]], *, prose: bool = False) -> str:
    """A table of plain text; with ``prose``, of sentences rather than numbers."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=wide><table{' class=prose' * prose}><tr>{head}</tr>{body}</table></div>"


def note(text: str) -> str:
    """A paragraph in small type, of plain text."""
    return f"<p class='note'>{html.escape(text)}</p>"


def saved_picture(figure: Figure, path: Path, alt: str) -> str:
    """Write a figure as PNG, and give the image that holds it in a page."""
    write_whole(path, partial(figure.savefig, dpi=DOTS_PER_INCH))
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
