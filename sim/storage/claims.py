"""A folder that belongs to one process at a time: claimed in one step, free again when that process ends."""

import os
import re
import shutil
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import BaseFileLock, FileLock, Timeout

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.storage.folders import LOCK, numbered, refuse_full

PATIENCE_SECONDS = 0.2  # for a process that is just leaving the folder
_PART = re.compile(r"\..+\.(\d+)\.part(\.\w+)?")  # as `write_whole` names its temporary files


class Claim:
    """A claimed folder; a context manager, or released by `release`, by garbage collection, or when the process ends.

    The claim is a lock that the operating system holds on a hidden file in the folder. It is gone with the process,
    after kill -9 and after a reboot as well, so there is no such thing as a stale claim. Where a file system has no
    locks at all, filelock's file with the number of the process takes their place.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, path: Path, lock: BaseFileLock):
        self.path = path
        self._finalizer = weakref.finalize(self, _leave, lock, os.getpid())

    def release(self) -> None:
        """Leave the folder to others; a second call does nothing."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def claim(path: Path) -> Claim:
    """Make a folder this process's own, whatever it holds; it is created if it is not there.

    What killed processes left half-written in it is removed. To go on with something, claim its folder first and read
    it then.

    Raises
    ------
    UsageError
        If another process, or another claim of this one, has it.
    InputError
        If the folder cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK, timeout=PATIENCE_SECONDS, thread_local=False)
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"{path} is in use by another process: wait until it has ended, or choose another folder with --out."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another with --out.") from None
    remove_leftovers(path)
    return Claim(path, lock)


def claim_new(
    out: Path | None, parent: str = "runs", dataset: str = "run", refuse: Callable[[Path], None] = refuse_full
) -> Claim:
    """Claim a folder for something new: of several processes that want it at once, one gets it.

    Parameters
    ----------
    out : Path or None
        The folder; None takes the first of ``PARENT/DATASET-001``, ``-002``, … that nobody has taken.
    parent, dataset : str
        Used without ``out``.
    refuse : callable
        Takes the folder and raises a UsageError where it must not be used: by default, where it holds anything.

    Raises
    ------
    UsageError
        If ``out`` is refused, or in use by another process.
    InputError
        If it cannot be created or written to.
    """
    if out is not None:
        return _claimed(Path(out), refuse)
    for path in numbered(parent, dataset):
        if not path.exists():
            try:
                path.mkdir(parents=True)  # fails for all but one of those that try at the same moment
                return _claimed(path, refuse)
            except (FileExistsError, UsageError):
                continue
            except OSError as error:
                raise InputError(
                    f"{path} cannot be written: {error.strerror or error}; choose another with --out."
                ) from None
    raise UsageError(f"{parent} holds a million folders of {dataset}: choose another with --out.")


def _claimed(path: Path, refuse: Callable[[Path], None]) -> Claim:
    refuse(path)  # before anything is written there
    made = claim(path)
    try:
        refuse(path)  # another process may have come and gone in between
    except UsageError:
        made.release()
        raise
    return made


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that processes which are no more left in a claimed folder and its figures."""
    for folder in (path, path / "figures"):
        for each in folder.glob(".*.part*"):
            found = _PART.fullmatch(each.name)
            if found and (int(found[1]) == os.getpid() or not _is_running(int(found[1]))):
                with suppress(OSError):
                    shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()


def _is_running(process: int) -> bool:
    if os.name == "nt":
        return False  # there a file that is open cannot be removed anyway
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _leave(lock: BaseFileLock, owner: int) -> None:
    """Remove the lock file while it is held, then release it: whoever opened it meanwhile sees that it is gone."""
    if os.getpid() != owner:
        return  # a fork: the claim is its parent's
    if os.name != "nt":
        with suppress(OSError):
            os.unlink(lock.lock_file)
    with suppress(OSError):
        lock.release()
