"""The one file in which a sweep keeps what its members measured: appended to member by member, read at any moment.

A block for each member: marker, lengths and checksum, a header in JSON, and the arrays of the header one after another.
A process killed on the way leaves a block cut short at the end, which is ignored and then overwritten.
"""

import json
import math
import os
import struct
import time
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import xarray as xr

from sgdphases.estimators.errors import InputError
from sgdphases.sim.run.checkpoint import Checkpoint, checked
from sgdphases.sim.run.trajectory import trajectory_dataset
from sgdphases.sim.storage.atomic import why_unwritten

NAME = "results.bin"
_MARKER = b"SGDPm1\r\n"
_HEAD = struct.Struct("<8sQQI")  # marker, bytes of the header, bytes of the arrays, checksum of both
_SYNC_SECONDS = 1.0  # at most this much is lost where the whole machine fails
_KINDS = "biuf"
_LAST = 64  # bytes


@dataclass(frozen=True, eq=False)
class Ended:
    """A member's run at its end.

    Attributes
    ----------
    config : str
        Its ``config.toml``.
    checkpoint : Checkpoint
        The last.
    steps_per_epoch : int
    sizes : dict of float
        Attributes of its trajectory: see `sgdphases.sim.run.training.Experiment`.
    """

    config: str
    checkpoint: Checkpoint
    steps_per_epoch: int
    sizes: dict[str, float]

    def trajectory(self) -> xr.Dataset:
        """What it measured, as its run folder would hold it."""
        return trajectory_dataset(self.checkpoint.rows, self.steps_per_epoch, self.config).assign_attrs(self.sizes)

    def scalars_only(self) -> "Ended":
        """The same without weights, and without rows of more than one number a checkpoint."""
        rows = {name: values for name, values in self.checkpoint.rows.items() if values.ndim == 1}
        return replace(self, checkpoint=replace(self.checkpoint, weights=np.empty(0), rows=rows))

    def epochs(self) -> np.ndarray:
        """Of each checkpoint."""
        return self.checkpoint.rows["step"] / self.steps_per_epoch

    def some_of(self, names: Collection[str]) -> xr.Dataset:
        """Some variables of the trajectory, as far as they were measured: without what they mean, and soon made."""
        rows = self.checkpoint.rows
        variables = {name: ("step", rows[name]) for name in names if name in rows}
        return xr.Dataset(variables, {"epoch": ("step", self.epochs())}, self.sizes)


@dataclass(frozen=True)
class Place:
    """Where a member's block stands, and how far its run went."""

    start: int
    header: int
    arrays: int
    epoch: float


class _State(NamedTuple):
    """Of a file at some moment: which it is, how long, and when it was changed."""

    inode: int
    size: int
    changed: int


@dataclass(frozen=True)
class _Index:
    """The members in a file as far as it was gone through, and the last bytes there: they show whether it only grew."""

    state: _State
    end: int
    last: bytes
    places: dict[str, Place]


_known: dict[Path, _Index] = {}


