"""A folder for something new: what all have, and that nothing that is there is overwritten."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sgdphases.estimators.errors import InputError, UsageError


@dataclass(frozen=True)
class ReportFolder:
    """A folder with figures and a report, beside whatever else it holds."""

    path: Path

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def report(self) -> Path:
        return self.path / "report.html"


LOCK = ".lock"
"""Of a claimed folder: see `sgdphases.sim.storage.claims`."""


def numbered(parent: str, dataset: str) -> Iterator[Path]:
    """``PARENT/DATASET-001``, ``-002``, …"""
    stem = Path(dataset).stem
    return (Path(f"{parent}/{stem}-{n:03d}") for n in range(1, 10**6))


def holds_anything(path: Path) -> bool:
    """Whether a place holds anything but the lock of a claim and what killed processes left half-written."""
    if not path.is_dir():
        return path.exists()
    names = [each.name for each in path.iterdir()]
    return any(name != LOCK and not (name.startswith(".") and ".part" in name) for name in names)


def refuse_full(path: Path) -> None:
    """Raise a UsageError if the place holds anything."""
    if holds_anything(path):
        raise UsageError(f"{path} is there and not an empty folder: choose another with --out.")


@contextmanager
def created(path: Path) -> Iterator[None]:
    """Create a folder to write into; an InputError names it where that, or what is written meanwhile, fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another with --out.") from None
