"""A training set whose labels are in doubt: one of the data sets, or arrays of one's own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_dataset
from sgdphases.sim.data.datasets.npz import OwnArrays, encoded_labels, read_own, samples
from sgdphases.sim.data.scaling import standardized
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.training import clean_data, with_label_noise


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
        The samples as they stood in the file: bytes stay bytes, and nothing is standardised.
    given_test : ndarray, shape (N_test, ...), or None
        Likewise those of the test set, if there is one.
    """

    data: Dataset
    classes: np.ndarray
    given: np.ndarray
    given_test: np.ndarray | None

    @property
    def has_test(self) -> bool:
        return self.given_test is not None


def labelled_data(settings: RunSettings) -> LabelledData:
    """The data set of these settings, wrong labels added where they ask for it.

    Parameters
    ----------
    settings : RunSettings
        ``dataset`` may be a ``.npz`` file: see `sgdphases.sim.data.datasets.npz.load_npz`. Without a test set it is
        taken whole, and its labels may be any whole numbers or text. Features of such a file are standardised where
        any is beyond [-1, 1], unless ``standardize`` says otherwise.

    Returns
    -------
    LabelledData

    Raises
    ------
    UsageError, InputError
        As `noisy_data` does; and for a regression, or a file that cannot be used.
    """
    path = Path(settings.dataset).expanduser()
    is_own = path.suffix == ".npz"
    own = read_own(path) if is_own else None
    if own is not None and own.x_test is None:
        data, classes, given, given_test = *_without_test(settings, path, own), own.x, None
    else:
        data = clean_data(settings)
        classes = np.array(data.class_names) if data.class_names else np.arange(data.n_classes or 0)
        given, given_test = data.x_train, data.x_test
    if data.n_classes is None:
        raise UsageError(f"{data.name} is a regression: wrong labels are found among classes only.")
    wanted = {"always": True, "never": False}.get(settings.standardize, is_own and bool(np.abs(data.x_train).max() > 1))
    data = with_label_noise(settings, standardized(data) if wanted else data)
    return LabelledData(data, classes, given, given_test)


def _without_test(settings: RunSettings, path: Path, own: OwnArrays) -> tuple[Dataset, np.ndarray]:
    """All samples of a file without a test set, which stands for one in form only, and the names of the labels."""
    for name in ("train_size", "test_size", "data_dir"):
        if getattr(settings, name) is not None:
            raise UsageError(f"{name} = {getattr(settings, name)!r} has no effect on {path}, which is taken whole.")
    if settings.dataset_options:
        raise UsageError(
            f"{path} without a test set takes no options here, but {', '.join(settings.dataset_options)} is given."
        )
    if len(own.x) != len(own.y):
        raise InputError(f"{path} holds {len(own.x)} samples: give {len(own.x)} labels, not {len(own.y)}.")
    labels, classes = encoded_labels(own, path)
    if classes is None:
        raise InputError(
            f"{path}: {own.names['y']} has the type {own.y.dtype}: give labels that are whole numbers or text."
        )
    if len(classes) < 2:
        raise InputError(f"{path}: all labels are {classes[0]}: give samples of two classes at least.")
    x = samples(own.x, f"{path}: {own.names['x']}")
    data = Dataset(path.name, x, labels["y"], x[:1], labels["y"][:1], len(classes), labels.get("y_clean"))
    return check_dataset(data, str(path)), classes
