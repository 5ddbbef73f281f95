"""What a finite learning rate and finite minibatches change, to the next order: closed forms of numbers alone."""

import numpy as np


def alignment_to_second_order(
    directed_activity: float, activity: float, parallel_variance: float, squared_covariance: float
) -> float:
    """R, the mean cosine of two independent minibatch gradients, beyond ``A_0 / A``.

    From ``R = |E g_mu/|g_mu||^2`` with normal noise, to second order in the relative scatter of ``|g_mu|^2``:

        R = (A_0 / A) [1 - 2 D_par / A + 3 D_par A_0 / A^2 + 1.5 Tr C^2 / A^2].

    Parameters
    ----------
    directed_activity, activity, parallel_variance : float
        A_0, A and D_par of one ensemble of minibatches (Feng & Tu 2021, eqs 8 and 9).
    squared_covariance : float
        ``Tr C^2`` of the covariance of minibatch gradients.

    Returns
    -------
    float
        NaN where A is not above 0.
    """
    if not activity > 0:
        return float("nan")
    correction = -2 * parallel_variance / activity + 3 * parallel_variance * directed_activity / activity**2
    return directed_activity / activity * (1 + correction + 1.5 * squared_covariance / activity**2)


def falling_losses(alignment_cw: float, directed_activity_c: float, directed_activity_w: float) -> tuple[float, float]:
    """How far R_cw lies above the values below which L_c and L_w rise along ``-g``: ``-1/x`` and ``-x``.

    With ``x = sqrt(A_0w / A_0c)``; a small step along ``-g`` lowers the loss of a population if and only if its margin
    is positive, since ``g . g_c`` is proportional to ``1 + x R_cw`` and ``g . g_w`` to ``x + R_cw``.

    Returns
    -------
    tuple of float
        Margins of the clean and of the wrong population, ``R_cw + 1/x`` and ``R_cw + x``; NaN where one gradient
        vanishes.
    """
    if not (directed_activity_c > 0 and directed_activity_w > 0):
        return float("nan"), float("nan")
    x = float(np.sqrt(directed_activity_w / directed_activity_c))
    return alignment_cw + 1 / x, alignment_cw + x
