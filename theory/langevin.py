"""SGD as a Langevin process, in closed form (Feng & Tu 2021, eqs 2-5).

One step of learning rate ``alpha`` moves the weights by ``-alpha g`` on average, with covariance ``alpha^2 C``. With
one iteration as the unit of time that is the Langevin equation ``dw = -alpha grad L dt + alpha C(w)^(1/2) dW``.

What is assumed: minibatches drawn independently of one another (reshuffled epochs are not, over times of an epoch and
longer); for the loss change, a loss that is quadratic over one step; for the stationary covariance, a Hessian and a
noise matrix that are constant over the region the weights visit, and ``alpha < 2 / h_max``. Beyond the edge of
stability the weights leave the quadratic bowl, and nothing here holds any more.
"""

import numpy as np
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov


def loss_change(
    learning_rate: float, directed_activity: float, curvature_along_mean: float, curvature_of_noise: float
) -> float:
    """Expected change of the training loss in one step, to second order in the learning rate.

    ``-alpha A0 + (alpha^2 / 2) (g^T H g + Tr(H C))``, exact for a quadratic loss.

    Parameters
    ----------
    learning_rate : float
        alpha.
    directed_activity : float
        ``A0 = |g|^2``.
    curvature_along_mean : float
        ``g^T H g``.
    curvature_of_noise : float
        ``Tr(H C)``.

    Returns
    -------
    float
        In units of the loss.
    """
    return -learning_rate * directed_activity + learning_rate**2 / 2 * (curvature_along_mean + curvature_of_noise)


def stationary_covariance(
    hessian: np.ndarray, noise_matrix: np.ndarray, learning_rate: float, *, discrete: bool = True
) -> np.ndarray:
    """Covariance of the weights around a minimum once SGD has forgotten its start.

    Solves ``H S + S H - alpha H S H = alpha C``, exact for steps of finite size on a quadratic loss, or the Langevin
    equation's ``H S + S H = alpha C`` for ``discrete=False``; they agree as alpha goes to zero.

    Parameters
    ----------
    hessian : ndarray, shape (P, P)
        H, symmetric, all eigenvalues above 0.
    noise_matrix : ndarray, shape (P, P)
        C, symmetric.
    learning_rate : float
        alpha, above 0.
    discrete : bool

    Returns
    -------
    ndarray, shape (P, P)
        In squared units of the weights.

    Raises
    ------
    ValueError
        If shapes do not fit, a direction is flat or curves downwards, or (discrete) ``alpha >= 2 / h_max``: then no
        stationary state exists.
    """
    h, c = np.asarray(hessian, dtype=np.float64), np.asarray(noise_matrix, dtype=np.float64)
    if h.ndim != 2 or h.shape[0] != h.shape[1] or h.shape != c.shape:
        raise ValueError(f"hessian {h.shape} and noise_matrix {c.shape}: give two square matrices of the same size.")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate = {learning_rate}: choose a positive one.")
    curvatures = np.linalg.eigvalsh(h)
    if not curvatures[0] > 0:
        raise ValueError(
            f"the Hessian's smallest eigenvalue is {curvatures[0]:.3g}: along it the weights diffuse without bound; "
            "project on directions that curve upwards."
        )
    if not discrete:
        return solve_continuous_lyapunov(h, learning_rate * c)
    if learning_rate >= stability_limit(curvatures[-1]):
        raise ValueError(
            f"learning_rate = {learning_rate} is not below 2 / h_max = {stability_limit(curvatures[-1]):.3g}: "
            "the weights run away along the sharpest direction; lower it."
        )
    step = np.eye(len(h)) - learning_rate * h
    return solve_discrete_lyapunov(step, learning_rate**2 * c)


def stationary_variance(curvature, noise, learning_rate: float, *, discrete: bool = True) -> np.ndarray:
    """Variance of the weights along an eigenvector of H with eigenvalue h and noise ``c = u^T C u`` along it.

    ``alpha c / (h (2 - alpha h))``, or ``alpha c / (2 h)`` for the Langevin equation; element by element. Infinite
    where there is no stationary state. Along an eigenvector this holds whether or not H and C commute.
    """
    h, c = np.asarray(curvature, dtype=np.float64), np.asarray(noise, dtype=np.float64)
    pull = h * (2.0 - learning_rate * h) if discrete else 2.0 * h
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((h > 0) & (pull > 0), learning_rate * c / pull, np.inf)


def shuffled_variance(curvature, noise, learning_rate: float, steps_per_epoch: int) -> np.ndarray:
    """The same for minibatches that share out a reshuffled training set, as most training loops draw them.

    The M minibatches of an epoch see every sample once, so their noises add up to nothing: any two have the covariance
    ``-c / (M - 1)``. Along directions that relax within an epoch, ``alpha h M >> 1``, the variance is as before; along
    flatter ones the noise undoes itself and little is left. The value is the mean over the moments of an epoch.

    Parameters
    ----------
    curvature, noise : array_like
        h, and ``c = u^T C u`` with C for minibatches without repeats; element by element.
    learning_rate : float
    steps_per_epoch : int
        M, at least 1; with 1 there is no noise.

    Returns
    -------
    ndarray
        In squared units of the weights; infinite where there is no stationary state.

    Raises
    ------
    ValueError
        If an epoch has no step.
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch = {steps_per_epoch}: an epoch has at least one step.")
    h, c = np.broadcast_arrays(*(np.asarray(values, dtype=np.float64) for values in (curvature, noise)))
    factor = 1.0 - learning_rate * h
    stable = (np.abs(factor) < 1) & (h > 0)
    a = np.where(stable, factor, 0.0)[..., None]
    m = np.arange(1, steps_per_epoch + 1)
    pairs = 1.0 / max(steps_per_epoch - 1, 1)  # with a single step all noise is taken off
    powers = a ** np.arange(steps_per_epoch)
    added = (1 + pairs) * np.cumsum(powers**2, axis=-1) - pairs * np.cumsum(powers, axis=-1) ** 2
    if steps_per_epoch == 1:
        added = np.zeros_like(added)
    added = np.maximum(added, 0.0)  # variance of the noise gathered in m steps, in units of alpha^2 c
    start = added[..., -1:] / (1 - a ** (2 * steps_per_epoch))
    mean = (a ** (2 * m) * start + added).mean(axis=-1)
    return np.where(stable, learning_rate**2 * c * mean, np.inf)


def stability_limit(sharpness: float) -> float:
    """``2 / h_max``: the learning rate from which steps overshoot along the sharpest direction more and more."""
    return 2.0 / sharpness if sharpness > 0 else float("inf")
