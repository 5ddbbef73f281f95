"""Text files of anybody's, which may be of any size or none."""

from pathlib import Path

MOST = 1 << 24  # bytes of a file of settings, a plan or a table of reasons: many times what any of ours holds


def read_text(path: Path) -> str:
    """The UTF-8 text of a file; raises OSError where it cannot be read, ValueError where it is no text or too long."""
    with open(path, "rb") as stream:
        content = stream.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"it is longer than {MOST >> 20} MiB")
    return content.decode("utf-8")
