"""Gaussian inputs: the spectrum of their covariance, and random directions among them."""

from typing import Literal

import numpy as np

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.data.datasets.checks import check_choice, check_count, check_real

Covariance = Literal["isotropic", "power-law"]
DEFAULT_EXPONENT = 1.0


def covariance_spectrum(
    dimension: int, covariance: Covariance = "isotropic", exponent: float = DEFAULT_EXPONENT
) -> np.ndarray:
    """Eigenvalues of the input covariance, which is diagonal in the input coordinates.

    Parameters
    ----------
    dimension : int
        Number of input coordinates d.
    covariance : {'isotropic', 'power-law'}
        All eigenvalues 1, or eigenvalues proportional to ``k ** -exponent``, k = 1..d.
    exponent : float, at least 0
        Only for the power law.

    Returns
    -------
    ndarray, shape (d,), float64
        In falling order, with mean 1: the total variance is d either way.

    Raises
    ------
    UsageError
        A setting is out of range, or an exponent is given to the isotropic covariance.
    """
    check_count("dimension", dimension)
    check_choice("covariance", covariance, ("isotropic", "power-law"))
    check_real("exponent", exponent, least=0)
    if covariance == "isotropic":
        if exponent != DEFAULT_EXPONENT:
            raise UsageError(
                f"exponent={exponent!r} has no effect with covariance='isotropic'; give "
                "covariance='power-law' with it, or leave it out"
            )
        return np.ones(dimension)
    spectrum = np.arange(1.0, dimension + 1) ** -exponent
    return spectrum / spectrum.mean()


def random_directions(count: int, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Random unit vectors, orthonormal whenever there is room for it.

    Returns
    -------
    ndarray, shape (count, dimension), float64
        A uniformly drawn orthonormal set when ``count <= dimension``, else independent uniform unit vectors.
    """
    normal = rng.standard_normal((count, dimension))
    if count > dimension:
        return normal / np.linalg.norm(normal, axis=1, keepdims=True)
    q, r = np.linalg.qr(normal.T)
    return (q * np.where(np.diag(r) < 0, -1.0, 1.0)).T
