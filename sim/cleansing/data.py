"""A training set whose labels are in doubt: one of the data sets, or arrays ``x`` and ``y`` of one's own."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.cleansing.find import scaled, usable_samples
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.training import noisy_data, with_label_noise

_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Samples and labels as a network takes them, and as they were given.

    Attributes
    ----------
    data : Dataset
        Labels 0..K-1, with whatever noise the settings ask for; its test set means nothing where ``has_test`` is false.
    classes : ndarray, shape (K,)
        What the labels 0..K-1 are called.
    given : ndarray, shape (N, ...)
        The samples as they stood in the file: bytes stay bytes.
    has_test : bool
    """

    data: Dataset
    classes: np.ndarray
    given: np.ndarray
    has_test: bool


def labelled_data(settings: RunSettings) -> LabelledData:
    """The data set of these settings, wrong labels added where they ask for it.

    Parameters
    ----------
    settings : RunSettings
        ``dataset`` may be a ``.npz`` file that holds ``x``, ``y`` and, where the right labels are known, ``y_clean``.
        There labels may be any whole numbers or text, and features beyond [-1, 1] are standardised.

    Returns
    -------
    LabelledData

    Raises
    ------
    UsageError, InputError
        As `noisy_data` does; and for a regression, or a file that cannot be used.
    """
    own = _own_arrays(settings)
    data = noisy_data(settings) if own is None else own.data
    if data.n_classes is None:
        raise UsageError(f"{data.name} is a regression: wrong labels are found among classes only.")
    if own is not None:
        return own
    names = np.array(data.class_names) if data.class_names else np.arange(data.n_classes)
    return LabelledData(data, names, data.x_train, True)


def _own_arrays(settings: RunSettings) -> LabelledData | None:
    """Arrays x and y of a file, or None where it holds no such."""
    path = Path(settings.dataset).expanduser()
    if path.suffix != ".npz" or not zipfile.is_zipfile(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            if not {"x", "y"} <= set(content.files):
                return None
            arrays = {name: content[name] for name in ("x", "y", "y_clean") if name in content.files}
    except _UNREADABLE as error:
        raise InputError(
            f"{path} is damaged, or holds arrays of Python objects ({error}): write it anew with numpy.savez from "
            "arrays of numbers or text."
        ) from None
    for name in ("train_size", "test_size", "data_dir"):
        if getattr(settings, name) is not None:
            raise UsageError(f"{name} = {getattr(settings, name)!r} has no effect on {path}, which is taken whole.")
    if settings.dataset_options:
        raise UsageError(f"{path} with x and y takes no options, but {', '.join(settings.dataset_options)} is given.")
    x = scaled(usable_samples(arrays["x"]), None)
    labels = {name: arrays[name] for name in ("y", "y_clean") if name in arrays}
    for name, values in labels.items():
        if values.shape != (len(x),) or values.dtype.kind not in "biuUS":
            raise InputError(
                f"{path}: {name} has the type {values.dtype} and the shape {values.shape}: give {len(x)} labels, whole "
                "numbers or text."
            )
    classes = np.unique(np.concatenate(list(labels.values())))
    if len(classes) < 2:
        raise InputError(f"{path}: all labels are {classes[0]}: give samples of two classes at least.")
    encoded = {name: np.searchsorted(classes, values) for name, values in labels.items()}
    data = Dataset(path.name, x, encoded["y"], x[:1], encoded["y"][:1], len(classes), encoded.get("y_clean"))
    return LabelledData(with_label_noise(settings, data), classes, arrays["x"], False)
