"""One measurement of somebody's model, on the watched samples and on the test set."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from sgdphases.estimators.backend import Scores
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.ensemble.scores import all_scores
from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.measure import measure_backend, measure_subset_backend
from sgdphases.sim.run.trajectory import error_sizes

log = logging.getLogger("sgdphases")


class Measured:
    """A model as it is at each moment, and the samples it is measured on.

    Parameters
    ----------
    model : torch.nn.Module
    loss : str or callable
    data : tuple
        Inputs and targets of the watched samples.
    test_data : tuple or None
    options : dict
        Of `TorchBackend`.
    batch_size, alignment_batches : int
    wrong : ndarray of bool, shape (n,), or None
        Of the watched samples.
    sizes : sequence of int
        N, or with ``wrong`` the numbers of samples with right and wrong labels in the whole training set.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str | Callable,
        data: tuple,
        test_data: tuple | None,
        options: dict[str, Any],
        *,
        batch_size: int,
        alignment_batches: int,
        wrong: np.ndarray | None,
        sizes: Sequence[int],
    ):
        self.model = model
        self._loss, self._data, self._test_data, self._options = loss, data, test_data, options
        self.batch_size, self._alignment_batches = batch_size, alignment_batches
        self._wrong, self._sizes = wrong, sizes
        self._rebuild()

    @property
    def n_samples(self) -> int:
        return self._backend.n_samples

    @property
    def loss(self) -> str | Callable:
        return self._backend.loss

    @property
    def labels(self) -> np.ndarray:
        """Class labels of the watched samples, shape (n,); -1 throughout where there are none."""
        return self._backend.labels

    def scalars(self, step: int, rng: np.random.Generator) -> dict[str, float]:
        """Every order parameter, with its standard error where it has one.

        Layers replaced, added, frozen or unfrozen since the last measurement are taken up as they are.
        """
        self._take_up_changes(step)
        common: dict[str, Any] = dict(
            batch_size=self.batch_size, wrong=self._wrong, alignment_batches=self._alignment_batches, rng=rng
        )
        if self._backend.n_samples == sum(self._sizes):
            return measure_backend(self._backend, **common).scalars()
        return measure_subset_backend(self._backend, sizes=self._sizes, **common).scalars()

    def sample_losses(self) -> np.ndarray:
        """Losses of the watched samples, shape (n,)."""
        return all_scores(self._backend).loss

    def test_scores(self) -> Scores | None:
        """Losses and correctness of the test samples; None without any."""
        return None if self._test is None else all_scores(self._test)

    def sizes(self) -> dict[str, float]:
        """Numbers of samples, and what the sampling noise of errors is judged by, where there are classes."""
        train = self.labels
        test = np.empty(0, int) if self._test is None else self._test.labels
        found: dict[str, float] = {"n_samples": self.n_samples, "n_training": sum(self._sizes)}
        found["batch_size"] = self.batch_size
        if not len(train) or min(train.min(), test.min(initial=0)) < 0:
            return found
        return found | error_sizes(train, test, int(max(train.max(), test.max(initial=0))) + 1)

    def _rebuild(self) -> None:
        self._backend = TorchBackend(self.model, *self._data, loss=self._loss, **self._options)
        self._test = None if self._test_data is None else self._backend.on(*self._test_data)

    def _take_up_changes(self, step: int) -> None:
        try:
            self._backend.check_unchanged()
        except UsageError:
            log.info("the model has changed by step %d: it is measured as it is now", step)
            self._rebuild()
