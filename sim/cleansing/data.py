"""A training set whose labels are in doubt: one of the data sets, or the user's own data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_dataset
from sgdphases.sim.data.datasets.forms import FORMS, is_own, own_form, read_own
from sgdphases.sim.data.datasets.own import OwnArrays, Source, encoded_labels, own_dataset, samples
from sgdphases.sim.data.datasets.registry import converted_options, draw_subset
from sgdphases.sim.data.scaling import standardized
from sgdphases.sim.run.settings import IMAGE, RunSettings
from sgdphases.sim.run.streams import stream
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
    source : Source or None
        Files that the samples came from, to be written again in the same form; None where ``given`` is all there is.
    index : ndarray of int, shape (N,)
        Numbers of the samples in ``source``.
    """

    data: Dataset
    classes: np.ndarray
    given: np.ndarray
    given_test: np.ndarray | None
    source: Source | None
    index: np.ndarray

    @property
    def has_test(self) -> bool:
        return self.given_test is not None


def labelled_data(settings: RunSettings) -> LabelledData:
    """The data set of these settings, wrong labels added where they ask for it.

    Parameters
    ----------
    settings : RunSettings
        ``dataset`` may be a path, see `sgdphases.sim.data.datasets.registry.load_dataset`. Without a test set the data
        are taken whole, and labels may be any whole numbers or text. Features of one's own data are standardised where
        any is beyond [-1, 1], unless ``standardize`` says otherwise, or the recipe learns them, which scales channels.

    Returns
    -------
    LabelledData

    Raises
    ------
    UsageError, InputError
        As `noisy_data` does; and for a regression, or a file that cannot be used.
    """
    if is_own(settings.dataset):
        found = _own_data(settings)
    else:
        data = clean_data(settings)
        classes = np.array(data.class_names) if data.class_names else np.arange(data.n_classes or 0)
        found = LabelledData(data, classes, data.x_train, data.x_test, None, np.arange(data.n_samples))
    data = found.data
    if data.n_classes is None:
        raise UsageError(f"{data.name} is a regression: wrong labels are found among classes only.")
    is_large = settings.network != IMAGE and is_own(settings.dataset) and bool(np.abs(data.x_train).max() > 1)
    wanted = {"always": True, "never": False}.get(settings.standardize, is_large)
    data = with_label_noise(settings, standardized(data) if wanted else data)
    return LabelledData(data, found.classes, found.given, found.given_test, found.source, found.index)


def _own_data(settings: RunSettings) -> LabelledData:
    """The user's own data, before features are scaled and labels made wrong."""
    given = dict(settings.dataset_options)
    named = settings.dataset in FORMS
    if not named and "path" in given:
        raise UsageError(f"the data set is already {settings.dataset}; leave out the option path")
    path = Path(str(given.get("path", "")) if named else settings.dataset).expanduser()
    form = settings.dataset if named else own_form(path)
    options = converted_options(form, {**given, "path": str(path)} if not named else given)
    reading = {name: value for name, value in options.items() if name not in ("path", "classes", "test_fraction")}
    own = read_own(path, form, reading)
    if own.x_test is None:
        data, classes = _without_test(settings, path, own, options)
        return LabelledData(data, classes, own.x, None, own.source, np.arange(len(own.x)))
    if settings.data_dir is not None:
        raise UsageError(f"data_dir = {settings.data_dir!r} has no effect on {path}; leave it out")
    n_classes: Any = options.get("classes")
    fraction: Any = options.get("test_fraction")
    whole = own_dataset(own, path, classes=n_classes, test_fraction=fraction)
    known = encoded_labels(own, path, n_classes)[1]
    rng = stream(settings.seed, "data")
    data, index, tested = draw_subset(whole, rng, settings.train_size, settings.test_size)
    classes = np.arange(0) if known is None else known
    return LabelledData(data, classes, own.x[index], own.x_test[tested], own.source, index)


def _without_test(
    settings: RunSettings, path: Path, own: OwnArrays, options: dict[str, object]
) -> tuple[Dataset, np.ndarray]:
    """All samples of data without a test set, which stands for one in form only, and the names of the labels."""
    for name in ("train_size", "test_size", "data_dir"):
        if getattr(settings, name) is not None:
            raise UsageError(f"{name} = {getattr(settings, name)!r} has no effect on {path}, which is taken whole.")
    idle = [name for name in ("classes", "test_fraction") if name in options]
    if idle:
        raise UsageError(f"{path} without a test set is taken whole here: leave {' and '.join(idle)} out.")
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
