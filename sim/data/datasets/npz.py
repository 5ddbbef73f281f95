"""The user's own data, from one ``.npz`` file."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_count, check_dataset, check_labels

_NEEDED = ("x_train", "y_train", "x_test", "y_test")
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


def load_npz(path: str | Path, *, classes: int | None = None) -> Dataset:
    """Your own arrays, saved with ``numpy.savez(path, x_train=, y_train=, x_test=, y_test=)``.

    Parameters
    ----------
    path : path
        A ``.npz`` file holding ``x_train``, ``y_train``, ``x_test``, ``y_test`` and, where the right training
        labels are known, ``y_clean``. Samples are of shape (N, ...): bytes (uint8) are taken as images and
        divided by 255, other whole numbers become float32 as they are. Whole-number labels of shape (N,)
        make a classification; floating-point labels, whole or not, of shape (N,) or (N, outputs) make a
        regression.
    classes : int, optional
        K; by default one more than the largest label in the file.

    Returns
    -------
    Dataset
        Named by the file's name. ``y_clean`` is None unless the file holds it: nothing is claimed of
        labels nobody has vouched for.

    Raises
    ------
    UsageError
        `classes` is given for a regression or is no count.
    InputError
        The file or an array in it is missing, damaged, pickled, empty, of the wrong type or shape, or holds
        NaN, infinity or labels outside 0..K-1.
    """
    if classes is not None:
        check_count("classes", classes)
    path = Path(path).expanduser()
    arrays = _read(path)
    x_train, x_test = (_samples(arrays[key], f"{path}: {key}") for key in ("x_train", "x_test"))
    names = [key for key in ("y_train", "y_test", "y_clean") if key in arrays]
    real = {key: _is_real(arrays[key], f"{path}: {key}") for key in names}
    if len(set(real.values())) > 1:
        kinds = ", ".join(f"{key} {arrays[key].dtype}" for key in names)
        raise InputError(
            f"{path} mixes whole-number and floating-point labels ({kinds}); save class labels as integers, "
            "regression targets as floats"
        )
    if real["y_train"]:
        if classes is not None:
            raise UsageError(
                f"classes={classes} is given, but {path} holds floating-point targets, a regression; leave "
                "it out, or save the class labels as integers"
            )
        labels = {key: arrays[key].astype(np.float64) for key in names}
        labels = {key: y[:, None] if y.ndim == 1 else y for key, y in labels.items()}
        n_classes = None
    else:
        n_classes = _count_classes({key: arrays[key] for key in names}, classes, path)
        labels = {key: arrays[key].astype(np.int64) for key in names}
    data = Dataset(
        path.name,
        x_train,
        labels["y_train"],
        x_test,
        labels["y_test"],
        n_classes=n_classes,
        y_clean=labels.get("y_clean"),
    )
    return check_dataset(data, str(path))


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"the data file {path} does not exist; give the path of a .npz file")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is no .npz file, or is cut short; write it with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as content:
            missing = [key for key in _NEEDED if key not in content.files]
            if missing:
                raise InputError(
                    f"{path} lacks {', '.join(missing)}; it holds {', '.join(content.files) or 'nothing'}; "
                    f"save it with {', '.join(_NEEDED)} and, if known, y_clean"
                )
            arrays = {key: content[key] for key in (*_NEEDED, "y_clean") if key in content.files}
    except InputError:
        raise
    except _UNREADABLE as error:
        raise InputError(
            f"{path} is damaged, or holds arrays of Python objects ({error}); write it anew with numpy.savez "
            "from arrays of numbers"
        ) from error
    strange = [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise InputError(f"{path} holds no arrays under {', '.join(strange)}; write it with numpy.savez")
    return arrays


def _samples(x: np.ndarray, name: str) -> np.ndarray:
    if x.dtype == np.uint8:
        return np.divide(x, 255, dtype=np.float32)
    if x.dtype.kind not in "biuf":
        raise InputError(f"{name} has the type {x.dtype}; save the samples as numbers")
    return x.astype(np.float64 if x.dtype.kind == "f" and x.dtype.itemsize >= 8 else np.float32, copy=False)


def _is_real(y: np.ndarray, name: str) -> bool:
    if y.dtype.kind not in "biuf":
        raise InputError(f"{name} has the type {y.dtype}; save class labels as integers, regression targets as floats")
    return y.dtype.kind == "f"


def _count_classes(labels: dict[str, np.ndarray], classes: int | None, path: Path) -> int:
    largest = max((int(y.max()) for y in labels.values() if y.size), default=0)
    samples = sum(len(y) for key, y in labels.items() if key != "y_clean" and y.ndim)
    if classes is None and largest >= max(samples, 2):
        raise InputError(
            f"{path} holds the label {largest} with only {samples} samples; number the classes from 0, or "
            "give the number of classes with the option classes"
        )
    n_classes = classes or max(largest, 0) + 1
    for key, y in labels.items():
        if y.dtype.kind != "b":
            check_labels(y, n_classes, f"{path}: {key}")
    return n_classes
