"""Read labels, or a transition matrix of labels, from a file of numbers."""

import warnings
from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.sim.data.datasets.checks import check_finite
from sgdphases.sim.data.label_noise.transitions import check_transition
from sgdphases.sim.storage.arrays import read_npy


def load_labels(path: str | Path) -> np.ndarray:
    """Read labels from a ``.npy``, ``.csv`` or ``.txt`` file.

    Text holds one label a line (or all in one line; or one line of several targets a sample), with commas or
    blanks between, and ``#`` before comments.

    Returns
    -------
    ndarray, shape (N,), int64, where all values are whole; else float64, or shape (N, outputs)

    Raises
    ------
    InputError
        The file is missing, empty or damaged, or holds anything but finite numbers.
    """
    values = _read_numbers(path)
    if 1 in values.shape:
        values = values.ravel()
    if values.dtype.kind == "f" and np.array_equal(values, np.round(values)) and np.abs(values).max() < 2**53:
        return values.astype(np.int64)
    return values.astype(np.int64 if values.dtype.kind in "biu" else np.float64)


def load_transition(path: str | Path) -> np.ndarray:
    """Read a K×K transition matrix from a ``.npy``, ``.csv`` or ``.txt`` file, one row a line.

    Returns
    -------
    ndarray, shape (K, K), float64

    Raises
    ------
    InputError
        As for :func:`load_labels`; or the matrix is not square or its rows are no probabilities.
    """
    values = _read_numbers(path)
    try:
        return check_transition(values, len(values))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read_numbers(path: str | Path) -> np.ndarray:
    """Finite numbers of shape (rows, columns), rows and columns not 0."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"the file {path} does not exist; give a .npy, .csv or .txt file")
    if path.suffix not in (".npy", ".csv", ".txt"):
        raise InputError(f"{path} has the ending {path.suffix!r}; save the numbers as .npy, .csv or .txt")
    try:
        values = read_npy(path) if path.suffix == ".npy" else _parse(path)
    except Exception as error:  # a damaged file may raise anything
        raise InputError(
            f"{path} cannot be read as numbers ({error}); write one sample (or one matrix row) a line"
        ) from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.ndim not in (1, 2):
        raise InputError(f"{path} holds no list or table of real numbers; save it again")
    if values.size == 0:
        raise InputError(f"{path} is empty; write one sample (or one matrix row) a line")
    check_finite(values, str(path))
    return values[:, None] if values.ndim == 1 else values


def _parse(path: Path) -> np.ndarray:
    text = path.read_text(encoding="utf-8-sig").replace(",", " ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # numpy's, of an empty file: said below
        return np.loadtxt(text.splitlines(), dtype=np.float64, ndmin=2)