def places(path: Path) -> dict[str, Place]:
    """The members that a file of results holds, by name; where one is there twice, the last counts.

    A block cut short at the end is none. Only what was added since the last call is gone through.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    return _index(path).places


def _index(path: Path) -> _Index:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            state = _State(status.st_ino, status.st_size, status.st_mtime_ns)
            known = _known.get(path)
            if known is not None and known.state == state:
                return known
            if known is None or not _has_grown(file, known, state):
                known = _Index(state, 0, b"", {})
            found, end = dict(known.places), known.end
            while (block := _next(file, path, end, state.size)) is not None:
                name, place = block
                found[name] = place
                end = place.start + _HEAD.size + place.header + place.arrays
            file.seek(max(0, end - _LAST))
            _known[path] = _Index(state, end, file.read(min(end, _LAST)), found)
    except FileNotFoundError:
        return _Index(_State(-1, 0, 0), 0, b"", {})
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the file.") from None
    return _known[path]


def _has_grown(file: IO[bytes], known: _Index, now: _State) -> bool:
    """Whether what was gone through before is still there."""
    if known.state.inode != now.inode or known.end >= now.size:
        return False
    file.seek(known.end - len(known.last))
    return file.read(len(known.last)) == known.last


def _next(file: IO[bytes], path: Path, start: int, size: int) -> tuple[str, Place] | None:
    """The block that starts there, or None where the file ends before it does."""
    file.seek(start)
    head = file.read(_HEAD.size)
    if not _MARKER.startswith(head[: len(_MARKER)]) and head.strip(b"\0"):
        raise _damaged(path, f"no member begins at byte {start}")
    if len(head) < _HEAD.size or not head.strip(b"\0"):
        return None
    _, header, arrays, checksum = _HEAD.unpack(head)
    if start + _HEAD.size + header + arrays > size:
        return None
    content = file.read(header + arrays)
    if zlib.crc32(content) != checksum:
        if start + _HEAD.size + header + arrays == size:  # its end has not reached the disk when the machine failed
            return None
        raise _damaged(path, f"the member at byte {start} does not fit its checksum")
    try:
        known = json.loads(content[:header])
        return str(known["member"]), Place(start, header, arrays, float(known["epoch"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from None


def read_ended(path: Path, name: str) -> Ended:
    """What a member measured.

    Raises
    ------
    InputError
        If the file does not hold it, or is damaged.
    """
    place = places(path).get(name)
    if place is None:
        raise InputError(f"{path} holds no member {name}.")
    try:
        with open(path, "rb") as file:
            file.seek(place.start + _HEAD.size)
            header, content = json.loads(file.read(place.header)), file.read(place.arrays)
        return _ended(header, content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from None


def _ended(header: dict[str, Any], content: bytes) -> Ended:
    arrays, start = {}, 0
    for name, dtype, shape in header["arrays"]:
        kind = np.dtype(str(dtype))
        count = math.prod(int(length) for length in shape)
        if kind.kind not in _KINDS or min(shape, default=0) < 0 or start + count * kind.itemsize > len(content):
            raise ValueError(f"{name} announces the shape {shape} of {dtype}")
        arrays[str(name)] = np.frombuffer(content, kind, count, start).reshape(shape).copy()
        start += count * kind.itemsize
    weights, table = arrays.pop("weights"), arrays.pop("table")
    names = np.array([str(name) for name in header["scalars"]])
    stored = {"step": np.array(header["step"]), "weights": weights, "names": names, "table": table}
    stored |= {"fingerprint": np.array(header["fingerprint"]), "settings": np.array(header["settings"])}
    checkpoint = checked({**stored, **arrays})
    sizes = {str(name): value for name, value in header["sizes"].items()}
    if not all(isinstance(value, int | float) for value in sizes.values()):
        raise ValueError("its sizes are no numbers")
    return Ended(str(header["config"]), checkpoint, int(header["steps_per_epoch"]), sizes)


class ResultsWriter:
    """Appends members to a file of results that this process has to itself: a context manager.

    Parameters
    ----------
    path : Path
        Of the file; it is created with the first member.

    Raises
    ------
    InputError
        If the file is damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        self._end = _index(path).end
        self._file: IO[bytes] | None = None
        self._synced = time.monotonic()

    def append(self, name: str, ended: Ended) -> None:
        """Add a member; it is there for whoever reads the file from now on, and a killed process loses nothing of it.

        Raises
        ------
        InputError
            If it cannot be written, for lack of space perhaps; what was there before stays.
        """
        block = _block(name, ended)
        try:
            if self._file is None:
                self._file = open(self._path, "r+b" if self._path.exists() else "x+b", buffering=0)
                self._file.truncate(self._end)  # of a block that a killed process has left cut short
            self._file.seek(self._end)
            view = memoryview(block)
            while view:
                view = view[self._file.write(view) :]
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                self._sync()
        except OSError as error:
            raise InputError(why_unwritten(self._path, error)) from None
        self._end += len(block)

    def _sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def __enter__(self) -> "ResultsWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._sync()
            self._file.close()
            self._file = None


def _block(name: str, ended: Ended) -> bytes:
    rows = ended.checkpoint.rows
    scalars = {key: values for key, values in rows.items() if values.ndim == 1}
    arrays = {"weights": ended.checkpoint.weights, "table": np.array(list(scalars.values()), dtype=np.float64)}
    arrays |= {f"array {key}": values for key, values in rows.items() if values.ndim > 1}
    header = {
        "member": name,
        "epoch": ended.checkpoint.step / ended.steps_per_epoch,
        "config": ended.config,
        "step": ended.checkpoint.step,
        "steps_per_epoch": ended.steps_per_epoch,
        "sizes": ended.sizes,
        "fingerprint": ended.checkpoint.fingerprint,
        "settings": ended.checkpoint.settings,
        "scalars": list(scalars),
        "arrays": [[key, values.dtype.str, values.shape] for key, values in arrays.items()],
    }
    text = json.dumps(header).encode()
    content = b"".join([text, *(np.ascontiguousarray(values).tobytes() for values in arrays.values())])
    return _HEAD.pack(_MARKER, len(text), len(content) - len(text), zlib.crc32(content)) + content


def _damaged(path: Path, reason: object) -> InputError:
    return InputError(f"{path} is damaged ({reason}): restore it, or remove it, and its members run again.")
