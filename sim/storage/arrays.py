"""Arrays from ``.npz`` and ``.npy`` files from any source: no code is run, and no header is trusted for memory."""

import os
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from sgdphases.estimators.errors import InputError

_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_BLOCK = 1 << 22
_UNKNOWN_MEMORY = 2**36  # bytes; where the operating system does not say how much there is


def read_npz(
    path: Path, kind: str, remedy: str, choose: Callable[[list[str]], Collection[str]] = list
) -> dict[str, np.ndarray]:
    """Some arrays of a ``.npz`` file.

    Parameters
    ----------
    path : Path
    kind, remedy : str
        What the file should be, and what to do where it is damaged, for the message.
    choose : callable
        Takes the names of all arrays and gives those wanted, by default all.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    InputError
        If it is damaged, is no ``.npz`` file, holds Python objects, or does not fit into memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            chosen = list(choose(list(members)))
            sizes = {name: archive.getinfo(members[name]).file_size for name in chosen}
            check_memory(sum(sizes.values()))
            found = {}
            for name in chosen:
                with archive.open(members[name]) as stream:
                    found[name] = _array(stream, sizes[name], name)
            return found
    except FileNotFoundError:
        raise
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the file.") from None
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{path} is no usable {kind} ({_reason(error)}): {remedy}.") from None


def read_npy(path: Path) -> np.ndarray:
    """The array of a ``.npy`` file; raises InputError as `read_npz` does."""
    try:
        with open(path, "rb") as stream:
            return _array(stream, os.fstat(stream.fileno()).st_size, "the array")
    except Exception as error:  # a damaged file may raise anything
        raise InputError(f"{path} is no usable .npy file ({_reason(error)}): write it again with numpy.save.") from None


def _array(stream: IO[bytes], size: int, name: str) -> np.ndarray:
    """The array in a stream of ``size`` bytes, once its header has been compared with that size."""
    version = npy.read_magic(stream)
    if version not in _READERS:
        raise ValueError(f"{name} has the format version {version}, which is unknown")
    shape, fortran, dtype = _READERS[version](stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which could run code")
    count = 1
    for length in shape:
        if length < 0:
            raise ValueError(f"{name} has the shape {shape}")
        count *= length  # of Python's integers, which do not overflow
    left = size - stream.tell()
    if count * dtype.itemsize != left:
        raise ValueError(
            f"{name} announces the shape {shape} of {dtype}, {count * dtype.itemsize} bytes, but holds {left}"
        )
    check_memory(left)
    content = bytearray()  # grows with what is really there: the directory of an archive may lie as well
    while len(content) < left:
        block = stream.read(min(left - len(content), _BLOCK))
        if not block:
            raise ValueError(f"{name} is cut short")
        content += block
    if stream.read(1):  # reaches the end of a member of an archive, where its checksum is compared
        raise ValueError(f"{name} is followed by something else")
    flat: np.ndarray = np.ndarray((count,), dtype, content) if count else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def check_memory(size: int) -> None:
    """Raise a ValueError where so many bytes are more than half of what this machine has."""
    memory = memory_bytes()
    if size > memory / 2:
        raise ValueError(
            f"it holds {size / 2**30:.3g} GiB, more than half of this machine's memory of {memory / 2**30:.3g} GiB"
        )


def memory_bytes() -> int:
    """Bytes of memory that this machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _UNKNOWN_MEMORY


def _reason(error: Any) -> str:
    return str(error) or type(error).__name__
