"""Text files: the user's, which may have any size or be empty, and ours, written whole."""

import json
from pathlib import Path
from typing import Any

from sgdphases.sim.storage.atomic import write_whole

MOST = 1 << 24  # bytes of a file of settings, a plan or a table of reasons: many times what any of ours holds


def read_text(path: Path) -> str:
    """The UTF-8 text of a file; raises OSError where it cannot be read, ValueError where it is no text or too long."""
    with open(path, "rb") as stream:
        content = stream.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"it is longer than {MOST >> 20} MiB")
    return content.decode("utf-8")


def write_json(path: Path, values: Any) -> None:
    """Write plain values as JSON, whole or not at all; raises ValueError for NaN, InputError as `write_whole` does."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
