"""The user's own data, however they are stored: labels numbered, samples as numbers, a test set set apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_dataset, check_labels

if TYPE_CHECKING:
    from PIL.Image import Image

TEST_FRACTION = 0.2  # of the samples, set apart where there is no test set


class Source(Protocol):
    """Data where they stand on disk: what a sample is called there, how it looks, and how to write some of them again.

    Attributes
    ----------
    place : str
        What one sample is there: "file" or "row".
    places : sequence
        The file or row of every training sample.
    ending : str
        Of the file that `write` makes, ".csv" for example; empty for a folder.
    """

    @property
    def place(self) -> str: ...

    @property
    def places(self) -> Sequence[Any]: ...

    @property
    def ending(self) -> str: ...

    def write(self, out: Path, index: np.ndarray, labels: np.ndarray) -> None:
        """Write training samples of these numbers under these labels, all else as it is, test set included."""

    def listed(self) -> "Source":
        """What stands for it where nothing is to be copied: a list of files for a folder of images, else itself."""

    def picture(self, sample: int, side: int) -> "Image | None":
        """A training sample as it can be looked at, not more than so many pixels a side; None where it is no image."""

    def row(self, sample: int) -> list[tuple[str, str]]:
        """A training sample as names and values; empty where it is an image."""


@dataclass(frozen=True, eq=False)
class OwnArrays:
    """Samples and labels as they stand in the user's files.

    Attributes
    ----------
    x, y : ndarray, shape (N, ...)
        Training samples and labels.
    x_test, y_test : ndarray or None
    y_clean : ndarray or None
        Right labels of the training samples.
    names : dict of str
        "x" and "y" -> what they are called in the file.
    is_counted : bool
        Whether labels that are whole numbers are counted from 0, so that the largest says how many classes there are;
        otherwise they may be any.
    source : Source or None
        Where they came from; None where the arrays are all there is.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    y_clean: np.ndarray | None = None
    names: dict[str, str] = field(default_factory=lambda: {"x": "x", "y": "y"})
    is_counted: bool = False
    source: Source | None = None


def own_dataset(
    own: OwnArrays,
    path: Path,
    *,
    classes: int | None = None,
    test_fraction: float | None = None,
    rng: np.random.Generator | None = None,
) -> Dataset:
    """A checked data set of the user's arrays, a test set set apart where they hold none.

    Parameters
    ----------
    own : OwnArrays
    path : Path
        Where they came from, for messages; its name is that of the data set.
    classes, test_fraction, rng
        As for `sgdphases.sim.data.datasets.npz.load_npz`.

    Raises
    ------
    UsageError, InputError
        As `load_npz` does.
    """
    labels, known = encoded_labels(own, path, classes)
    if own.x_test is None:
        own, labels = _split(own, labels, TEST_FRACTION if test_fraction is None else test_fraction, path, rng)
    elif test_fraction is not None:
        raise UsageError(f"test_fraction={test_fraction} has no effect on {path}, which holds a test set; leave it out")
    assert own.x_test is not None  # by now
    data = Dataset(
        path.name,
        samples(own.x, f"{path}: {own.names['x']}"),
        labels["y"],
        samples(own.x_test, f"{path}: x_test"),
        labels["y_test"],
        n_classes=None if known is None else len(known),
        y_clean=labels.get("y_clean"),
        class_names=() if known is None or _is_counted(known) else tuple(map(str, known)),
    )
    return check_dataset(data, str(path))


