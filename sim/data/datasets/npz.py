"""The user's own data, from one ``.npz`` file: read alike by all that take one."""

from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_count
from sgdphases.sim.data.datasets.own import OwnArrays, own_dataset
from sgdphases.sim.storage.arrays import read_npz

_KNOWN = ("x", "y", "x_train", "y_train", "x_test", "y_test", "y_clean")
_NAMES = "x and y, or x_train and y_train, perhaps x_test and y_test, and y_clean"


def load_npz(
    path: str | Path,
    *,
    classes: int | None = None,
    test_fraction: float | None = None,
    rng: np.random.Generator | None = None,
) -> Dataset:
    """Your own arrays, saved with ``numpy.savez(path, x=, y=)`` or with x_train, y_train, x_test, y_test.

    Parameters
    ----------
    path : path
        A ``.npz`` file holding ``x`` and ``y``, or ``x_train`` and ``y_train``; where there is one, a test set
        ``x_test``, ``y_test``; and where the right training labels are known, ``y_clean``. Samples are of shape
        (N, ...): bytes (uint8) are taken as images and divided by 255, other whole numbers become float32 as they are.
        Labels of shape (N,) that are text, or whole numbers, make a classification; floating-point labels, whole or
        not, of shape (N,) or (N, outputs) make a regression. Whole numbers called ``y`` may be any, those called
        ``y_train`` are counted from 0.
    classes : int, optional
        K, for whole numbers counted from 0; by default one more than the largest label in the file.
    test_fraction : float, optional
        Share of the samples set apart as a test set where the file holds none; 0.2 by default.
    rng : numpy.random.Generator, optional
        Which samples these are; by default a generator with the seed 0.

    Returns
    -------
    Dataset
        Named by the file's name. ``y_clean`` is None unless the file holds it: nothing is claimed of
        labels that nobody has checked.

    Raises
    ------
    UsageError
        `classes` is given for a regression or text or is no count, or `test_fraction` is of no use.
    InputError
        The file or an array in it is missing, damaged, pickled, empty, of the wrong type or shape, or holds
        NaN, infinity or labels outside 0..K-1.
    """
    if classes is not None:
        check_count("classes", classes)
    path = Path(path).expanduser()
    return own_dataset(read_npz_file(path), path, classes=classes, test_fraction=test_fraction, rng=rng)


def read_npz_file(path: Path) -> OwnArrays:
    """The arrays of a ``.npz`` file by their known names; raises InputError where they are not there or damaged."""
    found: dict[str, str] = {}

    def choose(names: list[str]) -> list[str]:
        kinds = [pair for pair in (("x", "y"), ("x_train", "y_train")) if set(pair) & set(names)]
        lacking = [name for name in kinds[0] if name not in names] if len(kinds) == 1 else []
        lacking += [name for name in ("x_test", "y_test") if name not in names and {"x_test", "y_test"} & set(names)]
        if len(kinds) != 1 or lacking:
            what = "holds both x and x_train" if len(kinds) > 1 else f"lacks {', '.join(lacking) or 'x and y'}"
            raise ValueError(f"it {what}; it holds {', '.join(names) or 'nothing'}")
        found.update(zip(("x", "y"), kinds[0], strict=True))
        return [name for name in _KNOWN if name in names]

    remedy = f"write it again with numpy.savez, from arrays of numbers or text: {_NAMES}"
    try:
        arrays = read_npz(path, ".npz file", remedy, choose)
    except FileNotFoundError:
        raise InputError(f"the data file {path} does not exist; give the path of a .npz file") from None
    return OwnArrays(
        arrays[found["x"]],
        arrays[found["y"]],
        arrays.get("x_test"),
        arrays.get("y_test"),
        arrays.get("y_clean"),
        found,
        is_counted=found["y"] != "y",
    )
