"""When the mean gradients of clean and wrong samples turn from opposed to aligned, without a fitted number.

On the floor of the loss's valley, where the mean gradient of all samples has no part along the sharp directions, the
two mean gradients ``g_c`` and ``g_w`` are opposed while wrong labels are being memorised. Steps of finite size keep the
weights spread around the floor along the sharp directions ``u_l``, with the stationary variance
``S_l = alpha c_l / (h_l (2 - alpha h_l))`` of the Langevin picture. A displacement x along ``u_l`` adds ``x H_c u_l``
to g_c and ``x H_w u_l`` to g_w, with the Hessians of the two populations, so on average

    g_c . g_w = (g_c . g_w on the floor) + sum_l S_l (H_c u_l) . (H_w u_l),

and likewise for the squared norms. The first term is negative, the second positive where both populations curve upwards
along the sharp directions; the second grows with alpha, without bound as ``alpha h_max`` goes to 2. So there is one
learning rate at which the sign turns, or none below the edge of stability if the noise is weak (with full batches the
edge itself).

Training loops that reshuffle their samples have less spread along all but the sharpest directions
(`sgdphases.theory.langevin.shuffled_variance`): give the steps of an epoch to count that in.

What is assumed: a quadratic loss within the spread, time enough for the spread to settle while the floor barely moves,
and sharp directions that do not turn with alpha.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from sgdphases.theory.ensemble import cosine
from sgdphases.theory.langevin import shuffled_variance, stability_limit, stationary_variance


@dataclass(frozen=True, eq=False)
class FloorAndCurvature:
    """What the prediction needs, measured on the floor.

    Attributes
    ----------
    inner_cw, squared_c, squared_w : float
        ``g_c . g_w``, ``|g_c|^2``, ``|g_w|^2`` on the floor.
    curvatures, noises : ndarray, shape (k,)
        Eigenvalues h_l of the leading Hessian eigenvectors, and the noise ``c_l = u_l^T C u_l`` along them.
    pull_cw, pull_cc, pull_ww : ndarray, shape (k,)
        ``(H_c u_l) . (H_w u_l)``, ``|H_c u_l|^2``, ``|H_w u_l|^2``.
    """

    inner_cw: float
    squared_c: float
    squared_w: float
    curvatures: np.ndarray
    noises: np.ndarray
    pull_cw: np.ndarray
    pull_cc: np.ndarray
    pull_ww: np.ndarray


def predicted_alignment(floor: FloorAndCurvature, learning_rate: float, steps_per_epoch: int | None = None) -> float:
    """R_cw at a learning rate: the cosine made of the average inner product and squared norms.

    Parameters
    ----------
    floor : FloorAndCurvature
    learning_rate : float
    steps_per_epoch : int or None
        Of a loop that reshuffles; None for minibatches drawn independently.

    Returns
    -------
    float
        NaN at and beyond the edge of stability, where the weights find no stationary spread.
    """
    spread = _spread(floor, learning_rate, steps_per_epoch)
    if not np.isfinite(spread).all():
        return float("nan")
    return cosine(
        floor.inner_cw + float(spread @ floor.pull_cw),
        floor.squared_c + float(spread @ floor.pull_cc),
        floor.squared_w + float(spread @ floor.pull_ww),
    )


def turning_rate(floor: FloorAndCurvature, steps_per_epoch: int | None = None) -> float:
    """The learning rate at which R_cw turns positive; the edge of stability ``2 / h_max`` if noise does not suffice.

    Zero where the two gradients are not even opposed on the floor. Arguments as for `predicted_alignment`.
    """
    if floor.inner_cw >= 0:
        return 0.0
    edge = stability_limit(float(floor.curvatures.max()))
    if not np.isfinite(edge):
        return edge

    def inner_product(rate: float) -> float:
        return floor.inner_cw + float(_spread(floor, rate, steps_per_epoch) @ floor.pull_cw)

    rates = edge * (1 - np.geomspace(1, 1e-9, 200))[1:]
    turned = np.flatnonzero([inner_product(rate) > 0 for rate in rates])
    if not len(turned):
        return edge
    first = turned[0]
    below = rates[first - 1] if first else 0.0
    return float(brentq(inner_product, max(below, 1e-300), rates[first]))


def _spread(floor: FloorAndCurvature, rate: float, steps_per_epoch: int | None) -> np.ndarray:
    """S_l; directions that do not curve upwards are left out."""
    if steps_per_epoch is None:
        spread = stationary_variance(floor.curvatures, floor.noises, rate)
    else:
        spread = shuffled_variance(floor.curvatures, floor.noises, rate, steps_per_epoch)
    return np.where(floor.curvatures > 0, spread, 0.0)
