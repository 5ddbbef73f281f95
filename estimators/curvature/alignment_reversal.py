"""What the prediction of the alignment's reversal needs, measured at weights near the floor of the valley."""

import numpy as np

from sgdphases.estimators.backend import CurvedBackend, chunks
from sgdphases.estimators.curvature.hessian import Curvature, mean_hessian_products
from sgdphases.estimators.ensemble.checks import check_mask
from sgdphases.estimators.ensemble.moments import inner, sum_gradients
from sgdphases.estimators.errors import InputError
from sgdphases.theory.alignment_reversal import FloorAndCurvature
from sgdphases.theory.ensemble import variance_factor


def floor_and_curvature(
    backend: CurvedBackend, curvature: Curvature, *, batch_size: int, wrong: np.ndarray, replacement: bool = False
) -> FloorAndCurvature:
    """What `sgdphases.theory.alignment_reversal` needs, measured at the present weights.

    The weights need not lie on the floor: a Newton step along each sharp direction, ``-(g . u_l) / h_l``, takes the
    mean gradients of the two populations there, ``g_c - sum_l (g . u_l) / h_l H_c u_l``, without moving the model. On
    the floor each population's gradient keeps a part along the sharp directions; the two parts cancel.

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
    InputError
        If the mask does not fit, or one population is empty.
    """
    mask = check_mask(wrong, backend.n_samples)
    if mask is None or not 0 < mask.sum() < len(mask):
        raise InputError("one of the two populations is empty: there is no alignment between them.")
    groups = np.flatnonzero(~mask), np.flatnonzero(mask)
    sums = sum_gradients(backend, groups)
    pushed_c, pushed_w = (mean_hessian_products(backend, group, curvature.directions) for group in groups)
    up = curvature.eigenvalues > 0
    displaced = np.zeros(len(up))
    displaced[up] = (curvature.directions[up] @ sums.mean) / curvature.eigenvalues[up]
    on_floor_c, on_floor_w = sums.means[0] - displaced @ pushed_c, sums.means[1] - displaced @ pushed_w
    everyone = chunks(np.arange(backend.n_samples), backend.chunk_size)
    along = np.concatenate([backend.projections(piece, curvature.directions) for piece in everyone])
    return FloorAndCurvature(
        inner_cw=inner(on_floor_c, on_floor_w),
        squared_c=inner(on_floor_c, on_floor_c),
        squared_w=inner(on_floor_w, on_floor_w),
        curvatures=curvature.eigenvalues,
        noises=variance_factor(backend.n_samples, batch_size, replacement=replacement) * along.var(axis=0),
        pull_cw=(pushed_c * pushed_w).sum(axis=1),
        pull_cc=(pushed_c**2).sum(axis=1),
        pull_ww=(pushed_w**2).sum(axis=1),
    )
