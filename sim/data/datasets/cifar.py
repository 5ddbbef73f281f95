"""CIFAR-10 from its own files, the binary or the Python ones; no file is trusted to run code."""

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_dataset, check_labels
from sgdphases.sim.data.datasets.folders import check_folder

_PIXELS = 3 * 32 * 32
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MOST_BYTES = 1 << 29  # of one file; the real ones hold 31 MB
_MOST_OBJECTS = 1_000_000  # in one pickle; the real ones hold some ten thousand
_REMEDY = "download or copy the file again"


def load_cifar10(data_dir: str | Path | None = None) -> Dataset:
    """CIFAR-10 colour images of 32x32 pixels, 50,000 for training and 10,000 for the test.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".

    Parameters
    ----------
    data_dir : path
        Folder of ``data_batch_1.bin`` .. ``data_batch_5.bin`` and ``test_batch.bin`` (or its parent, where
        they lie in ``cifar-10-batches-bin``), or of the Python files ``data_batch_1`` .. ``test_batch`` (or
        the parent of ``cifar-10-batches-py``). The binary files come first. A file may hold any whole
        number of images.

    Returns
    -------
    Dataset
        ``x`` float32 of shape (N, 3, 32, 32), colours red, green, blue in [0, 1]; all labels taken as right.

    Raises
    ------
    UsageError
        No folder is given or it does not exist.
    InputError
        A file is missing, damaged, of a wrong size, holds a label above 9, or (Python files) asks for
        anything beyond plain arrays of bytes; such a request is refused, not run.
    """
    paths, read = _find(check_folder(data_dir, "cifar10"))
    batches = [read(path) for path in paths]
    for path, (_, labels) in zip(paths, batches, strict=True):
        check_labels(labels, 10, str(path))
    train, (x_test, y_test) = batches[:-1], batches[-1]
    x_train, y_train = (np.concatenate(parts) for parts in zip(*train, strict=True))
    data = Dataset(
        "cifar10",
        _scale(x_train),
        y_train,
        _scale(x_test),
        y_test,
        n_classes=10,
        y_clean=y_train,
        class_names=_NAMES,
    )
    return check_dataset(data, "cifar10")


_Read = Callable[[Path], tuple[np.ndarray, np.ndarray]]


def _scale(pixels: np.ndarray) -> np.ndarray:
    return np.divide(pixels, 255, dtype=np.float32).reshape(-1, 3, 32, 32)


def _find(folder: Path) -> tuple[list[Path], _Read]:
    missing: list[Path] = []
    for subfolder, end, read in (
        ("", ".bin", _read_binary),
        ("cifar-10-batches-bin", ".bin", _read_binary),
        ("", "", _read_python),
        ("cifar-10-batches-py", "", _read_python),
    ):
        paths = [folder / subfolder / f"{name}{end}" for name in _BATCHES]
        absent = [path for path in paths if not path.is_file()]
        if not absent:
            return paths, read
        if len(absent) < len(paths):
            missing = missing or absent
    what = ", ".join(map(str, missing)) or f"data_batch_1.bin, or data_batch_1, in {folder} or below"
    raise InputError(
        f"cifar10: missing {what}; unpack the whole CIFAR-10 archive there (binary or Python version), or "
        "give another folder with --data-dir"
    )


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = np.frombuffer(_content(path), dtype=np.uint8)
    record = 1 + _PIXELS
    if content.size == 0 or content.size % record:
        raise InputError(
            f"{path} holds {content.size} bytes, expected a whole number of records of {record} bytes (a "
            f"label and 3x32x32 pixels); {_REMEDY}"
        )
    records = content.reshape(-1, record)
    return records[:, 1:], records[:, 0].astype(np.int64)


