"""Read the IDX files in which MNIST is distributed, strictly."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.sim.storage.arrays import check_memory

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08
_BLOCK = 1 << 20
_REMEDY = "download or copy the file again"


def read_idx(path: Path, n_dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes, plain or gzipped (recognised by content, not by name).

    The layout: two zero bytes, the type code (8, unsigned byte), the number of dimensions, each dimension as
    a big-endian 32-bit number, then exactly as many bytes as their product.

    Parameters
    ----------
    path : Path
    n_dimensions : int
        1 for labels, 3 for images.

    Returns
    -------
    ndarray of uint8, with `n_dimensions` dimensions

    Raises
    ------
    InputError
        The file cannot be read, is of another kind, is cut short or too long. Never more than the announced
        number of bytes is unpacked.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
        with gzip.open(path) if packed else path.open("rb") as stream:
            shape = _read_shape(stream.read(4 + 4 * n_dimensions), n_dimensions, path)
            size = math.prod(shape)
            body = bytearray()
            while len(body) <= size and (block := stream.read(_BLOCK)):
                body += block
                check_memory(len(body))  # what is unpacked may be far more than the file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged or cut short ({error}); {_REMEDY}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the file") from error
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{path}: {error}; {_REMEDY}") from None
    if len(body) != size:
        found = f"more than {size}" if len(body) > size else str(len(body))
        raise InputError(f"{path} announces the shape {shape}, {size} bytes, but holds {found}; {_REMEDY}")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def _read_shape(header: bytes, n_dimensions: int, path: Path) -> tuple[int, ...]:
    expected = bytes((0, 0, _UNSIGNED_BYTE, n_dimensions))
    if header[:4] != expected:
        raise InputError(
            f"{path} begins with the bytes {header[:4].hex() or '(none)'}, not with {expected.hex()}, so it "
            f"is no IDX file of unsigned bytes in {n_dimensions} dimension(s); {_REMEDY}"
        )
    if len(header) != 4 + 4 * n_dimensions:
        raise InputError(f"{path} ends after {len(header)} bytes, within its header; {_REMEDY}")
    return struct.unpack(f">{n_dimensions}I", header[4:])
