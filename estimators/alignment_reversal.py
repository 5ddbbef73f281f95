"""The measured side of the alignment's reversal: what the prediction needs, at weights on the floor of the valley."""

import numpy as np

from sgdphases.estimators.backend import CurvedBackend, chunks
from sgdphases.estimators.curvature import Curvature, mean_hessian_products
from sgdphases.estimators.errors import InputError
from sgdphases.estimators.exact import check_mask
from sgdphases.estimators.sharp_floor import sharp_and_floor
from sgdphases.theory.alignment_reversal import FloorAndCurvature
from sgdphases.theory.minibatch_ensemble import variance_factor


def floor_and_curvature(
    backend: CurvedBackend, curvature: Curvature, *, batch_size: int, wrong: np.ndarray, replacement: bool = False
) -> FloorAndCurvature:
    """What `sgdphases.theory.alignment_reversal` needs, measured at the present weights.

    The mean gradients on the floor are those at the present weights, projected off the sharp directions; so the weights
    themselves need not lie on the floor exactly.

    Parameters
    ----------
    backend : CurvedBackend
    curvature : Curvature
        Of `leading_curvature`, at the same weights; k sharp directions.
    batch_size : int
        B, on which the noise along the sharp directions depends.
    wrong : ndarray of bool, shape (N,)
        Both populations present.
    replacement : bool

    Raises
    ------
    UsageError, InputError
        As `sharp_and_floor` does.
    """
    mask = check_mask(wrong, backend.n_samples)
    assert mask is not None  # a mask was given
    parts = sharp_and_floor(backend, curvature, batch_size=batch_size, wrong=mask, replacement=replacement)
    moments = parts.floor.known_moments()
    if moments.clean is None or moments.wrong is None:
        raise InputError("one of the two populations is empty: there is no alignment between them.")
    along = np.concatenate(
        [
            backend.projections(piece, curvature.directions)
            for piece in chunks(np.arange(backend.n_samples), backend.chunk_size)
        ]
    )
    noises = variance_factor(backend.n_samples, batch_size, replacement=replacement) * along.var(axis=0)
    pushed_c, pushed_w = (
        mean_hessian_products(backend, np.flatnonzero(group), curvature.directions) for group in (~mask, mask)
    )
    return FloorAndCurvature(
        inner_cw=moments.inner_product_cw,
        squared_c=moments.clean.squared_mean,
        squared_w=moments.wrong.squared_mean,
        curvatures=curvature.eigenvalues,
        noises=noises,
        pull_cw=(pushed_c * pushed_w).sum(axis=1),
        pull_cc=(pushed_c**2).sum(axis=1),
        pull_ww=(pushed_w**2).sum(axis=1),
    )
