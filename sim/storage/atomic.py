"""Files that are there whole or not at all."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from sgdphases.estimators.errors import InputError

_FULL = 1 << 20  # bytes free, below which a disk is called full


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` on a temporary name in the same folder, then rename: a killed program leaves the old file.

    Parameters
    ----------
    path : Path
        Where the file is to stand.
    write : callable
        Takes a path and writes the file there.

    Raises
    ------
    InputError
        If the file cannot be written, for lack of space perhaps; the old one is left as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        write(part)
        with open(part, "rb") as written:
            os.fsync(written.fileno())
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "errno" not in str(error):
            raise  # not the way in which HDF5 says that it could not write
        raise InputError(why_unwritten(path, error)) from None
    finally:
        part.unlink(missing_ok=True)


def write_whole_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Like `write_whole`, of a folder that ``write`` creates; one that stands there already is replaced by it.

    Raises
    ------
    InputError
        If it cannot be written; the old one is left as it was.
    """
    part, old = (path.with_name(f".{path.name}.{what}.{os.getpid()}.part") for what in ("new", "old"))
    try:
        write(part)
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
    except OSError as error:
        raise InputError(why_unwritten(path, error)) from None
    finally:
        for each in (part, old):
            shutil.rmtree(each, ignore_errors=True)


def why_unwritten(path: Path, error: OSError | RuntimeError) -> str:
    """Why a file could not be written, and what to do about it, as a message."""
    reason = getattr(error, "strerror", None) or str(error)
    if found := re.search(r"error message = '([^']*)'", reason):  # HDF5's, among much else
        reason = found[1]
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        free = _FULL
    if free < _FULL:
        return f"{path} cannot be written ({reason}): the disk is full; free some space, or choose another place."
    return f"{path} cannot be written ({reason}): check the place, its permissions and limits, or choose another."
