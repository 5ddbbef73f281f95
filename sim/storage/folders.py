"""A folder for something new: what all have, which one is free, and that nothing that is there is overwritten."""

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


def first_free(parent: str, dataset: str) -> Path:
    """The first of ``PARENT/DATASET-001``, ``-002``, … that is not there."""
    stem = Path(dataset).stem
    return next(path for n in range(1, 10**6) if not (path := Path(f"{parent}/{stem}-{n:03d}")).exists())


def refuse_full(path: Path) -> None:
    """Raise a UsageError if the place holds anything."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} is there and not an empty folder: choose another with --out.")


@contextmanager
def created(path: Path) -> Iterator[None]:
    """Create a folder to write into; an InputError names it where that, or what is written meanwhile, fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another with --out.") from None
