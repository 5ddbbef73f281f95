"""Online SGD of a soft committee machine in closed form (Saad & Solla 1995).

A student of K units ``J_i`` learns a teacher of M units ``B_n``. Both add up ``g(u) = erf(u / sqrt(2))`` over their
fields ``u = J_i.x`` and ``u = B_n.x``, for inputs ``x ~ N(0, I_d)``. The label of an example is the teacher's output
plus independent noise of mean 0 and variance ``s2``; for a share rho of wrong ones, the teacher's output for another
input, which has nothing to do with this one. One example moves each unit by ``(eta / d) delta_i x``, where
``delta_i = g'(J_i.x) (label - output of the student)`` and all ``|J_i|`` and ``|B_n|`` are of order one.
Time is ``tau = steps / d``. The state is the covariance of the fields: ``Q = J J^T``, ``R = J B^T``, ``T = B B^T``.

Assumed: every example is new, and d is infinite. There is no finite training set, so no example is seen twice, nothing
can be memorised, and phase III of learning does not exist here. At finite d the order parameters scatter about these
equations by the order of ``1 / sqrt(d)``, and by more where the flow leaves an unstable point, such as the plateau of
units that have not specialised yet.

Too large a learning rate: erf is bounded, so the equations hold and their solution is finite at all times. Beyond the
threshold (``pi sqrt(5/3) = 4.06`` for K = M = 1 and T = 1) the noiseless solution ``J = B`` remains a fixed point, but
`fixed_point` finds a positive growth rate, and `committee_flow` leaves it for a larger error and longer students. At
much higher rates Q grows on and on, and `committee_flow` stops with RuntimeError where rounding would tell.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import root

from sgdphases.theory.committee.averages import field_averages
from sgdphases.theory.committee.state import (
    RUNAWAY,
    CommitteePath,
    CommitteeState,
    check_online_settings,
    checked_covariance,
    error_signs,
    joint_covariance,
)


@dataclass(frozen=True, eq=False)
class CommitteeFixedPoint:
    """A state that the flow leaves as it is.

    Attributes
    ----------
    state : CommitteeState
    growth_rate : float
        Largest real part among the eigenvalues of the Jacobian of (Q, R), per unit of tau.
    """

    state: CommitteeState
    growth_rate: float

    @property
    def stable(self) -> bool:
        """Whether every small deviation dies out. A growth rate within 1e-6 of zero is too near to call."""
        return self.growth_rate < 0


def committee_drift(
    state: CommitteeState, learning_rate: float, noise_variance: float, *, noise_fraction: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """How fast the order parameters change (Saad & Solla 1995; label noise adds its variance to the squared error).

    Parameters
    ----------
    state : CommitteeState
    learning_rate : float
        eta, above 0.
    noise_variance : float
        s2 of the labels, at least 0.
    noise_fraction : float
        rho, share of examples whose label is the teacher's answer to another input instead.

    Returns
    -------
    tuple of ndarray, shapes (K, K) and (K, M)
        ``dQ/dtau`` and ``dR/dtau``.

    Raises
    ------
    ValueError
        If a number is out of range, or the state is none.
    """
    check_online_settings(learning_rate, noise_variance, noise_fraction=noise_fraction)
    return _drift(checked_covariance(state), len(state.teacher), learning_rate, noise_variance, noise_fraction)


def committee_flow(
    state: CommitteeState,
    learning_rate: float,
    noise_variance: float,
    times: np.ndarray,
    *,
    noise_fraction: float = 0.0,
) -> CommitteePath:
    """Follow the order parameters from a state at ``tau = 0``.

    Parameters
    ----------
    state : CommitteeState
    learning_rate, noise_variance, noise_fraction : float
        As for `committee_drift`.
    times : ndarray, shape (t,)
        tau, increasing from 0 or later.

    Returns
    -------
    CommitteePath
        Integrated with a relative tolerance of 1e-8 a step.

    Raises
    ------
    ValueError
        As for `committee_drift`, or the times do not increase.
    RuntimeError
        If a student's squared norm grows past 1e4, or the integration breaks down.
    """
    check_online_settings(learning_rate, noise_variance, times, noise_fraction=noise_fraction)
    checked_covariance(state)
    k, m = np.shape(state.overlap)

    def room(_: float, entries: np.ndarray) -> float:
        return RUNAWAY - _unpacked(entries, k, m)[0].max()

    room.terminal = True  # type: ignore[attr-defined]
    found = solve_ivp(
        _rate(state, learning_rate, noise_variance, noise_fraction),
        (0.0, float(times[-1]) or 1.0),
        _packed(state.student, state.overlap),
        method="LSODA",
        t_eval=times,
        events=room,
        rtol=1e-8,
        atol=1e-10,
    )
    if found.status != 0:
        raise RuntimeError(
            f"learning_rate = {learning_rate}: the flow stopped before tau = {times[-1]} ({found.message}), a "
            f"student's squared norm nears or passes {RUNAWAY:g}; choose a smaller rate or an earlier end."
        )
    student, overlap = _unpacked(found.y.T, k, m)
    return CommitteePath(np.array(times, dtype=np.float64), student, overlap, np.array(state.teacher, dtype=np.float64))


def fixed_point(
    state: CommitteeState, learning_rate: float, noise_variance: float, *, noise_fraction: float = 0.0
) -> CommitteeFixedPoint:
    """The fixed point of the flow that a root search reaches from a state, be it stable or not.

    Parameters
    ----------
    state : CommitteeState
        Where the search starts: near the fixed point meant, such as the end of a path for a stable one.
    learning_rate, noise_variance, noise_fraction : float
        As for `committee_drift`.

    Raises
    ------
    ValueError
        As for `committee_drift`.
    RuntimeError
        If the search does not converge, or ends where no students can be: Q, R and T are no covariance.
    """
    check_online_settings(learning_rate, noise_variance, noise_fraction=noise_fraction)
    checked_covariance(state)
    rate = _rate(state, learning_rate, noise_variance, noise_fraction)
    with np.errstate(all="ignore"):  # a trial step may leave the covariances; what it ends at is checked below
        found = root(lambda entries: rate(0.0, entries), _packed(state.student, state.overlap), tol=1e-10)
    left = np.abs(found.fun).max()
    start = "start nearer to it, for a stable one at the end of a long committee_flow."
    if not (found.success and left < 1e-9 * learning_rate):
        raise RuntimeError(f"no fixed point found, a drift of {left:.3g} is left: {start}")
    student, overlap = _unpacked(found.x, *np.shape(state.overlap))
    reached = CommitteeState(student, overlap, np.array(state.teacher, dtype=np.float64))
    try:
        checked_covariance(reached)
    except ValueError as error:
        raise RuntimeError(f"the root found is no fixed point of students ({error}): {start}") from error
    steps = 1e-5 * np.eye(len(found.x))
    jacobian = [(rate(0.0, found.x + step) - rate(0.0, found.x - step)) / 2e-5 for step in steps]
    return CommitteeFixedPoint(reached, float(np.linalg.eigvals(np.array(jacobian)).real.max()))


def _drift(
    joint: np.ndarray, n_teachers: int, learning_rate: float, noise_variance: float, noise_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    k, signs = len(joint) - n_teachers, error_signs(len(joint), n_teachers)
    averages = field_averages(joint, k)
    own, answers = np.where(signs < 0, signs, 0.0), np.where(signs > 0, signs, 0.0)
    clean = averages.slopes_product @ signs @ signs + noise_variance * averages.slopes
    wrong = averages.slopes_product @ own @ own + float(answers @ averages.product @ answers) * averages.slopes
    pull = averages.slope_field_product @ (own + (1 - noise_fraction) * answers)
    squared = (1 - noise_fraction) * clean + noise_fraction * wrong
    return learning_rate * (pull[:, :k] + pull[:, :k].T) + learning_rate**2 * squared, learning_rate * pull[:, k:]


def _packed(student: np.ndarray, overlap: np.ndarray) -> np.ndarray:
    """The entries that are free to move: the upper triangle of Q, then R."""
    student, overlap = np.asarray(student, dtype=np.float64), np.asarray(overlap, dtype=np.float64)
    return np.concatenate([student[np.triu_indices(len(student))], overlap.ravel()])


def _unpacked(entries: np.ndarray, k: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """Q and R, shapes (..., K, K) and (..., K, M)."""
    rows, columns = np.triu_indices(k)
    student = np.empty((*entries.shape[:-1], k, k))
    student[..., rows, columns] = student[..., columns, rows] = entries[..., : len(rows)]
    return student, entries[..., len(rows) :].reshape(*entries.shape[:-1], k, m)


def _rate(
    state: CommitteeState, learning_rate: float, noise_variance: float, noise_fraction: float
) -> Callable[[float, np.ndarray], np.ndarray]:
    """The drift of the free entries, as a function of time and these entries."""
    teacher = np.asarray(state.teacher, dtype=np.float64)
    k, m = np.shape(state.overlap)

    def rate(_: float, entries: np.ndarray) -> np.ndarray:
        joint = joint_covariance(*_unpacked(entries, k, m), teacher)
        return _packed(*_drift(joint, m, learning_rate, noise_variance, noise_fraction))

    return rate
