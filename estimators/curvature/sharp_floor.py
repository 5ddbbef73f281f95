"""Order parameters split into the sharp directions of the loss and the floor of its valley.

The k leading eigenvectors of the Hessian span the sharp subspace; all else is the floor. Finite steps and noise hold
the weights above the floor along the sharp directions, where clean and wrong samples pull alike; along the floor their
gradients may oppose one another throughout. Both parts are ensembles of their own, with every scalar of the whole.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdphases.estimators.backend import Backend, SampleGradients, frozen_weights, to_numpy
from sgdphases.estimators.curvature.hessian import Curvature
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.ensemble.order_parameters import OrderParameters


@dataclass(frozen=True)
class SharpFloor:
    """The two parts of an exact measurement: ``whole``, ``sharp``, ``floor``, and the curvature that parts them."""

    whole: OrderParameters
    sharp: OrderParameters
    floor: OrderParameters
    curvature: Curvature

    def scalars(self) -> dict[str, float]:
        """Scalars of the whole under their names, those of the parts as ``NAME_sharp`` and ``NAME_floor``."""
        return self.whole.scalars() | self.parts()

    def parts(self) -> dict[str, float]:
        """Scalars of the parts alone."""
        return {
            f"{name}_{suffix}": part.scalars()[name]
            for suffix, part in (("sharp", self.sharp), ("floor", self.floor))
            for name in GRADIENT_SCALARS
        }


GRADIENT_SCALARS = (
    "activity", "directed_activity", "total_variance", "orthogonal_activity", "parallel_activity", "parallel_variance",
    "projection_variance", "gradient_variance", "gradient_noise_scale", "aligned_fraction", "activity_c", "activity_w",
    "directed_activity_c", "directed_activity_w", "total_variance_c", "total_variance_w", "projection_variance_c",
    "projection_variance_w", "alignment_cw", "alignment_ac", "alignment_aw",
)  # fmt: skip


def sharp_and_floor(
    backend: Backend,
    curvature: Curvature,
    *,
    batch_size: int,
    wrong: np.ndarray | None = None,
    replacement: bool = False,
    whole: OrderParameters | None = None,
) -> SharpFloor:
    """Every gradient order parameter in the sharp subspace and on the floor.

    Parameters
    ----------
    backend : Backend
    curvature : Curvature
        Of `leading_curvature`, at the same weights.
    batch_size : int
        B.
    wrong : ndarray of bool, shape (N,), or None
    replacement : bool
    whole : OrderParameters or None
        The exact measurement of these weights with the same settings, where it is at hand already.

    Returns
    -------
    SharpFloor
        Activities add up: ``activity = activity_sharp + activity_floor``, and so for all but ratios and cosines.

    Raises
    ------
    UsageError, InputError
        As `exact` does.
    """
    directions = curvature.directions
    common: dict[str, Any] = dict(batch_size=batch_size, wrong=wrong, replacement=replacement)
    whole = exact(backend, **common) if whole is None else whole
    sharp = exact(_Sharp(backend, directions), **common)
    floor = exact(_Floor(backend, directions), **common)
    return SharpFloor(whole, sharp, floor, curvature)


def relaxed(
    backend: Backend,
    *,
    batch_size: int,
    wrong: np.ndarray | None = None,
    learning_rate: float = 0.005,
    steps: int = 50,
    replacement: bool = False,
) -> OrderParameters:
    """Exact order parameters after a short full-batch descent; the weights are put back afterwards.

    Small steps let the weights relax onto the valley floor; the floor parts should agree with the result.

    Parameters
    ----------
    backend : Backend
    batch_size : int
    wrong : ndarray of bool, shape (N,), or None
    learning_rate : float
    steps : int
    replacement : bool
    """
    weights = backend.weights
    try:
        for _ in range(steps):
            backend.train(np.arange(backend.n_samples), backend.n_samples, learning_rate)
        return exact(backend, batch_size=batch_size, wrong=wrong, replacement=replacement)
    finally:
        backend.load_weights(weights)


class _Sharp:
    """A backend seen through k orthonormal directions: the gradients' k coordinates along them."""

    def __init__(self, backend: Backend, directions: np.ndarray):
        self._backend, self._directions = backend, directions
        self.n_samples, self.chunk_size, self.n_parameters = backend.n_samples, backend.chunk_size, len(directions)

    def frozen_weights(self):
        return frozen_weights(self._backend)

    def gradient_sums(self, indices: np.ndarray):
        along = self._backend.projections(indices, self._directions)
        found = self._backend.scores(indices)
        return SampleGradients(found.loss, found.correct, (along**2).sum(axis=1), along.sum(axis=0))

    def projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        return self._backend.projections(indices, self._directions) @ directions.T


class _Floor:
    """The same backend with its gradients projected off those directions."""

    def __init__(self, backend: Backend, directions: np.ndarray):
        self._backend, self._directions = backend, directions
        self.n_samples, self.chunk_size = backend.n_samples, backend.chunk_size
        self.n_parameters = backend.n_parameters

    def frozen_weights(self):
        return frozen_weights(self._backend)

    def gradient_sums(self, indices: np.ndarray):
        found = self._backend.gradient_sums(indices)
        along = self._backend.projections(indices, self._directions)
        total = to_numpy(found.gradient_sum) - along.sum(axis=0) @ self._directions
        norm = np.maximum(found.squared_norm - (along**2).sum(axis=1), 0.0)
        return found._replace(squared_norm=norm, gradient_sum=total)

    def projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        off = directions - (directions @ self._directions.T) @ self._directions
        return self._backend.projections(indices, off)