def _read_python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    stream = io.BytesIO(_content(path))
    try:
        _check_memo(stream)
        content = _Unpickler(stream, encoding="bytes").load()
        rest = stream.read(1)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(
            f"{path} is damaged or no CIFAR-10 batch ({type(error).__name__}: {error}); {_REMEDY}"
        ) from error
    if rest or not isinstance(content, dict):
        raise InputError(f"{path} is no CIFAR-10 batch (one dictionary with 'data' and 'labels'); {_REMEDY}")
    found = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    pixels, labels = found.get("data"), found.get("labels")
    if not isinstance(pixels, _PickledArray) or not isinstance(labels, list):
        raise InputError(f"{path} lacks the array 'data' or the list 'labels' of a CIFAR-10 batch; {_REMEDY}")
    if not all(type(label) is int for label in labels):
        raise InputError(f"{path} holds labels that are no whole numbers; {_REMEDY}")
    images = pixels.bytes_array(path)
    if images.ndim != 2 or images.shape[1] != _PIXELS or len(images) == 0:
        raise InputError(f"{path} holds an array of the shape {images.shape}, expected (N, {_PIXELS}); {_REMEDY}")
    if len(images) != len(labels):
        raise InputError(f"{path} holds {len(images)} images but {len(labels)} labels; {_REMEDY}")
    if not all(0 <= label <= 9 for label in labels):
        raise InputError(f"{path} holds labels outside 0..9, from {min(labels)} to {max(labels)}; {_REMEDY}")
    return images, np.array(labels, dtype=np.int64)


def _content(path: Path) -> bytes:
    """The bytes of a file that is not too large to hold a batch."""
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InputError(f"{path} holds {size} bytes, more than a CIFAR-10 batch; {_REMEDY}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check the file") from error


def _check_memo(stream: io.BytesIO) -> None:
    """Refuse a pickle that numbers its objects far beyond their count: its reader would allocate that many places."""
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > _MOST_OBJECTS:
            raise InputError(f"it numbers an object {argument}, which no CIFAR-10 file needs, and was not read")
    stream.seek(0)


class _PickledDtype:
    """Stands for a numpy dtype in a pickle: only its code, such as 'u1', is kept."""

    def __init__(self, code: str | bytes = "", *_: object) -> None:
        self.code = code.decode("latin-1") if isinstance(code, bytes) else code

    def __setstate__(self, state: object) -> None:
        """The byte order and the like, which bytes do not have."""


class _ArrayState(NamedTuple):
    shape: tuple[int, ...]
    dtype: Any
    fortran_order: bool
    content: Any


class _PickledArray:
    """Stands for a numpy array in a pickle: what the file says of it, not yet believed."""

    def __init__(self, *_: object) -> None:
        self.state: _ArrayState | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran_order, content = state
        self.state = _ArrayState(shape, dtype, bool(fortran_order), content)

    @classmethod
    def from_buffer(cls, content: Any, dtype: Any, shape: tuple[int, ...], order: Any, *_: object) -> "_PickledArray":
        array = cls()
        array.state = _ArrayState(shape, dtype, order in ("F", b"F"), content)
        return array

    def bytes_array(self, path: Path) -> np.ndarray:
        """The array, if it is one of unsigned bytes whose size fits its shape."""
        try:
            shape, dtype, fortran_order, content = self.state  # type: ignore[misc]
            if not isinstance(dtype, _PickledDtype) or dtype.code != "u1":
                raise ValueError("its type is not unsigned byte")
            return np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if fortran_order else "C")
        except (TypeError, ValueError) as error:
            raise InputError(f"{path} holds an array that cannot be read ({error}); {_REMEDY}") from error


def _encode(text: str, encoding: str | bytes) -> bytes:
    """Python 3 writes bytes so in old pickles; no other encoding occurs there."""
    if encoding not in ("latin1", b"latin1"):
        raise InputError(
            f"it asks for the encoding {encoding!r}, which no CIFAR-10 file needs, and was not read; {_REMEDY}"
        )
    return text.encode("latin-1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledDtype,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _PickledArray
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _PickledArray.from_buffer


class _Unpickler(pickle.Unpickler):
    """Hands out stand-ins for the few names a pickled array needs, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise InputError(
                f"it asks to load {module}.{name}, which no CIFAR-10 file needs and which could run code, "
                f"and was not read; {_REMEDY}"
            ) from None
