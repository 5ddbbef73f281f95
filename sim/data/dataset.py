"""A labelled data set, as one frozen record."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples with their labels, and what is known of wrong labels.

    Attributes
    ----------
    name : str
    x_train, x_test : ndarray, shape (N, *input_shape) and (N_test, *input_shape), floating point
    y_train, y_test : ndarray
        Class labels 0..K-1, shape (N,), int64; or real targets, shape (N, outputs), float64.
        ``y_train`` are the labels the network is trained on, ``y_test`` are taken as right.
    n_classes : int or None
        K, or None for regression.
    y_clean : ndarray like ``y_train``, or None
        The right training labels, where they are known.
    assigned : ndarray of bool, shape (N,), or None
        Samples whose label was drawn at random. Some of them may be right by chance; None when no
        label noise was added by this program.
    class_names : tuple of str
        Empty when the classes have no names.
    drawn : ndarray of int, shape (all samples,), or None
        Where the training samples were drawn from more: the numbers of all of these in an order whose first N are the
        samples here.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    n_classes: int | None
    y_clean: np.ndarray | None = None
    assigned: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    drawn: np.ndarray | None = None

    @property
    def n_samples(self) -> int:
        """N, the number of training samples."""
        return len(self.x_train)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.x_train.shape[1:]

    @property
    def n_outputs(self) -> int:
        """Output units a network needs: K for classes, the width of the targets for regression."""
        return self.y_train.shape[1] if self.n_classes is None else self.n_classes

    @property
    def wrong(self) -> np.ndarray | None:
        """Mask of really wrong training labels, shape (N,), or None where the right ones are unknown."""
        if self.y_clean is None:
            return None
        differs = self.y_train != self.y_clean
        return differs if differs.ndim == 1 else differs.any(axis=1)

    def with_labels(self, y_train: np.ndarray, y_clean: np.ndarray | None, assigned: np.ndarray | None) -> "Dataset":
        """The same samples under other training labels."""
        return replace(self, y_train=y_train, y_clean=y_clean, assigned=assigned)