def encoded_labels(
    own: OwnArrays, path: Path, classes: int | None = None
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Labels 0..K-1, shape (N,), int64, and what they stand for; or real targets, shape (N, outputs).

    Returns
    -------
    labels : dict of ndarray
        "y", and "y_test" and "y_clean" where the file holds them.
    known : ndarray, shape (K,), or None
        The labels in the file that 0..K-1 stand for; None for a regression.

    Raises
    ------
    UsageError, InputError
        As `own_dataset` does.
    """
    given = {"y": own.y, "y_test": own.y_test, "y_clean": own.y_clean}
    arrays = {name: values for name, values in given.items() if values is not None}
    names = {name: own.names.get(name, name) for name in arrays}
    kinds = {name: _kind(values, f"{path}: {names[name]}") for name, values in arrays.items()}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{names[name]} {values.dtype}" for name, values in arrays.items())
        raise InputError(
            f"{path} mixes text, whole-number and floating-point labels ({listed}); save class labels as integers or "
            "text, regression targets as floats"
        )
    kind = kinds["y"]
    if kind != "whole" and classes is not None:
        raise UsageError(
            f"classes={classes} is given, but {path} holds "
            + ("text labels; leave it out" if kind == "text" else "floating-point targets, a regression; leave it out, "
               "or save the class labels as integers")
        )  # fmt: skip
    if kind == "real":
        targets = {name: values.astype(np.float64) for name, values in arrays.items()}
        return {name: y[:, None] if y.ndim == 1 else y for name, y in targets.items()}, None
    if kind == "text" or (not own.is_counted and classes is None):
        return _by_name(arrays, names, path)
    n_classes = _count_classes({names[name]: values for name, values in arrays.items()}, classes, path)
    return {name: values.astype(np.int64) for name, values in arrays.items()}, np.arange(n_classes)


def samples(x: np.ndarray, name: str) -> np.ndarray:
    """Samples as floating-point numbers, bytes divided by 255; raises InputError where they are no numbers."""
    if x.dtype == np.uint8:
        return np.divide(x, 255, dtype=np.float32)
    if x.dtype.kind not in "biuf":
        raise InputError(f"{name} has the type {x.dtype}; save the samples as numbers")
    return x.astype(np.float64 if x.dtype.kind == "f" and x.dtype.itemsize >= 8 else np.float32, copy=False)


def _split(
    own: OwnArrays, labels: dict[str, np.ndarray], fraction: float, path: Path, rng: np.random.Generator | None
) -> tuple[OwnArrays, dict[str, np.ndarray]]:
    """Set some samples apart for the test, drawn at random; the others keep their order."""
    n = len(own.x) if own.x.ndim else 0
    if not 0 < fraction < 1:
        raise UsageError(f"test_fraction={fraction} must be between 0 and 1, both excluded: a run needs a test set")
    for name, values in labels.items():
        if values.ndim == 0 or len(values) != n:
            raise InputError(
                f"{path}: {own.names['x']} holds {n} samples but {own.names.get(name, name)} "
                f"{len(values) if values.ndim else 'no list of'} labels; there must be one each"
            )
    n_test = max(1, round(fraction * n))
    if n_test >= n:
        raise InputError(f"{path} holds {n} sample(s), too few to set a share of {fraction:g} apart for a test")
    test = np.zeros(n, dtype=bool)
    test[(np.random.default_rng(0) if rng is None else rng).permutation(n)[:n_test]] = True
    parted = replace(own, x=own.x[~test], y=own.y[~test], x_test=own.x[test], y_test=own.y[test], y_clean=None)
    kept = {name: values[~test] for name, values in labels.items()}
    return parted, {**kept, "y_test": labels["y"][test]}


def _kind(y: np.ndarray, name: str) -> str:
    if y.dtype.kind in "US":
        return "text"
    if y.dtype.kind not in "biuf":
        raise InputError(
            f"{name} has the type {y.dtype}; save class labels as integers or text, regression targets as floats"
        )
    return "real" if y.dtype.kind == "f" else "whole"


def _by_name(
    arrays: dict[str, np.ndarray], names: dict[str, str], path: Path
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Text, or any whole numbers, numbered in their order."""
    for name, values in arrays.items():
        if values.ndim != 1:
            raise InputError(
                f"{path}: {names[name]} must hold one label per sample, shape (N,); it has the shape {values.shape}"
            )
    plain = {name: _text(values) if values.dtype.kind == "S" else values for name, values in arrays.items()}
    known = np.unique(np.concatenate(list(plain.values())))
    for odd in (name for name in known if known.dtype.kind == "U" and not _is_unicode(str(name))):
        raise InputError(f"{path}: {names['y']} holds the label {str(odd)!a}, which is no Unicode text; rename it")
    if not len(known):
        raise InputError(f"{path}: {names['y']} is empty; at least one sample is needed")
    return {name: np.searchsorted(known, values).astype(np.int64) for name, values in plain.items()}, known


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_counted(known: np.ndarray) -> bool:
    return known.dtype.kind != "U" and np.array_equal(known, np.arange(len(known)))


def _text(values: np.ndarray) -> np.ndarray:
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        return np.char.decode(values, "latin-1")


def _count_classes(labels: dict[str, np.ndarray], classes: int | None, path: Path) -> int:
    largest = max((int(y.max()) for y in labels.values() if y.size), default=0)
    n_samples = sum(len(y) for key, y in labels.items() if key != "y_clean" and y.ndim)
    if classes is None and largest >= max(n_samples, 2):
        raise InputError(
            f"{path} holds the label {largest} with only {n_samples} samples; number the classes from 0, or "
            "give the number of classes with the option classes"
        )
    n_classes = classes or max(largest, 0) + 1
    for key, y in labels.items():
        if y.dtype.kind != "b":
            check_labels(y, n_classes, f"{path}: {key}")
    return n_classes
