"""The 8x8 handwritten digits that come with scikit-learn: real data with no download."""

import numpy as np

from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_dataset

_TEST_SIZE = 500


def load_digits(rng: np.random.Generator) -> Dataset:
    """Handwritten digits of 8x8 pixels, 1,297 for training and 500 for the test, split at random.

    Source: Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits" (its test part), as shipped
    with scikit-learn.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the split.

    Returns
    -------
    Dataset
        ``x`` float32 of shape (N, 1, 8, 8), pixels in [0, 1]; ten classes; all labels taken as right.
    """
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    x = (images.reshape(-1, 1, 8, 8) / 16).astype(np.float32)
    y = labels.astype(np.int64)
    order = rng.permutation(len(y))
    test, train = order[:_TEST_SIZE], order[_TEST_SIZE:]
    names = tuple(str(digit) for digit in range(10))
    data = Dataset("digits", x[train], y[train], x[test], y[test], n_classes=10, y_clean=y[train], class_names=names)
    return check_dataset(data, "digits")
